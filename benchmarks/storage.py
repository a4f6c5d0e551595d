"""What a thread costs on the disk, and a turn of it in CPU, as the thread grows: the plain saver and ours, in one run.

    python benchmarks/storage.py [--turns 1000] [--keep 50]

The same conversation (100 characters sent, 560 answered, by a node that calls no model) on three graphs:

- ``plain``: ``MessagesState`` on LangGraph's ``AsyncSqliteSaver``, as its documentation has it;
- ``pruned``: the same graph on threadwire's storage, pruned after each turn as the server does it;
- ``agent``: the delta channel of threadwire's built-in agent, on threadwire's storage, pruned as well.

CPU is the process's own, SQLite's threads included, and the mean of the last 50 turns up to the one that is named: not
every turn prunes, and one in 50 stores a delta channel whole.
``file`` is the database with its write-ahead log folded in, after that turn; ``growth`` its mean over the last hundred
turns. Each turn is durable when it ends (``durability="sync"``). Figures of one machine at one time: compare ratios of
one run, not absolute values of two. The plain saver's file of 1,000 turns has over a gigabyte.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"

import aiosqlite
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from threadwire.agent.messages import ChatState
from threadwire.storage import open_storage

THREAD: Any = {"configurable": {"thread_id": "bench"}}
SENT, SAID = "question " * 11, "an answer of some length. " * 21 + "So it is, then."
#: Turns that a figure of CPU, and one of growth, is the mean of.
WINDOW, STRETCH = 50, 100

Turn = Callable[[], Awaitable[None]]


async def answer(_state: Any) -> dict[str, Any]:
    return {"messages": [AIMessage(SAID)]}


def builder(state: Any) -> Any:
    return StateGraph(state).add_node("answer", answer).add_edge(START, "answer")


async def speak(graph: Any) -> None:
    await graph.ainvoke({"messages": [HumanMessage(SENT)]}, THREAD, durability="sync")


@asynccontextmanager
async def plain(path: str, _keep: int) -> AsyncIterator[Turn]:
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        graph = builder(MessagesState).compile(checkpointer=saver)
        yield lambda: speak(graph)


@asynccontextmanager
async def ours(path: str, keep: int, state: Any) -> AsyncIterator[Turn]:
    async with open_storage(f"sqlite:///{path}") as storage:
        graph = builder(state).compile(checkpointer=storage.saver())

        async def turn() -> None:
            await speak(graph)
            await storage.prune_thread("bench", keep, slack=keep // 4)

        yield turn


WAYS: dict[str, Callable[[str, int], AbstractAsyncContextManager[Turn]]] = {
    "plain": plain,
    "pruned": lambda path, keep: ours(path, keep, MessagesState),
    "agent": lambda path, keep: ours(path, keep, ChatState),
}


async def size_of(path: str) -> int:
    async with aiosqlite.connect(path) as connection:
        await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    return os.stat(path).st_size  # noqa: PTH116 -- nobody else waits


class Way:
    """One of the ways to keep a thread, and what it has cost so far."""

    def __init__(self, name: str, path: str, turn: Turn) -> None:
        self.name, self.path, self.turn = name, path, turn
        self.cpu: list[float] = []
        self.sizes: dict[int, int] = {0: 0}

    async def go(self, number: int) -> None:
        began = time.process_time()
        await self.turn()
        self.cpu.append((time.process_time() - began) * 1000)
        if number == 1 or number % STRETCH == 0:
            self.sizes[number] = await size_of(self.path)

    def row(self, number: int) -> str:
        """A row of the table, for the turn that was the last."""
        since = max(at for at in self.sizes if at <= max(0, number - STRETCH))
        size = self.sizes[number]
        growth = (size - self.sizes[since]) / (number - since)
        spent = statistics.mean(self.cpu[-WINDOW:])
        return f"| {number} | `{self.name}` | {spent:.0f} ms | {size / 1e6:.2f} MB | {growth / 1e3:.0f} kB |"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--keep", type=int, default=50, help="storage.keep_checkpoints")
    options = parser.parse_args()
    print("| turn | | CPU of a turn | file | growth per turn |\n|---|---|---|---|---|", flush=True)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ways = []
        for name, way in WAYS.items():
            path = f"{folder}/{name}.db"
            ways.append(Way(name, path, await stack.enter_async_context(way(path, options.keep))))
        for number in range(1, options.turns + 1):
            # Turn about, so that what else the machine does meets all of them.
            for each in ways:
                await each.go(number)
                if number in (1, 100, 1000):
                    print(each.row(number), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
