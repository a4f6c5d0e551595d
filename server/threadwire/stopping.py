"""How a run is stopped: asked any number of times, cancelled once, waited for, and given up where it will not stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from threadwire.tally import Tally

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Driven(Generic[T]):
    """What became of a run's work. ``abandoned``: it was asked to stop and would not; its task is still alive."""

    task: asyncio.Task[T]
    stopped: bool
    abandoned: bool

    @property
    def cancelled(self) -> bool:
        """Whether it has ended as a cancelled task does."""
        return not self.abandoned and self.task.cancelled()

    @property
    def failure(self) -> BaseException | None:
        """What it raised, if it has ended by that."""
        return None if self.abandoned or self.task.cancelled() else self.task.exception()


class Stop:
    """Whether one run is to stop, and why."""

    def __init__(self, *, timeout_seconds: float, deadline_seconds: float, tally: Tally) -> None:
        self._timeout_seconds = timeout_seconds
        self._deadline_seconds = deadline_seconds
        self._tally = tally
        self._asked = asyncio.Event()
        self._asked_at = 0.0
        #: Why it is being stopped; None while it is not.
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        """Stop it; the first reason given is the one that is told."""
        if self.reason is None:
            self.reason = reason
            self._asked_at = time.monotonic()
            self._asked.set()

    def is_asked(self) -> bool:
        """Whether it is to stop."""
        return self._asked.is_set()

    async def drive(self, work: Coroutine[Any, Any, T], name: str) -> Driven[T]:
        """Let the work run to its end, to its timeout, or to where it is stopped. Raises nothing."""
        task = asyncio.create_task(work, name=name)
        asking = asyncio.create_task(self._asked.wait())
        timer = self._start_timer()
        try:
            await asyncio.wait({task, asking}, return_when=asyncio.FIRST_COMPLETED)
            stopped = not task.done()
            abandoned = stopped and not await self._stopped(task)
        finally:
            if timer is not None:
                timer.cancel()
            asking.cancel()
        return Driven(task, stopped, abandoned)

    def _start_timer(self) -> asyncio.TimerHandle | None:
        seconds = self._timeout_seconds
        return asyncio.get_running_loop().call_later(seconds, self.ask, "timeout") if seconds else None

    async def _stopped(self, task: asyncio.Task[T]) -> bool:
        """Cancel it, once (a second cancel kills its cleanup), and wait; False where it will not stop."""
        task.cancel()
        await asyncio.wait({task}, timeout=self._deadline_seconds)
        if task.done():
            self._tally.stopped.add(time.monotonic() - self._asked_at)
            return True
        self._tally.abandoned += 1
        self._tally.haunting += 1
        task.add_done_callback(self._swallow)
        return False

    def _swallow(self, task: asyncio.Task[Any]) -> None:
        """A run that was given up has ended at last; its end concerns nobody, but must be looked at."""
        self._tally.haunting -= 1
        if not task.cancelled():
            task.exception()
