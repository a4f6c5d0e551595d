"""The SQLite storage: the contract of every storage, and what only a file can do to it."""

# ruff: noqa: ASYNC240 -- a test has its loop for itself, and may block it

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langgraph.checkpoint.serde.jsonplus import EXT_CONSTRUCTOR_SINGLE_ARG
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.store.base import PutOp

from contracts.storage import Factory, StorageContract, a_run, accept, config_of, finish, newest, put
from databases import rows
from threadwire.errors import ConfigError, StartupError, StorageError
from threadwire.storage import Frames, LogRow, RunStart, ThreadMark, ThreadQuery, open_storage, sqlite_file
from threadwire.storage.sqlite import SqliteStorage
from threadwire.storage.sqlite_schema import MIGRATIONS

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
CHILD = """
import asyncio, os, sys
from threadwire.errors import StartupError
from threadwire.storage.sqlite import SqliteStorage

async def main():
    try:
        async with SqliteStorage.open(sys.argv[1]):
            print("open", flush=True)
            await asyncio.to_thread(sys.stdin.read)
    except StartupError as error:
        print(error, flush=True)

#
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a test's database is."""
    return str(tmp_path / "threads.db")


@pytest.fixture
async def storage(path: str) -> AsyncIterator[SqliteStorage]:
    """An open storage in a new file."""
    async with SqliteStorage.open(path) as storage:
        yield storage


class TestSqliteContract(StorageContract):
    """SQLite keeps the contract."""

    @pytest.fixture
    def factory(self, path: str) -> Factory:
        return lambda: open_storage(f"sqlite:///{path}")


async def by_hand(storage: SqliteStorage, statement: str) -> list[Any]:
    """What the writer's own connection says to a statement that no transaction has."""
    async with storage._lock as writer:
        return list(await writer.execute_fetchall(statement))


async def refusal(path: object) -> str:
    """The line with which a file is refused; it names the file."""
    with pytest.raises(StartupError) as refused:
        async with SqliteStorage.open(str(path)):
            pass
    assert os.path.realpath(str(path)) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- transactions -------------------------------------------------------------------------------------------


async def test_pragmas(storage: SqliteStorage) -> None:
    """The writer logs ahead, syncs each commit, waits for other programs and keeps references."""
    for pragma, value in [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("busy_timeout", 5000),
        ("foreign_keys", 1),
    ]:
        assert await by_hand(storage, f"PRAGMA {pragma}") == [(value,)]
    async with storage._reader_lock as reader:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await reader.execute("DELETE FROM threads")


async def test_lock_rolls_back(storage: SqliteStorage, path: str) -> None:
    """What a failed or cancelled holder of the lock left open is gone before the next one writes."""

    async def leave(error: Exception | None) -> None:
        async with storage._lock as writer:
            await writer.execute("INSERT INTO probe VALUES (1)")
            if error:
                raise error
            await asyncio.Event().wait()

    with pytest.raises(ValueError, match="broken"):
        await leave(ValueError("broken"))
    for steps in range(1, 40):
        task = asyncio.create_task(leave(None))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # in the middle of the rollback, as often as not
        with pytest.raises(asyncio.CancelledError):
            await task
        await accept(storage, a_run(f"r{steps}"))
        assert rows(path, "SELECT count(*) FROM probe") == [(0,)]


async def test_cancelled_to_the_core(storage: SqliteStorage, path: str) -> None:
    """Where the write itself is cancelled, as a stopping loop does it, nobody commits half of it later."""
    for steps in range(40):
        thread_id = f"t{steps}"
        checkpoint = await put(storage.saver(), thread_id)
        at = config_of(thread_id, checkpoint_id=checkpoint["id"])
        before = asyncio.all_tasks()
        writing = asyncio.create_task(storage.saver().aput_writes(at, [("y", n) for n in range(50)], "task"))
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(writing, *tasks, return_exceptions=True)
        count = f"SELECT count(*) FROM writes WHERE thread_id = '{thread_id}'"
        settled = rows(path, count)
        assert settled in ([(0,)], [(50,)])
        await accept(storage, a_run(f"r{steps}"))
        assert rows(path, count) == settled


