"""The journal: what is on disk when, who waits for it, and what happens when the disk will not have it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.storage import a_run
from harness import eventually
from threadwire.errors import StorageError
from threadwire.filters import Answer, Origin
from threadwire.journal import BLOCK, MANY, Journal, Record
from threadwire.log import Log
from threadwire.storage import Frames, LogRow, Mark, RunEnd, RunStart, Storage, open_storage

ORIGIN = Origin("chat_model", "model", ("a", "b"), Answer("m", "task"))
#: Longer than any test: nothing is written by the clock.
NEVER = 3600.0


class Disk:
    """A real storage whose journal fails, or waits, when it is told to."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.fails = False
        self.open = asyncio.Event()
        self.open.set()
        #: What each write had: threads, and how many marks.
        self.writes: list[tuple[list[str], int]] = []
        self.tried = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def write(self, logs: Sequence[tuple[LogRow, Frames | None]], marks: Sequence[Mark]) -> None:
        self.tried += 1
        await self.open.wait()
        if self.fails:
            raise StorageError("The database is full.")
        await self._storage.write(logs, marks)
        self.writes.append(([log.thread_id for log, _ in logs], len(marks)))


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    async with open_storage(f"sqlite:///{tmp_path}/threadwire.db") as storage:
        yield Disk(storage)


async def a_record(disk: Disk, journal: Journal, thread_id: str = "t1", max_bytes: int = 0) -> Record:
    """A thread's record, the thread with a run ``r-<thread>`` that is queued."""
    record = Record(thread_id, Log(f"epoch of {thread_id}", max_bytes, journaled=True), journal)
    if await disk.get_thread(thread_id) is None:
        await disk.accept_run(a_run(f"r-{thread_id}", thread_id), record.row)
        record.started()
    else:
        await record.load()
    return record


def journal_of(disk: Disk, seconds: float = NEVER) -> Journal:
    return Journal(disk, seconds)


def token(text: str, run_id: str = "r") -> dict[str, Any]:
    return {"type": "token", "run_id": run_id, "message_id": "m", "node": "n", "content": text}


def promise(n: int = 0) -> dict[str, Any]:
    return {"type": "run_started", "run_id": f"r{n}", "trigger": "send"}


def an_end(thread_id: str = "t1") -> RunEnd:
    return RunEnd(f"r-{thread_id}", "completed", None, None, None, 5.0, "idle", [])


def kinds(frames: list[bytes]) -> list[str]:
    return [json.loads(data)["type"] for data in frames]


async def start(record: Record) -> None:
    """Tell that a run starts, and commit it, in one step."""
    record.tell(promise())
    await record.commit(RunStart(f"r-{record.thread_id}", None, 5.0))


async def on_disk(disk: Disk, thread_id: str = "t1") -> list[str]:
    """The types of the frames there."""
    return [kind for row in await disk.read_frames(thread_id) for kind in kinds(row.data.split(b"\n"))]


async def test_text_is_read_before_it_is_written(disk: Disk) -> None:
    """Tokens wait for nobody; they are on disk after the interval, or in the end."""
    journal = journal_of(disk)
    record = await a_record(disk, journal)
    cursor = record.log.cursor(0)
    record.tell(token("a"), ORIGIN)
    assert kinds(cursor.take()) == ["token"]
    assert await on_disk(disk) == []
    await journal.close()
    assert await on_disk(disk) == ["token"]
    assert not record.dirty


async def test_text_is_written_after_the_interval(disk: Disk) -> None:
    """Without a promise, and without the end."""
    journal = journal_of(disk, 0.01)
    record = await a_record(disk, journal)
    record.tell(token("a"), ORIGIN)

    async def written() -> bool:
        return await on_disk(disk) == ["token"]

    await eventually(written, "it is written")
    await journal.close()


async def test_much_text_does_not_wait(disk: Disk) -> None:
    """A run that pours is written before the interval is over."""
    journal = journal_of(disk)
    record = await a_record(disk, journal)
    for number in range(MANY + 1):
        record.tell(token("a", f"r{number}"))
    await eventually(lambda: not record.dirty, "it is written")
    await journal.close()


