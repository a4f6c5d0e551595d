"""Databases of the tests' servers, as another program sees them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def rows(path: Path | str, statement: str) -> list[tuple[Any, ...]]:
    """What a statement gives; what it writes is committed."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()
