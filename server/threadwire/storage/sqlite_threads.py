"""The table of threads: rows made, read, searched, changed, copied and deleted; the base of ``SqliteStorage``.

Searching reads our own tables only, never a checkpoint: titles from the metadata, and what users wrote from ``texts``.
"""

# ruff: noqa: S608 -- statements are put together of our own names only

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson

from threadwire.errors import TooLarge
from threadwire.storage import MAX_METADATA_BYTES, ThreadQuery, ThreadRow, ThreadSort
from threadwire.storage.sqlite_transactions import Connection, Transactions, storage_errors
from threadwire.storage.sqlite_writer import ConnectionLock

T = TypeVar("T")

COLUMNS = "thread_id, created_at, updated_at, status, metadata, interrupts, owner"
SELECT = f"SELECT {COLUMNS} FROM threads "
COUNT = "SELECT count(*) FROM threads "
RETURNING = f" RETURNING {COLUMNS}"
VALUES = f"INSERT INTO threads ({COLUMNS}) VALUES (?, ?, ?, 'idle', ?, '[]', ?) "
INSERT = VALUES + "ON CONFLICT (thread_id) DO NOTHING" + RETURNING
COPY = (
    f"INSERT INTO threads ({COLUMNS}) SELECT ?, ?, ?, status, metadata, interrupts, owner FROM threads"
    " WHERE thread_id = ?" + RETURNING
)
OWNER = "SELECT owner FROM threads WHERE thread_id = ?"
METADATA = "SELECT metadata FROM threads WHERE thread_id = ?"
UPDATE = "UPDATE threads SET metadata = ?, updated_at = max(updated_at, ?) WHERE thread_id = ?" + RETURNING

#: How to sort. A thread's state changes with its runs only, its row with its metadata too.
ORDERS: dict[ThreadSort, str] = {
    "thread_id": "thread_id",
    "status": "status",
    "created_at": "created_at",
    "updated_at": "updated_at",
    "state_updated_at": (
        "coalesce((SELECT max(coalesce(ended_at, started_at, runs.created_at)) FROM runs"
        " WHERE runs.thread_id = threads.thread_id), created_at)"
    ),
}


class SqliteThreads:
    """Threads through a connection that writes, one that reads, and one that searches.

    A search may look at every thread there is (200 ms for 100,000 messages): nobody who reads one thread waits for it.
    """

    def __init__(self, writer: Connection, reader: Connection, searcher: Connection) -> None:
        self._lock = ConnectionLock(writer)
        self._transactions = Transactions(self._lock)
        self._reader_lock = ConnectionLock(reader)
        self._searcher_lock = ConnectionLock(searcher)

    async def get_thread(self, thread_id: str) -> ThreadRow | None:
        """The thread's row, or None."""
        rows = await self._read(SELECT + "WHERE thread_id = ?", thread_id)
        return _thread(rows[0]) if rows else None

    async def owner_of(self, thread_id: str) -> str | None:
        """Whose the thread is; None where there is none."""
        rows = await self._read(OWNER, thread_id)
        return str(rows[0][0]) if rows else None

    async def create_thread(
        self, thread_id: str, metadata: dict[str, Any], at: float, owner: str = ""
    ) -> ThreadRow | None:
        """Insert a thread; None where there is one, which stays as it is.

        Raises:
            TooLarge: the metadata is over ``MAX_METADATA_BYTES``.
        """
        text = _metadata(metadata)

        def insert(database: sqlite3.Connection) -> ThreadRow | None:
            rows = database.execute(INSERT, (thread_id, at, at, text, owner)).fetchall()
            return next((_thread(row) for row in rows), None)

        return await self._write(insert)

    async def update_thread_metadata(self, thread_id: str, metadata: dict[str, Any], at: float) -> ThreadRow | None:
        """Lay ``metadata`` over the thread's, key by key, and move ``updated_at`` on; None where there is none.

        Raises:
            TooLarge: together they are over ``MAX_METADATA_BYTES``; nothing is changed.
        """

        def update(database: sqlite3.Connection) -> ThreadRow | None:
            for (text,) in database.execute(METADATA, (thread_id,)).fetchall():
                merged = _metadata({**orjson.loads(text), **metadata})
                rows = database.execute(UPDATE, (merged, at, thread_id)).fetchall()
                return next((_thread(row) for row in rows), None)
            return None

        return await self._write(update)

    async def search_threads(
        self,
        query: ThreadQuery,
        *,
        sort_by: ThreadSort = "created_at",
        descending: bool = True,
        limit: int = 10,
        offset: int = 0,
    ) -> list[ThreadRow]:
        """A page of the threads that match; those that sort alike are in the order of their ids."""
        where, values = _where(query)
        direction = "DESC" if descending else "ASC"
        order = f"ORDER BY {ORDERS[sort_by]} {direction}, thread_id {direction} LIMIT ? OFFSET ?"
        return [_thread(row) for row in await self._search(SELECT + where + order, *values, limit, offset)]

    async def count_threads(self, query: ThreadQuery) -> int:
        """How many threads match."""
        where, values = _where(query)
        rows = await self._search(COUNT + where, *values)
        return int(rows[0][0])

    async def copy_thread(self, thread_id: str, copy_id: str, at: float) -> ThreadRow | None:
        """Copy a thread's row, texts, turns and checkpoints, as committed, under a free id; None where it is not."""

        def copy(database: sqlite3.Connection) -> ThreadRow | None:
            for row in database.execute(COPY, (copy_id, at, at, thread_id)).fetchall():
                for table in ("texts", "turns", "checkpoints", "writes"):
                    _copy_rows(database, table, thread_id, copy_id)
                return _thread(row)
            return None

        return await self._write(copy)

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete the thread, its runs, texts and turns, its log and all its checkpoints; False where there was none."""

        def delete(database: sqlite3.Connection) -> bool:
            rows = 0
            # What is told of a row that another one names goes before it.
            for table in ("frames", "logs", "turns", "texts", "runs", "threads", "checkpoints", "writes"):
                statement = f"DELETE FROM {table} WHERE thread_id = ?"
                rows += database.execute(statement, (thread_id,)).rowcount
            return rows > 0

        return await self._write(delete)

    async def _read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with storage_errors():
            async with self._reader_lock as reader:
                return list(await reader.execute_fetchall(statement, values))  # type: ignore[arg-type]

    async def _search(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with storage_errors():
            async with self._searcher_lock as searcher:
                return list(await searcher.execute_fetchall(statement, values))  # type: ignore[arg-type]

    async def _write(self, statements: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``statements`` as one transaction, to its end; they may be done twice (``Transactions.do``)."""
        return await self._transactions.do(statements)


