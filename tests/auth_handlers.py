"""Handlers of ``auth.mode: custom``, and the objects they give."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from threadwire.auth import ADDRESS, User
from threadwire.errors import Forbidden, Unauthorized


@dataclass
class Thing:
    identity: str


def _raise(error: Exception) -> Any:
    raise error


async def by_token(request: web.Request) -> Any:
    """What the token says is what is given."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token in ("nobody", ""):
        return None
    name, ends, seconds = token.partition(" ends in ")
    if ends:
        # From now on, whenever it comes.
        return {"identity": name, "expires_at": time.time() + float(seconds)}
    given: dict[str, Any] = {
        "table": lambda: {"identity": "table", "team": "red", "permissions": ["read"], "display_name": "A Table"},
        "thing": lambda: Thing("thing"),
        "user": lambda: User("user"),
        "refused": lambda: _raise(Unauthorized("no")),
        "banned": lambda: _raise(Forbidden("no")),
        "permission": lambda: _raise(PermissionError()),
        "http401": lambda: _raise(web.HTTPUnauthorized()),
        "broken": lambda: _raise(RuntimeError("the directory is away")),
        "nameless": lambda: {"name": "x"},
        "endless": lambda: {"identity": "x", "expires_at": "never"},
    }
    if token in given:
        return given[token]()
    return token if token.startswith(("alice", "bob", "grüße")) else None


async def by_address(request: web.Request) -> str:
    """Everybody is called as their address."""
    return f"somebody at {request[ADDRESS]}"


def plain(_request: web.Request) -> str:
    return "not async"
