"""Threads as resources, through LangGraph's own SDK against the real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph_sdk import get_client
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError

from conftest import Serve
from harness import DEADLINE, Served, eventually
from threadwire.storage import MAX_METADATA_BYTES
from threadwire.storage.sqlite_threads import holds
from threadwire.title import MAX_TITLE, title_of

Connect = Callable[..., Awaitable[tuple[Served, Any]]]


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """Start a server, and the SDK's client of it."""
    async with AsyncExitStack() as stack:

        async def start(graph: str = "graphs:echo", **sections: Any) -> tuple[Served, Any]:
            served = await serve(graph, **sections)
            return served, await stack.enter_async_context(get_client(url=served.url))

        yield start


async def say(served: Served, thread_id: str, content: Any = "hi", **fields: Any) -> None:
    """One whole turn on a thread."""
    socket = await served.attach(thread_id)
    await socket.turn(content, **fields)
    await socket.ws.close()


async def call(served: Served, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """A request as any client may send it: the status, and the JSON that came."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    async with served.session.request(method, served.url + path, data=data, headers=headers) as response:
        text = await response.text()
        return response.status, json.loads(text) if text else None


def ids(threads: Any) -> list[str]:
    return [thread["thread_id"] for thread in threads]


# --- create, get, update, delete ---


async def test_create(connect: Connect) -> None:
    """A created thread is there before its first send, with the SDK's fields, and a socket finds it so."""
    served, client = await connect()
    before = datetime.now(UTC)
    thread = await client.threads.create(metadata={"user": "ä✓"}, graph_id="agent")
    assert thread["metadata"] == {"user": "ä✓", "graph_id": "agent"}
    assert (thread["status"], thread["values"], thread["interrupts"]) == ("idle", {}, {})
    created = datetime.fromisoformat(str(thread["created_at"]))
    assert timedelta(0) <= created - before < timedelta(seconds=DEADLINE)
    assert await client.threads.get(thread["thread_id"]) == thread
    socket = await served.connect(thread["thread_id"])
    assert (await socket.next())["created"] is False


async def test_create_beside_a_socket(connect: Connect) -> None:
    """A thread made while a socket waits on it exists for the next one, and the socket's send works."""
    served, client = await connect()
    first = await served.attach("t1")
    await client.threads.create(thread_id="t1", metadata={"k": 1})
    second = await served.connect("t1")
    assert (await second.next())["created"] is False
    await first.turn("hello")
    assert (await client.threads.get("t1"))["metadata"] == {"k": 1, "title": "hello"}


async def test_create_twice(connect: Connect) -> None:
    """A second thread of one id is a conflict, or the first as it is."""
    _, client = await connect()
    await client.threads.create(thread_id="t1", metadata={"n": 1})
    for if_exists in (None, "raise"):
        with pytest.raises(ConflictError) as refused:
            await client.threads.create(thread_id="t1", if_exists=if_exists)
        assert refused.value.response.json()["error"]["code"] == "conflict"
    same = await client.threads.create(thread_id="t1", metadata={"n": 2}, if_exists="do_nothing")
    assert same["metadata"] == {"n": 1}


async def test_create_refuses(connect: Connect) -> None:
    """What cannot be done is refused by its name, and no thread is made."""
    _, client = await connect()
    supersteps = [{"updates": [{"values": {}, "as_node": "echo"}]}]
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"thread_id": "../etc"}, "thread_id"),
        ({"supersteps": supersteps}, "supersteps"),
        ({"ttl": 5}, "ttl"),
        ({"if_exists": "replace"}, "if_exists"),
        ({"metadata": {"k": "x" * MAX_METADATA_BYTES}}, "metadata"),
    ]
    for arguments, field in refusals:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await client.threads.create(**arguments)
        assert refused.value.response.status_code in (400, 413)
        assert field in refused.value.response.json()["error"]["message"]
    assert await client.threads.count() == 0


async def test_unknown(connect: Connect) -> None:
    """Whatever is asked of a thread that is not there is not found, and makes none."""
    _, client = await connect()
    threads, none = client.threads, "no-such-thread"
    for asked in (
        threads.get(none),
        threads.update(none, metadata={"a": 1}),
        threads.delete(none),
        threads.copy(none),
        threads.get_state(none),
        threads.get_state(none, checkpoint_id="c"),
        threads.get_history(none),
    ):
        with pytest.raises(NotFoundError) as refused:
            await asked
        assert refused.value.response.json() == {"error": {"code": "not_found", "message": "There is no such thread."}}
    assert await threads.count() == 0


