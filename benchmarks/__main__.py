"""The one command: ``python -m benchmarks [SCENARIO ...] [--servers NAME ...] [--rounds N]``.

Without arguments it is the whole comparison, which goes into ``results/``, the pictures and docs/performance.md; with
``--peers`` that with what others have built, each in an environment of its own (``make bench-peers`` makes them).
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import alone, publish, report, scenarios
from benchmarks.contenders import CONTENDERS, Process, provider, server
from benchmarks.machine import LOAD_CORE, SERVER_CORE, description, pin, versions
from benchmarks.scenarios import Field, Row
from benchmarks.suites import KNOWN, ROUNDS, SUITES, can

#: ``server.max_connections`` is as large by default; how many the others must hold to be compared.
CONNECTIONS = {"threadwire": 10_000, "floor": 10_000}
FEWER_CONNECTIONS = 2000
#: What a server may do to who measures it.
FAULTS = (AssertionError, OSError, RuntimeError, TimeoutError, aiohttp.ClientError)


class Run:
    """One run of the benchmark: its servers, and its rows so far."""

    def __init__(self, provider: Process) -> None:
        self.provider = provider
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
            except FAULTS as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                await running.stop()
            else:
                print(f"{name}: delivers all, and remembers", file=sys.stderr)
                self.fields.append(field)

    async def compare(self, rounds: int, asked: dict[str, list[str]]) -> None:
        """Measure the scenarios, each on the servers that are named for it."""
        for number in range(1, rounds + 1):
            for scenario in [name for name in asked if name in ROUNDS]:
                for field in self._of(asked[scenario]):
                    await self._measure(scenario, field, number, ROUNDS[scenario](field))
        for scenario in [name for name in asked if name not in ROUNDS]:
            for field in self._of(asked[scenario]):
                await self._measure(scenario, field, 1, self._once(scenario, field))

    def _of(self, names: list[str]) -> list[Field]:
        return [field for field in self.fields if field.contender.name in names]

    async def _measure(self, scenario: str, field: Field, number: int, row: Awaitable[Row]) -> None:
        """Keep a row; one that cannot be had costs no other."""
        found: Row = {"scenario": scenario, "server": field.contender.name, "round": number}
        try:
            found |= await row
        except FAULTS as error:
            found |= {"failed": repr(error), "notes": [f"failed: {error!r}"]}
        self.rows.append(found)
        print(report.line(found), file=sys.stderr)

    async def _once(self, scenario: str, field: Field) -> Row:
        contender = field.contender
        match scenario:
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
        took = report.figures(self.rows, "crowd", name)
        return int(0.8e6 / scenarios.RATE / min(took)) if took else 100


def plan(options: argparse.Namespace) -> dict[str, list[str]]:
    """By scenario, the servers that are asked."""
    suite = SUITES[options.suite]
    servers = options.servers or suite.servers
    whole = dict.fromkeys(ROUNDS, suite.servers) | suite.once
    return {
        scenario: [
            name
            for name in servers
            if (can(CONTENDERS[name], scenario) if options.servers else name in whole.get(scenario, ()))
        ]
        for scenario in options.scenarios or whole
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    rounds = SUITES[options.suite].rounds if options.rounds is None else options.rounds
    # No round at all is only to see whether all of them work, beside whatever else goes on.
    cores = (SERVER_CORE, LOAD_CORE) if rounds else (None, None)
    async with AsyncExitStack() as stack:
        asked = provider(cores[1])
        stack.push_async_callback(asked.discard)
        await asked.start()
        this = Run(asked)
        await this.start(options.servers or SUITES[options.suite].servers, stack, cores[0])
        if rounds:
            pin(LOAD_CORE)
            await this.compare(rounds, plan(options))
        peers = {field.contender.name: versions(field.contender.site) for field in this.fields if field.contender.site}
        return {"suite": options.suite, "machine": description(), "peers": peers, "rows": this.rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(KNOWN))
    parser.add_argument("--servers", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--peers", dest="suite", action="store_const", const="peers", default="bench")
    parser.add_argument("--rounds", type=int, help="default: 3, with --peers 2; 0 only sees that every server works")
    parser.add_argument("--save", type=Path, help="where the results go if not all was run")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(KNOWN):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # Ten thousand connections are as many files, here and in the servers.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        from uvloop import run as run_loop
    except ImportError:
        from asyncio import run as run_loop
    results = run_loop(run(options))
    if options.save:
        publish.save(results, options.save)
    elif not options.scenarios and not options.servers and options.rounds != 0:
        publish.save(results, publish.RESULTS / f"{options.suite}.json")
        publish.publish()
    print(publish.text(results))


if __name__ == "__main__":
    main()