async def test_store_batch_is_whole(storage: SqliteStorage, path: str) -> None:
    """A batch of which one write fails changes nothing, now or with the next writer's commit."""
    rows(
        path,
        "CREATE TRIGGER t BEFORE INSERT ON store WHEN NEW.key = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    await storage.store.aput(("a",), "k", {"n": 1})
    with pytest.raises(StorageError):
        await storage.store.abatch([PutOp(("a",), "k", None), PutOp(("a",), "bad", {"n": 2})])
    await accept(storage, a_run())
    assert [item.key for item in await storage.store.asearch(("a",))] == ["k"]


async def test_reading_beside_the_writer(storage: SqliteStorage) -> None:
    """History, threads and runs are read while somebody else has the writer's lock and a transaction."""
    await accept(storage, a_run())
    await put(storage.saver())
    async with asyncio.timeout(20), storage._lock as writer:
        await writer.execute("UPDATE runs SET status = 'lost'")
        assert await newest(storage.reader) == "v"
        assert len([found async for found in storage.reader.alist(config_of("t1"))]) == 1
        assert await storage.get_run("t1", "r1") == a_run()
        assert await storage.get_thread("t1") is not None
        await writer.rollback()


async def test_reading_beside_a_search(storage: SqliteStorage) -> None:
    """A search that takes its time keeps nobody from reading or writing."""
    async with asyncio.timeout(20), storage._searcher_lock:
        await accept(storage, a_run())
        await put(storage.saver())
        assert await newest(storage.reader) == "v"
        assert await storage.get_run("t1", "r1") == a_run()
        assert await storage.get_thread("t1") is not None


async def test_delete_leaves_nothing(storage: SqliteStorage, path: str) -> None:
    """No table has a row that names a deleted thread."""
    await accept(storage, a_run(thread_id="needle"))
    checkpoint = await put(storage.saver(), "needle")
    await storage.saver().aput_writes(config_of("needle", checkpoint_id=checkpoint["id"]), [("y", 1)], "task")
    await storage.write([(LogRow("needle", "e", last=1), Frames(1, b"{}", b"[]"))], [RunStart("r1", None, 1.0)])
    await finish(storage, "r1")
    tables = [name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")]

    def naming() -> list[str]:
        return [table for table in tables if "needle" in str(rows(path, f"SELECT * FROM {table}"))]

    assert sorted(naming()) == sorted(["checkpoints", "frames", "logs", "runs", "texts", "threads", "turns", "writes"])
    assert await storage.delete_thread("needle")
    assert naming() == []


async def test_tampered_row(storage: SqliteStorage, path: str, tmp_path: Path) -> None:
    """A row that names ``os.system`` runs no code, whoever reads it."""
    await put(storage.saver())
    made = tmp_path / "made"
    call = ormsgpack.Ext(EXT_CONSTRUCTOR_SINGLE_ARG, ormsgpack.packb(("os", "system", f"touch {made}")))
    blob = ormsgpack.packb({"v": 4, "id": "1", "channel_values": {"x": call}})
    rows(path, f"UPDATE checkpoints SET checkpoint = x'{blob.hex()}'")
    allowing = storage.saver().with_allowlist([("a", "B")])
    for saver in (storage.reader, storage.saver(), allowing):
        assert await newest(saver) == f"touch {made}"
    assert not made.exists()


# --- a database that fails ----------------------------------------------------------------------------------


async def full(storage: SqliteStorage) -> None:
    """Let the file grow no more."""
    await by_hand(storage, "PRAGMA max_page_count = 1")  # SQLite takes the present size for it


async def read_only(storage: SqliteStorage) -> None:
    """Let the writer write no more."""
    await by_hand(storage, "PRAGMA query_only = ON")


async def mend(storage: SqliteStorage) -> None:
    """Undo either."""
    await by_hand(storage, "PRAGMA max_page_count = 1000000")
    await by_hand(storage, "PRAGMA query_only = OFF")


@pytest.mark.parametrize(("fail", "says"), [(full, "full"), (read_only, "read-only")])
async def test_failing(
    storage: SqliteStorage, path: str, fail: Callable[[SqliteStorage], Awaitable[None]], says: str
) -> None:
    """Full or read-only: each way to write says so, nothing committed is lost, and once mended all works."""
    large = "x" * 200_000
    await accept(storage, a_run())
    checkpoint = await put(storage.saver(), value="kept")
    await storage.store.aput(("a",), "k", {"n": 1})
    await fail(storage)
    at = config_of("t1", checkpoint_id=checkpoint["id"])
    for write in (
        lambda: put(storage.saver(), value=large),
        lambda: storage.saver().aput_writes(at, [("y", 1), ("z", large)], "task"),
        lambda: storage.store.aput(("a",), "k", {"n": large}),
        lambda: storage.store.abatch([PutOp(("a",), "k", None), PutOp(("a",), "l", {"n": large})]),
        lambda: accept(storage, a_run("r2", "t2", request={"content": large})),
        lambda: finish(storage, "r1", interrupts=[{"value": large}]),
        lambda: storage.write([], [ThreadMark("t1", "error", [{"value": large}])]),
        storage.check,
    ):
        with pytest.raises(StorageError, match=says) as failed:
            await write()
        assert path not in str(failed.value)
        assert isinstance(failed.value.__cause__, sqlite3.Error)
    assert await newest(storage.reader) == await newest(storage.saver()) == "kept"
    assert await storage.get_run("t1", "r1") == a_run()
    assert await storage.get_thread("t2") is None
    await mend(storage)
    await storage.check()
    await put(storage.saver(), value=large)
    await storage.store.aput(("a",), "l", {"n": 2})
    await accept(storage, a_run("r2", "t2"))
    assert await newest(storage.reader) == large
    assert sorted(item.key for item in await storage.store.asearch(("a",))) == ["k", "l"]
    assert rows(path, "SELECT count(*) FROM writes") == [(0,)]


async def test_failing_reads(storage: SqliteStorage) -> None:
    """A read that the database fails is a ``StorageError`` too."""
    await by_hand(storage, "DROP TABLE checkpoints")
    await by_hand(storage, "DROP TABLE store")
    await by_hand(storage, "DROP TABLE runs")
    for read in (
        lambda: newest(storage.reader),
        lambda: newest(storage.saver()),
        lambda: anext(aiter(storage.reader.alist(config_of("t1")))),
        lambda: storage.store.aget(("a",), "k"),
        lambda: storage.store.asearch(("a",)),
        lambda: storage.get_run("t1", "r1"),
    ):
        with pytest.raises(StorageError):
            await read()


async def test_locked_by_another_program(storage: SqliteStorage, path: str) -> None:
    """While another program holds the write lock, a write waits its time out and says so."""
    await by_hand(storage, "PRAGMA busy_timeout = 20")
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            await accept(storage, a_run())
        other.execute("ROLLBACK")
        await accept(storage, a_run())
    finally:
        other.close()


# --- opening and closing ------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the storage open."""
    command = [sys.executable, "-c", CHILD, path]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


async def test_second_server(storage: SqliteStorage, path: str, tmp_path: Path) -> None:
    """A file that is open is not opened again, by whatever name; nor does trying disturb its owner."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    for name in (path, link, os.path.relpath(path)):
        assert f"in use by another threadwire server (process {os.getpid()})" in await refusal(name)
    await accept(storage, a_run())


async def test_second_process(elsewhere: subprocess.Popen[str], path: str) -> None:
    """A second server on the file refuses to start and names the first; after its death the file is free."""
    for _ in range(2):
        assert f"(process {elsewhere.pid})" in await refusal(path)
    elsewhere.send_signal(signal.SIGKILL)
    elsewhere.wait(10)
    async with SqliteStorage.open(path) as storage:
        await storage.check()


async def test_memory() -> None:
    """A database in memory is no storage."""
    with pytest.raises(ConfigError, match="memory"):
        async with SqliteStorage.open(":memory:"):
            pass


async def test_no_directory(tmp_path: Path) -> None:
    """A file in a directory that is not there is refused, and nothing is made."""
    assert "does not exist" in await refusal(tmp_path / "no" / "threads.db")
    assert list(tmp_path.iterdir()) == []


async def test_directory(tmp_path: Path) -> None:
    """A directory is refused."""
    (tmp_path / "threads.db").mkdir()
    assert "is a directory" in await refusal(tmp_path / "threads.db")


@pytest.mark.parametrize(("mode", "file_mode"), [(0o777, 0o444), (0o555, 0o666)])
def test_not_writable(mode: int, file_mode: int) -> None:
    """A file that is read-only, or in a read-only directory, is refused."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "threads.db")
        file.touch()
        file.chmod(file_mode)
        Path(directory).chmod(mode)
        # Root may write everywhere: the child gives that up once it has what it imports.
        command = [sys.executable, "-c", CHILD.replace("#", "os.geteuid() or os.setuid(65534)"), str(file)]
        child = subprocess.run(
            command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        Path(directory).chmod(0o700)
    assert child.stdout.startswith(f"{os.path.realpath(file)}: "), child.stderr
    assert "writable (Permission denied)" in child.stdout or "(Permission denied): make the" in child.stdout
    assert child.stdout.count("\n") == 1


async def test_private(storage: SqliteStorage, path: str, tmp_path: Path) -> None:
    """Whatever the storage makes, nobody else may read."""
    await accept(storage, a_run())
    names = {Path(path + end).name for end in ("", "-wal", "-shm", ".lock")}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "content", [b"garbage " * 1000, b"x", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(range(256)) * 40]
)
async def test_garbage(tmp_path: Path, content: bytes) -> None:
    """A file that is no database is refused and stays as it is."""
    file = tmp_path / "threads.db"
    file.write_bytes(content)
    line = await refusal(file)
    assert "not a SQLite database" in line or "damaged" in line
    assert file.read_bytes() == content


@pytest.mark.parametrize("size", [20, 100, 1000, 4096, 20_000, 100_000])
async def test_truncated(path: str, size: int) -> None:
    """A database that has lost its end is refused, and not touched."""
    await filled(path)
    content = Path(path).read_bytes()[:size]
    Path(path).write_bytes(content)
    line = await refusal(path)
    assert "damaged" in line or "not a SQLite database" in line
    assert Path(path).read_bytes() == content


async def test_corrupt(path: str) -> None:
    """A database with a hole in the middle is refused as damaged."""
    await filled(path)
    content = bytearray(Path(path).read_bytes())
    # A page of nothing but checkpoints, where SQLite would only come across it much later.
    start = rows(path, "SELECT rootpage FROM sqlite_master WHERE name = 'checkpoints'")[0][0] * 4096 - 4096
    content[start : start + 4096] = b"\xff" * 4096
    Path(path).write_bytes(content)
    assert "damaged" in await refusal(path)


async def filled(path: str) -> None:
    """Make a database of some 50 pages."""
    async with SqliteStorage.open(path) as storage:
        for number in range(20):
            await put(storage.saver(), value="x" * 10_000 + str(number))


async def test_newer(path: str) -> None:
    """A database of a newer threadwire is refused and stays as it is."""
    await filled(path)
    rows(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    content = Path(path).read_bytes()
    assert "newer threadwire" in await refusal(path)
    assert Path(path).read_bytes() == content


async def test_older(path: str) -> None:
    """A database of each older version is brought up to date with what is in it."""
    for version in range(1, len(MIGRATIONS)):
        file = f"{path}{version}"
        for script in MIGRATIONS[:version]:
            connection = sqlite3.connect(file)
            connection.executescript(script)
            connection.close()
        columns = "thread_id, created_at, updated_at, status, metadata, interrupts"
        rows(file, f"INSERT INTO threads ({columns}) VALUES ('t1', 1.0, 1.0, 'idle', '{{}}', '[]')")
        rows(file, f"PRAGMA user_version = {version}")
        async with SqliteStorage.open(file) as storage:
            await accept(storage, a_run())
            assert [row.thread_id for row in await storage.search_threads(ThreadQuery(text="grüß"))] == ["t1"]
        assert rows(file, "PRAGMA user_version") == [(len(MIGRATIONS),)]


async def test_first_start_on_a_copy(path: str) -> None:
    """A file that is marked as a copy gets new epochs for its logs, once; frames and all else are as they were."""
    async with SqliteStorage.open(path) as storage:
        for number in range(3):
            await accept(storage, a_run(f"r{number}", f"t{number}"))
        log = LogRow("t1", "epoch of r1", floor=2, last=7, reserved=1000)
        await storage.write([(log, Frames(7, b"data", b"origins"))], [])
        frames = await storage.read_frames("t1")
    rows(path, f"PRAGMA application_id = {sqlite_file.COPIED}")
    seen = []
    for _ in range(2):
        async with SqliteStorage.open(path) as storage:
            logs = [await storage.read_log(f"t{number}") for number in range(3)]
            assert logs[1] is not None
            assert (logs[1].floor, logs[1].last, logs[1].reserved) == (2, 7, 7)
            assert await storage.read_frames("t1") == frames
            seen.append({log.epoch for log in logs if log is not None})
    assert len(seen[0]) == 3
    assert not [epoch for epoch in seen[0] if epoch.startswith("epoch of")]
    assert seen[0] == seen[1]
    assert rows(path, "PRAGMA application_id") == [(0,)]


async def test_foreign_tables(path: str) -> None:
    """Another program's database with tables of our names is refused without a trace of us in it."""
    rows(path, "CREATE TABLE runs (id)")
    assert "table runs already exists" in await refusal(path)
    assert rows(path, "SELECT name FROM sqlite_master") == [("runs",)]


async def test_adopts_checkpoints(path: str) -> None:
    """A file that AsyncSqliteSaver has made is taken over with its checkpoints."""
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        await put(saver, value="old")
    async with SqliteStorage.open(path) as storage:
        assert await newest(storage.reader) == "old"


async def test_close(path: str) -> None:
    """Closing ends every task and thread, folds the log into the file and frees it; failing to open too."""
    threads, tasks = threading.active_count(), asyncio.all_tasks()
    for _ in range(3):
        async with SqliteStorage.open(path) as storage:
            await storage.store.aput(("a",), "k", {"n": 1})
            saver = storage.saver()
        assert not Path(path + "-wal").exists()
        with pytest.raises(StorageError, match="closed"):
            await put(saver)
        with pytest.raises(StorageError, match="closed"):
            await storage.get_thread("t1")
    rows(path, "PRAGMA user_version = 99")
    await refusal(path)
    rows(path, f"PRAGMA user_version = {len(MIGRATIONS)}")
    async with SqliteStorage.open(path):
        pass
    assert asyncio.all_tasks() == tasks
    async with asyncio.timeout(20):
        while threading.active_count() > threads:  # noqa: ASYNC110 -- a connection's thread ends a moment after it has answered
            await asyncio.sleep(0.01)


async def test_close_waits(path: str) -> None:
    """Closing lets the writes end that are under way."""
    async with SqliteStorage.open(path) as storage:
        writes = [asyncio.create_task(put(storage.saver(), f"t{number}")) for number in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*writes)
    assert rows(path, "SELECT count(*) FROM checkpoints") == [(5,)]
