"""Raw events: LangChain's own, for readers that ask, as far as the server's policy lets them out."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables.utils import _RootEventFilter

from conftest import Serve
from cut_graphs import gates
from harness import Provider, Served, Socket
from rawsocket import connect_raw, shrink_send_buffers
from shared_provider import provider, provider_url
from stream_graphs import odd_objects
from test_cancel import fresh_gates
from threadwire.client import connect
from threadwire.filters import Filter, Origin, WantedTypes
from threadwire.jsonsafe import json_safe
from threadwire.protocol import MAX_WAITING_EVENTS, EventFrame, encode
from threadwire.raw import RawFeed, RawReader, kind_of

__all__ = ["fresh_gates", "provider", "provider_url"]  # fixtures

Events = list[dict[str, Any]]

#: A policy that lets everything out.
OPEN = {
    "allow_raw": True,
    "include_types": [],
    "exclude_tags": [],
}
FILTERS: list[dict[str, list[str]]] = [
    {"include_types": ["chat_model"]},
    {"include_types": ["chain", "prompt"]},
    {"include_names": ["pipe", "Shelf"]},
    {"include_tags": ["two"]},
    {"include_types": ["retriever"], "include_names": ["progress"], "include_tags": ["two"]},
    {"exclude_types": ["chain"]},
    {"exclude_names": ["pipe", "LangGraph"]},
    {"exclude_tags": ["one"]},
    {"include_types": ["parser", "chat_model", "llm"], "exclude_tags": ["two"]},
    {"include_names": ["nobody"]},
]
#: Graphs of many shapes, and what they are told.
SHAPES = [
    ("stream_graphs:everything", "/tokens 3"),
    ("cut_graphs:agent", '/tool add {"a": 1, "b": 2}\n/tool fail {}'),
    ("stream_graphs:nested", "/tokens 3"),
    ("stream_graphs:tagged", "/tokens 3"),
]

#: What waits for one reader, in the tests of that.
MAX_WAITING_BYTES = 4 * 1024 * 1024


def raw(socket: Socket) -> Events:
    assert not [frame for frame in socket.of("event") if "dropped" in frame]
    return [frame["event"] for frame in socket.of("event")]


def langchains(filters: dict[str, list[str]], event: dict[str, Any]) -> bool:
    """What LangChain's own filter says; only that a custom event's type is ``custom``, and not its name."""
    kind = "custom" if event["event"] == "on_custom_event" else kind_of(event["event"])
    return bool(_RootEventFilter(**filters).include_event(event, kind))  # type: ignore[arg-type]


def outline(events: Any) -> Counter[Any]:
    """What is the same in each run of a graph."""
    return Counter((e["event"], e["name"], tuple(sorted(e["tags"])), len(e["parent_ids"])) for e in events)


async def attached(served: Served, thread_id: str, filters: dict[str, list[str]]) -> Socket:
    """A raw reader; the filter goes by ``subscribe``, since names may have commas."""
    socket = await served.attach(thread_id)
    assert (await socket.ask("subscribe", raw=True, **filters))["type"] == "ack"
    return socket


async def turn(sockets: list[Socket], content: str) -> None:
    """Send on the first, and read all of them to the end of the run, and of the events sent before it."""
    await sockets[0].command("send", content=content)
    await asyncio.gather(*(socket.until("run_finished") for socket in sockets))
    for socket in sockets:
        await socket.ask("ping")


@pytest.mark.parametrize(("graph", "content"), SHAPES, ids=[graph for graph, _ in SHAPES])
async def test_each_reader_gets_its_own(serve: Serve, provider: Provider, graph: str, content: str) -> None:
    """One run, many filters: each reader gets exactly the events LangChain's filter lets through, in their order."""
    served = await serve(graph, events=OPEN)
    everything = await attached(served, "t1", {})
    filtered = [await attached(served, "t1", filters) for filters in FILTERS]
    await turn([everything, *filtered], content)
    events = raw(everything)
    asked = (await provider.stats())["total"]
    assert asked == sum(event["event"] == "on_chat_model_start" for event in events), "the graph was run once"
    for filters, socket in zip(FILTERS, filtered, strict=True):
        assert raw(socket) == [event for event in events if langchains(filters, event)], filters
    # And they are what LangChain gives by itself, unfiltered and filtered.
    module, _, name = graph.partition(":")
    direct: Any = getattr(__import__(module), name)({})
    for filters in ({}, *FILTERS[:4]):
        stream = direct.astream_events(
            {"messages": [HumanMessage(content)]},
            version="v2",
            stream_mode=["values", "custom"],
            subgraphs=True,
            **filters,
        )
        own = outline([event async for event in stream])
        ours = outline(event for event in events if langchains(filters, event))
        assert ours == own, filters


