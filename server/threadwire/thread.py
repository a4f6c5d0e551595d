"""One live conversation: the actor that owns a thread's log, its turns and its readers.

All that changes a thread goes through it, in order: commands are taken one at a time from an inbox, and turns run one
after another. Between two awaits nothing else happens, so there are no locks. A thread outlives its readers: a run
belongs to it, never to a socket. Knows no WebSocket, only ``Reader``s.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

import uuid_utils

from threadwire.admission import Admission
from threadwire.allowance import Allowance
from threadwire.attachment import Attached, place, resumable
from threadwire.conversation import Conversation
from threadwire.errors import (
    InvalidArgument,
    StorageError,
    ThreadwireError,
)
from threadwire.filters import Filter
from threadwire.history import user_wire
from threadwire.inbox import Answer, Inbox, Operation
from threadwire.intake import Intake
from threadwire.journal import Journal, Record
from threadwire.log import Cursor, Log
from threadwire.logs import get_logger
from threadwire.protocol import Cancel, CloseCode, Command, Edit, MultitaskStrategy, Regenerate, Respond, Send
from threadwire.question import Question
from threadwire.raw import RawFeed, RawReader
from threadwire.readers import Reader, Readers
from threadwire.recovery import end_lost, left_message
from threadwire.rewind import Rewind
from threadwire.run import Outcome
from threadwire.storage import OnDisconnect, RunRow
from threadwire.turn import Turn, TurnParts
from threadwire.turns import Turns

logger = get_logger(__name__)

#: How long after a recovery that failed it is tried again.
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ThreadParts:
    """What every thread of a server shares."""

    turns: TurnParts
    journal: Journal
    allowance: Allowance
    multitask_strategy: MultitaskStrategy
    max_queued: int
    disconnect_grace_seconds: float
    max_log_bytes: int
    history_page: int
    keep_checkpoints: int
    allow_raw: bool


class Thread:
    """See the module. It reads nothing and starts nothing before it is asked to."""

    def __init__(self, thread_id: str, parts: ThreadParts, *, epoch: str | None = None) -> None:
        """``epoch``: there is no such thread yet, and its readers have been told that its log will have this one."""
        minted = epoch is not None
        self.thread_id = thread_id
        self.log = Log(epoch or uuid_utils.uuid4().hex, parts.max_log_bytes, journaled=True)
        self.raw = RawFeed(parts.turns.policy, allowed=parts.allow_raw)
        self.deleted = False
        self._parts = parts
        graph, storage = parts.turns.graph, parts.turns.storage
        self._record = Record(thread_id, self.log, parts.journal)
        self._said = Conversation(thread_id, graph, storage, parts.history_page, minted=minted)
        self._rewind = Rewind(self._said, graph, storage)
        self._question = Question(self._said, self._rewind, self._record, graph=graph, storage=storage)
        self._intake = Intake(
            self._said, self._rewind, self._record, graph=graph, storage=storage, strategy=parts.multitask_strategy
        )
        self._turns = Turns(
            self._said, self._question, parts.allowance.line, ended=self._turn_ended, waits=self._tell_queued
        )
        self._readers = Readers(parts.disconnect_grace_seconds, self._alone)
        self._inbox = Inbox(thread_id, self._before)
        self._admission = Admission(
            self._turns,
            conversation=self._said,
            intake=self._intake,
            question=self._question,
            readers=self._readers,
            record=self._record,
            storage=storage,
            make_turn=self._turn,
            max_queued=parts.max_queued,
            allowance=parts.allowance,
            tell_queued=self._tell_queued,
        )
        self._loading = asyncio.Lock()
        self._loaded = minted
        # Set but for the time in which a run of an earlier process is brought to its end.
        self._recovered = asyncio.Event()
        self._recovered.set()
        # (when a turn ended, the last number of its frames): they go after `log.keep_seconds`.
        self._ended: deque[tuple[float, int]] = deque()
        self._touched_at = time.monotonic()

    async def load(self) -> None:
        """Be what is on disk of it; once."""
        if self._loaded:
            return
        async with self._loading:
            if self._loaded:
                return
            await self._said.load()
            if written_at := await self._record.load():
                ago = max(0.0, time.time() - written_at)
                self._ended.append((time.monotonic() - ago, self.log.last))
            if self._said.stale:
                # Its tool calls would stay open for ever.
                self._said.stale = False
                await self._question.give_up(removing=False)
            self._loaded = True

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
            await self.load()
            await self._recovered.wait()
            wanted = None
            if history is not None and not resumable(self.log, after, epoch):
                wanted = await self._history_frame(None, history)
        except BaseException:
            self.detach(reader, deliberate=False)
            raise
        if self.deleted:
            self.detach(reader, deliberate=False)
            raise InvalidArgument("thread_id", "the thread was deleted")
        # From here to the return nothing else runs.
        turns = self._turns
        began = turns.current.first_seq if turns.current is not None else 0
        found = place(self.log, after=after, epoch=epoch, began=began, with_history=wanted is not None)
        ready = {
            "thread_id": self.thread_id,
            "created": not self._said.exists,
            "epoch": self.log.epoch,
            "seq": self.log.shown,
            "resume": found.resume,
            "run": self._run_info(),
            "queue": [_queued(turn) for turn in turns.queue if turn.stopped is None and turn.row.message_id],
            "interrupts": self._said.interrupts(),
        }
        gap = None if found.lost is None else self.gap(found.lost, self.log.next_after(found.position))
        return Attached(self.log.cursor(found.position, wake), ready, gap, wanted)

    def join(self, reader: Reader, cursor: Cursor) -> None:
        """Let in a reader who has waited for the thread to be made, before anything is told."""
        self._readers.add(reader)
        cursor.begin(self.log)

    def subscribe(self, reader: RawReader, wanted: Filter | None) -> None:
        """Give a reader raw events from now on; None: none any more."""
        self.raw.subscribe(reader, wanted)

    def gap(self, requested: int, earliest: int) -> dict[str, Any]:
        """The frame that tells a reader what it has lost."""
        self._parts.turns.tally.gaps += 1
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
        for turn in self._turns:
            # Where the server goes too, what waits is for the next one.
            if turn is self._turns.current or not self.draining:
                turn.disconnect()
        self._turns.pump()

    # --- commands ---

    def submit(
        self, command: Command, answer: Answer, on_disconnect: OnDisconnect, user: dict[str, Any] | None = None
    ) -> None:
        """Take a command that changes the thread; ``answer`` is called once, before any frame that follows from it.

        ``user`` is who sends it, as graphs are told.
        """
        if isinstance(command, Send | Respond | Edit | Regenerate):
            starting, context = command, copy_context()
            self._post(lambda reply: self._admission.start(starting, reply, on_disconnect, user, context), answer)
        elif isinstance(command, Cancel):
            cancel = command
            self._post(lambda reply: self._admission.cancel(cancel, reply), answer)
        else:
            answer(InvalidArgument("type", f"{command.type} is not available yet"))

    def _post(self, operation: Operation, answer: Answer = lambda _found: None) -> None:
        self._touched_at = time.monotonic()
        self._inbox.post(operation, answer)

    async def _before(self) -> None:
        if self.deleted:
            raise InvalidArgument("thread_id", "the thread was deleted")
        await self.load()

    def _turn(self, row: RunRow, context: Context) -> Turn:
        return Turn(row, self._parts.turns, self._said, self._rewind, self._record, raw=self.raw, context=context)

    def _tell_queued(self, turn: Turn) -> None:
        """Tell the place of a turn that waits; of one that brings a message."""
        row = turn.row
        if row.message_id is not None:
            self._record.tell(
                {
                    "type": "run_queued",
                    "run_id": row.run_id,
                    "message": user_wire(row.request["content"], row.message_id),
                    "position": self._turns.position(turn),
                }
            )

    def created(self) -> None:
        """Its row was made without a command."""
        self._said.exists = True

    async def delete(self) -> bool:
        """Stop everything, delete the thread for good, close its readers with 4404; False where there was none."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def operation(_answer: Answer) -> None:
            await self._turns.stop("deleted")
            self._turns.forget()
            self.deleted = True
            await self._record.forget()
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

    # --- what an earlier process left ---

    def recover(self, rows: Sequence[RunRow]) -> None:
        """Bring its run to an end and its queue back: ``rows`` are all that have not ended. Before anything else."""
        self._recovered.clear()

        def failed(error: dict[str, Any] | ThreadwireError) -> None:
            # It could not even be loaded: who wants to attach hears of it, or waits.
            logger.error("thread not recovered", thread_id=self.thread_id, error=str(error))
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.recover, rows)

        context = copy_context()
        self._post(lambda _answer: self._recover(rows, context), failed)

    async def _recover(self, rows: Sequence[RunRow], context: Context) -> None:
        self._said.exists = True
        try:
            # As they were taken in: a new message waits behind a question, what answers it or takes its place does not.
            queued = sorted((row for row in rows if row.status == "queued"), key=lambda row: row.trigger == "send")
            for row in queued:
                await self._rewind.restore(row)
            undone = any(row.strategy == "rollback" for row in queued)
            for row in rows:
                if row.status == "running":
                    parts = self._parts.turns
                    turn = self._turn(row, context)
                    given = (self._record, self._said, parts.graph, parts.storage)
                    await end_lost(turn, *given, rewind=self._rewind, undone=undone)
                    self._turn_ended()
            for row in queued:
                # Each in a copy: what one turn sets is not the next one's.
                turn = self._turn(row, context.copy())
                turn.left_message = await left_message(row, self._record, self._said)
                if row.reason is not None and not turn.left_message:
                    await turn.finish(Outcome("cancelled", row.reason), 0)
                    continue
                if row.reason is not None:
                    turn.cancel(row.reason)
                self._turns.queue.append(turn)
            self._turns.supersede()
        finally:
            self._recovered.set()
            self._turns.pump()

    # --- what is known of it ---

    def _turn_ended(self) -> None:
        self._touched_at = time.monotonic()
        self._ended.append((self._touched_at, self.log.last))
        self._post(lambda _answer: self._prune())

    async def _prune(self) -> None:
        """Let old checkpoints go, now and then; as a command, so that no turn is taken in that goes on from them."""
        if self._turns.current is not None or self.draining or self._record.dirty:
            # A run whose end is not on disk is looked into from where it began, after a crash.
            return
        keep = self._parts.keep_checkpoints
        try:
            # A quarter more, since what a kept checkpoint is read from is looked for each time.
            await self._parts.turns.storage.prune_thread(self.thread_id, keep, slack=keep // 4)
        except StorageError:
            # They take room until it works.
            logger.exception("checkpoints not pruned", thread_id=self.thread_id)

    async def history(self, before: str | None, limit: int | None) -> dict[str, Any]:
        """A ``history`` frame; its ``seq`` is the log position it is true for. Raises ``NoSuchMessage``."""
        await self.load()
        return await self._history_frame(before, limit)

    async def _history_frame(self, before: str | None, limit: int | None) -> dict[str, Any]:
        while True:
            # What waits for the journal is in the history already, and readers get it after that again.
            await self._record.settled()
            messages, cursor = await self._said.history(before, limit)
            if not self.log.held:
                # Else tokens still to come would go into a frame that the history has.
                self.log.seal()
                return {"type": "history", "messages": messages, "before": cursor, "seq": self.log.shown}

    def _run_info(self) -> dict[str, Any] | None:
        turn = self._turns.current
        if turn is not None:
            return {"run_id": turn.run_id, "status": "cancelling" if turn.stopping else "running"}
        if self._said.waiting:
            return {"run_id": self._said.waiting[0]["run_id"], "status": "interrupted"}
        return None

    @property
    def running(self) -> bool:
        """Whether a turn is in hand, or a command that may bring one is being taken."""
        return self._turns.current is not None or bool(self._inbox)

    @property
    def depth(self) -> tuple[int, int, int]:
        """Turns in hand, turns that wait, commands that wait."""
        return int(self._turns.current is not None), len(self._turns.queue), len(self._inbox)

    def sweep(self, now: float, keep_seconds: float) -> bool:
        """Drop frames whose time is over; True where nothing is left that needs this thread in memory."""
        floor = self.log.floor
        while self._ended and now - self._ended[0][0] >= keep_seconds:
            self.log.trim_to(self._ended.popleft()[1])
        if self.log.floor > floor:
            self._record.trimmed()
        turns = self._turns
        waits = turns.busy or turns.queue or turns.owing
        used = self.running or waits or len(self._readers) or self._ended or self._record.dirty
        return not used and now - self._touched_at >= keep_seconds

    # --- the server's end ---

    @property
    def draining(self) -> bool:
        """Whether nothing more is started."""
        return self._turns.draining

    def drain(self) -> None:
        """Start nothing more: what waits is for the next server."""
        self._turns.draining = True

    async def stop(self, reason: str) -> None:
        """Stop what runs, tell it, and let the readers go."""
        if self._turns.current is not None:
            self._turns.current.cancel(reason)
        await self.part()

    async def part(self) -> None:
        """Let the readers go as soon as nothing runs: they find the next server."""
        await self.settled()
        self._readers.close()
        for reader in self._readers:
            reader.end(CloseCode.RESTART, "the server stops")

    async def settled(self) -> None:
        """Wait until no turn is in hand and no command is being taken."""
        while self._inbox or self._turns.busy:
            await self._inbox.settled()
            await self._turns.settled()


def _queued(turn: Turn) -> dict[str, Any]:
    row = turn.row
    return {"run_id": row.run_id, "message_id": row.message_id, "content": row.request.get("content")}
