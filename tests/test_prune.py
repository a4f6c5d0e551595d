"""Pruning: what is kept reads as before and goes on as before, in any conversation, and the rest is gone."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, StateSnapshot

import prune_graphs
from contracts.storage import config_of, put
from threadwire.agent.messages import ChatState
from threadwire.storage.sqlite import SqliteStorage

GRAPHS = {"plain": prune_graphs.plain, "delta": prune_graphs.delta}


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    """An open storage in a new file."""
    async with SqliteStorage.open(str(tmp_path / "threads.db")) as storage:
        # A test makes thousands of commits, and none of them is about power loss.
        await storage._writer.execute("PRAGMA synchronous = OFF")
        yield storage


def rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """What another program sees in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


# --- any conversation -----------------------------------------------------------------------------------------


def picture(snapshot: StateSnapshot) -> Any:
    """All that a state says but the name of its thread, its subgraphs' states included."""
    tasks = [
        (task.id, task.name, task.interrupts, task.result, picture(task.state) if isinstance(task.state, tuple) else None)
        for task in snapshot.tasks
    ]
    ids = [config and config["configurable"].get("checkpoint_id") for config in (snapshot.config, snapshot.parent_config)]
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
        given = Command(resume={found.id: "so" for found in asked}) if asked else {"messages": [HumanMessage("ask on")]}
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


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", GRAPHS)
async def test_kept_checkpoints_read_as_before(storage: SqliteStorage, name: str, seed: int) -> None:
    """Whatever was said, forked, asked, answered and written: what is kept reads, and goes on, as if nothing had gone."""
    chance = random.Random(seed)
    await storage.create_thread("t1", {}, 1.0)
    talk = Talk(storage, GRAPHS[name], chance)
    for _ in range(4):
        for _ in range(chance.randint(2, 6)):
            await talk.act()
        await talk.prune(chance.choice([1, 2, 3, 7, 15]))
