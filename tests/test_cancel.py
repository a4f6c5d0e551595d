"""Stopping a run, however it comes about: what is told, what is kept, what is left running."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from conftest import Serve
from cut_graphs import gates
from harness import Provider, Served, Socket, eventually
from threadwire import logs

Told = list[dict[str, Any]]


@pytest.fixture(autouse=True)
async def fresh_gates() -> AsyncIterator[None]:
    """Closed at a test's start, open at its end."""
    # Left to itself, structlog takes seconds, on the loop, to draw a traceback with all its locals.
    logs.configure(json=True)
    gates.reset()
    yield
    gates.open_all()
    structlog.reset_defaults()


async def reached(name: str, times: int = 1) -> None:
    await eventually(lambda: gates.reached.count(name) >= times, f"the graph reaches {name}")


async def start(socket: Socket, content: str, **fields: Any) -> str:
    ack = await socket.ask("send", content=content, **fields)
    assert ack["type"] == "ack", ack
    return str(ack["run_id"])


async def cancel(socket: Socket, run_id: str) -> dict[str, Any]:
    """Cancel and read to the end of that run."""
    await socket.command("cancel", run_id=run_id)
    return await socket.until("run_finished", run_id=run_id)


def ended(finished: dict[str, Any]) -> tuple[str, str | None]:
    return finished["status"], finished["reason"]


async def seen_by_provider(served: Served, provider: Provider, thread_id: str) -> Told:
    """The messages that the provider gets in a next turn, which works."""
    socket = await served.attach(thread_id)
    frames = await socket.turn("/tokens 2")
    assert frames[-1]["status"] == "completed", frames[-1]
    return list((await provider.requests())[-1]["messages"])


def assert_whole(messages: Told) -> None:
    """As a provider wants it: each call has one result, right behind it; no result without a call."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting, messages
            waiting.remove(message["tool_call_id"])
        else:
            assert not waiting, messages
            waiting = [call["id"] for call in message.get("tool_calls") or []]
    assert not waiting, messages


def assert_paired(frames: Told) -> None:
    """Each tool call that was told has one result."""
    calls = [frame["id"] for frame in frames if frame["type"] == "tool_call"]
    results = [frame["id"] for frame in frames if frame["type"] == "tool_result"]
    assert sorted(calls) == sorted(results)
    assert len(set(calls)) == len(calls)


# --- by command -----------------------------------------------------------------------------------


async def test_in_mid_stream(serve: Serve, provider: Provider) -> None:
    """What was said is the assistant's message, marked; the provider is told of it in the next turn."""
    served = await serve("graphs:openai")
    socket = await served.attach("t")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token")
    finished = await cancel(socket, run_id)
    assert (await provider.stats())["open"] == 0
    assert ended(finished) == ("cancelled", "client")
    assert finished["error"] is None
    user, answer = await served.history("t")
    assert (user["role"], user["content"]) == ("user", "/tokens 5000")
    assert answer["id"] == socket.of("token")[0]["message_id"]
    assert (answer["content"], answer["status"]) == (socket.text(), "cancelled")
    told = await seen_by_provider(served, provider, "t")
    assert [m["role"] for m in told] == ["user", "assistant", "user"]
    assert told[1]["content"] == socket.text()


async def test_while_the_provider_is_silent(serve: Serve, provider: Provider) -> None:
    """A turn cut off before any text leaves no assistant message; the user's stays."""
    served = await serve("graphs:openai")
    socket = await served.attach("t")
    run_id = await start(socket, "/silent")
    await eventually(lambda: _open(provider), "the request is open")
    finished = await cancel(socket, run_id)
    assert (await provider.stats())["open"] == 0
    assert ended(finished) == ("cancelled", "client")
    assert [m["content"] for m in await served.history("t")] == ["/silent"]
    # The last message directs the simulated model.
    assert [m["role"] for m in await seen_by_provider(served, provider, "t")] == ["user", "user"]


async def _open(provider: Provider) -> bool:
    return bool((await provider.stats())["open"])


