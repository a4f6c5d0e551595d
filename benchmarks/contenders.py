"""What is compared: how each server is started, and in which dialect it is spoken to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.dialects import Dialect, ThreadwireDialect, TutorialDialect
from benchmarks.machine import LOAD_CORE, SERVER_CORE, pin
from benchmarks.peers import AgUiDialect, ChainlitDialect, LangGraphDialect, LangGraphSocketDialect

ROOT = Path(__file__).parent.parent
SERVERS = Path(__file__).parent / "servers"
#: A machine under load takes its time to import LangChain.
START_SECONDS = 120.0
#: After that a server that was asked to stop is killed.
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        command: Its command line on a port, behind the Python of its environment.
        environment: More of it than where the provider is.
        folder: Below ``build/``, the environment it is installed in; empty: threadwire's own.
        client_remembers: Its clients send the whole conversation, so that only its database can tell what it has.
    """

    name: str
    title: str
    dialect: type[Dialect]
    command: Callable[[int], Sequence[str]]
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    client_remembers: bool = False

    @property
    def python(self) -> str:
        return str(ROOT / "build" / self.folder / "bin" / "python") if self.folder else sys.executable

    @property
    def site(self) -> Path | None:
        """Where its packages are, if not where threadwire's are."""
        return next((ROOT / "build" / self.folder).glob("lib/python*/site-packages"), None) if self.folder else None


def _module(name: str) -> Callable[[int], Sequence[str]]:
    return lambda port: ["-m", f"benchmarks.servers.{name}", str(port)]


def _threadwire(port: int) -> Sequence[str]:
    return ["-m", "threadwire", "serve", "--port", str(port)]


def _langgraph(port: int) -> Sequence[str]:
    # By default ten runs go at a time, and the others wait.
    arguments = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "1000", "--server-log-level", "warning"]
    config = str(SERVERS / "langgraph.json")
    return ["-m", "langgraph_cli", "dev", "--port", str(port), "--config", config, *arguments]


def _chainlit(port: int) -> Sequence[str]:
    return ["-m", "chainlit", "run", str(SERVERS / "chainlit_app.py"), "--headless", "--port", str(port)]


OURS = {"THREADWIRE_MODEL__NAME": "openai:gpt-4o-mini"}
CONTENDERS = {
    each.name: each
    for each in (
        Contender("threadwire", "threadwire", ThreadwireDialect, _threadwire, OURS),
        Contender(
            "stock",
            "threadwire, stock client",
            ThreadwireDialect,
            _threadwire,
            OURS | {"THREADWIRE_MODEL__STOCK_CLIENT": "true"},
        ),
        Contender("aiohttp", "tutorial, aiohttp", TutorialDialect, _module("tutorial_aiohttp")),
        Contender("fastapi", "tutorial, FastAPI", TutorialDialect, _module("tutorial_fastapi")),
        Contender("floor", "bare relay, no LangChain", TutorialDialect, _module("floor")),
        Contender("langgraph", "langgraph dev, SSE", LangGraphDialect, _langgraph, folder="bench-langgraph"),
        Contender(
            "langgraph_ws", "langgraph dev, WebSocket", LangGraphSocketDialect, _langgraph, folder="bench-langgraph"
        ),
        Contender("chainlit", "Chainlit", ChainlitDialect, _chainlit, folder="bench-chainlit"),
        Contender(
            "ag_ui", "AG-UI, FastAPI", AgUiDialect, _module("ag_ui"), folder="bench-ag_ui", client_remembers=True
        ),
    )
}


class Process:
    """A process of the benchmark, in a folder of its own that goes with it, pinned to a core if one is given."""

    def __init__(self, arguments: Sequence[str], core: int | None, environment: dict[str, str], port: int) -> None:
        self.arguments, self.core, self.port = list(arguments), core, port
        self.url = f"http://127.0.0.1:{port}"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("THREADWIRE_", "OPENAI_"))}
        self.environment = clean | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "server")))} | environment
        self.folder = tempfile.mkdtemp(prefix="bench-")
        self.process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] = (Path(self.folder) / "output.txt").open("ab")

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    @property
    def output(self) -> str:
        return (Path(self.folder) / "output.txt").read_text(errors="replace")

    def bytes_of(self, pattern: str) -> bytes:
        """What its files hold."""
        return b"".join(path.read_bytes() for path in Path(self.folder).glob(pattern))

    def launch(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            self.arguments,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            preexec_fn=self._pin,  # noqa: PLW1509 -- no thread of this process holds a lock that it needs
        )

    def _pin(self) -> None:
        if self.core is not None:
            pin(self.core)

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self.launch()
        assert self.process
        async with asyncio.timeout(START_SECONDS):
            while not await self._listens():
                if self.process.poll() is not None:
                    raise RuntimeError(f"{' '.join(self.arguments)}: ended before it served\n{self.output[-2000:]}")
                await asyncio.sleep(0.05)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def stop(self) -> None:
        """End it and what it started, as an operator does: SIGTERM, and SIGKILL where that is not enough."""
        if self.process is None:
            return
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)

    async def discard(self) -> None:
        """Stop it, and take its folder away."""
        await self.stop()
        self._output.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def provider(core: int | None = LOAD_CORE) -> Process:
    port = free_port()
    return Process([sys.executable, "-m", "benchmarks.provider", str(port)], core, {}, port)


def server(
    contender: Contender, provider_url: str, more: dict[str, str] | None = None, core: int | None = SERVER_CORE
) -> Process:
    base = f"{provider_url}/v1"
    environment = {
        "OPENAI_API_KEY": "sk-benchmark",
        "OPENAI_BASE_URL": base,
        "OPENAI_API_BASE": base,
        "LANGSMITH_TRACING": "false",
    }
    if "THREADWIRE_MODEL__NAME" in contender.environment:
        environment["THREADWIRE_MODEL__BASE_URL"] = base
    port = free_port()
    environment |= contender.environment | (more or {})
    return Process([contender.python, *contender.command(port)], core, environment, port)