async def test_every_kind_of_event(serve: Serve, provider: Provider) -> None:
    """Everything LangChain tells is there, whole: name, ids, tags, metadata, data."""
    served = await serve("stream_graphs:everything", events=OPEN)
    socket = await attached(served, "t1", {})
    await turn([socket], "/tokens 2")
    events = raw(socket)
    kinds = {kind_of(event["event"]) for event in events}
    assert kinds == {"chat_model", "llm", "chain", "retriever", "prompt", "parser", "custom"}
    root = events[0]
    [run] = socket.of("run_started")
    assert (root["event"], root["name"], root["run_id"]) == ("on_chain_start", "LangGraph", run["run_id"])
    assert root["parent_ids"] == []
    assert {frame["run_id"] for frame in socket.of("event")} == {run["run_id"]}
    [start] = [event for event in events if event["event"] == "on_chat_model_start"]
    assert start["parent_ids"][0] == run["run_id"]
    assert "one" in start["tags"]
    assert start["metadata"]["langgraph_node"] == "work"
    assert start["data"]["input"]["messages"][0][0]["content"] == "about /tokens 2"
    [custom] = [event for event in events if event["event"] == "on_custom_event"]
    assert (custom["name"], custom["data"]) == ("progress", {"done": 1})
    ids = {event["run_id"] for event in events}
    assert all(set(event["parent_ids"]) <= ids for event in events)


async def test_tool_events(serve: Serve, provider: Provider) -> None:
    """Start, end and error of tools, the error's exception by its type."""
    served = await serve("cut_graphs:agent", events=OPEN)
    socket = await attached(served, "t1", {"include_types": ["tool"]})
    await turn([socket], '/tool add {"a": 1, "b": 2}\n/tool fail {}')
    events = {(event["event"], event["name"]): event["data"] for event in raw(socket)}
    assert set(events) == {
        ("on_tool_start", "add"),
        ("on_tool_end", "add"),
        ("on_tool_start", "fail"),
        ("on_tool_error", "fail"),
    }
    assert events["on_tool_start", "add"]["input"] == {"a": 1, "b": 2}
    assert events["on_tool_end", "add"]["output"]["content"] == "3"
    assert events["on_tool_error", "fail"]["error"] == "<ValueError>"
    assert "secret-in-exception" not in json.dumps(socket.frames)


# --- the policy -----------------------------------------------------------------------------------


async def test_not_where_it_is_not_allowed(serve: Serve) -> None:
    """Without ``events.allow_raw`` nobody gets raw events, neither by a command nor on connecting."""
    served = await serve("graphs:echo")
    socket = await served.attach("t1")
    refused = await socket.ask("subscribe", raw=True)
    assert (refused["type"], refused["code"]) == ("error", "forbidden")
    with pytest.raises(aiohttp.WSServerHandshakeError) as failed:
        await served.connect("t1", raw="true")
    assert failed.value.status == 403
    await socket.turn("hi")
    assert socket.of("event") == []


async def test_no_filter_widens_the_policy(serve: Serve, provider: Provider) -> None:
    """What the server hides stays hidden, whatever a client includes."""
    policy = {"allow_raw": True, "exclude_names": ["Shelf"], "exclude_tags": ["one"]}
    served = await serve("stream_graphs:everything", events=policy)
    asks = {"include_types": ["chain", "retriever", "chat_model", "prompt"], "include_tags": ["one"]}
    plain, greedy = await served.attach("t1", raw="1"), await attached(served, "t1", asks)
    await turn([plain, greedy], "/tokens 2")
    assert {kind_of(event["event"]) for event in raw(plain)} == {"llm", "custom"}
    assert raw(greedy) == []


