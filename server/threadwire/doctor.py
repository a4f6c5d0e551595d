"""``threadwire doctor``: what would keep a server from starting, or from lasting, and what to do about it.

Looks at all that ``threadwire serve`` would use with the same configuration, and changes none of it. One line for each
thing; the exit code is 0 where there is no problem, also with warnings, and 1 where there is one.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
from langgraph.checkpoint.memory import InMemorySaver

from threadwire import config, failures, logs
from threadwire.errors import StartupError
from threadwire.graph import open_agent_graph, open_graph
from threadwire.models import Model, open_model
from threadwire.page import client_folder
from threadwire.settings import Settings
from threadwire.storage import checkup

EXIT_PROBLEMS = 1
#: How long the model may take to its first token, and a server to say that it lives.
_MODEL_SECONDS, _ANSWER_SECONDS = 60.0, 3.0
#: Free on the disk.
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 1_000_000_000, 100_000_000
#: Descriptors beside those of clients: the database, the log, the provider's connections.
_OTHER_FILES = 100
_ASKED = "Say hi."
#: What to do about what a provider says, by error code.
_ABOUT_MODELS = {
    "model_auth": "set model.api_key, or OPENAI_API_KEY in the environment, to a key it takes",
    "model_rate_limited": "wait, or ask the provider for a higher limit",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "warning", "problem"]
    #: What was looked at.
    part: str
    #: What was found and, where it is not well, what to do.
    text: str

    def line(self) -> str:
        """As it is printed."""
        return f"{self.level:<9}{self.part}: {self.text}"


def run(path: Path | None, overrides: dict[str, Any], *, as_json: bool) -> int:
    """Look at everything and print it as it is found; returns the exit code."""
    # What the graph logs when it is loaded is not the doctor's.
    logs.configure(level="error")
    try:
        settings, sources = config.load_with_sources(path, overrides)
    except StartupError as error:
        found = [Finding("problem", "configuration", line) for line in error.message.splitlines()]
        _print(found, as_json=as_json)
        return EXIT_PROBLEMS
    found = [Finding("ok", "configuration", ", ".join(sources))]
    if not as_json:
        _print(found, as_json=False)
    asyncio.run(_look(settings, found, tell=not as_json))
    if as_json:
        _print(found, as_json=True)
    return EXIT_PROBLEMS if any(each.level == "problem" for each in found) else 0


def _print(found: list[Finding], *, as_json: bool) -> None:
    text = json.dumps([asdict(each) for each in found], indent=2) if as_json else "\n".join(f.line() for f in found)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _look(settings: Settings, found: list[Finding], *, tell: bool) -> None:
    async with aclosing(_findings(settings)) as findings:
        async for each in findings:
            found.append(each)
            if tell:
                _print([each], as_json=False)


async def _findings(settings: Settings) -> AsyncGenerator[Finding, None]:
    server = settings.server
    runs = await _answers("https" if server.tls.cert else "http", server.host, server.port)
    for each in (*_access(settings), *_database(settings, runs=runs), *_disk(settings), *_open_files(settings)):
        yield each
    yield _port("port", "server.port", server.host, server.port, runs=runs)
    if server.metrics_port is not None:
        yield _port("metrics port", "server.metrics_port", server.host, server.metrics_port, runs=runs)
    for each in _parts(settings):
        yield each
    async with aclosing(_graph(settings)) as findings:
        async for each in findings:
            yield each


# --- the machine ---------------------------------------------------------------------------------


def _access(settings: Settings) -> Iterator[Finding]:
    if settings.auth.mode == "none" and settings.auth.insecure:
        text = "auth.mode is none and auth.insecure is true: everybody who reaches the server may use it; set auth.mode"
        yield Finding("warning", "access", text)
    else:
        yield Finding("ok", "access", f"auth.mode is {settings.auth.mode}")


def _database(settings: Settings, *, runs: bool) -> Iterator[Finding]:
    try:
        yield Finding("ok", "database", checkup.look_over(settings.storage.url))
        if runs:
            yield Finding("ok", "database", "a server has it, at the configured address; that it is writable: /readyz")
        else:
            checkup.write_to(settings.storage.url)
    except StartupError as error:
        yield Finding("problem", "database", error.message)


def _disk(settings: Settings) -> Iterator[Finding]:
    try:
        folder = checkup.where(settings.storage.url)
    except StartupError:
        return  # told of the database
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:,.1f} GB free in {folder}"
    if free < _LITTLE_BYTES:
        level: Literal["warning", "problem"] = "problem" if free < _TOO_LITTLE_BYTES else "warning"
        yield Finding(level, "disk", f"{text}: make room, or `threadwire storage prune`, or move storage.url")
    else:
        yield Finding("ok", "disk", text)


def _open_files(settings: Settings) -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = settings.server.max_connections
    if limit == resource.RLIM_INFINITY or (clients and limit >= clients + _OTHER_FILES):
        text = f"{limit:,} may be open" if limit != resource.RLIM_INFINITY else "any number may be open"
        yield Finding("ok", "open files", text)
    else:
        wanted = f"for {clients:,} connections (server.max_connections)" if clients else "and connections are unlimited"
        todo = f"`ulimit -n {clients + _OTHER_FILES or 65536}`, LimitNOFILE= of a systemd unit, or fewer connections"
        yield Finding("warning", "open files", f"{limit:,} may be open, {wanted}: {todo}")


def _port(part: str, key: str, host: str, port: int, *, runs: bool) -> Finding:
    shown = f"{host}:{port}"
    if port == 0:
        return Finding("ok", part, f"any free one ({key} is 0)")
    if runs:
        return Finding("ok", part, f"a server answers at the configured address ({shown})")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            # As the server does: a port of which connections still linger is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Finding("problem", part, f"{shown} is taken: stop what listens there, or take another {key}")
        return Finding("problem", part, f"cannot listen on {shown} ({error.strerror}): check server.host and {key}")
    return Finding("ok", part, f"{shown} is free")


async def _answers(scheme: str, host: str, port: int) -> bool:
    """Whether a server says there that it lives."""
    shown = f"[{host}]" if ":" in host else host
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{scheme}://{shown}:{port}/healthz", ssl=False) as response,
        ):
            return bool(response.status == 200 and await response.json() == {"status": "ok"})
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False


# --- what is installed ---------------------------------------------------------------------------


def _parts(settings: Settings) -> Iterator[Finding]:
    if importlib.util.find_spec("uvloop") is None:
        yield Finding("warning", "uvloop", "not installed, the server is slower: pip install 'threadwire[speed]'")
    else:
        yield Finding("ok", "uvloop", "installed")
    if (client_folder() / "vendor").is_dir():
        yield Finding("ok", "page", "shows Markdown and code")
    else:
        todo = "install Node and run `make install`, where you work on a checkout"
        yield Finding("warning", "page", f"has no libraries and shows answers as plain text: {todo}")
    for wanted, module, extra in (
        (settings.otel.enabled, "opentelemetry.exporter.otlp.proto.http", "otel"),
        (bool(settings.agent.mcp_servers), "langchain_mcp_adapters", "mcp"),
    ):
        if wanted and not _installed(module):
            text = f"is configured and not installed: pip install 'threadwire[{extra}]'"
            yield Finding("problem", extra, text)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# --- what is served ------------------------------------------------------------------------------


async def _graph(settings: Settings) -> AsyncGenerator[Finding, None]:
    if settings.graph is not None:
        yield await _tried("graph", lambda: _loads(settings.graph or ""))
        yield Finding("ok", "model", "the graph brings its own: not asked")
        return
    try:
        model = open_model(settings.model)
    except StartupError as error:
        yield Finding("problem", "model", error.message)
        return
    async with model:
        yield await _one_token(model)
        yield await _tried("graph", lambda: _agent_loads(model, settings))


async def _tried(part: str, work: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding("ok", part, await work())
    except StartupError as error:
        return Finding("problem", part, " ".join(error.message.split()))


async def _loads(target: str) -> str:
    async with open_graph(target, saver=InMemorySaver()):
        return f"{target} loads"


async def _agent_loads(model: Model, settings: Settings) -> str:
    opening = open_agent_graph(
        model.chat_model,
        settings.agent,
        calls_tools=model.calls_tools,
        takes=model.takes,
        saver=InMemorySaver(),
    )
    async with opening:
        servers = len(settings.agent.mcp_servers)
        return f"the built-in agent loads{f', with {servers} MCP servers' if servers else ''}"


async def _one_token(model: Model) -> Finding:
    """Ask for an answer, and leave at its first token."""
    named = f"{model.name} ({model.why})"
    try:
        async with asyncio.timeout(_MODEL_SECONDS), aclosing(_ask(model)) as answer:
            async for _ in answer:
                # Where nobody chose it: its answers are no model's.
                made_up = model.name == "simulated" and model.why.startswith("auto")
                return Finding("warning" if made_up else "ok", "model", f"{named} answers")
    except TimeoutError:
        text = f"{named} says nothing for {_MODEL_SECONDS:g} s: check model.base_url and the network"
        return Finding("problem", "model", text)
    except Exception as error:
        known = failures.explain(error)
        todo = _ABOUT_MODELS.get(known.code, "check model.base_url, model.name and the network")
        level: Literal["warning", "problem"] = "warning" if known.code == "model_rate_limited" else "problem"
        return Finding(level, "model", f"{named}: {known.message} ({type(error).__name__}): {todo}")
    return Finding("problem", "model", f"{named} ends without an answer: check model.name")


async def _ask(model: Model) -> AsyncGenerator[Any, None]:
    async for chunk in model.chat_model.astream(_ASKED):
        yield chunk
