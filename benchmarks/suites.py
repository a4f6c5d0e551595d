"""Which servers are asked for what, in a run of everything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks import scenarios
from benchmarks.contenders import Contender
from benchmarks.dialects import ThreadwireDialect, WebSocketDialect
from benchmarks.scenarios import Field, Row

#: In each round on each server, in turn.
ROUNDS: dict[str, Callable[[Field], Awaitable[Row]]] = {
    "single": scenarios.single,
    "burst": scenarios.burst,
    "turn": scenarios.turn,
    "crowd": scenarios.crowd,
}


@dataclass(frozen=True)
class Suite:
    """Attributes:
    once: After the rounds, by scenario: which of the servers.
    """

    servers: tuple[str, ...]
    rounds: int
    once: dict[str, tuple[str, ...]]


SUITES = {
    "bench": Suite(
        servers=("threadwire", "stock", "aiohttp", "fastapi", "floor"),
        rounds=3,
        once={
            "two_hundred": ("threadwire", "floor"),
            "capacity": ("threadwire", "aiohttp", "fastapi", "floor"),
            "idle": ("threadwire", "aiohttp", "fastapi", "floor"),
            "age": ("threadwire",),
            "start": ("threadwire",),
        },
    ),
    # Takes longer, so there are fewer rounds, and no figures of threadwire's alone.
    "peers": Suite(
        servers=("threadwire", "aiohttp", "langgraph", "langgraph_ws", "chainlit", "ag_ui", "floor"),
        rounds=2,
        once={
            "capacity": ("threadwire", "aiohttp", "langgraph", "langgraph_ws", "chainlit", "ag_ui", "floor"),
            "idle": ("threadwire", "aiohttp", "langgraph_ws", "chainlit", "floor"),
        },
    ),
}
KNOWN = (*ROUNDS, *SUITES["bench"].once)
#: Between two turns only a WebSocket is an idle connection; the other two turn threadwire's own knobs.
NEEDS: dict[str, type] = {"idle": WebSocketDialect, "age": ThreadwireDialect, "start": ThreadwireDialect}


def can(contender: Contender, scenario: str) -> bool:
    """Whether a scenario means something for a server, where it was asked for by name."""
    return issubclass(contender.dialect, NEEDS.get(scenario, object))
