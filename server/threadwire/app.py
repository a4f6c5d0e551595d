"""Puts the parts together: what is opened in which order, the routes, and how the server ends.

The only module that knows all others. ``make_app`` gives an aiohttp application that opens everything on start-up and
closes it on clean-up, so tests run the real thing; ``serve`` is the process around it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import fields
from functools import partial
from typing import Any

# Before langgraph is imported: a tampered database must not run code.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")

from aiohttp import web
from aiohttp.typedefs import Handler

import threadwire
from threadwire import http, logs, page, process, resources, stateless, states, tls
from threadwire.allowance import Allowance, Caps, user_of
from threadwire.arrivals import Site, begin, body_in_time
from threadwire.auth import ADDRESS, GRANT, USER, Authenticator
from threadwire.auth.modes import open_authenticator
from threadwire.auth.tickets import Tickets
from threadwire.connection import Connection, ConnectionSettings, refuse
from threadwire.errors import RateLimited, ServerError, StorageError, ThreadwireError, Unauthorized
from threadwire.filters import Filter
from threadwire.fresh import fresh_parts
from threadwire.gate import AUTHENTICATOR, REFUSAL, SOCKET, TICKETS, Gate
from threadwire.graph import Graph, open_agent_graph, open_graph
from threadwire.hub import Hub
from threadwire.journal import Journal
from threadwire.listening import listen
from threadwire.logs import get_logger
from threadwire.masking import secrets_in
from threadwire.models import open_model
from threadwire.observed import Observed
from threadwire.openapi import OpenApiRoutes
from threadwire.ownership import Ownership
from threadwire.protocol import SUBPROTOCOL, CloseCode
from threadwire.run import RunLimits
from threadwire.seat import Seat
from threadwire.settings import Settings
from threadwire.storage import Storage, open_storage
from threadwire.thread import ThreadParts
from threadwire.turn import TurnParts
from threadwire.upgrade import read_query

logger = get_logger(__name__)

#: What stands for a limit of 0 where a number is wanted.
_NO_LIMIT = 1_000_000
_CLOSE_SECONDS = 5.0
#: How many refused sockets are told after their upgrade at the same time.
_MAX_REFUSING = 256
#: What of the limits a client may know, of those that are counted: its own.
_TOLD = (
    "attachment_bytes",
    "commands_per_second",
    "concurrent_runs_per_user",
    "connections_per_user",
    "tokens_per_day_per_user",
    "turns_per_minute",
)
#: How often it is looked whether a token was revoked: its sockets are closed soon after.
_REFRESH_SECONDS = 2.0


class Connections(set[Connection]):
    """The open ones."""

    async def empty(self) -> None:
        """Wait until there is none."""
        while self:  # noqa: ASYNC110 -- each leaves by itself; nobody else is to be woken for it
            await asyncio.sleep(0.02)


#: ``ready.model``: ``{"name", "why"}``.
MODEL = web.AppKey("model", dict[str, str])
CONNECTIONS = web.AppKey("connections", Connections)
OBSERVED = web.AppKey("observed", Observed)
ALLOWANCE = web.AppKey("allowance", Allowance)
CONNECTION = web.AppKey("connection", ConnectionSettings)


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
    app.router.add_get(SOCKET, _connector(settings, gate))
    app.on_response_prepare.append(http.harden)
    http.Routes(settings.runs.on_disconnect).add_to(app.router)
    resources.ThreadRoutes(settings.runs.on_disconnect).add_to(app.router)
    states.StateRoutes().add_to(app.router)
    stateless.StatelessRoutes(settings.events).add_to(app.router)
    page.PageRoutes(page.client_folder()).add_to(app.router)
    seen.add_to(app.router)
    OpenApiRoutes().add_to(app.router)
    return app


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
        app[CONNECTION] = _connection_settings(settings, app)
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


def _connector(settings: Settings, gate: Gate) -> Handler:
    server = settings.server

    async def connect(request: web.Request) -> web.StreamResponse:
        """``GET /ws``: refuse what the protocol refuses before the upgrade, attach the rest to their threads."""
        wanted = read_query(request.query, settings.runs.on_disconnect, allow_raw=settings.events.allow_raw)
        hub, connections = request.app[http.HUB], request.app[CONNECTIONS]
        shared = request.app[CONNECTION]
        if (refusal := request.get(REFUSAL)) is not None:
            return await refused(request, shared, refusal)
        if hub.draining:
            return await refuse(request, shared, CloseCode.OVER_CAPACITY, "the server is going to stop")
        if server.max_connections and len(connections) >= server.max_connections:
            return await refuse(request, shared, CloseCode.OVER_CAPACITY, "too many connections")
        minted = wanted.thread_id is None
        thread_id = wanted.thread_id or request.app[http.OWNERSHIP].mint(request[USER])
        renew = partial(gate.reauthenticate, request)
        connection = Connection(shared, wanted.on_disconnect, request[GRANT], renew)
        user = user_of(request[USER].for_graph())
        try:
            shared.allowance.enter(user, request[ADDRESS])
        except RateLimited as error:
            return await refused(request, shared, error)
        connections.add(connection)
        try:
            return await connection.serve(request, lambda: Seat(hub, thread_id, minted=minted), wanted)
        finally:
            connections.discard(connection)
            shared.allowance.leave(user, request[ADDRESS])

    refusing = 0

    async def refused(request: web.Request, shared: ConnectionSettings, error: ThreadwireError) -> web.StreamResponse:
        """Say so after the upgrade; where many have to be told, before it, which costs less."""
        nonlocal refusing
        if refusing >= _MAX_REFUSING:
            raise error
        refusing += 1
        try:
            return await refuse(request, shared, _close_code(error), error.message)
        finally:
            refusing -= 1

    return connect


def _connection_settings(settings: Settings, app: web.Application) -> ConnectionSettings:
    server = settings.server
    return ConnectionSettings(
        heartbeat_seconds=server.heartbeat_seconds,
        max_message_bytes=server.max_message_bytes,
        allow_raw=settings.events.allow_raw,
        allowance=app[ALLOWANCE],
        buffered_bytes=settings.limits.buffered_bytes,
        batches=app[stateless.BATCHES],
        tally=app[OBSERVED].tally,
        ready={
            "protocol": SUBPROTOCOL,
            "server": f"threadwire/{threadwire.__version__}",
            "model": app[MODEL],
            "heartbeat_seconds": server.heartbeat_seconds,
            "limits": {
                "max_message_bytes": server.max_message_bytes,
                "history_page": settings.limits.history_page,
                "max_queued": settings.runs.max_queued,
                "batch_inputs": settings.limits.batch_inputs,
                "max_batch_concurrency": settings.limits.max_batch_concurrency,
                **{name: getattr(app[ALLOWANCE].caps, name) for name in _TOLD},
            },
        },
    )


def _close_code(refusal: ThreadwireError) -> CloseCode:
    if isinstance(refusal, RateLimited):
        return CloseCode.LIMIT
    if isinstance(refusal, Unauthorized):
        return CloseCode.UNAUTHORIZED
    return CloseCode.OVER_CAPACITY if isinstance(refusal, ServerError) else CloseCode.FORBIDDEN


async def _shut_down(app: web.Application) -> None:
    """Before aiohttp waits for its handlers: stop what runs, and let every client know."""
    _drain(app)
    await _finish_runs(app, 0)
    await _close_connections(app)


def _drain(app: web.Application) -> None:
    """Start nothing more."""
    app[http.HUB].drain()
    app[stateless.FRESH].drain()


async def _finish_runs(app: web.Application, seconds: float) -> None:
    """Wait for what runs, at most so long, then stop what is left."""
    await asyncio.gather(app[http.HUB].finish_runs(seconds), app[stateless.FRESH].finish(seconds))


async def _close_connections(app: web.Application) -> None:
    """Let every client read what it has not read, then close with 1012."""
    connections = app[CONNECTIONS]
    for connection in tuple(connections):
        connection.end(CloseCode.RESTART, "the server stops")
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await connections.empty()
    except TimeoutError:
        logger.warning("connections left open", connections=len(connections))


# --- the process ---------------------------------------------------------------------------------


def serve(settings: Settings, *, debug: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises ``StartupError`` where it cannot start."""
    secrets = set(secrets_in(settings.model_dump()))
    logs.configure(secrets=secrets, include_content=settings.logs.include_content)
    with asyncio.Runner(debug=debug, loop_factory=_loop_factory()) as runner:
        _run(runner.get_loop(), _serve(settings))
    return 0


