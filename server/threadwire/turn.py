"""One turn of a thread: from its place in the queue to its ``run_finished``.

A turn is a ``RunRow`` on its way: it waits, its run is driven, its end is made durable, then told, exactly once. One
that is stopped before its time to run leaves its message in the thread. Knows the log only as a function that tells
frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from threadwire import failures
from threadwire.conversation import Conversation
from threadwire.errors import InternalError
from threadwire.filters import Filter, Origin
from threadwire.graph import Graph
from threadwire.history import user_message, user_wire
from threadwire.logs import get_logger
from threadwire.repair import make_whole
from threadwire.run import Outcome, Run, RunLimits
from threadwire.storage import RunRow, Storage, ThreadStatus

logger = get_logger(__name__)

#: Appends a frame to the thread's log and gives its number.
Tell = Callable[[dict[str, Any], Origin | None], int]


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What every turn of a server shares."""

    graph: Graph
    storage: Storage
    policy: Filter
    run_limits: RunLimits


class Turn:
    """See the module."""

    def __init__(self, row: RunRow, parts: TurnParts, conversation: Conversation, tell: Tell) -> None:
        self.row = row
        #: Why it will not run after all; None while it will.
        self.stopped: str | None = None
        #: The number of its ``run_started``; 0 before.
        self.first_seq = 0
        self._parts = parts
        self._conversation = conversation
        self._tell = tell
        self._run: Run | None = None

    @property
    def run_id(self) -> str:
        """Its run's id."""
        return self.row.run_id

    @property
    def stopping(self) -> bool:
        """Whether it is being stopped."""
        return self._run is not None and self._run.stopping is not None

    def begin(self) -> None:
        """It is this turn's time: from here on ``cancel`` stops a run."""
        if self.stopped is None:
            parts = self._parts
            self._run = Run(
                self.row,
                graph=parts.graph,
                storage=parts.storage,
                policy=parts.policy,
                limits=parts.run_limits,
                tell=self._tell,
            )

    def cancel(self, reason: str) -> None:
        """Stop it, or keep it from starting; the first reason is the one that is told."""
        if self._run is not None:
            self._run.cancel(reason)
        elif self.stopped is None:
            self.stopped = reason

    def disconnect(self) -> None:
        """Nobody is there any more: follow ``on_disconnect``."""
        if self.row.on_disconnect == "cancel":
            self.cancel("disconnect")

    async def take(self) -> None:
        """Run to the end, and tell it. Raises nothing."""
        started = time.monotonic()
        try:
            outcome = await (self._leave_message() if self._run is None else self._drive(self._run))
        except Exception as error:
            logger.exception("turn failed", thread_id=self.row.thread_id, run_id=self.run_id)
            known = failures.explain(error)
            if known.code != "storage_error":
                known = InternalError("The server failed.")
            outcome = Outcome("failed", "error", {"code": known.code, "message": known.message})
        await self.finish(outcome, round((time.monotonic() - started) * 1000))

    async def _drive(self, run: Run) -> Outcome:
        known = await self._conversation.known()
        await self._parts.storage.start_run(self.run_id, time.time())
        self._conversation.waiting = []
        self._conversation.moved(run)
        started = {"type": "run_started", "run_id": self.run_id, "trigger": self.row.trigger}
        self.first_seq = self._tell(started, None)
        self._tell_message(known)
        return await run.execute(known)

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
            message = user_wire(self.row.request["content"], self.row.message_id)
            self._tell({"type": "message", "message": message}, None)

    async def finish(self, outcome: Outcome, duration_ms: int, *, thread_busy: bool = False) -> None:
        """Make its end durable, then tell it. ``thread_busy``: another turn is in hand, this one only waited."""
        row, conversation = self.row, self._conversation
        interrupts = [{**interrupt, "run_id": row.run_id} for interrupt in outcome.interrupts]
        status: ThreadStatus = "idle"
        if thread_busy:
            status = "busy"
        elif outcome.status == "interrupted":
            status = "interrupted"
        elif conversation.waiting:
            status, interrupts = "interrupted", conversation.waiting
        elif outcome.status == "failed":
            status = "error"
        try:
            await self._parts.storage.finish_run(
                row.run_id,
                status=outcome.status,
                reason=outcome.reason,
                error=outcome.error,
                usage=outcome.usage,
                at=time.time(),
                thread_status=status,
                interrupts=interrupts,
            )
        except Exception as error:
            logger.exception("run's end not stored", thread_id=row.thread_id, run_id=row.run_id)
            known = failures.explain(error)
            outcome = Outcome("failed", "error", {"code": known.code, "message": known.message}, outcome.usage)
        self._tell_end(outcome, interrupts, duration_ms)

    def _tell_end(self, outcome: Outcome, interrupts: list[dict[str, Any]], duration_ms: int) -> None:
        row = self.row
        if outcome.status == "interrupted":
            self._conversation.waiting = interrupts
            shown = self._conversation.interrupts()
            self._tell({"type": "interrupt", "run_id": row.run_id, "interrupts": shown}, None)
        ended = {
            "run_id": row.run_id,
            "status": outcome.status,
            "reason": outcome.reason,
            "error": outcome.error,
            "usage": outcome.usage,
            "duration_ms": duration_ms,
        }
        self._tell({"type": "run_finished", **ended}, None)
        logger.info("run", thread_id=row.thread_id, trigger=row.trigger, **ended)
