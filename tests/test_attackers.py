"""Every route and every command, tried by who may not: a stranger, somebody else, an expired user, a revoked one.

The routes are the router's own and the commands the protocol's: what is added later is tried as well.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

import who
from conftest import Serve
from harness import Served
from threadwire.auth import commands
from threadwire.gate import PUBLIC, SOCKET
from threadwire.protocol import COMMANDS
from who import attach, bearer, call, connect, signed

#: What a client may send, for the routes that want something; a route that is not here gets an empty object.
BODIES: dict[str, Any] = {
    "/threads/{thread_id}/runs/stream": {"content": "hi"},
    "/threads/{thread_id}/state/checkpoint": {"checkpoint": {"checkpoint_ns": ""}},
    "/runs/batch": {"inputs": ["hi"]},
    "/runs/stream": {"content": "hi", "stream": "log"},
}
#: One of each command; a command that is not here fails its test.
COMMAND_FIELDS: dict[str, dict[str, Any]] = {
    "send": {"content": "hi"},
    "cancel": {},
    "respond": {"responses": {"x": 1}},
    "regenerate": {},
    "edit": {"message_id": "m1", "content": "other"},
    "history": {},
    "subscribe": {},
    "batch": {"inputs": ["hi"]},
    "reauth": {"token": "t"},
    "ping": {},
}


@dataclass
class World:
    """A server with a thread of Alice's, and one that is being answered."""

    served: Served
    alice: str
    thread_id: str
    run_id: str
    before: Any

    def routes(self) -> list[tuple[str, str]]:
        """Every route that is not open to all, with its method."""
        found = {
            (route.method, route.resource.canonical)
            for route in self.served.server.app.router.routes()
            if route.resource is not None
        }
        return sorted((method, path) for method, path in found if path not in PUBLIC)

    async def call(self, method: str, path: str, token: str | None, thread_id: str, **headers: str) -> tuple[int, Any]:
        named = {"thread_id": thread_id, "run_id": self.run_id, "checkpoint_id": str(uuid4())}
        place = re.sub(r"{(\w+)(:[^}]*)?}", lambda found: named[found[1]], path)
        body = BODIES.get(path, {}) if method in ("POST", "PATCH", "PUT") else None
        return await call(self.served, method, place, token, body, **headers)

    async def unharmed(self) -> None:
        """Alice's thread is as it was."""
        assert (await call(self.served, "GET", f"/threads/{self.thread_id}/state", self.alice))[1] == self.before


@pytest.fixture
async def world(serve: Serve) -> World:
    served = await serve("graphs:echo", auth=who.JWT, events={"allow_raw": True}, limits=who.NO_RATES)
    alice = signed("alice")
    socket = await attach(served, alice)
    frames = await socket.turn("the secret of alice")
    thread_id = socket.frames[0]["thread_id"]
    before = (await call(served, "GET", f"/threads/{thread_id}/state", alice))[1]
    return World(served, alice, thread_id, frames[0]["run_id"], before)


async def test_every_route_is_tried(world: World) -> None:
    """The list is the router's: the routes of the protocol are in it."""
    routes = world.routes()
    assert ("GET", SOCKET) in routes
    assert ("DELETE", "/threads/{thread_id}") in routes
    assert len(routes) >= 17


async def test_a_stranger(world: World) -> None:
    """Without a credential, or with one that is none, every route is 401, whatever it is asked, and says nothing."""
    forged = signed("alice", secret="the secret of somebody else, as long as a real one")
    unsigned = ".".join([*signed("alice").split(".")[:2], ""])
    for method, path in world.routes():
        if path == SOCKET:
            continue
        for token in (None, "nonsense", forged, unsigned):
            for thread_id in (world.thread_id, str(uuid4())):
                status, body = await world.call(method, path, token, thread_id)
                assert status == 401, (method, path, token)
                if method != "HEAD":
                    assert body["error"]["code"] == "unauthorized"
                    assert "secret" not in json.dumps(body)
    for token in (None, "nonsense", forged, unsigned):
        socket = await connect(world.served, token, thread_id=world.thread_id)
        assert await socket.closed() == 4401
        assert socket.frames == []
    await world.unharmed()


async def test_an_expired_user(world: World) -> None:
    """A token that has ended opens nothing."""
    old = signed("alice", seconds=-1)
    for method, path in world.routes():
        if path != SOCKET:
            assert (await world.call(method, path, old, world.thread_id))[0] == 401, (method, path)
    assert await (await connect(world.served, old, thread_id=world.thread_id)).closed() == 4401
    await world.unharmed()


