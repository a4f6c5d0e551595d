"""Where a server listens: its address, and the one that ``/metrics`` may have for itself."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from threadwire.arrivals import Site
from threadwire.errors import StartupError


async def listen(site: web.BaseSite, runner: web.AppRunner, where: str, key: str) -> str:
    """Serve there, and return the URL; raises ``StartupError``, which names ``key`` as what to change."""
    try:
        await site.start()
    except OSError as error:
        # uvloop's own text names the address once more.
        why = os.strerror(error.errno) if error.errno else str(error)
        hint = f"take another port with {key}" if error.errno == errno.EADDRINUSE else "check server.host"
        raise StartupError(f"cannot listen on {where}: {why}; {hint}") from error
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def listener(app: web.Application, host: str, port: int, key: str, *, seconds: float) -> AsyncIterator[str]:
    """An application of its own beside the server's, until left; gives its URL. ``seconds`` as in ``Site``."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        yield await listen(Site(runner, host, port, seconds=seconds), runner, f"{host}:{port}", key)
    finally:
        await runner.cleanup()
