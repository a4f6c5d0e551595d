"""What a load run is told to do; checked where it is made, sent to each worker as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from threadwire.errors import StartupError
from threadwire.load.scenario import Scenario
from threadwire.load.violations import VIOLATIONS

#: What a share of the sessions does instead of only talking; ``plain`` is what is left.
BEHAVIOURS = ("cancel", "vanish", "slow_reader", "second_tab", "idle")


@dataclass(frozen=True, slots=True)
class Options:
    """One run. Times are seconds, shares are from 0 to 1; 0 is no ramp, no thinking, no end by time."""

    url: str
    scenario: Scenario
    sessions: int = 10
    turns: int = 1
    ramp_seconds: float = 0.0
    think_seconds: float = 0.0
    #: Above 0, sessions arrive by chance at this rate, whatever the server does (an open loop).
    arrivals_per_second: float = 0.0
    duration_seconds: float = 0.0
    turn_timeout_seconds: float = 120.0
    cancel_deadline_seconds: float = 5.0
    shares: dict[str, float] = field(default_factory=dict)
    seed: int = 1
    #: Session ``n`` takes credential ``n``, around and around.
    credentials: tuple[str, ...] = ()
    ca_file: str | None = None
    insecure: bool = False
    #: Addresses to connect from; empty: the system's choice, and further loopback addresses where it runs out of ports.
    sources: tuple[str, ...] = ()
    #: Violations that are not counted.
    ignored: tuple[str, ...] = ()
    processes: int = 1

    def __post_init__(self) -> None:
        total = sum(self.shares.values())
        if total > 1.0 + 1e-9:
            raise StartupError(f"the shares of the behaviours are {total:.0%} together; 100% is all sessions")
        unknown = [name for name in self.ignored if name not in VIOLATIONS]
        if unknown:
            raise StartupError(f"--ignore {unknown[0]}: expected one of {', '.join(VIOLATIONS)}")
        if self.arrivals_per_second and not (self.duration_seconds or self.sessions):
            raise StartupError("--arrivals-per-second needs --duration or --sessions, or it would never end")

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it; ``from_json`` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Options:
        """Read what ``to_json`` gave, from a JSON text or not."""
        lists = {name: tuple(value[name]) for name in ("credentials", "sources", "ignored")}
        return cls(**{**value, **lists, "scenario": Scenario.from_json(value["scenario"])})


def behaviour_of(number: int, shares: dict[str, float], seed: int) -> str:
    """What session ``number`` does.

    Steps of the golden ratio around a circle of shares: of any run of sessions, each behaviour gets its share as evenly
    as can be, also when several processes deal out the same sessions.
    """
    place = (number * 0.6180339887498949 + seed * 0.7548776662466927) % 1.0
    for name in BEHAVIOURS:
        place -= shares.get(name, 0.0)
        if place < 0:
            return name
    return "plain"
