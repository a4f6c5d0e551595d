"""What an operator sees of one server, put together: what it counts, its ``/metrics``, its traces, whose log lines.

``app.py`` opens it with the other parts. Knows no WebSocket.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Sized
from contextlib import asynccontextmanager

import uuid_utils
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from threadwire import http, logs
from threadwire.arrivals import begin
from threadwire.auth import USER
from threadwire.auth.origin import check_host
from threadwire.errors import ThreadwireError
from threadwire.gate import CONNECTIONS, STREAMS, route_of
from threadwire.hub import Hub
from threadwire.journal import Journal
from threadwire.listening import listener
from threadwire.logs import get_logger
from threadwire.metrics import MetricsRoutes, Pulse, Source
from threadwire.settings import Settings
from threadwire.storage import size_of
from threadwire.tally import Tally
from threadwire.tracing import NoTraces, Traces

logger = get_logger(__name__)


class Observed:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = MetricsRoutes()
        self.tally = Tally()
        self.traces: Traces = NoTraces()
        #: Where ``/metrics`` is, if it has a listener of its own.
        self.metrics_url: str | None = None

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register ``/metrics``, unless it has a port of its own."""
        if self._settings.server.metrics_port is None:
            self._metrics.add_to(router)

    def middleware(self) -> Middleware:
        """Say whose log lines and spans these are, of each request and of the runs that it asks for."""

        @web.middleware
        def about(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
            user = request.get(USER)
            known = {"connection_id": str(uuid_utils.uuid7()), "user": user.identity if user is not None else None}
            # For good: aiohttp handles each request in a task, and so in a context, of its own.
            logs.about(**known)
            if (route := route_of(request)) not in CONNECTIONS:
                return handler(request)
            handling = self.traces.connection(request, handler, {**known, "route": route})
            return _logged(request, handling) if route in STREAMS else handling

        return about

    @asynccontextmanager
    async def open_traces(self) -> AsyncIterator[None]:
        """Trace, where that is enabled, until left."""
        if not self._settings.otel.enabled:
            yield
            return
        from threadwire.otel import open_traces

        async with open_traces(include_content=self._settings.logs.include_content) as self.traces:
            yield

    @asynccontextmanager
    async def open(self, connections: Sized, hub: Hub, journal: Journal) -> AsyncIterator[None]:
        """Have ``/metrics`` tell of these, and look at the loop, until left."""
        url, pulse = self._settings.storage.url, Pulse(self.tally)
        self._metrics.collect_from(Source(self.tally, connections, hub, journal, lambda: size_of(url)))
        async with self._listening():
            pulse.start()
            try:
                yield
            finally:
                pulse.stop()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        server = self._settings.server
        if server.metrics_port is None:
            yield
            return
        # Nobody is asked who they are here, but it is a door as the other is.
        app = web.Application(middlewares=[http.errors, begin])
        if self._settings.auth.own_machine:
            app.middlewares.append(_of_this_machine)
        app.on_response_prepare.append(http.harden)
        self._metrics.add_to(app.router)
        seconds = server.handshake_timeout_seconds
        async with listener(app, server.host, server.metrics_port, "server.metrics_port", seconds=seconds) as url:
            self.metrics_url = f"{url}/metrics"
            yield


@web.middleware
async def _of_this_machine(request: web.Request, handler: Handler) -> web.StreamResponse:
    check_host(request)
    return await handler(request)


async def _logged(request: web.Request, handling: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """A stream over HTTP, with its log line when it ends, as a WebSocket has one."""
    started = time.monotonic()
    about: dict[str, object] = {"route": route_of(request), **request.match_info, "http_status": None}
    try:
        response = await handling
        about["http_status"] = response.status
    except ThreadwireError as error:
        about |= {"http_status": error.http_status, "refused": error.code}
        raise
    finally:
        logger.info("connection", **about, duration_ms=round((time.monotonic() - started) * 1000))
    return response
