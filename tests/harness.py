"""What the tests stand on: the real server on a free port, a raw WebSocket, the provider in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from threadwire.protocol import decode_frame
from threadwire.testing.server import Server

#: How long anything may take here before a test fails; generous, since nothing is timed.
DEADLINE = 60.0


async def eventually(condition: Callable[[], Any], what: str = "condition", deadline: float = DEADLINE) -> Any:
    """Wait until ``condition`` (sync or async) is true and return what it gave."""
    end = time.monotonic() + deadline
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        await asyncio.sleep(0.01)


class Socket:
    """A client that does nothing by itself; each frame it reads is checked against the protocol's models."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        #: Everything that was read, in order.
        self.frames: list[dict[str, Any]] = []
        self.raw: list[bytes] = []

    async def command(self, kind: str, **fields: Any) -> None:
        await self.ws.send_str(json.dumps({"type": kind, **fields}))

    async def next(self) -> dict[str, Any]:
        """The next frame; fails when the socket closes instead, or nothing comes."""
        try:
            async with asyncio.timeout(DEADLINE):
                message = await self.ws.receive()
        except TimeoutError:
            raise AssertionError(f"no frame within {DEADLINE:g} s after {self.frames[-3:]}") from None
        assert message.type is aiohttp.WSMsgType.TEXT, f"expected a frame, got {message!r}"
        decode_frame(message.data)
        self.raw.append(message.data.encode())
        self.frames.append(json.loads(message.data))
        return self.frames[-1]

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Read on to the frame of that type with those fields."""
        while True:
            frame = await self.next()
            if frame["type"] == kind and all(frame.get(key) == value for key, value in fields.items()):
                return frame

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a command and read on to its answer, whatever it is."""
        identity = f"c{len(self.frames)}-{kind}"
        await self.command(kind, id=identity, **fields)
        while True:
            frame = await self.next()
            if frame.get("id") == identity and frame["type"] in ("ack", "error", "history", "pong"):
                return frame

    async def turn(self, content: Any = "hi", **fields: Any) -> list[dict[str, Any]]:
        """Send and read to the end of that run; returns the frames from its ack on."""
        start = len(self.frames)
        ack = await self.ask("send", content=content, **fields)
        assert ack["type"] == "ack", ack
        await self.until("run_finished", run_id=ack["run_id"])
        return self.frames[start:]

    async def closed(self) -> int:
        """Read on to the server's close and return its code."""
        async with asyncio.timeout(DEADLINE):
            while True:
                message = await self.ws.receive()
                if message.type is aiohttp.WSMsgType.CLOSE:
                    await self.ws.close()
                    return int(message.data)
                assert message.type is aiohttp.WSMsgType.TEXT, f"expected a close, got {message!r}"
                self.frames.append(json.loads(message.data))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The frames of one type that were read."""
        return [frame for frame in self.frames if frame["type"] == kind]

    def text(self, run_id: str | None = None) -> str:
        """The joined tokens that were read, of one run or all."""
        return "".join(f["content"] for f in self.of("token") if run_id in (None, f["run_id"]))

    async def vanish(self) -> None:
        """Cut the TCP connection without a close frame."""
        connection = self.ws._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()
        await self.ws.close()


class Served:
    """A running server."""

    def __init__(self, server: Server, session: aiohttp.ClientSession, database: Path) -> None:
        self.server = server
        self.session = session
        self.database = database
        self.sockets: list[Socket] = []

    @property
    def url(self) -> str:
        return self.server.url

    async def connect(self, thread_id: str | None = None, **query: Any) -> Socket:
        """Attach a socket; its first frame, ``ready``, is not read yet."""
        if thread_id is not None:
            query["thread_id"] = thread_id
        parameters = {key: str(value) for key, value in query.items()}
        ws = await self.session.ws_connect(
            f"{self.url}/ws", params=parameters, protocols=("threadwire.v1",), max_msg_size=0, autoclose=False
        )
        socket = Socket(ws)
        self.sockets.append(socket)
        return socket

    async def attach(self, thread_id: str | None = None, **query: Any) -> Socket:
        """Attach a socket and read its ``ready``."""
        socket = await self.connect(thread_id, **query)
        assert (await socket.next())["type"] == "ready"
        return socket

    async def history(self, thread_id: str) -> list[dict[str, Any]]:
        """All messages of a thread, by a socket of its own that starts nothing."""
        socket = await self.attach(thread_id, on_disconnect="continue")
        messages: list[dict[str, Any]] = (await socket.ask("history", limit=1000))["messages"]
        await socket.ws.close()
        return messages


class Provider:
    """The OpenAI-compatible stand-in, ``threadwire simulate``, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.url = url
        self._session = session

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    async def stats(self) -> dict[str, Any]:
        async with self._session.get(f"{self.url}/stats") as response:
            return dict(await response.json())

    async def left(self) -> bool:
        """Whether nobody waits for it."""
        return bool((await self.stats())["open"] == 0)

    async def requests(self) -> list[dict[str, Any]]:
        """The bodies of the requests it got, oldest first."""
        async with self._session.get(f"{self.url}/requests") as response:
            found = await response.json()
        return list(found["requests"] if isinstance(found, dict) else found)

    async def stop(self) -> None:
        """End it, and read its output to the end: a pipe that is left open outlives its loop."""
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.communicate()


async def start_provider(session: aiohttp.ClientSession, *arguments: str) -> Provider:
    """Start it on a free port; it prints its URL when it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "threadwire",
        "simulate",
        "--port",
        "0",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        line = (await process.stdout.readline()).decode()
    url = next(word for word in line.split() if word.startswith("http://")).rstrip("/").removesuffix("/v1")
    return Provider(process, url, session)
