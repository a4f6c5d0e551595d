"""A thread that has grown old: what its next turn reads again, and what of it is shared between turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import START, StateGraph

from conftest import Serve
from contracts.storage import config_of
from harness import Served
from test_ask_before import APPROVE, edited
from threadwire.agent.messages import ChatState
from threadwire.http import STORAGE
from threadwire.storage.remembered import Remembered, own
from threadwire.storage.sqlite import SqliteStorage


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    """An open storage in a new file."""
    async with SqliteStorage.open(str(tmp_path / "threads.db")) as storage:
        # A test makes a thousand commits, and none of them is about power loss.
        async with storage._lock as writer:
            await writer.execute("PRAGMA synchronous = OFF")
        yield storage


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseMessage]]:
    """All messages that are made, by whom ever."""
    found: list[BaseMessage] = []
    init = BaseMessage.__init__

    def noted(self: BaseMessage, *values: Any, **fields: Any) -> None:
        found.append(self)
        init(self, *values, **fields)

    monkeypatch.setattr(BaseMessage, "__init__", noted)
    return iter([found])


async def answer(state: ChatState) -> dict[str, Any]:
    return {"messages": [AIMessage("an answer")]}


CHAT = StateGraph(ChatState).add_node("answer", answer).add_edge(START, "answer")


async def speak(storage: SqliteStorage, turns: int, *, shared: bool) -> list[BaseMessage]:
    """So many turns more; gives all messages of the thread."""
    messages: list[BaseMessage] = []
    for _ in range(turns):
        graph = CHAT.compile(checkpointer=storage.saver(shared=shared))
        messages = (await graph.ainvoke({"messages": [HumanMessage("hi")]}, config_of("t1"), durability="sync"))[
            "messages"
        ]
        await storage.prune_thread("t1", 50, slack=12)
    return messages


@pytest.mark.parametrize("shared", [True, False])
async def test_what_a_turn_makes(storage: SqliteStorage, made: Iterator[list[BaseMessage]], shared: bool) -> None:
    """Not the messages that the turn before has made; unless it may change them."""
    messages = await speak(storage, 170, shared=shared)
    assert len(messages) == 2 * 170
    found = next(made)
    counts = []
    for _ in range(10):
        found.clear()
        await speak(storage, 1, shared=shared)
        counts.append(len(found))
    assert len(await speak(storage, 1, shared=shared)) == 2 * 181
    if shared:
        # One turn of them reads the thread whole.
        assert sorted(counts)[-2] < 20, counts
    else:
        assert min(counts) >= 2 * 170, counts


async def test_old_thread_of_the_agent(serve: Serve) -> None:
    """Turns with tools, a person's edits, going back: what is shared stays what is stored, and the thread is right."""
    served = await serve(agent={"ask_before": ["save_note"]}, storage={"keep_checkpoints": 20})
    socket = await served.attach("t")
    said = 0
    for number in range(75):
        if number % 5 == 3:
            await socket.turn(f'/tool save_note {{"title": "Note {number}", "text": "sail"}}')
            [asked] = socket.of("interrupt")[-1]["interrupts"]
            decision = APPROVE if number % 2 else edited("save_note", {"title": f"Other {number}", "text": "row"})
            ack = await socket.ask("respond", responses={asked["id"]: {"decisions": [decision]}})
            assert (await socket.until("run_finished", run_id=ack["run_id"]))["status"] == "completed"
            said += 4
        else:
            await socket.turn(f"number {number} /tokens 3", message_id=f"m{number}")
            said += 2
        assert_as_stored(served)
    remembered = served.server.app[STORAGE]._remembered  # type: ignore[attr-defined]
    assert list(remembered._kept) == ["t"]
    assert len(await messages_of(served)) == said

    for which in (70, 20):  # one that has its checkpoint still, and one whose messages are taken out
        ack = await socket.ask("edit", message_id=f"m{which}", content="instead /tokens 3")
        await socket.until("run_finished", run_id=ack["run_id"])
        for _ in range(3):
            await socket.turn("and on /tokens 3")
            assert_as_stored(served)
        ids = [message["id"] for message in await messages_of(served)]
        assert len(set(ids)) == len(ids)
        assert ids.index(ack["message_id"]) == len(ids) - 8
        assert f"m{which - 1}" in ids
        assert not {f"m{later}" for later in range(which, 75)} & set(ids)

    assert await served.server.app[STORAGE].delete_thread("t")
    assert not remembered._kept
    assert remembered._bytes == 0


