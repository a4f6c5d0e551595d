"""One batch, as the client that started it sees it: its results as they finish, or in the order of its inputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from threadwire.client.commands import Answer
from threadwire.client.errors import BatchFailed
from threadwire.client.following import Following
from threadwire.protocol import AckFrame, BatchResultFrame, RunFinishedFrame


class Batch(Following):
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
        super().__init__(run_id, answer, cancel)
        self._results: dict[int, BatchResultFrame] = {}

    def __aiter__(self) -> AsyncIterator[BatchResultFrame]:
        return self

    async def __anext__(self) -> BatchResultFrame:
        frame = await self._frames.get()
        if frame is None:
            raise StopAsyncIteration
        assert isinstance(frame, BatchResultFrame)  # noqa: S101 -- no others are put
        return frame

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
        if self.over:
            return
        if isinstance(frame, BatchResultFrame):
            self._results[frame.index] = frame
            self._frames.put(frame)
        else:
            self._finished = frame
            self._end(None)


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
