"""One live conversation: the actor that owns a thread's log, its queue of turns, the current one and its readers.

All that changes a thread goes through it, in order: commands are taken one at a time from an inbox, and turns run one
after another. Between two awaits nothing else happens, so there are no locks. A thread outlives its readers: a run
belongs to it, never to a socket. Knows no WebSocket, only ``Reader``s.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import uuid_utils
from langchain_core.messages import BaseMessage, ToolMessage

from threadwire import failures
from threadwire.conversation import Conversation
from threadwire.errors import (
    Busy,
    InternalError,
    InvalidArgument,
    NoActiveRun,
    NoSuchInterrupt,
    NoSuchRun,
    QueueFull,
    ShuttingDown,
    ThreadwireError,
)
from threadwire.filters import Origin
from threadwire.history import message_id, to_wire, user_wire
from threadwire.intake import Intake, answer_of
from threadwire.log import Cursor, Log
from threadwire.logs import get_logger
from threadwire.protocol import Cancel, CloseCode, Command, Respond, Send
from threadwire.readers import Reader, Readers
from threadwire.repair import make_whole
from threadwire.run import Outcome
from threadwire.storage import OnDisconnect, RunRow
from threadwire.turn import Turn, TurnParts

logger = get_logger(__name__)

Answer = Callable[[dict[str, Any] | ThreadwireError], None]


@dataclass(frozen=True, slots=True)
class ThreadParts:
    """What every thread of a server shares."""

    turns: TurnParts
    max_queued: int
    disconnect_grace_seconds: float
    max_log_bytes: int
    history_page: int


@dataclass(slots=True)
class Attached:
    """What a reader gets on attaching: true for one moment, between two frames."""

    cursor: Cursor
    #: The fields of ``ready`` that are the thread's.
    ready: dict[str, Any]
    #: A ``gap`` frame to send after it, or None.
    gap: dict[str, Any] | None
    #: The ``history`` frame that was asked for, or None.
    history: dict[str, Any] | None


class Thread:
    """See the module. Made cheaply: it reads nothing and starts nothing before it is asked to."""

    def __init__(self, thread_id: str, parts: ThreadParts, *, minted: bool = False) -> None:
        self.thread_id = thread_id
        self.log = Log(uuid_utils.uuid4().hex, parts.max_log_bytes)
        self.draining = False
        self.deleted = False
        self._parts = parts
        graph, storage = parts.turns.graph, parts.turns.storage
        self._said = Conversation(thread_id, graph, storage, parts.history_page, minted=minted)
        self._intake = Intake(thread_id, graph, storage)
        self._readers = Readers(parts.disconnect_grace_seconds, self._alone)
        self._queue: deque[Turn] = deque()
        # The turn in hand, and the task that takes it.
        self._turn: Turn | None = None
        self._taking: asyncio.Task[None] | None = None
        self._inbox: deque[tuple[Callable[[Answer], Awaitable[None]], Answer]] = deque()
        self._worker: asyncio.Task[None] | None = None
        # (when a turn ended, the last number of its frames): they go after `log.keep_seconds`.
        self._ended: deque[tuple[float, int]] = deque()
        self._touched_at = time.monotonic()

    # --- readers ---

    async def attach(
        self,
        reader: Reader,
        *,
        after: int | None = None,
        epoch: str | None = None,
        history: int | None = None,
        wake: Callable[[], None] | None = None,
    ) -> Attached:
        """Let a reader in; atomic with the log and with ``history``: it misses nothing and gets nothing twice."""
        self._readers.add(reader)
        try:
            await self._said.load()
            wanted = None
            if history is not None and not self._resumable(after, epoch):
                wanted = await self._history_frame(None, history)
        except BaseException:
            self.detach(reader, deliberate=False)
            raise
        if self.deleted:
            self.detach(reader, deliberate=False)
            raise InvalidArgument("thread_id", "the thread was deleted")
        # From here to the return nothing else runs.
        position, resume, lost = self._place(after, epoch, with_history=wanted is not None)
        ready = {
            "thread_id": self.thread_id,
            "created": not self._said.exists,
            "epoch": self.log.epoch,
            "seq": self.log.last,
            "resume": resume,
            "run": self._run_info(),
            "queue": [_queued(turn) for turn in self._queue if turn.stopped is None],
            "interrupts": self._said.interrupts(),
        }
        gap = None if lost is None else self.gap(lost, position + 1)
        return Attached(self.log.cursor(position, wake), ready, gap, wanted)

    def _resumable(self, after: int | None, epoch: str | None) -> bool:
        return after is not None and epoch == self.log.epoch and self.log.first - 1 <= after <= self.log.last

    def _place(self, after: int | None, epoch: str | None, *, with_history: bool) -> tuple[int, str, int | None]:
        """Where a reader starts: its position, the word for it, and the first frame it will never get, if any."""
        log = self.log
        if after is not None:
            if self._resumable(after, epoch):
                return after, "replayed", None
            return (log.last if with_history else log.first - 1), "gap", after + 1
        began = self._turn.first_seq if self._turn is not None else 0
        if with_history or not began:
            return log.last, "fresh", None
        if began < log.first:
            return log.first - 1, "gap", began
        return began - 1, "fresh", None

    def gap(self, requested: int, earliest: int) -> dict[str, Any]:
        """The frame that tells a reader what it has lost."""
        return {
            "type": "gap",
            "requested": requested,
            "earliest": earliest,
            "epoch": self.log.epoch,
            "run": self._run_info(),
        }

    def detach(self, reader: Reader, *, deliberate: bool) -> None:
        """A reader has gone: ``deliberate`` when its code closed, else it may come back within the grace."""
        self._touched_at = time.monotonic()
        self._readers.remove(reader, deliberate=deliberate)

    def _alone(self) -> None:
        """Nobody is here any more: each turn follows its own ``on_disconnect``."""
        if self._turn is not None:
            self._turn.disconnect()
        for turn in self._queue:
            turn.disconnect()
        self._pump()

    # --- commands ---

    def submit(self, command: Command, answer: Answer, on_disconnect: OnDisconnect) -> None:
        """Take a command that changes the thread; ``answer`` is called once, before any frame that follows from it."""
        if isinstance(command, Send):
            send = command
            self._post(lambda reply: self._send(send, reply, on_disconnect), answer)
        elif isinstance(command, Cancel):
            cancel = command
            self._post(lambda reply: self._cancel(cancel, reply), answer)
        elif isinstance(command, Respond):
            respond = command
            self._post(lambda reply: self._respond(respond, reply, on_disconnect), answer)
        else:
            answer(InvalidArgument("type", f"{command.type} is not available yet"))

    def _post(self, operation: Callable[[Answer], Awaitable[None]], answer: Answer) -> None:
        self._inbox.append((operation, answer))
        self._touched_at = time.monotonic()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name=f"thread {self.thread_id}")

    async def _work(self) -> None:
        """Commands, one at a time; the task lives only while there are any."""
        try:
            while self._inbox:
                operation, answer = self._inbox[0]
                try:
                    if self.deleted:
                        raise InvalidArgument("thread_id", "the thread was deleted")  # noqa: TRY301
                    await self._said.load()
                    await operation(answer)
                except ThreadwireError as error:
                    answer(error)
                except Exception as error:
                    logger.exception("command failed", thread_id=self.thread_id)
                    known = failures.explain(error)
                    answer(known if known.code == "storage_error" else InternalError("The server failed to do that."))
                finally:
                    self._inbox.popleft()
        finally:
            self._worker = None

    async def _send(self, send: Send, answer: Answer, on_disconnect: OnDisconnect) -> None:
        row = self._intake.row(send, on_disconnect)
        taken = send.message_id is not None and await self._said.has(send.message_id)
        full = len(self._queue) >= self._parts.max_queued
        if taken or full or self.draining:
            # A repeat is answered as it was, whatever the thread is doing now.
            if (repeat := await self._intake.repeat(row, send)) is not None:
                answer(repeat)
                return
            if self.draining:
                raise ShuttingDown("The server is going to stop.")
            if full:
                raise QueueFull(f"{len(self._queue)} turns wait on this thread already.")
            raise InvalidArgument("message_id", "already used in this thread")
        if (repeat := await self._intake.accept(row, send)) is not None:
            answer(repeat)
            return
        answer(answer_of(row))
        turn = self._new_turn(row)
        self._queue.append(turn)
        if not self._pump():
            message = user_wire(send.content, row.message_id or "")
            position = len(self._queue)
            self._tell({"type": "run_queued", "run_id": row.run_id, "message": message, "position": position})

    async def _respond(self, respond: Respond, answer: Answer, on_disconnect: OnDisconnect) -> None:
        row = self._intake.row(respond, on_disconnect)
        unknown = sorted(set(respond.responses) - {interrupt["id"] for interrupt in self._said.waiting})
        if unknown or self._turn is not None or self.draining:
            if (repeat := await self._intake.repeat(row, respond)) is not None:
                answer(repeat)
                return
            if self.draining:
                raise ShuttingDown("The server is going to stop.")
            if self._turn is not None:
                raise Busy("A run is active on this thread.")
            raise NoSuchInterrupt(f"The thread does not wait for an answer to {unknown[0][:64]!r}.")
        if (repeat := await self._intake.accept(row, respond)) is not None:
            answer(repeat)
            return
        answer(answer_of(row))
        self._queue.appendleft(self._new_turn(row))
        self._pump()

    def _new_turn(self, row: RunRow) -> Turn:
        self._said.exists = True
        turn = Turn(row, self._parts.turns, self._said, self._tell)
        if self._readers.gone:
            # Whoever sent it has closed meanwhile.
            turn.disconnect()
        return turn

    async def _cancel(self, cancel: Cancel, answer: Answer) -> None:
        wanted = cancel.run_id.lower() if cancel.run_id is not None else None
        if self._turn is not None and wanted in (None, self._turn.run_id):
            answer({"run_id": self._turn.run_id})
            self._turn.cancel("client")
            return
        for turn in self._queue:
            if turn.run_id == wanted:
                self._queue.remove(turn)
                answer({"run_id": turn.run_id})
                await turn.finish(Outcome("cancelled", "client"), 0, thread_busy=self._turn is not None)
                return
        waiting = self._said.waiting
        if waiting and self._turn is None and wanted in (None, waiting[0]["run_id"]):
            answer({"run_id": waiting[0]["run_id"]})
            await self._drop_question()
            return
        if wanted is None:
            raise NoActiveRun("No run is active on this thread.")
        if await self._parts.turns.storage.get_run(self.thread_id, wanted) is None:
            raise NoSuchRun("This thread has never seen that run.")
        raise NoActiveRun("That run has already ended.")

    async def _drop_question(self) -> None:
        """Stop waiting for a person: what asked is cleared, its tool calls are closed."""
        parts = self._parts.turns
        messages = await make_whole(
            parts.graph, parts.storage, self.thread_id, user=None, said=lambda _unfinished: [], status="cancelled"
        )
        await parts.storage.set_thread_status(self.thread_id, "idle", [])
        known = await self._said.known()
        for index, message in enumerate(messages):
            identity = message_id(message, index)
            if identity not in known and isinstance(message, ToolMessage):
                known.add(identity)
                self._tell(_closed_call(message, self._said.waiting[0]["run_id"]))
        self._said.waiting = []
        self._said.moved(None)
        self._pump()

    def created(self) -> None:
        """Its row was made without a command."""
        self._said.exists = True

    async def delete(self) -> bool:
        """Stop everything, delete the thread for good, close its readers with 4404; False where there was none."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def operation(_answer: Answer) -> None:
            await self._stop_turns("deleted")
            self.deleted = True
            existed = await self._parts.turns.storage.delete_thread(self.thread_id)
            for reader in self._readers:
                reader.end(CloseCode.THREAD_DELETED, "the thread was deleted")
            if not done.done():
                done.set_result(existed)

        def failed(error: dict[str, Any] | ThreadwireError) -> None:
            if isinstance(error, ThreadwireError) and not done.done():
                done.set_exception(error)

        self._post(operation, failed)
        return await done

    # --- turns ---

    def _pump(self) -> bool:
        """Take the next turn if none is in hand; False where the queue must wait."""
        if self._turn is not None or not self._queue:
            return False
        turn = self._queue[0]
        held = self.draining or (self._said.waiting and turn.row.trigger != "respond")
        if held and turn.stopped is None:
            return False
        self._turn = self._queue.popleft()
        # Begun here and not in the task: a cancel may come before the task has started.
        self._turn.begin()
        self._taking = asyncio.create_task(self._take(self._turn), name=f"turn {turn.run_id}")
        return True

    async def _take(self, turn: Turn) -> None:
        await turn.take()
        self._turn = self._taking = None
        self._said.moved(None)
        self._touched_at = time.monotonic()
        self._ended.append((self._touched_at, self.log.last))
        self._pump()

    async def _stop_turns(self, reason: str) -> None:
        """Stop the turn in hand and those that wait, and return when all is told."""
        for turn in self._queue:
            turn.cancel(reason)
        if self._turn is not None:
            self._turn.cancel(reason)
        self._pump()
        while self._taking is not None:
            await asyncio.wait({self._taking})

    def _tell(self, frame: dict[str, Any], origin: Origin | None = None) -> int:
        return self.log.append(frame, origin)

    # --- what is known of it ---

    async def history(self, before: str | None, limit: int | None) -> dict[str, Any]:
        """A ``history`` frame; its ``seq`` is the log position it is true for. Raises ``NoSuchMessage``."""
        await self._said.load()
        return await self._history_frame(before, limit)

    async def _history_frame(self, before: str | None, limit: int | None) -> dict[str, Any]:
        messages, cursor = await self._said.history(before, limit)
        return {"type": "history", "messages": messages, "before": cursor, "seq": self.log.last}

    def _run_info(self) -> dict[str, Any] | None:
        if self._turn is not None:
            return {"run_id": self._turn.run_id, "status": "cancelling" if self._turn.stopping else "running"}
        if self._said.waiting:
            return {"run_id": self._said.waiting[0]["run_id"], "status": "interrupted"}
        return None

    @property
    def running(self) -> bool:
        """Whether a turn is in hand, or a command that may bring one is being taken."""
        return self._turn is not None or bool(self._inbox)

    def sweep(self, now: float, keep_seconds: float) -> bool:
        """Drop frames whose time is over; True where nothing is left that needs this thread in memory."""
        while self._ended and now - self._ended[0][0] >= keep_seconds:
            self.log.trim_to(self._ended.popleft()[1])
        used = self.running or self._queue or len(self._readers) or self._ended
        return not used and now - self._touched_at >= keep_seconds

    # --- the server's end ---

    def drain(self) -> None:
        """Start nothing more."""
        self.draining = True

    async def stop(self, reason: str) -> None:
        """Stop everything, and return when all is told."""
        self._readers.close()
        await self._stop_turns(reason)
        await self.settled()

    async def settled(self) -> None:
        """Wait until no turn is in hand and no command is being taken."""
        while tasks := {task for task in (self._taking, self._worker) if task is not None}:
            await asyncio.wait(tasks)


def _closed_call(message: BaseMessage, run_id: str) -> dict[str, Any]:
    """What dropping a question adds to a thread is the results of the calls that asked."""
    wire = to_wire(message, message.id or "")
    return {
        "type": "tool_result",
        "run_id": run_id,
        "id": wire.get("tool_call_id", ""),
        "name": wire.get("name", ""),
        "result": wire["content"],
        "status": "error",
        "duration_ms": None,
    }


def _queued(turn: Turn) -> dict[str, Any]:
    row = turn.row
    return {"run_id": row.run_id, "message_id": row.message_id, "content": row.request.get("content")}
