"""Whether to connect again after a loss, and how long to wait before; pure.

Full jitter (AWS, "Exponential Backoff And Jitter"): when a server restarts, all its clients lose it in the
same second, and only randomness over the whole interval keeps them from coming back in one.
"""

from __future__ import annotations

from threadwire.protocol import CloseCode

FIRST_SECONDS = 0.25
MAX_SECONDS = 10.0
#: A server that is full, or a user over a limit, is helped by nobody who asks again at once.
FIRST_SECONDS_WHEN_REFUSED = 4.0
MAX_SECONDS_WHEN_REFUSED = 60.0

#: No close frame came: RFC 6455's code for it.
ABNORMAL = 1006

_LATER = frozenset({CloseCode.OVER_CAPACITY, CloseCode.LIMIT})
#: RFC 6455's codes for a peer that cannot understand us; PROTOCOL_ABUSE and the like are in ``CloseCode``.
_MISUNDERSTOOD = frozenset({1002, 1003, 1010})


def may_reconnect(code: int, http_status: int | None = None) -> bool:
    """Whether coming back can help.

    Of a refused upgrade, 5xx and 429 are worth another try (a proxy answers 502 while its server restarts).
    Of close codes, those that the protocol says; of codes it does not know, those below 4000 that are no
    misunderstanding.
    """
    if http_status is not None:
        return http_status >= 500 or http_status == 429
    try:
        return CloseCode(code).reconnect
    except ValueError:
        return code < 4000 and code not in _MISUNDERSTOOD


def delay(failures: int, chance: float, *, code: int, http_status: int | None, announced: float | None) -> float:
    """Seconds to wait before the next attempt.

    ``failures`` counts the attempts since the last progress, ``chance`` is a random number from 0 to 1. A
    delay that the server announced (``goaway``) is already jittered and is taken as it is.
    """
    if announced is not None:
        return announced
    doubled = float(1 << min(failures, 16))
    if code in _LATER or http_status in (429, 503):
        interval = min(MAX_SECONDS_WHEN_REFUSED, FIRST_SECONDS_WHEN_REFUSED * doubled)
        return interval / 2 + chance * interval / 2
    return chance * min(MAX_SECONDS, FIRST_SECONDS * doubled)
