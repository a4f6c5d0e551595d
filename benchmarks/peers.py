"""The dialects of what others have built: LangGraph's server, AG-UI, Chainlit."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import aiohttp
import orjson
from picows import WSTransport

from benchmarks.dialects import Turn, WebSocketDialect


class SseDialect:
    """What all that stream lines over HTTP share: a request for each turn."""

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), read_bufsize=2**20)
        self.reading: asyncio.Task[None] | None = None

    async def open(self, url: str, thread: str) -> None:
        self.url, self.thread = url, thread

    async def ask(self, content: str) -> Turn:
        self.turn = Turn()
        self.reading = asyncio.create_task(self._read(self.turn, *self.request(content)))
        return self.turn

    def close(self) -> None:
        if self.reading:
            self.reading.cancel()
        self.closing = asyncio.create_task(self.session.close())

    async def _read(self, turn: Turn, path: str, body: dict[str, Any]) -> None:
        event = b""
        try:
            headers = {"Accept": "text/event-stream"}
            async with self.session.post(self.url + path, json=body, headers=headers) as response:
                if response.status >= 400:
                    turn.fail(await response.text())
                async for line in response.content:
                    if line.startswith(b"event:"):
                        event = line[6:].strip()
                    elif line.startswith(b"data:"):
                        self.take(turn, event, line[5:])
        except (aiohttp.ClientError, ConnectionError) as error:
            turn.fail(repr(error))
        turn.end()

    def request(self, content: str) -> tuple[str, dict[str, Any]]:
        """The path and the body of a turn."""
        raise NotImplementedError

    def take(self, turn: Turn, event: bytes, data: bytes) -> None:
        raise NotImplementedError


async def _make_thread(url: str, thread: str) -> None:
    body = {"thread_id": thread, "if_exists": "do_nothing"}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/threads", json=body) as response:
        response.raise_for_status()


def _langgraph_input(content: str) -> dict[str, Any]:
    return {"assistant_id": "chat", "input": {"messages": [{"role": "user", "content": content}]}}


class LangGraphDialect(SseDialect):
    """``POST /threads/ID/runs/stream``, as langgraph-sdk does it."""

    async def open(self, url: str, thread: str) -> None:
        await super().open(url, thread)
        await _make_thread(url, thread)

    def request(self, content: str) -> tuple[str, dict[str, Any]]:
        return f"/threads/{self.thread}/runs/stream", _langgraph_input(content) | {"stream_mode": ["messages-tuple"]}

    def take(self, turn: Turn, event: bytes, data: bytes) -> None:
        if event == b"messages":
            turn.hear(orjson.loads(data)[0]["content"])
        elif event == b"error":
            turn.fail(data.decode())


class LangGraphSocketDialect(WebSocketDialect):
    """The event stream protocol of LangGraph's server over its WebSocket."""

    path = "/threads/{thread}/stream/events"

    async def open(self, url: str, thread: str) -> None:
        await _make_thread(url, thread)
        await super().open(url, thread)

    def greet(self) -> None:
        """Ready once subscribed."""
        self.number = 1
        subscription = {"channels": ["messages", "lifecycle"]}
        self.send(orjson.dumps({"id": 1, "method": "subscription.subscribe", "params": subscription}))

    def command(self, content: str) -> bytes:
        self.number += 1
        return orjson.dumps({"id": self.number, "method": "run.start", "params": _langgraph_input(content)})

    def take(self, data: bytes) -> None:
        frame = orjson.loads(data)
        if frame["type"] == "success" and frame["id"] == 1:
            self.ready.set_result(None)
        elif frame["type"] == "error" and self.turn:
            self.turn.fail(str(frame))
        elif frame["type"] == "event" and self.turn:
            found = frame["params"]["data"]
            if found["event"] == "content-block-delta":
                self.turn.hear(found["delta"]["text"])
            elif found["event"] == "completed":
                self.turn.end()
            elif found["event"] in ("failed", "error"):
                self.turn.fail(str(frame))


class AgUiDialect(SseDialect):
    """AG-UI over HTTP. Its clients send the whole conversation with each turn, as the last snapshot told it."""

    #: By thread, since the conversation is the client's to keep.
    conversations: dict[str, list[dict[str, Any]]] = {}  # noqa: RUF012

    def request(self, content: str) -> tuple[str, dict[str, Any]]:
        messages = self.conversations.setdefault(self.thread, [])
        messages.append({"id": str(uuid.uuid4()), "role": "user", "content": content})
        body = {"threadId": self.thread, "runId": str(uuid.uuid4()), "messages": messages, "state": {}, "tools": []}
        return "/", body | {"context": [], "forwardedProps": {}}

    def take(self, turn: Turn, _event: bytes, data: bytes) -> None:
        found = orjson.loads(data)
        if found["type"] == "TEXT_MESSAGE_CONTENT":
            turn.hear(found["delta"])
        elif found["type"] == "MESSAGES_SNAPSHOT":
            self.conversations[self.thread] = found["messages"]
        elif found["type"] == "RUN_ERROR":
            turn.fail(data.decode())


class ChainlitDialect(WebSocketDialect):
    """Chainlit's events over Socket.IO, done by hand: ``0`` opens, ``2`` and ``3`` beat, ``42`` is an event."""

    path = "/ws/socket.io/?EIO=4&transport=websocket"

    async def open(self, url: str, thread: str) -> None:
        self.thread = thread
        await super().open(url, thread)

    def greet(self) -> None:
        """Ready once the server has taken the session."""

    def command(self, content: str) -> bytes:
        message = {
            "id": str(uuid.uuid4()),
            "threadId": "",
            "name": "user",
            "type": "user_message",
            "output": content,
            "createdAt": "2026-01-01T00:00:00.000Z",
        }
        return b"42" + orjson.dumps(["client_message", {"message": message, "fileReferences": []}])

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def take(self, data: bytes) -> None:
        if data.startswith(b"0"):
            session = {"clientType": "webapp", "sessionId": str(uuid.uuid4()), "threadId": self.thread}
            session |= {"userEnv": "{}", "chatProfile": ""}
            self.send(b"40" + orjson.dumps(session))
        elif data.startswith(b"40"):
            self.send(b'42["connection_successful"]')
        elif data == b"2":
            self.send(b"3")
        elif data.startswith(b"44"):
            self.ready.set_exception(ConnectionError(data.decode()))
        elif data.startswith(b"42"):
            name, *arguments = orjson.loads(data[2:])
            if name == "stream_token" and self.turn:
                self.turn.hear(arguments[0]["token"])
            elif name == "stream_start" and self.turn:
                self.turn.hear(arguments[0]["output"])
            elif name == "task_end":
                # The first answers that the connection is there.
                self.turn.end() if self.turn else self.ready.set_result(None)
