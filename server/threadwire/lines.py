"""A response of frames, one a line (NDJSON), to a client that may go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from threadwire.errors import TooLarge
from threadwire.protocol import decode_object, encode

#: How often a stream that has nothing to send looks whether its client is still there. aiohttp tells a handler of a
#: lost client only by cancelling it, for all routes or none, and a WebSocket's must not be cut between two frames.
LOOK_SECONDS = 0.1
_HEADERS = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body, a JSON object; raises ``BadFrame`` or ``TooLarge``."""
    try:
        return decode_object(await request.read())
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge("The body is larger than server.max_message_bytes.") from None


class Lines:
    """The response to one request; ``open`` sends its head."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers=_HEADERS)

    async def open(self) -> None:
        """Begin; from here on no status can be told."""
        await self.response.prepare(self._request)

    async def write(self, frame: dict[str, Any]) -> None:
        """Send one frame. Raises ``ConnectionError`` once the client has gone."""
        await self.write_encoded(encode(frame))

    async def write_encoded(self, data: bytes) -> None:
        """Send one frame that is encoded already."""
        await self.response.write(data + b"\n")

    def look(self) -> None:
        """Raise ``ConnectionResetError`` where the client has gone."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError


@asynccontextmanager
async def watched_lines(request: web.Request, gone: Callable[[], None]) -> AsyncIterator[Lines]:
    """A response whose client is watched: ``gone`` is called when it has left, and writing to it is no error then."""
    lines = Lines(request)
    await lines.open()
    watching = asyncio.create_task(_watch(lines, gone))
    try:
        yield lines
        await lines.response.write_eof()
    except ConnectionError:
        gone()
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def _watch(lines: Lines, gone: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            lines.look()
        except ConnectionResetError:
            gone()
            return
