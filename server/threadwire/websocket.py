"""A WebSocket that ends well: aiohttp's, with the heartbeat and the closing handshake done here.

aiohttp (read in 3.14) closes the TCP connection right behind its close frame. A client that is still sending then gets
a reset, by which it may lose the frame whose code tells it not to come back (a message that is too large would be sent
again and again), and a client that does not read keeps the socket open for as long as it likes. A missed heartbeat ends
there without a close frame. Knows no thread and no protocol but RFC 6455.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from threadwire.tally import Tally

#: Of a response that was a WebSocket: its close code.
CLOSE_CODE = web.ResponseKey("close_code", int)
#: How long a client has to read what is left for it, and to answer a close, before it is cut off.
CLOSE_SECONDS = 5.0
#: How often a connection that only waits for its client's end looks for it.
_LOOK_SECONDS = 0.05
#: What asyncio lets wait for a socket that does not take it, before sending waits.
_USUAL_BYTES = 65_536
#: Pings and pongs of one client that are taken before the others have their turn.
_BEATS_AT_ONCE = 64
#: What a client may say in a close frame and we may not repeat (RFC 6455, 7.4.1); 0 is aiohttp's for no code at all.
_NOT_FOR_THE_WIRE = frozenset({0, 1005, 1006, 1015})


class _Response(web.WebSocketResponse):
    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:  # noqa: ARG002
        """Do nothing: aiohttp calls this by itself on broken frames and at the handler's end."""
        return False


