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
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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


async def measure(name: str, path: str, turns: int, keep: int) -> None:
    cpu: list[float] = []
    sizes: dict[int, int] = {0: 0}
    named = sorted({1, 100, turns} & set(range(1, turns + 1)))
    async with WAYS[name](path, keep) as turn:
        for number in range(1, turns + 1):
            began = time.process_time()
            await turn()
            cpu.append((time.process_time() - began) * 1000)
            if number in named or number % STRETCH == 0:
                sizes[number] = await size_of(path)
            if number in named:
                since = max(at for at in sizes if at <= max(0, number - STRETCH))
                growth = (sizes[number] - sizes[since]) / (number - since)
                spent = statistics.mean(cpu[-WINDOW:])
                print(
                    f"| {name} | {number} | {spent:.1f} ms | {sizes[number] / 1e6:.2f} MB | {growth / 1e3:.1f} kB |",
                    flush=True,
                )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--keep", type=int, default=50, help="storage.keep_checkpoints")
    options = parser.parse_args()
    print("| | turn | CPU of the turn | file | growth per turn |\n|---|---|---|---|---|")
    for name in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            await measure(name, f"{folder}/bench.db", options.turns, options.keep)


if __name__ == "__main__":
    asyncio.run(main())
