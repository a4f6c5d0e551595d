"""Who is this, and may they: users, the ways to know one, and what a request has been found to be.

``gate.py`` puts what was found into each request, before any handler sees it: ``request[USER]``, ``request[GRANT]``
and ``request[ADDRESS]``. Siblings: ``credentials.py`` (where a request carries one), ``origin.py`` (which pages may
connect, by which names), ``proxies.py`` (whose word is taken for the client's address), ``tickets.py``, and one module
for each ``auth.mode`` behind ``Authenticator``; ``made.py`` and ``commands.py`` make tokens. Knows no threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

#: How long the name of a user may be, in characters.
MAX_IDENTITY = 256


@dataclass(frozen=True, slots=True)
class User:
    """Somebody: threads, limits and the store's namespaces are by ``identity``."""

    identity: str
    display_name: str = ""
    permissions: tuple[str, ...] = ()
    #: What else is known, JSON: a JWT's claims, or what the handler of ``auth.mode: custom`` gave.
    claims: Mapping[str, Any] = field(default_factory=dict)
    is_authenticated: bool = True

    @property
    def owner(self) -> str:
        """Whose a thread is that this user makes; empty: nobody's, who is everybody where nobody says who they are."""
        return self.identity if self.is_authenticated else ""

    def for_graph(self) -> dict[str, Any] | None:
        """What a graph gets as ``langgraph_auth_user``, in the Agent Server's shape; None: nobody said who they are."""
        if not self.is_authenticated:
            return None
        return {
            **self.claims,
            "identity": self.identity,
            "display_name": self.display_name or self.identity,
            "is_authenticated": True,
            "permissions": list(self.permissions),
        }


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
            ServerError: it cannot be known now.
        """
        ...

    async def refresh(self) -> None:
        """Learn what was revoked meanwhile; called every few seconds. Raises ``StorageError``."""
        ...

    def holds(self, grant: Grant) -> bool:
        """Whether a grant has not been revoked, as far as is known; its expiry is the caller's to look at."""
        ...


class Everybody:
    """``auth.mode: none``: whoever reaches the server may use it, and is the same user."""

    async def authenticate(self, request: web.Request, token: str | None) -> Grant:  # noqa: ARG002 -- nobody is asked
        """Everybody."""
        return Grant(ANONYMOUS)

    async def refresh(self) -> None:
        """Nothing can be revoked."""

    def holds(self, grant: Grant) -> bool:  # noqa: ARG002 -- all do
        """Always."""
        return True


#: In each request before its handler is called.
USER = web.RequestKey("user", User)
GRANT = web.RequestKey("grant", Grant)
#: The client's address; behind one of ``server.trusted_proxies``, what that says.
ADDRESS = web.RequestKey("address", str)
