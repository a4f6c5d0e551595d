"""The door: takes TCP and TLS connections, and cuts those that do not say in time what they want.

aiohttp (read in 3.14) waits for a request as long as it keeps an idle connection, an hour, asyncio a minute for a TLS
handshake, and both for ever for a body that comes a byte at a time: a few thousand such connections take all
descriptors there are. Here all of that has one deadline. Knows no route and no WebSocket.
"""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from threadwire.errors import CommandError, TooLarge

#: How long an idle connection is kept for its next request: longer than nginx (60 s) and Caddy (120 s) keep theirs, so
#: that none of them sends a request into a connection that is just being closed.
_KEEP_ALIVE_SECONDS = 130.0
#: A body must come at least so fast, beside the deadline itself; as Apache's ``RequestReadTimeout`` has a ``MinRate``.
_MIN_BYTES_PER_SECOND = 16_384
#: How many connections may wait to be accepted: those of a server's clients who all come back at once.
_BACKLOG = 2048


class TimedOut(CommandError):  # noqa: N818 -- the protocol's way
    """A request has not come to its end in time."""

    code = "request_timeout"
    http_status = 408


class _Door(web.RequestHandler):
    """One connection, from its acceptance; ``seconds`` 0: it may take its time."""

    __slots__ = ("_busy", "_cut", "_seconds")

    def __init__(self, manager: web.Server, *, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        # What is left of a body that nobody reads is waited for as long as for anything else.
        lingering = min(10.0, seconds or 10.0)
        super().__init__(
            manager, loop=loop, access_log=None, keepalive_timeout=_KEEP_ALIVE_SECONDS, lingering_time=lingering
        )
        self._seconds = seconds
        self._busy = False
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._busy and self._cut is None and self.transport is not None:
            # The beginning of one more request, on a connection that was kept.
            self._expect(self.transport)

    def begin(self) -> None:
        """The head of a request is whole."""
        self._busy = True
        self._stop()

    def end(self) -> None:
        """The request is answered."""
        self._busy = False

    def drop(self) -> None:
        """Read nothing more of the body."""
        self._lingering_time = 0.0

    def _expect(self, transport: asyncio.BaseTransport) -> None:
        if self._seconds and isinstance(transport, asyncio.Transport):
            self._cut = self._loop.call_later(self._seconds, transport.abort)

    def _stop(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None


class Listener(web.BaseSite):
    """A listening socket, whose connections have ``seconds`` for each request's head; 0: no limit."""

    __slots__ = ("_address", "_seconds")

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        *,
        seconds: float,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context, backlog=_BACKLOG)
        self._address = (host, port)
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
            lambda: _Door(server, seconds=self._seconds, loop=loop),
            host,
            port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=self._seconds or None if self._ssl_context else None,
        )


def in_time(seconds: float, max_bytes: int) -> Middleware:
    """What tells a connection that it has a request, and reads its body, of at most ``max_bytes``; 0 is no limit.

    Behind it, handlers find the body read.

    Raises:
        TooLarge: the body is too large, also once it is unpacked.
        TimedOut: it does not come.
    """

    @web.middleware
    async def arrive(request: web.Request, handler: Handler) -> web.StreamResponse:
        door = request.protocol
        if isinstance(door, _Door):
            door.begin()
        try:
            if request.body_exists:
                await _read(request, seconds, max_bytes)
            return await handler(request)
        finally:
            if isinstance(door, _Door):
                door.end()

    return arrive


async def _read(request: web.Request, seconds: float, max_bytes: int) -> None:
    size = request.content_length
    if size is None or 0 < max_bytes < size:
        size = max_bytes
    try:
        async with asyncio.timeout(seconds + size / _MIN_BYTES_PER_SECOND if seconds else None):
            await request.read()
    except web.HTTPRequestEntityTooLarge:
        _drop_packed(request)
        raise TooLarge("The body is larger than server.max_message_bytes.") from None
    except TimeoutError:
        raise TimedOut("The body did not come in time (server.handshake_timeout_seconds).") from None


def _drop_packed(request: web.Request) -> None:
    """Do not even unpack the rest of a body that is packed: a megabyte of it may be a gigabyte."""
    if request.headers.get("Content-Encoding") and isinstance(request.protocol, _Door):
        request.protocol.drop()
