"""Who is this, and may they: so far, whether the page that connects may (its Origin) and how this server was reached.

Browsers let any page open a WebSocket to any address and send the Origin along; a server on loopback that does not look
is open to every page its user visits. Pure but for the request it is given.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

from aiohttp import web
from yarl import URL

from threadwire.errors import Forbidden


def check_origin(request: web.Request, allowed: Collection[str]) -> None:
    """Pass a request without an Origin (no browser), from the server's own, or from one of ``allowed``.

    Raises:
        Forbidden: the Origin is another: scheme, host and port must all be equal.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return
    came = _origin(origin)
    own = f"{request.scheme}://{request.host}"
    if came is None or came not in {_origin(known) for known in (own, *allowed)}:
        raise Forbidden(f"The origin {origin[:200]} may not connect; server.allowed_origins lists those that may.")


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


def _origin(text: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port; None where there are none, as in the ``null`` of a sandboxed page."""
    try:
        url = URL(text)
    except ValueError:
        return None
    return (url.scheme, url.host, url.port) if url.host else None
