"""When the tokens of a simulated answer are due; pure, the clock is the caller's."""

from __future__ import annotations

from threadwire.models.script import Answer


class Pace:
    """When deltas are due: a schedule from the start, so that late wake-ups do not add up.

    All times are seconds on the caller's monotonic clock.
    """

    #: Deltas handed out at once at most; between them the caller gives way to others.
    BURST = 32

    __slots__ = ("_burst", "_first", "_interval")

    def __init__(self, answer: Answer, start: float) -> None:
        self._first = start + answer.first_token_ms / 1000
        self._burst = answer.burst
        #: Between two bursts.
        self._interval = answer.burst / answer.tokens_per_second if answer.tokens_per_second > 0 else 0.0

    def wait(self, index: int, now: float) -> float:
        """Seconds until delta ``index`` is due; 0 if it is."""
        return max(0.0, self._first + index // self._burst * self._interval - now)

    def due(self, index: int, now: float) -> int:
        """How many deltas may go out now, from ``index`` on, which is due: from 1 to ``BURST``."""
        if not self._interval:
            return self.BURST
        bursts = max(index // self._burst, int((now - self._first) / self._interval)) + 1
        return min(self.BURST, bursts * self._burst - index)
