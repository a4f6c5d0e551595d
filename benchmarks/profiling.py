"""Where a server's time goes at 100 sessions: py-spy's samples, by who wrote the code they fell into.

    python -m benchmarks.profiling [--servers threadwire aiohttp] [--sessions 100] [--raw FOLDER]

A sample counts for the innermost package on its stack: Python's library (but for its event loop) and C work for who
calls them. py-spy takes some of the core itself, so shares hold and microseconds are a little high. The raw samples are
stacks for a flame graph (speedscope.app).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks import scenarios
from benchmarks.contenders import CONTENDERS, provider, server
from benchmarks.load import Crowd
from benchmarks.machine import LOAD_CORE, pin
from benchmarks.scenarios import Field

#: The first that a frame's file matches; ours by module.
OWNERS = (
    (r"^_run \(.*/threadwire/serving\.py", "event loop"),
    (r"/openai/", "openai SDK"),
    (r"/(httpx2?|httpcore2?|h11|anyio|sniffio|certifi)/", "HTTP client (httpx, httpcore, h11, anyio)"),
    (r"/(langchain_openai)/", "langchain-openai"),
    (r"/langchain_core/(callbacks|tracers)/", "LangChain: callbacks and tracers"),
    (r"/langchain_core/messages/", "LangChain: messages"),
    (r"/(langchain_core|langchain|langsmith)/", "LangChain: the rest"),
    (r"/langgraph/checkpoint/|aiosqlite|sqlite3", "SQLite, with the checkpointer"),
    (r"/langgraph/", "LangGraph"),
    (r"/threadwire/storage/", "threadwire: storage"),
    (r"/threadwire/models/", "threadwire: model"),
    (r"/threadwire/(log|protocol)", "threadwire: log and codec"),
    (r"/threadwire/(events|listener|marker|streams|toolcalls|raw|filters)", "threadwire: events"),
    (r"/threadwire/", "threadwire: the rest"),
    (r"/benchmarks/", "the tutorial's own"),
    (r"/aiohttp/", "aiohttp"),
    (r"/pydantic", "pydantic"),
    (r"/(json|orjson)/", "JSON"),
    (r"asyncio/|uvloop|selectors|contextvars|/concurrent/", "event loop"),
)
SECONDS = 8


def owner(stack: str) -> str:
    """Who wrote the innermost frame that is not Python's library: it works for who calls it.

    A stack is ``function (path:line);function (path:line)``, as py-spy writes it, the innermost last.
    """
    for frame in reversed(stack.split(";")):
        for pattern, name in OWNERS:
            if re.search(pattern, frame):
                return name
    return "Python's library"


def shares(raw: str) -> Counter[str]:
    """Samples by owner; those of idle threads are not there."""
    found: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        found[owner(stack)] += int(count)
    return found


async def profile(name: str, sessions: int, raw: Path) -> float:
    """Record a server's stacks while all sessions talk; gives its microseconds a token."""
    async with AsyncExitStack() as stack:
        asked = provider()
        stack.push_async_callback(asked.discard)
        await asked.start()
        running = server(CONTENDERS[name], asked.url)
        stack.push_async_callback(running.discard)
        await running.start()
        field = Field(CONTENDERS[name], running, asked, os.getpid())
        await scenarios.warm(field)
        crowd = Crowd(field.contender.dialect, running.url)
        stack.callback(crowd.close)
        await crowd.open(sessions)
        spy = Path(sys.executable).with_name("py-spy")
        command = [str(spy), "record", "--pid", str(running.pid), "--format", "raw", "--output", str(raw)]
        command += ["--rate", "250", "--full-filenames", "--duration", str(SECONDS), "--nonblocking"]
        content = f"tokens={scenarios.TOKENS} rate={scenarios.RATE}"
        talking = asyncio.create_task(crowd.stream(field.counters, content, scenarios.RAMP, SECONDS + 1))
        await asyncio.sleep(scenarios.RAMP)
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        seen = await talking
        return seen.spent.server / max(1, seen.tokens) * 1e6


def table(found: dict[str, Any]) -> str:
    """In Markdown: by whose code it is, the share of each server's time, and its microseconds a token."""
    costs = {name: each["cpu_us_per_token"] for name, each in found.items()}
    heads = [f"{CONTENDERS[name].title}: {cost:.0f} us a token" for name, cost in costs.items()]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    owners: Counter[str] = Counter()
    for each in found.values():
        owners.update(each["shares"])
    for who, _ in owners.most_common():
        cells = [_share(found[name]["shares"].get(who, 0.0), cost) for name, cost in costs.items()]
        if any(cells):
            lines.append(f"| {who} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _share(share: float, cost: float) -> str:
    return f"{share:.0%} ({share * cost:.0f} us)" if share >= 0.005 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=CONTENDERS, default=["threadwire", "aiohttp"], metavar="NAME")
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--raw", type=Path, help="keep the samples in that folder")
    parser.add_argument("--save", type=Path, help="where the shares go, as JSON")
    options = parser.parse_args()
    pin(LOAD_CORE)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.servers:
            raw = (options.raw or Path(temporary)) / f"{name}.txt"
            cost = asyncio.run(profile(name, options.sessions, raw))
            samples = shares(raw.read_text())
            total = sum(samples.values())
            parts = {who: round(count / total, 4) for who, count in samples.most_common()}
            found[name] = {"cpu_us_per_token": round(cost, 1), "sessions": options.sessions, "shares": parts}
    if options.save:
        options.save.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
