"""The one command: ``python -m benchmarks [SCENARIO ...] [--servers NAME ...] [--rounds N]``.

Without arguments it is the whole comparison, which goes into ``results/`` and the picture; with ``--peers`` that with
what others have built, each in an environment of its own (``make bench-peers`` makes them).
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks import alone, publish, report, scenarios
from benchmarks.contenders import CONTENDERS, Process, provider, server
from benchmarks.dialects import WebSocketDialect
from benchmarks.machine import LOAD_CORE, SERVER_CORE, description, pin, versions
from benchmarks.scenarios import Field, Row

#: In each round on each server, in turn.
ROUNDS = {
    "single": scenarios.single,
    "burst": scenarios.burst,
    "turn": scenarios.turn,
    "crowd": scenarios.crowd,
}
#: Once on each server after the rounds.
ONCE = ("two_hundred", "capacity", "idle", "age", "start")
#: Who is in which suite, and what is asked of whom; of all where nothing is said.
SUITES = {
    "bench": ["threadwire", "stock", "aiohttp", "fastapi", "floor"],
    "peers": ["threadwire", "aiohttp", "langgraph", "langgraph_ws", "chainlit", "ag_ui", "floor"],
}
OURS = ["threadwire"]
#: Between two turns, only a WebSocket is an idle connection.
CONNECTED = [each.name for each in CONTENDERS.values() if issubclass(each.dialect, WebSocketDialect)]
ONLY = {"idle": CONNECTED, "two_hundred": ["threadwire", "floor"], "age": OURS, "start": OURS}
#: ``server.max_connections`` is as large by default; how many the others must hold to be compared.
CONNECTIONS = {"threadwire": 10_000, "floor": 10_000}
FEWER_CONNECTIONS = 2000


class Run:
    """One run of the benchmark: its servers, and its rows so far."""

    def __init__(self, names: list[str], provider: Process) -> None:
        self.names, self.provider = names, provider
        self.rows: list[Row] = []
        self.fields: list[Field] = []

    async def start(self, servers: list[str], stack: AsyncExitStack, core: int | None) -> None:
        """Start the servers, and leave out who does not deliver or remember."""
        for name in servers:
            contender = CONTENDERS[name]
            running = server(contender, self.provider.url, core=core)
            stack.push_async_callback(running.discard)
            field = Field(contender, running, self.provider, os.getpid())
            try:
                await running.start()
                await scenarios.check(field)
                await scenarios.warm(field)
            except (AssertionError, OSError, RuntimeError, TimeoutError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                await running.stop()
            else:
                print(f"{name}: delivers all, and remembers", file=sys.stderr)
                self.fields.append(field)

    def add(self, scenario: str, server: str, round_: int, row: Row) -> None:
        self.rows.append({"scenario": scenario, "server": server, "round": round_} | row)
        print(report.line(self.rows[-1]), file=sys.stderr)

    async def compare(self, rounds: int) -> None:
        for number in range(1, rounds + 1):
            for name in [name for name in ROUNDS if name in self.names]:
                for field in self.fields:
                    self.add(name, field.contender.name, number, await ROUNDS[name](field))
        for name in [name for name in ONCE if name in self.names]:
            for field in self.fields:
                if field.contender.name in ONLY.get(name, CONTENDERS):
                    self.add(name, field.contender.name, 1, await self.once(name, field))

    async def once(self, name: str, field: Field) -> Row:
        contender = field.contender
        match name:
            case "two_hundred":
                return await scenarios.two_hundred(field)
            case "capacity":
                return await scenarios.capacity(field, self._guess(contender.name))
            case "idle":
                count = CONNECTIONS.get(contender.name, FEWER_CONNECTIONS)
                return await alone.idle(contender, self.provider, count)
            case "age":
                return await alone.age(contender, self.provider)
            case _:
                return await alone.start(contender, self.provider)

    def _guess(self, name: str) -> int:
        """Sessions that would take four fifths of a core, at what a token took in the rounds."""
        took = [row["cpu_us_per_token"] for row in self.rows if (row["scenario"], row["server"]) == ("crowd", name)]
        return int(0.8e6 / scenarios.RATE / min(took)) if took else 100


async def run(options: argparse.Namespace) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        # A round less than one is only to see whether all of them work, beside whatever else goes on.
        cores = (SERVER_CORE, LOAD_CORE) if options.rounds else (None, None)
        asked = provider(cores[1])
        stack.push_async_callback(asked.discard)
        await asked.start()
        this = Run(options.scenarios or [*ROUNDS, *ONCE], asked)
        await this.start(options.servers or SUITES[options.suite], stack, cores[0])
        if options.rounds:
            await this.compare(options.rounds)
        peers = {field.contender.name: versions(field.contender.site) for field in this.fields if field.contender.site}
        return {"suite": options.suite, "machine": description(), "peers": peers, "rows": this.rows}


def main() -> None:
    known = [*ROUNDS, *ONCE]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(known))
    parser.add_argument("--servers", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--peers", dest="suite", action="store_const", const="peers", default="bench")
    parser.add_argument("--rounds", type=int, default=3, help="0: only see that every server works (default: 3)")
    parser.add_argument("--save", type=Path, help="where the results go if not all was run")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # Ten thousand connections are as many files, here and in the servers.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.rounds:
        pin(LOAD_CORE)
    try:
        from uvloop import run as run_loop
    except ImportError:
        from asyncio import run as run_loop
    results = run_loop(run(options))
    whole = options.rounds and not options.scenarios and not options.servers
    if whole:
        publish.save(results, publish.RESULTS / f"{options.suite}.json")
        publish.publish()
    elif options.save:
        publish.save(results, options.save)
    print(publish.text(results))


if __name__ == "__main__":
    main()
