"""How often the stream of a provider is looked at: at once while there is time, in steps while there is little.

To look costs more than what is found: a wake-up, a read, a write for each token of each session. Where the loop has
nothing to spare, the socket is left alone for up to 40 ms, and what came meanwhile is read in one; streams that are due
at nearly the same time are read one after the other, by code that is still warm. Nobody sees it: text still comes 25
times a second, and the first word of an answer at once.
"""

from __future__ import annotations

import asyncio
from math import ceil

from threadwire.busy import Busy

#: Seconds between two looks at one stream, at most.
LONGEST = 0.04
#: Looks are taken at multiples of this, in seconds.
TICK = 0.01
#: A piece of so many bytes has many tokens in it.
ENOUGH = 4096


class Looks:
    """At one stream, on one connection."""

    def __init__(self, busy: Busy, transport: asyncio.Transport) -> None:
        self._busy = busy
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.TimerHandle | None = None

    def took(self, piece: bytes) -> None:
        """That was found, and more is to come: leave the socket alone for a while, if there is much else to do."""
        share = self._busy.share()
        if share and len(piece) < ENOUGH and self._next is None and not self._transport.is_closing():
            self._transport.pause_reading()
            due = self._loop.time() + (LONGEST - TICK) * share
            self._next = self._loop.call_at(ceil(due / TICK) * TICK, self.again)

    def again(self) -> None:
        """It is time; or the connection is given back, which others will read from."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
            if not self._transport.is_closing():
                self._transport.resume_reading()
