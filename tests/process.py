"""The real ``python -m threadwire serve`` in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from harness import DEADLINE, Served, eventually
from wiretap import tap

_URL = re.compile(r"http://127\.0\.0\.1:\d+")

FAILPOINT = Path(__file__).parent / "failpoint.py"

#: What the tests' servers are configured with, unless a test says otherwise.
DEFAULTS = {
    "THREADWIRE_AGENT__SYSTEM_PROMPT": f"Be brief. {tap.PROMPT}",
    "THREADWIRE_MODEL__API_KEY": tap.KEY,
    "THREADWIRE_MODEL__NAME": "simulated",
    "THREADWIRE_MODEL__SIMULATED__TOKENS_PER_SECOND": "0",
    "THREADWIRE_MODEL__SIMULATED__FIRST_TOKEN_MS": "0",
}


class ServerProcess:
    """One run of the command, in ``folder``; its output goes into files there, so that no pipe can stop it."""

    def __init__(self, folder: Path, name: str = "server") -> None:
        self.folder = folder
        self.name = name
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    async def launch(
        self, *arguments: str, flags: Sequence[str] = (), kill_at: str | None = None, **environ: str
    ) -> None:
        """Start it, with ``flags`` for Python itself; it may fail to come up.

        ``kill_at``: it is killed before the database gets a statement that begins so (``failpoint.py``).
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith("THREADWIRE_")}
        environment |= DEFAULTS | {f"THREADWIRE_{key.upper()}": value for key, value in environ.items()}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *flags,
                *(("-m", "threadwire") if kill_at is None else (str(FAILPOINT), kill_at)),
                "serve",
                *arguments,
                cwd=self.folder,
                env=environment,
                stdout=out,
                stderr=err,
            )

    async def start(
        self, *arguments: str, flags: Sequence[str] = (), kill_at: str | None = None, **environ: str
    ) -> None:
        """Start it on a free port and wait until it says where it serves."""
        await self.launch(*arguments, "--port", "0", flags=flags, kill_at=kill_at, **environ)

        def where() -> str | None:
            assert self.process is not None
            assert self.process.returncode is None, self.stderr
            found = _URL.search(self.stdout + self.stderr)
            return found[0] if found else None

        self.url = await eventually(where, "the server says where it serves", 2 * DEADLINE)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self, deadline: float = DEADLINE) -> int:
        """Wait for its end; the exit code (negative: the signal that ended it)."""
        assert self.process is not None
        async with asyncio.timeout(deadline):
            return await self.process.wait()

    async def kill(self) -> None:
        """Make sure that it is gone."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def served(self, session: aiohttp.ClientSession) -> RemoteServed:
        """The harness's view of it."""
        return RemoteServed(self.url, session, self.folder / "threadwire.db")

    def memory(self, field: str) -> int:
        """A line of its ``/proc/PID/status``, in bytes: ``VmRSS``, ``VmHWM``."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [kilobytes] = re.findall(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        return int(kilobytes) * 1024


class RemoteServed(Served):
    """A ``Served`` whose server is another process."""

    def __init__(self, url: str, session: aiohttp.ClientSession, database: Path) -> None:
        super().__init__(None, session, database)  # type: ignore[arg-type]
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    async def ready(self) -> tuple[int, Any]:
        async with self.session.get(f"{self.url}/readyz") as response:
            return response.status, await response.json()
