"""One live conversation: the actor that owns a thread's log, its queue of turns, the current run and its readers.

All that changes a thread goes through it, in order: commands are taken one at a time from an inbox, and the turns run
one after another. Between two awaits nothing else happens, so there are no locks. A thread outlives its readers: a
run belongs to it, never to a socket. Knows no WebSocket, only ``Reader``s.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import uuid_utils

from threadwire import failures
from threadwire.errors import (
    Busy,
    CommandError,
    InternalError,
    InvalidArgument,
    NoActiveRun,
    NoSuchInterrupt,
    NoSuchMessage,
    NoSuchRun,
    QueueFull,
    ShuttingDown,
    ThreadwireError,
)
from threadwire.events import Filter, Origin
from threadwire.graph import MESSAGES, Graph
from threadwire.history import message_id, page, to_wire, user_message
from threadwire.log import Cursor, Log
from threadwire.logs import get_logger
from threadwire.protocol import Cancel, Command, Respond, Send
from threadwire.repair import make_whole
from threadwire.run import Outcome, Run, RunLimits
from threadwire.storage import OnDisconnect, RunRow, Storage

logger = get_logger(__name__)

Answer = Callable[[dict[str, Any] | ThreadwireError], None]


class Reader(Protocol):
    """Who is attached to a thread."""

    #: For the runs this reader starts.
    on_disconnect: OnDisconnect

    def end(self, code: int, reason: str) -> None:
        """Give it what it has not read yet, then close it with ``code``."""
        ...


@dataclass(frozen=True, slots=True)
class ThreadParts:
    """What every thread of a server shares."""

    graph: Graph
    storage: Storage
    policy: Filter
    run_limits: RunLimits
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


@dataclass(slots=True)
class _Pending:
    """A turn that waits."""

    row: RunRow
    #: Why it will not run after all; None while it will.
    stopped: str | None = None


class Thread:
    """See the module. Made cheaply: it reads nothing and starts nothing before it is asked to."""

    def __init__(self, thread_id: str, parts: ThreadParts, *, minted: bool = False) -> None:
        self.thread_id = thread_id
        self.log = Log(uuid_utils.uuid4().hex, parts.max_log_bytes)
        self.readers: set[Reader] = set()
        self.draining = False
        self.deleted = False
        self._parts = parts
        self._loaded = minted
        self._exists = False
        self._known: set[str] | None = set() if minted else None
        self._queue: deque[_Pending] = deque()
        self._run: Run | None = None
        self._run_first_seq = 0
        self._turn: asyncio.Task[None] | None = None
        # Pending interrupts as stored: the wire's, and the run that asked.
        self._waiting: list[dict[str, Any]] = []
        self._inbox: deque[tuple[Callable[[Answer], Awaitable[None]], Answer]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        # Moves on whenever what `history` must be made from changes hands between the run and the checkpointer.
        self._version = 0
        # (when a run ended, the last number of its frames): they go after `log.keep_seconds`.
        self._ended: deque[tuple[float, int]] = deque()
        self.touched_at = time.monotonic()

    # --- readers ------------------------------------------------------------------------------------------------------

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
        self.readers.add(reader)
        self._stop_grace()
        try:
            await self._load()
            resumable = after is not None and epoch == self.log.epoch and self.log.first - 1 <= after <= self.log.last
            wanted = None if history is None or resumable else await self._history(None, history)
        except BaseException:
            self.detach(reader, deliberate=False)
            raise
        # From here to the return nothing else runs.
        position, resume, lost = self._place(after, epoch, with_history=wanted is not None)
        ready = {
            "thread_id": self.thread_id,
            "created": not self._exists,
            "epoch": self.log.epoch,
            "seq": self.log.last,
            "resume": resume,
            "run": self._run_info(),
            "queue": [_queued(pending.row) for pending in self._queue if pending.stopped is None],
            "interrupts": self.interrupts(),
        }
        gap = None if lost is None else self.gap(lost, position + 1)
        return Attached(self.log.cursor(position, wake), ready, gap, wanted)

    def _place(self, after: int | None, epoch: str | None, *, with_history: bool) -> tuple[int, str, int | None]:
        """Where a reader starts: its position, the word for it, and the first frame it will never get, if any."""
        log = self.log
        if after is not None:
            if epoch == log.epoch and log.first - 1 <= after <= log.last:
                return after, "replayed", None
            return (log.last if with_history else log.first - 1), "gap", after + 1
        if with_history or self._run is None or not self._run_first_seq:
            return log.last, "fresh", None
        if self._run_first_seq < log.first:
            return log.first - 1, "gap", self._run_first_seq
        return self._run_first_seq - 1, "fresh", None

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
        self.readers.discard(reader)
        self.touched_at = time.monotonic()
        if self.readers or not (self._run or self._queue or self._inbox):
            return
        seconds = 0.0 if deliberate else self._parts.disconnect_grace_seconds
        if seconds > 0:
            self._stop_grace()
            self._grace = asyncio.get_running_loop().call_later(seconds, self._leave)
        else:
            self._leave()

    def _stop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _leave(self) -> None:
        """Nobody is here any more: each turn follows its own ``on_disconnect``."""
        self._grace = None
        if self._run is not None and self._run.row.on_disconnect == "cancel":
            self._run.cancel("disconnect")
        for pending in self._queue:
            self._follow_disconnect(pending)
        self._pump()

    def _follow_disconnect(self, pending: _Pending) -> None:
        if pending.row.on_disconnect == "cancel" and pending.stopped is None:
            pending.stopped = "disconnect"

    # --- commands -----------------------------------------------------------------------------------------------------

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
        self.touched_at = time.monotonic()
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
                    await self._load()
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
        if send.multitask_strategy not in (None, "enqueue"):
            raise InvalidArgument("multitask_strategy", f"{send.multitask_strategy!r} is not available yet: use 'enqueue'")
        if send.stream not in (None, "events"):
            raise InvalidArgument("stream", f"{send.stream!r} is not available yet: use 'events'")
        if send.checkpoint_id is not None:
            raise InvalidArgument("checkpoint_id", "going on from a checkpoint is not available yet")
        self._parts.graph.check_context(send.context)
        row = RunRow(
            run_id=_uuid(send.run_id),
            thread_id=self.thread_id,
            trigger="send",
            message_id=send.message_id or str(uuid_utils.uuid4()),
            request={"content": send.content, **({"context": send.context} if send.context is not None else {})},
            on_disconnect=on_disconnect,
            created_at=time.time(),
        )
        known = await self._known_ids()
        if row.message_id in known or len(self._queue) >= self._parts.max_queued or self.draining:
            # A repeat is answered as before, whatever the thread is doing now.
            if await self._answer_repeat(row, send.message_id, answer):
                return
            self._refuse_full()
            raise InvalidArgument("message_id", "already used in this thread")
        await self._accept(row, send.message_id, answer)

    async def _respond(self, respond: Respond, answer: Answer, on_disconnect: OnDisconnect) -> None:
        row = RunRow(
            run_id=_uuid(respond.run_id),
            thread_id=self.thread_id,
            trigger="respond",
            message_id=None,
            request={"responses": respond.responses},
            on_disconnect=on_disconnect,
            created_at=time.time(),
        )
        waiting = {interrupt["id"] for interrupt in self._waiting}
        unknown = sorted(set(respond.responses) - waiting)
        if unknown or self._run is not None or self.draining:
            if await self._answer_repeat(row, None, answer):
                return
            if self.draining:
                raise ShuttingDown("The server is going to stop.")
            if self._run is not None:
                raise Busy("A run is active on this thread.")
            raise NoSuchInterrupt(f"The thread does not wait for an answer to {unknown[0][:64]!r}.")
        await self._accept(row, None, answer)

    def _refuse_full(self) -> None:
        if self.draining:
            raise ShuttingDown("The server is going to stop.")
        if len(self._queue) >= self._parts.max_queued:
            raise QueueFull(f"{len(self._queue)} turns wait on this thread already.")

    async def _accept(self, row: RunRow, said_message_id: str | None, answer: Answer) -> None:
        """Commit a turn, acknowledge it, and start it or let it wait."""
        try:
            await self._parts.storage.accept_run(row)
        except InvalidArgument:
            if await self._answer_repeat(row, said_message_id, answer):
                return
            raise
        self._exists = True
        answer({"run_id": row.run_id, **({"message_id": row.message_id} if row.message_id else {})})
        pending = _Pending(row)
        if not self.readers and self._grace is None:
            # Whoever sent it has closed meanwhile.
            self._follow_disconnect(pending)
        if row.trigger == "respond":
            self._queue.appendleft(pending)
        else:
            self._queue.append(pending)
        if not self._pump() and row.message_id is not None:
            position = len(self._queue)
            message = _user_wire(row)
            self._tell({"type": "run_queued", "run_id": row.run_id, "message": message, "position": position})

    async def _answer_repeat(self, row: RunRow, said_message_id: str | None, answer: Answer) -> bool:
        """Answer a command the thread has seen with its first answer; False where it has not."""
        first = await self._parts.storage.get_run(self.thread_id, row.run_id)
        if first is None:
            return False
        content = row.request.get("content")
        changed = said_message_id is not None and first.message_id != said_message_id
        if changed or first.trigger != row.trigger or first.request.get("content") != content:
            raise InvalidArgument("run_id", "already used on this thread for another command")
        found = {"message_id": first.message_id} if first.message_id else {}
        answer({"run_id": first.run_id, **found, "duplicate": True})
        return True

    async def _cancel(self, cancel: Cancel, answer: Answer) -> None:
        run = self._run
        if run is not None and cancel.run_id in (None, run.row.run_id):
            answer({"run_id": run.row.run_id})
            run.cancel("client")
            return
        for pending in self._queue:
            if pending.row.run_id == cancel.run_id:
                self._queue.remove(pending)
                answer({"run_id": pending.row.run_id})
                await self._finish(pending.row, Outcome("cancelled", "client"), 0)
                return
        if self._waiting and run is None and cancel.run_id in (None, self._waiting[0]["run_id"]):
            answer({"run_id": self._waiting[0]["run_id"]})
            await self._drop_question()
            return
        if cancel.run_id is None:
            raise NoActiveRun("No run is active on this thread.")
        if await self._parts.storage.get_run(self.thread_id, cancel.run_id) is None:
            raise NoSuchRun("This thread has never seen that run.")
        raise NoActiveRun("That run has already ended.")

    async def _drop_question(self) -> None:
        """Stop waiting for a person: what asked is cleared, its tool calls are closed."""
        self._waiting = []
        self._version += 1
        parts = self._parts
        await make_whole(
            parts.graph, parts.storage, self.thread_id, user=None, said=lambda _unfinished: [], status="cancelled"
        )
        await parts.storage.set_thread_status(self.thread_id, "idle", [])
        self._version += 1
        self._known = None
        await self._known_ids()
        self._pump()

    async def delete(self) -> bool:
        """Stop everything, delete the thread for good, close its readers with 4404; False where there was none."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def operation(_answer: Answer) -> None:
            for pending in self._queue:
                pending.stopped = "deleted"
            if self._run is not None:
                self._run.cancel("deleted")
            while self._turn is not None:
                await asyncio.wait({self._turn})
            self.deleted = True
            existed = await self._parts.storage.delete_thread(self.thread_id)
            if not done.done():
                done.set_result(existed)
            for reader in list(self.readers):
                reader.end(4404, "the thread was deleted")

        def failed(error: dict[str, Any] | ThreadwireError) -> None:
            if isinstance(error, ThreadwireError) and not done.done():
                done.set_exception(error)

        self._post(operation, failed)
        return await done

    # --- turns --------------------------------------------------------------------------------------------------------

    def _pump(self) -> bool:
        """Start the next turn if none is active; False where the queue must wait."""
        if self._run is not None or self._turn is not None:
            return False
        if not self._queue:
            return False
        pending = self._queue[0]
        if self._waiting and pending.row.trigger != "respond" and pending.stopped is None:
            return False
        if self.draining and pending.stopped is None:
            return False
        self._queue.popleft()
        self._turn = asyncio.create_task(self._take_turn(pending), name=f"turn {pending.row.run_id}")
        if pending.stopped is None:
            self._run = self._new_run(pending.row)
            self._version += 1
        return True

    def _new_run(self, row: RunRow) -> Run:
        parts = self._parts
        if self._known is None:
            raise RuntimeError("a turn starts after the thread's messages are known")
        return Run(
            row,
            graph=parts.graph,
            storage=parts.storage,
            policy=parts.policy,
            limits=parts.run_limits,
            known=self._known,
            tell=self._tell,
        )

    async def _take_turn(self, pending: _Pending) -> None:
        row, run = pending.row, self._run
        started = time.monotonic()
        try:
            if run is None:
                outcome = await self._leave_message(row, pending.stopped or "disconnect")
            else:
                outcome = await self._run_turn(row, run)
        except Exception as error:
            logger.exception("turn failed", thread_id=self.thread_id, run_id=row.run_id)
            known = failures.explain(error)
            if known.code != "storage_error":
                known = InternalError("The server failed.")
            outcome = Outcome("failed", "error", {"code": known.code, "message": known.message})
        await self._finish(row, outcome, round((time.monotonic() - started) * 1000))
        self._run, self._turn, self._run_first_seq = None, None, 0
        self._version += 1
        self._ended.append((time.monotonic(), self.log.last))
        self.touched_at = time.monotonic()
        self._pump()

    async def _run_turn(self, row: RunRow, run: Run) -> Outcome:
        await self._parts.storage.start_run(row.run_id, time.time())
        self._waiting = []
        self._tell({"type": "run_started", "run_id": row.run_id, "trigger": row.trigger})
        self._run_first_seq = self.log.last
        if row.message_id is not None:
            if self._known is not None:
                self._known.add(row.message_id)
            self._tell({"type": "message", "message": _user_wire(row)})
        return await run.execute()

    async def _leave_message(self, row: RunRow, reason: str) -> Outcome:
        """A turn that ended before it started, not by its client's wish, leaves its message in the thread."""
        parts = self._parts
        if row.message_id is not None and reason != "deleted":
            user = user_message(row.request["content"], row.message_id)
            await make_whole(
                parts.graph, parts.storage, self.thread_id, user=user, said=lambda _unfinished: [], status="cancelled"
            )
            if self._known is not None:
                self._known.add(row.message_id)
            self._tell({"type": "message", "message": _user_wire(row)})
        return Outcome("cancelled", reason)

    async def _finish(self, row: RunRow, outcome: Outcome, duration_ms: int) -> None:
        """Make a turn's end durable, then tell it, once."""
        interrupts = [{**interrupt, "run_id": row.run_id} for interrupt in outcome.interrupts]
        status = {"interrupted": "interrupted", "failed": "error"}.get(outcome.status, "idle")
        if self._run is not None and self._run.row is not row:
            # It only waited: the thread is what the turn in hand, or the question, makes it.
            status = "busy"
        elif self._waiting and not interrupts:
            status, interrupts = "interrupted", self._waiting
        try:
            await self._parts.storage.finish_run(
                row.run_id,
                status=outcome.status,
                reason=outcome.reason,
                error=outcome.error,
                usage=outcome.usage,
                at=time.time(),
                thread_status=status,  # type: ignore[arg-type]
                interrupts=interrupts,
            )
        except Exception as error:
            logger.exception("run's end not stored", thread_id=self.thread_id, run_id=row.run_id)
            known = failures.explain(error)
            outcome = Outcome("failed", "error", {"code": known.code, "message": known.message}, outcome.usage)
        if outcome.status == "interrupted":
            self._waiting = interrupts
            self._tell({"type": "interrupt", "run_id": row.run_id, "interrupts": self.interrupts()})
        self._tell(
            {
                "type": "run_finished",
                "run_id": row.run_id,
                "status": outcome.status,
                "reason": outcome.reason,
                "error": outcome.error,
                "usage": outcome.usage,
                "duration_ms": duration_ms,
            }
        )
        logger.info(
            "run",
            thread_id=self.thread_id,
            run_id=row.run_id,
            trigger=row.trigger,
            status=outcome.status,
            reason=outcome.reason,
            duration_ms=duration_ms,
            **(outcome.usage or {}),
        )

    def _tell(self, frame: dict[str, Any], origin: Origin | None = None) -> None:
        self.log.append(frame, origin)

    # --- what is known of it ------------------------------------------------------------------------------------------

    async def history(self, before: str | None, limit: int | None) -> dict[str, Any]:
        """A ``history`` frame; its ``seq`` is the log position it is true for."""
        await self._load()
        return await self._history(before, limit or self._parts.history_page)

    async def _history(self, before: str | None, limit: int) -> dict[str, Any]:
        if self._parts.history_page:
            limit = min(limit, self._parts.history_page)
        while True:
            version = self._version
            messages = await self._messages()
            if version == self._version:
                break
        found = page(messages, before, limit)
        if found is None:
            raise NoSuchMessage(f"The thread has no message {str(before)[:64]!r}.")
        return {"type": "history", "messages": found[0], "before": found[1], "seq": self.log.last}

    async def _messages(self) -> list[dict[str, Any]]:
        """All messages, the ones being written included; no await where a run is past its first step."""
        run = self._run
        stored = run.transcript.state if run is not None else None
        if stored is None:
            stored = await self._stored()
        wires = [to_wire(message, message_id(message, index)) for index, message in enumerate(stored)]
        if run is not None and self._run is run:
            ids = {wire["id"] for wire in wires}
            if self._run_first_seq and run.user is not None and run.user.id not in ids:
                wires.append(_user_wire(run.row))
            wires.extend(wire for wire in run.transcript.overlay() if wire["id"] not in ids)
        return wires

    async def _stored(self) -> list[Any]:
        if not self._exists:
            return []
        graph = self._parts.graph.for_state(self._parts.storage.reader)
        snapshot = await graph.aget_state({"configurable": {"thread_id": self.thread_id}})
        return list(snapshot.values.get(MESSAGES) or [])

    async def _known_ids(self) -> set[str]:
        if self._known is None:
            stored = await self._stored()
            self._known = {message_id(message, index) for index, message in enumerate(stored)}
        return self._known

    async def _load(self) -> None:
        if not self._loaded:
            row = await self._parts.storage.get_thread(self.thread_id)
            if not self._loaded:
                self._loaded = True
                self._exists = row is not None
                self._waiting = row.interrupts if row is not None else []
                if row is None:
                    self._known = set()

    def interrupts(self) -> list[dict[str, Any]]:
        """Pending interrupts as the wire has them."""
        return [{key: value for key, value in found.items() if key != "run_id"} for found in self._waiting]

    def _run_info(self) -> dict[str, Any] | None:
        if self._run is not None:
            status = "running" if self._run.stopping is None else "cancelling"
            return {"run_id": self._run.row.run_id, "status": status}
        if self._waiting:
            return {"run_id": self._waiting[0]["run_id"], "status": "interrupted"}
        return None

    @property
    def active(self) -> bool:
        """Whether it has work in hand."""
        return bool(self._run or self._turn or self._inbox or self._queue)

    @property
    def running(self) -> bool:
        """Whether a run is going on, or a command that may start one is being taken."""
        return self._turn is not None or bool(self._inbox)

    def sweep(self, now: float, keep_seconds: float) -> bool:
        """Drop frames whose time is over; True where nothing is left that needs this thread in memory."""
        while self._ended and now - self._ended[0][0] >= keep_seconds:
            self.log.trim_to(self._ended.popleft()[1])
        return not (self.active or self.readers or self._ended) and now - self.touched_at >= keep_seconds

    # --- the server's end ---------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Start nothing more."""
        self.draining = True

    async def stop(self, reason: str) -> None:
        """Stop the run and what waits, and return when all is told."""
        for pending in self._queue:
            pending.stopped = pending.stopped or reason
        if self._run is not None:
            self._run.cancel(reason)
        else:
            self._pump()
        while (tasks := {task for task in (self._turn, self._worker) if task is not None}):
            await asyncio.wait(tasks)


def _uuid(given: str | None) -> str:
    return given.lower() if given is not None else str(uuid_utils.uuid7())


def _user_wire(row: RunRow) -> dict[str, Any]:
    return {"id": row.message_id, "role": "user", "content": row.request["content"]}


def _queued(row: RunRow) -> dict[str, Any]:
    return {"run_id": row.run_id, "message_id": row.message_id, "content": row.request.get("content")}


__all__ = ["Answer", "Attached", "CommandError", "Reader", "Thread", "ThreadParts"]
