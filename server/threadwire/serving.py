"""The process that serves: its loop, its sockets, its signals, and how it comes to its end."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import web

from threadwire import http, logs, process, tls
from threadwire.app import CLOSE_SECONDS, drain, finish_runs, make_app, make_site
from threadwire.connector import CONNECTIONS, MODEL, OBSERVED
from threadwire.listening import listen
from threadwire.logs import get_logger
from threadwire.masking import secrets_in
from threadwire.settings import Settings

logger = get_logger(__name__)


def serve(settings: Settings, *, debug: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises ``StartupError`` where it cannot start."""
    secrets = set(secrets_in(settings.model_dump()))
    logs.configure(secrets=secrets, include_content=settings.logs.include_content)
    with asyncio.Runner(debug=debug, loop_factory=_loop_factory()) as runner:
        _run(runner.get_loop(), _serve(settings))
    return 0


def _run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` to its end, whatever the tasks beside it raise.

    A loop ends on the SystemExit or KeyboardInterrupt of any task, and a node or a tool may call ``sys.exit()``, as
    what was written for the command line does. It fails its run, as any other exception would.
    """
    task = loop.create_task(main)
    while not task.done():
        try:
            with suppress(SystemExit):
                loop.run_until_complete(task)
        except KeyboardInterrupt:
            # Once ``main`` has the signal, Ctrl-C raises nothing: it was a node.
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                raise
    task.result()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's, where it is installed (extra ``speed``)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings) -> None:
    server = settings.server
    sockets = process.allow_files(server.max_connections)
    if sockets is not None and sockets < server.max_connections:
        logger.warning("fewer files than connections", files_for=sockets, max_connections=server.max_connections)
    app = make_app(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        ssl_context = tls.context(server.tls.cert, server.tls.key)
        site = make_site(settings, runner, server.host, server.port, files_for=sockets, ssl_context=ssl_context)
        url = await listen(site, runner, f"{server.host}:{server.port}", "--port")
        process.trace_in_place()
        process.calm_garbage_collector()
        _announce(settings, app, url.replace("http", "https", 1) if ssl_context else url)
        await _wait_and_drain(app, server.drain_seconds)
    finally:
        await runner.cleanup()


def _announce(settings: Settings, app: web.Application, url: str) -> None:
    model = app[MODEL]
    logger.info(
        "serving",
        url=url,
        metrics=app[OBSERVED].metrics_url or f"{url}/metrics",
        graph=settings.graph or "built-in agent",
        model=model["name"],
        why=model["why"],
        storage=settings.storage.url,
    )


async def _wait_and_drain(app: web.Application, drain_seconds: float) -> None:
    """Wait for a signal; then start nothing new, tell the clients, let runs finish. A second signal hurries."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, on_signal)
    await stop.wait()
    drain(app)
    logger.info("draining", runs=app[http.HUB].active, connections=len(app[CONNECTIONS]), seconds=drain_seconds)
    connections = app[CONNECTIONS]
    for connection in tuple(connections):
        delay = round(random.uniform(0.5, 3.0), 2)  # noqa: S311 -- jitter, so that clients do not come back all at once
        connection.tell({"type": "goaway", "reason": "shutdown", "reconnect_after_seconds": delay})
    finishing = asyncio.create_task(finish_runs(app, drain_seconds))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait({finishing, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for task in (finishing, hurried):
        task.cancel()
    await asyncio.wait({finishing, hurried})
