"""What a generating process counts, second by second. The hot path adds to it and does nothing else.

Latencies are counted as ``{microseconds: how often}``: handed over each second, merged and put into HdrHistograms by
the ``Ledger`` of the process that shows them, so that percentiles over several processes are true ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from threadwire.load.violations import KEPT_EXPLANATIONS

#: What is timed, in the order it is told.
LATENCIES = ("connect", "ack", "first_token", "gap", "turn", "cancel", "reconnect")
#: Inter-token gaps are counted in steps of this many microseconds: there are many of them, and they differ little.
GAP_STEP = 50


class Recorder:
    """Counters of one process since the last ``take``, and gauges of now.

    Attributes:
        gaps: How often each gap came, in steps of ``GAP_STEP``; the hot path adds to it by itself.
    """

    def __init__(self, ignored: tuple[str, ...] = ()) -> None:
        self._ignored = frozenset(ignored)
        self.gaps: defaultdict[int, int] = defaultdict(int)
        self.tokens = 0
        self.frames = 0
        self.bytes = 0
        self.usage_tokens = 0
        #: Connections that are open, and turns that are under way, now.
        self.connections = 0
        self.turns = 0
        #: The most connections that were open at the same time since the last ``take``.
        self.peak = 0
        #: How late the process was at its own appointments, in seconds, at worst.
        self.lag = 0.0
        self._latencies: dict[str, defaultdict[int, int]] = {}
        self._errors: Counter[str] = Counter()
        self._violations: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._explanations: dict[str, list[str]] = {}
        self._explained: Counter[str] = Counter()

    def connected(self) -> None:
        """One more connection is open."""
        self.connections += 1
        self.peak = max(self.peak, self.connections)

    def latency(self, name: str, seconds: float) -> None:
        """Something took that long."""
        found = self._latencies.get(name)
        if found is None:
            found = self._latencies[name] = defaultdict(int)
        found[max(0, int(seconds * 1e6))] += 1

    def error(self, code: str) -> None:
        """The server refused or failed something; no promise is broken by it."""
        self._errors[code] += 1

    def violation(self, name: str, explanation: str) -> None:
        """A promise was broken."""
        if name in self._ignored:
            return
        self._violations[name] += 1
        if self._explained[name] < KEPT_EXPLANATIONS:
            self._explained[name] += 1
            self._explanations.setdefault(name, []).append(explanation)

    def count(self, name: str) -> None:
        """Something happened: ``sessions_started``, ``turns_completed`` and so on."""
        self._counts[name] += 1

    def take(self) -> dict[str, Any]:
        """All that was counted since the last time, as JSON can hold it."""
        latencies = {name: list(found.items()) for name, found in self._latencies.items()}
        if self.gaps:
            latencies["gap"] = [(steps * GAP_STEP, count) for steps, count in self.gaps.items()]
        taken = {
            "latencies": latencies,
            "tokens": self.tokens,
            "frames": self.frames,
            "bytes": self.bytes,
            "usage_tokens": self.usage_tokens,
            "connections": self.connections,
            "peak": self.peak,
            "turns": self.turns,
            "lag": self.lag,
            "errors": dict(self._errors),
            "violations": dict(self._violations),
            "counts": dict(self._counts),
            "explanations": self._explanations,
        }
        self.gaps.clear()
        self._latencies, self._explanations = {}, {}
        self._errors, self._violations, self._counts = Counter(), Counter(), Counter()
        self.tokens = self.frames = self.bytes = self.usage_tokens = 0
        self.lag = 0.0
        self.peak = self.connections
        return taken
