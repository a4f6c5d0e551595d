"""The pitfalls of LangChain's streaming: each seen to be there today, and that a client here cannot fall into it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core._api.deprecation import LangChainDeprecationWarning
from langchain_core.messages import HumanMessage

import cut_graphs
import graphs
import stream_graphs
from conftest import Serve
from harness import Provider
from shared_provider import provider, provider_url
from test_raw import OPEN, attached, raw
from test_raw import turn as raw_turn

__all__ = ["provider", "provider_url"]  # fixtures

Events = list[Any]


def given(content: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(content)]}


async def events(graph: Any, content: str, version: Any = "v2") -> Events:
    return [event async for event in graph.astream_events(given(content), version=version)]


async def test_streaming_left_off(serve: Serve, provider: Provider) -> None:
    """A model that nobody told to stream does not, called by itself; under astream_events, and so here, it does."""
    await graphs.openai({}).ainvoke(given("/tokens 5"))
    [request] = await provider.requests()
    assert not request.get("stream")
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    await socket.turn("/tokens 5")
    assert (await provider.requests())[-1]["stream"] is True
    assert len(socket.text().split()) == 5


async def test_streaming_turned_off(serve: Serve, provider: Provider) -> None:
    """A model that may not stream has no stream events at all; here its text is told all the same, once."""
    found = await events(cut_graphs.at_once({}), "/tokens 5")
    assert not [e for e in found if e["event"] == "on_chat_model_stream"]
    served = await serve("cut_graphs:at_once")
    socket = await served.attach("t1")
    await socket.turn("/tokens 5")
    [token] = socket.of("token")
    assert len(token["content"].split()) == 5


async def test_v1s_shape(serve: Serve, provider: Provider) -> None:
    """v1, deprecated, has no parent ids and wraps a model's output; asked for here is v2, whatever the default."""
    with pytest.warns(LangChainDeprecationWarning, match="v1"):
        old = await events(graphs.openai({}), "/tokens 2", "v1")
    [end] = [e for e in old if e["event"] == "on_chat_model_end"]
    assert end["parent_ids"] == []
    assert set(end["data"]["output"]) >= {"generations"}
    served = await serve("graphs:openai", events=OPEN)
    socket = await attached(served, "t1", {"include_types": ["chat_model"]})
    await raw_turn([socket], "/tokens 2")
    [end] = [e for e in raw(socket) if e["event"] == "on_chat_model_end"]
    assert len(end["parent_ids"]) == 2
    assert end["data"]["output"]["type"] == "ai"


async def test_sync_and_async_mixed(serve: Serve, provider: Provider) -> None:
    """A node that is not async streams too, from its thread, and holds up nobody: another turn passes it."""
    served = await serve("cut_graphs:sync_model")
    slow, quick = await served.attach("t1"), await served.attach("t2")
    await slow.command("send", content="/tokens 200")
    await slow.until("token")
    await quick.turn("/tokens 5")
    assert len(quick.text().split()) == 5
    assert not slow.of("run_finished")
    await slow.until("run_finished")
    assert len(slow.text().split()) == 200


async def test_partial_tool_calls(serve: Serve, provider: Provider) -> None:
    """A call's arguments stream in pieces that are no JSON; here a call is told once, whole, under the model's id."""
    content = '/tool look {"where": "under the bed, and behind it"}'
    found = await events(stream_graphs.calls({}), content)
    chunks = [e["data"]["chunk"] for e in found if e["event"] == "on_chat_model_stream"]
    pieces = [piece for chunk in chunks for piece in chunk.tool_call_chunks]
    assert len(pieces) > 3
    assert sum(piece["id"] is not None for piece in pieces) == 1, "the id comes with the first piece only"
    served = await serve("stream_graphs:calls")
    socket = await served.attach("t1")
    await socket.turn(content)
    [call] = socket.of("tool_call")
    assert call["args"] == {"where": "under the bed, and behind it"}


