"""What the tests of resilience stand on: a server in a process of its own, its memory, and somebody who just talks."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Self

import aiohttp
import pytest

from harness import DEADLINE, Socket, eventually
from process import ServerProcess

MIB = 1024 * 1024
HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
)


class Target:
    """A server process and what it holds."""

    def __init__(self, process: ServerProcess, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.served = process.served(session)
        self.port = int(process.url.rpartition(":")[2])

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return self.process.memory("VmRSS")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))  # noqa: PTH208

    async def open(self, *, receive_buffer: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A plain TCP connection to it."""
        plain = socket.socket()
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        return await asyncio.open_connection(sock=plain, limit=65536)

    async def upgrade(self, query: str = "", headers: bytes = b"", *, receive_buffer: int | None = None) -> Upgraded:
        """A WebSocket of plain bytes; its ``ready`` is not read."""
        reader, writer = await self.open(receive_buffer=receive_buffer)
        key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        writer.write(HEAD.replace(b"/ws", b"/ws?" + query.encode()) + key + headers + b"\r\n")
        async with asyncio.timeout(DEADLINE):
            head = await reader.readuntil(b"\r\n\r\n")
        return Upgraded(head, reader, writer)

    async def back_to(self, descriptors: int) -> None:
        """Wait until it holds no more than before."""
        await eventually(lambda: self.descriptors <= descriptors, "the descriptors are given back", 2 * DEADLINE)

    def check_log(self) -> None:
        """Nothing it did not foresee has happened."""
        log = self.process.stdout + self.process.stderr
        assert "Traceback" not in log, log[-4000:]
        assert '"level": "error"' not in log, log[-4000:]


class Upgraded:
    """An upgraded connection, byte by byte."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = head
        self.reader = reader
        self.writer = writer

    def vanish(self) -> None:
        self.writer.transport.abort()


class Flood:
    """Upgraded connections that send the same bytes as fast as they are taken, from threads: no loop is in their way.

    ``reads``: they read what comes back; else they leave it.
    """

    def __init__(self, served: Target, connections: int, data: bytes, *, first: bytes = b"", reads: bool) -> None:
        self._over = threading.Event()
        #: How often each could not send for a second.
        self.stalls = [0] * connections
        self._threads = [
            threading.Thread(target=self._pour, args=(number, served.port, first, data, reads), daemon=True)
            for number in range(connections)
        ]

    async def __aenter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    @property
    def ended(self) -> bool:
        """Whether the server has cut them all."""
        return not any(thread.is_alive() for thread in self._threads)

    def _pour(self, number: int, port: int, first: bytes, data: bytes, reads: bool) -> None:
        with socket.socket() as plain, suppress(ConnectionError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(("127.0.0.1", port))
            plain.settimeout(DEADLINE)
            plain.sendall(HEAD + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
            plain.recv(4096)
            plain.sendall(first)
            plain.setblocking(False)
            rest = b""
            while not self._over.is_set():
                readable, writable, _ = select.select([plain] if reads else [], [plain], [], 1)
                if readable and not plain.recv(1 << 20):
                    return
                if writable:
                    rest = rest or data
                    rest = rest[plain.send(rest) :]
                elif not readable:
                    self.stalls[number] += 1


async def eof(reader: asyncio.StreamReader) -> bytes:
    """Read to the server's end of the connection."""
    found = b""
    async with asyncio.timeout(DEADLINE):
        try:
            while data := await reader.read(65536):
                found += data
        except ConnectionError:
            pass
    return found


@asynccontextmanager
async def target(folder: Path, session: aiohttp.ClientSession, **environ: str) -> AsyncIterator[Target]:
    """A server with those settings; what it wrote to its log in the end is checked."""
    process = ServerProcess(folder, "target")
    await process.start(**environ)
    found = Target(process, session)
    try:
        yield found
    finally:
        await process.kill()
    found.check_log()


@asynccontextmanager
async def somebody_talks(served: Target) -> AsyncIterator[None]:
    """Somebody else holds a conversation meanwhile, and in the end has had an answer to each message."""
    talker: Socket = await served.served.attach("somebody-else")
    turns = 0

    async def talk() -> None:
        nonlocal turns
        while True:
            frames = await talker.turn("hello there")
            assert frames[-1]["status"] == "completed"
            turns += 1

    task = asyncio.create_task(talk())
    try:
        yield
        before = turns
        # In the middle of it all, and to the end.
        await eventually(lambda: turns > before + 1 or task.done(), "somebody else is answered")
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
        await talker.ws.close()


MakeTarget = Callable[..., Awaitable[Target]]


@pytest.fixture
async def attacked(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[MakeTarget]:
    """What starts a server of a process of its own, with settings."""
    async with AsyncExitStack() as stack:
        yield lambda **environ: stack.enter_async_context(target(tmp_path, session, **environ))
