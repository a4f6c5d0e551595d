"""The pages of history one connection asked for: read one after another, each when the one before has been sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from threadwire.answers import Answer, Answers, named
from threadwire.errors import InternalError, ThreadwireError
from threadwire.logs import get_logger
from threadwire.protocol import History, error_frame
from threadwire.seat import Seat

logger = get_logger(__name__)


class Pages:
    """Those of one connection."""

    __slots__ = ("_answers", "_wanted", "tasks")

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._wanted: list[tuple[History, Callable[[Answer], None]]] = []
        #: The task that reads them, while there are any; and none.
        self.tasks: tuple[asyncio.Task[None], ...] = ()

    def read(self, thread: Seat, command: History) -> None:
        """Answer one more ``history`` command."""
        self._wanted.append((command, self._answers.promise()))
        if not self.tasks:
            self.tasks = (asyncio.create_task(self._read(thread)),)

    def __len__(self) -> int:
        return len(self._wanted)

    async def _read(self, thread: Seat) -> None:
        try:
            while self._wanted:
                command, keep = self._wanted.pop(0)
                answer = await _page(thread, command)
                answer.sent = asyncio.Event()
                keep(answer)
                await answer.sent.wait()
        finally:
            # In the same step as the look at what is wanted: nothing that comes now waits for a task that has ended.
            self.tasks = ()


async def _page(thread: Seat, command: History) -> Answer:
    try:
        found = await thread.history(command.before, command.limit)
    except ThreadwireError as error:
        return Answer(error_frame(error, command.id))
    except Exception:
        logger.exception("history failed", thread_id=thread.thread_id)
        return Answer(error_frame(InternalError("The server failed to read the history."), command.id))
    return Answer(named(found, command), found["seq"])
