"""Transactions on the writing connection, each one change of threads and those that wait together one commit.

A commit is an ``fsync``, and each statement given to the connection's thread costs two changes of threads (38 in a turn
that says one word, a third of its CPU). So a transaction is a function that is run in that thread whole, and what has
come while one is being committed goes into the next: a hundred turns that end at once wait for a few ``fsync``s.
``Writes`` and ``Reads`` are what LangGraph's saver is given for a connection, so that its statements go the same way.
Knows nothing of any table.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from contextvars import Context
from typing import Any, NamedTuple, Self, TypeVar

import aiosqlite

from threadwire.errors import StorageError
from threadwire.storage import Fence, FenceClosed

T = TypeVar("T")

#: By SQLite's primary result code: what a client may be told.
MESSAGES = {
    sqlite3.SQLITE_FULL: "The database is full.",
    sqlite3.SQLITE_READONLY: "The database is read-only.",
    sqlite3.SQLITE_BUSY: "The database is locked by another program.",
    sqlite3.SQLITE_IOERR: "The database cannot be reached on its disk.",
    sqlite3.SQLITE_CORRUPT: "The database is damaged.",
    sqlite3.SQLITE_NOTADB: "The database is damaged.",
}
#: Rows that are fetched at once; the rest of a long answer waits until somebody wants it.
_ROWS = 64


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what SQLite raises inside into ``StorageError``, with the original as its cause."""
    try:
        yield
    except sqlite3.Error as error:
        raise _storage_error(error) from error
    except ValueError as error:
        # AsyncSqliteStore wraps a read's error so, with the statement and its parameters in the text.
        if not isinstance(error.__cause__, sqlite3.Error):
            raise
        raise _storage_error(error.__cause__) from error


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _storage_error(error: sqlite3.Error) -> StorageError:
    return StorageError(MESSAGES.get(_code(error), "The database failed."))


class Connection(aiosqlite.Connection):
    """aiosqlite's, which also runs a function of ours in its thread."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(lambda: sqlite3.connect(path, **options), iter_chunk_size=_ROWS)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in the connection's thread, after all that it was given before."""
        return await self._execute(work, self._conn)  # type: ignore[no-any-return, no-untyped-call]


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    fence: Fence | None
    done: asyncio.Future[Any]

    def admitted(self) -> bool:
        return self.fence is None or not self.fence.closed


class Transactions:
    """See the module. ``lock`` gives the connection; others may hold it for what they do by hand."""

    def __init__(self, lock: AbstractAsyncContextManager[Connection]) -> None:
        self._lock = lock
        self._waiting: list[_Job] = []
        self._worker: asyncio.Task[None] | None = None

    async def do(self, work: Callable[[sqlite3.Connection], T], fence: Fence | None = None) -> T:
        """Do ``work`` in a transaction, and return what it gave once that is durable; to its end, whoever is cancelled.

        It may be done twice: where a transaction of several fails, each of them is undone, and done again alone.

        Raises:
            FenceClosed: the fence was closed before it was begun.
            StorageError: the database did not take it; nothing of it is kept.
            Exception: its own; nothing of it is kept.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(work, fence, done))
        if self._worker is None:
            # Without the context of whoever comes first: it goes on for others.
            self._worker = asyncio.create_task(self._work(), name="transactions", context=Context())
            self._worker.add_done_callback(self._over)
        with storage_errors():
            return await settled(done)

    async def _work(self) -> None:
        while self._waiting:
            await self._next()
        self._worker = None

    def _over(self, worker: asyncio.Task[None]) -> None:
        """Only where a stopping loop has cancelled it, perhaps before it began."""
        if self._worker is worker:
            self._worker = None
            waiting, self._waiting = self._waiting, []
            for job in waiting:
                job.done.cancel()

    async def _next(self) -> None:
        jobs: list[_Job] = []
        try:
            async with self._lock as connection:
                jobs, self._waiting = self._waiting, []
                found = await connection.run(lambda database: _transaction(database, jobs))
        except BaseException as error:
            # The connection is closed, or this task is cancelled: then the thread ends what it has begun, as a whole.
            if not jobs:
                jobs, self._waiting = self._waiting, []
            for job in jobs:
                _tell(job.done, error)
            if not isinstance(error, Exception):
                raise
        else:
            for job, outcome in zip(jobs, found, strict=True):
                _tell(job.done, outcome)


class _Value(NamedTuple):
    value: Any


def _tell(done: asyncio.Future[Any], outcome: _Value | BaseException) -> None:
    if done.done():
        return
    if isinstance(outcome, _Value):
        done.set_result(outcome.value)
    elif isinstance(outcome, asyncio.CancelledError):
        done.cancel()
    else:
        done.set_exception(outcome)


def _transaction(database: sqlite3.Connection, jobs: Sequence[_Job]) -> list[_Value | BaseException]:
    """Do them as one transaction, or where that fails each as one."""
    if len(jobs) > 1 and all(job.admitted() for job in jobs):
        try:
            values: list[_Value | BaseException] = [_Value(job.work(database)) for job in jobs]
            database.commit()
        except BaseException as error:
            _undo(database)
            if isinstance(error, sqlite3.OperationalError) and _code(error) == sqlite3.SQLITE_BUSY:
                # It has waited its time out; each would do so again.
                return [error] * len(jobs)
        else:
            return values
    return [_alone(database, job) for job in jobs]


def _alone(database: sqlite3.Connection, job: _Job) -> _Value | BaseException:
    if not job.admitted():
        return FenceClosed()
    try:
        value = _Value(job.work(database))
        database.commit()
    except BaseException as error:
        _undo(database)
        return error
    return value


def _undo(database: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        database.rollback()


async def settle(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` to its end, also where the caller is cancelled: the cancellation goes on up after it.

    A failure of the work is not told to a caller that was cancelled.
    """
    return await settled(asyncio.create_task(work))


