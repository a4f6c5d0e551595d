"""One connection: a loop that reads commands, a loop that writes frames, close.

It owns no run: commands go to the thread, which answers; frames come from a cursor on the thread's log. A client that
does not read costs what its socket's buffers hold and no more: the cursor is a number, and the answers that wait are
bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from aiohttp import WebSocketError, WSMessage, WSMsgType, web

from threadwire.allowance import Allowance
from threadwire.answers import Answer, Answers, named
from threadwire.attachment import Attached
from threadwire.auth import Grant
from threadwire.batches import Batches, ConnectionBatches
from threadwire.credential import Credential, Renew
from threadwire.errors import BadFrame, Gap, InternalError, RateLimited, ThreadwireError
from threadwire.filters import Filter
from threadwire.limits import Rate
from threadwire.log import Cursor
from threadwire.logs import get_logger
from threadwire.pages import Pages
from threadwire.protocol import (
    MAX_BAD_FRAMES_PER_MINUTE,
    SUBPROTOCOL,
    Batch,
    Cancel,
    CloseCode,
    History,
    Ping,
    Reauth,
    Subscribe,
    decode,
    encode,
    error_frame,
)
from threadwire.raw import RawReader
from threadwire.seat import Seat
from threadwire.storage import OnDisconnect
from threadwire.tally import Tally
from threadwire.upgrade import Wanted, check_raw
from threadwire.websocket import CLOSE_CODE, WebSocket

logger = get_logger(__name__)

#: Close codes by which the client's code asked for the end: 1000, and a close frame without one (aiohttp gives 0).
_DELIBERATE = frozenset({0, 1000})

#: Commands over a limit of their user's that are refused before reading waits.
_REFUSED_PER_MINUTE = 100


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What every connection of a server shares."""

    heartbeat_seconds: float
    max_message_bytes: int
    allow_raw: bool
    #: What all connections together may take, and one that does not read: ``limits.buffered_bytes``.
    allowance: Allowance
    buffered_bytes: int
    #: All batches of the server.
    batches: Batches
    tally: Tally
    #: Fields of ``ready`` that are the server's: protocol, server, model, heartbeat_seconds, limits.
    ready: dict[str, Any]


async def refuse(
    request: web.Request, settings: ConnectionSettings, code: CloseCode, reason: str
) -> web.WebSocketResponse:
    """Upgrade and close at once: a browser cannot read the status of a failed upgrade."""
    started = time.monotonic()
    ws = _socket(settings, lambda _alive: None)
    await ws.open(request)
    try:
        await ws.close(code, reason)
    finally:
        ws.release()
    _tell_end(ws, settings, started, refused=reason)
    return ws.response


def _socket(settings: ConnectionSettings, on_beat: Callable[[bool], None]) -> WebSocket:
    return WebSocket(
        protocol=SUBPROTOCOL,
        heartbeat_seconds=settings.heartbeat_seconds,
        max_message_bytes=settings.max_message_bytes,
        buffered_bytes=settings.buffered_bytes,
        on_beat=on_beat,
        tally=settings.tally,
    )


