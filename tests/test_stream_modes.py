"""``stream: "messages"`` and ``stream: "events"`` tell the same of the same run; tokens of every kind of model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from conftest import Serve
from harness import Provider, Served
from shared_provider import provider, provider_url
from test_cancel import assert_paired, fresh_gates
from test_ndjson import stream

__all__ = ["fresh_gates", "provider", "provider_url"]  # fixtures

Frames = list[dict[str, Any]]

#: Graphs and what they are told, by what they are about.
SHAPES = {
    "tools": [
        ("cut_graphs:agent", '/tool add {"a": 1, "b": 2}\n/tool add {"a": 5, "b": 6}'),
        ("cut_graphs:agent", "/tool fail {}"),
        ("cut_graphs:agent", "/tool ghost {}"),
        ("cut_graphs:agent", '/tool add {"a": "x"}'),
        ("cut_graphs:agent", '/tool note {"text": "this"}'),
        ("cut_graphs:agent", '/tool think {"text": "deep"}'),
        ("stream_graphs:calls", "/tool look {}"),
        ("stream_graphs:by_hand", "hi"),
    ],
    "graphs": [
        ("graphs:echo", "hi"),
        ("cut_graphs:subgraph", "/tokens 5"),
        ("cut_graphs:fan_out", "/tokens 5"),
        ("cut_graphs:sync_model", "/tokens 5"),
        ("cut_graphs:two_models", "/tokens 5"),
        ("cut_graphs:rewrites", "/tokens 5"),
        ("cut_graphs:redacts", "my number is 5"),
        ("cut_graphs:replaced", "/tokens 5"),
        ("cut_graphs:fails", "a secret"),
        ("stream_graphs:nested", "/tokens 7"),
        ("stream_graphs:tagged", "/tokens 7"),
        ("stream_graphs:fan", "/tokens 7"),
    ],
    "models": [
        ("graphs:openai", "/tokens 12\n/reasoning well then"),
        ("cut_graphs:quiet", "/tokens 5"),
        ("cut_graphs:at_once", "/tokens 5"),
        ("stream_graphs:blocks", "hi"),
        ("stream_graphs:blocks_at_once", "hi"),
        ("stream_graphs:thoughtful", "hi"),
        ("stream_graphs:thoughtful_at_once", "hi"),
        ("stream_graphs:named", "hi"),
        ("stream_graphs:plain_llm", "hi there"),
        ("stream_graphs:plain_llm_at_once", "hi"),
        ("stream_graphs:chain", "/tokens 7"),
    ],
}


@pytest.fixture
def serve(serve: Serve, tmp_path: Path) -> Serve:
    """The usual one, but each server has a database of its own."""
    numbers = itertools.count()

    async def start(graph: str, **sections: Any) -> Served:
        return await serve(graph, database=tmp_path / f"{next(numbers)}.db", **sections)

    return start


def of(frames: Frames, kind: str) -> Frames:
    return [frame for frame in frames if frame["type"] == kind]


def told(frames: Frames) -> dict[str, Any]:
    """What frames tell, without what differs from run to run: ids, times, how text is cut, who comes first at once."""
    texts: dict[tuple[str, str, str | None], str] = {}
    for frame in frames:
        if frame["type"] in ("token", "reasoning"):
            key = frame["type"], frame["message_id"], frame["node"]
            texts[key] = texts.get(key, "") + frame["content"]
    varies = ("seq", "run_id", "message_id", "id", "duration_ms")
    usage = [{k: v for k, v in frame.items() if k not in varies} for frame in of(frames, "usage")]
    [end] = of(frames, "run_finished")
    return {
        "texts": sorted((kind, str(node), text) for (kind, _, node), text in texts.items()),
        "usage": sorted(usage, key=repr),
        "messages": sorted(
            ({k: v for k, v in f["message"].items() if k != "id"} for f in of(frames, "message")), key=repr
        ),
        "calls": sorted((f["id"], f["name"], repr(f["args"]), f["node"]) for f in of(frames, "tool_call")),
        # A tool that failed is told by events in words of ours, and by its message in the tool node's.
        "results": sorted(
            (f["id"], f["name"], f["status"], f["status"] == "error" or repr(f["result"]))
            for f in of(frames, "tool_result")
        ),
        "end": {key: end[key] for key in ("status", "reason", "error", "usage")},
    }


async def turn(served: Served, thread_id: str, content: str, mode: str) -> Frames:
    socket = await served.attach(thread_id)
    return await socket.turn(content, stream=mode)


async def assert_whole(served: Served, thread_id: str, frames: Frames) -> None:
    """Joined by message, tokens are what is stored under that id, or a message frame says what is."""
    stored = {message["id"]: message for message in await served.history(thread_id)}
    whole = {frame["message"]["id"] for frame in of(frames, "message")}
    texts: dict[str, str] = {}
    for frame in of(frames, "token"):
        texts[frame["message_id"]] = texts.get(frame["message_id"], "") + frame["content"]
    for identity, message in stored.items():
        if message["role"] == "assistant" and identity not in whole:
            assert message["content"] == texts.get(identity, ""), message


@pytest.mark.parametrize("about", SHAPES)
async def test_all_ways_tell_the_same(serve: Serve, provider: Provider, about: str) -> None:
    """The same run, listened to in three ways: the same texts, usage, messages, calls, results and end.

    They are ``messages``, and ``events``: by callbacks where nobody may see raw events, else by ``astream_events``.
    """
    for number, (graph, content) in enumerate(SHAPES[about]):
        plain, raw = await serve(graph), await serve(graph, events={"allow_raw": True})
        found = {}
        for way, served, mode in (("raw", raw, "events"), ("heard", plain, "events"), ("messages", plain, "messages")):
            frames = await turn(served, f"{way}-{number}", content, mode)
            assert_paired(frames)
            await assert_whole(served, f"{way}-{number}", frames)
            found[way] = told(frames)
            assert found[way] == found["raw"], (way, graph, content)


async def test_lines_take_it_too(serve: Serve, provider: Provider) -> None:
    """The route without a socket takes ``stream`` as ``send`` does."""
    served = await serve("graphs:openai")
    async with stream(served, content="/tokens 5", stream="messages") as lines:
        frames = await lines.all()
    by_socket = await turn(served, "t2", "/tokens 5", "messages")
    assert told(frames) == told(by_socket)
    assert of(frames, "token")


async def test_messages_shows_no_start_of_tools(serve: Serve, provider: Provider) -> None:
    """As documented: a call's result has no duration, and what a node calls by itself is not told."""
    served = await serve("cut_graphs:agent")
    frames = await turn(served, "t1", '/tool add {"a": 1, "b": 2}', "messages")
    [result] = of(frames, "tool_result")
    assert (result["result"], result["duration_ms"]) == ("3", None)
    served = await serve("cut_graphs:direct_tool")
    frames = await turn(served, "t2", "hi", "messages")
    assert of(frames, "tool_call") == of(frames, "tool_result") == []
    assert [f["message"]["content"] for f in of(frames, "message")][1:] == ["sum: 3"]


