"""Fixtures: a served graph, a provider. Everything real; see ``harness``."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

# As ``threadwire serve`` does, before langgraph is imported.
os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
# A developer's own key must not make the tests talk to anybody.
os.environ.pop("OPENAI_API_KEY", None)

import aiohttp
import pytest
from hypothesis import HealthCheck, settings

import graphs
from harness import Provider, Served, start_provider
from process import ServerProcess
from threadwire import logs
from threadwire.testing.server import Server, settings_for
from wiretap import tap

# How long an example takes says how busy the machine is. In CI on top of what Hypothesis itself does there.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# Before the first server of this process, and for those it starts.
tap.start()

Serve = Callable[..., Awaitable[Served]]
Servers = Callable[[str], ServerProcess]


@pytest.fixture(autouse=True)
def _logging() -> None:
    """As ``threadwire serve`` sets it up; unconfigured, structlog draws a failing run's locals, which takes seconds."""
    logs.configure(json=True)


@pytest.fixture(autouse=True, scope="module")
def _leaks() -> Iterator[None]:
    """What a file's tests leave open is its own failure: collected later, it would be that of some other file."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def wiretapped() -> Iterator[Callable[[], list[str]]]:
    """No test's server sends a secret. Gives what takes the finds so far, for a test that lets one out on purpose."""
    yield tap.finds
    found = tap.finds()
    assert not found, "\n".join(found)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # However many sockets a test opens, none waits for another to be closed.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def serve(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[Serve]:
    """What starts a server on a graph, with sections of settings; all are stopped at the end."""
    started: list[Served] = []

    async def start(graph: str | None = None, *, database: Path | None = None, **sections: Any) -> Served:
        path = database or tmp_path / "threadwire.db"
        planted = {"agent": {"system_prompt": f"Be brief. {tap.PROMPT}", **sections.pop("agent", {})}}
        server = Server(settings_for(path, graph, {**planted, **sections}))
        await server.start()
        started.append(Served(server, session, path))
        return started[-1]

    yield start
    for served in started:
        for socket in served.sockets:
            await socket.ws.close()
        await served.server.close()
    await graphs.close_clients()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """``servers("name")`` gives a server process to start; all are gone at the end."""
    made: list[ServerProcess] = []

    def make(name: str) -> ServerProcess:
        made.append(ServerProcess(tmp_path, name))
        return made[-1]

    yield make
    for server in made:
        await server.kill()


@pytest.fixture
async def provider(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Provider]:
    """A provider at 200 tokens/s; graphs of ``graphs.py`` that use ChatOpenAI find it by PROVIDER_URL."""
    provider = await start_provider(session, "--tokens-per-second", "200", "--first-token-ms", "0", "--tokens", "40")
    monkeypatch.setenv("PROVIDER_URL", provider.base_url)
    yield provider
    if "serve" not in request.fixturenames:
        # A server closes them when it has ended.
        await graphs.close_clients()
    await provider.stop()
