"""What a server counts while it works: plain numbers, added to where things happen and read by ``metrics.py``.

One ``Tally`` for each server. Adding costs well under a microsecond, and what comes with each token is not counted at
all: of tokens a few in a second are timed, one after another (``Probe``). Knows no names of metrics and no library.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

#: Seconds. What a loop or a disk does, what a token takes through us, what a model takes, and a person waits.
_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: So many models are counted by name; a graph that names them freely must not make a metric for each.
MAX_MODELS = 50
OTHER_MODELS = "other"
#: A token that no socket has taken so long after it came has no reader, or one that does not read.
_GIVEN_UP_SECONDS = 30.0
_MAX_UNDER_WAY = 100


class Histogram:
    """How often something took how long, in seconds."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """It took so long, once."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[float, int]]:
        """How many took at most so long, by the upper bound; the last has no bound and counts all."""
        return list(zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True))


class Probe:
    """One token at a time, timed from where its model handed it over to where a socket has taken it.

    ``arm`` lets the next one that comes be timed, of whatever run.
    """

    __slots__ = ("_at", "armed", "chunk", "delays", "under_way")

    def __init__(self) -> None:
        self.delays = Histogram(_SHORT)
        #: Whether the next token is to be timed; looked at for each.
        self.armed = False
        #: LangChain's chunk that is on its way through the graph's events; None: none is.
        self.chunk: Any = None
        self._at = 0.0
        #: What is told and not taken yet, by thread: the number of its frame, and when it came.
        self.under_way: dict[str, tuple[int, float]] = {}

    def arm(self) -> None:
        """Time the next one."""
        self.armed, self.chunk = True, None
        if self.under_way:
            late = time.monotonic() - _GIVEN_UP_SECONDS
            self.under_way = {thread: found for thread, found in self.under_way.items() if found[1] > late}

    def came(self, chunk: Any) -> None:
        """A model has handed this over."""
        self.armed, self.chunk, self._at = False, chunk, time.monotonic()

    def told(self, thread_id: str, seq: int) -> None:
        """It stands in its thread's log, under that number; 0: it is not for readers."""
        self.chunk = None
        if seq and len(self.under_way) < _MAX_UNDER_WAY:
            self.under_way.setdefault(thread_id, (seq, self._at))

    def passed(self, thread_id: str, position: int) -> None:
        """A socket has taken all up to that number of its thread's log."""
        found = self.under_way.get(thread_id)
        if found is not None and position >= found[0]:
            del self.under_way[thread_id]
            self.delays.add(time.monotonic() - found[1])


class Tally:
    """All that one server has counted since it started."""

    def __init__(self) -> None:
        #: Connections that have ended, by close code; 1006: cut off without one.
        self.closed: Counter[int] = Counter()
        self.sent_bytes = 0
        self.received_bytes = 0
        #: Runs that have ended, by status and reason.
        self.runs: Counter[tuple[str, str]] = Counter()
        #: By model, and whether they went in or came out.
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.gaps = 0
        self.journal_bytes = 0
        #: Runs that were given up, and those of them that are still alive.
        self.abandoned = 0
        self.haunting = 0
        self.probe = Probe()
        self.first_token = Histogram(_LONG)
        self.stopped = Histogram(_LONG)
        self.checkpoint_write = Histogram(_SHORT)
        self.journal_write = Histogram(_SHORT)
        self.loop_lag = Histogram(_SHORT)
        self._models: set[str] = set()

    def ended(self, status: str, reason: str | None) -> None:
        """A run has."""
        self.runs[status, reason or ""] += 1

    def used(self, usage: Mapping[str, tuple[int, int]]) -> None:
        """Models have taken in and given out so many tokens, by their names."""
        for model, (into, out) in usage.items():
            if model not in self._models and len(self._models) < MAX_MODELS:
                self._models.add(model)
            name = model if model in self._models else OTHER_MODELS
            self.tokens[name, "input"] += into
            self.tokens[name, "output"] += out
