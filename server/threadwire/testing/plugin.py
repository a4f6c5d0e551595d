"""The pytest fixture; name this module in ``pytest_plugins``. Needs pytest-asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest_asyncio

from threadwire.testing.server import Server, serve


@pytest_asyncio.fixture
async def threadwire_serve(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Give an async function that serves a graph until the test ends; its arguments are a graph and sections.

    Their database is the test's own: one that is started after another was closed has its threads.
    """
    async with AsyncExitStack() as stack:

        async def start(graph: Any = None, **sections: Any) -> Server:
            return await stack.enter_async_context(serve(graph, folder=tmp_path, **sections))

        yield start
