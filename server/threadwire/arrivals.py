"""The door: takes TCP and TLS connections, and cuts those that do not say in time what they want.

aiohttp (read in 3.14) waits for a request as long as it keeps an idle connection, an hour, asyncio a minute for a TLS
handshake, and both for ever for a body that comes a byte at a time: a few thousand such connections take all
descriptors there are. Here all of that has one deadline, an address has so many connections, whatever they are for, and
where descriptors become few, those that are only kept for a next request go first. Knows no route and no WebSocket.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler

from threadwire.limits import Counts, address_key

#: How long an idle connection is kept for its next request: longer than nginx (60 s) and Caddy (120 s) keep theirs, so
#: that none of them sends a request into a connection that is just being closed.
_KEEP_ALIVE_SECONDS = 130.0
#: Bytes read at once that say that there are more.
_MUCH = 60_000
#: How many connections may wait to be accepted: those of a server's clients who all come back at once.
_BACKLOG = 2048
#: How a head, and a body in chunks, end.
_END = b"\r\n\r\n"


class _Crowd:
    """The open connections of a site.

    ``per_address`` (0: no limit) is for each peer that ``trusted`` does not know; ``most`` (None: no limit) for all.
    """

    def __init__(self, per_address: int, trusted: Callable[[str], bool], most: int | None) -> None:
        self._of_addresses = Counts(per_address)
        self._trusted = trusted
        self._most = most
        self._open: dict[_Arrival, str | None] = {}
        #: Those that may be kept for a next request, the one that is so for longest first.
        self.idle: dict[_Arrival, None] = {}

    def enter(self, arrival: _Arrival, peer: str) -> bool:
        """One more; False where its address has too many. Where all are too many, an idle one goes for it."""
        place = None if self._trusted(peer) else address_key(peer)
        if place is not None and not self._of_addresses.take(place):
            return False
        self._open[arrival] = place
        if self._most is not None and len(self._open) > self._most:
            longest = next((one for one in self.idle if one.waits), None)
            if longest is not None:
                # Its end is told a little later.
                self.leave(longest)
                longest.force_close()
        return True

    def leave(self, arrival: _Arrival) -> None:
        """It is gone, or as good as gone; a second time does nothing."""
        self.idle.pop(arrival, None)
        if arrival in self._open and (place := self._open.pop(arrival)) is not None:
            self._of_addresses.give(place)


class _Arrival(web.RequestHandler):
    """One connection, from its acceptance; ``seconds`` 0: it may take its time."""

    __slots__ = ("_busy", "_crowd", "_cut", "_last", "_seconds", "closing")

    def __init__(self, manager: web.Server, crowd: _Crowd, *, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        # What is left of a body that nobody reads is waited for as long as for anything else.
        lingering = min(10.0, seconds or 10.0)
        super().__init__(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            lingering_time=lingering,
        )
        self._crowd = crowd
        self._seconds = seconds
        self._busy = False
        #: Of what was received, the last bytes.
        self._last = b""
        #: Whether the answer is the last on this connection.
        self.closing = False
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if self._crowd.enter(self, peer[0] if peer else ""):
            self._expect(transport)
        else:
            cast(asyncio.Transport, transport).abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop()
        self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._upgraded:
            self._last = (self._last + data[-len(_END) :])[-len(_END) :]
        if len(data) > _MUCH:
            self._take_turns()
        if not self._busy and self._cut is None and self.transport is not None:
            # The beginning of one more request, on a connection that was kept.
            self._expect(self.transport)

    def _take_turns(self) -> None:
        """Let the others be read before there is more from this one.

        libuv reads a socket up to 32 times in a row: frames of no length would keep everybody waiting for a second.
        """
        if self.transport is not None and not self._reading_paused and not self._buffer_paused:
            self._pause_transport_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Refuse what is no HTTP as all else is; aiohttp would log a traceback, of a client that has gone as well."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionResetError
        body = {"error": {"code": "bad_request", "message": "That is not HTTP as this server speaks it."}}
        # The request is taken for one of HTTP/1.0, where aiohttp does not say that it closes.
        response = web.json_response(body, status=status, headers={"Connection": "close"})
        response.force_close()
        return response

    def begin(self) -> None:
        """The head of a request is whole."""
        self._busy = True
        self._stop()
        self._crowd.idle.pop(self, None)

    def end(self, *, sized: bool) -> None:
        """The request is answered; ``sized``: it had a body of a length that it told."""
        self._busy = False
        if self.transport is None or self._upgraded:
            return
        if not sized and self._last != _END:
            # The beginning of the next one has come already, behind it. Behind a sized body that cannot be seen: then
            # the connection is kept as an idle one.
            self._expect(self.transport)
        else:
            self._crowd.idle[self] = None

    @property
    def waits(self) -> bool:
        """Whether all it was asked is answered."""
        return self._waiter is not None and not self._waiter.done()

    def drop(self) -> None:
        """Read nothing more of the body."""
        self._lingering_time = 0.0
        self.closing = True

    def _expect(self, transport: asyncio.BaseTransport) -> None:
        self._crowd.idle.pop(self, None)
        if self._seconds:
            self._stop()
            self._cut = self._loop.call_later(self._seconds, cast(asyncio.Transport, transport).abort)

    def _stop(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None


class Site(web.BaseSite):
    """A listening socket, whose connections have ``seconds`` for each request's head; 0: no limit.

    ``per_address``, ``trusted`` and ``most``: as ``_Crowd`` has them.
    """

    __slots__ = ("_address", "_crowd", "_seconds")

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        *,
        seconds: float,
        per_address: int = 0,
        trusted: Callable[[str], bool] = lambda _: False,
        most: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context, backlog=_BACKLOG)
        self._address = (host, port)
        self._crowd = _Crowd(per_address, trusted, most)
        self._seconds = seconds

    @property
    def name(self) -> str:
        """Where it listens."""
        return "{}://{}:{}".format("https" if self._ssl_context else "http", *self._address)

    async def start(self) -> None:
        """Listen. Raises ``OSError``."""
        await super().start()
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert isinstance(server, web.Server)  # noqa: S101 -- the runner is set up
        host, port = self._address
        self._server = await loop.create_server(
            lambda: _Arrival(server, self._crowd, seconds=self._seconds, loop=loop),
            host,
            port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=self._seconds or None if self._ssl_context else None,
        )


@web.middleware
async def begin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection that it has a whole head, and when that is answered."""
    arrival = request.protocol
    if not isinstance(arrival, _Arrival):
        return await handler(request)
    arrival.begin()
    try:
        return await handler(request)
    finally:
        arrival.end(sized=bool(request.content_length))


async def last(request: web.Request, response: web.StreamResponse) -> None:
    """On an answer that is about to be sent: say where it is the last one."""
    if isinstance(request.protocol, _Arrival) and request.protocol.closing:
        response.force_close()
        response.headers["Connection"] = "close"


def close_behind(request: web.Request) -> None:
    """The answer to this request will be the last of its connection."""
    if isinstance(request.protocol, _Arrival):
        request.protocol.closing = True


def drop(request: web.Request) -> None:
    """Read nothing more of the request's body."""
    if isinstance(request.protocol, _Arrival):
        request.protocol.drop()
