"""What a thread is asked to do, one thing after another: the actor's inbox."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeAlias

from threadwire import failures
from threadwire.errors import InternalError, ThreadwireError
from threadwire.logs import get_logger

logger = get_logger(__name__)

#: Told what a command gave, once, before any frame that follows from it.
Answer: TypeAlias = Callable[[dict[str, Any] | ThreadwireError], None]
Operation: TypeAlias = Callable[[Answer], Awaitable[None]]


class Inbox:
    """The operations of one thread. ``before`` is awaited ahead of each; what it raises is the answer."""

    def __init__(self, thread_id: str, before: Callable[[], Awaitable[None]]) -> None:
        self._thread_id = thread_id
        self._before = before
        self._waiting: deque[tuple[Operation, Answer]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How much is being done, or waits."""
        return len(self._waiting)

    def post(self, operation: Operation, answer: Answer = lambda _found: None) -> None:
        """Do ``operation`` when all before it are done; what it raises is answered."""
        self._waiting.append((operation, answer))
        if self._worker is None:
            # Its log lines are not about whoever came first: what it does is asked for by one after another.
            self._worker = asyncio.create_task(self._work(), name=f"thread {self._thread_id}", context=Context())

    async def settled(self) -> None:
        """Wait until there is nothing to do."""
        while self._worker is not None:
            await asyncio.wait({self._worker})

    async def _work(self) -> None:
        """The task lives only while there is anything."""
        try:
            while self._waiting:
                operation, answer = self._waiting[0]
                try:
                    await self._before()
                    await operation(answer)
                except ThreadwireError as error:
                    answer(error)
                except Exception as error:
                    logger.exception("command failed", thread_id=self._thread_id)
                    known = failures.explain(error)
                    answer(known if known.code == "storage_error" else InternalError("The server failed to do that."))
                finally:
                    self._waiting.popleft()
        finally:
            self._worker = None
