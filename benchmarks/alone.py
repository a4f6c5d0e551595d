"""What is measured on a server that has been started for it: memory, a thread's age, and the start itself."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid
from contextlib import AsyncExitStack, closing
from pathlib import Path

import aiohttp

from benchmarks.contenders import Contender, Process, server
from benchmarks.dialects import Dialect
from benchmarks.load import Crowd
from benchmarks.machine import SERVER_CORE, cpu_seconds, pin, rss_bytes
from benchmarks.scenarios import Field, Row

#: Handshakes that are timed, one after another, as the first and as the last.
TIMED = 100
#: A thread's turns that a figure is the mean of, up to and with the one that is named.
STRETCH = 10
AGES = (10, 100, 250, 500, 750, 1000)
#: Less than ten turns fill it, so turn 10 reads as much as turn 1,000.
CONTEXT_TOKENS = 1500


async def _started(stack: AsyncExitStack, contender: Contender, provider: Process, **more: str) -> Field:
    running = server(contender, provider.url, more)
    stack.push_async_callback(running.discard)
    await running.start()
    return Field(contender, running, provider, os.getpid())


async def idle(contender: Contender, provider: Process, count: int) -> Row:
    """Memory of so many connections that do nothing, and how long the first and the last took to connect."""
    async with AsyncExitStack() as stack:
        field = await _started(stack, contender, provider)
        await field.turn(str(uuid.uuid4()), "tokens=50 rate=0")
        before, busy = rss_bytes(field.server.pid), cpu_seconds(field.server.pid)
        crowd = Crowd(contender.dialect, field.server.url)
        stack.callback(crowd.close)
        timed: list[Dialect] = []
        first = await _connect(field, timed)
        await crowd.open(count - 2 * TIMED)
        last = await _connect(field, timed)
        after, spent = rss_bytes(field.server.pid), cpu_seconds(field.server.pid) - busy
        for session in timed:
            session.close()
    return {
        "connections": count,
        "bytes_per_connection": round((after - before) / count),
        "rss_mib": round(after / 2**20, 1),
        "cpu_us_per_connection": round(spent / count * 1e6),
        "connect_ms": {"first": first, "last": last},
        "notes": [],
    }


async def _connect(field: Field, kept: list[Dialect]) -> float:
    """Median milliseconds of a handshake until the server has answered."""
    took = []
    for _ in range(TIMED):
        began = time.perf_counter()
        session = field.contender.dialect()
        await session.open(field.server.url, str(uuid.uuid4()))
        took.append((time.perf_counter() - began) * 1000)
        kept.append(session)
    return round(statistics.median(took), 2)


async def age(contender: Contender, provider: Process) -> Row:
    """A thread of 1,000 short turns: CPU of a turn and bytes of the database, as it grows, with its context trimmed."""
    ages: list[Row] = []
    async with AsyncExitStack() as stack:
        more = {"THREADWIRE_AGENT__MAX_CONTEXT_TOKENS": str(CONTEXT_TOKENS)}
        field = await _started(stack, contender, provider, **more)
        for _ in range(STRETCH):
            await field.turn(str(uuid.uuid4()), "tokens=40 rate=0")
        session = contender.dialect()
        await session.open(field.server.url, "aged")
        stack.callback(session.close)
        spent = 0.0
        for number in range(1, AGES[-1] + 1):
            before = cpu_seconds(field.server.pid)
            turn = await session.ask(f"tokens=40 rate=0 This is question {number} of a long conversation.")
            await turn.over
            spent += cpu_seconds(field.server.pid) - before
            if number % STRETCH == 0:
                if number in AGES:
                    size = _database_bytes(Path(field.server.folder))
                    ages.append({"turn": number, "cpu_ms": round(spent / STRETCH * 1000, 2), "database_bytes": size})
                spent = 0.0
    growth = ages[-1]["cpu_ms"] / ages[0]["cpu_ms"]
    return {"ages": ages, "growth": round(growth, 2), "context_tokens": CONTEXT_TOKENS, "notes": []}


def _database_bytes(folder: Path) -> int:
    """What the pages hold that are in use, in the file or still in its log."""
    [path] = folder.glob("*.db")
    with closing(sqlite3.connect(path)) as database:
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)


async def start(contender: Contender, provider: Process, rounds: int = 5) -> Row:
    """From the command to the first answered request, beside the imports that nobody can do without; and ``--help``."""
    found: dict[str, list[float]] = {"serve": [], "imports": [], "help": []}
    command = str(Path(sys.executable).with_name("threadwire"))
    for _ in range(rounds):
        found["imports"].append(await _run([sys.executable, "-c", "import langgraph.graph, langchain_openai"]))
        found["serve"].append(await _first_answer(server(contender, provider.url)))
        found["help"].append(await _run([command, "--help"]))
    medians = {name: round(statistics.median(seconds), 3) for name, seconds in found.items()}
    spread = {name: [round(min(seconds), 3), round(max(seconds), 3)] for name, seconds in found.items()}
    ratio = round(medians["serve"] / medians["imports"], 2)
    return {"seconds": medians, "spread": spread, "ratio": ratio, "notes": []}


async def _run(command: list[str]) -> float:
    """Seconds of a command that ends by itself, on the server's core."""
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: ASYNC220
        command,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: pin(SERVER_CORE),  # noqa: PLW1509
    )
    assert await asyncio.to_thread(process.wait) == 0, command
    return time.perf_counter() - began


async def _first_answer(process: Process) -> float:
    began = time.perf_counter()
    try:
        process.launch()
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{process.url}/healthz") as response:
                        assert response.status == 200
                    return time.perf_counter() - began
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.005)
    finally:
        await process.discard()
