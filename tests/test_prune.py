"""Pruning: what is kept reads as before and goes on as before, in any conversation, and the rest is gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, StateSnapshot

import prune_graphs
from conftest import Serve
from contracts.storage import a_line, config_of
from databases import rows
from harness import Served, Socket, eventually
from threadwire.agent.messages import ChatState
from threadwire.storage.sqlite import SqliteStorage
from threadwire.storage.sqlite_prune import BATCH

GRAPHS = {"plain": prune_graphs.plain, "delta": prune_graphs.delta}


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    """An open storage in a new file."""
    async with SqliteStorage.open(str(tmp_path / "threads.db")) as storage:
        # A test makes thousands of commits, and none of them is about power loss.
        async with storage._lock as writer:
            await writer.execute("PRAGMA synchronous = OFF")
        yield storage


# --- any conversation -----------------------------------------------------------------------------------------


def picture(snapshot: StateSnapshot) -> Any:
    """All that a state says but the name of its thread, its subgraphs' states included."""
    tasks = [
        (
            task.id,
            task.name,
            task.interrupts,
            task.result,
            picture(task.state) if isinstance(task.state, tuple) else None,
        )
        for task in snapshot.tasks
    ]
    ids = [
        config and config["configurable"].get("checkpoint_id") for config in (snapshot.config, snapshot.parent_config)
    ]
    return snapshot.values, snapshot.next, snapshot.metadata, snapshot.created_at, snapshot.interrupts, tasks, ids


class Talk:
    """A random conversation on one thread of a graph."""

    def __init__(self, storage: SqliteStorage, graph: Any, chance: random.Random) -> None:
        self.storage = storage
        self.graph = graph.compile(checkpointer=storage.saver())
        self.chance = chance

    async def roots(self) -> list[str]:
        """Its root's checkpoints as readers find them, newest first."""
        return [one.checkpoint["id"] async for one in self.storage.reader.alist(config_of("t1"))]

    async def pictures(self, thread_id: str, ids: list[str]) -> list[Any]:
        """What each of these checkpoints says."""
        configs = [config_of(thread_id, checkpoint_id=one) for one in ids]
        return [picture(await self.graph.aget_state(config, subgraphs=True)) for config in configs]

    async def act(self) -> None:
        """Send, ask, answer, go on from an older checkpoint, or write by hand."""
        ids = await self.roots()
        state = await self.graph.aget_state(config_of("t1"))
        config = config_of("t1")
        what = self.chance.choice(["word", "word", "note", "note", "ask", "answer", "fork", "fork", "write"])
        given: Any = {"messages": [HumanMessage(what)]}
        if what == "answer" and state.interrupts:
            given = Command(resume={found.id: "an answer" for found in state.interrupts})
        elif what in ("fork", "write") and ids:
            config = config_of("t1", checkpoint_id=self.chance.choice(ids))
        if what == "write":
            written = {"messages": [AIMessage("by hand")], "notes": ["by hand"]}
            await self.graph.aupdate_state(config, written, as_node="conclude")
        else:
            await self.graph.ainvoke(given, config, durability=self.chance.choice(["sync", "async", "exit"]))

    async def go_on(self, thread_id: str, checkpoint_id: str) -> Any:
        """What comes of a next turn on a checkpoint, of its question's answer where it has one."""
        config = config_of(thread_id, checkpoint_id=checkpoint_id)
        asked = (await self.graph.aget_state(config)).interrupts
        given: Any = (
            Command(resume={found.id: "so" for found in asked}) if asked else {"messages": [HumanMessage("ask on")]}
        )
        values = await self.graph.ainvoke(given, config)
        state = await self.graph.aget_state(config_of(thread_id))
        return [message.text for message in values["messages"]], values.get("notes"), values.get("word"), state.next

    async def prune(self, keep: int) -> None:
        """Prune, and compare each checkpoint with what it was, and what comes of it with what came of it in a copy."""
        await self.storage.copy_thread("t1", "before", 1.0)
        ids = await self.roots()
        kept = ids[:keep]
        before = await self.pictures("t1", kept)
        await self.storage.prune_thread("t1", keep)
        assert await self.roots() == kept
        assert await self.pictures("t1", kept) == before
        gone = [config_of("t1", checkpoint_id=one) for one in ids[keep:]]
        assert [await self.storage.reader.aget_tuple(config) for config in gone] == [None] * len(gone)
        for one in self.chance.sample(kept, min(2, len(kept))):
            assert await self.go_on("t1", one) == await self.go_on("before", one)
        await self.storage.delete_thread("before")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", GRAPHS)
