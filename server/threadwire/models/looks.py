"""How often the stream of a provider is looked at: at each piece while there is time, at several while there is little.

To look costs more than what is found: a wake-up, a read, a write for each token of each session. Where the loop has
much to do, the kernel is asked to tell of a socket once so many bytes have come (``SO_RCVLOWAT``), as many as the
stream brings within 65 ms, counted in whole events: of a model that says 50 tokens a second three are read in one, the
first of them 40 ms after it came, and of one that says 15 each is read at once, since to wait would save nothing. What
comes later than expected, or is less than that at the end, is read after 70 ms at the latest. The first word of an
answer is read at once, and so is all that is left when the provider has closed.

Only on Linux (4.18 and later): elsewhere what has come may be left lying when the mark is taken back.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from contextvars import Context

from threadwire.models.busy import Busy

#: Seconds for which what has come is left alone, at most.
LONGEST = 0.07
#: What comes regularly is to be there so many seconds before that.
SLACK = 0.005
#: The pace of a stream is judged anew after so many events; at first sooner, since the first two may come by chance.
JUDGED = 12
#: So many bytes are worth a look, however quickly they come.
ENOUGH = 4096
#: What each event has; where a text has it too, the stream is read a little more often.
EVENT = b"data:"
#: What OpenAI's streams end with: little comes after it, and the connection is given back when that has.
DONE = b"[DONE]"


class Looks:
    """At one stream, on one connection."""

    def __init__(self, busy: Busy, transport: asyncio.Transport) -> None:
        self._busy = busy
        self._transport = transport
        self._socket = transport.get_extra_info("socket") if sys.platform == "linux" else None
        # So many bytes are to come before the loop hears of them: as the pace has it, and as the kernel was told.
        self._wanted = self._told = 1
        self._looked = 0.0
        # The stretch in which the pace is judged: its begin, and what came in it.
        self._since = 0.0
        self._events = self._bytes = 0
        # How many events it takes.
        self._enough = 1
        self._timer: asyncio.TimerHandle | None = None

    def took(self, piece: bytes) -> bool:
        """That was found, and more is to come: leave the rest alone until it is worth a look, if there is much to do.

        Returns whether there is.
        """
        share = self._busy.share()
        if not share or DONE in piece[-32:]:
            self.leave()
            return bool(share)
        self._looked = now = time.monotonic()
        if not self._since:
            # How long this piece was on its way is not known.
            self._since = now
            return True
        self._events += piece.count(EVENT)
        self._bytes += len(piece)
        if self._events >= self._enough:
            self._judge(share, now - self._since)
            self._since, self._events, self._bytes = now, 0, 0
            self._enough = min(JUDGED, 3 * self._enough)
        if self._wanted != self._told:
            self._tell(self._wanted)
        if self._told > 1 and self._timer is None:
            self._see_to_it(LONGEST)
        return True

    def leave(self) -> None:
        """All there is is wanted as it comes; others may read from the connection."""
        self._wanted, self._since, self._events, self._bytes, self._enough = 1, 0.0, 0, 0, 1
        self._tell(1)

    def _judge(self, share: float, seconds: float) -> None:
        """How many events come in the time there is; to wait for half of the last one's bytes is to wait for it."""
        many = int((LONGEST - SLACK) * share * self._events / max(seconds, 1e-6))
        wanted = min(ENOUGH, int((many - 0.5) * self._bytes / self._events)) if many > 1 else 1
        if not 0.9 * wanted < self._wanted < 1.1 * wanted:
            self._wanted = wanted

    def _tell(self, least: int) -> None:
        if least != self._told and self._socket is not None and not self._transport.is_closing():
            try:
                # Where there is as much already, this wakes the loop.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            except (OSError, ValueError):  # closed meanwhile: uvloop's has a negative descriptor then
                self._socket = None
            else:
                self._told = least

    def _see_to_it(self, seconds: float) -> None:
        # Of no run: this is for whatever is read next.
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late, context=Context())

    def _late(self) -> None:
        self._timer = None
        if self._told == 1:
            return
        if (left := self._looked + LONGEST - time.monotonic()) > 0.001:
            self._see_to_it(left)
        else:
            # Until the next look.
            self._tell(1)
