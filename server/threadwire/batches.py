"""The batches of a server, each with its bound; and those of one connection, which end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import uuid_utils

from threadwire.allowance import user_of
from threadwire.answers import Answer, Answers
from threadwire.batch import Batch
from threadwire.errors import Busy, NoActiveRun, ThreadwireError, TooLarge
from threadwire.fresh import FreshRuns
from threadwire.logs import get_logger
from threadwire.protocol import Batch as BatchCommand
from threadwire.protocol import Cancel

logger = get_logger(__name__)

#: Ids of ended batches that a connection remembers, to answer a late ``cancel`` or a repeated command.
_REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The config's ``limits.batch_inputs`` and ``limits.max_batch_concurrency``; 0: no limit."""

    inputs: int
    concurrency: int

    def width(self, wanted: int | None, inputs: int) -> int:
        """How many inputs run at once, of a batch that asks for ``wanted`` (None: as many as may)."""
        bounds = [bound for bound in (wanted, self.concurrency) if bound]
        return min([*bounds, inputs])


class Batches:
    """All batches of a server."""

    def __init__(self, runs: FreshRuns, limits: BatchLimits) -> None:
        self._runs = runs
        self._limits = limits

    def begin(self, command: BatchCommand, user: dict[str, Any] | None = None) -> Batch:
        """A batch that is about to run; ``end`` it. ``user`` is what the graph is told of who asks.

        Raises:
            InvalidArgument: the graph needs a context, which a batch cannot give.
            TooLarge: it has more inputs than ``limits.batch_inputs``, or too large an attachment.
            RateLimited: the user starts too much.
            ShuttingDown: nothing new is started.
        """
        parts, count, most = self._runs.parts, len(command.inputs), self._limits.inputs
        if count > most > 0:
            raise TooLarge(f"inputs: expected at most {most}, got {count}")
        parts.allowance.start(user_of(user))
        for index, content in enumerate(command.inputs):
            parts.allowance.attachments(f"inputs.{index}", content)
        parts.graph.check_context(None, user)
        run_id = command.run_id.lower() if command.run_id is not None else str(uuid_utils.uuid7())
        width = self._limits.width(command.max_concurrency, count)
        batch = Batch(run_id, enumerate(command.inputs), width, parts, user)
        self._runs.add(batch)
        return batch

    def end(self, batch: Batch) -> None:
        """It is over; logged as every run is."""
        self._runs.remove(batch)
        if batch.ended is not None:
            logger.info("run", trigger="batch", inputs=batch.taken, **batch.ended)


class ConnectionBatches:
    """The batches of one connection, one at a time: its results are answers, and wait for the client to read them."""

    __slots__ = ("_answers", "_batch", "_batches", "_past", "_task", "_then")

    def __init__(self, batches: Batches, answers: Answers) -> None:
        self._batches = batches
        self._answers = answers
        self._batch: Batch | None = None
        self._task: asyncio.Task[None] | None = None
        self._past: tuple[str, ...] = ()
        self._then: Callable[[], None] | None = None

    def begin(
        self,
        command: BatchCommand,
        answer: Callable[[dict[str, Any] | ThreadwireError], None],
        user: dict[str, Any] | None = None,
    ) -> None:
        """Take a ``batch`` command."""
        run_id = command.run_id.lower() if command.run_id is not None else None
        if run_id is not None and (run_id in self._past or (self._batch and self._batch.run_id == run_id)):
            answer({"run_id": run_id, "duplicate": True})
            return
        try:
            if self._batch is not None:
                raise Busy("A batch is running on this connection.")
            self._batch = self._batches.begin(command, user)
        except ThreadwireError as error:
            answer(error)
            return
        answer({"run_id": self._batch.run_id})
        self._task = asyncio.create_task(self._serve(self._batch), name=f"batch {self._batch.run_id}")

    def cancel(self, command: Cancel, answer: Callable[[dict[str, Any] | ThreadwireError], None]) -> bool:
        """Take a ``cancel`` that names a batch; False where it does not."""
        run_id = command.run_id.lower() if command.run_id is not None else None
        if self._batch is not None and self._batch.run_id == run_id:
            self._batch.cancel("client")
            answer({"run_id": run_id})
            return True
        if run_id in self._past:
            answer(NoActiveRun("That batch has already ended."))
            return True
        return False

    def postpone(self, call: Callable[[], None]) -> bool:
        """Call that once the end of the batch that runs is told; False where none runs."""
        if self._batch is None:
            return False
        self._then = call
        return True

    def stop(self) -> None:
        """The connection ends, and its batch with it."""
        self._then = None
        if self._batch is not None:
            self._batch.cancel("disconnect")
        if self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until nothing of them is left."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _serve(self, batch: Batch) -> None:
        try:
            async with aclosing(batch.frames()) as frames:
                async for frame in frames:
                    sent = asyncio.Event()
                    self._answers.put(Answer(frame, sent=sent))
                    if frame["type"] == "run_finished":
                        self._forget(batch)
                    await sent.wait()
        except Exception:
            logger.exception("batch failed", run_id=batch.run_id)
            error = {"code": "internal", "message": "The server failed."}
            self._answers.put(Answer(batch.finished("failed", "error", error)))
        finally:
            self._forget(batch)
            self._batches.end(batch)

    def _forget(self, batch: Batch) -> None:
        if self._batch is batch:
            self._batch = None
            self._past = (*self._past[1 - _REMEMBERED :], batch.run_id)
            if self._then is not None:
                self._then()
