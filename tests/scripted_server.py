"""A real WebSocket server that speaks threadwire.v1 from a script, and breaks on demand.

It keeps one thread: a log, messages, runs; every run says the words it was told to say. What makes it useful is what
goes wrong: each connection takes one ``Fault`` from ``faults``, in the order they come. No graph, no storage: what a
client must bear is all here, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import WSMsgType, web


@dataclass
class Fault:
    """What goes wrong on one connection.

    It happens after ``after`` frames have gone out, or, with ``on``, when a command of that type comes: after it was
    done (``handled``) or instead. Only the answer to that command is lost in any case.
    """

    do: Literal["abort", "close", "silence", "garbage"]
    after: int | None = None
    on: str | None = None
    handled: bool = True
    code: int = 1011
    goaway: float | None = None
    #: Before that, when the log has come to this ``seq``, its frames are lost; nothing goes out meanwhile.
    lose_at: int | None = None
    #: How: the log is trimmed, or a new epoch begins.
    lose: Literal["trim", "restore"] = "trim"


@dataclass
class Script:
    """What a run says, and how it ends."""

    words: list[str] = field(default_factory=lambda: ["Hello", ", ", "world"])
    #: The run waits after so many words until ``server.go`` is set.
    pause_after: int | None = None
    status: str = "completed"
    error: dict[str, str] | None = None
    #: The log loses its frames in the moment the run ends, before anybody has read its end.
    trims: bool = False
    #: All that the run left, as a run that was lost says it.
    messages: list[dict[str, Any]] | None = None


class Connection:
    """One attached client: a cursor and the frames that are about it alone."""

    def __init__(self, server: ScriptedServer, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.server = server
        self.ws = ws
        self.request = request
        self.query = dict(request.query)
        self.fault = server.faults.popleft() if server.faults else None
        self.position = 0
        self.answers: deque[dict[str, Any]] = deque()
        self.received: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.sent = 0
        self.silent = False
        self.closing = False

    async def put(self, frame: dict[str, Any]) -> None:
        if self.silent:
            return
        for sent in self.server.mutate(frame):
            text = json.dumps(sent)
            for _ in range(2 if self.server.repeats_frames and "run_id" in frame and "seq" in frame else 1):
                await self.ws.send_str(text)
        self.sent += 1
        if self.fault is not None and self.fault.after == self.sent:
            await self.strike()

    async def strike(self) -> None:
        fault, self.fault = self.fault, None
        assert fault is not None
        if fault.lose_at is not None:
            self.silent = True
            while self.server.seq < fault.lose_at:
                await self.server.changed.wait()
            getattr(self.server, fault.lose)()
        if fault.goaway is not None:
            await self.put({"type": "goaway", "reason": "restart", "reconnect_after_seconds": fault.goaway})
        if fault.do == "abort":
            assert self.request.transport is not None
            self.request.transport.abort()
            raise ConnectionResetError
        if fault.do == "close":
            self.closing = True
            await self.ws.close(code=fault.code, message=b"as told")
            raise ConnectionResetError
        if fault.do == "garbage":
            await self.ws.send_str('{"type": "token", "seq": "one"}')
        self.silent = fault.do == "silence"

    async def write(self) -> None:
        """Drain answers and the log into the socket."""
        with contextlib.suppress(ConnectionResetError):
            await self.drain()

    async def drain(self) -> None:
        while True:
            changed = self.server.changed
            while self.answers:
                await self.put(self.answers.popleft())
            if self.position < self.server.trimmed:
                self.position = await self.gap(self.position + 1)
            for frame in self.server.log[self.position - self.server.trimmed :]:
                self.position = frame["seq"]
                await self.put(frame)
            if not self.answers and self.position == self.server.seq and changed is self.server.changed:
                await changed.wait()

    async def gap(self, requested: int) -> int:
        server = self.server
        earliest = server.trimmed + 1
        frame = {"type": "gap", "requested": requested, "earliest": earliest, "epoch": server.epoch}
        await self.put({**frame, "run": server.run_info()})
        return earliest - 1

    async def attach(self) -> None:
        server = self.server
        after = self.query.get("after")
        resume = "fresh"
        lost = False
        if after is not None:
            lost = self.query["epoch"] != server.epoch or not server.trimmed <= int(after) <= server.seq
            resume = "gap" if lost else "replayed"
            self.position = server.trimmed if lost else min(int(after) + server.skips, server.seq)
        else:
            started = [f["seq"] for f in server.log if f["type"] == "run_started" and f["run_id"] == server.running]
            self.position = started[-1] - 1 if started else server.seq
        await self.put(server.ready(resume))
        if lost:
            assert after is not None
            await self.gap(int(after) + 1)
        elif resume == "fresh" and "history" in self.query:
            self.position = server.seq
            await self.put(server.history(None))

    async def read(self) -> None:
        async for message in self.ws:
            assert message.type is WSMsgType.TEXT
            command = json.loads(message.data)
            self.received.append(command)
            self.server.received.append(command)
            if self.fault is not None and self.fault.on == command["type"]:
                if self.fault.handled:
                    self.server.answer(self, command)
                await self.strike()
            elif (answer := self.server.answer(self, command)) is not None:
                self.answers.append(answer)
                self.server.wake()


class ScriptedServer:
    """The thread, and the knobs."""

    def __init__(self) -> None:
        self.url = ""
        self.faults: deque[Fault] = deque()
        #: HTTP statuses with which the next upgrades are refused.
        self.refusals: deque[int] = deque()
        self.script = Script()
        self.go = asyncio.Event()
        #: Error frames for the next commands of a type, instead of doing them.
        self.errors: dict[str, deque[dict[str, Any]]] = {}
        self.repeats_frames = False
        #: What goes out in the place of each frame.
        self.mutate: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda frame: [frame]
        #: Frames that a reader who resumes is not given.
        self.skips = 0
        #: Cancels are acknowledged, and nothing else.
        self.deaf = False
        self.heartbeat_seconds = 25.0
        self.thread_id = "t-1"
        self.epoch = "e-1"
        self.log: list[dict[str, Any]] = []
        self.trimmed = 0
        self.messages: list[dict[str, Any]] = []
        self.running: str | None = None
        self.queue: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.connections: list[Connection] = []
        self.received: list[dict[str, Any]] = []
        self.requests: list[web.Request] = []
        self.changed = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def seq(self) -> int:
        return self.trimmed + len(self.log)

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def append(self, kind: str, **fields: Any) -> None:
        """Add a frame to the thread's log."""
        self.log.append({"type": kind, "seq": self.seq + 1, **fields})
        self.wake()

    def trim(self) -> None:
        """Lose all frames that are in the log."""
        self.trimmed, self.log = self.seq, []
        self.wake()

    def restore(self) -> None:
        """Begin a new epoch, as a restored backup does."""
        self.epoch, self.log, self.trimmed = "e-2", [], 0

    def run_info(self) -> dict[str, Any] | None:
        return {"run_id": self.running, "status": "running"} if self.running else None

    def ready(self, resume: str) -> dict[str, Any]:
        return {
            "type": "ready",
            "protocol": "threadwire.v1",
            "server": "scripted 1",
            "thread_id": self.thread_id,
            "created": not self.messages,
            "epoch": self.epoch,
            "seq": self.seq,
            "resume": resume,
            "run": self.run_info(),
            "queue": [
                {"run_id": c["run_id"], "message_id": c["message_id"], "content": c["content"]} for c in self.queue
            ],
            "interrupts": [],
            "model": {"name": "scripted"},
            "heartbeat_seconds": self.heartbeat_seconds,
            "limits": {},
        }

    def history(self, command_id: str | None) -> dict[str, Any]:
        return {
            "type": "history",
            "id": command_id,
            "messages": self.messages,
            "before": None,
            "seq": self.seq,
        }

    def answer(self, connection: Connection, command: dict[str, Any]) -> dict[str, Any] | None:
        kind, command_id = command["type"], command["id"]
        if self.errors.get(kind):
            return {"type": "error", "id": command_id, **self.errors[kind].popleft()}
        if kind == "ping":
            return {"type": "pong", "id": command_id, "seq": connection.position}
        if kind == "history":
            return self.history(command_id)
        if kind == "cancel":
            run_id = str(command.get("run_id", self.running))
            if not self.deaf:
                self.tasks[run_id].cancel()
            return {"type": "ack", "id": command_id, "run_id": run_id}
        if kind == "subscribe":
            return {"type": "ack", "id": command_id}
        return self.accept(command)

    def accept(self, command: dict[str, Any]) -> dict[str, Any]:
        run_id = command["run_id"]
        answer = {"type": "ack", "run_id": run_id, "message_id": command.get("message_id", f"m-{run_id}")}
        if run_id in self.runs:
            return {**answer, "id": command["id"], "duplicate": True}
        self.runs[run_id] = {**command, "message_id": answer["message_id"], "content": command.get("content", "")}
        if self.running:
            self.queue.append(self.runs[run_id])
            message = {"id": answer["message_id"], "role": "user", "content": command.get("content", "")}
            self.append("run_queued", run_id=run_id, message=message, position=len(self.queue))
        else:
            self.start(run_id)
        return {**answer, "id": command["id"]}

    def start(self, run_id: str) -> None:
        self.running = run_id
        self.tasks[run_id] = asyncio.create_task(self.run(self.runs[run_id]))

    async def run(self, command: dict[str, Any]) -> None:
        run_id, script, said, status = command["run_id"], self.script, f"a-{command['run_id']}", "cancelled"
        self.append("run_started", run_id=run_id, trigger=command["type"])
        user = {"id": command["message_id"], "role": "user", "content": command["content"]}
        self.messages.append(user)
        self.append("message", message=user)
        answer = {"id": said, "role": "assistant", "content": "", "status": "running"}
        self.messages.append(answer)
        with contextlib.suppress(asyncio.CancelledError):
            for number, word in enumerate(script.words):
                if number == script.pause_after:
                    await self.go.wait()
                answer["content"] += word
                self.append("token", run_id=run_id, message_id=said, node="model", content=word)
                await asyncio.sleep(0)
            status = script.status
        answer["status"] = "complete" if status == "completed" else status
        self.running = None
        end = {"status": status, "reason": None if status == "completed" else "client", "error": script.error}
        if script.messages is not None:
            end["messages"] = script.messages  # type: ignore[assignment]
        self.append("run_finished", run_id=run_id, usage=None, duration_ms=1, **end)
        if script.trims:
            self.trim()
        if self.queue:
            self.start(self.queue.pop(0)["run_id"])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.refusals:
            return web.json_response({"error": {"code": "no", "message": "no"}}, status=self.refusals.popleft())
        ws = web.WebSocketResponse(protocols=("threadwire.v1",), compress=False, timeout=0.5)
        await ws.prepare(request)
        connection = Connection(self, ws, request)
        self.connections.append(connection)
        writer: asyncio.Task[None] | None = None
        with contextlib.suppress(ConnectionResetError):
            if connection.fault is not None and connection.fault.after == 0:
                await connection.strike()
            await connection.attach()
            writer = asyncio.create_task(connection.write())
            await connection.read()
        if writer is not None:
            if not connection.closing:
                writer.cancel()
            await asyncio.wait([writer])
        connection.close_code = ws.close_code
        return ws


@asynccontextmanager
async def scripted_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Serve on a free port, until left."""
    server = ScriptedServer()
    app = web.Application()
    app.router.add_get("/ws", server.handle)
    # Not aiohttp's TestServer: that one cancels the handler of a connection that is lost, and real ones do not.
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        for connection in server.connections:
            await connection.ws.close()
        for task in server.tasks.values():
            task.cancel()
        if server.tasks:
            await asyncio.wait(server.tasks.values())
        await runner.cleanup()