async def test_kept_checkpoints_read_as_before(storage: SqliteStorage, name: str, seed: int) -> None:
    """Whatever was said, forked, asked, answered and written: what is kept reads, and goes on, as before."""
    chance = random.Random(seed)
    await storage.create_thread("t1", {}, 1.0)
    talk = Talk(storage, GRAPHS[name], chance)
    for _ in range(4):
        for _ in range(chance.randint(2, 6)):
            await talk.act()
        await talk.prune(chance.choice([1, 2, 3, 7, 15]))


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(100, 160))
@pytest.mark.parametrize("name", GRAPHS)
async def test_kept_checkpoints_read_as_before_at_length(storage: SqliteStorage, name: str, seed: int) -> None:
    """The same, in many more conversations."""
    await test_kept_checkpoints_read_as_before(storage, name, seed)


# --- in the file ----------------------------------------------------------------------------------------------


async def test_unwritten_channel_pins_nothing(storage: SqliteStorage) -> None:
    """A delta channel that nobody has ever written, of which nothing was ever stored, keeps nothing either."""
    graph: Any = prune_graphs.delta.compile(checkpointer=storage.saver())
    for _ in range(12):
        await graph.ainvoke({"messages": [HumanMessage("note")]}, config_of("t1"))
    await storage.prune_thread("t1", 3)
    # The kept ones, and back to the last that have the messages, and the notes, whole.
    assert await count(storage, "checkpoint_ns = ''") < 3 + 5 * 3 + 2


async def count(storage: SqliteStorage, where: str) -> int:
    """How many checkpoints there are, hidden ones too."""
    [(found,)] = await storage._read(f"SELECT count(*) FROM checkpoints WHERE {where}")
    return int(found)


async def test_large_prune_in_parts(storage: SqliteStorage) -> None:
    """A large pruning that is cut short leaves nothing that does not read as before, and is done by the next."""
    graph: Any = prune_graphs.counting.compile(checkpointer=storage.saver())
    await graph.ainvoke({"notes": []}, {**config_of("t1"), "recursion_limit": 1000})
    ids = [one.checkpoint["id"] async for one in storage.reader.alist(config_of("t1"))]
    assert len(ids) > 5 * BATCH
    before = {one: (await graph.aget_state(config_of("t1", checkpoint_id=one))).values for one in ids}
    pruning = asyncio.create_task(storage.prune_thread("t1", 5))
    while not pruning.cancelling():
        # Who waits for the writer has it between two parts.
        async with storage._lock as writer:
            [(there,)] = await writer.execute_fetchall("SELECT count(*) FROM checkpoints")
            if there < len(ids):
                pruning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pruning
    left = [one.checkpoint["id"] async for one in storage.reader.alist(config_of("t1"))]
    assert 5 < len(left) < len(ids)
    assert [one.checkpoint["id"] async for one in storage.reader.alist(config_of("t1"), limit=20)] == left[:20]
    for one in left:
        assert (await graph.aget_state(config_of("t1", checkpoint_id=one))).values == before[one]
    await storage.prune_thread("t1", 5)
    assert [one.checkpoint["id"] async for one in storage.reader.alist(config_of("t1"))] == ids[:5]


async def test_no_prune_under_a_run(storage: SqliteStorage) -> None:
    """Where the thread got a checkpoint after it was looked at, nothing is deleted: a run may need it."""
    ids = await a_line(storage.saver(), 9)
    plan = await storage._plan("t1", 2)
    await a_line(storage.saver(), 1)
    assert await storage._carry_out("t1", plan, plan.deleted) is False
    assert await count(storage, "thread_id = 't1'") == len(ids) + 1


