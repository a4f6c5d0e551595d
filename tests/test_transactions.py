"""Transactions that wait together are committed together, and fail alone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from contracts.storage import a_run
from threadwire.errors import StorageError
from threadwire.storage import Fence, FenceClosed, LogRow
from threadwire.storage.sqlite import SqliteStorage
from threadwire.storage.sqlite_transactions import Transactions


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    async with SqliteStorage.open(str(tmp_path / "t.db")) as storage:
        await storage._write(lambda database: database.execute("CREATE TABLE said (word TEXT NOT NULL UNIQUE)"))
        yield storage


def says(word: str | None) -> Callable[[sqlite3.Connection], str]:
    """A transaction of two statements; None and a word that was said fail at the second."""

    def work(database: sqlite3.Connection) -> str:
        database.execute("INSERT INTO said VALUES (hex(randomblob(8)))")
        database.execute("INSERT INTO said VALUES (?)", (word,))
        return f"said {word}"

    return work


async def said(storage: SqliteStorage) -> tuple[int, set[str]]:
    """How many rows there are, and the words among them."""
    rows = await storage._read("SELECT word FROM said")
    return len(rows), {word for (word,) in rows if len(word) < 16}


async def test_one_commit_for_all_that_wait(storage: SqliteStorage) -> None:
    """A hundred transactions at once take a few commits, and each gets what it gave."""
    traced: list[str] = []
    async with storage._lock as writer:
        await writer.set_trace_callback(traced.append)
    transactions: Transactions = storage._transactions
    words = [f"w{number}" for number in range(100)]
    given = await asyncio.gather(*(transactions.do(says(word)) for word in words))
    async with storage._lock as writer:
        await writer.set_trace_callback(lambda _statement: None)
    assert given == [f"said {word}" for word in words]
    assert await said(storage) == (200, set(words))
    assert 1 <= traced.count("COMMIT") <= 3


async def test_what_fails_fails_alone(storage: SqliteStorage) -> None:
    """Of several that go together, one that fails leaves nothing, and the others all they wrote."""
    works = [says("a"), says(None), says("b"), says("a"), says("c")]
    found = await asyncio.gather(
        *(storage._transactions.do(work) for work in works),
        return_exceptions=True,
    )
    assert [one for one in found if isinstance(one, str)] == ["said a", "said b", "said c"]
    assert [type(one) for one in found if not isinstance(one, str)] == [StorageError, StorageError]
    assert await said(storage) == (6, {"a", "b", "c"})


async def test_a_closed_fence_keeps_nobody_else(storage: SqliteStorage) -> None:
    """A write whose fence closes while it waits is refused; those beside it are not."""
    fence = Fence()
    waiting = [
        asyncio.ensure_future(storage._transactions.do(says(word), barrier))
        for word, barrier in (("a", None), ("b", fence), ("c", None))
    ]
    async with storage._lock:
        await asyncio.sleep(0)
        fence.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in found] == ["said a", "", "said c"]
    assert type(found[1]) is FenceClosed
    assert await said(storage) == (4, {"a", "c"})


async def test_to_its_end_whoever_is_cancelled(storage: SqliteStorage) -> None:
    """A caller that is cancelled leaves a whole transaction, and is cancelled when that is durable."""
    for steps in range(30):
        task = asyncio.ensure_future(storage._transactions.do(says(f"w{steps}")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.done()
    count, words = await said(storage)
    assert count == 2 * len(words)
    assert len(words) >= 29  # the first was cancelled before it had begun


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    """What comes after the end is refused, and what waits for it is not left waiting."""
    async with SqliteStorage.open(str(tmp_path / "t.db")) as storage:
        pass
    async with asyncio.timeout(60):
        with pytest.raises(StorageError, match="closed"):
            await storage.accept_run(a_run(), LogRow("t1", "e"))
