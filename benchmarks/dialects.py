"""How a turn is asked for and read, in the words of each server. A dialect feeds one ``Turn`` at a time.

WebSockets are read by picows, whose frame costs the load 3 us, so that it does not become what it measures.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import orjson
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

#: Stamps begin anew each 100 seconds (``provider.stamp``).
WRAP = 100_000_000


class Turn:
    """What one session saw of one turn. Times are seconds.

    Attributes:
        delays: Of each token, from the provider's writing to here.
        first: From the asking to the first token.
    """

    __slots__ = ("asked", "delays", "first", "over", "texts")

    def __init__(self) -> None:
        self.asked = time.monotonic()
        self.first = 0.0
        self.delays: list[float] = []
        self.texts: list[str] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(self, text: str) -> None:
        """Take a piece of the answer: whole tokens, as many as there are; some servers begin with none."""
        if not text:
            return
        now = time.monotonic_ns() // 1000 % WRAP
        if not self.first:
            self.first = time.monotonic() - self.asked
        self.texts.append(text)
        for word in text.split():
            self.delays.append((now - int(word)) % WRAP / 1e6)

    def end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def fail(self, why: str) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(why))

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Dialect(Protocol):
    """One session with a server, on one thread."""

    turn: Turn | None

    async def open(self, url: str, thread: str) -> None:
        """Connect, as far as that the server has answered."""

    async def ask(self, content: str) -> Turn:
        """Start a turn; its ``over`` is done with the turn."""

    def close(self) -> None:
        """Leave."""


class WebSocketDialect(WSListener):
    """What all that speak WebSocket share."""

    path = "/ws/{thread}"

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self.transport: WSTransport | None = None
        self.parts: list[bytes] = []
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, url: str, thread: str) -> None:
        await ws_connect(lambda: self, url.replace("http", "ws", 1) + self.path.format(thread=thread))
        await self.ready

    async def ask(self, content: str) -> Turn:
        self.turn = Turn()
        self.send(self.command(content))
        return self.turn

    def close(self) -> None:
        if self.transport:
            self.transport.disconnect()

    def send(self, value: bytes) -> None:
        assert self.transport
        self.transport.send(WSMsgType.TEXT, value)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.greet()

    def on_ws_disconnected(self, _: WSTransport) -> None:
        self.transport = None
        if self.turn:
            self.turn.fail("the server closed the socket")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is WSMsgType.CLOSE:
            transport.disconnect()
        elif kind is WSMsgType.TEXT or kind is WSMsgType.BINARY or kind is WSMsgType.CONTINUATION:
            if frame.fin and not self.parts:
                self.take(frame.get_payload_as_bytes())
                return
            self.parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                whole, self.parts = b"".join(self.parts), []
                self.take(whole)

    def greet(self) -> None:
        """The server says nothing on connecting."""
        self.ready.set_result(None)

    def command(self, content: str) -> bytes:
        raise NotImplementedError

    def take(self, data: bytes) -> None:
        raise NotImplementedError


class TutorialDialect(WebSocketDialect):
    """``{"message"}`` → ``{"type": "token", "content"}`` …, ``{"type": "end"}``."""

    def command(self, content: str) -> bytes:
        return orjson.dumps({"message": content})

    def take(self, data: bytes) -> None:
        frame = orjson.loads(data)
        if self.turn is None:
            return
        if frame["type"] == "token":
            self.turn.hear(frame["content"])
        else:
            self.turn.end()


class ThreadwireDialect(WebSocketDialect):
    """``threadwire.v1``."""

    path = "/ws?thread_id={thread}"

    def greet(self) -> None:
        """``ready`` says it."""

    def command(self, content: str) -> bytes:
        return orjson.dumps({"type": "send", "content": content})

    def take(self, data: bytes) -> None:
        frame = orjson.loads(data)
        kind = frame["type"]
        if kind == "token" and self.turn:
            self.turn.hear(frame["content"])
        elif kind == "ready":
            self.ready.set_result(None)
        elif kind == "run_finished" and self.turn:
            if frame["status"] == "completed":
                self.turn.end()
            else:
                self.turn.fail(str(frame))
        elif kind == "error" and self.turn:
            self.turn.fail(str(frame))


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(values: list[float]) -> dict[str, Any]:
    """Of seconds, in milliseconds; of none, nothing."""
    if not values:
        return dict.fromkeys(("p50", "p99", "max"))
    found = {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values)}
    return {name: round(value * 1000, 2) for name, value in found.items()}
