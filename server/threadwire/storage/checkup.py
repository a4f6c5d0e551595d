"""The database as ``threadwire doctor`` looks at it: what a server would meet, found out without changing anything."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from threadwire.errors import StartupError
from threadwire.storage import sqlite_file, sqlite_path
from threadwire.storage.sqlite_schema import MIGRATIONS


def where(url: str) -> Path:
    """The folder the database is in, or will be. Raises ``StartupError`` where there is none."""
    return Path(sqlite_file.locate(sqlite_path(url))).parent


def look_over(url: str) -> str:
    """What is well about it, in words; waits for no server that has it, and reads all of it.

    Raises:
        StartupError: what is not, and what to do.
    """
    real = sqlite_file.locate(sqlite_path(url))
    if not Path(real).exists():
        folder = Path(real).parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StartupError(f"{folder}: not writable: change that, {sqlite_file.ELSEWHERE}")
        return f"{real}: not there yet, the server makes it"
    with sqlite_file.startup_errors(real):
        version = _look_in(real)
    if version > len(MIGRATIONS):
        raise StartupError(
            f"{real}: written by a newer threadwire (tables of version {version}, this one knows {len(MIGRATIONS)}): "
            f"upgrade threadwire, {sqlite_file.ELSEWHERE}"
        )
    older = "" if version == len(MIGRATIONS) else f", and the server brings it to {len(MIGRATIONS)} when it starts"
    size = Path(real).stat().st_size / 1e6
    return f"{real}: whole, {size:,.1f} MB, tables of version {version}{older}"


def write_to(url: str) -> None:
    """Begin to write, and do not.

    Raises:
        StartupError: nobody could, or another server has it.
    """
    real = sqlite_file.locate(sqlite_path(url))
    if not Path(real).exists():
        return
    with (
        sqlite_file.alone(real),
        sqlite_file.startup_errors(real),
        closing(sqlite3.connect(real, timeout=sqlite_file.BUSY_SECONDS, isolation_level=None)) as connection,
    ):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _look_in(real: str) -> int:
    uri = f"file:{quote(real)}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=sqlite_file.BUSY_SECONDS)) as connection:
        [(version,)] = connection.execute("PRAGMA user_version")
        [(found,)] = connection.execute("PRAGMA quick_check(1)")
    if found != "ok":
        raise StartupError(f"{real}: {sqlite_file.damaged(' '.join(found.split()))}")
    return int(version)