async def messages_of(served: Served) -> list[dict[str, Any]]:
    """All of the thread's, page by page."""
    socket = await served.attach("t", on_disconnect="continue")
    messages: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    while True:
        page = await socket.ask("history", limit=100, **before)
        messages = [*page["messages"], *messages]
        if page["before"] is None:
            await socket.ws.close()
            return messages
        before = {"before": page["before"]}


def assert_as_stored(served: Served) -> None:
    """What is shared of the thread is what its bytes give when they are read anew."""
    storage: Any = served.server.app[STORAGE]
    [(_size, read)] = storage._remembered._kept.values() or [(0, {})]
    for stored, made in read.values():
        again = storage._saver.serde.loads_typed(stored)
        assert made == again


def call() -> dict[str, Any]:
    return {"name": "save_note", "args": {"title": "Plans"}, "id": "c1"}


@pytest.mark.parametrize("stored_whole", [4, 2, 0])
def test_the_last_turn_is_ones_own(stored_whole: int) -> None:
    """A reader that writes into a message of the turn in hand, as who edits a tool call does, tells no other."""
    messages = [HumanMessage("hi"), AIMessage("hello"), HumanMessage("save"), AIMessage("", tool_calls=[call()])]
    seed = _DeltaSnapshot(messages[:stored_whole])
    writes = [("task", "messages", [message]) for message in messages[stored_whole:]]
    found = own({"messages": {"writes": writes, "seed": seed}})["messages"]
    assert found == {"writes": writes, "seed": seed}
    mine: list[Any] = [*found["seed"].value, *(message for write in found["writes"] for message in write[2])]
    assert mine[0] is messages[0]
    mine[3].tool_calls[0]["args"]["title"] = "Other"
    found["seed"].value.append(HumanMessage("more"))
    found["writes"].append(("task", "messages", [HumanMessage("more")]))
    assert messages[3].tool_calls[0]["args"] == {"title": "Plans"}  # type: ignore[attr-defined]
    assert (len(seed.value), len(writes)) == (stored_whole, 4 - stored_whole)


def read(kept: Remembered, thread_id: str, *stored: bytes) -> list[int]:
    """A reading of the thread; gives for each whether it had to be made."""
    serde = JsonPlusSerializer()
    counted: list[int] = []
    reading = kept.begin(thread_id, serde)
    for one in stored:
        before = reading._before.get(one[-512:])
        counted.append(0 if before is not None and before[0] == ("msgpack", one) else 1)
        assert reading.loads_typed(("msgpack", one)) == serde.loads_typed(("msgpack", one))
    kept.end(thread_id, reading)
    return counted


def test_bound() -> None:
    """Of each thread what was read last; of all, those read last, up to so many bytes; other bytes are not it."""
    one, other, long = (ormsgpack.packb(text) for text in ("a" * 100, "b" * 100, "c" * 1000))
    kept = Remembered(max_bytes=500)
    assert read(kept, "a", one, other) == [1, 1]
    assert read(kept, "a", other) == [0]
    assert read(kept, "a", one, other) == [1, 0]
    assert read(kept, "b", one, other) == [1, 1]
    assert read(kept, "a", one) == [0]
    assert read(kept, "c", one, other) == [1, 1]
    assert read(kept, "b", one) == [1], "it was read longest ago"
    assert read(kept, "a", one) == [0]
    assert read(kept, "d", long, ormsgpack.packb("d" * 488 + "c" * 512)) == [1, 1]
    assert (kept._bytes, len(kept._kept)) == (0, 0)
