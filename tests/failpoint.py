"""``python failpoint.py "[N ]STATEMENT" serve …``: threadwire, killed before its database gets such a statement.

A statement counts once it begins with the given text, white space aside; with a number in front, the N-th that does.
The kill is SIGKILL, from the connection's own thread: nothing of the process runs any more.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any


def main() -> int:
    wanted = sys.argv.pop(1)
    number, _, statement = wanted.partition(" ")
    left = int(number) if number.isdigit() else 1
    beginning = statement if number.isdigit() else wanted

    def look(sql: str) -> None:
        nonlocal left
        if " ".join(sql.split()).startswith(beginning):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *values: Any) -> Any:
            look(sql)
            return super().execute(sql, *values)

        def executemany(self, sql: str, values: Any) -> Any:
            values = list(values)
            if values:
                look(sql)
            return super().executemany(sql, values)

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

        def execute(self, sql: str, *values: Any) -> Any:
            return self.cursor().execute(sql, *values)

        def executemany(self, sql: str, values: Any) -> Any:
            return self.cursor().executemany(sql, values)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, **{"factory": Connection, **options})
    from threadwire.cli import main as threadwire

    return threadwire()


if __name__ == "__main__":
    sys.exit(main())