async def settled(done: asyncio.Future[T]) -> T:
    """``settle``, of what is on its way."""
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait({done})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return done.result()
    if not done.cancelled():
        done.exception()  # retrieved, or asyncio would report it as lost
    raise cancelled


# --- for LangGraph's saver ---------------------------------------------------------------------------


class NoLock:
    """Stands for the saver's lock where ``Transactions`` has its own."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_error: object) -> None:
        pass


class Writes:
    """A connection, and its cursor, for one write of the saver: what it is told is done when it is to be committed."""

    def __init__(self, transactions: Transactions, fence: Fence | None) -> None:
        self._transactions = transactions
        self._fence = fence
        self._statements: list[tuple[str, Sequence[Any] | None, Sequence[Sequence[Any]]]] = []

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Self:
        """One statement."""
        self._statements.append((statement, values, ()))
        return self

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> Self:
        """One statement for each row."""
        self._statements.append((statement, None, list(rows)))
        return self

    def cursor(self) -> Self:
        """It is its own."""
        return self

    async def commit(self) -> None:
        """Do them, as ``Transactions.do`` says."""
        await self._transactions.do(self._do, self._fence)

    def _do(self, database: sqlite3.Connection) -> None:
        for statement, values, rows in self._statements:
            if values is None:
                database.executemany(statement, rows)
            else:
                database.execute(statement, values)

    def __await__(self) -> Generator[Any, None, Self]:
        return self._itself().__await__()

    async def _itself(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass


class Reads:
    """A connection for what the saver reads: one change of threads for a statement and its rows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def cursor(self) -> Cursor:
        """To be entered."""
        return Cursor(self._connection)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor:
        """A cursor with its answer, to be entered."""
        return Cursor(self._connection, statement, values)


class Cursor:
    """The answer to one statement at a time."""

    def __init__(self, connection: Connection, statement: str | None = None, values: Sequence[Any] = ()) -> None:
        self._connection = connection
        self._first = (statement, values)
        self._rows: list[Any] = []
        # Where there are more rows than were fetched.
        self._rest: sqlite3.Cursor | None = None

    async def __aenter__(self) -> Self:
        statement, values = self._first
        if statement is not None:
            await self.execute(statement, values)
        return self

    async def __aexit__(self, *_error: object) -> None:
        if (rest := self._rest) is not None:
            self._rest = None
            await self._connection.run(lambda _database: rest.close())

    async def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Ask."""
        before = self._rest

        def work(database: sqlite3.Connection) -> tuple[sqlite3.Cursor | None, list[Any]]:
            if before is not None:
                before.close()
            return _fetched(database.execute(statement, values))

        self._rest, self._rows = await self._connection.run(work)

    async def _more(self) -> bool:
        if (rest := self._rest) is None:
            return False
        self._rest, rows = await self._connection.run(lambda _database: _fetched(rest))
        self._rows += rows
        return bool(rows)

    async def fetchone(self) -> Any:
        """The next row, or None."""
        return self._rows.pop(0) if self._rows or await self._more() else None

    async def fetchall(self) -> list[Any]:
        """All that are left."""
        while await self._more():
            pass
        rows, self._rows = self._rows, []
        return rows

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (row := await self.fetchone()) is not None:
            yield row


def _fetched(cursor: sqlite3.Cursor) -> tuple[sqlite3.Cursor | None, list[Any]]:
    rows = cursor.fetchmany(_ROWS)
    return (cursor if len(rows) == _ROWS else None), rows
