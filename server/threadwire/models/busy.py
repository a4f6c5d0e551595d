"""How busy an event loop is: a provider's stream is looked at at once while there is time, and less often beyond that.

To look costs as much for one token as for many: to wait a little and find more is what lets everyone be served sooner.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: The part of its time for which a loop works: from the first on looks are spared, from the second as many as can be.
EASY, FULL = 0.1, 0.15
#: For so long it is watched before it is judged anew, in seconds.
_WATCHED = 0.25


class Busy:
    """Of one event loop; asked in its thread. Both clocks give seconds: of all time, and of that which it worked."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, worked: Callable[[], float] = time.thread_time
    ) -> None:
        self._clocks = clock, worked
        self._since, self._worked = clock(), worked()
        self._load = 0.0

    def share(self) -> float:
        """0 while there is time, up to 1."""
        clock, work = self._clocks
        if (watched := (now := clock()) - self._since) >= _WATCHED:
            worked = work()
            load = (worked - self._worked) / watched
            # Half of what was known stays, or it would swing: to put things off makes the loop less busy.
            self._load = load if watched > 4 * _WATCHED else (self._load + load) / 2
            self._since, self._worked = now, worked
        return min(1.0, max(0.0, (self._load - EASY) / (FULL - EASY)))
