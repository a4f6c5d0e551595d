"""How busy an event loop is: what can be put off for some milliseconds is, where the loop has no time to spare.

Much costs as much for one as for many: to look at a provider's stream, to commit. At once is best while there is time;
beyond that, to wait a little and do more at once is what lets everyone be served sooner.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: The part of its time for which a loop works: from the first on it has to do with things, at the second it is full.
EASY, FULL = 0.2, 0.4
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
