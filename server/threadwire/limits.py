"""Rates and caps. Pure: the clock is an argument."""

from __future__ import annotations

from collections import deque


class Rate:
    """At most ``limit`` times within any ``seconds``."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        # No more than are needed to know: the oldest of the last ``limit + 1``.
        self._times: deque[float] = deque(maxlen=limit + 1)

    def exceeded(self, now: float) -> bool:
        """Count one more, at ``now`` (seconds, of a clock that only goes forward); whether it was one too many."""
        self._times.append(now)
        return len(self._times) > self._limit and now - self._times[0] <= self._seconds
