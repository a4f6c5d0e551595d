"""The SQLite file as the server starts on it: there, writable, ours alone, whole, and of a version we know.

Whatever is wrong comes out as a ``StartupError`` of one line that names the file and says what to do. Knows
nothing of what is in the tables.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiosqlite
from filelock import FileLock, Timeout

from threadwire.errors import StartupError
from threadwire.storage.sqlite_transactions import Connection

#: How long a statement waits for a lock of another program's.
BUSY_SECONDS = 5.0
#: A larger file is not read whole at start: that would take more than about a second.
CHECKED_BYTES = 256 * 1024 * 1024
#: ``PRAGMA application_id`` of a backup on which no server has started yet: its logs go on in the original too.
COPIED = 0x7477_6370
#: How each SQLite file starts.
MAGIC = b"SQLite format 3\0"
ELSEWHERE = "or name another file in storage.url"
NO_DATABASE = f"not a SQLite database: move it away, {ELSEWHERE}"


class InUse(StartupError):  # noqa: N818 -- it says what is the matter
    """Another server has the file."""


def locate(path: str) -> str:
    """The file itself, where ``path`` is relative or a link, so that one file has one lock.

    Raises:
        StartupError: it is a directory, or in none.
    """
    real = os.path.realpath(path)
    directory = os.path.dirname(real)  # noqa: PTH120 -- beside realpath, which pathlib has only as resolve()
    if not Path(directory).is_dir():
        raise StartupError(f"{real}: the directory {directory} does not exist: make it, {ELSEWHERE}")
    if Path(real).is_dir():
        raise StartupError(f"{real}: is a directory: name a file in storage.url")
    return real


@contextmanager
def alone(real: str) -> Iterator[None]:
    """Hold the file's lock, ``<file>.lock`` beside it, so that no second server writes to it.

    Raises:
        InUse: another server has it.
        StartupError: the directory is not writable.
    """
    path = Path(f"{real}.lock")
    # Before acquiring: filelock before 4 empties the file where it tries.
    holder = _holder(path)
    lock = FileLock(path, mode=0o600, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        process = f" (process {holder})" if holder else ""
        message = f"{real}: in use by another threadwire server{process}: stop that one, {ELSEWHERE}"
        raise InUse(message) from None
    except OSError as error:
        raise StartupError(
            f"{real}: cannot write beside it, as SQLite and the lock {path.name} need to ({error.strerror}): "
            f"make the directory writable, {ELSEWHERE}"
        ) from error
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        text = path.read_text().strip()
        if text.isdecimal():
            return text
    return None


def touch(real: str) -> None:
    """Make the file, where it is not there, for nobody else to read; ``-wal`` and ``-shm`` get its mode.

    Raises:
        StartupError: it cannot be written to, or has something else in it.
    """
    try:
        with open(os.open(real, os.O_RDWR | os.O_CREAT, 0o600), "rb") as file:  # noqa: PTH123 -- a descriptor
            start = file.read(len(MAGIC))
    except OSError as error:
        raise StartupError(f"{real}: not writable ({error.strerror}): change that, {ELSEWHERE}") from error
    if start and start != MAGIC:  # SQLite takes a very short file for an empty one, and overwrites it
        raise StartupError(f"{real}: {NO_DATABASE}")


@contextmanager
def startup_errors(real: str) -> Iterator[None]:
    """Turn what SQLite raises inside into a ``StartupError`` that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            what = NO_DATABASE
        elif code == sqlite3.SQLITE_CORRUPT:
            what = damaged(str(error))
        elif code == sqlite3.SQLITE_BUSY:
            what = f"locked by another program: stop that one, {ELSEWHERE}"
        else:
            what = f"cannot be opened as a database ({error}): mend that, {ELSEWHERE}"
        raise StartupError(f"{real}: {what}") from error


def damaged(how: str) -> str:
    """What to say of a file that SQLite has found to be broken."""
    return f"the database is damaged ({how}): restore it from a backup, {ELSEWHERE}"


@asynccontextmanager
async def writing(real: str, newest: int) -> AsyncIterator[Connection]:
    """The connection that writes: a write-ahead log, and each commit on the disk when it returns.

    The isolation level makes SQLite take the write lock with a transaction's first statement. ``newest`` is
    the highest ``user_version`` we know.

    Raises:
        StartupError: the file is damaged, newer than us, or on a file system without WAL.
    """
    async with Connection(real, timeout=BUSY_SECONDS, isolation_level="IMMEDIATE") as connection:
        await _look(connection, real, newest)
        mode = await pragma(connection, "journal_mode = WAL")
        if mode != "wal":
            raise StartupError(
                f"{real}: this file system gives SQLite no write-ahead log (journal_mode is {mode}): "
                "name a file on a local disk in storage.url"
            )
        await pragma(connection, "synchronous = FULL")
        await pragma(connection, "foreign_keys = ON")
        yield connection


async def _look(connection: aiosqlite.Connection, real: str, newest: int) -> None:
    """Look at a file before anything in it is changed."""
    version = await pragma(connection, "user_version")
    if version > newest:
        raise StartupError(
            f"{real}: written by a newer threadwire (tables of version {version}, this one knows {newest}): "
            f"upgrade threadwire, {ELSEWHERE}"
        )
    size = await pragma(connection, "page_count") * await pragma(connection, "page_size")
    if size < CHECKED_BYTES:
        found = await pragma(connection, "quick_check(1)")
        if found != "ok":
            raise StartupError(f"{real}: {damaged(' '.join(found.split()))}")


@asynccontextmanager
async def reading(real: str) -> AsyncIterator[Connection]:
    """A connection that cannot write, and waits for no writer."""
    async with Connection(real, timeout=BUSY_SECONDS) as connection:
        await pragma(connection, "query_only = ON")
        yield connection


async def migrate(connection: aiosqlite.Connection, migrations: tuple[str, ...]) -> None:
    """Bring our tables up to date: ``migrations`` in order, each with its number in one transaction."""
    done = await pragma(connection, "user_version")
    for version, script in enumerate(migrations[done:], start=done + 1):
        await connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {version}; COMMIT;")


async def pragma(connection: aiosqlite.Connection, statement: str) -> Any:
    """What a PRAGMA answers first: a number or a string, or None where it answers nothing."""
    rows = list(await connection.execute_fetchall(f"PRAGMA {statement}"))
    return rows[0][0] if rows else None