async def test_many_times_at_any_moment(serve: Serve, provider: Provider) -> None:
    """Whenever the cancel comes: no request is open when run_finished arrives, no task is left, the text is kept."""
    served = await serve("graphs:openai", runs={"cancel_deadline_seconds": 15})
    chance = random.Random(4)

    async def rounds(thread_id: str) -> None:
        socket = await served.attach(thread_id)
        for speed in (200, 1000, 200, 3000, 1000, 3000, 200):
            run_id = await start(socket, f"/tokens 5000\n/tokens-per-second {speed}")
            for _ in range(chance.randrange(4)):
                await socket.until("token")
            finished = await cancel(socket, run_id)
            assert ended(finished) == ("cancelled", "client")
            [last] = (await socket.ask("history", limit=1))["messages"]
            assert last["content"] == socket.text(run_id) or last["role"] == "user"
            if socket.text(run_id):
                assert (last["role"], last["content"]) == ("assistant", socket.text(run_id))

    for count in (1, 3):
        threads = [f"t{count}-{index}" for index in range(count)]
        await asyncio.gather(*(rounds(thread_id) for thread_id in threads))
        assert (await provider.stats())["open"] == 0
    socket = await served.attach("alone")
    # From here on its thread is there, and what writes to its reader stays.
    await socket.ask("history")
    before = asyncio.all_tasks()
    for _ in range(10):
        run_id = await start(socket, "/tokens 5000\n/tokens-per-second 2000")
        await socket.until("token")
        await cancel(socket, run_id)
        assert (await provider.stats())["open"] == 0
    await eventually(lambda: asyncio.all_tasks() <= before, "no task is left", 1)


@pytest.mark.parametrize(
    ("graph", "content"),
    [
        ("cut_graphs:agent", '/tool hang {}\n/tool think {"text": "/tokens 5000"}\n/tool add {"a": 1, "b": 2}'),
        ("cut_graphs:two_models", "/tokens 5000"),
        ("cut_graphs:subgraph", "/tokens 5000\n/tokens-per-second 2000"),
    ],
)
async def test_nothing_is_left(serve: Serve, provider: Provider, graph: str, content: str) -> None:
    """No task and no request, whatever the shape of the graph."""
    served = await serve(graph)
    socket = await served.attach("t")
    # From here on its thread is there, and what writes to its reader stays.
    await socket.ask("history")
    before = asyncio.all_tasks()
    for _ in range(4):
        run_id = await start(socket, content)
        await socket.until("token", run_id=run_id)
        assert ended(await cancel(socket, run_id)) == ("cancelled", "client")
        assert (await provider.stats())["open"] == 0
        await eventually(lambda: asyncio.all_tasks() <= before, "no task is left", 1)
    assert_paired(socket.frames)


async def test_during_an_async_tool(serve: Serve, provider: Provider) -> None:
    """The open call is closed by an error result, on the wire and in the thread."""
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t")
    run_id = await start(socket, "/tool hang {}")
    await reached("hang")
    assert ended(await cancel(socket, run_id)) == ("cancelled", "client")
    [call], [result] = socket.of("tool_call"), socket.of("tool_result")
    assert (result["id"], result["status"]) == (call["id"], "error")
    history = await served.history("t")
    assert [m["role"] for m in history] == ["user", "assistant", "tool"]
    assert (history[2]["tool_call_id"], history[2]["status"]) == (call["id"], "failed")
    told = await seen_by_provider(served, provider, "t")
    assert_whole(told)
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "user"]


async def test_during_a_blocking_tool(serve: Serve, provider: Provider) -> None:
    """A thread cannot be stopped, but the run ends at once, and what the tool gives later changes nothing."""
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t")
    run_id = await start(socket, "/tool block {}")
    await reached("block")
    assert ended(await cancel(socket, run_id)) == ("cancelled", "client")
    assert_paired(socket.frames)
    before = await served.history("t")
    gates.open("block")
    told = await seen_by_provider(served, provider, "t")
    assert_whole(told)
    assert (await served.history("t"))[: len(before)] == before


