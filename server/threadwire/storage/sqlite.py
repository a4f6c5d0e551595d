"""Threads in one SQLite file: the default storage.

One connection writes, behind one lock, for LangGraph's saver, its store and our tables alike; a second one reads, so
that history waits for no writer; a third one searches.

``sqlite_schema.py`` has the tables, ``sqlite_threads.py`` the threads, ``sqlite_journal.py`` the logs and what is
written with them, ``sqlite_prune.py`` what goes of old checkpoints, ``sqlite_writer.py`` LangGraph's saver and store,
``sqlite_transactions.py`` all transactions, ``sqlite_file.py`` the file.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, fields
from typing import Any

import orjson
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore

from threadwire.errors import ConfigError, Forbidden, InvalidArgument
from threadwire.storage import SEARCHED_CHARACTERS, Fence, LogRow, RunRow, TokenRow, sqlite_file
from threadwire.storage.remembered import Remembered
from threadwire.storage.sqlite_journal import RENEW, SqliteJournal
from threadwire.storage.sqlite_prune import SqlitePruning
from threadwire.storage.sqlite_schema import MIGRATIONS
from threadwire.storage.sqlite_threads import VALUES, add_functions
from threadwire.storage.sqlite_transactions import Connection, settle
from threadwire.storage.sqlite_writer import FencedStore, Saver, SharedStore
from threadwire.title import TITLE, plain_text, title_of

# The columns of ``runs`` are the fields of ``RunRow``, in their order.
COLUMNS = ", ".join(column.name for column in fields(RunRow))
PLACES = ", ".join("?" for _ in fields(RunRow))
RUNS = f"SELECT {COLUMNS} FROM runs "  # noqa: S608 -- our own names
# ``owner`` is the row's: a thread that is another's gives no row.
TOUCH = VALUES + (  # noqa: S608 -- our own names
    "ON CONFLICT (thread_id) DO UPDATE SET updated_at = max(updated_at, excluded.updated_at)"
    " WHERE owner = excluded.owner"
    " RETURNING metadata, EXISTS (SELECT 1 FROM runs WHERE runs.thread_id = threads.thread_id)"
)
NEW_LOG = "INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
TOKENS = f"SELECT {', '.join(column.name for column in fields(TokenRow))} FROM tokens"  # noqa: S608 -- our own names
TOKEN = f"{TOKENS} WHERE token_id = ?"
SPENT = "SELECT tokens FROM spending WHERE day = ? AND user = ?"
SPEND = "INSERT INTO spending VALUES (?, ?, ?) ON CONFLICT (day, user) DO UPDATE SET tokens = tokens + excluded.tokens"
UNFINISHED = RUNS + "WHERE status IN ('queued', 'running') "


class SqliteStorage(SqliteJournal, SqlitePruning):
    """``Storage`` in a SQLite file; made by ``open``."""

    def __init__(self, writer: Connection, reader: Connection, searcher: Connection) -> None:
        super().__init__(writer, reader, searcher)
        self._saver = Saver(writer, self._lock, self._transactions)
        self._remembered = Remembered()
        self._store = SharedStore(writer, self._lock)
        self._reading = Saver(reader, self._reader_lock, None)
        self.reader: BaseCheckpointSaver[str] = self._reading
        self.store: BaseStore = FencedStore(self._store, None)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str, took: Callable[[float], None] | None = None) -> AsyncIterator[SqliteStorage]:
        """Open the file at ``path``, made where it is not there, for this server alone; close it in the end.

        ``took`` is told how many seconds each write of a checkpoint took.

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
            storage = await cls._open(stack, sqlite_file.locate(path))
            if took is not None:
                storage._saver.took = took  # noqa: SLF001 -- its own class
            yield storage
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
            searcher = await stack.enter_async_context(sqlite_file.reading(real))
            await add_functions(searcher)
            storage = cls(writer, reader, searcher)
            await sqlite_file.migrate(writer, MIGRATIONS)
            if await sqlite_file.pragma(writer, "application_id") == sqlite_file.COPIED:
                await writer.executescript(RENEW)
            await storage._saver.open()
            await storage._reading.open()
            await storage._store.setup()
            await writer.commit()  # the store's setup, made for another isolation level, leaves that to us
        stack.push_async_callback(storage._close)
        return storage

    async def _close(self) -> None:
        await self._lock.close()
        await self._reader_lock.close()
        await self._searcher_lock.close()

    def saver(self, fence: Fence | None = None, *, shared: bool = False) -> BaseCheckpointSaver[str]:
        """A saver that writes; through ``fence``, where one is given; ``shared``: who reads changes no message."""
        return self._saver.through(fence, self._remembered if shared else None)

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete all there is of the thread; False where there was none."""
        deleted = await super().delete_thread(thread_id)
        self._remembered.forget(thread_id)
        return deleted

    def fenced_store(self, fence: Fence) -> BaseStore:
        """The store with its writes through ``fence``."""
        return FencedStore(self._store, fence)

    async def accept_run(self, run: RunRow, log: LogRow) -> None:
        """Insert a queued run, and the thread's row and log where they are new.

        Raises:
            InvalidArgument: its ``run_id`` is taken, by any thread, or its ``message_id`` in this one.
        """
        content = run.request.get("content") or ""
        title = title_of(content)

        values = (run.thread_id, run.created_at, run.created_at, _json({TITLE: title} if title else {}), run.owner)

        def insert(database: sqlite3.Connection) -> None:
            rows = database.execute(TOUCH, values).fetchall()
            if not rows:
                raise Forbidden("The thread is not yours.")
            for text, has_runs in rows:
                if title and not has_runs:
                    _entitle(database, run.thread_id, orjson.loads(text), title)
            _insert_run(database, run)
            database.execute(NEW_LOG, astuple(log))
            if text := plain_text(content)[:SEARCHED_CHARACTERS]:
                database.execute("INSERT INTO texts VALUES (?, ?, ?)", (run.thread_id, text.casefold(), run.message_id))

        await self._write(insert)

    async def get_run(self, thread_id: str, run_id: str) -> RunRow | None:
        """A run of that thread, or None."""
        rows = await self._read(RUNS + "WHERE run_id = ? AND thread_id = ?", run_id, thread_id)
        return _run(rows[0]) if rows else None

    async def unfinished_runs(self, thread_id: str | None = None) -> list[RunRow]:
        """Runs that are queued or running, in the order they were accepted."""
        if thread_id is None:
            rows = await self._read(UNFINISHED + "ORDER BY accepted")
        else:
            rows = await self._read(UNFINISHED + "AND thread_id = ? ORDER BY accepted", thread_id)
        return [_run(row) for row in rows]

    async def check(self) -> None:
        """Raise ``StorageError`` where the database cannot be written to now: 64 KiB are taken and freed."""

        def probe(database: sqlite3.Connection) -> None:
            database.execute("INSERT INTO probe VALUES (zeroblob(65536))")
            database.execute("DELETE FROM probe")

        await self._write(probe)

    async def tokens(self) -> list[TokenRow]:
        """All tokens there are."""
        return [TokenRow(*row) for row in await self._read(TOKENS)]

    async def token(self, token_id: str) -> TokenRow | None:
        """One of them."""
        rows = await self._read(TOKEN, token_id)
        return TokenRow(*rows[0]) if rows else None

    async def tokens_spent(self, user: str, day: int) -> int:
        """How many tokens the user's runs have used on that day."""
        rows = await self._read(SPENT, day, user)
        return int(rows[0][0]) if rows else 0

    async def spend_tokens(self, user: str, day: int, tokens: int) -> None:
        """Add what something that is no run of a thread has used."""

        def spend(database: sqlite3.Connection) -> None:
            database.execute(SPEND, (day, user, tokens))

        await self._write(spend)

    async def secret(self, name: str) -> bytes:
        """32 random bytes under that name, made when first asked for."""

        def make(database: sqlite3.Connection) -> bytes:
            made = (name, secrets.token_bytes(32))
            database.execute("INSERT INTO secrets VALUES (?, ?) ON CONFLICT DO NOTHING", made)
            rows = database.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchall()
            return next(bytes(value) for (value,) in rows)

        return await self._write(make)


def _entitle(database: sqlite3.Connection, thread_id: str, metadata: dict[str, Any], title: str) -> None:
    if TITLE not in metadata:
        text = _json({**metadata, TITLE: title})
        database.execute("UPDATE threads SET metadata = ? WHERE thread_id = ?", (text, thread_id))


def _insert_run(database: sqlite3.Connection, run: RunRow) -> None:
    statement = f"INSERT INTO runs ({COLUMNS}) VALUES ({PLACES})"  # noqa: S608 -- our own names
    try:
        database.execute(statement, _of_run(run))
    except sqlite3.IntegrityError as error:
        field = "message_id" if "runs.message_id" in str(error) else "run_id"
        raise InvalidArgument(field, "has been used by another run") from error


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
