"""All live threads of this process: made at their first command, let go when idle, drained on shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import groupby

import uuid_utils

from threadwire.errors import StorageError
from threadwire.logs import get_logger
from threadwire.protocol import CloseCode
from threadwire.seat import Seat
from threadwire.thread import Thread, ThreadParts

logger = get_logger(__name__)

#: How often, at most, threads are looked at for frames and threads whose time is over.
SWEEP_SECONDS = 5.0


class Hub:
    """The live threads by id. ``open()`` before use, ``close()`` after the last reader is gone."""

    def __init__(self, parts: ThreadParts, keep_seconds: float) -> None:
        self._parts = parts
        self._keep_seconds = keep_seconds
        self._threads: dict[str, Thread] = {}
        # Who is attached to threads that do not exist yet, and the epochs they have been told.
        self._waiting: dict[str, tuple[str, list[Seat]]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self.draining = False

    async def open(self) -> None:
        """Take up what an earlier process left unfinished, and start sweeping.

        Each thread does that by itself, before it takes anything else: nobody else waits for it.
        """
        rows = await self._parts.turns.storage.unfinished_runs()
        for thread_id, left in groupby(sorted(rows, key=lambda row: row.thread_id), key=lambda row: row.thread_id):
            found = list(left)
            logger.warning("runs taken up", thread_id=thread_id, run_ids=[row.run_id for row in found])
            self.get(thread_id).recover(found)
        self._sweeper = asyncio.create_task(self._sweep(), name="hub sweeper")

    def get(self, thread_id: str) -> Thread:
        """The live thread of that id, made where there is none: who waits for it is its reader."""
        thread = self._threads.get(thread_id)
        if thread is None:
            epoch, seats = self._waiting.pop(thread_id, (None, ()))
            thread = self._threads[thread_id] = Thread(thread_id, self._parts, epoch=epoch)
            if self.draining:
                thread.drain()
            for seat in seats:
                seat.rise(thread)
        return thread

    # --- threads that do not exist yet ---

    async def is_new(self, thread_id: str) -> bool:
        """Whether there is no such thread, live or stored."""
        if thread_id in self._threads:
            return False
        stored = thread_id not in self._waiting and await self._parts.turns.storage.get_thread(thread_id) is not None
        return not stored and thread_id not in self._threads

    def seat(self, seat: Seat) -> str:
        """Let it wait for a thread that is not live; returns the epoch its log will have."""
        epoch, seats = self._waiting.setdefault(seat.thread_id, (uuid_utils.uuid4().hex, []))
        seats.append(seat)
        return epoch

    def leave(self, seat: Seat) -> None:
        """It waits no more."""
        _, seats = self._waiting.get(seat.thread_id, ("", []))
        if seat in seats:
            seats.remove(seat)
            if not seats:
                del self._waiting[seat.thread_id]

    def created(self, thread_id: str) -> None:
        """A row was made beside it: a live thread of that id knows from now on that it exists."""
        if thread_id in self._threads or thread_id in self._waiting:
            self.get(thread_id).created()

    def __iter__(self) -> Iterator[Thread]:
        return iter(tuple(self._threads.values()))

    def __len__(self) -> int:
        return len(self._threads)

    @property
    def active(self) -> int:
        """How many threads have work in hand."""
        return sum(thread.running for thread in self._threads.values())

    async def delete(self, thread_id: str) -> bool:
        """Delete a thread for good; False where there was none."""
        existed = await self.get(thread_id).delete()
        # Whoever uses the id again gets a new thread, with an epoch of its own.
        self._threads.pop(thread_id, None)
        return existed

    def drain(self) -> None:
        """Start nothing more; runs may finish."""
        self.draining = True
        for thread in self._threads.values():
            thread.drain()

    async def finish_runs(self, seconds: float) -> None:
        """Wait for what runs, at most so long, then stop what is left; readers are closed as their threads are idle."""
        for seat in [seat for _, seats in self._waiting.values() for seat in seats]:
            seat.end(CloseCode.RESTART, "the server stops")
        threads = list(self._threads.values())
        parting = {asyncio.create_task(thread.part()) for thread in threads}
        if parting and seconds > 0:
            await asyncio.wait(parting, timeout=seconds)
        for task in parting:
            task.cancel()
        await asyncio.gather(*(thread.stop("shutdown") for thread in threads))

    async def close(self) -> None:
        """Stop sweeping; runs must be finished."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait({self._sweeper})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, max(0.1, self._keep_seconds / 2)))
            now = time.monotonic()
            for thread_id, thread in list(self._threads.items()):
                if thread.sweep(now, self._keep_seconds):
                    del self._threads[thread_id]
            try:
                # What threads that are not in memory left behind.
                storage = self._parts.turns.storage
                await storage.forget_frames(time.time() - self._keep_seconds, but=self._threads)
            except StorageError:
                logger.exception("old frames not deleted")