async def test_a_model_in_a_thread(serve: Serve, provider: Provider) -> None:
    """A node that is not async is stopped at its model's next token, before run_finished."""
    served = await serve("cut_graphs:sync_model")
    socket = await served.attach("t")
    for _ in range(3):
        run_id = await start(socket, "/tokens 5000")
        await socket.until("token", run_id=run_id)
        finished = await cancel(socket, run_id)
        # The provider, which pours, hears of it a moment later.
        await eventually(provider.left)
        assert ended(finished) == ("cancelled", "client")
        assert (await served.history("t"))[-1]["content"] == socket.text(run_id)


async def test_parallel_tools_with_one_finished(serve: Serve, provider: Provider) -> None:
    """The finished tool's result is kept, the other's is an error."""
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t")
    run_id = await start(socket, '/tool add {"a": 1, "b": 2}\n/tool hang {}\n/tool hang {"name": "two"}')
    await socket.until("tool_result")
    await reached("hang")
    await reached("two")
    await cancel(socket, run_id)
    assert_paired(socket.frames)
    history = await served.history("t")
    results = {m["name"]: m for m in history if m["role"] == "tool"}
    assert [m["content"] for m in history if m["role"] == "tool" and "status" not in m] == ["3"]
    assert results["hang"]["status"] == "failed"
    told = await seen_by_provider(served, provider, "t")
    assert_whole(told)
    assert next(m["content"] for m in told if m["role"] == "tool") == "3"


async def test_inside_a_subgraph(serve: Serve, provider: Provider) -> None:
    """What a model said inside a subgraph is kept in the thread."""
    served = await serve("cut_graphs:subgraph")
    socket = await served.attach("t")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token")
    await cancel(socket, run_id)
    assert (await provider.stats())["open"] == 0
    history = await served.history("t")
    assert (history[-1]["content"], history[-1]["status"]) == (socket.text(), "cancelled")
    told = await seen_by_provider(served, provider, "t")
    assert told[0]["role"] == "user"
    assert socket.text() in [m["content"] for m in told]


async def test_fan_out_with_one_branch_finished(serve: Serve, provider: Provider) -> None:
    """The finished branch's message is kept, and the other's text so far; the join after them works next time."""
    served = await serve("cut_graphs:fan_out")
    socket = await served.attach("t")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token")
    await cancel(socket, run_id)
    assert (await provider.stats())["open"] == 0
    history = await served.history("t")
    assert [m["role"] for m in history] == ["user", "assistant", "assistant"]
    assert {m["content"]: m.get("status") for m in history[1:]} == {"a is done": None, socket.text(): "cancelled"}
    frames = await socket.turn("/tokens 2")
    assert frames[-1]["status"] == "completed"
    assert (await served.history("t"))[-1]["content"] == "joined"


async def test_between_steps(serve: Serve) -> None:
    """Wherever between two steps it comes, the thread has whole steps, each once, and the next turn works."""
    served = await serve("cut_graphs:steps")
    chance = random.Random(5)
    for index in range(8):
        socket = await served.attach(f"t{index}")
        run_id = await start(socket, "go")
        for _ in range(chance.randrange(12)):
            frame = await socket.next()
            if frame["type"] == "run_finished":
                break
        else:
            finished = await cancel(socket, run_id)
            assert finished["status"] in ("cancelled", "completed")
        history = await served.history(f"t{index}")
        texts = [m["content"] for m in history[1:]]
        assert texts == [f"step {n}" for n in range(len(texts))]
        told = [f["message"]["content"] for f in socket.of("message")][1:]
        assert told == texts
        frames = await socket.turn("again")
        assert frames[-1]["status"] == "completed"


async def test_twice_in_a_row(serve: Serve, provider: Provider) -> None:
    """A second cancel is acknowledged and does no harm to the first one's cleaning up."""
    served = await serve("graphs:openai")
    socket = await served.attach("t")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token")
    await socket.command("cancel", id="one")
    await socket.command("cancel", id="two")
    await socket.command("cancel", id="three", run_id=run_id)
    await socket.until("run_finished")
    assert (await provider.stats())["open"] == 0
    assert (await socket.ask("cancel"))["code"] == "no_active_run"
    answers = {f["id"]: f for f in socket.frames if f.get("id") in ("one", "two", "three")}
    assert [f["type"] for f in answers.values()].count("ack") >= 1
    assert len(answers) == 3
    assert len(socket.of("run_finished")) == 1
    assert_whole(await seen_by_provider(served, provider, "t"))


