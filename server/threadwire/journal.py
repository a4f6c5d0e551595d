"""The journal: every thread's log on disk, so that it survives the process.

The journal is a reader of every log, and the one the others wait for: a few times a second it writes what is new of all
of them in one transaction, and at once, of that thread alone, where a frame is a promise (``protocol.PROMISES``) or a
run's row is to change with it. So a crash costs at most ``interval_seconds`` of text, and who has seen a run end finds
it ended after it. Commits that come while one is being written go out together with the next.

A ``Record`` is one thread's log with its place in the journal. Knows no runs and no readers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from contextvars import Context
from itertools import groupby
from typing import Any, NamedTuple

import orjson

from threadwire import failures
from threadwire.errors import StorageError
from threadwire.filters import Answer, Origin
from threadwire.log import Log, Numbered
from threadwire.logs import get_logger
from threadwire.storage import Frames, LogRow, Mark, Storage
from threadwire.tally import Tally

logger = get_logger(__name__)

#: Numbers are reserved ahead in blocks: a run that pours gives a few thousand between two writes.
BLOCK = 65_536
#: So many frames do not wait for the next write: the log's bound must not pass them by before they are written.
MANY = 2_000
#: A database that failed is not tried again sooner.
_RETRY_SECONDS = 0.1


class Record:
    """One thread's log, and how far the journal has it."""

    def __init__(self, thread_id: str, log: Log, journal: Journal) -> None:
        self.thread_id = thread_id
        self.log = log
        #: Frames from this number on stay on disk until told otherwise, however many the log keeps: a run's, which a
        #: crash would need. None: those the log keeps.
        self.pinned: int | None = None
        self._journal = journal
        self._position = 0
        self._floor = 0
        # A commit of it has failed, and its caller is to say what readers are told instead.
        self._stuck = False
        self._forgotten = False

    @property
    def row(self) -> LogRow:
        """Its row as it is for a thread that has none yet, with numbers for its first frames."""
        return LogRow(self.thread_id, self.log.epoch, reserved=BLOCK)

    def started(self) -> None:
        """The thread has its ``row`` now, if it had none before."""
        if not self.log.reserved:
            self.log.reserve(BLOCK)

    async def load(self) -> float:
        """Be where an earlier process, or an earlier life of the thread, left off; once, before the first frame.

        Returns when it was last written to, in seconds since the epoch; 0 where there is nothing of it left.
        """
        row = await self._journal.storage.read_log(self.thread_id)
        if row is None:
            return 0.0
        frames = [frame for frame in await self.read() if frame.seq > row.floor] if row.last > row.floor else []
        self._position, self._floor = row.last, row.floor
        self.log.restore(epoch=row.epoch, floor=row.floor, last=row.last, reserved=row.reserved, frames=frames)
        return row.touched_at if frames else 0.0

    async def read(self) -> list[Numbered]:
        """All its frames on disk, also those that the log in memory had no room for."""
        return list(_unpack(await self._journal.storage.read_frames(self.thread_id)))

    def tell(self, frame: dict[str, object], origin: Origin | None = None) -> int:
        """Append a frame to the log; gives its number."""
        seq = self.log.append(frame, origin)
        self._journal.touch(self, hurry=self.log.held or seq - self._position > MANY)
        return seq

    async def commit(self, *marks: Mark) -> None:
        """Write all that was told so far together with ``marks``; when that is durable, readers get it.

        Between that and the return nothing else runs: what the caller does next is true for them at once.

        Raises:
            StorageError: it was not written. Readers get none of the promises among it until ``let_out`` is called.
        """
        told = self.log.last
        await self._journal.commit(self, marks)
        self.log.settle(told)

    def let_out(self, *marks: Mark) -> None:
        """After a ``commit`` that failed: readers get what there is now; the journal tries ``marks`` until it can."""
        self._stuck = False
        self.log.settle(self.log.last)
        self._journal.post(self, marks)

    async def settled(self) -> None:
        """Wait until readers may have all there is."""
        while self.log.held:
            await self._journal.next_write(self)

    @property
    def dirty(self) -> bool:
        """Whether there is something of it that is not on disk."""
        return self._position != self.log.last

    def trimmed(self) -> None:
        """The log has dropped frames whose time was over: they can go from the disk, too."""
        self._journal.touch(self, hurry=False)

    async def forget(self) -> None:
        """Write no more of it: its thread is going to be deleted."""
        self._forgotten = True
        await self._journal.forget(self)

    # --- the journal's ----------------------------------------------------------------------------

    def collect(self, at: float) -> tuple[LogRow, Frames | None, int]:
        """What is new of it: its row as it will be, the frames, and the number it had them up to before."""
        log = self.log
        before, new = self._position, log.after(self._position)
        if log.floor > self._position:
            # Frames that were never written are gone: what is on disk from before is of no use.
            self._floor = log.floor
        else:
            self._floor = max(self._floor, log.floor if self.pinned is None else min(log.floor, self.pinned - 1))
        self._position = log.last
        reserved = log.reserved if log.last + BLOCK // 2 <= log.reserved else log.last + BLOCK
        row = LogRow(self.thread_id, log.epoch, self._floor, log.last, reserved, at)
        return row, _pack(new) if new else None, before

    def written(self, row: LogRow, *, committing: bool) -> None:
        """``row`` and what goes with it are on disk."""
        self._stuck = False
        if row.reserved > self.log.reserved:
            self.log.reserve(row.reserved)
        if not committing:
            self.log.settle(row.last)

    def failed(self, row: LogRow, before: int, *, committing: bool) -> None:
        """They are not."""
        self._position = before
        if committing:
            self._stuck = True
        else:
            self.log.settle(row.last)

    @property
    def stuck(self) -> bool:
        """Whether it must not be written: before ``let_out``, or for good."""
        return self._stuck or self._forgotten


