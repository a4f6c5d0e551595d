"""A WebSocket client of plain bytes: it can send what no client library would, and stop reading."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from harness import DEADLINE, Served

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, length: int | None = None, first: int = 0) -> bytes:
    """One masked frame; ``length`` lies about its size, ``first`` adds bits to its first byte."""
    size = len(payload) if length is None else length
    head = bytes([first | (0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    # A mask of zeros is a mask, and leaves the payload as it is.
    return head + b"\0\0\0\0" + payload


@dataclass
class RawSocket:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def command(self, kind: str, **fields: Any) -> None:
        """Send a command, or as much of it as the network takes; the rest waits."""
        self.send(json.dumps({"type": kind, **fields}).encode())

    def send(self, payload: bytes, opcode: int = TEXT, **options: Any) -> None:
        self.writer.write(frame(payload, opcode, **options))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame: its opcode and payload. Raises ``IncompleteReadError`` at the end of the stream."""
        async with asyncio.timeout(DEADLINE):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                [size] = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                [size] = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0xF, await self.reader.readexactly(size)

    async def next(self) -> dict[str, Any]:
        """The next text message."""
        opcode, payload = await self.receive()
        assert opcode == TEXT, (opcode, payload)
        return dict(json.loads(payload))

    async def closed(self) -> int:
        """Read on to the server's close frame and to the end of the stream; returns the code."""
        while True:
            opcode, payload = await self.receive()
            if opcode == CLOSE:
                break
        self.send(payload[:2], CLOSE)
        async with asyncio.timeout(DEADLINE):
            while await self.reader.read(65536):
                pass
        self.vanish()
        return int(struct.unpack("!H", payload[:2])[0])

    def vanish(self) -> None:
        """Cut the connection with a reset."""
        self.writer.transport.abort()


#: All that were made in a test; whoever uses them closes them.
OPEN: list[RawSocket] = []


async def connect_raw(served: Served, query: str = "", *, receive_buffer: int | None = None) -> RawSocket:
    """Upgrade by hand; the first frame, ``ready``, is not read yet."""
    plain = socket.socket()
    if receive_buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, (served.server.host, served.server.port))
    # A small limit: the stream's own buffer reads ahead.
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /ws?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    async with asyncio.timeout(DEADLINE):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101"), answer
    OPEN.append(RawSocket(reader, writer))
    return OPEN[-1]


def shrink_send_buffers(served: Served, size: int = 8192) -> None:
    """Let connections made from now on take little of what a client does not read."""
    runner: Any = served.server.runner
    for site in runner.sites:
        for listening in site._server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