async def test_as_the_run_ends(serve: Serve) -> None:
    """A cancel that meets the end: one run_finished, with either word, and history agrees with it."""
    served = await serve("cut_graphs:gated")
    for index in range(20):
        socket = await served.attach(f"t{index}")
        run_id = await start(socket, "hi")
        await reached("gated", index + 1)
        gates.open("gated")
        for _ in range(index):
            await asyncio.sleep(0)
        finished = await cancel(socket, run_id)
        assert ended(finished) in (("completed", None), ("cancelled", "client"))
        contents = [m["content"] for m in await served.history(f"t{index}")]
        if finished["status"] == "completed":
            assert contents == ["hi", "through"]
        assert contents in (["hi"], ["hi", "through"])
        assert len(socket.of("run_finished")) == 1
        gates.reset()
        gates.reached.extend(["gated"] * (index + 1))


async def test_before_it_started(serve: Serve) -> None:
    """A queued turn is cancelled by the run_id its client chose: it leaves no message and has one run_finished."""
    served = await serve("cut_graphs:gated")
    socket = await served.attach("t")
    first, second = await start(socket, "one"), str(uuid.uuid4())
    await reached("gated")
    await start(socket, "two", run_id=second)
    assert ended(await cancel(socket, second)) == ("cancelled", "client")
    gates.open("gated")
    await socket.until("run_finished", run_id=first)
    assert [m["content"] for m in await served.history("t")] == ["one", "through"]
    assert not [f for f in socket.of("run_started") if f["run_id"] == second]


async def test_in_the_same_breath(serve: Serve, provider: Provider) -> None:
    """A cancel right behind its send stops it, whether it had started or not, and the next turn works."""
    served = await serve("graphs:openai")
    socket = await served.attach("t")
    for _ in range(5):
        run_id = str(uuid.uuid4())
        await socket.command("send", content="/tokens 5000", run_id=run_id)
        await socket.command("cancel", run_id=run_id, id="now")
        finished = await socket.until("run_finished", run_id=run_id)
        assert ended(finished) == ("cancelled", "client")
        assert (await provider.stats())["open"] == 0
    assert_whole(await seen_by_provider(served, provider, "t"))


# --- by other ways --------------------------------------------------------------------------------


async def finished_on(served: Served, thread_id: str) -> tuple[str, str | None]:
    """How a run ended whose client has gone, as a watcher that came later reads in the thread's log."""
    socket = await served.connect(thread_id, after=0, epoch="any")
    return ended(await socket.until("run_finished"))


async def test_by_close(serve: Serve, provider: Provider) -> None:
    """A client's close stops its run at once, whatever the grace."""
    served = await serve("graphs:openai", runs={"disconnect_grace_seconds": 600})
    socket = await served.attach("t")
    await start(socket, "/tokens 5000")
    await socket.until("token")
    await socket.ws.close()
    await eventually(lambda: _closed(provider), "the provider's request is closed")
    assert await finished_on(served, "t") == ("cancelled", "disconnect")
    assert_whole(await seen_by_provider(served, provider, "t"))


async def _closed(provider: Provider) -> bool:
    stats = await provider.stats()
    return bool(stats["open"] == 0 and stats["aborted"])


async def test_by_a_vanished_socket(serve: Serve, provider: Provider) -> None:
    """A lost connection's run is stopped after the grace."""
    served = await serve("graphs:openai", runs={"disconnect_grace_seconds": 0.2})
    socket = await served.attach("t")
    await start(socket, "/tokens 5000")
    await socket.until("token")
    await socket.vanish()
    await eventually(lambda: _closed(provider), "the provider's request is closed")
    assert await finished_on(served, "t") == ("cancelled", "disconnect")


async def test_not_when_somebody_comes_in_time(serve: Serve) -> None:
    """Whoever attaches within the grace finds the run going on, and its end."""
    served = await serve("cut_graphs:gated", runs={"disconnect_grace_seconds": 1.5})
    socket = await served.attach("t")
    run_id = await start(socket, "hi")
    await reached("gated")
    await socket.vanish()
    again = await served.connect("t")
    assert (await again.next())["run"] == {"run_id": run_id, "status": "running"}
    # Past the grace: nothing is timed here but the grace itself.
    await asyncio.sleep(1.8)
    gates.open("gated")
    finished = await again.until("run_finished", run_id=run_id)
    assert finished["status"] == "completed"