async def test_update(connect: Connect) -> None:
    """Metadata is laid over, key by key, and the thread counts as touched."""
    _, client = await connect()
    thread = await client.threads.create(thread_id="t1", metadata={"a": 1, "b": {"c": 1}})
    updated = await client.threads.update("t1", metadata={"b": {"d": 2}, "e": None})
    assert updated["metadata"] == {"a": 1, "b": {"d": 2}, "e": None}
    assert str(updated["updated_at"]) > str(thread["updated_at"])
    assert updated["created_at"] == thread["created_at"]
    assert await client.threads.update("t1", metadata={"a": 2}, return_minimal=True) is None
    assert (await client.threads.get("t1"))["metadata"]["a"] == 2


async def test_metadata_is_bounded(connect: Connect) -> None:
    """Metadata does not grow without end by small updates, and nothing is lost where it would."""
    _, client = await connect()
    await client.threads.create(thread_id="t1", metadata={"a": "x" * (MAX_METADATA_BYTES - 100)})
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await client.threads.update("t1", metadata={"b": "y" * 200})
    assert refused.value.response.status_code == 413
    assert list((await client.threads.get("t1"))["metadata"] or {}) == ["a"]


async def test_delete(connect: Connect) -> None:
    """A deleted thread is gone, from searches too, and its sockets are closed with 4404."""
    served, client = await connect()
    socket = await served.attach("t1")
    await socket.turn("hello")
    await client.threads.delete("t1")
    assert await socket.closed() == 4404
    assert await client.threads.search() == []
    assert (await call(served, "POST", "/threads/search", {"query": "hello"}))[1] == []
    with pytest.raises(NotFoundError):
        await client.threads.get("t1")


async def test_metadata_round_trip(connect: Connect) -> None:
    """Any JSON metadata comes back as it was given, and is found by itself."""
    _, client = await connect()
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    number = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    values = st.recursive(
        st.none() | st.booleans() | number | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=8,
    )
    loop = asyncio.get_running_loop()

    async def there_and_back(metadata: dict[str, Any]) -> None:
        thread = await client.threads.create(metadata=metadata)
        found = await client.threads.get(thread["thread_id"])
        assert found["metadata"] == metadata
        assert ids(await client.threads.search(metadata=metadata, ids=[thread["thread_id"]]))

    @given(st.dictionaries(text, values, max_size=4))
    def check(metadata: dict[str, Any]) -> None:
        asyncio.run_coroutine_threadsafe(there_and_back(metadata), loop).result(DEADLINE)

    await asyncio.to_thread(check)


# --- titles ---


async def test_title(connect: Connect) -> None:
    """The first message names the thread, the second does not; a client may name it otherwise."""
    served, client = await connect()
    await say(served, "t1", "  What is\n\tthe weather? ")
    await say(served, "t1", "And tomorrow?")
    assert (await client.threads.get("t1"))["metadata"] == {"title": "What is the weather?"}
    await client.threads.update("t1", metadata={"title": "Weather"})
    await say(served, "t1", "Thanks")
    assert (await client.threads.get("t1"))["metadata"] == {"title": "Weather"}


async def test_title_given_before(connect: Connect) -> None:
    """A thread that was made with a title keeps it, one without gets it from its first message."""
    served, client = await connect()
    await client.threads.create(thread_id="t1", metadata={"title": "Mine", "n": 1.10})
    await client.threads.create(thread_id="t2", metadata={"n": 2})
    for thread_id in ("t1", "t2"):
        await say(served, thread_id, [{"type": "text", "text": "By blocks"}])
    assert (await client.threads.get("t1"))["metadata"] == {"title": "Mine", "n": 1.10}
    assert (await client.threads.get("t2"))["metadata"] == {"title": "By blocks", "n": 2}


BLOCKS = st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=100)})


@given(st.text(max_size=300) | st.lists(BLOCKS, max_size=3))
def test_title_is_a_line(content: Any) -> None:
    """Whatever is written, a title is one short line that a terminal may print, or there is none."""
    title = title_of(content)
    assert title is None or (0 < len(title) <= MAX_TITLE)
    assert title is None or (title == title.strip() and not re.search(r"[\x00-\x1f\x7f-\x9f]|\s\s", title))


