"""Who may run now, and who is next: so many at once, so many of one user, the others in line. Pure.

The line is fair between users, not between turns: each user with something waiting has one turn of a round, so that
somebody's fiftieth waits behind everybody's first. Within a user's own the order is that of coming.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable


class Place:
    """A place in the line; ``granted`` once it is this one's time. ``Line.leave`` gives it back, in both cases."""

    __slots__ = ("granted", "user", "wake")

    def __init__(self, user: str, wake: Callable[[], None]) -> None:
        self.user = user
        self.granted = False
        #: Called when it is granted after having waited.
        self.wake = wake


class Line:
    """The line of one server. A limit of 0 is none.

    Args:
        at_once: How many places are granted at a time.
        of_one_user: How many of them to one user.
    """

    def __init__(self, at_once: int = 0, of_one_user: int = 0) -> None:
        self._at_once = at_once
        self._of_one_user = of_one_user
        self._granted = 0
        self._running: dict[str, int] = {}
        self._waiting: dict[str, deque[Place]] = {}
        # Those who wait and have not as much as one user may: the first is next.
        self._round: OrderedDict[str, None] = OrderedDict()

    @property
    def running(self) -> int:
        """How many places are granted."""
        return self._granted

    def __len__(self) -> int:
        """How many wait."""
        return sum(len(places) for places in self._waiting.values())

    def join(self, user: str, wake: Callable[[], None]) -> Place:
        """Get in line; the place is granted at once where nobody has to be waited for."""
        place = Place(user, wake)
        self._waiting.setdefault(user, deque()).append(place)
        self._enter_round(user)
        if self._granted < self._at_once or not self._at_once:
            self._advance(but=place)
        return place

    def leave(self, place: Place) -> None:
        """Go: the place is free for the next, or is given up while it waits. Once for each place."""
        user = place.user
        if place.granted:
            self._granted -= 1
            self._running[user] -= 1
            if not self._running[user]:
                del self._running[user]
            self._enter_round(user)
        else:
            self._waiting[user].remove(place)
            self._leave_round(user)
        self._advance()

    def position(self, place: Place) -> int:
        """How many places will be granted up to this one, itself included, if nobody comes or goes; 0: it is granted.

        A user who has as many as one may have can wait for longer: those who are behind go first meanwhile.
        """
        if place.granted:
            return 0
        own = self._waiting[place.user].index(place)
        found, before = own + 1, True
        for user in self._round:
            if user == place.user:
                before = False
            else:
                found += min(len(self._waiting[user]), own + before)
        return found

    def _advance(self, but: Place | None = None) -> None:
        granted = []
        while self._round and not 0 < self._at_once <= self._granted:
            user, _ = self._round.popitem(last=False)
            place = self._waiting[user].popleft()
            place.granted = True
            self._granted += 1
            self._running[user] = self._running.get(user, 0) + 1
            self._leave_round(user)
            self._enter_round(user)
            granted.append(place)
        for place in granted:
            # Each may get back in line from its call.
            if place is not but:
                place.wake()

    def _enter_round(self, user: str) -> None:
        if user in self._waiting and not 0 < self._of_one_user <= self._running.get(user, 0):
            self._round.setdefault(user)

    def _leave_round(self, user: str) -> None:
        if not self._waiting[user]:
            del self._waiting[user]
            self._round.pop(user, None)
