"""One turn of the graph on a thread: driven once, stopped at most once, made whole, and told how it ended.

A ``Run`` owns the task that drives the graph; the task belongs to the thread, never to a socket's handler.
``execute()`` returns an ``Outcome`` after every task and provider request of the run has ended and its thread's state
is whole; telling it (``run_finished``) is the thread's. Knows the graph and the checkpointer, no readers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.messages import HumanMessage
from langgraph.types import Command, StateSnapshot

from threadwire import failures
from threadwire.errors import RunTimeout, ThreadwireError
from threadwire.events import Translator
from threadwire.filters import Filter, Origin
from threadwire.graph import MESSAGES, Graph, configurable
from threadwire.history import CutStatus, Said
from threadwire.jsonsafe import json_safe
from threadwire.logs import get_logger
from threadwire.marker import Marker
from threadwire.raw import RawFeed
from threadwire.repair import make_whole
from threadwire.stopping import Driven, Stop
from threadwire.storage import Fence, RunRow, RunStatus, Storage
from threadwire.streams import listen
from threadwire.tally import Tally
from threadwire.toolcalls import Marks
from threadwire.tracing import RunTrace, Traces

logger = get_logger(__name__)

Tell = Callable[[dict[str, Any], Origin | None], int]


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What bounds a run; the config's ``runs`` and ``storage`` sections name them."""

    timeout_seconds: float
    cancel_deadline_seconds: float
    recursion_limit: int
    durability: str


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    status: RunStatus
    reason: str | None = None
    error: dict[str, str] | None = None
    usage: dict[str, int] | None = None
    interrupts: list[dict[str, Any]] = field(default_factory=list)
    #: Of a run that was lost: all that it left in the thread, as the wire has messages.
    messages: list[dict[str, Any]] | None = None