def test_title_is_cut_at_a_word() -> None:
    """A long message is cut where a word ends, one long word where it must be."""
    assert title_of("word " * 40) == f"{' '.join(['word'] * 12)}…"
    assert title_of("w" * 100) == "w" * 59 + "…"
    assert title_of([{"type": "image", "url": "https://example.org"}]) is None


# --- search and count ---


async def test_search(connect: Connect) -> None:
    """Threads are found by what their metadata contains, by status and by id, and counted alike."""
    served, client = await connect()
    for number in range(5):
        metadata = {"even": number % 2 == 0, "tags": ["all", f"n{number}"], "owner": {"name": "a", "n": number}}
        await client.threads.create(thread_id=f"t{number}", metadata=metadata)
    await say(served, "t1")
    search, count = client.threads.search, client.threads.count
    found_by: list[tuple[dict[str, Any], list[str]]] = [
        ({"even": True}, ["t4", "t2", "t0"]),
        ({"even": 1}, []),
        ({"tags": ["n3"]}, ["t3"]),
        ({"tags": ["all", "n1"]}, ["t1"]),
        ({"owner": {"name": "a"}}, ["t4", "t3", "t2", "t1", "t0"]),
        ({"owner": {"n": 2}, "even": True}, ["t2"]),
        ({"'; DROP TABLE threads; --": 1}, []),
    ]
    for metadata, expected in found_by:
        assert ids(await search(metadata=metadata)) == expected
        assert await count(metadata=metadata) == len(expected)
    assert ids(await search(ids=["t3", "t1", "t9"])) == ["t3", "t1"]
    assert await count(status="idle") == 5
    assert await search(status="busy") == []


async def test_search_in_pages(connect: Connect) -> None:
    """Pages follow each other, newest first where nothing else is said, sorted by what was asked."""
    served, client = await connect()
    for name in ("b", "a", "c"):
        await client.threads.create(thread_id=name)
    await say(served, "b")
    await client.threads.update("a", metadata={"touched": True})
    search = client.threads.search
    assert ids(await search()) == ["c", "a", "b"]
    assert ids(await search(limit=2)) == ["c", "a"]
    assert ids(await search(limit=2, offset=2)) == ["b"]
    assert ids(await search(sort_by="created_at", sort_order="asc")) == ["b", "a", "c"]
    assert ids(await search(sort_by="thread_id", sort_order="asc")) == ["a", "b", "c"]
    assert ids(await search(sort_by="thread_id", sort_order="desc")) == ["c", "b", "a"]
    assert ids(await search(sort_by="updated_at")) == ["a", "b", "c"]
    assert ids(await search(sort_by="state_updated_at")) == ["b", "c", "a"]
    assert ids(await search(sort_by="status", sort_order="asc")) == ["a", "b", "c"]


async def test_search_text(connect: Connect) -> None:
    """``query`` finds threads by their title and by what their user wrote, as it stands, case aside."""
    served, client = await connect()
    await say(served, "t1", "Über 100% of_the ÄPFEL")
    await say(served, "t1", [{"type": "text", "text": "and then 'Birnen'"}])
    await client.threads.create(thread_id="t2", metadata={"title": "Äpfel und Nüsse", "note": "birnen"})
    await say(served, "t3", "unrelated")

    async def found(query: str) -> list[str]:
        status, threads = await call(served, "POST", "/threads/search", {"query": query})
        assert status == 200
        assert (await call(served, "POST", "/threads/count", {"query": query}))[1] == len(threads)
        return sorted(ids(threads))

    assert await found("äpfel") == ["t1", "t2"]
    assert await found("'birnen'") == ["t1"]
    assert await found("100%") == ["t1"]
    assert await found("100_") == []
    assert await found("echo") == []
    assert await found("") == ["t1", "t2", "t3"]


async def test_search_values(connect: Connect) -> None:
    """A listing has no values but where they are selected, and then no other fields."""
    served, client = await connect()
    await say(served, "t1", "hello")
    [thread] = await client.threads.search()
    assert thread["values"] is None
    [thread] = await client.threads.search(select=["thread_id", "values"])
    assert sorted(thread) == ["thread_id", "values"]
    assert [message["content"] for message in thread["values"]["messages"]] == ["hello", "echo: hello"]