def _copy_rows(database: sqlite3.Connection, table: str, thread_id: str, copy_id: str) -> None:
    # The names are asked for: two of the tables are LangGraph's, which may give them more columns.
    names = database.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    others = ", ".join(f'"{name}"' for (name,) in names if name != "thread_id")
    database.execute(
        f"INSERT INTO {table} (thread_id, {others}) SELECT ?, {others} FROM {table} WHERE thread_id = ?",
        (copy_id, thread_id),
    )


async def add_functions(searcher: Connection) -> None:
    """Give the connection that searches what SQLite has not: containment of JSON, and case beyond ASCII."""
    await searcher.create_function("json_holds", 2, _json_holds, deterministic=True)
    await searcher.create_function("fold", 1, _fold, deterministic=True)


def _where(query: ThreadQuery) -> tuple[str, list[object]]:
    conditions: list[str] = ["owner = ?"]
    values: list[object] = [query.owner]
    if query.ids is not None:
        conditions.append("thread_id IN (SELECT value FROM json_each(?))")
        values.append(orjson.dumps(list(query.ids)).decode())
    if query.status is not None:
        conditions.append("status = ?")
        values.append(query.status)
    if query.metadata:
        conditions.append("json_holds(metadata, ?)")
        values.append(orjson.dumps(query.metadata).decode())
    if query.text:
        # instr and not LIKE: there is nothing to escape, and case is folded alike for all scripts.
        conditions.append(
            "(instr(fold(json_extract(metadata, '$.title')), ?)"
            " OR thread_id IN (SELECT thread_id FROM texts WHERE instr(folded, ?)))"
        )
        values += [query.text.casefold()] * 2
    return f"WHERE {' AND '.join(conditions)} ", values


def _json_holds(text: str, wanted: str) -> bool:
    return holds(orjson.loads(text), orjson.loads(wanted))


def _fold(text: object) -> str:
    return text.casefold() if isinstance(text, str) else ""


def holds(value: Any, wanted: Any) -> bool:
    """Whether a JSON value contains another, as PostgreSQL's ``@>`` has it: objects by key, lists by any element."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(key in value and holds(value[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(value, list) and all(any(holds(item, one) for item in value) for one in wanted)
    # In Python, True is 1.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _metadata(metadata: dict[str, Any]) -> str:
    data = orjson.dumps(metadata)
    if len(data) > MAX_METADATA_BYTES:
        raise TooLarge(f"A thread's metadata has at most {MAX_METADATA_BYTES} bytes as JSON, not {len(data)}.")
    return data.decode()


def _thread(row: Iterable[Any]) -> ThreadRow:
    thread_id, created_at, updated_at, status, metadata, interrupts, owner = row
    return ThreadRow(thread_id, created_at, updated_at, status, orjson.loads(metadata), orjson.loads(interrupts), owner)