async def _answer(state: Any) -> dict[str, Any]:
    return {"messages": [AIMessage(f"{state['messages'][-1].text} it is")]}


async def test_delta_thread_grows_with_its_text(storage: SqliteStorage, tmp_path: Path) -> None:
    """A long thread of the agent's delta channel takes its text a few times, however long it is, before and after."""
    builder: Any = StateGraph(ChatState).add_node("answer", _answer).add_edge(START, "answer")
    graph = builder.compile(checkpointer=storage.saver())
    told = 0
    for turns in range(1, 181):
        await graph.ainvoke({"messages": [HumanMessage(SENT)]}, config_of("t1"))
        told += 2 * len(SENT) + len(" it is")
        await storage.prune_thread("t1", 10, slack=2)
        if turns % 60 == 0:
            path = tmp_path / "threads.db"
            # A message as stored has some 300 bytes beside its text.
            assert content(path) + content(path, "writes") < 4 * (told + turns * 600)
            assert await count(storage, "thread_id = 't1'") < 12 + 50 * 3 + 3
    assert len((await graph.aget_state(config_of("t1"))).values["messages"]) == 360


async def test_plain_seed_outlives_the_upgrade(storage: SqliteStorage, tmp_path: Path) -> None:
    """What plain MessagesState wrote last stays while the delta channel is read from it, and goes after."""
    for state, turns in ((MessagesState, 4), (ChatState, 80)):
        builder: Any = StateGraph(state).add_node("answer", _answer).add_edge(START, "answer")
        graph = builder.compile(checkpointer=storage.saver())
        for number in range(turns):
            given = {"messages": [HumanMessage(f"{state.__name__} {number}")]}
            values = await graph.ainvoke(given, config_of("t1"))
            await storage.prune_thread("t1", 1)
            assert (await graph.aget_state(config_of("t1"))).values == values
    assert [message.text for message in values["messages"]][::2] == [
        *(f"MessagesState {number}" for number in range(4)),
        *(f"ChatState {number}" for number in range(80)),
    ]
    holding = "SELECT count(*) FROM checkpoints WHERE instr(checkpoint, CAST('MessagesState 3' AS BLOB))"
    assert rows(tmp_path / "threads.db", holding) == [(1,)], "a snapshot of the delta channel, and no plain one"


SENT = "word " * 40


def content(path: Path, table: str = "checkpoints") -> int:
    """Bytes of a table's blobs."""
    column = {"checkpoints": "checkpoint", "writes": "value"}[table]
    return int(rows(path, f"SELECT coalesce(sum(length({column})), 0) FROM {table}")[0][0])


# --- on a server ----------------------------------------------------------------------------------------------


async def grow(socket: Socket, turns: int) -> None:
    """Take so many turns."""
    for _ in range(turns):
        await socket.turn(SENT)


async def test_plain_thread_is_bounded(serve: Serve) -> None:
    """A plain thread takes its text as often as checkpoints are kept, and a quarter and a turn more."""
    keep, turns = 8, 30
    served = await serve("graphs:echo", storage={"keep_checkpoints": keep})
    await grow(await served.attach("t1"), turns)
    states = await pruned_to(served, int(keep * 1.25))
    size = content(served.database) + content(served.database, "writes")
    [(text,)] = rows(served.database, "SELECT max(length(checkpoint)) FROM checkpoints")
    assert size < (keep * 1.25 + 1) * text
    assert keep <= len(states) == rows(served.database, "SELECT count(*) FROM checkpoints")[0][0]
    assert len(states[0]["values"]["messages"]) == 2 * turns


async def pruned_to(served: Served, most: int) -> list[Any]:
    """The states that are left of the thread, once they are that few: pruning follows the end of a turn."""

    async def few() -> list[Any] | None:
        states = await states_of(served)
        return states if len(states) <= most else None

    found: list[Any] = await eventually(few, f"{most} checkpoints are left")
    return found


async def states_of(served: Served) -> list[Any]:
    """What ``/threads/t1/history`` gives."""
    async with served.session.get(f"{served.url}/threads/t1/history?limit=1000") as response:
        found: list[Any] = await response.json()
        return found


