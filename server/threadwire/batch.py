"""A batch: many inputs, each a run without a thread, so many at once and no more, their results as they finish.

What LangChain's ``abatch_as_completed`` gives, on tasks of our own: that one wants the whole list at once, is unbounded
without ``max_concurrency``, and goes on when it is cancelled. Here a window of workers takes inputs from an iterator,
and waits where nobody takes the results: memory is the window's, however many inputs there are. Knows no socket.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from threadwire.allowance import user_of
from threadwire.errors import QuotaExceeded, ThreadwireError
from threadwire.fresh import Ended, FreshParts, FreshRun
from threadwire.marker import Costs
from threadwire.protocol import Content
from threadwire.storage import RunStatus

#: An input with its index; or what is wrong with it, which is then its result.
Input = tuple[int, Content | ThreadwireError]


class Batch:
    """One batch. ``frames()`` runs it, once; ``cancel()`` may be called at any time."""

    def __init__(
        self,
        run_id: str,
        inputs: Iterator[Input],
        width: int,
        parts: FreshParts,
        user: dict[str, Any] | None = None,
    ) -> None:
        """``user`` is what the graph is told of who asks."""
        self._user = user
        self.run_id = run_id
        self._inputs = inputs
        self._width = width
        self._parts = parts
        self._workers: list[asyncio.Task[None]] = []
        self._running: set[FreshRun] = set()
        self._ready: deque[dict[str, Any]] = deque()
        self._moved = asyncio.Event()
        self._costs = Costs()
        self._reason: str | None = None
        #: How many inputs were begun.
        self.taken = 0
        #: How it ended, as its ``run_finished`` says; None until then.
        self.ended: dict[str, Any] | None = None
        self._started_at = time.monotonic()

    def cancel(self, reason: str) -> None:
        """Stop all that runs, at once, and begin nothing more; the first reason is the one that is told."""
        if self._reason is None:
            self._reason = reason
            for run in tuple(self._running):
                run.cancel(reason)
            self._moved.set()

    async def frames(self) -> AsyncGenerator[dict[str, Any], None]:
        """A ``batch_result`` for each input, as they finish, then ``run_finished``. Closing it stops everything."""
        workers = self._workers = [
            asyncio.create_task(self._work(), name=f"batch {self.run_id}") for _ in range(self._width)
        ]
        try:
            while not all(worker.done() for worker in workers) or self._ready:
                self._moved.clear()
                while self._ready:
                    yield self._ready.popleft()
                    self._moved.set()
                if not all(worker.done() for worker in workers):
                    await self._moved.wait()
            for worker in workers:
                worker.result()
            yield self.finished("completed" if self._reason is None else "cancelled", self._reason, None)
        finally:
            self.cancel("disconnect")
            await self.settled()
            self._count(self._told("cancelled", self._reason, None))

    async def settled(self) -> None:
        """Wait until nothing of it is at work; after ``cancel`` that needs nobody to take its frames."""
        if self._workers:
            await asyncio.wait(self._workers)

    async def _work(self) -> None:
        """Take one input after another, as long as there are any."""
        try:
            while self._reason is None and (taken := next(self._inputs, None)) is not None:
                index, content = taken
                self.taken += 1
                result = content if isinstance(content, ThreadwireError) else await self._run(content)
                if not await self._room():
                    return
                self._ready.append({"type": "batch_result", "run_id": self.run_id, "index": index, **_shown(result)})
                self._moved.set()
        finally:
            self._moved.set()

    async def _run(self, content: Content) -> Ended | ThreadwireError:
        allowance, user = self._parts.allowance, user_of(self._user)
        place = allowance.line.join(user, self._moved.set)
        try:
            while not place.granted and self._reason is None:
                self._moved.clear()
                await self._moved.wait()
            if self._reason is not None:
                return Ended("cancelled", self._reason)
            await allowance.tokens(user)
            return await self._run_now(content, user)
        except QuotaExceeded as error:
            return error
        finally:
            allowance.line.leave(place)

    async def _run_now(self, content: Content, user: str) -> Ended:
        run = FreshRun(self._parts, content, user=self._user)
        self._running.add(run)
        try:
            ended = await run.answer()
        finally:
            self._running.discard(run)
        self._costs.add(ended.usage)
        await self._parts.allowance.spend(user, ended.usage)
        return ended

    async def _room(self) -> bool:
        """Wait until a result may wait; False where nobody will take it any more."""
        while self._reason is None and len(self._ready) >= self._width:
            self._moved.clear()
            await self._moved.wait()
        return self._reason is None

    def finished(self, status: RunStatus, reason: str | None, error: dict[str, str] | None) -> dict[str, Any]:
        """Its ``run_finished``."""
        told = self._told(status, reason, error)
        self._count(told)
        return {"type": "run_finished", **told}

    def _told(self, status: RunStatus, reason: str | None, error: dict[str, str] | None) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "status": status,
            "reason": reason,
            "error": error,
            "usage": self._costs.total(),
            "duration_ms": round((time.monotonic() - self._started_at) * 1000),
        }

    def _count(self, told: dict[str, Any]) -> None:
        if self.ended is None:
            self.ended = told
            self._parts.tally.ended(told["status"], told["reason"])


def _shown(result: Ended | ThreadwireError) -> dict[str, Any]:
    if isinstance(result, ThreadwireError):
        return {"error": {"code": result.code, "message": result.message}}
    if result.status == "completed":
        return {"message": result.value}
    return {"error": result.error}
