"""``threadwire token``: what the subcommands do, for ``cli.py``; also while a server runs, which sees it in seconds."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, fields
from datetime import UTC, datetime
from pathlib import Path

from threadwire.auth import MAX_IDENTITY
from threadwire.auth.made import make_token
from threadwire.errors import StartupError
from threadwire.storage import TokenRow, sqlite_file, sqlite_path

_COLUMNS = ", ".join(column.name for column in fields(TokenRow))
_PLACES = ", ".join("?" for _ in fields(TokenRow))


def create(url: str, name: str, expires_in_days: float | None, fixed: Collection[str]) -> int:
    """Make a token for a user, and print it: it is not kept, and never shown again."""
    if name.strip() != name or not 0 < len(name) <= MAX_IDENTITY or not name.isprintable():
        raise StartupError(f"a name has 1 to {MAX_IDENTITY} printable characters, and no space around them")
    if name in fixed:
        raise StartupError(f"{name}: has a token in auth.tokens: take another name, or take that one out")
    now = time.time()
    made = make_token(name, now, now + expires_in_days * 86400 if expires_in_days is not None else None)
    with _tokens(url) as connection:
        connection.execute("DELETE FROM tokens WHERE name = ? AND expires_at <= ?", (name, now))
        try:
            connection.execute(f"INSERT INTO tokens ({_COLUMNS}) VALUES ({_PLACES})", astuple(made.row))  # noqa: S608
        except sqlite3.IntegrityError:
            message = f"{name}: has a token already: revoke it first (threadwire token revoke), or take another name"
            raise StartupError(message) from None
    sys.stdout.write(f"{made.token}\n")
    return 0


def show_list(url: str, fixed: Collection[str]) -> int:
    """Print whose tokens there are, since when and until when."""
    with _tokens(url) as connection:
        rows = connection.execute("SELECT name, created_at, expires_at FROM tokens ORDER BY name").fetchall()
    now = time.time()
    lines = [(name, "", "in auth.tokens") for name in sorted(fixed)]
    for name, created_at, expires_at in rows:
        until = "" if expires_at is None else f"{'expired' if expires_at <= now else 'until'} {_day(expires_at)}"
        lines.append((name, _day(created_at), until))
    width = max([len(name) for name, _, _ in lines], default=0)
    for name, created, until in lines:
        sys.stdout.write(f"{name.ljust(width)}  {created.ljust(16)}  {until}".rstrip() + "\n")
    return 0


def revoke(url: str, name: str, fixed: Collection[str]) -> int:
    """Take a user's token back: who is connected by it is closed within seconds."""
    with _tokens(url) as connection:
        gone = connection.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount
    if not gone:
        why = "is in auth.tokens: take it out there" if name in fixed else "has no token (threadwire token list)"
        raise StartupError(f"{name}: {why}")
    sys.stdout.write(f"{name}: revoked\n")
    return 0


@contextmanager
def _tokens(url: str) -> Iterator[sqlite3.Connection]:
    """A connection for one transaction beside whatever server has the file; the file is made where it is not there."""
    real = sqlite_file.locate(sqlite_path(url))
    if not _has_tokens(real):
        # Where a server has the file, it has brought the tables up to date.
        with suppress(sqlite_file.InUse):
            asyncio.run(_prepare(real))
    if not _has_tokens(real):
        raise StartupError(f"{real}: its server is an older threadwire, without tokens: restart it with this one")
    with (
        sqlite_file.startup_errors(real),
        closing(sqlite3.connect(real, timeout=sqlite_file.BUSY_SECONDS, isolation_level=None)) as connection,
    ):
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


def _has_tokens(real: str) -> bool:
    if not Path(real).is_file():
        return False
    with sqlite_file.startup_errors(real), closing(sqlite3.connect(real, timeout=sqlite_file.BUSY_SECONDS)) as found:
        return found.execute("SELECT 1 FROM sqlite_master WHERE name = 'tokens'").fetchone() is not None


async def _prepare(real: str) -> None:
    """Make the tables, where no server has done that."""
    from threadwire.storage.sqlite import SqliteStorage

    async with SqliteStorage.open(real):
        pass


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
