"""A real server in the test's own loop, on a free port of 127.0.0.1."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Unpack

from aiohttp import web

from threadwire.app import make_app, make_site
from threadwire.client import Chat, connect
from threadwire.client.options import ConnectOptions
from threadwire.settings import WITH_AUTH, Settings

#: As what a graph that is no module's is served.
_MODULE = "threadwire_graphs_under_test"
#: How long a closing server waits for its connections.
_CLOSE_SECONDS = 5.0


class Server:
    """A server that runs in this loop; made by ``serve``, or from settings and started here.

    Attributes:
        app: The aiohttp application that is served.
    """

    def __init__(self, settings: Settings) -> None:
        self.app: web.Application = make_app(settings)
        self._settings = settings
        # As the real one runs: a lost socket does not cancel its handler.
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
        self.host = "127.0.0.1"
        self.port = 0

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://{self.host}:{self.port}"

    @property
    def runner(self) -> web.AppRunner:
        """What serves the application."""
        return self._runner

    async def start(self) -> None:
        """Open everything and listen; raises ``StartupError``."""
        await self._runner.setup()
        await make_site(self._settings, self._runner, self.host, 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop as the real one does; a second time does nothing."""
        await self._runner.cleanup()

    def connect(self, **options: Unpack[ConnectOptions]) -> AbstractAsyncContextManager[Chat]:
        """A client of it: ``threadwire.client.connect`` with this server's address."""
        return connect(self.url, **options)


@asynccontextmanager
async def serve(graph: Any = None, *, folder: Path | None = None, **sections: dict[str, Any]) -> AsyncIterator[Server]:
    """Serve a graph until left.

    Args:
        graph: A compiled graph, a ``StateGraph`` or a factory of one; ``"module:attribute"``; or None for the built-in
            agent on the simulated model, as fast as it can.
        folder: Where the database is kept, a new one by default; one server after another may use the same.
        sections: Settings by section, as ``runs={"timeout_seconds": 1}``.

    Raises:
        StartupError: the graph is none that can be served.
    """
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadwire-")))
        target = graph if graph is None or isinstance(graph, str) else stack.enter_context(_named(graph))
        server = Server(settings_for(place / "threadwire.db", target, sections))
        try:
            await server.start()
            yield server
        finally:
            await server.close()


def settings_for(database: Path, graph: str | None, sections: dict[str, dict[str, Any]]) -> Settings:
    """The defaults, with a fast simulated model, and no limits of users: tests are in a hurry; the sections on top."""
    base: dict[str, dict[str, Any]] = {
        "model": {"name": "simulated", "simulated": {"tokens_per_second": 0, "first_token_ms": 0}},
        "storage": {"url": f"sqlite:///{database}"},
        "limits": dict.fromkeys(WITH_AUTH, 0),
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return Settings.model_validate({**base, "graph": graph})


@contextmanager
def _named(graph: Any) -> Iterator[str]:
    """A name by which the server can import an object that is no module's."""
    module = sys.modules.setdefault(_MODULE, ModuleType(_MODULE))
    attribute = f"graph_{id(graph)}"
    setattr(module, attribute, graph)
    try:
        yield f"{_MODULE}:{attribute}"
    finally:
        delattr(module, attribute)
