"""Servers one after another on one file, each until it is killed: what the torture needs of ``launcher.py``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from harness import eventually

#: A loaded machine takes its time to start a process.
START_SECONDS = 120.0
_URL = re.compile(r"http://127\.0\.0\.1:\d+")


class Life:
    """One server process, from its start to its end."""

    def __init__(self, pid: int, folder: Path, name: str) -> None:
        self.pid = pid
        self.url = ""
        self.name = name
        #: The exit code, negative for a signal, once it has ended.
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        self._out.touch()
        self.err.touch()

    async def serving(self) -> bool:
        """Wait until it says where it serves; False where it died before."""

        def where() -> bool:
            found = _URL.search(self._out.read_text() + self.err.read_text())
            self.url = found[0] if found else ""
            return bool(found) or self.ended.done()

        await eventually(where, f"{self.name} serves", START_SECONDS)
        return bool(self.url) and not self.ended.done()

    def complaints(self) -> str:
        """What went wrong that the server itself knows of, but for what was asked for."""
        found = []
        for line in self.err.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # the last one may have been cut off
                said = json.loads(line)
                if said["level"] not in ("info", "warning") and "secret-in-exception" not in said.get("exception", ""):
                    found.append(said.pop("exception", "") + f"\n{said}")
        return "\n".join(found)

    def check_log(self) -> None:
        """Nothing did."""
        complaints = self.complaints()
        assert not complaints, complaints

    def kill(self) -> None:
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Launcher:
    """The process that forks them; an async context manager."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self._environ = environ
        self._lives: dict[int, Life] = {}
        self._orders: asyncio.Queue[Life] = asyncio.Queue()
        self._names: list[str] = []
        self._process: asyncio.subprocess.Process
        self._listening: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        program = str(Path(__file__).with_name("launcher.py"))
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(sys.executable, program, stdin=pipe, stdout=pipe)
        async with asyncio.timeout(START_SECONDS):
            assert (await self._read())["ready"]
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        for life in self._lives.values():
            life.kill()
        for life in self._lives.values():
            await life.ended
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._listening

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(await self._process.stdout.readline() or "{}"))

    async def _listen(self) -> None:
        while said := await self._read():
            if "status" in said:
                self._lives[said["pid"]].ended.set_result(said["status"])
            else:
                life = Life(said["pid"], self.folder, self._names.pop(0))
                self._lives[life.pid] = life
                self._orders.put_nowait(life)

    async def start(self, *arguments: str, **doom: str) -> Life:
        """Start a server, with what it is to do to itself; it may die before it serves."""
        name = f"life{len(self._lives)}"
        self._names.append(name)
        order = {
            "arguments": ["serve", *arguments, "--port", "0"],
            "environ": self._environ | {f"TORTURE_{key.upper()}": value for key, value in doom.items()},
            "folder": str(self.folder),
            "name": name,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await self._orders.get()


def check_integrity(database: Path) -> None:
    """SQLite finds nothing wrong with what the dead server left: in a copy, so that the next one finds it as it is."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        for ending in ("", "-wal"):
            if Path(f"{database}{ending}").exists():
                shutil.copy(f"{database}{ending}", f"{copy}{ending}")
        connection = sqlite3.connect(copy)
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        finally:
            connection.close()
