"""Who is this, and may they: users, the ways to know one, and what a request has been found to be.

``app.py`` puts what was found into each request, before any handler sees it: ``request[USER]``, ``request[GRANT]`` and
``request[ADDRESS]``. Siblings: ``origin.py`` (which pages may connect, by which names), and one module for each
``auth.mode`` behind ``Authenticator``. Knows no threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web


@dataclass(frozen=True, slots=True)
class User:
    """Somebody: threads, limits and the store's namespaces are by ``identity``."""

    identity: str
    display_name: str = ""
    permissions: tuple[str, ...] = ()
    #: What else is known, JSON: a JWT's claims, or what the handler of ``auth.mode: custom`` gave.
    claims: Mapping[str, Any] = field(default_factory=dict)
    is_authenticated: bool = True


#: Who everybody is with ``auth.mode: none``, and where nobody has to say who they are.
ANONYMOUS = User("anonymous", is_authenticated=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a credential gives: a user, until when, and by what it can be taken back."""

    user: User
    #: Seconds since the epoch; None: it does not end by itself.
    expires_at: float | None = None
    #: Of a token that can be revoked.
    token_id: str | None = None


class Authenticator(Protocol):
    """One ``auth.mode``."""

    async def authenticate(self, request: web.Request, token: str | None) -> Grant:
        """Who sends ``token``, in whatever way it came with ``request``.

        Raises:
            Unauthorized: nobody, or it is not good any more.
            Forbidden: somebody who may not use this server.
        """
        ...


#: In each request before its handler is called.
USER = web.RequestKey("user", User)
GRANT = web.RequestKey("grant", Grant)
#: The client's address; behind one of ``server.trusted_proxies``, what that says.
ADDRESS = web.RequestKey("address", str)
