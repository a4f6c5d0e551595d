"""Puts the parts together: what is opened in which order, the routes, and how it ends.

``make_app`` gives an aiohttp application that opens everything on start-up and closes it on clean-up, so tests run the
real thing. The process around it is ``serving``'s.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields

# Before langgraph is imported: a tampered database must not run code.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")

from aiohttp import web

from threadwire import http, page, resources, stateless, states
from threadwire.allowance import Allowance, Caps
from threadwire.arrivals import Site, begin, last
from threadwire.auth import Authenticator
from threadwire.auth.modes import open_authenticator
from threadwire.auth.proxies import Proxies
from threadwire.auth.tickets import Tickets
from threadwire.connector import (
    ALLOWANCE,
    CONNECTION,
    CONNECTIONS,
    MODEL,
    OBSERVED,
    Connections,
    connection_settings,
    connector,
)
from threadwire.errors import StorageError
from threadwire.filters import Filter
from threadwire.fresh import fresh_parts
from threadwire.gate import AUTHENTICATOR, SOCKET, TICKETS, Gate
from threadwire.graph import Graph, open_agent_graph, open_graph
from threadwire.hub import Hub
from threadwire.journal import Journal
from threadwire.logs import get_logger
from threadwire.models import open_model
from threadwire.observed import Observed
from threadwire.openapi import OpenApiRoutes
from threadwire.ownership import Ownership
from threadwire.protocol import CloseCode
from threadwire.run import RunLimits
from threadwire.settings import Settings
from threadwire.storage import Storage, open_storage
from threadwire.thread import ThreadParts
from threadwire.turn import TurnParts
from threadwire.uploads import body_in_time

logger = get_logger(__name__)

#: What stands for a limit of 0 where a number is wanted.
_NO_LIMIT = 1_000_000
#: TCP connections of an address beside its sockets and streams: for requests, and to be told that there are too many.
_BESIDE = 256
#: How long clients have to read what is left, where the server stops.
CLOSE_SECONDS = 5.0
#: How often it is looked whether a token was revoked: its sockets are closed soon after.
_REFRESH_SECONDS = 2.0


def make_app(settings: Settings) -> web.Application:
    """The server as an aiohttp application; starting it raises ``StartupError`` where something is wrong."""
    gate = Gate(settings, lambda running: running[ALLOWANCE])
    seen = Observed(settings)
    app = web.Application(
        middlewares=[
            http.errors,
            begin,
            gate.middleware(),
            seen.middleware(),
            body_in_time(settings.server.handshake_timeout_seconds),
        ],
        client_max_size=settings.server.max_message_bytes or 2**62,
    )
    app[CONNECTIONS] = Connections()
    app[OBSERVED] = seen
    app.cleanup_ctx.append(lambda running: _parts(running, settings))
    app.on_shutdown.append(_shut_down)
    gate.add_to(app)
    app.router.add_get(SOCKET, connector(settings, gate))
    app.on_response_prepare.append(http.harden)
    app.on_response_prepare.append(last)
    http.Routes(settings.runs.on_disconnect).add_to(app.router)
    resources.ThreadRoutes(settings.runs.on_disconnect).add_to(app.router)
    states.StateRoutes().add_to(app.router)
    stateless.StatelessRoutes(settings.events).add_to(app.router)
    page.PageRoutes(page.client_folder()).add_to(app.router)
    seen.add_to(app.router)
    OpenApiRoutes().add_to(app.router)
    return app


def make_site(
    settings: Settings,
    runner: web.AppRunner,
    host: str,
    port: int,
    *,
    files_for: int | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Site:
    """Where the application of ``runner`` listens; ``files_for`` is how many connections there are descriptors for."""
    per_address = settings.limits.of_mode(settings.auth.mode).connections_per_address
    return Site(
        runner,
        host,
        port,
        seconds=settings.server.handshake_timeout_seconds,
        per_address=per_address + _BESIDE if per_address else 0,
        trusted=Proxies(settings.server.trusted_proxies).trusts,
        most=files_for,
        ssl_context=ssl_context,
    )


async def _parts(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    """Open everything, bottom up; close it in the other order."""
    async with AsyncExitStack() as stack:
        # Nodes and tools that are not async run in the loop's threads; asyncio's default is a handful.
        pool = ThreadPoolExecutor(settings.runs.max_threads, thread_name_prefix="graph")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        asyncio.get_running_loop().set_default_executor(pool)
        seen = app[OBSERVED]
        await stack.enter_async_context(seen.open_traces())
        opening_storage = open_storage(settings.storage.url, seen.tally.checkpoint_write.add)
        app[http.STORAGE] = storage = await stack.enter_async_context(opening_storage)
        app[http.OWNERSHIP] = Ownership(storage, await storage.secret("thread ids"))
        app[TICKETS] = Tickets()
        app[AUTHENTICATOR] = await stack.enter_async_context(open_authenticator(settings.auth, storage))
        if settings.graph is None:
            model = await stack.enter_async_context(open_model(settings.model))
            app[MODEL] = model.description()
            opening = open_agent_graph(
                model.chat_model,
                settings.agent,
                calls_tools=model.calls_tools,
                takes=model.takes,
                saver=storage.saver(),
            )
        else:
            # Readers are told this: where the graph is, is not for them.
            app[MODEL] = {"name": "graph", "why": "the served graph brings its own"}
            opening = open_graph(settings.graph, saver=storage.saver())
        graph = await stack.enter_async_context(opening)
        app[resources.GRAPH] = graph
        journal = Journal(storage, settings.log.journal_interval_seconds, seen.tally)
        stack.push_async_callback(journal.close)
        app[ALLOWANCE] = allowance = Allowance(_caps(settings), storage)
        parts = _thread_parts(settings, storage, graph, journal, allowance=allowance, seen=seen)
        app[http.HUB] = hub = Hub(parts, settings.log.keep_seconds)
        fresh = fresh_parts(settings.runs, graph, storage.fenced_store, seen.tally, seen.traces, allowance=allowance)
        stateless.open_runs(app, settings.limits, fresh)
        app[CONNECTION] = connection_settings(settings, app)
        await hub.open()
        stack.push_async_callback(hub.close)
        await stack.enter_async_context(seen.open(app[CONNECTIONS], hub, journal))
        if settings.auth.mode == "tokens":
            await stack.enter_async_context(_looking_for_revoked(app[AUTHENTICATOR], app[CONNECTIONS]))
        yield


@asynccontextmanager
async def _looking_for_revoked(authenticator: Authenticator, connections: Connections) -> AsyncIterator[None]:
    """Close the connections of tokens that are revoked meanwhile."""

    async def look() -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                await authenticator.refresh()
            except StorageError:
                logger.exception("tokens not read")
                continue
            for connection in tuple(connections):
                if not authenticator.holds(connection.credential.grant):
                    connection.end(CloseCode.UNAUTHORIZED, "the token was revoked")

    looking = asyncio.create_task(look(), name="revoked tokens")
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait({looking})


def _caps(settings: Settings) -> Caps:
    limits = settings.limits.of_mode(settings.auth.mode)
    return Caps(**{cap.name: getattr(limits, cap.name) for cap in fields(Caps)})


def _thread_parts(
    settings: Settings, storage: Storage, graph: Graph, journal: Journal, *, allowance: Allowance, seen: Observed
) -> ThreadParts:
    runs = settings.runs
    return ThreadParts(
        turns=TurnParts(
            graph=graph,
            storage=storage,
            policy=Filter.of(settings.events),
            run_limits=RunLimits(
                timeout_seconds=runs.timeout_seconds,
                cancel_deadline_seconds=runs.cancel_deadline_seconds,
                recursion_limit=runs.recursion_limit or _NO_LIMIT,
                durability=settings.storage.durability,
            ),
            tally=seen.tally,
            traces=seen.traces,
        ),
        journal=journal,
        allowance=allowance,
        multitask_strategy=runs.multitask_strategy,
        max_queued=runs.max_queued or _NO_LIMIT,
        disconnect_grace_seconds=runs.disconnect_grace_seconds,
        max_log_bytes=settings.log.max_bytes_per_thread,
        history_page=settings.limits.history_page or _NO_LIMIT,
        keep_checkpoints=settings.storage.keep_checkpoints,
        allow_raw=settings.events.allow_raw,
    )


async def _shut_down(app: web.Application) -> None:
    """Before aiohttp waits for its handlers: stop what runs, and let every client know."""
    drain(app)
    await finish_runs(app, 0)
    await _close_connections(app)


def drain(app: web.Application) -> None:
    """Start nothing more."""
    app[http.HUB].drain()
    app[stateless.FRESH].drain()


async def finish_runs(app: web.Application, seconds: float) -> None:
    """Wait for what runs, at most so long, then stop what is left."""
    await asyncio.gather(app[http.HUB].finish_runs(seconds), app[stateless.FRESH].finish(seconds))


async def _close_connections(app: web.Application) -> None:
    """Let every client read what it has not read, then close with 1012."""
    connections = app[CONNECTIONS]
    for connection in tuple(connections):
        connection.end(CloseCode.RESTART, "the server stops")
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await connections.empty()
    except TimeoutError:
        # They are cut at that very moment: none may be left.
        if left := len(connections):
            logger.warning("connections left open", connections=left)
