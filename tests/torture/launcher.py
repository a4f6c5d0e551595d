"""Starts servers that kill themselves: a program of its own, for ``life.py``.

It loads all that ``threadwire serve`` loads once, then forks for each line on its stdin: ``{"arguments", "environ",
"folder", "name"}`` runs ``threadwire.cli.main`` there, as ``python -m threadwire`` would. What it says on stdout:
``{"pid"}`` of a child that was started, ``{"pid", "status"}`` of one that has ended.

The product has no hooks: what a child may do to itself is done to ``sqlite3``'s connections, from what the *launcher*
reads in the child's environment:

``TORTURE_KILL``    ``"N PATTERN"``: SIGKILL at the N-th event whose name has a match of the regular expression. An
                    event is ``before`` or ``after``, then a statement as it stands, or ``commit`` and the heads of
                    what the transaction changed: ``after commit INSERT INTO frames; UPDATE runs SET status = ?``.
``TORTURE_DROP``    ``"N PATTERN"``: that statement is not done: a bug, for the tests of the checker.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sqlite3
import sys
import traceback
from pathlib import Path
from typing import Any

_HEAD = re.compile(r"\s*(INSERT(?: OR \w+)? INTO \w+|UPDATE \w+ SET \w+ = [^,\s]+|DELETE FROM \w+)")
_NEVER = "0 ^(?!)"


class _Counted:
    """The N-th of the events that a pattern matches."""

    def __init__(self, text: str) -> None:
        number, _, pattern = text.partition(" ")
        self._left = int(number)
        self._pattern = re.compile(pattern)

    def reached(self, event: str) -> bool:
        if self._left and self._pattern.search(event):
            self._left -= 1
            return not self._left
        return False


class Doom:
    """What is done to a server at certain events: by itself, it is killed."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._kill = _Counted(environ.get("TORTURE_KILL", _NEVER))
        self._drop = _Counted(environ.get("TORTURE_DROP", _NEVER))

    def event(self, name: str) -> None:
        if self._kill.reached(name):
            self.strike()

    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def drops(self, statement: str) -> bool:
        return self._drop.reached(statement)


def doomed(doom: Doom) -> type[sqlite3.Connection]:
    """Connections that tell ``doom`` of each statement and commit."""

    class Cursor(sqlite3.Cursor):
        def _do(self, method: Any, statement: str, values: Any) -> Any:
            text = " ".join(statement.split())
            doom.event(f"before {text}")
            if not doom.drops(text):
                method(statement, values)
                if head := _HEAD.match(statement):
                    self.connection.heads.append(head[1])  # type: ignore[attr-defined]
            doom.event(f"after {text}")
            return self

        def execute(self, statement: str, values: Any = ()) -> Any:
            return self._do(super().execute, statement, values)

        def executemany(self, statement: str, values: Any) -> Any:
            values = list(values)
            return self._do(super().executemany, statement, values) if values else self

    class Connection(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.heads: list[str] = []

        def cursor(self, factory: Any = None) -> Any:
            return super().cursor(factory or Cursor)

        # The original two do not ask for a cursor by that method.
        def execute(self, statement: str, values: Any = ()) -> Any:
            return self.cursor().execute(statement, values)

        def executemany(self, statement: str, values: Any) -> Any:
            return self.cursor().executemany(statement, values)

        def commit(self) -> None:
            heads, self.heads = "; ".join(self.heads), []
            if self.in_transaction:
                doom.event(f"before commit {heads}")
                super().commit()
                doom.event(f"after commit {heads}")

        def rollback(self) -> None:
            self.heads = []
            super().rollback()

    return Connection


def _child(order: dict[str, Any]) -> int:
    folder, name = Path(order["folder"]), order["name"]
    os.chdir(folder)
    for number, ending in ((1, "out"), (2, "err")):
        descriptor = os.open(folder / f"{name}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for key in [key for key in os.environ if key.startswith("THREADWIRE_")]:
        del os.environ[key]
    os.environ.update(order["environ"])
    connect, factory = sqlite3.connect, doomed(Doom(order["environ"]))
    sqlite3.connect = lambda *a, **o: connect(*a, **{"factory": factory, **o})
    from threadwire.cli import main

    return main(order["arguments"])


def _load() -> None:
    os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
    sys.path.insert(1, str(Path(__file__).parent.parent))
    # The model's classes and the graph's: a child has them when it starts.
    import langchain_openai
    import talking  # type: ignore[import-not-found]  # beside this file

    import threadwire.app
    import threadwire.cli
    import threadwire.config
    import threadwire.storage.sqlite

    assert all((langchain_openai, talking, threadwire.app, threadwire.storage.sqlite))


def _say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _reap() -> bool:
    """Tell of children that have ended; False where there is none at all."""
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            _say(pid=found[0], status=os.waitstatus_to_exitcode(found[1]))
    except ChildProcessError:
        return False
    return True


def main() -> None:
    _load()
    _say(ready=True)
    buffer = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02 if _reap() else None)
        if not readable:
            continue
        if not (data := os.read(0, 65536)):
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if pid := os.fork():
                _say(pid=pid)
                continue
            status = 70
            try:
                status = _child(json.loads(line))
            except BaseException:  # a forked child must not go on as its parent would
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)


if __name__ == "__main__":
    main()