async def test_who_hurries_hurries_nobody_else(disk: Disk) -> None:
    """A commit of one thread leaves another's text to be written with what comes within the interval."""
    journal = journal_of(disk)
    talking, committing = await a_record(disk, journal, "t1"), await a_record(disk, journal, "t2")
    talking.tell(token("a"), ORIGIN)
    await start(committing)
    assert await on_disk(disk, "t2") == ["run_started"]
    assert talking.dirty
    await journal.close()
    assert await on_disk(disk, "t1") == ["token"]


async def test_nobody_waits_for_ever_behind_those_who_hurry(disk: Disk) -> None:
    """Where somebody always hurries, the others' text is written all the same, after the interval."""
    journal = journal_of(disk, 0.01)
    talking, committing = await a_record(disk, journal, "t1"), await a_record(disk, journal, "t2")
    talking.tell(token("a"), ORIGIN)
    async with asyncio.timeout(30):
        while talking.dirty:
            await start(committing)
    await journal.close()


async def test_a_promise_waits_for_its_commit(disk: Disk) -> None:
    """Readers get it, and what comes after it, when it is on disk with its mark; and not before."""
    journal = journal_of(disk)
    record = await a_record(disk, journal)
    cursor = record.log.cursor(0)
    disk.open.clear()
    record.tell(token("a"), ORIGIN)
    committing = asyncio.create_task(start(record))
    await eventually(lambda: disk.tried, "it is being written")
    record.tell(token("b"), ORIGIN)
    assert kinds(cursor.take()) == ["token"]
    assert cursor.take() == []
    disk.open.set()
    await committing
    assert kinds(cursor.take()) == ["run_started", "token"]
    assert (await on_disk(disk))[:2] == ["token", "run_started"]
    run = await disk.get_run("t1", "r-t1")
    assert run.status == "running"
    await journal.close()


async def test_commits_go_out_together(disk: Disk) -> None:
    """What comes while one commit is written goes with the next, of all threads in one transaction."""
    journal = journal_of(disk)
    records = [await a_record(disk, journal, f"t{number}") for number in range(20)]
    disk.open.clear()
    tasks = []
    for number, record in enumerate(records):
        tasks.append(asyncio.create_task(start(record)))
        if not number:
            await eventually(lambda: disk.tried, "the first is being written")
    await asyncio.sleep(0)
    disk.open.set()
    await asyncio.gather(*tasks)
    assert [marks for _, marks in disk.writes] == [1, 19]
    for record in records:
        assert kinds(record.log.cursor(0).take()) == ["run_started"]
    await journal.close()


async def test_a_commit_that_fails(disk: Disk) -> None:
    """Its caller is told, its readers are not; nothing of it is written until its caller lets out something else."""
    journal = journal_of(disk, 0.01)
    record = await a_record(disk, journal)
    other = await a_record(disk, journal, "t2")
    cursor = record.log.cursor(0)
    disk.fails = True
    seq = record.tell({**promise(), "trigger": "edit"})
    with pytest.raises(StorageError):
        await record.commit(an_end())
    assert cursor.take() == []
    disk.fails = False
    # Others are written meanwhile, this one is not: it would tell what is not so.
    other.tell(promise(2))
    await other.commit()
    assert await on_disk(disk) == []
    assert cursor.take() == []
    record.log.amend(seq, promise(7))
    record.let_out(an_end())
    assert [json.loads(data)["run_id"] for data in cursor.take()] == ["r7"]
    await record.settled()
    await journal.close()
    assert await on_disk(disk) == ["run_started"]
    run = await disk.get_run("t1", "r-t1")
    assert run.status == "completed"


async def test_what_was_let_out_is_tried_until_it_works(disk: Disk) -> None:
    """Readers have it at once; the disk when it will."""
    journal = journal_of(disk, 0.01)
    record = await a_record(disk, journal)
    cursor = record.log.cursor(0)
    disk.fails = True
    record.tell(promise())
    with pytest.raises(StorageError):
        await record.commit()
    record.let_out(an_end())
    assert kinds(cursor.take()) == ["run_started"]
    tried = disk.tried
    await eventually(lambda: disk.tried > tried + 2, "it is tried again")
    run = await disk.get_run("t1", "r-t1")
    assert run.status == "queued"
    disk.fails = False
    await eventually(lambda: disk.writes, "it is written")
    run = await disk.get_run("t1", "r-t1")
    assert run.status == "completed"
    assert await on_disk(disk) == ["run_started"]
    await journal.close()


