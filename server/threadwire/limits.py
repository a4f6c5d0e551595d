"""Rates and caps. Pure: the clock is an argument, and memory is bounded however many keys come.

A key is whoever is counted: a user, an address. Times are seconds of a clock that only goes forward.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address, ip_network

#: Keys that one limit remembers. Beyond it the one that was quiet for longest is forgotten, which is to its advantage:
#: whoever comes from a million addresses makes the limit looser, not the memory larger.
MAX_KEYS = 100_000
#: What an IPv6 host has to itself: it may take another address of it for each request.
_IPV6_PREFIX = 64
_DAY_SECONDS = 86_400


class Rate:
    """At most ``limit`` times within any ``seconds``."""

    __slots__ = ("_limit", "_seconds", "_times")

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        # No more than are needed to know: the oldest of the last ``limit + 1``. Made with the first: most have none.
        self._times: deque[float] | None = None

    def exceeded(self, now: float) -> bool:
        """Count one more, at ``now`` (seconds, of a clock that only goes forward); whether it was one too many."""
        times = self._times
        if times is None:
            times = self._times = deque(maxlen=self._limit + 1)
        times.append(now)
        return len(times) > self._limit and now - times[0] <= self._seconds


class Rates:
    """A bucket for each key: ``limit`` at once, filled again evenly within ``seconds``; a limit of 0 is none.

    As GCRA, the leaky bucket of ATM networks: of each key only the moment is kept at which its bucket is full again,
    and a full bucket is no news.
    """

    def __init__(self, limit: float, seconds: float, max_keys: int = MAX_KEYS) -> None:
        self._seconds = seconds
        self._each = seconds / limit if limit else 0.0
        # A limit below one a period lets one through all the same.
        self._room = max(seconds, self._each)
        self._max_keys = max_keys
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable, now: float) -> float:
        """Take one out of the key's bucket: 0.0; or, where it is empty, nothing: the seconds until it is not."""
        if wait := self.wait(key, now):
            return wait
        if self._each:
            self._full_at[key] = max(now, self._full_at.get(key, now)) + self._each
            self._full_at.move_to_end(key)
            self._forget(now)
        return 0.0

    def wait(self, key: Hashable, now: float) -> float:
        """The seconds until one can be taken; nothing is."""
        if not self._each or (full_at := self._full_at.get(key)) is None:
            return 0.0
        wait = max(now, full_at) + self._each - now - self._room
        # The bucket holds what `_room` brings; a little less than one is one, to a clock of floats.
        if wait <= 1e-9 * self._room:
            return 0.0
        # Whoever keeps asking is not the one to be forgotten.
        self._full_at.move_to_end(key)
        return wait

    def _forget(self, now: float) -> None:
        # Two at most for each one that comes: no call is slow, and what is full does not pile up.
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._max_keys:
                return
            del self._full_at[oldest]
            if not self._full_at:
                return

    def __len__(self) -> int:
        """How many keys it remembers."""
        return len(self._full_at)


class Counts:
    """How many of a kind each key holds, at most ``limit``; 0 is no limit. It remembers those that hold any."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Hashable, int] = {}

    def take(self, key: Hashable) -> bool:
        """One more for the key; False where it has as many as it may, and nothing is taken."""
        held = self._held.get(key, 0)
        if 0 < self._limit <= held:
            return False
        self._held[key] = held + 1
        return True

    def give(self, key: Hashable) -> None:
        """One of the key's is gone."""
        held = self._held.pop(key) - 1
        if held:
            self._held[key] = held

    def __len__(self) -> int:
        """How many keys hold any."""
        return len(self._held)


def address_key(address: str) -> str:
    """Whom an address stands for: an IPv4 address itself, of IPv6 its network of 64 bits; what is neither, itself."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((int(found), _IPV6_PREFIX), strict=False).network_address)
    return str(found)


def day_of(at: float) -> int:
    """The day (UTC, counted from the epoch) of a time in seconds since the epoch."""
    return int(at // _DAY_SECONDS)


def seconds_left(at: float) -> float:
    """How long that day still goes on."""
    return _DAY_SECONDS - at % _DAY_SECONDS
