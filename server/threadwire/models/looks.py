"""How often the stream of a provider is looked at: at once while there is time, in steps while there is little.

To look costs more than what is found: a wake-up, a read, a write for each token of each session. Where the loop has
nothing to spare, the socket is left alone for up to 37 ms, and what came meanwhile is read in one; streams that are due
at nearly the same time are read one after the other, by code that is still warm. Nobody sees it: text still comes 25
times a second, and the first word of an answer at once.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from math import ceil

from threadwire.busy import Busy

#: Seconds between two looks at one stream, at most.
LONGEST = 0.0375
#: Looks are taken at multiples of this, in seconds.
TICK = 0.005
#: A piece of so many bytes has many tokens in it.
ENOUGH = 4096


class Grid:
    """The moments at which streams are looked at again: one timer for all that are due at one."""

    def __init__(self) -> None:
        self._due: dict[int, list[Looks]] = {}

    def put_off(self, looks: Looks, seconds: float) -> None:
        """Look again in so many seconds, or a little later."""
        loop = asyncio.get_running_loop()
        tick = ceil((loop.time() + seconds) / TICK)
        waiting = self._due.get(tick)
        if waiting is None:
            waiting = self._due[tick] = []
            # Of no run: reading goes on in the context in which it is taken up.
            loop.call_at(tick * TICK, self._come, tick, context=Context())
        waiting.append(looks)

    def _come(self, tick: int) -> None:
        for looks in self._due.pop(tick):
            looks.again()


class Looks:
    """At one stream, on one connection."""

    def __init__(self, busy: Busy, grid: Grid, transport: asyncio.Transport) -> None:
        self._busy = busy
        self._grid = grid
        self._transport = transport
        self._put_off = False

    def took(self, piece: bytes) -> bool:
        """That was found, and more is to come: leave the socket alone for a while, if there is much else to do.

        Returns whether there is.
        """
        share = self._busy.share()
        if share and len(piece) < ENOUGH and not self._put_off and not self._transport.is_closing():
            self._transport.pause_reading()
            self._put_off = True
            self._grid.put_off(self, (LONGEST - TICK) * share)
        return bool(share)

    def again(self) -> None:
        """It is time; or the connection is given back, which others will read from."""
        if self._put_off:
            self._put_off = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
