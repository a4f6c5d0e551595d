"""One connection after another, as long as coming back can help. The only module that touches a WebSocket.

Knows frames only as far as it must: ``ready`` begins a connection, ``goaway`` announces its end.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeAlias

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType

from threadwire.client.backoff import ABNORMAL, delay, may_reconnect
from threadwire.client.buffer import number_of
from threadwire.client.errors import Disconnected
from threadwire.errors import ThreadwireError
from threadwire.protocol import CloseCode, Frame, GoawayFrame, ReadyFrame, decode_frame

logger = logging.getLogger("threadwire.client")

State: TypeAlias = Literal["connecting", "live", "reconnecting", "closed"]

#: Missed heartbeats after which a silent connection counts as lost.
HEARTBEATS = 2.5
#: A connection that lived this long was a good one: the next loss starts the backoff anew.
GOOD_SECONDS = 10.0
#: RFC 6455: the other side said something that cannot be understood.
PROTOCOL_ERROR = 1002


class Listener(Protocol):
    """Who uses a link. Its methods do not wait."""

    def on_frame(self, frame: Frame) -> None:
        """A frame came; the first of each connection is ``ready``."""

    def on_lost(self, error: Disconnected) -> None:
        """The connection is gone; another one is being tried."""

    def on_closed(self, error: Disconnected) -> None:
        """That was the last connection."""


class Link:
    """Connects, reads, writes, and connects again.

    Attributes:
        state: Where it is; see ``State``.
        gate: Nothing is read while it is clear.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[ClientWebSocketResponse]],
        listener: Listener,
        *,
        max_reconnects: int | None,
        open_timeout: float,
    ) -> None:
        self.state: State = "connecting"
        self.gate = asyncio.Event()
        self.gate.set()
        self._connect = connect
        self._listener = listener
        self._max_reconnects = max_reconnects
        self._open_timeout = open_timeout
        self._socket: ClientWebSocketResponse | None = None
        self._outbox: asyncio.Queue[str] | None = None
        self._failures = 0
        self._goaway: float | None = None
        self._reattaching = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._run(), name="threadwire-client")

    def write(self, text: str) -> None:
        """Send on this connection; nothing happens where there is none (see ``Commands.repeat``)."""
        if self._outbox is not None:
            self._outbox.put_nowait(text)

    async def reattach(self) -> None:
        """Give up this connection for a new one at once. Its close code is one that leaves our runs alone."""
        if self._socket is not None:
            self._reattaching = True
            await self._socket.close(code=CloseCode.GOING_AWAY)

    async def close(self) -> None:
        """Close with 1000 and wait until everything has ended."""
        self._closing = True
        self.gate.set()
        if self._socket is not None and self.state == "live":
            await self._socket.close(code=CloseCode.CLIENT)
        elif self._task is not None:
            self._task.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        error = Disconnected(CloseCode.CLIENT, "closed by this client")
        try:
            while True:
                loss = await self._one_connection()
                if self._closing:
                    return
                if not self._worth_another(loss):
                    error = loss
                    return
                self.state = "reconnecting"
                self._listener.on_lost(loss)
                if not self._reattaching:
                    await asyncio.sleep(self._next_delay(loss))
                self._reattaching = False
        except Exception as bug:
            logger.exception("the client's connection failed")
            error = Disconnected(ABNORMAL, f"the client failed: {bug!r}")
        finally:
            self.state = "closed"
            self._listener.on_closed(error)

    def _worth_another(self, loss: Disconnected) -> bool:
        if self.state == "connecting":
            # The first attempt tells at once that an address or a credential is wrong.
            return False
        if self._reattaching:
            return True
        limit = self._max_reconnects
        return may_reconnect(loss.code, loss.http_status) and (limit is None or self._failures < limit)

    def _next_delay(self, loss: Disconnected) -> float:
        announced, self._goaway = self._goaway, None
        chance = random.random()  # noqa: S311 -- jitter
        seconds = delay(self._failures, chance, code=loss.code, http_status=loss.http_status, announced=announced)
        self._failures += 1
        logger.info("connection lost (%s), next attempt in %.2f s", loss, seconds)
        return seconds

    async def _one_connection(self) -> Disconnected:
        try:
            async with asyncio.timeout(self._open_timeout):
                socket = await self._connect()
        except aiohttp.WSServerHandshakeError as refused:
            why = f"the server refused the upgrade with HTTP {refused.status}"
            return Disconnected(ABNORMAL, why, http_status=refused.status)
        except TimeoutError:
            return Disconnected(ABNORMAL, f"no connection within {self._open_timeout:g} s")
        except (aiohttp.ClientError, OSError) as failed:
            return Disconnected(ABNORMAL, str(failed) or type(failed).__name__)
        loop = asyncio.get_running_loop()
        since = loop.time()
        outbox = asyncio.Queue[str]()
        writer = asyncio.create_task(_write(socket, outbox), name="threadwire-client-writer")
        self._socket = socket
        try:
            return await self._read(socket, outbox)
        finally:
            self._socket = self._outbox = None
            writer.cancel()
            await asyncio.wait([writer])
            if not socket.closed:
                await socket.close(code=CloseCode.CLIENT if self._closing else CloseCode.GOING_AWAY)
            if loop.time() - since > GOOD_SECONDS:
                self._failures = 0

    async def _read(self, socket: ClientWebSocketResponse, outbox: asyncio.Queue[str]) -> Disconnected:
        patience: float | None = self._open_timeout
        while True:
            try:
                # aiohttp starts the time anew with each of the server's pings.
                message = await socket.receive(patience)
            except TimeoutError:
                return Disconnected(ABNORMAL, f"the server was silent for {patience:g} s")
            if message.type is WSMsgType.CLOSE:
                # aiohttp by itself would answer any close with 1000, as if this client had asked for it.
                await socket.close(code=max(message.data, CloseCode.CLIENT))
                return Disconnected(message.data, message.extra or "")
            if message.type is WSMsgType.ERROR and isinstance(message.data, aiohttp.WebSocketError):
                return Disconnected(message.data.code, str(message.data))
            if message.type is not WSMsgType.TEXT:
                return Disconnected(ABNORMAL, "the connection was lost")
            try:
                frame = decode_frame(message.data)
            except ThreadwireError as unreadable:
                await socket.close(code=PROTOCOL_ERROR)
                return Disconnected(PROTOCOL_ERROR, f"a frame this client cannot read: {unreadable}")
            if isinstance(frame, ReadyFrame):
                patience = frame.heartbeat_seconds * HEARTBEATS or None
                self.state, self._outbox = "live", outbox
            self._note(frame)
            self._listener.on_frame(frame)
            await self.gate.wait()

    def _note(self, frame: Frame) -> None:
        if isinstance(frame, GoawayFrame):
            self._goaway = frame.reconnect_after_seconds
        elif number_of(frame) is not None:
            # Progress: whatever broke the connections before, it let this through.
            self._failures = 0


async def _write(socket: ClientWebSocketResponse, outbox: asyncio.Queue[str]) -> None:
    while True:
        text = await outbox.get()
        try:
            await socket.send_str(text)
        except (aiohttp.ClientError, OSError):
            # The reader sees the same loss, with its reason.
            return
