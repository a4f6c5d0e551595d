"""Tickets: what a browser takes along when it connects, instead of its token, which would stand in logs as an address.

Each is good once, for half a minute, and is its user's. Kept in memory, by a hash; the clock is an argument.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque

from threadwire.auth import Grant

#: How long one is good.
TICKET_SECONDS = 30
#: Tickets of one user that wait to be used; the oldest goes for one more.
MAX_TICKETS = 100


class Tickets:
    """Those that were given out and not used yet."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[Grant, float]] = {}
        self._of: dict[str, deque[bytes]] = {}

    def issue(self, grant: Grant, now: float) -> str:
        """A new one for a user; ``now`` in seconds of any clock that is also given to ``redeem``."""
        for key, (_, until) in list(self._waiting.items()):
            if until > now:  # they stand in the order they were given
                break
            self._take(key)
        ticket = secrets.token_urlsafe(32)
        of_user = self._of.setdefault(grant.user.owner, deque())
        if len(of_user) >= MAX_TICKETS:
            del self._waiting[of_user.popleft()]
        of_user.append(_key(ticket))
        self._waiting[_key(ticket)] = grant, now + TICKET_SECONDS
        return ticket

    def redeem(self, ticket: str, now: float) -> Grant | None:
        """What it stands for, once; None where it is unknown, used or old."""
        key = _key(ticket)
        if key not in self._waiting:
            return None
        grant, until = self._take(key)
        return grant if now < until else None

    def __len__(self) -> int:
        return len(self._waiting)

    def _take(self, key: bytes) -> tuple[Grant, float]:
        found = self._waiting.pop(key)
        owner = found[0].user.owner
        self._of[owner].remove(key)
        if not self._of[owner]:
            del self._of[owner]
        return found


def _key(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
