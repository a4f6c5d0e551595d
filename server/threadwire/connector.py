"""``GET /ws``: from a request to a connection, or to a refusal.

What the protocol refuses before the upgrade is refused before it, the rest after it, since a browser cannot read the
status of a failed upgrade.
"""

from __future__ import annotations

import asyncio
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

import threadwire
from threadwire import http, stateless
from threadwire.allowance import Allowance
from threadwire.auth import ADDRESS, GRANT, USER
from threadwire.connection import Connection, ConnectionSettings, refuse
from threadwire.errors import RateLimited, ServerError, ThreadwireError, Unauthorized
from threadwire.gate import REFUSAL, Gate
from threadwire.observed import Observed
from threadwire.protocol import SUBPROTOCOL, CloseCode
from threadwire.seat import Seat
from threadwire.settings import Settings
from threadwire.upgrade import read_query

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


def connector(settings: Settings, gate: Gate) -> Handler:
    """The handler."""
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
        user = request[USER].owner
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


def connection_settings(settings: Settings, app: web.Application) -> ConnectionSettings:
    """What all connections of the application share."""
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
