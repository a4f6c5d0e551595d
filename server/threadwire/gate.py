"""What every request passes before its handler: how and from where it came, who sends it, whose thread it is about.

A route is closed unless it is in ``PUBLIC``, and a route with ``{thread_id}`` in its path is its owner's alone: one
that is added later is guarded without anybody's doing. A WebSocket's credential is looked at here and its refusal is
told after the upgrade, since a browser cannot read the status of one that failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from threadwire.allowance import Allowance
from threadwire.auth import ADDRESS, ANONYMOUS, GRANT, USER, Authenticator, Grant
from threadwire.auth.credentials import read_credential, without_cookies
from threadwire.auth.origin import Origins, check_host, is_preflight, preflight
from threadwire.auth.proxies import Proxies
from threadwire.auth.tickets import TICKET_SECONDS, Tickets
from threadwire.errors import ThreadwireError, Unauthorized
from threadwire.http import OWNERSHIP
from threadwire.protocol import check_thread_id
from threadwire.settings import Settings

AUTHENTICATOR: web.AppKey[Authenticator] = web.AppKey("authenticator", Authenticator)
TICKETS = web.AppKey("tickets", Tickets)
#: The scheme by which the client reached the server.
SCHEME = web.RequestKey("scheme", str)
#: Of a WebSocket that is to be refused, in place of its user: why.
REFUSAL = web.RequestKey("refusal", ThreadwireError)

#: Routes that nobody has to say who they are for: the page, which asks; probes; and what is the same for all.
SOCKET = "/ws"
PUBLIC = frozenset({"/", "/client/{path}", "/healthz", "/readyz", "/protocol.json", "/openapi.json"})

#: Routes whose answer is a stream of lines, for as long as something runs.
STREAMS = frozenset({"/threads/{thread_id}/runs/stream", "/runs/stream", "/runs/batch"})
#: Routes that take runs.
CONNECTIONS = STREAMS | {SOCKET}


class Gate:
    """The middleware, and the routes that are about credentials."""

    def __init__(self, settings: Settings, allowance: Callable[[web.Application], Allowance]) -> None:
        """``allowance`` gives the application's, once it has started."""
        self._allowance = allowance
        self._everybody = settings.auth.mode == "none"
        self._own_machine = settings.auth.own_machine
        self._origins = Origins(settings.server.allowed_origins)
        self._proxies = Proxies(settings.server.trusted_proxies)

    def add_to(self, app: web.Application) -> None:
        """Register what is needed for any answer, and the routes."""
        app.on_response_prepare.append(self._on_prepare)
        app.router.add_post("/tickets", self.ticket)

    def middleware(self) -> Middleware:
        """What stands before every handler."""

        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            request[ADDRESS], request[SCHEME] = self._proxies.client(request)
            if self._own_machine:
                check_host(request)
            if _is_socket(request) or request.method not in ("GET", "HEAD"):
                self._origins.check(request, request[SCHEME])
            if is_preflight(request):
                return preflight()
            try:
                if _is_socket(request):
                    # Before anything that costs more, as looking at a token does.
                    self._allowance(request.app).upgrade(request[ADDRESS])
                await self._admit(request)
            except ThreadwireError as error:
                if not _is_socket(request) or error.http_status == 400:
                    raise
                request[REFUSAL] = error
            if _is_socket(request) or route_of(request) in PUBLIC:
                return await handler(request)
            return await self._metered(request, handler)

        return gate

    async def _metered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request that is a user's; a stream is a connection as well. Raises ``RateLimited``."""
        user, allowance = request[USER].owner, self._allowance(request.app)
        allowance.command(user)
        if route_of(request) not in STREAMS:
            return await handler(request)
        with allowance.connection(user, request[ADDRESS]):
            return await handler(request)

    async def ticket(self, request: web.Request) -> web.Response:
        """A one-time ticket, by which a browser that cannot send headers connects as the user who asks for it."""
        grant = request[GRANT]
        ticket = request.app[TICKETS].issue(grant, time.monotonic())
        # It is good no longer than what it was asked for with.
        left = TICKET_SECONDS if grant.expires_at is None else max(0.0, grant.expires_at - time.time())
        answer = {"ticket": ticket, "expires_in_seconds": min(TICKET_SECONDS, left)}
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def reauthenticate(self, request: web.Request, token: str) -> Grant:
        """Whose another token is, which came over a socket; raises as ``Authenticator.authenticate``."""
        with self._allowance(request.app).credential(request[ADDRESS]):
            return _lasting(await request.app[AUTHENTICATOR].authenticate(self._seen(request), token))

    async def _admit(self, request: web.Request) -> None:
        """Say who sends a request, and whether the thread it is about is theirs."""
        if route_of(request) in PUBLIC:
            request[GRANT], request[USER] = Grant(ANONYMOUS), ANONYMOUS
            return
        grant = await self._authenticate(request)
        where = request.query if _is_socket(request) else request.match_info
        if (thread_id := where.get("thread_id")) is not None:
            await request.app[OWNERSHIP].check(grant.user, check_thread_id(thread_id))
        request[GRANT], request[USER] = grant, grant.user

    async def _authenticate(self, request: web.Request) -> Grant:
        authenticator = request.app[AUTHENTICATOR]
        # A page that only * lets in has to bring its token itself: cookies go with what any page does.
        cookies = self._origins.knows(request, request[SCHEME])
        brought = read_credential(request, socket=_is_socket(request), cookies=cookies)
        # One from when there was another mode, or for another server, keeps nobody out of one that is for everybody.
        if brought.ticket is not None and not self._everybody:
            grant = request.app[TICKETS].redeem(brought.ticket, time.monotonic())
            if grant is None or not authenticator.holds(grant):
                raise Unauthorized("The ticket is not known, or not good any more.")
            return _lasting(grant)
        seen = self._seen(request)
        if not brought.tokens:
            return _lasting(await authenticator.authenticate(seen, None))
        with self._allowance(request.app).credential(request[ADDRESS]):
            for token in brought.tokens[:-1]:
                try:
                    return _lasting(await authenticator.authenticate(seen, token))
                except Unauthorized:
                    # It was meant the other way.
                    continue
            return _lasting(await authenticator.authenticate(seen, brought.tokens[-1]))

    def _seen(self, request: web.Request) -> web.Request:
        """The request as an authenticator may see it."""
        return request if self._origins.knows(request, request[SCHEME]) else without_cookies(request)

    async def _on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        if "Origin" in request.headers and SCHEME in request:
            response.headers.update(self._origins.headers(request, request[SCHEME]))
        response.headers.add("Vary", "Origin")


def route_of(request: web.Request) -> str | None:
    """The pattern of its path; None where there is none."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else None


def _is_socket(request: web.Request) -> bool:
    return route_of(request) == SOCKET


def _lasting(grant: Grant) -> Grant:
    """A grant that has not ended; raises ``Unauthorized``."""
    if grant.expires_at is not None and grant.expires_at <= time.time():
        raise Unauthorized("The credential has expired.")
    return grant