# --- live -----------------------------------------------------------------------------------------


async def test_from_the_middle_of_a_run(serve: Serve) -> None:
    """A reader that asks while a run is under way gets the events from there on, chains' too; until it asks no more."""
    served = await serve("stream_graphs:two_steps", events=OPEN)
    socket, other = await served.attach("t1"), await served.attach("t1")
    await socket.command("send", content="hi")
    await socket.until("run_started")
    await asyncio.wait_for(_reached("gated"), 10)
    await socket.ask("subscribe", raw=True, include_types=["chain"])
    gates.open("gated")
    await socket.until("run_finished")
    await socket.ask("ping")
    assert [(event["event"], event["name"]) for event in raw(socket) if event["name"] in ("first", "second")] == [
        ("on_chain_stream", "second"),
        ("on_chain_end", "second"),
    ]
    await socket.ask("subscribe")
    before = len(socket.of("event"))
    await turn([socket, other], "again")
    assert len(socket.of("event")) == before
    assert other.of("event") == []


async def _reached(gate: str) -> None:
    while gate not in gates.reached:  # noqa: ASYNC110 -- nothing tells of it
        await asyncio.sleep(0.01)


async def test_a_run_by_messages_has_none(serve: Serve, provider: Provider) -> None:
    """As documented: there are no events where the graph is not listened to by events."""
    served = await serve("graphs:openai", events=OPEN)
    socket = await attached(served, "t1", {})
    await socket.turn("/tokens 3", stream="messages")
    assert socket.of("event") == []


async def test_by_the_python_client(serve: Serve) -> None:
    """``connect(raw=True)``: events are among the turn's frames."""
    served = await serve("graphs:echo", events=OPEN)
    async with connect(served.url, raw=True) as chat:
        frames = [frame async for frame in chat.send("hi")]
    events = [frame.event for frame in frames if isinstance(frame, EventFrame)]
    assert {event["name"] for event in events if event} >= {"LangGraph", "echo"}


# --- bounds ---------------------------------------------------------------------------------------


async def test_a_slow_reader_misses_some(serve: Serve) -> None:
    """It is told how many, the run and other readers do not wait for it, and what it gets is in order."""
    served = await serve("stream_graphs:flood", events=OPEN | {"include_types": ["custom"]})
    shrink_send_buffers(served)
    slow = await connect_raw(served, "thread_id=t1&raw=1&include_types=custom", receive_buffer=4096)
    assert (await slow.next())["type"] == "ready"
    fast = await served.attach("t1", exclude_types="custom")
    await fast.turn("1000")
    got: list[int] = []
    missed = 0
    while True:
        frame = await slow.next()
        if frame["type"] == "event" and "dropped" in frame:
            missed += frame["dropped"]
        elif frame["type"] == "event":
            got.append(frame["event"]["data"]["number"])
        if missed + len(got) == 1000:
            break
    slow.vanish()
    assert got == sorted(set(got))
    # What waited for it, and what its socket held.
    assert MAX_WAITING_EVENTS <= len(got) < 600


async def test_the_end_of_a_run_overtakes_nothing(serve: Serve) -> None:
    """A reader that is behind gets a run's events, and what it missed of them, before its ``run_finished``."""
    served = await serve("stream_graphs:flood", events=OPEN | {"include_types": ["custom"]})
    shrink_send_buffers(served)
    slow = await connect_raw(served, "thread_id=t1&raw=1&include_types=custom", receive_buffer=4096)
    assert (await slow.next())["type"] == "ready"
    fast = await served.attach("t1", exclude_types="custom")
    await fast.turn("1000")
    told = 0
    while (frame := await slow.next())["type"] != "run_finished":
        if frame["type"] == "event":
            told += frame.get("dropped", 1)
    assert told == 1000
    slow.vanish()


def test_what_is_missing_is_told_in_its_place() -> None:
    """What was dropped is told of between what came before it and what came after."""
    reader = RawReader(lambda: None, MAX_WAITING_BYTES)
    reader.filter = Filter()
    origin, large = Origin("custom", "n", ()), b"x" * (MAX_WAITING_BYTES - 1)
    for data in (b"a", large, b"too much", b"too much"):
        reader.put(origin, data)
    assert reader.take() == b"a"
    for data in (b"b", b"too much"):
        reader.put(origin, data)
    assert reader.take() == large
    got = [reader.take() for _ in range(4)]
    assert got == [encode({"type": "event", "dropped": n}) if n else b"b" for n in (2, 0, 1)] + [None]


