"""Where a request carries a credential: the header, the subprotocol, a ticket, a cookie; the first there is counts.

Pure but for the request it is given.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from aiohttp import web

from threadwire.errors import InvalidArgument
from threadwire.protocol import SUBPROTOCOL

#: The cookie a token may come as.
COOKIE = "threadwire_token"
_BEARER = "bearer."


class Credential(NamedTuple):
    """What was brought: what a token can mean, the likelier first; or a ticket that stands for one; or nothing."""

    tokens: tuple[str, ...] = ()
    ticket: str | None = None


def read_credential(request: web.Request, *, socket: bool, cookies: bool) -> Credential:
    """What a request brings, which is for a WebSocket or not.

    ``cookies``: whether one is taken, which a browser sends without its page's doing.

    Raises:
        InvalidArgument: a token is offered as a subprotocol and nothing is that could be selected.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    # Another scheme is somebody else's: a proxy in front may want a credential of its own.
    if scheme.lower() == "bearer":
        return Credential((token.strip(),))
    if socket:
        if (name := _offered(request)) is not None:
            return Credential(_readings(name[len(_BEARER) :]))
        if (ticket := request.query.get("ticket")) is not None:
            return Credential(ticket=ticket)
    if cookies and (token := request.cookies.get(COOKIE, "")):
        return Credential((token,))
    return Credential()


def with_token(request: web.Request, token: str) -> web.Request:
    """The same request with ``token`` as its ``Authorization``; its body is not to be read."""
    headers = request.headers.copy()
    headers["Authorization"] = f"Bearer {token}"
    return request.clone(headers=headers)


def without_cookies(request: web.Request) -> web.Request:
    """The same request as a browser would send it that has no cookies; its body is not to be read."""
    headers = request.headers.copy()
    headers.popall("Cookie", None)
    return request.clone(headers=headers)


def _offered(request: web.Request) -> str | None:
    lines = request.headers.getall("Sec-WebSocket-Protocol", [])
    names = [name.strip() for line in lines for name in line.split(",")]
    found = next((name for name in names if name.lower().startswith(_BEARER)), None)
    if found is not None and SUBPROTOCOL not in names:
        # A browser gives up where nothing it offers is selected, the token is never said again, and aiohttp logs it.
        raise InvalidArgument("Sec-WebSocket-Protocol", f"expected {SUBPROTOCOL} beside a token")
    return found


def _readings(text: str) -> tuple[str, ...]:
    """The token itself, where its characters allow that; or what its base64url says."""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return (text,)
    return (text, decoded) if decoded else (text,)
