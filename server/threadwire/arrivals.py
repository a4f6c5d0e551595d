"""The door: takes TCP and TLS connections, and cuts those that do not say in time what they want.

aiohttp (read in 3.14) waits for a request as long as it keeps an idle connection, an hour, asyncio a minute for a TLS
handshake, and both for ever for a body that comes a byte at a time: a few thousand such connections take all
descriptors there are. Here all of that has one deadline. Knows no route and no WebSocket.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from threadwire.errors import BadFrame, CommandError, TooLarge

#: How long an idle connection is kept for its next request: longer than nginx (60 s) and Caddy (120 s) keep theirs, so
#: that none of them sends a request into a connection that is just being closed.
_KEEP_ALIVE_SECONDS = 130.0
#: What of a body is not there by the deadline must come at least so fast; as with Apache's mod_reqtimeout, ``MinRate``.
_MIN_BYTES_PER_SECOND = 4096
#: Bytes read at once that say that there are more.
_MUCH = 60_000
#: How many connections may wait to be accepted: those of a server's clients who all come back at once.
_BACKLOG = 2048


class TimedOut(CommandError):  # noqa: N818 -- the protocol's way
    """A request has not come to its end in time."""

    code = "request_timeout"
    http_status = 408


class _Arrival(web.RequestHandler):
    """One connection, from its acceptance; ``seconds`` 0: it may take its time."""

    __slots__ = ("_busy", "_cut", "_seconds")

    def __init__(self, manager: web.Server, *, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        # What is left of a body that nobody reads is waited for as long as for anything else.
        lingering = min(10.0, seconds or 10.0)
        super().__init__(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            lingering_time=lingering,
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
        response = web.json_response(body, status=status)
        response.force_close()
        return response

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
        if self._seconds:
            self._cut = self._loop.call_later(self._seconds, cast(asyncio.Transport, transport).abort)

    def _stop(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None


class Site(web.BaseSite):
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
            lambda: _Arrival(server, seconds=self._seconds, loop=loop),
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
        arrival.end()


def body_in_time(seconds: float) -> Middleware:
    """What reads a body for whatever handler comes behind; 0 seconds: it may take its time.

    Raises:
        TooLarge: the body is larger than the application takes, packed or unpacked.
        TimedOut: it does not come.
        BadFrame: it is broken.
    """

    @web.middleware
    def read(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        # No coroutine of its own where there is nothing to read: a WebSocket would keep it for as long as it is open.
        return read_first(request, handler) if request.body_exists else handler(request)

    async def read_first(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            await _read(request, seconds)
        except web.HTTPRequestEntityTooLarge:
            if request.headers.get("Content-Encoding"):
                # Not even unpacked: what is left of it may be a thousand times as much.
                _drop(request)
            raise TooLarge("The body is larger than server.max_message_bytes.") from None
        except web.RequestPayloadError:
            _drop(request)
            raise BadFrame("The body cannot be read: it is not packed or cut into chunks as it says.") from None
        return await handler(request)

    return read


async def _read(request: web.Request, seconds: float) -> None:
    if request.content.is_eof() or not seconds:
        await request.read()
        return
    loop = asyncio.get_running_loop()
    began = loop.time()
    reading = loop.create_task(request.read())
    try:
        while not (await asyncio.wait({reading}, timeout=seconds))[0]:
            if request.content.total_bytes < _MIN_BYTES_PER_SECOND * (loop.time() - began):
                _drop(request)
                raise TimedOut("The body did not come in time (server.handshake_timeout_seconds).")
        reading.result()
    finally:
        reading.cancel()


def _drop(request: web.Request) -> None:
    if isinstance(request.protocol, _Arrival):
        request.protocol.drop()
