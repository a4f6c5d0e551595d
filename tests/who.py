"""Users of the tests' servers: what they send, and whose tokens are good, old, or taken back."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import jwt

from harness import Served, Socket
from threadwire.auth import commands

SECRET = "a secret of the issuer's, long enough for HS512 as well: 64 bytes and more"
ALICE, BOB = "alices-own-token", "bobs-own-token"
#: Of ``auth.mode: tokens``.
TOKENS: dict[str, Any] = {"mode": "tokens", "tokens": {"alice": ALICE, "bob": BOB}}
#: For tests that try more in a second than a user does; with auth on, rates are limited unless it is said otherwise.
NO_RATES: dict[str, Any] = {"upgrades_per_second": 0, "commands_per_second": 0, "turns_per_minute": 0}
#: Of ``auth.mode: jwt``.
JWT: dict[str, Any] = {"mode": "jwt", "jwt": {"secret": SECRET}}


def signed(user: str = "alice", seconds: float | None = 3600, secret: str = SECRET, **claims: Any) -> str:
    """A JWT of a user's that is good for so long."""
    ends = {} if seconds is None else {"exp": time.time() + seconds}
    return jwt.encode({"sub": user, **ends, **claims}, secret, algorithm="HS256")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def base64url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def make_token(database: Path, capsys: Any, name: str, days: float | None = None) -> str:
    """What ``threadwire token create`` prints."""
    capsys.readouterr()
    assert commands.create(f"sqlite:///{database}", name, days, ()) == 0
    return str(capsys.readouterr().out.strip())


async def connect(
    served: Served,
    token: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    protocols: tuple[str, ...] = (),
    **query: str,
) -> Socket:
    """A socket, whatever becomes of it."""
    ws = await served.session.ws_connect(
        f"{served.url}/ws",
        params=query,
        headers={**(bearer(token) if token is not None else {}), **(headers or {})},
        protocols=("threadwire.v1", *protocols),
        max_msg_size=0,
        autoclose=False,
    )
    socket = Socket(ws)
    served.sockets.append(socket)
    return socket


async def attach(served: Served, token: str | None = None, **options: Any) -> Socket:
    """A socket that is let in."""
    socket = await connect(served, token, **options)
    assert (await socket.next())["type"] == "ready"
    return socket


async def call(
    served: Served, method: str, path: str, token: str | None = None, body: Any = None, **headers: str
) -> tuple[int, Any]:
    """A request: the status, and what came, read as JSON where it is."""
    data = None if body is None else json.dumps(body).encode()
    sent = {**(bearer(token) if token is not None else {}), **headers}
    async with served.session.request(method, served.url + path, data=data, headers=sent) as response:
        text = await response.text()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text


async def thread_of(served: Served, token: str, text: str = "hi") -> str:
    """A thread with one turn in it."""
    socket = await attach(served, token)
    thread_id: str = socket.frames[0]["thread_id"]
    await socket.turn(text)
    await socket.ws.close()
    return thread_id


def session_without_cookies() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
