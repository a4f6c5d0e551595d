"""A run without a thread: a graph, one input, and nothing kept but what nodes write to the store.

For batches and for the run log. It has no checkpointer, so a graph that asks a person has nobody to answer it. Knows no
log, no readers, no tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import uuid_utils
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.store.base import BaseStore

from threadwire import failures
from threadwire.allowance import Allowance
from threadwire.errors import GraphError, RunTimeout, ShuttingDown, ThreadwireError
from threadwire.graph import MESSAGES, Graph, configurable
from threadwire.history import message_id, to_wire, user_message
from threadwire.logs import get_logger
from threadwire.marker import Costs, InPlace, Marker
from threadwire.protocol import Content
from threadwire.stopping import Stop
from threadwire.storage import Fence, RunStatus
from threadwire.toolcalls import Marks

logger = get_logger(__name__)

#: What stands for a limit of 0 where LangGraph wants a number.
_NO_LIMIT = 1_000_000
#: Drives a graph (a copy of its own) on an input, with a config and a context; what it gives is the run's ``value``.
Drive = Callable[[Any, dict[str, Any], dict[str, Any], Any], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class FreshParts:
    """What every run without a thread shares."""

    graph: Graph
    #: The graph's store, for one run's fence.
    store: Callable[[Fence], BaseStore]
    timeout_seconds: float
    cancel_deadline_seconds: float
    recursion_limit: int
    allowance: Allowance = field(default_factory=Allowance)


class RunSettings(Protocol):
    """The keys of the section ``runs`` that hold for runs without a thread too."""

    @property
    def timeout_seconds(self) -> float:
        """0: none."""
        ...

    @property
    def cancel_deadline_seconds(self) -> float:
        """When a node that does not stop is given up."""
        ...

    @property
    def recursion_limit(self) -> int:
        """0: none."""
        ...


def fresh_parts(
    settings: RunSettings, graph: Graph, store: Callable[[Fence], BaseStore], allowance: Allowance | None = None
) -> FreshParts:
    """The parts, as configured."""
    return FreshParts(
        graph=graph,
        store=store,
        timeout_seconds=settings.timeout_seconds,
        cancel_deadline_seconds=settings.cancel_deadline_seconds,
        recursion_limit=settings.recursion_limit or _NO_LIMIT,
        allowance=allowance or Allowance(),
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: ``value`` is what it was driven to, where it is ``completed``."""

    status: RunStatus
    reason: str | None = None
    error: dict[str, str] | None = None
    usage: dict[str, int] | None = None
    value: Any = None


class Work(Protocol):
    """What can be stopped, and waited for."""

    def cancel(self, reason: str) -> None:
        """Stop it; the first reason is the one that is told."""
        ...

    async def settled(self) -> None:
        """Wait until nothing of it is at work."""
        ...


class FreshRuns:
    """What runs without a thread in this process."""

    def __init__(self, parts: FreshParts) -> None:
        self.parts = parts
        self._running: set[Work] = set()
        self._left = asyncio.Event()
        self._draining = False

    def add(self, work: Work) -> None:
        """It is about to run; ``remove`` it. Raises ``ShuttingDown``."""
        if self._draining:
            raise ShuttingDown("The server is going to stop.")
        self._running.add(work)

    def remove(self, work: Work) -> None:
        """It is over."""
        self._running.discard(work)
        self._left.set()

    def drain(self) -> None:
        """Start nothing more; what runs may finish."""
        self._draining = True

    async def finish(self, seconds: float) -> None:
        """Wait for what runs, at most so long, then stop what is left, and wait until that has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running:
                    self._left.clear()
                    await self._left.wait()
        left = tuple(self._running)
        for work in left:
            work.cancel("shutdown")
        for work in left:
            await work.settled()


class FreshRun:
    """One run. ``cancel()`` may be called at any time, any number of times."""

    def __init__(
        self,
        parts: FreshParts,
        content: Content,
        *,
        context: dict[str, Any] | None = None,
        run_id: str | None = None,
        user: dict[str, Any] | None = None,
    ) -> None:
        """``user`` is who asks. Raises ``InvalidArgument`` for a context that the graph does not take."""
        self._asked_by = user
        self.run_id = run_id or str(uuid_utils.uuid7())
        self._context = parts.graph.check_context(context, user)
        self._parts = parts
        self._user = user_message(content, str(uuid_utils.uuid4()))
        # Set but while it runs.
        self._ended = asyncio.Event()
        self._ended.set()
        self._stop = Stop(timeout_seconds=parts.timeout_seconds, deadline_seconds=parts.cancel_deadline_seconds)

    def cancel(self, reason: str) -> None:
        """Stop it; the first reason given is the one that is told."""
        self._stop.ask(reason)

    async def settled(self) -> None:
        """Wait until nothing of it is at work."""
        await self._ended.wait()

    async def answer(self) -> Ended:
        """Run to the end; its value is the assistant's last message, as the wire has it."""

        async def drive(graph: Any, given: dict[str, Any], config: dict[str, Any], context: Any) -> dict[str, Any]:
            return self._answer_in(await graph.ainvoke(given, config, context=context))

        return await self.execute(drive)

    async def execute(self, drive: Drive) -> Ended:
        """Run to the end, or to where it is stopped; every task and provider request of it has then ended."""
        parts, costs, fence = self._parts, Costs(), Fence()
        config = {
            # The Agent Server's runs without a thread have the id of one, too: graphs look it up.
            "configurable": configurable(self.run_id, self._asked_by),
            "run_id": UUID(self.run_id),
            "recursion_limit": parts.recursion_limit,
            "callbacks": InPlace.of(Marker(Marks(), self._stop.is_asked), costs),
        }
        self._ended.clear()
        try:
            graph, given = parts.graph.for_fresh_run(parts.store(fence)), {MESSAGES: [self._user]}
            work = drive(graph, given, config, self._context)
            driven = await self._stop.drive(work, f"run {self.run_id}")
        finally:
            fence.close()
            self._ended.set()
        failure, usage = driven.failure, costs.total()
        if driven.stopped and (driven.abandoned or driven.cancelled or failure is not None):
            return self._stopped(usage, abandoned=driven.abandoned)
        if driven.cancelled:
            return Ended("failed", "error", _told(GraphError("The graph cancelled its own run.")), usage)
        if failure is not None:
            error = failures.explain(failure)
            logger.error("run failed", run_id=self.run_id, code=error.code, exc_info=failure)
            return Ended("failed", "error", _told(error), usage)
        return Ended("completed", usage=usage, value=driven.task.result())

    def _stopped(self, usage: dict[str, int] | None, *, abandoned: bool) -> Ended:
        error = None
        if abandoned:
            logger.warning("run abandoned", run_id=self.run_id)
        if self._stop.reason == "timeout":
            seconds = self._parts.timeout_seconds
            error = _told(RunTimeout(f"The run took longer than {seconds:g} s and was stopped."))
        return Ended("cancelled", "abandoned" if abandoned else self._stop.reason, error, usage)

    def _answer_in(self, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("__interrupt__"):
            raise GraphError("The graph asks a person, and a run without a thread has nobody to answer.")
        messages: Sequence[BaseMessage] = values.get(MESSAGES) or []
        for index in range(len(messages) - 1, -1, -1):
            message = messages[index]
            if isinstance(message, AIMessage):
                return to_wire(message, message_id(message, index))
            if message.id == self._user.id:
                break
        raise GraphError("The graph ended without an answer.")


def _told(error: ThreadwireError) -> dict[str, str]:
    return {"code": error.code, "message": error.message}