class WebSocket:
    """One connection's socket. ``on_beat(alive)`` is called every ``heartbeat_seconds`` (0: never).

    Beyond ``buffered_bytes`` of what its client has not taken, or what is usual where that is less, sending waits.
    """

    __slots__ = (
        "_beat_handle",
        "_buffered_bytes",
        "_cut_handle",
        "_heard",
        "_heartbeat_seconds",
        "_max_message_bytes",
        "_on_beat",
        "_said_close",
        "_tally",
        "_transport",
        "_wrote",
        "close_code",
        "response",
    )

    def __init__(
        self,
        *,
        protocol: str,
        heartbeat_seconds: float,
        max_message_bytes: int,
        buffered_bytes: int,
        on_beat: Callable[[bool], None],
        tally: Tally,
    ) -> None:
        self.response = _Response(
            protocols=(protocol,),
            autoclose=False,
            autoping=False,
            # aiohttp refuses a message of exactly its limit.
            max_msg_size=max_message_bytes + 1 if max_message_bytes else 0,
            # Deflate costs memory and time per socket and gains little on frames of a few words.
            compress=False,
            writer_limit=min(buffered_bytes or _USUAL_BYTES, _USUAL_BYTES),
        )
        self._buffered_bytes = buffered_bytes
        self._max_message_bytes = max_message_bytes
        #: The code of the close frame that was sent or received first; None while it is open, or was lost.
        self.close_code: int | None = None
        self._heartbeat_seconds = heartbeat_seconds
        self._on_beat = on_beat
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._beat_handle: asyncio.TimerHandle | None = None
        self._cut_handle: asyncio.TimerHandle | None = None
        self._heard = self._wrote = True
        self._said_close = False

    async def open(self, request: web.Request) -> None:
        """Upgrade. Raises ``web.HTTPBadRequest`` where the request is none, ``ConnectionError`` where it is gone."""
        await self.response.prepare(request)
        # They are sent.
        self.response.headers.clear()
        self._transport = request.transport
        if self._transport is not None and 0 < self._buffered_bytes < _USUAL_BYTES:
            self._transport.set_write_buffer_limits(self._buffered_bytes)
        self._wait_a_beat()

    async def send(self, data: bytes) -> None:
        """Send one text message; waits while the client does not read. Raises ``ConnectionError``."""
        await self.response.send_frame(data, WSMsgType.TEXT)
        self._tally.sent_bytes += len(data)
        self._wrote = True

    async def ping(self) -> None:
        """Ask the client for a sign of life."""
        await self.response.send_frame(b"", WSMsgType.PING)

    async def receive(self) -> WSMessage:
        """The next ``TEXT`` or ``BINARY`` message, or of another type: the end. Pings are answered here."""
        beats = 0
        while True:
            message: WSMessage = await self.response.receive()
            self._heard = True
            if message.type is WSMsgType.PING:
                if not self._said_close:
                    await self.response.pong(message.data)
            elif message.type is not WSMsgType.PONG:
                if message.type is WSMsgType.TEXT:
                    self._tally.received_bytes += len(message.data.encode())
                return message
            beats += 1
            if beats % _BEATS_AT_ONCE == 0:
                # As long as there are more, neither reading nor answering waits for anything.
                await asyncio.sleep(0)

    # --- the end ----------------------------------------------------------------------------------

    async def send_close(self, code: int, reason: str = "") -> None:
        """Say that this is the end; the client's own close comes by ``receive``."""
        self.cut_off_later()
        if self._said_close:
            return
        self._said_close = True
        if self.close_code is None:
            self.close_code = code
        with suppress(ConnectionError):
            payload = struct.pack("!H", code) + reason.encode()[:123]
            await self.response.send_frame(payload, WSMsgType.CLOSE)

    async def close(self, code: int, reason: str = "") -> None:
        """Say that this is the end and wait for the client's answer; what else it says is dropped."""
        await self.send_close(code, reason)
        while (message := await self.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            pass
        await self.part(message)

    async def part(self, last: WSMessage) -> None:
        """Do what the last thing received asks for: answer a close, tell of a broken frame."""
        if last.type is WSMsgType.CLOSE:
            if self.close_code is None:
                self.close_code = last.data
            await self.send_close(_echo(last.data))
        elif isinstance(last.data, WebSocketError):
            await self.send_close(last.data.code, self.why_broken(last.data))
            await self._until_gone()

    def why_broken(self, error: WebSocketError) -> str:
        """The reason of the close that a broken frame gets."""
        if error.code == WSCloseCode.MESSAGE_TOO_BIG:
            # aiohttp's own names the limit that it was given, which is one more.
            return f"a message is larger than server.max_message_bytes: {self._max_message_bytes}"
        return str(error)

    def cut_off_later(self) -> None:
        """Give the client ``CLOSE_SECONDS`` more."""
        if self._cut_handle is None and self._transport is not None:
            loop = asyncio.get_running_loop()
            self._cut_handle = loop.call_later(CLOSE_SECONDS, self._transport.abort)

    def release(self) -> None:
        """Stop the clocks; the socket goes once what it holds is sent, or soon."""
        if self._beat_handle is not None:
            self._beat_handle.cancel()
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size():
            self.cut_off_later()
        elif self._cut_handle is not None:
            self._cut_handle.cancel()

    async def _until_gone(self) -> None:
        """After a broken frame aiohttp drops what the client sends: only the end of it all can still be seen."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            with suppress(OSError, RuntimeError):
                transport.write_eof()
            while not transport.is_closing():  # noqa: ASYNC110 -- nothing but the transport tells of it
                await asyncio.sleep(_LOOK_SECONDS)

    # --- the heartbeat ----------------------------------------------------------------------------

    def _wait_a_beat(self) -> None:
        if self._heartbeat_seconds:
            loop = asyncio.get_running_loop()
            self._beat_handle = loop.call_later(self._heartbeat_seconds, self._beat)

    def _beat(self) -> None:
        # Behind a full buffer a ping cannot be answered yet; then what the client takes out of it is its sign of life.
        waiting: Any = self._transport.get_write_buffer_size() if self._transport is not None else 0
        alive = self._heard or (self._wrote and waiting > 0)
        self._heard = self._wrote = False
        self._on_beat(alive)
        if alive:
            self._wait_a_beat()


def _echo(code: int) -> int:
    """The code that answers a client's close: its own, where that may be said (RFC 6455, 7.4)."""
    if code in _NOT_FOR_THE_WIRE:
        return 1000
    return code if code < 5000 else 1002
