"""Threads in one SQLite file: the default storage.

One connection writes, behind one lock, for LangGraph's saver, its store and our tables alike; a second one
reads, so that history waits for no writer. ``sqlite_writer.py`` has the writing, ``sqlite_file.py`` the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from typing import Any, TypeVar

import aiosqlite
import orjson
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore

from threadwire.errors import ConfigError, InvalidArgument
from threadwire.storage import Fence, RunRow, RunStatus, ThreadRow, ThreadStatus, sqlite_file
from threadwire.storage.sqlite_writer import (
    ConnectionLock,
    FencedStore,
    Saver,
    SharedStore,
    guarded,
    settle,
    storage_errors,
)

T = TypeVar("T")

#: In order; ``PRAGMA user_version`` counts those a file has had. Never changed, only added to.
MIGRATIONS = (
    """
    CREATE TABLE threads (
        thread_id TEXT NOT NULL PRIMARY KEY,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        status TEXT NOT NULL,
        metadata TEXT NOT NULL,
        interrupts TEXT NOT NULL
    );
    CREATE TABLE runs (
        accepted INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL UNIQUE,
        thread_id TEXT NOT NULL REFERENCES threads (thread_id) ON DELETE CASCADE,
        trigger TEXT NOT NULL,
        message_id TEXT,
        request TEXT NOT NULL,
        on_disconnect TEXT NOT NULL,
        created_at REAL NOT NULL,
        status TEXT NOT NULL,
        reason TEXT,
        error TEXT,
        usage TEXT,
        started_at REAL,
        ended_at REAL
    );
    CREATE INDEX runs_of_thread ON runs (thread_id, accepted);
    CREATE UNIQUE INDEX runs_of_message ON runs (thread_id, message_id) WHERE message_id IS NOT NULL;
    CREATE INDEX runs_unfinished ON runs (accepted) WHERE status IN ('queued', 'running');
    CREATE TABLE probe (filler BLOB)
    """,
)

# The columns of ``runs`` are the fields of ``RunRow``, in their order.
COLUMNS = ", ".join(column.name for column in fields(RunRow))
PLACES = ", ".join("?" for _ in fields(RunRow))
RUNS = f"SELECT {COLUMNS} FROM runs "  # noqa: S608 -- our own names
UNFINISHED = RUNS + "WHERE status IN ('queued', 'running') "


class SqliteStorage:
    """``Storage`` in a SQLite file; made by ``open``."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self._writer = writer
        self._lock = ConnectionLock(writer)
        self._saver = Saver(writer, self._lock)
        self._store = SharedStore(writer, self._lock)
        self._reader = reader
        self._reader_lock = ConnectionLock(reader)
        self.reader: BaseCheckpointSaver[str] = Saver(reader, self._reader_lock, is_setup=True)
        self.store: BaseStore = FencedStore(self._store, None)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str) -> AsyncIterator[SqliteStorage]:
        """Open the file at ``path``, made where it is not there, for this server alone; close it in the end.

        Raises:
            ConfigError: ``path`` names no file.
            StartupError: the file cannot be used; the message says why, and what to do.
        """
        if path == ":memory:":
            raise ConfigError(
                "storage.url: threads in memory would not outlive a restart: name a file, sqlite:///file.db"
            )
        stack = AsyncExitStack()
        try:
            yield await cls._open(stack, sqlite_file.locate(path))
        finally:
            await settle(stack.aclose())

    @classmethod
    async def _open(cls, stack: AsyncExitStack, real: str) -> SqliteStorage:
        stack.enter_context(sqlite_file.alone(real))
        sqlite_file.touch(real)
        with sqlite_file.startup_errors(real):
            writer = await stack.enter_async_context(sqlite_file.writing(real, len(MIGRATIONS)))
            # Closed before the writer, which so is the last and folds the write-ahead log into the file.
            reader = await stack.enter_async_context(sqlite_file.reading(real))
            storage = cls(writer, reader)
            await sqlite_file.migrate(writer, MIGRATIONS)
            await storage._saver.setup()
            await storage._store.setup()
            await writer.commit()  # the store's setup, made for another isolation level, leaves that to us
        stack.push_async_callback(storage._close)
        return storage

    async def _close(self) -> None:
        await self._lock.close()
        await self._reader_lock.close()

    def saver(self, fence: Fence | None = None) -> BaseCheckpointSaver[str]:
        """A saver that writes; through ``fence``, where one is given."""
        return self._saver.through(fence)

    def fenced_store(self, fence: Fence) -> BaseStore:
        """The store with its writes through ``fence``."""
        return FencedStore(self._store, fence)

    async def get_thread(self, thread_id: str) -> ThreadRow | None:
        """The thread's row, or None."""
        rows = await self._read(
            "SELECT thread_id, created_at, updated_at, status, metadata, interrupts FROM threads WHERE thread_id = ?",
            thread_id,
        )
        if not rows:
            return None
        thread = ThreadRow(*rows[0])
        thread.metadata, thread.interrupts = (orjson.loads(text) for text in rows[0][4:])
        return thread

    async def accept_run(self, run: RunRow) -> None:
        """Insert a queued run, and the thread's row where it is new.

        Raises:
            InvalidArgument: its ``run_id`` is taken, by any thread, or its ``message_id`` in this one.
        """

        async def insert() -> None:
            await self._writer.execute(
                "INSERT INTO threads VALUES (?, ?, ?, 'idle', '{}', '[]') ON CONFLICT (thread_id)"
                " DO UPDATE SET updated_at = max(updated_at, excluded.updated_at)",
                (run.thread_id, run.created_at, run.created_at),
            )
            try:
                await self._writer.execute(
                    f"INSERT INTO runs ({COLUMNS}) VALUES ({PLACES})",  # noqa: S608 -- our own names
                    _of_run(run),
                )
            except sqlite3.IntegrityError as error:
                field = "message_id" if "runs.message_id" in str(error) else "run_id"
                raise InvalidArgument(field, "has been used by another run") from error

        await self._write(insert)

    async def get_run(self, thread_id: str, run_id: str) -> RunRow | None:
        """A run of that thread, or None."""
        rows = await self._read(RUNS + "WHERE run_id = ? AND thread_id = ?", run_id, thread_id)
        return _run(rows[0]) if rows else None

    async def get_run_of_message(self, thread_id: str, message_id: str) -> RunRow | None:
        """The run that brought a user's message into that thread, or None."""
        rows = await self._read(RUNS + "WHERE thread_id = ? AND message_id = ?", thread_id, message_id)
        return _run(rows[0]) if rows else None

    async def unfinished_runs(self, thread_id: str | None = None) -> list[RunRow]:
        """Runs that are queued or running, in the order they were accepted."""
        if thread_id is None:
            rows = await self._read(UNFINISHED + "ORDER BY accepted")
        else:
            rows = await self._read(UNFINISHED + "AND thread_id = ? ORDER BY accepted", thread_id)
        return [_run(row) for row in rows]

    async def start_run(self, run_id: str, at: float) -> None:
        """Mark a queued run as running, and its thread as ``busy``; any other run stays as it is."""

        async def start() -> None:
            started = await self._writer.execute(
                "UPDATE runs SET status = 'running', started_at = ? WHERE run_id = ? AND status = 'queued'",
                (at, run_id),
            )
            if started.rowcount:
                await self._writer.execute(
                    "UPDATE threads SET status = 'busy', updated_at = max(updated_at, ?)"
                    " WHERE thread_id = (SELECT thread_id FROM runs WHERE run_id = ?)",
                    (at, run_id),
                )

        await self._write(start)

    async def finish_run(
        self,
        run_id: str,
        *,
        status: RunStatus,
        reason: str | None,
        error: dict[str, str] | None,
        usage: dict[str, Any] | None,
        at: float,
        thread_status: ThreadStatus,
        interrupts: list[dict[str, Any]],
    ) -> None:
        """Mark a run as ended, and its thread with what that leaves it in; an ended run changes neither."""

        async def finish() -> None:
            ended = await self._writer.execute(
                "UPDATE runs SET status = ?, reason = ?, error = ?, usage = ?, ended_at = ?"
                " WHERE run_id = ? AND status IN ('queued', 'running')",
                (status, reason, _json(error), _json(usage), at, run_id),
            )
            if ended.rowcount:
                await self._writer.execute(
                    "UPDATE threads SET status = ?, interrupts = ?, updated_at = max(updated_at, ?)"
                    " WHERE thread_id = (SELECT thread_id FROM runs WHERE run_id = ?)",
                    (thread_status, _json(interrupts), at, run_id),
                )

        await self._write(finish)

    async def set_thread_status(self, thread_id: str, status: ThreadStatus, interrupts: list[dict[str, Any]]) -> None:
        """Change what a thread waits for, where no run does it."""

        async def change() -> None:
            await self._writer.execute(
                "UPDATE threads SET status = ?, interrupts = ? WHERE thread_id = ?",
                (status, _json(interrupts), thread_id),
            )

        await self._write(change)

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete the thread, its runs and all its checkpoints; False where there was none."""

        async def delete() -> bool:
            rows = 0
            for table in ("runs", "threads", "checkpoints", "writes"):
                statement = f"DELETE FROM {table} WHERE thread_id = ?"  # noqa: S608 -- our own names
                rows += (await self._writer.execute(statement, (thread_id,))).rowcount
            return rows > 0

        return await self._write(delete)

    async def check(self) -> None:
        """Raise ``StorageError`` where the database cannot be written to now: 64 KiB are taken and freed."""

        async def probe() -> None:
            await self._writer.execute("INSERT INTO probe VALUES (zeroblob(65536))")
            await self._writer.execute("DELETE FROM probe")

        await self._write(probe)

    async def _read(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with storage_errors():
            async with self._reader_lock:
                return list(await self._reader.execute_fetchall(statement, values))  # type: ignore[arg-type]

    async def _write(self, statements: Callable[[], Awaitable[T]]) -> T:
        """Do ``statements`` as one transaction, to its end."""

        async def transaction() -> T:
            async with self._lock:
                result = await statements()
                await self._writer.commit()
                return result

        return await settle(guarded(None, transaction))


def _json(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _of_run(run: RunRow) -> tuple[object, ...]:
    values = (getattr(run, column.name) for column in fields(run))
    return tuple(_json(value) if isinstance(value, dict) else value for value in values)


def _run(row: tuple[Any, ...]) -> RunRow:
    run = RunRow(*row)
    run.request = orjson.loads(row[4])
    run.error, run.usage = (orjson.loads(text) if text else None for text in (row[9], row[10]))
    return run