async def test_search_refuses(connect: Connect) -> None:
    """What cannot be searched by is refused by its name."""
    served, client = await connect()
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"values": {"a": 1}}, "values"),
        ({"extract": {"a": "values.b"}}, "extract"),
        ({"select": ["secrets"]}, "select"),
        ({"limit": 0}, "limit: expected a number from 1, got 0"),
        ({"limit": 1001}, "limit: expected a number up to 1000, got 1001"),
        ({"offset": -1}, "offset: expected a number from 0, got -1"),
        ({"metadata": ["a"]}, "metadata: expected an object, got a list"),
        ({"sort_by": "thread_id; DROP TABLE threads"}, "sort_by: expected 'thread_id'"),
        ({"status": "asleep"}, "status: expected 'idle', 'busy', 'interrupted' or 'error', got the string 'asleep'"),
    ]
    for arguments, field in refusals:
        with pytest.raises(BadRequestError) as refused:
            await client.threads.search(**arguments)
        error = refused.value.response.json()["error"]
        assert error["code"] == "invalid_argument"
        assert error["message"].startswith(field)
    for body in (b"{", b"[]", b'{"metadata": ' + b"[" * 100 + b"]" * 100 + b"}", {"metadata": 1}, {"nonsense": 1}):
        status, answer = await call(served, "POST", "/threads/search", body)
        assert (status, sorted(answer["error"])) == (400, ["code", "message"])


def test_holds() -> None:
    """Containment is PostgreSQL's: objects by key, lists by any element, and true is not 1."""
    assert holds({"a": [1, {"b": 2, "c": 3}]}, {"a": [{"b": 2}]})
    assert holds({"a": 1.0}, {"a": 1})
    for value, wanted in [({"a": True}, {"a": 1}), ({"a": "1"}, {"a": 1}), ({}, {"a": None}), ([1], [2]), (1, [1])]:
        assert not holds(value, wanted)


# --- states ---


async def test_state(connect: Connect) -> None:
    """A state has the SDK's shape, its messages LangChain's, and nothing of the server's own."""
    served, client = await connect("thread_graphs:working")
    await say(served, "t1", "keys", message_id="m1")
    state = await client.threads.get_state("t1")
    human, calls, tool, answer = state["values"]["messages"]
    assert (human["type"], human["content"], human["id"]) == ("human", "keys", "m1")
    assert calls["type"] == "ai"
    assert calls["tool_calls"] == [{"id": "call-1", "name": "look", "args": {"what": "keys"}, "type": "tool_call"}]
    assert (tool["type"], tool["tool_call_id"]) == ("tool", "call-1")
    assert answer["content"] == "There it is."
    extra = state["values"]["extra"]
    assert (sorted(extra["odd"]), extra["3"]) == ([1, 2], 4.5)
    assert (state["next"], state["tasks"], state["interrupts"]) == ([], [], [])
    checkpoint, parent = state["checkpoint"], state["parent_checkpoint"]
    assert parent is not None
    assert (checkpoint["thread_id"], checkpoint["checkpoint_ns"]) == ("t1", "")
    assert str(state["created_at"]).endswith("+00:00")
    assert (state["metadata"] or {})["source"] == "loop"
    for text in ("threadwire", "__", "secret"):
        assert text not in json.dumps(state)
    assert (await client.threads.get("t1"))["values"] == state["values"]


async def test_state_of_a_checkpoint(connect: Connect) -> None:
    """Each checkpoint's state can be had by its id or its place, and one that is not there is not found."""
    served, client = await connect("thread_graphs:working")
    await say(served, "t1", "keys")
    threads = client.threads
    history = await threads.get_history("t1")
    assert [len(state["values"].get("messages", [])) for state in history] == [4, 3, 2, 1, 0]
    assert [list(state["next"]) for state in history] == [[], ["say"], ["look"], ["call"], ["__start__"]]
    for state in history:
        checkpoint_id = state["checkpoint"]["checkpoint_id"]
        assert checkpoint_id is not None
        assert await threads.get_state("t1", checkpoint_id=checkpoint_id) == state
        assert await threads.get_state("t1", checkpoint=state["checkpoint"]) == state
    await threads.create(thread_id="t2")
    for asked in (
        threads.get_state("t1", checkpoint_id="nope"),
        threads.get_state("t1", checkpoint={"checkpoint_ns": "no:where"}),
        threads.get_state("t2", checkpoint_id=str(history[0]["checkpoint"]["checkpoint_id"])),
    ):
        with pytest.raises(NotFoundError) as refused:
            await asked
        assert refused.value.response.json()["error"]["code"] == "no_such_checkpoint"
    with pytest.raises(BadRequestError):
        await threads.get_state("t2", checkpoint=history[0]["checkpoint"])


