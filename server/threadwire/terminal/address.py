"""Which server: the one that was named, the one that runs, or one of our own."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from threadwire.errors import StartupError
from threadwire.settings import Settings
from threadwire.terminal.own_server import own_server
from threadwire.terminal.signals import Signals
from threadwire.terminal.texts import note

#: How long a server on this machine may take to say that it is there.
PROBE_SECONDS = 2.0
_SCHEMES = ("http", "https", "ws", "wss")
#: Ours, and no setting of the server's.
TOKEN_VARIABLE = "THREADWIRE_TOKEN"  # noqa: S105 -- its name


def server_url(text: str) -> str:
    """The socket's URL from what a person writes: ``host:port``, ``http://…`` or ``ws://…``, with ``/ws`` or without.

    Raises:
        StartupError: it is no such thing.
    """
    try:
        url = URL(text if "://" in text else f"http://{text}")
        port = url.port
    except ValueError as error:
        raise StartupError(f"{text}: not the URL of a server ({error})") from error
    if url.scheme not in _SCHEMES or not url.host or port is None:
        raise StartupError(f"{text}: not the URL of a server: http://HOST:PORT, wss://HOST/ws or HOST:PORT")
    path = url.path.rstrip("/")
    return str(url.with_path(path if path.endswith("/ws") else f"{path}/ws", keep_query=True))


async def find_server(url: str | None, config: Path | None, stack: AsyncExitStack, signals: Signals) -> str:
    """The socket's URL. Without ``url``, a server that was started for us ends with ``stack``.

    Raises:
        StartupError: ``url`` is none, the configuration is wrong, or no server can be started.
    """
    if url is not None:
        return server_url(url)
    settings = _settings(config)
    where = _own_address(settings)
    if where is not None and await _is_there(where):
        return server_url(where)
    note("no server is running here: starting one for this conversation")
    server = await stack.enter_async_context(own_server(config, signals))
    return server_url(server)


def _settings(path: Path | None) -> Settings:
    from threadwire import config

    environ = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    return config.load(path, environ=environ)


def _own_address(settings: Settings) -> str | None:
    host, port = settings.server.host, settings.server.port
    if port == 0:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- what others may have bound to
    return str(URL.build(scheme="https" if settings.server.tls.cert else "http", host=host, port=port))


async def _is_there(url: str) -> bool:
    """Whether a threadwire server answers at ``url``; raises ``StartupError`` where one does and is not ready."""
    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            alive, ready = await _ask(session, f"{url}/healthz"), await _ask(session, f"{url}/readyz")
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False
    if alive != (200, {"status": "ok"}):
        return False
    if ready == (200, {"status": "ready"}):
        return True
    if ready[0] == 503:
        raise StartupError(f"the server at {url} is stopping, or cannot use its database: try again in a moment")
    return False


async def _ask(session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    async with session.get(url) as response:
        return response.status, await response.json()
