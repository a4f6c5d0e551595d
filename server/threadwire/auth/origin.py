"""Whether the page that connects may (its Origin), by which name this server was reached (Host), and what CORS says.

Browsers let any page open a WebSocket to any address and send the Origin along; a server on loopback that does not look
is open to every page its user visits. Pure but for the request it is given.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

from aiohttp import web
from yarl import URL

from threadwire.errors import Forbidden

#: What pages of other origins may send, and read of an answer, beside what every page may.
METHODS = "GET, POST, PATCH, DELETE"
REQUEST_HEADERS = "Authorization, Content-Type, Prefer"
RESPONSE_HEADERS = "Content-Disposition, Retry-After"
#: How long a browser may remember that, in seconds.
MAX_AGE = 600
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]\\]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class Origins:
    """The pages that may use this server: its own, and those of ``server.allowed_origins``."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._any = "*" in allowed
        self._allowed = {_read(origin) for origin in allowed} - {None}

    def knows(self, request: web.Request, scheme: str) -> bool:
        """Whether it comes from no page, from the server's own, or from one that is named.

        ``scheme`` is the one by which the client reached the server. Scheme, host and port must all be equal.
        """
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        came = _read(origin)
        return came is not None and (came in self._allowed or came == _read(f"{scheme}://{request.host}"))

    def check(self, request: web.Request, scheme: str) -> None:
        """Pass what ``knows`` knows, and everything where ``*`` is allowed.

        Raises:
            Forbidden: the page is of another origin.
        """
        if not self._any and not self.knows(request, scheme):
            came = request.headers["Origin"][:200]
            raise Forbidden(f"The origin {came} may not connect; server.allowed_origins lists those that may.")

    def headers(self, request: web.Request, scheme: str) -> dict[str, str]:
        """What tells a browser that a page of another origin may read the answer; nothing where it may not."""
        origin = request.headers.get("Origin")
        if origin is None or not (self._any or self.knows(request, scheme)):
            return {}
        headers = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": RESPONSE_HEADERS}
        if self.knows(request, scheme):
            # Cookies go with it; a page that only * lets in has to bring a token.
            headers["Access-Control-Allow-Credentials"] = "true"
        return headers


def is_preflight(request: web.Request) -> bool:
    """Whether a browser only asks what a page may send."""
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
    )


def preflight() -> web.Response:
    """The answer to that, for a page that may."""
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": REQUEST_HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE),
        },
    )


def check_host(request: web.Request) -> None:
    """Where nobody is asked who they are, the server must have been reached by a name of this machine.

    A page can point a name of its own at 127.0.0.1 (DNS rebinding) and would then be of the same origin.

    Raises:
        Forbidden: the Host header is no loopback name.
    """
    try:
        host = URL.build(scheme="http", authority=request.host).host or ""
    except ValueError:
        host = ""
    if host == "localhost" or host.endswith(".localhost"):
        return
    try:
        if ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise Forbidden(f"This server is for its own machine: it is not reached as {host[:200] or 'nothing'}.")


def _read(text: str) -> tuple[str, str, str] | None:
    """Scheme, host and port; None where there are none, as in the ``null`` of a sandboxed page."""
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host, port = found[1].lower(), found[2].lower(), found[3]
    return scheme, host, port or _PORTS.get(scheme, "")