class Connection:
    """A reader of one thread, for its whole life."""

    __slots__ = (
        "_answers",
        "_bad",
        "_batches",
        "_end",
        "_hasty",
        "_pages",
        "_ping_due",
        "_raw",
        "_session",
        "_settings",
        "_tarry",
        "_waiter",
        "_writing",
        "_written",
        "_ws",
        "credential",
        "on_disconnect",
    )

    def __init__(self, settings: ConnectionSettings, on_disconnect: OnDisconnect, grant: Grant, renew: Renew) -> None:
        """``renew`` says whose another token is, and until when; it raises as an ``Authenticator`` does."""
        self.on_disconnect = on_disconnect
        self.credential = Credential(grant, renew, tell=self.tell, end=self.end)
        self._settings = settings
        self._ws = _socket(settings, self._on_beat)
        # What writes, while there is anything to write; and what it waits for, between two frames of a live thread.
        self._writing: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        # Nothing more can be written.
        self._written = False
        self._session: _Session | None = None
        self._answers = Answers(self._wake)
        self._ping_due = False
        self._end: tuple[int, str] | None = None
        self._bad = Rate(MAX_BAD_FRAMES_PER_MINUTE, 60)
        self._hasty = Rate(_REFUSED_PER_MINUTE, 60)
        self._tarry = 0.0
        self._pages = Pages(self._answers)
        self._batches = ConnectionBatches(settings.batches, self._answers)
        self._raw = RawReader(self._wake, settings.buffered_bytes)

    async def serve(self, request: web.Request, find: Callable[[], Seat], wanted: Wanted) -> web.WebSocketResponse:
        """Take the connection from its upgrade to its close.

        ``find`` gives its place at its thread; asked after the upgrade.
        """
        started = time.monotonic()
        await self._ws.open(request)
        self.credential.watch()
        thread = find()
        deliberate = False
        try:
            deliberate = await self._attach(thread, wanted)
        except ThreadwireError as error:
            await self._fail(error)
        except ConnectionError:
            # The client has gone; its thread decides what becomes of its run.
            pass
        except Exception:
            logger.exception("connection failed", thread_id=thread.thread_id)
            await self._fail(InternalError("The server failed."))
        finally:
            self.credential.stop()
            self._ws.release()
            await self._batches.ended()
        _tell_end(self._ws, self._settings, started, thread_id=thread.thread_id, deliberate=deliberate)
        return self._ws.response

    def end(self, code: int, reason: str) -> None:
        """Give the client what it has not read yet, then close; it has ``CLOSE_SECONDS`` for both."""
        # A server that stops lets what runs come to its end.
        if code == CloseCode.RESTART and self._batches.postpone(lambda: self.end(code, reason)):
            return
        if self._end is None:
            self._end = (code, reason)
            self._ws.cut_off_later()
            self._wake()
            self._answers.give_up()

    def tell(self, frame: dict[str, Any]) -> None:
        """Send a frame about the connection itself, such as ``goaway``."""
        self._answers.put(Answer(frame))

    async def _attach(self, thread: Seat, wanted: Wanted) -> bool:
        """Be one of the thread's readers; returns whether the client's code closed it."""
        session = _Session(thread, self._greet(await self._enter(thread, wanted)))
        deliberate = False
        session.cursor.filter = wanted.filter or None
        thread.subscribe(self._raw, wanted.filter if wanted.raw else None)
        try:
            last = await self._run(session)
            # Anything else that ends it is a loss, a broken frame, or our own doing.
            asked = last.type is WSMsgType.CLOSE and last.data in _DELIBERATE
            deliberate = asked and self._end is None
        finally:
            session.cursor.close()
            thread.subscribe(self._raw, None)
            thread.detach(self, deliberate=deliberate)
        await self._ws.part(last)
        return deliberate

    async def _fail(self, error: ThreadwireError) -> None:
        with suppress(ConnectionError):
            await self._send(error_frame(error))
            await self._ws.close(CloseCode.INTERNAL, error.code)

    async def _run(self, session: _Session) -> WSMessage:
        """Read and write until the socket ends; returns the last thing it gave."""
        self._session = session
        self._wake()
        try:
            return await self._read(session)
        finally:
            self._batches.stop()
            self._written = True
            tasks = {
                *self._pages.tasks,
                *self.credential.tasks,
                *({self._writing} if self._writing is not None else ()),
            }
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _enter(self, thread: Seat, wanted: Wanted) -> Attached:
        return await thread.attach(
            self, after=wanted.after, epoch=wanted.epoch, history=wanted.history, wake=self._wake
        )

    def _greet(self, attached: Attached) -> Cursor:
        """Say first of all where it is; all but the cursor is not kept for as long as the connection is there."""
        ready = {"type": "ready", **self._settings.ready, **attached.ready}
        self._answers.put_first(*(found for found in (ready, attached.history, attached.gap) if found is not None))
        return attached.cursor

    def _on_beat(self, alive: bool) -> None:
        if alive:
            self._ping_due = True
            self._wake()
        else:
            self.end(CloseCode.GOING_AWAY, "no answer to the heartbeat")

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self, session: _Session) -> WSMessage:
        while True:
            while self._answers.full and self._end is None and not self._written:
                # Read no further from a client that sends and does not read.
                await self._answers.moved()
            message = await self._ws.receive()
            if isinstance(message.data, WebSocketError):
                # A broken frame; what came before it is answered first.
                self.end(message.data.code, self._ws.why_broken(message.data))
                if self._writing is not None:
                    await asyncio.wait({self._writing})
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return message
            if self._end is not None or self._written:
                # It ends: what the client says now it will say again where it connects next.
                continue
            if message.type is WSMsgType.TEXT:
                self._handle(session, message.data)
                if self._tarry:
                    # Whoever goes on all the same is read as slowly as they may send.
                    await asyncio.sleep(self._tarry)
                    self._tarry = 0.0
            else:
                self._refuse(BadFrame("expected a JSON object in a text message, got a binary one"), None)

    def _handle(self, session: _Session, data: str) -> None:
        try:
            command = decode(data)
        except ThreadwireError as error:
            self._refuse(error, getattr(error, "command_id", None))
            return
        try:
            self._settings.allowance.command(self.credential.grant.user.owner)
        except RateLimited as error:
            self._answers.put(Answer(error_frame(error, command.id)))
            if self._hasty.exceeded(time.monotonic()):
                self._tarry = error.retry_after_seconds or 0.0
            return
        if isinstance(command, Ping):
            cursor = session.cursor
            self._answers.put(Answer(lambda: named({"type": "pong", "seq": cursor.position}, command)))
        elif isinstance(command, Subscribe):
            self._subscribe(session, command)
        elif isinstance(command, History):
            self._pages.read(session.thread, command)
        elif isinstance(command, Batch):
            self._batches.begin(command, self._answers.promise_ack(command.id), self._user)
        elif isinstance(command, Reauth):
            self._reauth(command)
        else:
            answer = self._answers.promise_ack(command.id)
            if not (isinstance(command, Cancel) and self._batches.cancel(command, answer)):
                session.thread.submit(command, answer, self.on_disconnect, self._user)

    @property
    def _user(self) -> dict[str, Any] | None:
        return self.credential.grant.user.for_graph()

    def _reauth(self, command: Reauth) -> None:
        answer = self._answers.promise_ack(command.id)

        def answered(found: dict[str, Any] | ThreadwireError) -> None:
            answer(found)
            if isinstance(found, ThreadwireError):
                # Whoever guesses is not let go on for long.
                self._count_bad()

        self.credential.replace(command.token, answered)

    def _refuse(self, error: ThreadwireError, command_id: str | None) -> None:
        self._answers.put(Answer(error_frame(error, command_id)))
        self._count_bad()

    def _count_bad(self) -> None:
        if self._bad.exceeded(time.monotonic()):
            self.end(CloseCode.PROTOCOL_ABUSE, "too many bad frames")

    def _subscribe(self, session: _Session, command: Subscribe) -> None:
        answer = self._answers.promise_ack(command.id)
        try:
            check_raw(wanted=command.raw, allowed=self._settings.allow_raw)
        except ThreadwireError as error:
            answer(error)
        else:
            wanted = Filter.of(command)
            session.cursor.filter = wanted or None
            session.thread.subscribe(self._raw, wanted if command.raw else None)
            answer({})

    # --- writing ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        """There is something to write."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._writing is None and not self._written and (session := self._session) is not None:
            # Of the connection, and not of the run that happens to be telling something.
            name = f"writer {session.thread.thread_id}"
            self._writing = asyncio.create_task(self._write(session), name=name, context=Context())

    async def _write(self, session: _Session) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if await self._write_some(session) or self._ping_due:
                    continue
                if self._end is not None:
                    break
                if session.thread.idle:
                    # Started again when there is something.
                    self._writing = None
                    return
                self._waiter = loop.create_future()
                await self._waiter
            self._written = True
            await self._ws.send_close(*self._end)
        except ConnectionError:
            # The reading loop sees the loss too, and ends the connection.
            self._written = True
        except Exception:
            self._written = True
            logger.exception("writing failed", thread_id=session.thread.thread_id)
            await self._ws.send_close(CloseCode.INTERNAL, "internal")
        finally:
            self._answers.give_up()

    async def _write_some(self, session: _Session) -> bool:
        """Send the next answer, or the next frames; False where there is nothing to send."""
        if self._ping_due:
            self._ping_due = False
            await self._ws.ping()
        cursor = session.cursor
        answer = self._answers.first()
        if answer is not None and cursor.position >= answer.after:
            self._answers.pop()
            await self._send(answer.made())
            if answer.sent is not None:
                answer.sent.set()
            return True
        # Looked at in one moment: what the log has now was told after all raw events that wait now.
        before, events = cursor.position, len(self._raw)
        try:
            frames = cursor.take(until=answer.after if answer is not None else None)
        except Gap as gap:
            frames = [encode(session.thread.gap(gap.requested, gap.earliest))]
        for _ in range(events):
            if (event := self._raw.take()) is not None:
                await self._ws.send(event)
        for data in frames:
            await self._ws.send(data)
        if (probe := self._settings.tally.probe).under_way:
            probe.passed(session.thread.thread_id, cursor.position)
        if events + len(frames) > 1:
            # A socket that takes all of a long replay would keep everyone else waiting.
            await asyncio.sleep(0)
        return cursor.position != before or events > 0

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._ws.send(encode(frame))


def _tell_end(ws: WebSocket, settings: ConnectionSettings, started: float, **about: Any) -> None:
    """Count a connection that has ended, and log it."""
    code = ws.close_code
    settings.tally.closed[1006 if code is None else code] += 1
    if code is not None:
        ws.response[CLOSE_CODE] = code
    logger.info("connection", **about, close_code=code, duration_ms=round((time.monotonic() - started) * 1000))


@dataclass(frozen=True, slots=True)
class _Session:
    """A connection that is attached."""

    thread: Seat
    cursor: Cursor
