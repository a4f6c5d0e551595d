"""What a client follows to its end: a command that was answered, frames, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from threadwire.client.buffer import FrameBuffer
from threadwire.client.commands import Answer
from threadwire.protocol import AckFrame, RunFinishedFrame


class Following:
    """The part of a turn and of a batch that is the same.

    All that waits raises what it ended with instead of its ``run_finished``.
    """

    def __init__(
        self, run_id: str, answer: asyncio.Future[Answer], cancel: Callable[[str], Awaitable[AckFrame]]
    ) -> None:
        self.run_id = run_id
        self._answer = answer
        self._cancel = cancel
        self._frames = FrameBuffer()
        self._over = asyncio.Event()
        self._finished: RunFinishedFrame | None = None
        self._error: Exception | None = None
        answer.add_done_callback(self._answered)

    async def ack(self) -> AckFrame:
        """Wait until the server has taken the command: no crash of it loses a turn from then on."""
        # Shielded: whoever gives up waiting does not take the answer from the others.
        answer = await asyncio.shield(self._answer)
        assert isinstance(answer, AckFrame)  # noqa: S101 -- Commands pairs them by id
        return answer

    async def cancel(self) -> AckFrame:
        """Stop it. ``CommandFailed`` with ``no_active_run`` where it has ended."""
        return await self._cancel(self.run_id)

    async def finished(self) -> RunFinishedFrame:
        """Wait for the end and return its frame, whatever its ``status``."""
        await self._over.wait()
        if self._finished is None:
            assert self._error is not None  # noqa: S101 -- one of the two is why it is over
            raise self._error
        return self._finished

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over.is_set()

    def fail(self, error: Exception) -> None:
        """End it without its ``run_finished``."""
        if not self.over:
            self._error = error
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._frames.close(error)
        self._over.set()

    def _answered(self, answer: asyncio.Future[Answer]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, Exception):
            self.fail(error)
