"""When a run is not good enough: ``--fail-if``, in words like ``first_token_p99>1.5s``, and if nothing worked; pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from threadwire.errors import StartupError
from threadwire.load import figures
from threadwire.load.recorder import LATENCIES

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "%": 0.01, "kb": 1e3, "mb": 1e6, "gb": 1e9}
_GRAMMAR = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\d+(?:\.\d+)?)\s*([a-zA-Z%]*)\s*\Z")
_LATENCY = re.compile(rf"({'|'.join(LATENCIES)})_(p50|p90|p99|p999|max)\Z")
#: What else can be asked for, and where a result has it.
_OTHERS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "errors": lambda result: sum(result["errors"].values()),
    "violations": lambda result: sum(result["violations"].values()),
    "gaps": lambda result: result["gaps"],
    "turns_failed": lambda result: result["turns"].get("failed", 0) + result["turns"].get("refused", 0),
    "sessions_failed": lambda result: result["sessions"].get("failed", 0),
    "tokens_per_second": lambda result: result["tokens_per_second"],
    "server_cpu": lambda result: result["server"]["cpu"],
    "server_memory": lambda result: result["server"]["memory_bytes_max"],
}


#: How a turn of a server that works may end.
_WORKED = ("completed", "cancelled", "interrupted")


def nothing_worked(result: dict[str, Any]) -> str | None:
    """Why the run says nothing of the server: nobody got in, or no turn came to its end. Idle ones take none."""
    sessions, turns = result["sessions"], result["turns"]
    if sessions.get("started") and not sessions["peak_connections"]:
        return "nothing worked: there was no connection"
    if any(turns.get(status) for status in _WORKED) or not (turns or sessions.get("failed")):
        return None
    return "nothing worked: no turn completed"


@dataclass(frozen=True, slots=True)
class Threshold:
    """One condition under which a run fails."""

    text: str
    name: str
    compare: str
    limit: float

    def broken_by(self, result: dict[str, Any]) -> str | None:
        """Why the run fails by it, as a sentence; None where it does not."""
        found = _value(result, self.name)
        if found is None:
            return f"{self.text}: {self.name} was not measured"
        if _COMPARE[self.compare](found, self.limit):
            shown = figures.seconds(found) if _LATENCY.match(self.name) else f"{found:,.4g}"
            return f"{self.text}: {self.name} is {shown}"
        return None


def read_threshold(text: str) -> Threshold:
    """Read one; raises ``StartupError`` that says what is expected."""
    found = _GRAMMAR.match(text)
    if found is None or found[4].lower() not in _UNITS:
        raise StartupError(f"--fail-if {text!r}: expected NAME>NUMBER, as in first_token_p99>1.5s or errors>0")
    name = found[1]
    if name not in _OTHERS and not _LATENCY.match(name):
        known = f"{', '.join(LATENCIES)} with _p50, _p90, _p99, _p999 or _max; {', '.join(_OTHERS)}"
        raise StartupError(f"--fail-if {text!r}: nothing is called {name}. There are: {known}")
    return Threshold(text, name, found[2], float(found[3]) * _UNITS[found[4].lower()])


def _value(result: dict[str, Any], name: str) -> float | None:
    if name in _OTHERS:
        return _OTHERS[name](result)
    latency, percentile = name.rsplit("_", 1)
    found: float | None = result["latency_seconds"][latency][percentile]
    return found