class _Commit(NamedTuple):
    record: Record
    marks: tuple[Mark, ...]
    #: Set when it is durable; None where nobody waits.
    done: asyncio.Future[None] | None


class Journal:
    """Writes what is new of all records. One task, which lives while there is anything to write."""

    def __init__(self, storage: Storage, interval_seconds: float, tally: Tally | None = None) -> None:
        self.storage = storage
        self._tally = tally or Tally()
        self._interval_seconds = interval_seconds
        self._dirty: dict[Record, None] = {}
        # Those of them that are not to wait, and when the others have waited long enough.
        self._hasty: dict[Record, None] = {}
        self._due = 0.0
        self._commits: list[_Commit] = []
        self._hurry = asyncio.Event()
        self._writing = asyncio.Lock()
        self._worker: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._closing = False

    def touch(self, record: Record, *, hurry: bool) -> None:
        """There is something new of ``record``."""
        if record not in self._dirty and not record.stuck:
            if not self._dirty:
                self._due = time.monotonic() + self._interval_seconds
            self._dirty[record] = None
            self._start()
        if hurry and record in self._dirty:
            self._hasty[record] = None
            self._hurry.set()

    async def commit(self, record: Record, marks: tuple[Mark, ...]) -> None:
        """See ``Record.commit``."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(_Commit(record, marks, done))
        await done

    def post(self, record: Record, marks: tuple[Mark, ...]) -> None:
        """Write ``marks`` as soon as that works."""
        self._add(_Commit(record, marks, None))
        self._tell_waiting()

    async def next_write(self, record: Record) -> None:
        """Wait until something was written, or could not be."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self.touch(record, hurry=True)
        await waiter

    async def forget(self, record: Record) -> None:
        """Write no more of ``record``, which is stuck; return when nothing of it is being written."""
        async with self._writing:
            self._dirty.pop(record, None)
            self._hasty.pop(record, None)
            commits, self._commits = self._commits, []
            for commit in commits:
                if commit.record is not record:
                    self._commits.append(commit)
                elif commit.done is not None and not commit.done.done():
                    commit.done.set_exception(StorageError("The thread is going to be deleted."))

    async def close(self) -> None:
        """Write all there is, once."""
        self._closing = True
        self._hurry.set()
        if self._worker is not None:
            await asyncio.wait({self._worker})

    def _add(self, commit: _Commit) -> None:
        self._commits.append(commit)
        self._hurry.set()
        self._start()

    def _start(self) -> None:
        if self._worker is None:
            # It writes for everybody, and outlives the run whose node happens to be telling something.
            self._worker = asyncio.create_task(self._work(), name="journal", context=Context())

    async def _work(self) -> None:
        try:
            while self._dirty or self._commits:
                if not self._hurry.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(0.0, self._due - time.monotonic())):
                            await self._hurry.wait()
                if not await self._write():
                    if self._closing:
                        return
                    # Whatever hurries: a disk that is full is asked again after a while.
                    await asyncio.sleep(max(self._interval_seconds, _RETRY_SECONDS))
        finally:
            self._worker = None

    async def _write(self) -> bool:
        async with self._writing:
            now, began = time.time(), time.monotonic()
            if not self._hurry.is_set() or self._closing or began >= self._due:
                dirty, self._dirty = self._dirty, {}
            else:
                # Where a hundred threads talk, somebody always hurries: the others' text would be written in rows of a
                # word or two.
                dirty = self._hasty
            self._hurry.clear()
            self._hasty = {}
            commits, self._commits = self._commits, []
            committing = {commit.record for commit in commits if commit.done is not None}
            records = dict.fromkeys((*dirty, *(commit.record for commit in commits)))
            for record in records:
                self._dirty.pop(record, None)
            found = [(record, *record.collect(now)) for record in records]
            marks = [mark for commit in commits for mark in commit.marks]
            try:
                await self.storage.write([(row, frames) for _, row, frames, _ in found], marks)
            except Exception as error:
                logger.exception("journal not written", threads=len(found), marks=len(marks))
                for record, row, _, before in found:
                    record.failed(row, before, committing=record in committing)
                self._again(records, commits, failures.explain(error))
                return False
            else:
                self._tally.journal_write.add(time.monotonic() - began)
                self._tally.journal_bytes += sum(len(new.data) + len(new.origins) for _, _, new, _ in found if new)
                for record, row, _, _ in found:
                    record.written(row, committing=record in committing)
                for commit in commits:
                    if commit.done is not None and not commit.done.done():
                        commit.done.set_result(None)
                return True
            finally:
                self._tell_waiting()

    def _again(self, records: Iterable[Record], commits: Iterable[_Commit], error: Exception) -> None:
        """What was not written waits for the next time, but for what its caller is told of."""
        for record in records:
            self.touch(record, hurry=False)
        for commit in commits:
            if commit.done is None:
                self._commits.append(commit)
            elif not commit.done.done():
                commit.done.set_exception(error)

    @property
    def waiting(self) -> int:
        """How many threads have something that is not written."""
        return len(self._dirty)

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


# --- frames on disk ------------------------------------------------------------------------------


def _pack(frames: list[Numbered]) -> Frames:
    """Frames as lines; where they come from as runs: ``[[how many, origin], …]``."""
    runs = [[len(list(group)), origin] for origin, group in groupby(frame.origin for frame in frames)]
    return Frames(frames[-1].seq, b"\n".join(frame.data for frame in frames), orjson.dumps(runs, default=tuple))


def _unpack(rows: Iterable[Frames]) -> Iterator[Numbered]:
    for row in rows:
        origins = (_origin(origin) for count, origin in orjson.loads(row.origins) for _ in range(count))
        for data, origin in zip(row.data.split(b"\n"), origins, strict=True):
            yield Numbered(orjson.loads(data)["seq"], data, origin)


def _origin(found: list[Any] | None) -> Origin | None:
    if found is None:
        return None
    kind, name, tags, answer = found
    return Origin(kind, name, tuple(tags), Answer(*answer) if answer else None)