async def test_state_of_a_new_thread(connect: Connect) -> None:
    """A thread nobody has written to has an empty state and no history."""
    _, client = await connect()
    await client.threads.create(thread_id="t1")
    state = await client.threads.get_state("t1")
    assert (state["values"], state["next"], state["checkpoint"]["checkpoint_id"]) == ({}, [], None)
    assert await client.threads.get_history("t1") == []


async def test_select_of_state(connect: Connect) -> None:
    """A state's select keeps the named fields, and single values."""
    served, client = await connect("thread_graphs:working")
    await say(served, "t1")
    threads = client.threads
    assert sorted(await threads.get_state("t1", select=["next", "metadata"])) == ["metadata", "next"]
    state = await threads.get_state("t1", select=["values.extra", "next"])
    assert (sorted(state), list(state["values"])) == (["next", "values"], ["extra"])
    [newest] = await threads.get_history("t1", limit=1, select=["values.messages"])
    assert list(newest["values"]) == ["messages"]
    for select in (["everything"], ["values."]):
        with pytest.raises(BadRequestError):
            await threads.get_state("t1", select=select)
        with pytest.raises(BadRequestError):
            await threads.get_history("t1", select=select)


async def test_history(connect: Connect) -> None:
    """History is newest first, page by page, and by the metadata of its checkpoints."""
    served, client = await connect()
    for content in ("one", "two"):
        await say(served, "t1", content)
    threads = client.threads
    states = await threads.get_history("t1")
    assert states[0] == await threads.get_state("t1")
    assert [state["parent_checkpoint"] for state in states] == [s["checkpoint"] for s in states[1:]] + [None]
    assert await threads.get_history("t1", limit=2) == states[:2]
    assert await threads.get_history("t1", limit=2, before=states[1]["checkpoint"]) == states[2:4]
    assert await threads.get_history("t1", before=str(states[1]["checkpoint"]["checkpoint_id"])) == states[2:]
    inputs = await threads.get_history("t1", metadata={"source": "input"})
    assert [state["metadata"]["source"] for state in inputs] == ["input", "input"]
    assert (await call(served, "GET", "/threads/t1/history?limit=2"))[1] == states[:2]
    for arguments in ({"metadata": {"a' OR 1=1 --": 1}}, {"limit": 0}, {"before": 1}):
        with pytest.raises(BadRequestError):
            await threads.get_history("t1", **arguments)
    assert (await call(served, "GET", "/threads/t1/history?limit=x"))[0] == 400


async def test_interrupts(connect: Connect) -> None:
    """A thread that waits says so everywhere, subgraphs' states can be had, and once answered it does not."""
    served, client = await connect("thread_graphs:asking")
    await say(served, "t1", "Really")
    threads = client.threads
    [thread] = await threads.search(status="interrupted")
    [[interrupt]] = thread["interrupts"].values()
    assert interrupt["value"] == {"question": "Really?"}
    state = await threads.get_state("t1")
    [task] = state["tasks"]
    assert (list(state["next"]), task["name"], task["error"]) == (["inner"], "inner", None)
    assert state["interrupts"] == task["interrupts"] == [interrupt]
    assert task["checkpoint"] is not None
    assert task["state"] is None
    [deep] = (await threads.get_state("t1", subgraphs=True))["tasks"]
    assert deep["state"] is not None
    assert list(deep["state"]["next"]) == ["ask"]
    assert (await threads.get_state("t1", checkpoint=task["checkpoint"]))["next"] == ["ask"]
    assert await threads.get_history("t1", checkpoint=task["checkpoint"]) != []
    socket = await served.attach("t1")
    ack = await socket.ask("respond", responses={interrupt["id"]: "yes"})
    await socket.until("run_finished", run_id=ack["run_id"])
    thread = await threads.get("t1")
    assert (thread["status"], thread["interrupts"]) == ("idle", {})
    assert thread["values"]["messages"][-1]["content"] == "you said yes"


async def test_failures_do_not_leak(connect: Connect) -> None:
    """A thread whose run failed says so, and neither it nor its history has the exception's words."""
    served, client = await connect("thread_graphs:failing")
    await say(served, "t1")
    assert (await client.threads.get("t1"))["status"] == "error"
    for found in (await client.threads.get_history("t1"), await client.threads.get_state("t1", subgraphs=True)):
        assert "secret-in-exception" not in json.dumps(found)


