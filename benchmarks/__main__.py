"""The one command: ``python -m benchmarks [SCENARIO ...] [--servers NAME ...] [--rounds N]``."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import AsyncExitStack
from typing import Any

from benchmarks import report, scenarios
from benchmarks.contenders import CONTENDERS, provider, server
from benchmarks.machine import LOAD_CORE, description, pin
from benchmarks.scenarios import Field

#: In turn; each gives one row for a server and a round.
SCENARIOS = {
    "single": scenarios.single,
    "burst": scenarios.burst,
    "crowd": lambda field: scenarios.stream(field, 100, 4.0),
}


async def compare(names: list[str], servers: list[str], rounds: int) -> list[dict[str, Any]]:
    """Run the scenarios on the servers, in turn within each round; the rows."""
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        asked = provider()
        stack.push_async_callback(asked.discard)
        await asked.start()
        fields = []
        for name in servers:
            running = server(CONTENDERS[name], asked.url)
            stack.push_async_callback(running.discard)
            field = Field(CONTENDERS[name], running, asked, os.getpid())
            try:
                await running.start()
                await scenarios.check(field)
                await scenarios.warm(field)
            except (AssertionError, RuntimeError, TimeoutError) as error:
                print(f"{name} is left out: {error!r}", file=sys.stderr)
                continue
            print(f"{name}: delivers all, and remembers", file=sys.stderr)
            fields.append(field)
        for number in range(1, rounds + 1):
            for name in names:
                for field in fields:
                    row = {"scenario": name, "server": field.contender.name, "round": number}
                    rows.append(row | await SCENARIOS[name](field))
                    print(report.line(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--servers", nargs="+", choices=CONTENDERS, default=["threadwire", "aiohttp", "floor"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(unknown)}")
    pin(LOAD_CORE)
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    rows = run(compare(options.scenarios or list(SCENARIOS), options.servers, options.rounds))
    print(report.table(rows, description()))


if __name__ == "__main__":
    main()
