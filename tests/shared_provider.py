"""One provider for all tests of a module: a process for each test would cost more time than most of them take.

A module that has many such tests imports both fixtures, and its ``provider`` is this one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

import graphs
from harness import Provider, eventually


@pytest.fixture(scope="module")
def provider_url() -> Iterator[str]:
    """Where it is; as fast as that of ``conftest``."""
    command = (sys.executable, "-m", "threadwire", "simulate", "--port", "0")
    manner = ("--tokens-per-second", "200", "--first-token-ms", "0", "--tokens", "40")
    with subprocess.Popen([*command, *manner], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        process.terminate()


@pytest.fixture
async def provider(
    provider_url: str,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Provider]:
    """It, with nothing open and all counts at zero."""
    process: Any = None
    provider = Provider(process, provider_url.rstrip("/").removesuffix("/v1"), session)
    monkeypatch.setenv("PROVIDER_URL", provider.base_url)
    await eventually(provider.left, "the test before has closed its requests")
    async with session.post(f"{provider.url}/reset"):
        pass
    yield provider
    if "serve" not in request.fixturenames:
        # A server closes them when it has ended.
        await graphs.close_clients()