# --- copy ---


async def test_copy(connect: Connect) -> None:
    """A copy has all the checkpoints and the name of its original, is found by its words, and goes its own way."""
    served, client = await connect()
    await say(served, "t1", "hello")
    copy = await client.threads.copy("t1")
    copy_id = copy["thread_id"]
    assert copy_id != "t1"
    assert copy["metadata"] == {"title": "hello"}
    assert len(await client.threads.get_history(copy_id)) == len(await client.threads.get_history("t1"))
    assert len((await call(served, "POST", "/threads/search", {"query": "hello"}))[1]) == 2
    await say(served, copy_id, "more")
    assert [m["content"] for m in await served.history(copy_id)] == ["hello", "echo: hello", "more", "echo: more"]
    assert [m["content"] for m in await served.history("t1")] == ["hello", "echo: hello"]
    await client.threads.delete("t1")
    assert len(await served.history(copy_id)) == 4


async def test_copy_of_a_question(connect: Connect) -> None:
    """A copy of a thread that waits for a person waits too, and each can be answered."""
    served, client = await connect("thread_graphs:asking")
    await say(served, "t1", "Really")
    copy = await client.threads.copy("t1")
    assert copy["status"] == "interrupted"
    for thread_id, answer in ((copy["thread_id"], "yes"), ("t1", "no")):
        socket = await served.connect(thread_id)
        [interrupt] = (await socket.next())["interrupts"]
        ack = await socket.ask("respond", responses={interrupt["id"]: answer})
        await socket.until("run_finished", run_id=ack["run_id"])
        assert (await served.history(thread_id))[-1]["content"] == f"you said {answer}"


async def test_copy_of_a_running_thread(connect: Connect) -> None:
    """A copy made during a turn has what is committed, is whole and idle, and works; the turn goes on."""
    served, client = await connect("thread_graphs:working")
    socket = await served.attach("t1")
    run_id = (await socket.ask("send", content="hang"))["run_id"]
    await eventually(lambda: _has_next(client, "t1", "look"), "the tool to hang")
    copy = await client.threads.copy("t1")
    assert copy["status"] == "idle"
    copied = await served.history(copy["thread_id"])
    assert [message["role"] for message in copied] == ["user", "assistant", "tool"]
    assert copied[2]["status"] == "failed"
    assert (await client.threads.get_state(copy["thread_id"]))["next"] == []
    await say(served, copy["thread_id"], "keys")
    assert (await served.history(copy["thread_id"]))[-1]["content"] == "There it is."
    assert (await client.threads.get("t1"))["status"] == "busy"
    await client.runs.cancel("t1", run_id, wait=True)


async def _has_next(client: Any, thread_id: str, node: str) -> bool:
    try:
        return list((await client.threads.get_state(thread_id))["next"]) == [node]
    except NotFoundError:
        return False


# --- cancel ---


async def test_cancel(connect: Connect) -> None:
    """Cancelled and waited for, a run is over when the call returns; once more, it is not active."""
    served, client = await connect("thread_graphs:working")
    socket = await served.attach("t1")
    for wait in (True, False):
        run_id = (await socket.ask("send", content="hang"))["run_id"]
        await eventually(lambda: _has_next(client, "t1", "look"), "the tool to hang")
        await client.runs.cancel("t1", run_id, wait=wait)
        if wait:
            assert (await client.threads.get("t1"))["status"] == "idle"
        finished = await socket.until("run_finished", run_id=run_id)
        assert (finished["status"], finished["reason"]) == ("cancelled", "client")
        with pytest.raises(ConflictError):
            await client.runs.cancel("t1", run_id)


async def test_cancel_a_question(connect: Connect) -> None:
    """The run that asked, cancelled, leaves a thread that waits no more."""
    served, client = await connect("thread_graphs:asking")
    socket = await served.attach("t1")
    frames = await socket.turn("Really")
    await client.runs.cancel("t1", frames[0]["run_id"], wait=True)

    async def idle() -> bool:
        return bool((await client.threads.get("t1"))["status"] == "idle")

    await eventually(idle, "the question to be dropped")


