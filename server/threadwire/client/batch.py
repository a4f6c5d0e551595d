"""One batch, as the client that started it sees it: its results as they finish, or in the order of its inputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from threadwire.client.buffer import FrameBuffer
from threadwire.client.commands import Answer
from threadwire.client.errors import BatchFailed
from threadwire.protocol import AckFrame, BatchResultFrame, RunFinishedFrame


class Batch:
    """A batch that this client started.

    It is an async iterator of its results as they finish: ``batch_result`` frames, each with ``index`` (the input's
    place) and either ``message`` or ``error``. The iteration ends with the batch, or raises. A batch ends with its
    connection: it is not begun again on the next one.

    All that waits raises ``CommandFailed`` where the server did not take it, and ``Disconnected`` where the connection
    was lost before the end.

    Attributes:
        run_id: The batch's id, a UUID; ours, and known from the start.
    """

    def __init__(
        self, run_id: str, answer: asyncio.Future[Answer], cancel: Callable[[str], Awaitable[AckFrame]]
    ) -> None:
        self.run_id = run_id
        self._answer = answer
        self._cancel = cancel
        self._frames = FrameBuffer()
        self._results: dict[int, BatchResultFrame] = {}
        self._over = asyncio.Event()
        self._finished: RunFinishedFrame | None = None
        self._error: Exception | None = None
        answer.add_done_callback(self._answered)

    def __aiter__(self) -> AsyncIterator[BatchResultFrame]:
        return self

    async def __anext__(self) -> BatchResultFrame:
        frame = await self._frames.get()
        if frame is None:
            raise StopAsyncIteration
        assert isinstance(frame, BatchResultFrame)  # noqa: S101 -- no others are put
        return frame

    async def ack(self) -> AckFrame:
        """Wait until the server has taken it."""
        answer = await asyncio.shield(self._answer)
        assert isinstance(answer, AckFrame)  # noqa: S101 -- Commands pairs them by id
        return answer

    async def cancel(self) -> AckFrame:
        """Stop all of it at once. ``CommandFailed`` with ``no_active_run`` where it has ended."""
        return await self._cancel(self.run_id)

    async def finished(self) -> RunFinishedFrame:
        """Wait for the end and return its frame: the status of the whole, and what it cost."""
        await self._over.wait()
        if self._finished is None:
            assert self._error is not None  # noqa: S101 -- one of the two is why it is over
            raise self._error
        return self._finished

    async def results(self) -> list[BatchResultFrame]:
        """Wait for the end and return a result for each input, in the order of the inputs.

        Raises:
            BatchFailed: it was stopped before its end; ``results`` of the error are those that had finished.
        """
        finished = await self.finished()
        results = [self._results[index] for index in sorted(self._results)]
        if finished.status != "completed":
            raise BatchFailed(finished, results)
        return results

    def take(self, frame: BatchResultFrame | RunFinishedFrame) -> None:
        """Add one of its frames."""
        if self._over.is_set():
            return
        if isinstance(frame, BatchResultFrame):
            self._results[frame.index] = frame
            self._frames.put(frame)
        else:
            self._finished = frame
            self._end(None)

    def fail(self, error: Exception) -> None:
        """End it without its ``run_finished``."""
        if not self._over.is_set():
            self._error = error
            self._end(error)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over.is_set()

    def _end(self, error: Exception | None) -> None:
        self._frames.close(error)
        self._over.set()

    def _answered(self, answer: asyncio.Future[Answer]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, Exception):
            self.fail(error)


class OpenBatches:
    """The batches of one chat that are not over."""

    def __init__(self) -> None:
        self._open: dict[str, Batch] = {}

    def add(self, batch: Batch) -> None:
        """Begin to follow one."""
        self._open = {run_id: known for run_id, known in self._open.items() if not known.over}
        self._open[batch.run_id] = batch

    def take(self, frame: BatchResultFrame | RunFinishedFrame) -> None:
        """Give a frame to its batch."""
        if (batch := self._open.get(frame.run_id)) is not None:
            batch.take(frame)

    def fail(self, error: Exception) -> None:
        """The connection is gone, and they with it."""
        for batch in self._open.values():
            batch.fail(error)
        self._open.clear()
