"""A server for as long as this conversation: ``threadwire serve --port 0`` in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from threadwire.errors import StartupError
from threadwire.terminal.signals import Signals
from threadwire.terminal.state import private_file
from threadwire.terminal.texts import note

#: How long it may take to start (the graph's own imports are in it), and to end after each signal.
START_SECONDS = 60.0
STOP_SECONDS = 5.0
#: A log that has grown beyond this is begun anew.
MAX_LOG_BYTES = 1 << 20
#: In the line of its log that says "serving".
_URL = re.compile(r"https?://[^\s\"]+")
_OURS = "threadwire: "


class _Process:
    """The child, and the reader of what it says."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path | None) -> None:
        self.process = process
        self.log = log
        self.last: deque[str] = deque(maxlen=20)
        self.url: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Copy its stderr into the log, to its end."""
        assert self.process.stderr is not None  # noqa: S101 -- it was asked for
        if self.log is not None and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.write_bytes(b"")
        rest = b""
        with open(self.log or os.devnull, "ab", buffering=0) as log:  # noqa: ASYNC230, PTH123 -- lines, now and then
            while piece := await self.process.stderr.read(1 << 16):
                log.write(piece)
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._look(line.decode("utf-8", "replace"))
        if not self.url.done():
            self.url.set_result(None)

    def _look(self, line: str) -> None:
        self.last.append(line)
        if not self.url.done() and "serving" in line and (found := _URL.search(line)):
            self.url.set_result(found[0])

    def why(self) -> str:
        """What it said in the end, to us or at all."""
        ours = [line.removeprefix(_OURS) for line in self.last if line.startswith(_OURS)]
        return "\n".join(ours or list(self.last)[-3:]) or f"exit code {self.process.returncode}"

    async def stop(self) -> None:
        """Ask it to end, twice, then end it."""
        for end in (self.process.terminate, self.process.terminate, self.process.kill):
            if self.process.returncode is None:
                with suppress(ProcessLookupError):
                    end()
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_SECONDS):
                        await self.process.wait()
        await asyncio.wait([self.reader], timeout=STOP_SECONDS)


@asynccontextmanager
async def own_server(config: Path | None, signals: Signals) -> AsyncIterator[str]:
    """Start a server with this configuration, on a free port; gives its URL, and stops it in the end.

    Should it end before, the program leaves with 1.

    Raises:
        StartupError: it did not start; with what it said.
    """
    child = _Process(await _spawn(config), private_file("chat-server.log"))
    watcher: asyncio.Task[None] | None = None
    try:
        try:
            async with asyncio.timeout(START_SECONDS):
                url = await asyncio.shield(child.url)
        except TimeoutError:
            raise StartupError(f"the server did not start within {START_SECONDS:g} s; its log: {child.log}") from None
        if url is None:
            await child.process.wait()
            raise StartupError(_explain(child.why()))
        watcher = asyncio.create_task(_watch(child, signals))
        yield url
    finally:
        if watcher is not None:
            watcher.cancel()
        await child.stop()


async def _spawn(config: Path | None) -> asyncio.subprocess.Process:
    arguments = ["serve", "--port", "0", *(["--config", str(config)] if config is not None else [])]
    environ = {name: value for name, value in os.environ.items() if name != "THREADWIRE_TOKEN"}
    # A session of its own: Ctrl-C in this terminal is for the conversation.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "threadwire.terminal.child",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )


def _explain(why: str) -> str:
    if "in use by another threadwire server" in why:
        return f"{why}\nor talk to that server: threadwire chat http://HOST:PORT"
    return why


async def _watch(child: _Process, signals: Signals) -> None:
    code = await child.process.wait()
    note(f"the server has ended (exit code {code}); its log: {child.log}")
    signals.leave(1)