async def test_everything_is_kept_by_wish(serve: Serve) -> None:
    """``keep_checkpoints: 0`` keeps every checkpoint."""
    served = await serve("graphs:echo", storage={"keep_checkpoints": 0})
    await grow(await served.attach("t1"), 20)
    assert len(await states_of(served)) == 60


async def test_question_outlives_pruning(serve: Serve) -> None:
    """A thread that waits for a person still does when all but its newest checkpoint is gone, and takes the answer."""
    served = await serve("prune_graphs:delta", storage={"keep_checkpoints": 1})
    socket = await served.attach("t1")
    for word in ("note", "word", "ask"):
        await socket.turn(word)
    [asked] = socket.of("interrupt")[-1]["interrupts"]
    await pruned_to(served, 1)
    await socket.ask("respond", responses={asked["id"]: "so"})
    await socket.until("run_finished", status="completed")
    assert (await served.history("t1"))[-1]["content"] == "ask after 2 and so"


async def test_plain_thread_becomes_delta(serve: Serve, tmp_path: Path) -> None:
    """A thread that plain MessagesState has written goes on in the agent's delta channel, all of it, pruned to one."""
    database = tmp_path / "upgraded.db"
    plain = await serve("graphs:echo", database=database)
    socket = await plain.attach("t1")
    for number in range(3):
        await socket.turn(f"plain {number}")
    await socket.ws.close()
    await plain.server.close()
    agent = await serve(database=database, storage={"keep_checkpoints": 1})
    socket = await agent.attach("t1")
    for number in range(4):
        await socket.turn(f"delta {number}")
    told = [message["content"] for message in await agent.history("t1") if message["role"] == "user"]
    assert told == [f"plain {number}" for number in range(3)] + [f"delta {number}" for number in range(4)]
    await pruned_to(agent, 1)
    assert len(await agent.history("t1")) == 14


async def test_delete_reaches_every_table(serve: Serve) -> None:
    """Of a deleted thread no table of the file has a row, subgraphs' and hidden checkpoints included; others stay."""
    served = await serve("prune_graphs:delta", storage={"keep_checkpoints": 3})
    for name in ("gone", "stays"):
        socket = await served.attach(name)
        for word in ("note", "word", "note", "ask"):
            await socket.turn(f"{word} that {name}")

    def naming(name: str) -> dict[str, int]:
        tables = [table for (table,) in rows(served.database, "SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {
            table: sum(name in str(row) for row in rows(served.database, f'SELECT * FROM "{table}"'))
            for table in tables
        }
        return {table: number for table, number in found.items() if number}

    of_threads = rows(
        served.database,
        "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c"
        " WHERE m.type = 'table' AND c.name = 'thread_id'",
    )
    assert {(table,) for table in naming("gone")} == set(of_threads), "each table of threads has something to delete"
    others = naming("stays").keys()
    async with served.session.delete(f"{served.url}/threads/gone") as response:
        assert response.status == 204
    assert naming("gone") == {}
    # Its own pruning may still be at work, so not how many there are.
    assert naming("stays").keys() == others


async def test_edit_beyond_what_is_kept(serve: Serve) -> None:
    """What is there only to be read from is no place to go on from: the message is edited by what the newest has."""
    served = await serve("prune_graphs:delta", storage={"keep_checkpoints": 1})
    socket = await served.attach("t1")
    for number in range(2):
        await socket.turn(f"note {number}", message_id=f"m{number}")
    await pruned_to(served, 1)
    of_base = "FROM turns, checkpoints USING (thread_id) WHERE base = checkpoint_id AND message_id = 'm1'"
    assert rows(served.database, f"SELECT count(*) {of_base}") == [(1,)], "it is there, to be read from"
    ack = await socket.ask("edit", message_id="m1", content="instead")
    assert ack["from"] == "messages"
    await socket.until("run_finished", run_id=ack["run_id"], status="completed")
    told = [message["content"] for message in await served.history("t1") if message["role"] == "user"]
    assert told == ["note 0", "instead"]
