"""One WebSocket: a loop that reads commands, a loop that writes frames, close.

The only module that touches a WebSocket. It owns no run: commands go to the thread, which answers; frames come from a
cursor on the thread's log. A client that does not read costs what its socket's buffers hold and no more: the cursor is a
number, and the answers that wait are bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMessage, WSMsgType, web

from threadwire.errors import BadFrame, Gap, InternalError, ThreadwireError
from threadwire.events import Filter
from threadwire.logs import get_logger
from threadwire.protocol import (
    MAX_BAD_FRAMES_PER_MINUTE,
    MAX_WAITING_ANSWERS,
    SUBPROTOCOL,
    CloseCode,
    Command,
    History,
    Ping,
    Subscribe,
    decode,
    encode,
    error_frame,
)
from threadwire.storage import OnDisconnect
from threadwire.thread import Attached, Thread
from threadwire.upgrade import Wanted, check_raw

logger = get_logger(__name__)

#: Close codes by which the client's code asked for the end: 1000, and a close frame without one (aiohttp gives 0).
_DELIBERATE = frozenset({0, 1000})
#: A client that does not answer our close for this long is cut off.
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What every connection of a server shares."""

    heartbeat_seconds: float
    max_message_bytes: int
    allow_raw: bool
    #: Fields of ``ready`` that are the server's: protocol, server, model, heartbeat_seconds, limits.
    ready: dict[str, Any]


@dataclass(slots=True)
class _Answer:
    """A frame for this connection alone; made when it is sent, where it depends on the moment."""

    frame: dict[str, Any] | Callable[[], dict[str, Any]]
    #: The log position it is true for: the frames up to there go first.
    after: int = 0