def _run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` to its end, whatever the tasks beside it raise.

    A loop ends on the SystemExit of any task, and a node or a tool may call ``sys.exit()``, as what was written for the
    command line does. It fails its run, as any other exception would.
    """
    task = loop.create_task(main)
    while not task.done():
        with suppress(SystemExit):
            loop.run_until_complete(task)
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
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        ssl_context = tls.context(server.tls.cert, server.tls.key)
        seconds = server.handshake_timeout_seconds
        site = Site(runner, server.host, server.port, seconds=seconds, ssl_context=ssl_context)
        url = await listen(site, runner, f"{server.host}:{server.port}", "--port")
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
    _drain(app)
    logger.info("draining", runs=app[http.HUB].active, connections=len(app[CONNECTIONS]), seconds=drain_seconds)
    connections = app[CONNECTIONS]
    for connection in tuple(connections):
        delay = round(random.uniform(0.5, 3.0), 2)  # noqa: S311 -- jitter, so that clients do not come back all at once
        connection.tell({"type": "goaway", "reason": "shutdown", "reconnect_after_seconds": delay})
    finishing = asyncio.create_task(_finish_runs(app, drain_seconds))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait({finishing, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for task in (finishing, hurried):
        task.cancel()
    await asyncio.wait({finishing, hurried})
