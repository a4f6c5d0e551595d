"""A TCP proxy that does to a line what networks do: it cuts, stalls, trickles, and goes dead without a word.

It knows neither WebSocket nor HTTP but for where a request begins (``GET``, ``POST``): that is where the next of its
``faults`` is taken, so that each connection of a chat and each request to a provider has its own, also where several
requests share a line. What a fault lets through is counted in bytes, so most of them strike in the middle of a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from yarl import URL

from harness import eventually

Kind = Literal["reset", "close", "freeze", "deaf", "mute", "stall", "trickle", "say"]

#: What is read at once. Small, with a small receive buffer, so that a slow client is slow for the server too.
PIECE_BYTES = 4096


@dataclass(frozen=True)
class Fault:
    """What happens to an answer once ``after`` bytes of it have been let through.

    ======= ======================================================================================
    reset   both ends are reset
    close   both ends are closed in an orderly way
    freeze  half-open: nothing passes any more, neither end hears of the other's going
    deaf    what the client says is lost, what the server says passes
    mute    the other way round
    stall   nothing comes for ``seconds``, then all of it
    trickle from there on ``piece`` bytes pass at a time, with a break of ``seconds``; reset after ``lasts`` bytes
    say     ``said`` comes instead of the rest, and the line is closed behind it
    ======= ======================================================================================
    """

    do: Kind
    after: int = 0
    seconds: float = 0
    piece: int = 16
    lasts: int = 1 << 60
    said: bytes = b""


class _Line:
    """One connection through the proxy."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._server: asyncio.StreamWriter | None = None
        self._fault: Fault | None = None
        self._passed = 0
        self._deaf = self._mute = False
        #: It went dead; both ends may still hold it.
        self.frozen = False
        self._thawed = asyncio.Event()
        self.client_left = asyncio.Event()
        self._server_left = asyncio.Event()

    async def given_up(self) -> None:
        """Wait until a client and a server that heard nothing for long have both closed their end."""
        await self.client_left.wait()
        self._thawed.set()
        await self._server_left.wait()

    async def run(self) -> None:
        """Pass on both ways, until one side ends it."""
        try:
            server, self._server = await asyncio.open_connection(sock=await self._proxy.dial(), limit=PIECE_BYTES)
            pumps = [asyncio.create_task(self._ask(self._reader)), asyncio.create_task(self._answer(server))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                if self.frozen:
                    await asyncio.wait(pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self.end(hard=False)

    def end(self, *, hard: bool) -> None:
        """Close both ends; ``hard``: reset them."""
        for end in (self._writer, self._server):
            if end is not None and hard:
                end.transport.abort()
                self._thawed.set()
            elif end is not None:
                end.close()

    async def _ask(self, reader: asyncio.StreamReader) -> None:
        """The client's direction."""
        assert self._server is not None
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(PIECE_BYTES):
                if data.startswith((b"GET ", b"POST ")):
                    self._fault, self._passed = self._proxy.take(), 0
                if not (self.frozen or self._deaf):
                    self._server.write(data)
                    await self._server.drain()
        self.client_left.set()

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        """The server's direction."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(PIECE_BYTES):
                fault = self._fault
                if fault is not None and self._passed + len(data) > fault.after:
                    left = max(0, fault.after - self._passed)
                    await self._pass_on(data[:left])
                    await self._strike(fault)
                    data = data[left:]
                await self._pass_on(data)
        self._server_left.set()

    async def _pass_on(self, data: bytes) -> None:
        self._passed += len(data)
        fault = self._fault
        if self._mute or self.frozen:
            return
        if fault is not None and fault.do == "trickle" and self._passed > fault.after:
            if self._passed > fault.after + fault.lasts:
                self.end(hard=True)
                raise ConnectionResetError
            for start in range(0, len(data), fault.piece):
                self._writer.write(data[start : start + fault.piece])
                await self._writer.drain()
                await asyncio.sleep(fault.seconds)
        else:
            self._writer.write(data)
            await self._writer.drain()

    async def _strike(self, fault: Fault) -> None:
        if fault.do != "trickle":
            self._fault = None
        elif self._passed > fault.after:
            return
        self._proxy.struck[fault.do] += 1
        if fault.do == "stall":
            await asyncio.sleep(fault.seconds)
        elif fault.do in ("reset", "close"):
            self.end(hard=fault.do == "reset")
            raise ConnectionResetError
        elif fault.do == "say":
            self._writer.write(fault.said)
            await self._writer.drain()
            raise ConnectionResetError
        elif fault.do == "freeze":
            self.frozen = True
            # Nobody reads what the server says from now on.
            await self._thawed.wait()
        elif fault.do == "deaf":
            self._deaf = True
        elif fault.do == "mute":
            self._mute = True


class FaultProxy:
    """Between whoever connects to ``url`` and one server.

    Attributes:
        faults: What happens to the requests to come, each its own; None (and when they are used up) is nothing.
        struck: How many of each kind there were.
        frozen: The lines that went dead, while both ends may still hold them.
    """

    def __init__(self, url: str) -> None:
        target = URL(url)
        assert target.host is not None
        assert target.port is not None
        self.host, self.port = target.host, target.port
        self.url = ""
        self.faults: Iterator[Fault | None] = iter(())
        self.struck: Counter[Kind] = Counter()
        self._lines: dict[asyncio.Task[None], _Line] = {}

    @property
    def frozen(self) -> list[_Line]:
        return [line for line in self._lines.values() if line.frozen]

    def plan(self, *faults: Fault | None) -> None:
        """Let these happen to the next requests."""
        self.faults = iter(faults)

    def take(self) -> Fault | None:
        return next(self.faults, None)

    async def strikes(self, times: int) -> None:
        """Wait until so many faults have struck."""
        await eventually(lambda: self.struck.total() >= times, "a fault strikes")

    def cut(self) -> None:
        """Reset every line, at both ends."""
        for line in self._lines.values():
            line.end(hard=True)

    async def dial(self) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        try:
            await asyncio.get_running_loop().sock_connect(made, (self.host, self.port))
        except BaseException:
            made.close()
            raise
        return made

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines[task] = line = _Line(self, reader, writer)
        try:
            with contextlib.suppress(ConnectionError):
                await line.run()
        finally:
            line.end(hard=False)
            del self._lines[task]

    async def close(self) -> None:
        """Reset every line and wait until all have ended."""
        self.cut()
        if self._lines:
            await asyncio.wait(list(self._lines))


@asynccontextmanager
async def fault_proxy(url: str) -> AsyncIterator[FaultProxy]:
    """A proxy to the server at ``url``, on a free port; it has no faults yet."""
    proxy = FaultProxy(url)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=PIECE_BYTES)
    proxy.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()
        await listener.wait_closed()
