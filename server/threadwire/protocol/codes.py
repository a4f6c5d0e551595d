"""Close codes: why a connection ends, and whether to come back."""

from __future__ import annotations

import enum


class CloseCode(enum.IntEnum):
    """Why a connection ends, and with it whether a client should come back (see ``reconnect``)."""

    CLIENT = 1000
    GOING_AWAY = 1001
    NOT_UTF8 = 1007
    PROTOCOL_ABUSE = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    OVER_CAPACITY = 1013
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    THREAD_DELETED = 4404
    NO_CREDENTIAL = 4408
    LIMIT = 4429

    @property
    def reconnect(self) -> bool:
        """Whether a client may connect again by itself."""
        return self in _RECONNECT


_RECONNECT = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.INTERNAL,
        CloseCode.RESTART,
        CloseCode.OVER_CAPACITY,
        CloseCode.LIMIT,
    }
)