class Run:
    """One turn. ``cancel()`` may be called at any time, from anywhere, any number of times."""

    def __init__(
        self,
        row: RunRow,
        *,
        user: HumanMessage | None,
        graph: Graph,
        storage: Storage,
        policy: Filter,
        limits: RunLimits,
        tell: Tell,
        raw: RawFeed,
        tally: Tally,
        traces: Traces,
    ) -> None:
        self.row = row
        self.started_at = time.monotonic()
        self._graph = graph
        self._storage = storage
        self._limits = limits
        self._tell = tell
        self._raw = raw
        self._tally = tally
        self._traces = traces
        self._fence = Fence()
        self._marks = Marks()
        self.transcript = Translator(row.run_id, policy, self._marks, MESSAGES)
        #: The user's message that it answers; None where it answers a question.
        self.user = user
        self._stop = Stop(
            timeout_seconds=limits.timeout_seconds, deadline_seconds=limits.cancel_deadline_seconds, tally=tally
        )

    @property
    def stopping(self) -> str | None:
        """Why it is being stopped; None while it is not."""
        return self._stop.reason

    def cancel(self, reason: str) -> None:
        """Stop it; the first reason given is the one that is told."""
        self._stop.ask(reason)

    async def execute(self) -> Outcome:
        """Drive the graph to its end, or to where it is stopped, and make the thread whole. Raises nothing but bugs.

        ``transcript.known`` has the ids of the messages readers know of; what the run tells is added.
        """
        row = self.row
        with self._traces.run(row.run_id, thread_id=row.thread_id, trigger=row.trigger) as trace:
            try:
                driven = await self._stop.drive(self._drive(trace), f"run {row.run_id}")
            finally:
                # Whatever of the run is still alive writes nothing from here on.
                self._fence.close()
            if driven.abandoned:
                logger.warning("run abandoned", run_id=row.run_id, thread_id=row.thread_id)
            outcome = await self._conclude(driven)
            trace.ended(outcome.status, outcome.reason, (outcome.error or {}).get("code"), outcome.usage)
            return outcome

    async def _drive(self, trace: RunTrace) -> None:
        saver = self._storage.saver(self._fence, shared=self._graph.shares_messages)
        graph = self._graph.for_run(saver, self._storage.fenced_store(self._fence))
        raw, graph_name, run_id = self._raw, self._graph.root_name, self.row.run_id
        mode, asked_by = self.row.request.get("stream") or "events", self.row.request.get("user")
        wanted = raw.wanted if raw.allowed and mode == "events" else None
        feed, tell, fence, clock = self.transcript.feed, self._tell, self._fence, time.monotonic
        probe, first_token, thread_id, silent = self._tally.probe, self._tally.first_token, self.row.thread_id, True

        def hear(event: Any) -> None:
            nonlocal silent
            if fence.closed:
                return
            if wanted is not None and wanted():
                raw.publish(run_id, event, graph_name)
            seq = 0
            for frame, origin in feed(event, clock()):
                seq = tell(frame, origin)
                if silent and frame["type"] == "token":
                    silent = False
                    first_token.add(clock() - self.started_at)
            if probe.chunk is not None and _chunk_of(event) is probe.chunk:
                probe.told(thread_id, seq)

        await listen(
            graph,
            self._input(),
            {
                "configurable": configurable(self.row.thread_id, asked_by),
                "run_id": UUID(run_id),
                # Kept with each checkpoint, under the Agent Server's name: whose it is, should we not live to say so.
                "metadata": {"run_id": run_id},
                "recursion_limit": self._limits.recursion_limit,
                "callbacks": trace.callbacks,
            },
            stream=mode,
            marks=self._marks,
            marker=Marker(self._marks, self._stop.is_asked, self._tally.probe),
            every=wanted,
            hear=hear,
            durability=self._limits.durability,
            context=self._graph.check_context(self.row.request.get("context"), asked_by),
        )

    def _input(self) -> Any:
        if self.row.trigger == "respond":
            return Command(resume=self.row.request["responses"])
        return {MESSAGES: [self.user]}

    # --- the end ----------------------------------------------------------------------------------

    async def _conclude(self, driven: Driven[None]) -> Outcome:
        failure = driven.failure
        outcome = Outcome("completed", usage=self.transcript.usage if self.transcript.has_usage else None)
        if failure is not None:
            error = failures.explain(failure)
            about = {"run_id": self.row.run_id, "thread_id": self.row.thread_id, "code": error.code}
            logger.error("run failed", **about, stopped=driven.stopped, failure=failure)
            outcome.status, outcome.reason, outcome.error = "failed", "error", _told(error)
        if driven.abandoned or driven.cancelled or (driven.stopped and failure is not None):
            # What a stopped graph raises on its way out does not make its run a failed one.
            self._cut(outcome, abandoned=driven.abandoned)
        try:
            if outcome.status != "completed":
                await self.make_whole("failed" if outcome.status == "failed" else "cancelled")
            elif self.transcript.interrupted or self._graph.has_breakpoints:
                await self._ask_state(outcome)
            if outcome.status != "interrupted":
                self._tell_open_tools()
        except Exception as error:
            known = failures.explain(error)
            logger.error(  # noqa: TRY400 -- other people's code raised it
                "turn not made whole", run_id=self.row.run_id, thread_id=self.row.thread_id, failure=error
            )
            outcome.status, outcome.reason, outcome.error = "failed", "error", _told(known)
            self._tell_open_tools()
        return outcome

    def _cut(self, outcome: Outcome, *, abandoned: bool) -> None:
        if self.stopping is None:
            # The graph cancelled itself: nobody asked for it.
            outcome.status, outcome.reason = "failed", "error"
            outcome.error = {"code": "graph_error", "message": "The graph cancelled its own run."}
            return
        outcome.status, outcome.reason = "cancelled", "abandoned" if abandoned else self.stopping
        outcome.error = None
        if self.stopping == "timeout":
            seconds = self._limits.timeout_seconds
            outcome.error = _told(RunTimeout(f"The run took longer than {seconds:g} s and was stopped."))

    async def make_whole(self, status: CutStatus) -> None:
        """Leave in the thread what it should have of a run that was cut off, and tell what readers do not know."""
        transcript = self.transcript

        def said(unfinished: set[str]) -> list[Said]:
            # A run that was stopped before its first checkpoint has no task of its own in the state.
            return transcript.said(unfinished if transcript.state is not None else None)

        thread_id = self.row.thread_id
        messages = await make_whole(
            self._graph,
            self._storage,
            thread_id,
            user=self.user,
            said=said,
            status=status,
            results=transcript.tools.messages,
        )
        for frame, origin in transcript.settle(messages, time.monotonic()):
            self._tell(frame, origin)

    async def give_up_question(self) -> None:
        """Leave the thread whole though it has asked: calls that wait for an answer are closed and told."""
        await self.make_whole("cancelled")
        self._tell_open_tools()

    async def _ask_state(self, outcome: Outcome) -> None:
        """What the graph waits for: events do not tell it whole."""
        graph = self._graph.for_state(self._storage.reader)
        snapshot = await graph.aget_state({"configurable": {"thread_id": self.row.thread_id}})
        if snapshot.next:
            outcome.status, outcome.reason = "interrupted", "interrupt"
            outcome.interrupts = interrupts_of(snapshot)

    def _tell_open_tools(self) -> None:
        for frame, origin in self.transcript.tools.close(time.monotonic()):
            self._tell(frame, origin)


def interrupts_of(snapshot: StateSnapshot) -> list[dict[str, Any]]:
    """The questions a thread waits with, as the wire has them."""
    return [
        {"id": interrupt.id, "value": json_safe(interrupt.value), "node": task.name}
        for task in snapshot.tasks
        for interrupt in task.interrupts
    ]


def _told(error: ThreadwireError) -> dict[str, str]:
    return {"code": error.code, "message": error.message}


def _chunk_of(event: Any) -> Any:
    """The model's chunk that an event tells of; a custom event's data may be anything."""
    data = event["data"]
    return data.get("chunk") if isinstance(data, dict) else None
