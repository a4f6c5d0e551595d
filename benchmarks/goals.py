"""What was promised, and whether a run has found it to be so."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.report import Rows, figures, found

TUTORIAL = "the tutorial aiohttp server's"


def table(rows: Rows) -> list[str]:
    """In Markdown; only what the run has measured."""
    measured = [(text, value, at_most) for text, value, at_most in _goals(rows) if value is not None]
    lines = [
        f"| {text} | {value:.3g} | {'reached' if value <= at_most else '**not reached**'} |"
        for text, value, at_most in measured
    ]
    return ["| goal | found | |", "|---|---|---|", *lines] if lines else []


def _goals(rows: Rows) -> Iterator[tuple[str, float | None, float]]:
    """What, what was found, and the most it may be."""

    def ratio(scenario: str, other: str) -> float | None:
        ours, theirs = figures(rows, scenario, "threadwire"), figures(rows, scenario, other)
        return statistics.median(ours) / statistics.median(theirs) if ours and theirs else None

    yield f"100 sessions: at most 1/3 of {TUTORIAL} CPU per token", ratio("crowd", "aiohttp"), 1 / 3
    for peer in CONTENDERS.values():
        if peer.folder:
            yield f"100 sessions: at most 1/5 of {peer.title}'s", ratio("crowd", peer.name), 1 / 5
    yield "100 sessions: at most 4 times the bare relay's (2: the dream)", ratio("crowd", "floor"), 4
    yield f"1 x 2,000, no delay: at most 1/5 of {TUTORIAL}", ratio("single", "aiohttp"), 1 / 5
    yield f"50 x 200, no delay: at most 1/5 of {TUTORIAL}", ratio("burst", "aiohttp"), 1 / 5
    yield "200 sessions: added delay p99, at most 50 ms", _ours(rows, "two_hundred", "delay_ms", "p99"), 50
    yield "200 sessions: first token p99, at most 150 ms", _ours(rows, "two_hundred", "first_ms", "p99"), 150
    yield "10,000 idle connections: memory, at most 1.5 times a bare WebSocket's", ratio("idle", "floor"), 1.5
    took = _ours(rows, "idle", "connect_ms")
    yield "connecting: the ten-thousandth, in times the first", took and took["last"] / took["first"], 1.5
    yield "a thread's age: CPU of turn 1,000, at most 2 times turn 10", _ours(rows, "age", "growth"), 2
    yield "first answered request, at most 1.5 times the imports alone", _ours(rows, "start", "ratio"), 1.5
    yield "`threadwire --help`, at most 0.3 s", _ours(rows, "start", "seconds", "help"), 0.3


def _ours(rows: Rows, scenario: str, *path: str) -> Any:
    """A figure of threadwire's own row; None where there is none."""
    for row in found(rows, scenario, "threadwire"):
        value: Any = row
        for name in path:
            value = value[name]
        # No token came in time to have a figure.
        return math.inf if value is None else value
    return None