def test_the_buffer_is_bounded() -> None:
    """By number and by bytes; a newer filter holds for what waits already."""
    woken: list[int] = []
    feed, reader = RawFeed(Filter()), RawReader(lambda: woken.append(1), MAX_WAITING_BYTES)
    event = {"event": "on_custom_event", "name": "n", "run_id": "r", "tags": ["a"], "parent_ids": [], "data": "x"}
    assert not feed.wanted()
    feed.publish("run", event, "graph")
    feed.subscribe(reader, Filter())
    for _ in range(MAX_WAITING_EVENTS + 3):
        feed.publish("run", event, "graph")
    got = []
    while (data := reader.take()) is not None:
        got.append(json.loads(data))
    assert len(got) == MAX_WAITING_EVENTS + 1
    assert got[-1] == {"type": "event", "dropped": 3}
    large = b"x" * (MAX_WAITING_BYTES // 3)
    for _ in range(5):
        reader.put(Origin("custom", "n", ()), large)
    feed.subscribe(reader, Filter(exclude_names=frozenset({"n"})))
    assert reader.take() == encode({"type": "event", "dropped": 2})
    feed.publish("run", event, "graph")
    assert reader.take() is None
    feed.subscribe(reader, None)
    assert not feed.wanted()
    assert woken


def test_nobody_asks_nothing_costs() -> None:
    """Chains, prompts and parsers are asked of LangChain only while somebody wants raw events."""
    somebody = False
    wanted = WantedTypes(lambda: somebody)
    assert "chat_model" in wanted
    assert not any(kind in wanted for kind in ("chain", "prompt", "parser"))
    somebody = True
    assert all(kind in wanted for kind in ("chain", "prompt", "parser", "my own event"))


# --- what they hold -------------------------------------------------------------------------------


async def test_whatever_they_hold(serve: Serve) -> None:
    """Objects of every kind come as JSON: what has no form by its type's name, what is too large cut and saying so."""
    served = await serve("stream_graphs:odd", events=OPEN)
    socket = await attached(served, "t1", {"include_types": ["custom"]})
    await turn([socket], "hi")
    data = {event["name"]: event["data"] for event in raw(socket)}
    assert data == {frame["name"]: frame["data"] for frame in socket.of("custom")}
    assert set(data) == set(odd_objects())
    assert data["message"]["tool_calls"] == [{"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}]
    assert data["document"]["metadata"] == {"when": "2026-01-02"}
    assert data["model"] == {"anything": {"inside": 1}, "key": "<SecretStr>"}
    assert data["dataclass"] == {"inside": [1, [2]]}
    assert data["numpy"][:3] == [[0, 1, 2], 1.5, ["a", None]]
    assert data["bytes"] == "AP8="
    assert data["exception"] == "<ValueError>"
    assert data["list_cycle"] == [1, "<cycle>"]
    assert data["object_cycle"] == {"inside": {"again": "<cycle>"}}
    assert [data[name] for name in ("nothing", "sore", "generator", "lambda")] == [
        "<object>",
        "<Sore>",
        "<generator>",
        "<type>",
    ]
    assert (data["half"], data["nan"], data["huge"]) == ("\ufffd", None, str(2**80))
    assert data["keys"] == {"1": "a", "<tuple>": "b", "null": "c"}
    assert "core" not in json.dumps(data["deep"])
    large = data["large"]
    assert (large["truncated"], large["bytes"]) == (True, 200_002)
    assert large["preview"].startswith('"xxx')
    assert len(json.dumps(large)) < 3000


@pytest.mark.parametrize("name", odd_objects())
def test_alone_or_in_company(name: str) -> None:
    """Whatever it is, it can be sent, and does not spoil what stands beside it."""
    value = odd_objects()[name]
    encode({"value": json_safe(value)})
    beside = json_safe({"odd": odd_objects()[name] if name != "large" else "small", "plain": 1})
    assert beside["plain"] == 1