async def test_calls_that_no_model_asked_for(serve: Serve) -> None:
    """Where a node's own message asks for tools, calls and results are told of those that ran, in both ways."""
    served = await serve("stream_graphs:by_hand")
    for mode in ("events", "messages"):
        frames = await turn(served, mode, "hi", mode)
        assert_paired(frames)
        assert sorted(f["id"] for f in of(frames, "tool_call")) == ["call-0", "call-1", "call-2"], mode
        assert sorted(f["status"] for f in of(frames, "tool_result")) == ["error", "ok", "ok"]


async def test_a_users_message_that_is_written_again(serve: Serve) -> None:
    """Redacted by the graph, say: its readers are told what the thread now holds."""
    served = await serve("cut_graphs:redacts")
    for thread_id, content in (("t1", "my number is 5"), ("t1", "it is 5")):
        frames = await turn(served, thread_id, content, "events")
        users = [f["message"] for f in of(frames, "message") if f["message"]["role"] == "user"]
        assert [message["content"] for message in users] == [content, "[redacted]"]
        assert len({message["id"] for message in users}) == 1


async def test_messages_keeps_the_policy(serve: Serve, provider: Provider) -> None:
    """Names, tags and types of the policy hide the same as with events, the result of a hidden tool too."""
    policies: list[dict[str, Any]] = [
        {"exclude_tags": ["plan"]},
        {"include_names": ["writer"], "include_types": ["tool"]},
        {"exclude_types": ["chat_model"]},
    ]
    for number, policy in enumerate(policies):
        served = await serve("stream_graphs:tagged", events=policy)
        by_events = await turn(served, f"e{number}", "/tokens 4", "events")
        by_messages = await turn(served, f"m{number}", "/tokens 4", "messages")
        assert told(by_messages) == told(by_events)
    served = await serve("stream_graphs:hidden_tool")
    for mode in ("events", "messages"):
        frames = await turn(served, mode, "/tool secret {}", mode)
        assert [f["result"] for f in of(frames, "tool_result")] == [None], mode
        assert "sesame" not in repr([f for f in frames if f["type"] != "token"])


