"""One turn of a thread: from its place in the queue to its ``run_finished``.

A turn is a ``RunRow`` on its way: it waits, the thread is taken to where it goes on, its run is driven, its end is made
durable, then told, exactly once. One that is stopped before its time to run leaves its message in the thread; one that
is rolled back leaves nothing. ``recovery.py`` ends those that an earlier process did not. Knows no readers.
"""

from __future__ import annotations

import time
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from threadwire import failures
from threadwire.conversation import Conversation
from threadwire.errors import InternalError
from threadwire.filters import Filter
from threadwire.graph import Graph
from threadwire.history import to_wire, user_message
from threadwire.journal import Record
from threadwire.logs import get_logger
from threadwire.raw import RawFeed
from threadwire.repair import make_whole
from threadwire.rewind import Rewind
from threadwire.run import Outcome, Run, RunLimits
from threadwire.storage import Mark, RunEnd, RunRow, RunStart, Storage, ThreadStatus, Truncation
from threadwire.tally import Tally
from threadwire.tracing import Traces

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What every turn of a server shares."""

    graph: Graph
    storage: Storage
    policy: Filter
    run_limits: RunLimits
    tally: Tally
    traces: Traces


class Turn:
    """See the module."""

    def __init__(
        self,
        row: RunRow,
        parts: TurnParts,
        conversation: Conversation,
        rewind: Rewind,
        record: Record,
        *,
        raw: RawFeed,
        context: Context,
    ) -> None:
        self.row = row
        #: Whose it is, to log lines and traces: what was in force where it was asked for.
        self.context = context
        #: Why it will not run after all; None while it will.
        self.stopped: str | None = None
        #: The number of its ``run_started``; 0 before.
        self.first_seq = 0
        #: A process that died has told its message, or put it into the thread: it does not end without a trace.
        self.left_message = False
        self._parts = parts
        self._conversation = conversation
        self._rewind = rewind
        self._record = record
        self._raw = raw
        self._run: Run | None = None
        self._rolled_back = False
        #: How it has ended, where the database did not take that: it is told, and is still to be written.
        self.owed: Outcome | None = None

    @property
    def run_id(self) -> str:
        """Its run's id."""
        return self.row.run_id

    @property
    def stopping(self) -> bool:
        """Whether it is being stopped."""
        return self._run is not None and self._run.stopping is not None

    @property
    def supersedes(self) -> bool:
        """Whether it takes the place of what runs, waits or asks before it."""
        return self.row.strategy in ("interrupt", "rollback")

    def begin(self) -> None:
        """It is this turn's time: from here on ``cancel`` stops a run."""
        if self.stopped is None:
            parts = self._parts
            content = self.row.request.get("content")
            self._run = Run(
                self.row,
                user=user_message(content, self.row.message_id) if content and self.row.message_id else None,
                graph=parts.graph,
                storage=parts.storage,
                policy=parts.policy,
                limits=parts.run_limits,
                tell=self._record.tell,
                raw=self._raw,
                tally=parts.tally,
                traces=parts.traces,
            )

    def cancel(self, reason: str) -> None:
        """Stop it, or keep it from starting; the first reason is the one that is told."""
        if self._run is not None:
            self._run.cancel(reason)
        elif self.stopped is None:
            self.stopped = reason

    def roll_back(self) -> None:
        """Stop it, and leave nothing of it in the thread."""
        self._rolled_back = True
        self.cancel("superseded")

    def disconnect(self) -> None:
        """Nobody is there any more: follow ``on_disconnect``."""
        if self.row.on_disconnect == "cancel":
            self.cancel("disconnect")

    async def take(self) -> None:
        """Run to the end, and tell it; or write what is owed. Raises nothing."""
        if self.owed is not None:
            await self._pay(self.owed)
            return
        started = time.monotonic()
        try:
            outcome = await (self._leave_message() if self._run is None else self._drive(self._run))
        except Exception as error:
            logger.exception("turn failed", thread_id=self.row.thread_id, run_id=self.run_id)
            outcome = _failed(error)
        await self.finish(outcome, round((time.monotonic() - started) * 1000))

    async def _drive(self, run: Run) -> Outcome:
        row, record, conversation = self.row, self._record, self._conversation
        known = await conversation.known()
        removed, answered = await self._rewind.go_back(row)
        run.user = run.user or answered
        run.transcript.known = known
        row.base = await self._parts.storage.newest_checkpoint(row.thread_id)
        if removed:
            known.difference_update(removed)
            record.tell({"type": "messages_removed", "run_id": row.run_id, "message_ids": removed})
        self.first_seq = record.tell({"type": "run_started", "run_id": row.run_id, "trigger": row.trigger})
        # What it says must outlive the log's bound until its end is stored.
        record.pinned = self.first_seq
        # A process that died had given the turn up, and left the message.
        has_message = row.message_id in known
        self._tell_message(known)
        await record.commit(RunStart(row.run_id, row.base, time.time(), has_message))
        row.status = "running"
        conversation.waiting = []
        conversation.moved(run)
        return await run.execute()

    async def _leave_message(self) -> Outcome:
        """A turn that ended before it started, not by its client's wish, leaves its message in the thread."""
        row, parts = self.row, self._parts
        if row.message_id is not None and self.stopped != "deleted":
            user = user_message(row.request["content"], row.message_id)
            known = await self._conversation.known()
            await make_whole(
                parts.graph, parts.storage, row.thread_id, user=user, said=lambda _unfinished: [], status="cancelled"
            )
            self._tell_message(known)
        return Outcome("cancelled", self.stopped)

    def _tell_message(self, known: set[str]) -> None:
        if self.row.message_id is not None:
            known.add(self.row.message_id)
            user = user_message(self.row.request["content"], self.row.message_id)
            self._record.tell({"type": "message", "message": to_wire(user, self.row.message_id)})

    # --- the end ----------------------------------------------------------------------------------

    async def finish(self, outcome: Outcome, duration_ms: int, *, thread_busy: bool = False) -> None:
        """Make its end durable, then tell it. ``thread_busy``: another turn is in hand, this one only waited."""
        try:
            marks = await self._undo(outcome) if self._rolled_back else ()
        except Exception as error:
            logger.exception("turn not rolled back", thread_id=self.row.thread_id, run_id=self.run_id)
            outcome, marks = _failed(error, outcome), ()
        interrupts = [{**interrupt, "run_id": self.run_id} for interrupt in outcome.interrupts]
        if outcome.status == "interrupted":
            shown = [{key: value for key, value in found.items() if key != "run_id"} for found in interrupts]
            asked = self._record.tell({"type": "interrupt", "run_id": self.run_id, "interrupts": shown})
        told = self._record.tell(self._told(outcome, duration_ms))
        try:
            if outcome.error is not None and outcome.error["code"] == "storage_error":
                # What the thread should have of it is not there: without that, its end is not written either.
                await self._save()
            await self._record.commit(*marks, self._end(outcome, interrupts, thread_busy=thread_busy))
        except Exception as error:
            logger.exception("run's end not stored", thread_id=self.row.thread_id, run_id=self.run_id)
            if outcome.status == "interrupted":
                self._record.log.amend(asked, None)
            outcome, interrupts = _failed(error, outcome), []
            self._record.log.amend(told, self._told(outcome, duration_ms))
            self._record.let_out()
            self.owed = outcome
        if interrupts:
            self._conversation.waiting = interrupts
        if self._record.pinned == self.first_seq:
            self._record.pinned = None
        self._count(outcome, duration_ms)

    def _count(self, outcome: Outcome, duration_ms: int) -> None:
        tally = self._parts.tally
        tally.ended(outcome.status, outcome.reason)
        about: dict[str, Any] = {"content": self.row.request.get("content")}
        if self.row.owner:
            # Also of a run that an earlier process took in.
            about["user"] = self.row.owner
        if self._run is not None:
            tally.used(self._run.transcript.usage_by_model)
            about["answer"] = self._run.transcript.answer
        logger.info(
            "run",
            run_id=self.run_id,
            thread_id=self.row.thread_id,
            trigger=self.row.trigger,
            status=outcome.status,
            reason=outcome.reason,
            error=outcome.error,
            usage=outcome.usage,
            duration_ms=duration_ms,
            **about,
        )

    async def _save(self) -> None:
        """Put into the thread what it should have of the turn; raises what the database has against it."""
        if self._run is not None:
            await self._run.make_whole("failed")
        else:
            await self._leave_message()

    async def _pay(self, outcome: Outcome) -> None:
        """Write the end that could not be written before."""
        try:
            await self._save()
            await self._record.commit(self._end(outcome, [], thread_busy=False))
        except Exception as error:
            logger.warning("run's end still not stored", run_id=self.run_id, error=str(error))
            self._record.let_out()
        else:
            self.owed = None

    async def _undo(self, outcome: Outcome) -> tuple[Mark, ...]:
        """Take the turn out of the thread: what is to be written with its end."""
        if outcome.status == "interrupted" and self._run is not None:
            # It asked before it heard that nobody will answer.
            await self._run.give_up_question()
        outcome.status, outcome.reason, outcome.error, outcome.interrupts = "cancelled", "superseded", None, []
        outcome.messages = None
        self._conversation.moved(None)
        base, ids = await self._rewind.undone(self.row.turn or "")
        (await self._conversation.known()).difference_update(ids)
        if base is None:
            await self._rewind.take_out(ids)
        if ids:
            self._record.tell({"type": "messages_removed", "run_id": self.run_id, "message_ids": ids})
        return (Truncation(self.row.thread_id, base[0], tuple(ids)),) if base is not None else ()

    def _told(self, outcome: Outcome, duration_ms: int) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": "run_finished",
            "run_id": self.run_id,
            "status": outcome.status,
            "reason": outcome.reason,
            "error": outcome.error,
            "usage": outcome.usage,
            "duration_ms": duration_ms,
        }
        return told if outcome.messages is None else {**told, "messages": outcome.messages}

    def _end(self, outcome: Outcome, interrupts: list[dict[str, Any]], *, thread_busy: bool) -> RunEnd:
        status: ThreadStatus | None = "idle"
        left: list[dict[str, Any]] | None = interrupts
        if thread_busy:
            # The other's end may be on its way to the disk, and goes before this one.
            status = left = None
        elif outcome.status == "interrupted":
            status = "interrupted"
        elif self._conversation.waiting:
            status, left = "interrupted", self._conversation.waiting
        elif outcome.status == "failed":
            status = "error"
        return RunEnd(
            run_id=self.run_id,
            status=outcome.status,
            reason=outcome.reason,
            error=outcome.error,
            usage=outcome.usage,
            at=time.time(),
            thread_status=status,
            interrupts=left,
        )


def _failed(error: Exception, outcome: Outcome | None = None) -> Outcome:
    """How a turn ends that could not be driven, or stored."""
    known = failures.explain(error)
    if known.code == "graph_error":
        known = InternalError("The server failed.")
    told = {"code": known.code, "message": known.message}
    return Outcome("failed", "error", told, outcome.usage if outcome is not None else None)
