"""``threadwire storage``: what the subcommands do, for ``cli.py``; all but ``prune`` also while a server runs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from threadwire.errors import StartupError
from threadwire.storage import sqlite_file, sqlite_path

#: How many threads ``stats`` names, the largest ones.
NAMED_THREADS = 10


# --- stats ---------------------------------------------------------------------------------------


def stats(url: str) -> int:
    """Print how large the file is, and by which tables and threads."""
    real = _existing(url)
    with _reading(real) as connection:
        connection.execute("BEGIN")  # one moment for all of it
        pages, free, page = (_pragma(connection, name) for name in ("page_count", "freelist_count", "page_size"))
        tables = [(name, *_weigh(connection, name)) for name in _tables(connection)]
        sizes = _sizes_by_thread(connection)
        checkpoints = Counter(dict(connection.execute("SELECT thread_id, count(*) FROM checkpoints GROUP BY 1")))
    log = Path(f"{real}-wal")
    logged = log.stat().st_size if log.exists() else 0
    lines = [
        real,
        f"{_size(pages * page)}, {_size(free * page)} of it free; {_size(logged)} of write-ahead log",
        f"{len(sizes):,} threads, {checkpoints.total():,} checkpoints",
        "",
        *_table(("table", "rows", "content"), [(name, f"{rows:,}", _size(size)) for name, rows, size in tables]),
        "",
        *_table(
            ("thread", "checkpoints", "content"),
            [(name, f"{checkpoints[name]:,}", _size(size)) for name, size in sizes.most_common(NAMED_THREADS)],
        ),
    ]
    if len(sizes) > NAMED_THREADS:
        lines.append(f"and {len(sizes) - NAMED_THREADS:,} smaller ones")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return sorted(name for (name,) in found)


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _content(columns: Sequence[str]) -> str:
    # Of a blob SQLite knows the length without reading it; a text's would be counted in characters.
    lengths = (f"CASE typeof({c}) WHEN 'blob' THEN length({c}) ELSE length(CAST({c} AS BLOB)) END" for c in columns)
    return " + ".join(f"coalesce({length}, 0)" for length in lengths)


def _weigh(connection: sqlite3.Connection, table: str) -> tuple[int, int]:
    """Rows and bytes of a table, its indexes and what SQLite adds left out."""
    content = _content([f'"{name}"' for name in _columns(connection, table)])
    [(rows, size)] = connection.execute(f'SELECT count(*), total({content}) FROM "{table}"')  # noqa: S608 -- its own names
    return rows, int(size)


def _sizes_by_thread(connection: sqlite3.Connection) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for table in _tables(connection):
        columns = _columns(connection, table)
        if "thread_id" in columns:
            content = _content([f'"{name}"' for name in columns])
            query = f'SELECT thread_id, total({content}) FROM "{table}" GROUP BY thread_id'  # noqa: S608
            sizes.update({name: int(size) for name, size in connection.execute(query)})
    return sizes


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for first, *others in (heads, *rows):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])


# --- prune ---------------------------------------------------------------------------------------


def prune(url: str, keep: int) -> int:
    """Delete old checkpoints of all threads, and give back the room; only where no server has the file."""
    real = _existing(url)
    before = Path(real).stat().st_size
    gone, threads = asyncio.run(_prune_all(real, keep))
    kept = f"the newest {keep} of each thread are kept" if keep else "storage.keep_checkpoints is 0: all are kept"
    sys.stdout.write(f"{gone:,} checkpoints of {threads:,} threads pruned; {kept}\n")
    with sqlite_file.alone(real), closing(sqlite3.connect(real, isolation_level=None)) as connection:
        try:
            connection.execute("VACUUM")
        except sqlite3.Error as error:
            message = f"{real}: pruned, but not made smaller ({error}): VACUUM needs as much room again on the disk"
            raise StartupError(message) from error
    sys.stdout.write(f"VACUUM: {_size(before)} before, {_size(Path(real).stat().st_size)} now\n")
    return 0


async def _prune_all(real: str, keep: int) -> tuple[int, int]:
    from threadwire.storage.sqlite import SqliteStorage

    async with SqliteStorage.open(real) as storage:
        with _reading(real) as connection:
            ids = [name for (name,) in connection.execute("SELECT DISTINCT thread_id FROM checkpoints")]
        # The next server looks into what a run that was cut off has left, back to where it went on from.
        cut_off = {run.thread_id for run in await storage.unfinished_runs()}
        gone = [await storage.prune_thread(thread_id, keep) for thread_id in ids if thread_id not in cut_off]
    return sum(gone), sum(1 for count in gone if count)


# --- backup --------------------------------------------------------------------------------------


def backup(url: str, target: Path) -> int:
    """Copy the database as it is at one moment to a new file, marked as a copy."""
    real = _existing(url)
    if target.exists():
        raise StartupError(f"{target}: is there already: name a file that is not, or move it away")
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise StartupError(f"{target}: cannot be written ({error.strerror})") from error
    os.close(descriptor)
    copy = Path(name)
    try:
        _copy(real, copy, target)
        copy.rename(target)
    finally:
        copy.unlink(missing_ok=True)
    sys.stdout.write(f"{target}: {_size(target.stat().st_size)}\n")
    return 0


def _copy(real: str, copy: Path, target: Path) -> None:
    with _reading(real) as source, closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        try:
            # In one step: in several it would start again with each write of the server's.
            source.backup(connection)
            # The copy is one file, with no log beside it.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute(f"PRAGMA application_id = {sqlite_file.COPIED}")
            [(found,)] = connection.execute("PRAGMA quick_check(1)")
        except sqlite3.Error as error:
            raise StartupError(f"{target}: the backup failed ({error})") from error
    if found != "ok":
        raise StartupError(f"{real}: the database is damaged ({' '.join(found.split())}): the copy was not kept")


# --- what they share -----------------------------------------------------------------------------


def _existing(url: str) -> str:
    real = sqlite_file.locate(sqlite_path(url))
    if not Path(real).is_file():
        raise StartupError(f"{real}: there is no such file: nothing has been stored yet, {sqlite_file.ELSEWHERE}")
    with _reading(real) as connection:
        if not {"threads", "checkpoints"} <= set(_tables(connection)):
            raise StartupError(f"{real}: has no threads: no server has ever started on it, {sqlite_file.ELSEWHERE}")
    return real


@contextmanager
def _reading(real: str) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing and waits for no writer."""
    uri = f"file:{quote(real)}?mode=ro"
    with (
        sqlite_file.startup_errors(real),
        closing(sqlite3.connect(uri, uri=True, timeout=sqlite_file.BUSY_SECONDS, isolation_level=None)) as connection,
    ):
        yield connection


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _size(size: int) -> str:
    return f"{size / 1000:,.1f} kB"