async def test_cut_off_as_ever(serve: Serve, provider: Provider) -> None:
    """A cancelled run of ``messages`` keeps what was said, and its provider request is closed."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    ack = await socket.ask("send", content="/tokens 5000", stream="messages")
    await socket.until("token")
    await socket.command("cancel", run_id=ack["run_id"])
    end = await socket.until("run_finished")
    assert (end["status"], end["reason"]) == ("cancelled", "client")
    assert (await provider.stats())["open"] == 0
    [_, answer] = await served.history("t1")
    assert (answer["status"], answer["content"]) == ("cancelled", socket.text())
    assert (await socket.turn("/tokens 3", stream="messages"))[-1]["status"] == "completed"


# --- tokens of every kind -------------------------------------------------------------------------


async def frames_of(serve: Serve, graph: str, content: str = "hi", **sections: Any) -> Frames:
    return await turn(await serve(graph, **sections), f"{graph.partition(':')[2]}", content, "events")


def text(frames: Frames, kind: str = "token", **having: Any) -> str:
    return "".join(f["content"] for f in of(frames, kind) if having.items() <= f.items())


@pytest.mark.parametrize("graph", ["blocks", "blocks_at_once"])
async def test_content_blocks(serve: Serve, graph: str) -> None:
    """Text and reasoning of blocks come as tokens and reasoning; a picture comes with the whole message."""
    frames = await frames_of(serve, f"stream_graphs:{graph}")
    assert (text(frames), text(frames, "reasoning")) == ("A cat", "let me see")
    [message] = [f["message"] for f in of(frames, "message")][1:]
    assert message["id"] == of(frames, "token")[0]["message_id"]
    assert [block["type"] for block in message["content"]] == ["reasoning", "text", "image"]


async def test_usage_in_detail(serve: Serve) -> None:
    """Cached and reasoning tokens are in ``details``, and the run's sum is its calls'."""
    frames = await frames_of(serve, "stream_graphs:blocks")
    [usage] = of(frames, "usage")
    assert (usage["model"], usage["total_tokens"]) == ("multi", 13)
    assert usage["details"] == {
        "input_token_details": {"cache_read": 7},
        "output_token_details": {"reasoning": 3},
    }
    assert frames[-1]["usage"] == {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


async def test_usage_is_summed(serve: Serve, provider: Provider) -> None:
    """Over all calls of a run, also of those whose tokens are not shown."""
    frames = await frames_of(serve, "stream_graphs:tagged", "/tokens 4")
    assert [f["output_tokens"] for f in of(frames, "usage")] == [4, 4]
    assert frames[-1]["usage"]["output_tokens"] == 12


async def test_reasoning_beside_the_text(serve: Serve) -> None:
    """``reasoning_content`` beside plain text, as DeepSeek's API has it, streamed or not."""
    for graph in ("thoughtful", "thoughtful_at_once"):
        frames = await frames_of(serve, f"stream_graphs:{graph}")
        assert (text(frames), text(frames, "reasoning")) == ("So.", "hm, yes")
        assert len(of(frames, "message")) == 1, "the user's"


async def test_a_provider_that_names_its_answers(serve: Serve) -> None:
    """Tokens carry the id that the message will be stored under, though only the first chunk had it."""
    frames = await frames_of(serve, "stream_graphs:named")
    assert {f["message_id"] for f in of(frames, "token")} == {"resp_1"}
    assert len(of(frames, "message")) == 1, "the user's"


async def test_plain_models(serve: Serve) -> None:
    """A plain LLM's text comes as it says it, or whole where it does not stream."""
    frames = await frames_of(serve, "stream_graphs:plain_llm", "hi there")
    assert text(frames, node="words") == "hi there indeed "
    assert len(of(frames, "token")) >= 1
    frames = await frames_of(serve, "stream_graphs:plain_llm_at_once")
    assert [f["content"] for f in of(frames, "token")] == ["all at once"]


async def test_by_node_and_tag(serve: Serve, provider: Provider) -> None:
    """Tokens of several models are told apart by node; a connection can ask for those of one tag."""
    served = await serve("stream_graphs:tagged")
    all_of_it, planned = await served.attach("t1"), await served.attach("t1", include_tags="plan")
    await all_of_it.turn("/tokens 6")
    await planned.until("run_finished")
    assert {f["node"] for f in all_of_it.of("token")} == {"plan", "write"}
    assert {f["node"] for f in planned.of("token")} == {"plan"}
    assert planned.text() == text(all_of_it.frames, node="plan")


async def test_a_chain_and_subgraphs(serve: Serve, provider: Provider) -> None:
    """A model deep inside a chain or a subgraph's subgraph streams, under the node that it works in."""
    frames = await frames_of(serve, "stream_graphs:chain", "/tokens 6")
    assert {f["node"] for f in of(frames, "token")} == {"chain"}
    # The chain's parser gives a text, of which the node makes a message of its own.
    assert [f["message"]["content"] for f in of(frames, "message")][1:] == [text(frames)]
    frames = await frames_of(serve, "stream_graphs:nested", "/tokens 6")
    assert {f["node"] for f in of(frames, "token")} == {"write"}
    assert len(of(frames, "message")) == 1, "what the tokens told is stored under their id"


async def test_structured_output(serve: Serve, provider: Provider) -> None:
    """Asked for by a tool call, the form is no tool call to a reader; as JSON it streams like any text."""
    from cut_graphs import gates

    gates.open("structured")
    frames = await frames_of(serve, "cut_graphs:structured_by_call", '/tool Verdict {"text": "guilty"}')
    assert of(frames, "tool_call") == []
    assert [f["message"]["content"] for f in of(frames, "message")][1:] == ["verdict: guilty"]


async def test_only_whole_calls(serve: Serve, provider: Provider) -> None:
    """A model that streams its call's arguments in pieces gives one ``tool_call``, whole, under the model's id."""
    frames = await frames_of(serve, "stream_graphs:calls", '/tool look {"where": "under the bed, and behind it"}')
    [call] = of(frames, "tool_call")
    assert call["args"] == {"where": "under the bed, and behind it"}
    [request] = await provider.requests()
    assert request["stream"] is True
    assert call["id"].startswith("call_")
