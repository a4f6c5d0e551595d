"""The body of a request, read whole before its handler, by the deadline of its connection (``arrivals.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from threadwire.arrivals import close_behind, drop
from threadwire.errors import BadFrame, CommandError, TooLarge

#: What of a body is not there by the deadline must come at least so fast; as with Apache's mod_reqtimeout, ``MinRate``.
_MIN_BYTES_PER_SECOND = 4096


class TimedOut(CommandError):  # noqa: N818 -- the protocol's way
    """A request has not come to its end in time."""

    code = "request_timeout"
    http_status = 408


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
                drop(request)
            elif not request.content.is_eof():
                close_behind(request)
            raise TooLarge("The body is larger than server.max_message_bytes.") from None
        except web.RequestPayloadError:
            drop(request)
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
                drop(request)
                raise TimedOut("The body did not come in time (server.handshake_timeout_seconds).")
        reading.result()
    finally:
        reading.cancel()
