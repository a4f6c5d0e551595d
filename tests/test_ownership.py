"""A thread is its user's: by what id, through which doors, and what the graph is told of who asks."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import who
from conftest import Serve
from harness import Served
from threadwire.auth import ANONYMOUS, User
from threadwire.ownership import NoSuchThread, Ownership
from who import ALICE, BOB, JWT, NO_RATES, TOKENS, attach, call, connect, signed, thread_of

OWN_IDS = ["t1", "mine", "3f0c9d5e-6e0e-4d0a-9d44-3a1f6a3d2b10", "01890a5d-ac96-774b-bcce-b302099a8057", "x" * 128]


class NoRows:
    """A storage without threads."""

    def __init__(self, **owners: str) -> None:
        self.owners = owners
        self.asked: list[str] = []

    async def owner_of(self, thread_id: str) -> str | None:
        self.asked.append(thread_id)
        return self.owners.get(thread_id)


def ownership(**owners: str) -> tuple[Ownership, NoRows]:
    storage = NoRows(**owners)
    return Ownership(storage, b"k" * 32), storage  # type: ignore[arg-type]


async def passes(owned: Ownership, user: User, thread_id: str) -> bool:
    try:
        await owned.check(user, thread_id)
    except NoSuchThread:
        return False
    return True


# --- ids -----------------------------------------------------------------------------------------


async def test_a_minted_id_is_its_users() -> None:
    """An id that was given is its user's before a row says so, and nobody else's; it is a UUIDv7."""
    owned, _ = ownership()
    alice, bob = User("alice"), User("bob")
    ids = [owned.mint(alice) for _ in range(200)]
    assert len(set(ids)) == 200
    for thread_id in ids:
        assert UUID(thread_id).version == 7
        assert await passes(owned, alice, thread_id)
        assert not await passes(owned, bob, thread_id)
        assert not await passes(owned, alice, thread_id.upper())
    assert sorted(ids) == ids or ids[0][:8] <= ids[-1][:8]
    assert not await passes(Ownership(NoRows(), b"x" * 32), alice, ids[0])  # type: ignore[arg-type]


@given(st.uuids() | st.text(st.characters(codec="ascii", categories=["L", "Nd"]), min_size=1, max_size=40))
async def test_no_other_id_is(thread_id: object) -> None:
    """No id that a client makes up is theirs, and the row is looked for, whatever it looks like."""
    owned, storage = ownership()
    assert not await passes(owned, User("alice"), str(thread_id))
    assert storage.asked == [str(thread_id)]


async def test_a_row_says_whose() -> None:
    """A row's owner counts, whatever its id; nobody's threads are of who does not have to say who they are."""
    owned, _ = ownership(t="alice", old="")
    alice, bob = User("alice"), User("bob")
    assert [await passes(owned, user, "t") for user in (alice, bob, ANONYMOUS)] == [True, False, False]
    assert [await passes(owned, user, "old") for user in (alice, bob, ANONYMOUS)] == [False, False, True]
    assert await passes(owned, ANONYMOUS, "new")
    # Named as who does not say their name is called, somebody is still somebody.
    assert not await passes(owned, User("anonymous"), "old")
    taken, _ = ownership(**{owned.mint(alice): "bob"})
    assert not await passes(taken, alice, next(iter(taken._storage.owners)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("thread_id", OWN_IDS)
async def test_ids_of_ones_own_are_refused(serve: Serve, thread_id: str) -> None:
    """With auth on, an id of the client's own closes 4403 and is 404, and POST /threads refuses it, taken or free."""
    served = await serve("graphs:echo", auth=TOKENS)
    taken = await thread_of(served, BOB)
    for wanted in (thread_id, taken):
        assert await (await connect(served, ALICE, thread_id=wanted)).closed() == 4403
        for body in ({"thread_id": wanted}, {"thread_id": wanted, "if_exists": "do_nothing"}):
            assert (await call(served, "POST", "/threads", ALICE, body))[0] == 404
        assert (await call(served, "POST", f"/threads/{wanted}/runs/stream", ALICE, {"content": "hi"}))[0] == 404
        assert (await call(served, "GET", f"/threads/{wanted}", ALICE))[0] == 404


