"""All that a run has measured: totals, and one row for each second.

Fed with what recorders ``take``; asked for the result that ``--json`` writes and that all who show it read.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from hdrh.histogram import HdrHistogram

from threadwire.load.recorder import LATENCIES
from threadwire.load.violations import KEPT_EXPLANATIONS, VIOLATIONS

#: A latency is told to three digits, from a microsecond to an hour.
_LOWEST, _HIGHEST, _DIGITS = 1, 3_600_000_000, 3
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
#: What is told of each second: few numbers, since there are many seconds.
_IN_ROWS = {"first_token": ("p50", "p99"), "gap": ("p50", "p99"), "turn": ("p50",), "ack": ("p99",)}
#: A generator whose processes use more of their core than this, or come later than that, measures itself.
BUSY_SHARE = 0.9
LATE_SECONDS = 0.1
#: In so many of the seconds, before it is said.
_OFTEN = 0.1


class Ledger:
    """One run's book."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.violations: Counter[str] = Counter(dict.fromkeys(VIOLATIONS, 0))
        self.explanations: dict[str, list[str]] = {}
        self.tokens = self.frames = self.bytes = self.usage_tokens = 0
        self.rows: list[dict[str, Any]] = []
        self.peak_connections = 0
        self._histograms = {name: _histogram() for name in LATENCIES}
        self._since: dict[str, HdrHistogram] = {}
        self._second: Counter[str] = Counter()
        self._gauges: dict[int, tuple[int, int]] = {}
        #: Of each worker, the most connections of this second.
        self._peaks: Counter[int] = Counter()
        self._lag = 0.0
        self._began = self._last = time.monotonic()

    def add(self, taken: dict[str, Any], worker: int = 0) -> None:
        """Enter what one worker counted."""
        for name, values in taken["latencies"].items():
            since = self._since.setdefault(name, _histogram())
            for microseconds, count in values:
                held = min(max(microseconds, _LOWEST), _HIGHEST)
                self._histograms[name].record_value(held, count)
                since.record_value(held, count)
        for name in ("tokens", "frames", "bytes", "usage_tokens"):
            setattr(self, name, getattr(self, name) + taken[name])
            self._second[name] += taken[name]
        for name in ("errors", "violations"):
            getattr(self, name).update(taken[name])
            self._second[name] += sum(taken[name].values())
        self.counts.update(taken["counts"])
        for name, found in taken["explanations"].items():
            kept = self.explanations.setdefault(name, [])
            kept += found[: KEPT_EXPLANATIONS - len(kept)]
        self._gauges[worker] = taken["connections"], taken["turns"]
        self._peaks[worker] = max(self._peaks[worker], taken["peak"])
        self._lag = max(self._lag, taken["lag"])

    def close_second(self, watched: dict[str, Any]) -> dict[str, Any]:
        """End a row, with what was ``watched`` beside it: the server's and the generator's cpu and memory."""
        now = time.monotonic()
        seconds = max(now - self._last, 1e-3)
        connections = sum(found for found, _ in self._gauges.values())
        self.peak_connections = max(self.peak_connections, self._peaks.total())
        self._peaks = Counter({worker: found for worker, (found, _) in self._gauges.items()})
        row: dict[str, Any] = {
            "at": round(now - self._began, 2),
            "connections": connections,
            "turns": sum(found for _, found in self._gauges.values()),
            "tokens_per_second": round(self._second["tokens"] / seconds, 1),
            "frames_per_second": round(self._second["frames"] / seconds, 1),
            "errors": self._second["errors"],
            "violations": self._second["violations"],
            "lag": round(self._lag, 4),
            **watched,
        }
        for name, percentiles in _IN_ROWS.items():
            histogram = self._since.get(name)
            for percentile in percentiles:
                row[f"{name}_{percentile}"] = _percentile(histogram, percentile) if histogram else None
        self.rows.append(row)
        self._since, self._second, self._lag, self._last = {}, Counter(), 0.0, now
        return row

    def latencies(self) -> dict[str, dict[str, Any]]:
        """The percentiles of each latency, in seconds; None where nothing was counted."""
        return {name: _summary(histogram) for name, histogram in self._histograms.items()}

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return self._last - self._began

    def bottleneck(self, processes: int) -> str | None:
        """Why the figures tell of the generator and not of the server, where they do."""
        rows = self.rows
        busy = [row for row in rows if (row.get("generator_cpu") or 0) > BUSY_SHARE * processes]
        late = [row for row in rows if row["lag"] > LATE_SECONDS]
        often = max(1, round(len(rows) * _OFTEN))
        if len(busy) >= often:
            return f"it used more than {BUSY_SHARE:.0%} of its core in {len(busy)} of {len(rows)} seconds"
        if len(late) >= often:
            return f"it was more than {LATE_SECONDS * 1000:g} ms late in {len(late)} of {len(rows)} seconds"
        return None


def _histogram() -> HdrHistogram:
    return HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)


def _percentile(histogram: HdrHistogram, name: str) -> float:
    return float(histogram.get_value_at_percentile(PERCENTILES[name])) / 1e6


def _summary(histogram: HdrHistogram) -> dict[str, Any]:
    count = int(histogram.total_count)
    if not count:
        return {**dict.fromkeys((*PERCENTILES, "max")), "count": 0}
    found = {name: _percentile(histogram, name) for name in PERCENTILES}
    return {**found, "max": float(histogram.get_max_value()) / 1e6, "count": count}