class Connection:
    """A reader of one thread, for its whole life."""

    def __init__(self, settings: ConnectionSettings, on_disconnect: OnDisconnect) -> None:
        self.on_disconnect = on_disconnect
        self._settings = settings
        self._ws = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            heartbeat=settings.heartbeat_seconds or None,
            max_msg_size=settings.max_message_bytes,
            timeout=_CLOSE_SECONDS,
            # Deflate costs memory and time per socket and gains little on frames of a few words.
            compress=False,
        )
        self._answers: deque[_Answer] = deque()
        # Commands that were taken and not answered yet count as answers that wait.
        self._unanswered = 0
        self._new = asyncio.Event()
        self._room = asyncio.Event()
        self._end: tuple[int, str] | None = None
        self._bad: deque[float] = deque()
        self._reading_history: set[asyncio.Task[None]] = set()

    async def refuse(self, request: web.Request, code: CloseCode, reason: str) -> web.WebSocketResponse:
        """Upgrade and close at once: a browser cannot read the status of a failed upgrade."""
        await self._ws.prepare(request)
        await self._close(code, reason)
        return self._ws

    async def serve(self, request: web.Request, thread: Thread, wanted: Wanted) -> web.WebSocketResponse:
        """Take the connection from its upgrade to its close."""
        started = time.monotonic()
        await self._ws.prepare(request)
        deliberate = False
        attached: Attached | None = None
        try:
            attached = await thread.attach(
                self, after=wanted.after, epoch=wanted.epoch, history=wanted.history, wake=self._new.set
            )
            deliberate = await self._run(_Session(thread, attached, wanted.filter))
        except ThreadwireError as error:
            self._answers.clear()
            await self._send(error_frame(error))
            await self._close(CloseCode.INTERNAL, error.code)
        except ConnectionError:
            # The client has gone; its thread decides what becomes of its run.
            pass
        finally:
            if attached is not None:
                attached.cursor.close()
                thread.detach(self, deliberate=deliberate)
            logger.info(
                "connection",
                thread_id=thread.thread_id,
                close_code=self._ws.close_code,
                deliberate=deliberate,
                duration_ms=round((time.monotonic() - started) * 1000),
            )
        return self._ws

    def end(self, code: int, reason: str) -> None:
        """Give the client what it has not read yet, then close."""
        if self._end is None:
            self._end = (code, reason)
            self._new.set()

    def tell(self, frame: dict[str, Any]) -> None:
        """Send a frame about the connection itself, such as ``goaway``."""
        self._put(_Answer(frame))

    async def _run(self, session: _Session) -> bool:
        self._put(_Answer({"type": "ready", **self._settings.ready, **session.attached.ready}))
        if session.attached.history is not None:
            self._put(_Answer(session.attached.history))
        if session.attached.gap is not None:
            self._put(_Answer(session.attached.gap))
        writing = asyncio.create_task(self._write(session), name=f"writer {session.thread.thread_id}")
        try:
            return await self._read(session, writing)
        finally:
            tasks = {writing, *self._reading_history}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read(self, session: _Session, writing: asyncio.Task[None]) -> bool:
        """Read until the socket ends; returns whether the client's code closed it."""
        while True:
            if len(self._answers) + self._unanswered > MAX_WAITING_ANSWERS:
                await self._wait_for_room(writing)
            message = await self._ws.receive()
            if message.type is WSMsgType.TEXT:
                self._handle(session, message.data)
            elif message.type is WSMsgType.BINARY:
                self._refuse(BadFrame("expected a JSON object in a text message, got a binary one"), None)
            else:
                return self._is_deliberate(message)

    def _is_deliberate(self, message: WSMessage) -> bool:
        if self._end is not None:
            return False
        # Else: CLOSED after a loss, or ERROR after a broken frame, which aiohttp has answered with its code.
        return message.type is WSMsgType.CLOSE and message.data in _DELIBERATE

    async def _wait_for_room(self, writing: asyncio.Task[None]) -> None:
        """Read no further from a client that sends and does not read."""
        while len(self._answers) + self._unanswered > MAX_WAITING_ANSWERS and not writing.done():
            self._room.clear()
            room = asyncio.create_task(self._room.wait())
            await asyncio.wait({room, writing}, return_when=asyncio.FIRST_COMPLETED)
            room.cancel()

    def _handle(self, session: _Session, data: str) -> None:
        try:
            command = decode(data)
        except ThreadwireError as error:
            self._refuse(error, getattr(error, "command_id", None))
            return
        if isinstance(command, Ping):
            self._put(_Answer(lambda: _pong(command, session)))
        elif isinstance(command, Subscribe):
            self._subscribe(session, command)
        elif isinstance(command, History):
            self._unanswered += 1
            task = asyncio.create_task(self._history(session, command))
            self._reading_history.add(task)
            task.add_done_callback(self._reading_history.discard)
        else:
            self._unanswered += 1
            session.thread.submit(command, self._answer_to(command), self.on_disconnect)

    def _refuse(self, error: ThreadwireError, command_id: str | None) -> None:
        self._put(_Answer(error_frame(error, command_id)))
        now = time.monotonic()
        self._bad.append(now)
        while now - self._bad[0] > 60:
            self._bad.popleft()
        if len(self._bad) > MAX_BAD_FRAMES_PER_MINUTE:
            self.end(CloseCode.PROTOCOL_ABUSE, "too many bad frames")

    def _answer_to(self, command: Command) -> Callable[[dict[str, Any] | ThreadwireError], None]:
        def answer(found: dict[str, Any] | ThreadwireError) -> None:
            self._unanswered -= 1
            if isinstance(found, ThreadwireError):
                self._put(_Answer(error_frame(found, command.id)))
            else:
                self._put(_Answer({"type": "ack", "id": command.id, **found}))

        return answer

    def _subscribe(self, session: _Session, command: Subscribe) -> None:
        try:
            check_raw(wanted=command.raw, allowed=self._settings.allow_raw)
        except ThreadwireError as error:
            self._put(_Answer(error_frame(error, command.id)))
            return
        session.attached.cursor.filter = Filter.of(command)
        self._put(_Answer({"type": "ack", "id": command.id}))

    async def _history(self, session: _Session, command: History) -> None:
        answer = self._answer_to(command)
        try:
            found = await session.thread.history(command.before, command.limit)
        except ThreadwireError as error:
            answer(error)
        except Exception:
            logger.exception("history failed", thread_id=session.thread.thread_id)
            answer(InternalError("The server failed to read the history."))
        else:
            self._unanswered -= 1
            self._put(_Answer({**found, **({"id": command.id} if command.id is not None else {})}, found["seq"]))

    def _put(self, answer: _Answer) -> None:
        self._answers.append(answer)
        self._new.set()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _write(self, session: _Session) -> None:
        try:
            while True:
                self._new.clear()
                if not await self._write_some(session):
                    if self._end is not None:
                        break
                    await self._new.wait()
            await self._close(*self._end)
        except ConnectionError:
            # The reading loop sees the loss too, and ends the connection.
            pass
        except Exception:
            logger.exception("writing failed", thread_id=session.thread.thread_id)
            await self._close(CloseCode.INTERNAL, "internal")
        finally:
            self._room.set()

    async def _write_some(self, session: _Session) -> bool:
        """Send the next answer, or the next frames; False where there is nothing to send."""
        cursor = session.attached.cursor
        answer = self._answers[0] if self._answers else None
        if answer is not None and cursor.position >= answer.after:
            self._answers.popleft()
            self._room.set()
            await self._send(answer.frame() if callable(answer.frame) else answer.frame)
            return True
        before = cursor.position
        try:
            frames = cursor.take(until=answer.after if answer is not None else None)
        except Gap as gap:
            await self._send(session.thread.gap(gap.requested, gap.earliest))
            return True
        for data in frames:
            await self._ws.send_frame(data, WSMsgType.TEXT)
        return cursor.position != before

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._ws.send_frame(encode(frame), WSMsgType.TEXT)

    async def _close(self, code: int, reason: str) -> None:
        """Close; a client that does not read even that is cut off."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS + 1):
                await self._ws.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            transport = self._ws._req.transport if self._ws._req is not None else None  # noqa: SLF001
            if transport is not None:
                transport.abort()


@dataclass(frozen=True, slots=True)
class _Session:
    """A connection that is attached."""

    thread: Thread
    attached: Attached
    filter: Filter

    def __post_init__(self) -> None:
        self.attached.cursor.filter = self.filter


def _pong(command: Ping, session: _Session) -> dict[str, Any]:
    frame: dict[str, Any] = {"type": "pong", "seq": session.attached.cursor.position}
    return frame if command.id is None else {**frame, "id": command.id}