async def test_a_promise_without_a_commit(disk: Disk) -> None:
    """It is written at once; where that fails its readers get it all the same: nobody would let it out."""
    journal = journal_of(disk, 0.01)
    record = await a_record(disk, journal)
    cursor = record.log.cursor(0)
    record.tell(promise())
    assert cursor.take() == []
    await record.settled()
    assert kinds(cursor.take()) == ["run_started"]
    disk.fails = True
    record.tell(promise(1))
    await record.settled()
    assert kinds(cursor.take()) == ["run_started"]
    disk.fails = False
    await eventually(lambda: not record.dirty, "it is tried again")
    await journal.close()


async def test_forgotten(disk: Disk) -> None:
    """Of a thread that is going to be deleted nothing more is written, also not what waited."""
    journal = journal_of(disk, 0.01)
    record = await a_record(disk, journal)
    disk.open.clear()
    first = asyncio.create_task(start(record))
    await eventually(lambda: disk.tried, "it is being written")
    record.tell(token("later"))
    forgetting = asyncio.create_task(record.forget())
    await asyncio.sleep(0)
    assert not forgetting.done()
    disk.open.set()
    await forgetting
    await first
    await disk.delete_thread("t1")
    record.tell(token("too late"))
    other = await a_record(disk, journal, "t2")
    other.tell(promise())
    await other.commit()
    await journal.close()
    assert [threads for threads, _ in disk.writes if threads] == [["t1"], ["t2"]]


async def test_closing_with_a_full_disk(disk: Disk) -> None:
    """The end is not held up: all is tried once."""
    journal = journal_of(disk)
    record = await a_record(disk, journal)
    disk.fails = True
    record.tell(token("a"))
    await journal.close()
    assert disk.tried == 1
    assert record.dirty


async def test_restored(disk: Disk) -> None:
    """The next process has the same bytes under the same numbers, from the same places, and goes on above them."""
    journal = journal_of(disk)
    record = await a_record(disk, journal)
    record.tell(token("a"), ORIGIN)
    record.tell(promise())
    await record.commit()
    record.tell(token("b"), ORIGIN)
    seen = record.log.cursor(0).take()
    # The token after the promise is lost with the process.
    again = Record("t1", Log("another epoch", 0, journaled=True), journal_of(disk))
    assert await again.load() > 0
    assert again.log.epoch == "epoch of t1"
    assert again.log.cursor(0).take() == seen[:2]
    assert [(frame.seq, frame.origin) for frame in await again.read()] == [(1, ORIGIN), (2, None)]
    assert [again.log.has(seq) for seq in (0, 1, 2, 3)] == [True, True, True, False]
    assert again.tell(token("c")) > record.log.last
    assert again.log.cursor(2).take() == [], "nothing that is not reserved is read"
    await again.settled()
    assert [json.loads(data)["content"] for data in again.log.cursor(2).take()] == ["c"]
    await journal.close()


async def test_numbers_are_reserved_ahead(disk: Disk) -> None:
    """However many frames there are, none is read whose number is not reserved on disk, and none waits for long."""
    journal = journal_of(disk, 0.001)
    record = await a_record(disk, journal)
    cursor = record.log.cursor(0)
    for number in range(BLOCK * 2):
        record.tell(token("a", f"r{number}"))
        if not number % 5_000:
            await asyncio.sleep(0.002)
    record.tell(promise())
    await record.commit()
    row = await disk.read_log("t1")
    assert row.last == BLOCK * 2 + 1
    assert row.reserved > row.last
    while cursor.position < record.log.last:
        assert cursor.take(1_000_000)
    await journal.close()


async def test_a_pinned_run_stays_on_disk(disk: Disk) -> None:
    """What a crash would need outlives the log's bound, until it is needed no more."""
    journal = journal_of(disk)
    record = await a_record(disk, journal, max_bytes=20_000)
    record.pinned = record.tell(promise())
    for number in range(100):
        record.tell(token("a" * 1000, f"r{number}"))
        await record.commit()
    assert record.log.floor > 50
    assert len(await record.read()) == 101
    row = await disk.read_log("t1")
    assert row.floor == 0
    record.pinned = None
    record.tell(promise(2))
    await record.commit()
    assert len(await record.read()) < 30
    await journal.close()