async def test_continue_lets_it_finish(serve: Serve) -> None:
    """With on_disconnect=continue nobody needs to stay: the answer is there on the next visit."""
    served = await serve("cut_graphs:gated")
    socket = await served.attach("t", on_disconnect="continue")
    await start(socket, "hi")
    await reached("gated")
    await socket.ws.close()
    gates.open("gated")
    assert await finished_on(served, "t") == ("completed", None)
    assert [m["content"] for m in await served.history("t")] == ["hi", "through"]


async def test_by_timeout(serve: Serve, provider: Provider) -> None:
    """A run that takes too long is cancelled, says so, and keeps what it said."""
    # Long enough for a first token, also on a busy machine.
    served = await serve("graphs:openai", runs={"timeout_seconds": 2})
    socket = await served.attach("t")
    frames = await socket.turn("/tokens 5000")
    finished = frames[-1]
    assert (await provider.stats())["open"] == 0
    assert ended(finished) == ("cancelled", "timeout")
    assert finished["error"]["code"] == "timeout"
    assert (await served.history("t"))[-1]["content"] == socket.text()
    assert_whole(await seen_by_provider(served, provider, "t"))


async def test_by_deleting_the_thread(serve: Serve, provider: Provider) -> None:
    """Deleting a thread stops its run, tells its readers how it ended and closes them with 4404."""
    served = await serve("graphs:openai")
    socket = await served.attach("t")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token")
    async with served.session.delete(f"{served.url}/threads/t") as response:
        assert response.status == 204
    assert (await provider.stats())["open"] == 0
    assert await socket.closed() == 4404
    [finished] = socket.of("run_finished")
    assert (finished["run_id"], finished["status"]) == (run_id, "cancelled")
    again = await served.connect("t")
    ready = await again.next()
    assert (ready["created"], ready["run"]) == (True, None)
    assert (await again.ask("history"))["messages"] == []


# --- a node that will not stop --------------------------------------------------------------------


async def test_a_node_that_will_not_stop(serve: Serve) -> None:
    """It is given up after the deadline, and changes nothing when it comes back after another turn."""
    served = await serve("cut_graphs:stubborn", runs={"cancel_deadline_seconds": 0.2})
    socket = await served.attach("t")
    run_id = await start(socket, "stay")
    await reached("never")
    assert ended(await cancel(socket, run_id)) == ("cancelled", "abandoned")
    assert (await socket.turn("next"))[-1]["status"] == "completed"
    messages, rows = await served.history("t"), _rows(served)
    assert [m["content"] for m in messages] == ["stay", "next", "fine"]
    told = len(socket.frames)
    gates.open("stubborn")
    await reached("back")
    assert gates.said == ["FenceClosed"]
    names = {f"run {run_id}"}
    await eventually(lambda: not names & {t.get_name() for t in asyncio.all_tasks()}, "its task ends")
    assert await served.history("t") == messages
    assert _rows(served) == rows
    await socket.ask("ping")
    assert [f["type"] for f in socket.frames[told:]] == ["pong"]
    assert (await socket.turn("more"))[-1]["status"] == "completed"
    assert [m["content"] for m in await served.history("t")] == ["stay", "next", "fine", "more", "fine"]


def _rows(served: Served) -> list[Any]:
    """All of the thread's checkpoints and pending writes, and the store, as they are in the file."""
    import sqlite3

    with sqlite3.connect(served.database) as database:
        tables = ("checkpoints", "writes", "store")
        return [database.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall() for table in tables]


async def test_a_node_whose_cleaning_up_fails(serve: Serve) -> None:
    """Who was cancelled is cancelled, whatever its nodes raise on the way out."""
    served = await serve("cut_graphs:sore")
    socket = await served.attach("t")
    run_id = await start(socket, "hi")
    await reached("never")
    finished = await cancel(socket, run_id)
    assert ended(finished) == ("cancelled", "client")
    assert finished["error"] is None