async def test_somebody_else(world: World) -> None:
    """Another user gets the same from each route for Alice's thread as for one that is not there: 404."""
    bob = signed("bob")
    tried = 0
    for method, path in world.routes():
        if "{thread_id}" not in path:
            continue
        tried += 1
        hers = await world.call(method, path, bob, world.thread_id)
        nobodys = await world.call(method, path, bob, str(uuid4()))
        assert hers[0] == 404, (method, path)
        assert hers == nobodys, (method, path)
    assert tried >= 11
    for thread_id in (world.thread_id, str(uuid4())):
        socket = await connect(world.served, bob, thread_id=thread_id)
        assert await socket.closed() == 4403
        assert socket.frames == []
    await world.unharmed()


async def test_methods_that_are_none(world: World) -> None:
    """A method that a route does not have does not get past the gate either."""
    for method in ("PUT", "TRACE", "OPTIONS", "PROPFIND"):
        for path in sorted({path for _, path in world.routes()}):
            status, _ = await world.call(method, path, None, world.thread_id)
            assert status == 401, (method, path)


async def test_an_upgrade_is_no_way_around(world: World) -> None:
    """A request that says it wants a WebSocket is let in by no other route."""
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    for method, path in world.routes():
        if path != SOCKET:
            status, _ = await world.call(method, path, None, world.thread_id, **upgrade)
            assert status == 401, (method, path)


async def test_paths_written_otherwise(world: World) -> None:
    """A thread's id that is written in another way is not another door to it."""
    bob, thread_id = signed("bob"), world.thread_id
    for name in (thread_id.upper(), f"%{ord(thread_id[0]):x}{thread_id[1:]}", f"./{thread_id}", f"x/../{thread_id}"):
        for suffix in ("", "/state", "/export", "/history"):
            async with world.served.session.get(
                f"{world.served.url}/threads/{name}{suffix}", headers=bearer(bob)
            ) as response:
                assert response.status in (400, 404), name
                assert b"secret" not in await response.read()


async def test_other_threads_by_ones_own(world: World) -> None:
    """Nothing that is said about one's own thread reaches into another's: checkpoints, runs, searches."""
    bob = signed("bob")
    own = await who.thread_of(world.served, bob)
    config = world.before["checkpoint"]
    for body in ({"checkpoint": config}, {"checkpoint": {**config, "thread_id": None}}):
        status, found = await call(world.served, "POST", f"/threads/{own}/state/checkpoint", bob, body)
        assert status in (400, 404)
        assert "secret" not in json.dumps(found)
    status, found = await call(world.served, "POST", f"/threads/{own}/history", bob, {"before": config})
    assert "secret" not in json.dumps(found)
    assert (await call(world.served, "GET", f"/threads/{own}/state/{config['checkpoint_id']}", bob))[0] == 404
    assert (await call(world.served, "POST", f"/threads/{own}/runs/{world.run_id}/cancel", bob))[0] == 404
    socket = await attach(world.served, bob, thread_id=own)
    assert (await socket.ask("send", content="x", checkpoint_id=config["checkpoint_id"]))["type"] == "error"
    # A run of that id there is, and it is not told of.
    assert (await socket.ask("send", content="x", run_id=world.run_id))["code"] == "invalid_argument"
    await world.unharmed()


async def test_every_command_of_who_has_been_shut_out(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Once a token is revoked, no command of its open socket is done, and no route takes it."""
    served = await serve("graphs:echo", auth=who.TOKENS, limits=who.NO_RATES)
    assert set(COMMAND_FIELDS) == set(COMMANDS)
    token = who.make_token(served.database, capsys, "carol")
    thread_id = await who.thread_of(served, token)
    sockets = [await attach(served, token, thread_id=thread_id) for _ in COMMAND_FIELDS]
    assert commands.revoke(f"sqlite:///{served.database}", "carol", ()) == 0
    codes = [await socket.closed() for socket in sockets]
    assert codes == [4401] * len(sockets)
    world = World(served, token, thread_id, str(uuid4()), None)
    for method, path in world.routes():
        if path != SOCKET:
            assert (await world.call(method, path, token, thread_id))[0] == 401, (method, path)
    assert await (await connect(served, token, thread_id=thread_id)).closed() == 4401


async def test_every_command_before_the_credential(world: World) -> None:
    """A client that does not wait to be told whether it is let in has none of its commands done."""
    for kind, fields in COMMAND_FIELDS.items():
        for token in (None, signed("bob"), signed("alice", seconds=-1)):
            socket = await connect(world.served, token, thread_id=world.thread_id)
            with suppress(ConnectionError):
                await socket.command(kind, **fields)
            assert await socket.closed() in (4401, 4403)
            assert socket.frames == []
    await world.unharmed()