async def test_cancel_refuses(connect: Connect) -> None:
    """A run nobody knows is not found; rolling back is not there yet; a run id is a UUID."""
    _, client = await connect()
    run_id = "0191f0c5-0000-7000-8000-000000000000"
    await client.threads.create(thread_id="t1")
    with pytest.raises(NotFoundError):
        await client.runs.cancel("t1", run_id)
    for arguments in ({"action": "rollback"}, {"params": {"wait": "maybe"}}):
        with pytest.raises(BadRequestError):
            await client.runs.cancel("t1", run_id, **arguments)
    with pytest.raises(BadRequestError):
        await client.runs.cancel("t1", "not-a-uuid")


# --- export ---


async def test_export_markdown(connect: Connect) -> None:
    """A conversation as Markdown: roles as headings, calls and results in fences that hold, a safe file name."""
    served, client = await connect("thread_graphs:working")
    await client.threads.create(thread_id="t1", metadata={"title": 'Two\nlines"; x=y'})
    await say(served, "t1", "keys ✓")
    async with served.session.get(f"{served.url}/threads/t1/export") as response:
        assert response.headers["Content-Disposition"] == 'attachment; filename="t1.md"'
        assert response.headers["Content-Type"] == "text/markdown; charset=utf-8"
        text = await response.text()
    assert text == (
        '# Two lines"; x=y\n\n## User\n\nkeys ✓\n\n## Assistant\n\nLet me look.\n\nCalls `look`:\n\n'
        '```json\n{\n  "what": "keys ✓"\n}\n```\n\n## Tool `look`\n\n````\n```\nfound\n```\n````\n\n'
        "## Assistant\n\nThere it is.\n"
    )


async def test_export_json(connect: Connect) -> None:
    """A conversation as JSON: the thread and the messages as a socket's history has them."""
    served, client = await connect("thread_graphs:working")
    await say(served, "t1", "keys")
    status, exported = await call(served, "GET", "/threads/t1/export?format=json")
    assert status == 200
    assert exported["messages"] == await served.history("t1")
    thread = await client.threads.get("t1")
    kept = ("thread_id", "created_at", "updated_at", "status", "metadata")
    assert {name: exported[name] for name in exported if name != "messages"} == {k: thread[k] for k in kept}


async def test_export_refuses(connect: Connect) -> None:
    """Another format is refused, a thread that is not there is not found."""
    served, client = await connect()
    await client.threads.create(thread_id="t1")
    assert (await call(served, "GET", "/threads/t1/export?format=pdf"))[0] == 400
    assert (await call(served, "GET", "/threads/t2/export"))[0] == 404


# --- the page about all this ---


async def test_the_page(connect: Connect) -> None:
    """The page's program runs as it stands there, and the page names every route."""
    served, client = await connect()
    page = (Path(__file__).parent.parent / "docs" / "threads.md").read_text("utf-8")
    [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    await asyncio.to_thread(exec, program.replace("http://127.0.0.1:8000", served.url), {})
    assert await client.threads.count() == 0
    for resource in served.server.app.router.resources():
        path = resource.canonical.replace("thread_id}", "id}")
        if path.startswith("/threads"):
            assert f"{path}`" in page, path


# --- who may ---


async def test_foreign_pages(connect: Connect) -> None:
    """A foreign page changes nothing, and a foreign name for this machine reads nothing."""
    served, client = await connect()
    await client.threads.create(thread_id="t1", metadata={"a": 1})
    foreign = {"Origin": "https://evil.example"}
    for method, path in [
        ("POST", "/threads"),
        ("POST", "/threads/search"),
        ("PATCH", "/threads/t1"),
        ("POST", "/threads/t1/copy"),
        ("POST", "/threads/t1/history"),
        ("DELETE", "/threads/t1"),
    ]:
        status, answer = await call(served, method, path, {}, **foreign)
        assert (status, answer["error"]["code"]) == (403, "forbidden")
    for path in ("/threads/t1", "/threads/t1/state", "/threads/t1/export"):
        assert (await call(served, "GET", path, Host="evil.example"))[0] == 403
    assert await client.threads.count() == 1


async def test_wrong_methods(connect: Connect) -> None:
    """What is not offered is a client's error with our body."""
    served, client = await connect()
    await client.threads.create(thread_id="t1")
    for method, path in [("POST", "/threads/t1/state"), ("PUT", "/threads/t1"), ("GET", "/threads")]:
        status, answer = await call(served, method, path)
        assert (status, answer["error"]["code"]) == (405, "method_not_allowed")