async def test_tools_have_no_id_at_their_start(serve: Serve, provider: Provider) -> None:
    """``on_tool_start`` does not say which call it is; here call and result carry the model's id."""
    content = '/tool add {"a": 1, "b": 2}\n' * 2
    found = await events(cut_graphs.agent({}), content)
    starts = [e for e in found if e["event"] == "on_tool_start"]
    assert len(starts) == 2
    assert all("tool_call_id" not in e["data"] for e in starts)
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t1")
    await socket.turn(content)
    asked = [f["id"] for f in socket.of("tool_call")]
    assert len(set(asked)) == 2
    assert sorted(f["id"] for f in socket.of("tool_result")) == sorted(asked)


async def test_tool_events_missing_from_messages(serve: Serve, provider: Provider) -> None:
    """``stream_mode="messages"`` has no start of a tool; here calls and results come from its messages."""
    content = '/tool add {"a": 1, "b": 2}'
    kinds = [
        type(message).__name__
        async for message, _ in cut_graphs.agent({}).astream(given(content), stream_mode="messages")
    ]
    assert set(kinds) == {"AIMessageChunk", "ToolMessage"}
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t1")
    await socket.turn(content, stream="messages")
    [call], [result] = socket.of("tool_call"), socket.of("tool_result")
    assert (call["args"], result["id"], result["result"]) == ({"a": 1, "b": 2}, call["id"], "3")


async def test_unbounded_concurrency(serve: Serve, provider: Provider) -> None:
    """``abatch`` without a limit is not sequential: it opens everything at once. A batch here always has a bound."""
    graph = graphs.openai({})
    await graph.abatch([given("/tokens 20")] * 25)
    assert (await provider.stats())["peak"] == 25
    async with provider._session.post(f"{provider.url}/reset"):
        pass
    served = await serve("graphs:openai")
    socket = await served.attach()
    await socket.ask("batch", inputs=["/tokens 20"] * 25)
    await socket.until("run_finished")
    assert (await provider.stats())["peak"] == 8
    assert len(socket.of("batch_result")) == 25


async def test_abatch_as_completed_is_not_stopped(serve: Serve, provider: Provider) -> None:
    """Left in the middle, it goes on asking the provider; a batch here is over when it is cancelled."""
    graph = graphs.openai({})
    inputs = [given("/tokens 1"), *[given("/tokens 60")] * 5]
    left = graph.abatch_as_completed(inputs, {"max_concurrency": 2})
    await anext(left)
    await left.aclose()
    asked = (await provider.stats())["total"]

    async def asked_for_more() -> bool:
        return bool((await provider.stats())["total"] > asked)

    async with asyncio.timeout(20):
        while not await asked_for_more():  # noqa: ASYNC110 -- a process of its own does it
            await asyncio.sleep(0.02)
    # Its tasks are nobody's: they are waited for here, or they would outlive the test.
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    served = await serve("graphs:openai")
    socket = await served.attach()
    ack = await socket.ask("batch", inputs=["/tokens 60"] * 6, max_concurrency=2)
    await socket.ask("cancel", run_id=ack["run_id"])
    await socket.until("run_finished")
    stats = await provider.stats()
    assert stats["open"] == 0
    await served.history("t1")
    assert (await provider.stats())["total"] == stats["total"]


async def test_there_is_no_on_error(serve: Serve, provider: Provider) -> None:
    """A failure is no event but an exception that ends the stream; here it is told in ``run_finished``."""
    seen: set[str] = set()
    with pytest.raises(RuntimeError):  # noqa: PT012 -- the loop is what raises
        async for event in cut_graphs.fails({}).astream_events(given("a secret"), version="v2"):
            seen.add(event["event"])
    assert seen
    assert not [name for name in seen if "error" in name]
    served = await serve("cut_graphs:fails")
    end = (await (await served.attach("t1")).turn("a secret"))[-1]
    assert (end["status"], end["error"]["code"]) == ("failed", "graph_error")


async def test_the_metadata_key_is_langgraph_node(provider: Provider) -> None:
    """Which node a token comes from stands under ``langgraph_node``, and under no ``node``."""
    found = await events(graphs.openai({}), "/tokens 1")
    [start] = [e for e in found if e["event"] == "on_chat_model_start"]
    assert start["metadata"]["langgraph_node"] == "model"
    assert "node" not in start["metadata"]