async def test_a_minted_id_outlives_the_server(serve: Serve) -> None:
    """An id that `ready` told and nobody has written to can be attached to again, also after a restart."""
    first = await serve("graphs:echo", auth=TOKENS)
    socket = await attach(first, ALICE)
    thread_id = socket.frames[0]["thread_id"]
    await socket.ws.close()
    await first.server.close()
    again = await serve("graphs:echo", auth=TOKENS, database=first.database)
    socket = await attach(again, ALICE, thread_id=thread_id)
    assert socket.frames[0]["created"]
    await socket.turn()
    assert await (await connect(again, BOB, thread_id=thread_id)).closed() == 4403


async def test_post_threads_makes_ones_own(serve: Serve) -> None:
    """A thread that POST /threads makes is its user's; its own id again is a conflict, or as it is."""
    served = await serve("graphs:echo", auth=TOKENS)
    status, made = await call(served, "POST", "/threads", ALICE, {})
    again = {"thread_id": made["thread_id"]}
    assert status == 200
    assert (await call(served, "POST", "/threads", ALICE, again))[0] == 409
    assert (await call(served, "POST", "/threads", ALICE, {**again, "if_exists": "do_nothing"}))[0] == 200
    assert (await call(served, "POST", "/threads", BOB, {**again, "if_exists": "do_nothing"}))[0] == 404
    status, lines = await call(served, "POST", f"/threads/{made['thread_id']}/runs/stream", ALICE, {"content": "hi"})
    assert status == 200
    assert '"run_finished"' in lines


# --- who sees what -------------------------------------------------------------------------------


async def test_lists_have_ones_own(serve: Serve) -> None:
    """Listing, searching and counting find a user's own threads only, by whatever they are looked for."""
    served = await serve("graphs:echo", auth=TOKENS)
    mine, yours = await thread_of(served, ALICE, "a secret plan"), await thread_of(served, BOB, "a secret plan")
    copied = (await call(served, "POST", f"/threads/{mine}/copy", ALICE))[1]["thread_id"]
    bodies: list[dict[str, Any]] = [
        {},
        {"query": "secret"},
        {"ids": [mine, yours, copied]},
        {"status": "idle"},
        {"metadata": {}},
    ]
    for body in bodies:
        for token, own in ((ALICE, {mine, copied}), (BOB, {yours})):
            found = (await call(served, "POST", "/threads/search", token, {**body, "limit": 100}))[1]
            assert {thread["thread_id"] for thread in found} == own
            assert (await call(served, "POST", "/threads/count", token, body))[1] == len(own)
    assert (await call(served, "GET", f"/threads/{copied}", BOB))[0] == 404


async def test_threads_from_before_auth(serve: Serve) -> None:
    """What was written while nobody had to say who they are is nobody's: no user sees it."""
    open_to_all = await serve("graphs:echo")
    socket = await open_to_all.attach("old")
    await socket.turn()
    await open_to_all.server.close()
    closed = await serve("graphs:echo", auth=TOKENS, database=open_to_all.database)
    assert (await call(closed, "GET", "/threads/old", ALICE))[0] == 404
    assert (await call(closed, "POST", "/threads/search", ALICE, {}))[1] == []
    alices = await thread_of(closed, ALICE)
    await closed.server.close()
    reopened = await serve("graphs:echo", database=open_to_all.database)
    assert (await call(reopened, "GET", "/threads/old"))[0] == 200
    assert (await call(reopened, "GET", f"/threads/{alices}"))[0] == 404


async def test_queued_turns_keep_their_user(serve: Serve) -> None:
    """A turn that waits over a restart is run for the user who asked for it."""
    first = await serve("gated_graphs:gated", auth=JWT, runs={"on_disconnect": "continue"})
    token = signed("alice", team="red")
    socket = await attach(first, token)
    thread_id = socket.frames[0]["thread_id"]
    await socket.command("send", content="one")
    await socket.until("run_started")
    assert (await socket.ask("send", content="two"))["type"] == "ack"
    await first.server.close()
    again = await serve("owned_graphs:who", auth=JWT, limits=NO_RATES, database=first.database)
    socket = await attach(again, token, thread_id=thread_id)
    while True:
        messages = (await socket.ask("history"))["messages"]
        if messages[-1]["role"] == "assistant" and messages[-1]["content"].startswith("{"):
            break
    assert json.loads(messages[-1]["content"])["config"]["team"] == "red"


