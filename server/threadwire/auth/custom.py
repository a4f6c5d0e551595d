"""``auth.mode: custom``: the operator's own function says who sends a request.

``async def handler(request: aiohttp.web.Request)`` gives a user: their identity as text; a table with ``identity`` and,
where wanted, ``display_name``, ``permissions``, ``expires_at`` (seconds since the epoch) and more for the graph; an
object that has these as attributes; or a ``User``. It refuses with None, or by raising: ``PermissionError``,
``Unauthorized``, ``Forbidden``, or an HTTP exception of status 401 or 403. Whatever else it raises lets nobody in.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from threadwire.auth import MAX_IDENTITY, Grant, User
from threadwire.auth.credentials import with_token
from threadwire.errors import AuthUnavailable, Forbidden, StartupError, Unauthorized
from threadwire.loading import load_target
from threadwire.logs import get_logger

logger = get_logger(__name__)

_REFUSED = "The server does not know who you are."
_OWN = ("identity", "display_name", "permissions", "is_authenticated", "expires_at")


class Custom:
    """See the module."""

    def __init__(self, target: str) -> None:
        """Raises ``StartupError`` where the handler cannot be imported, or is no async function."""
        handler = load_target(target, "auth.handler")
        called = handler if inspect.isroutine(handler) else getattr(handler, "__call__", None)  # noqa: B004
        if not inspect.iscoroutinefunction(called):
            raise StartupError(f"auth.handler: expected {target} to be an async function of the request")
        self._handler: Callable[[web.Request], Awaitable[Any]] = handler

    async def authenticate(self, request: web.Request, token: str | None) -> Grant:
        """Whom the handler names; it finds the token as ``Authorization: Bearer``, whatever way that came.

        Raises:
            Unauthorized, Forbidden: it refuses.
            AuthUnavailable: it fails, or gives what is no user.
        """
        asked = request if token is None else with_token(request, token)
        try:
            found = await self._handler(asked)
            return _grant(found)
        except (Unauthorized, Forbidden):
            raise
        except PermissionError:
            raise Unauthorized(_REFUSED) from None
        except Exception as error:
            status = getattr(error, "status_code", getattr(error, "status", None))
            if status == 401:
                raise Unauthorized(_REFUSED) from None
            if status == 403:
                raise Forbidden("You may not use this server.") from None
            logger.error("auth.handler failed", failure=error)  # noqa: TRY400 -- other people's code raised it
            raise AuthUnavailable("The server failed to find out who you are.") from error

    async def refresh(self) -> None:
        """Only the handler knows, and it is asked for each request."""

    def holds(self, grant: Grant) -> bool:  # noqa: ARG002
        """Always."""
        return True


def _grant(found: Any) -> Grant:
    if found is None:
        raise Unauthorized(_REFUSED)
    if isinstance(found, Grant):
        found, expires_at = found.user, found.expires_at
    elif isinstance(found, str):
        found, expires_at = User(found), None
    elif isinstance(found, User):
        expires_at = None
    else:
        fields = dict(found) if isinstance(found, Mapping) else _attributes(found)
        expires_at = fields.get("expires_at")
        found = User(
            fields.get("identity", ""),
            fields.get("display_name") or "",
            tuple(fields.get("permissions") or ()),
            {name: value for name, value in fields.items() if name not in _OWN},
        )
    if not isinstance(found.identity, str) or not 0 < len(found.identity) <= MAX_IDENTITY:
        raise TypeError(f"a user's identity is text of 1 to {MAX_IDENTITY} characters, not {found.identity!r}"[:200])
    if expires_at is not None and (isinstance(expires_at, bool) or not isinstance(expires_at, int | float)):
        raise TypeError(f"expires_at is in seconds since the epoch, not {expires_at!r}"[:200])
    if not found.is_authenticated:
        raise Unauthorized(_REFUSED)
    # It is kept with the runs of this user.
    orjson.dumps(found.for_graph())
    return Grant(found, expires_at)


def _attributes(found: Any) -> dict[str, Any]:
    return {name: getattr(found, name) for name in _OWN if hasattr(found, name)}