# --- what the graph is told ----------------------------------------------------------------------


async def told(served: Served, token: str | None, **fields: Any) -> Any:
    socket = await attach(served, token)
    frames = await socket.turn(**fields)
    message = next(
        frame["message"] for frame in frames if frame["type"] == "message" and frame["message"]["role"] != "user"
    )
    return json.loads(message["content"])


async def test_the_graph_knows_who_asks(serve: Serve) -> None:
    """A graph finds the user in its config, in the runtime and in its context, in the Agent Server's shape."""
    served = await serve("owned_graphs:who", auth=JWT)
    token = signed("alice", name="Alice A.", scope="read write", team="red")
    found = await told(served, token)
    user = found["config"]
    assert (user["identity"], user["display_name"], user["is_authenticated"]) == ("alice", "Alice A.", True)
    assert (user["permissions"], user["team"]) == (["read", "write"], "red")
    assert found["attribute"] == found["server_info"] == found["context"]["identity"] == "alice"
    socket = await attach(served, token)
    refused = await socket.ask("send", content="hi", context={"user": {"identity": "bob"}})
    assert (refused["type"], refused["code"]) == ("error", "invalid_argument")
    assert (await told(served, token, context={"tone": "kind"}))["attribute"] == "alice"
    status, lines = await call(served, "POST", "/runs/batch", token, {"inputs": ["hi"]})
    assert status == 200
    result = json.loads(lines.splitlines()[1])
    assert json.loads(result["message"]["content"])["config"]["identity"] == "alice"
    await socket.command("batch", inputs=["hi"])
    result = await socket.until("batch_result")
    assert json.loads(result["message"]["content"])["context"]["identity"] == "alice"


async def test_a_context_may_want_the_name_alone(serve: Serve) -> None:
    """A context whose `user` is text gets the user's identity."""
    served = await serve("owned_graphs:named", auth=TOKENS)
    assert (await told(served, BOB))["context"] == "bob"


async def test_without_auth_the_graph_is_told_of_nobody(serve: Serve) -> None:
    """Where nobody says who they are the graph is not told that somebody did."""
    served = await serve("owned_graphs:who")
    assert await told(served, None) == {"config": None, "attribute": None, "server_info": None, "context": None}


async def test_the_store_is_per_user(serve: Serve) -> None:
    """What a graph keeps under a user's name is found in all their threads, and in nobody else's."""
    served = await serve("owned_graphs:remember", auth=TOKENS)
    said: dict[str, list[str]] = {token: [] for token in (ALICE, BOB)}
    for token, text in ((ALICE, "alice 1"), (BOB, "bob 1"), (ALICE, "alice 2"), (BOB, "bob 2")):
        assert await told(served, token, content=text) == said[token]
        said[token].append(text)


async def test_the_notebook_is_per_user(serve: Serve) -> None:
    """The built-in agent's notebook is its user's, in all their threads, and nobody else's."""
    served = await serve(auth=TOKENS)

    async def use(token: str, call: str) -> Any:
        socket = await attach(served, token)
        await socket.turn(f"/tool {call}")
        return socket.of("tool_result")[-1]["result"]

    await use(ALICE, 'save_note {"title": "Plans", "text": "sail"}')
    assert await use(BOB, "list_notes") == "The notebook is empty."
    assert await use(ALICE, 'read_note {"title": "Plans"}') == "sail"


async def test_the_user_stays_out_of_the_wire(serve: Serve) -> None:
    """What is known of a user is not in frames, states or checkpoints' metadata."""
    served = await serve("graphs:echo", auth=JWT)
    token = signed("alice", planted="a planted claim")
    thread_id = await who.thread_of(served, token)
    socket = await attach(served, token, thread_id=thread_id, history="10")
    await socket.turn()
    seen = json.dumps(socket.frames)
    for path in ("", "/state", "/history", "/export?format=json"):
        seen += json.dumps((await call(served, "GET", f"/threads/{thread_id}{path}", token))[1])
    assert "a planted claim" not in seen
    assert "langgraph_auth_user" not in seen
