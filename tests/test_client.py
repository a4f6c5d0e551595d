"""The Python client against a real server that breaks on demand (see scripted_server)."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

from conftest import Serve
from fault_proxy import fault_proxy
from scripted_server import Fault, Script, ScriptedServer, scripted_server
from threadwire.client import (
    Chat,
    CommandFailed,
    Disconnected,
    Turn,
    TurnFailed,
    TurnLost,
    connect,
    connect_sync,
)
from threadwire.client.backoff import delay, may_reconnect
from threadwire.client.buffer import FrameBuffer, number_of
from threadwire.client.position import Position
from threadwire.errors import InvalidArgument
from threadwire.protocol import (
    CloseCode,
    Frame,
    GapFrame,
    HistoryFrame,
    PongFrame,
    ReadyFrame,
    RunFinishedFrame,
    TokenFrame,
)

SECONDS = 20.0
TEXT = "Hello, world"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as running:
        yield running


@asynccontextmanager
async def talking(server: ScriptedServer, **options: Any) -> AsyncIterator[Chat]:
    """A chat, within a deadline for all of the test's body."""
    async with asyncio.timeout(SECONDS), connect(server.url, **options) as chat:
        yield chat


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 -- the server under test has no event for it
            await asyncio.sleep(0.01)


async def collect(turn: Turn) -> list[Frame]:
    return [frame async for frame in turn]


def types(frames: list[Frame]) -> list[str]:
    """The frames' types, neighbours of one type told once."""
    names = [frame.type for frame in frames]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


def said(frames: list[Frame]) -> str:
    return "".join(frame.content for frame in frames if isinstance(frame, TokenFrame))


def sends(server: ScriptedServer) -> list[dict[str, Any]]:
    return [command for command in server.received if command["type"] == "send"]


WHOLE = ["run_started", "message", "token", "run_finished"]


# --- talking ---


async def test_a_turn_is_the_frames_of_its_run(server: ScriptedServer) -> None:
    """A sent message iterates over its run's frames, typed, from the start to the end."""
    async with talking(server) as chat:
        frames = [frame async for frame in chat.send("hi")]
    assert types(frames) == WHOLE
    assert said(frames) == TEXT


async def test_a_turn_answers_without_being_iterated(server: ScriptedServer) -> None:
    """The ack, the end and the text of a turn need nobody who reads its frames, and can be asked again."""
    async with talking(server) as chat:
        turn = chat.send("hi")
        ack = await turn.ack()
        assert (ack.run_id, ack.message_id) == (turn.run_id, turn.message_id)
        assert await turn.text() == TEXT
        assert (await turn.finished()).status == "completed"
        assert types(await collect(turn)) == WHOLE


async def test_two_turns_keep_apart(server: ScriptedServer) -> None:
    """A message that is sent while a run is active is queued; each turn gets its own frames."""
    async with talking(server) as chat:
        server.script = Script(pause_after=1)
        first = chat.send("one")
        await until(lambda: server.running)
        second = chat.send("two")
        await second.ack()
        server.go.set()
        assert types(await collect(second)) == ["run_queued", *WHOLE]
        frames = await collect(first)
    assert types(frames) == WHOLE
    assert said(frames) == TEXT


async def test_the_given_ids_and_options_go_out(server: ScriptedServer) -> None:
    """What a send is given reaches the server; options that are None are left out."""
    async with talking(server) as chat:
        run_id = "0198c0de-0000-7000-8000-000000000000"
        turn = chat.send("hi", run_id=run_id, message_id="m-1", multitask_strategy="enqueue", context={"a": 1})
        await turn.finished()
    (command,) = sends(server)
    command.pop("id")
    expected = {"type": "send", "content": "hi", "run_id": run_id, "message_id": "m-1"}
    assert command == {**expected, "multitask_strategy": "enqueue", "context": {"a": 1}}


async def test_cancel_ends_the_turn(server: ScriptedServer) -> None:
    """A cancelled turn ends with its run_finished, and keeps what was said."""
    async with talking(server) as chat:
        server.script = Script(pause_after=1)
        turn = chat.send("hi")
        assert (await anext(turn)).type == "run_started"
        await turn.cancel()
        assert (await turn.finished()).status == "cancelled"
        assert await turn.text() == "Hello"


async def test_other_commands_are_answered(server: ScriptedServer) -> None:
    """History, ping and subscribe return the frames that answer them."""
    async with talking(server) as chat:
        await chat.send("hi").finished()
        page = await chat.history(limit=10)
        assert [message.content for message in page.messages] == ["hi", TEXT]
        await until(lambda: server.connections[0].position == server.seq)
        assert (await chat.ping()).seq == server.seq
        await chat.subscribe(exclude_tags=["x"], raw=True)
    assert server.received[-1] == {"type": "subscribe", "id": "c4", "exclude_tags": ["x"], "raw": True}


@pytest.mark.parametrize("name", ["respond", "edit", "regenerate"])
async def test_other_commands_that_run_are_turns(server: ScriptedServer, name: str) -> None:
    """Answering an interrupt, editing and regenerating give a turn, as send does."""
    arguments = {"respond": ({"i-1": True},), "edit": ("m-1", "better"), "regenerate": ()}[name]
    async with talking(server) as chat:
        turn = getattr(chat, name)(*arguments)
        assert types(await collect(turn)) == WHOLE
    assert server.received[0]["type"] == name
    assert server.received[0]["run_id"] == turn.run_id


async def test_a_refused_command_raises(server: ScriptedServer) -> None:
    """An error frame raises CommandFailed with all it says, wherever the turn is waited for."""
    refusal = {"code": "rate_limited", "message": "Slow down.", "retry": True, "retry_after_seconds": 2.5}
    server.errors["send"] = deque([refusal])
    async with talking(server) as chat:
        turn = chat.send("hi")
        for waiting in (anext(turn), turn.ack(), turn.finished(), turn.text()):
            with pytest.raises(CommandFailed, match="Slow down") as failed:
                await waiting
            assert (failed.value.code, failed.value.retry_after_seconds) == ("rate_limited", 2.5)
        assert await chat.send("again").text() == TEXT


async def test_the_text_of_a_failed_turn_is_no_answer(server: ScriptedServer) -> None:
    """text() of a turn that failed raises, with what had been said; its frames and its end are as ever."""
    server.script = Script(status="failed", error={"code": "model_error", "message": "The model failed."})
    async with talking(server) as chat:
        turn = chat.send("hi")
        with pytest.raises(TurnFailed, match=r"The model failed\.") as failed:
            await turn.text()
        assert failed.value.text == TEXT
        assert types(await collect(turn)) == WHOLE


async def test_a_lost_run_says_what_is_true(server: ScriptedServer) -> None:
    """The messages of a run that the server lost replace the tokens that were seen."""
    kept = {"id": "a-1", "role": "assistant", "content": "Hel", "status": "lost"}
    server.script = Script(status="lost", messages=[kept])
    async with talking(server) as chat:
        with pytest.raises(TurnFailed) as failed:
            await chat.send("hi").text()
    assert failed.value.text == "Hel"


async def test_all_frames_come_from_the_first(server: ScriptedServer) -> None:
    """Who asks for all frames right after connecting sees a run of another tab from its start."""
    server.script = Script(pause_after=1)
    async with talking(server) as other:
        turn = other.send("hi")
        await until(lambda: server.seq >= 3)
        async with connect(server.url) as chat:
            seen: list[Frame] = []
            server.go.set()
            async for frame in chat:
                seen.append(frame)
                if frame.type == "run_finished":
                    break
        await turn.finished()
    assert types(seen) == WHOLE
    assert said(seen) == TEXT


async def test_history_on_connecting(server: ScriptedServer) -> None:
    """The messages that were asked for are there when the chat is, and their run goes on after them."""
    server.script = Script(pause_after=1)
    async with talking(server) as other:
        turn = other.send("hi")
        await until(lambda: server.seq >= 3)
        async with connect(server.url, history=5) as chat:
            frames = chat.frames()
            assert chat.first_history is not None
            assert [m.content for m in chat.first_history.messages] == ["hi", "Hello"]
            server.go.set()
            assert said([await anext(frames), await anext(frames)]) == ", world"
        await turn.finished()
    assert server.connections[1].query == {"history": "5"}


async def test_who_it_is_goes_along(server: ScriptedServer) -> None:
    """Token, subprotocol, thread and filters are offered on the first connection, and again on the next."""
    server.faults.append(Fault("abort", on="send"))
    options = {"thread_id": "t-1", "token": "s3cret", "on_disconnect": "continue", "exclude_tags": ["a", "b"]}
    async with talking(server, **options) as chat:
        await chat.send("hi").finished()
    assert len(server.requests) == 2
    for request in server.requests:
        assert request.headers["Authorization"] == "Bearer s3cret"
        assert request.headers["Sec-WebSocket-Protocol"] == "threadwire.v1"
        assert request.path == "/ws"
        expected = {"thread_id": "t-1", "on_disconnect": "continue", "exclude_tags": "a,b"}
        assert {**request.query, **expected} == dict(request.query)


async def test_a_given_session_stays_open(server: ScriptedServer) -> None:
    """A session that belongs to the caller is used, and not closed."""
    async with aiohttp.ClientSession(headers={"X-From": "me"}) as session:
        async with talking(server, session=session) as chat:
            await chat.ping()
        assert not session.closed
    assert server.requests[0].headers["X-From"] == "me"


# --- losing the connection ---


@pytest.mark.parametrize("repeats", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("after", range(1, 8))
async def test_a_cut_is_not_noticed(server: ScriptedServer, after: int, repeats: bool) -> None:
    """Wherever the connection breaks, the turn's frames come once, in order, and all of them."""
    server.repeats_frames = repeats
    server.faults.append(Fault("abort", after=after))
    async with talking(server) as chat:
        frames = await collect(chat.send("hi"))
    assert types(frames) == WHOLE
    assert said(frames) == TEXT
    numbers = [number_of(frame) or 0 for frame in frames]
    assert numbers == sorted(set(numbers))
    assert len(server.connections) == 2
    assert len(server.runs) == 1


@pytest.mark.parametrize("seed", range(8))
async def test_many_cuts_are_not_noticed(server: ScriptedServer, seed: int) -> None:
    """A connection that breaks again and again, in any way, still gives each answer whole and once."""
    chance = random.Random(seed)
    server.script = Script(words=[f"{number} " for number in range(60)])
    for _ in range(5):
        do = chance.choice(["abort", "close"])
        server.faults.append(Fault(do, after=chance.randint(2, 25), code=chance.choice([1001, 1011, 1012])))  # type: ignore[arg-type]
    async with talking(server) as chat:
        turns = [chat.send(str(number)) for number in range(3)]
        texts = [said(await collect(turn)) for turn in turns]
    assert texts == ["".join(server.script.words)] * 3
    assert len(server.runs) == 3


async def test_resuming_names_its_place(server: ScriptedServer) -> None:
    """The second connection asks for what comes after the last frame, in the thread's own epoch."""
    server.faults.append(Fault("abort", after=5))
    async with talking(server) as chat:
        await chat.send("hi").finished()
        assert chat.ready.resume == "replayed"
        assert chat.state == "live"
    assert server.connections[1].query == {"thread_id": "t-1", "after": "3", "epoch": "e-1"}


@pytest.mark.parametrize("handled", [True, False], ids=["ack lost", "command lost"])
async def test_what_was_not_acknowledged_is_said_again(server: ScriptedServer, handled: bool) -> None:
    """A send whose ack was lost is sent again with the same ids, and runs once."""
    server.faults.append(Fault("abort", on="send", handled=handled))
    async with talking(server) as chat:
        turn = chat.send("hi")
        assert bool((await turn.ack()).duplicate) is handled
        assert await turn.text() == TEXT
    first, second = sends(server)
    assert first == second
    assert len(server.runs) == 1


async def test_a_cancel_of_whatever_runs_is_not_said_again(server: ScriptedServer) -> None:
    """A cancel without a run_id could hit another run later: it fails with the connection, the chat lives."""
    server.script = Script(pause_after=1)
    server.faults.append(Fault("abort", on="cancel", handled=False))
    async with talking(server) as chat:
        turn = chat.send("hi")
        await turn.ack()
        with pytest.raises(Disconnected):
            await chat.cancel()
        await turn.cancel()
        assert (await turn.finished()).status == "cancelled"


async def test_a_restart_is_not_noticed(server: ScriptedServer) -> None:
    """A send that a draining server refuses waits for the next one, which is sought when it said."""
    refusal = {"code": "shutting_down", "message": "Restarting.", "retry": True}
    server.errors["send"] = deque([refusal])
    server.faults.append(Fault("close", after=2, code=1012, goaway=0.01))
    async with talking(server) as chat:
        assert await chat.send("hi").text() == TEXT
    assert len(sends(server)) == 2


async def test_an_announced_delay_is_taken_as_it_is(server: ScriptedServer) -> None:
    """Where the server said when to come back, the client does, also where it would have waited longer."""
    # Unannounced, 1013 means at least 2 s: so often that it would be more than the deadline.
    server.faults.extend(Fault("close", after=1, code=1013, goaway=0.01) for _ in range(12))
    async with talking(server) as chat:
        assert await chat.send("hi").text() == TEXT


async def test_silence_is_a_loss(server: ScriptedServer) -> None:
    """A connection on which nothing comes for two and a half heartbeats is given up for a new one."""
    server.heartbeat_seconds = 0.4
    server.faults.append(Fault("silence", after=4))
    async with talking(server) as chat:
        assert await chat.send("hi").text() == TEXT
    assert len(server.connections) == 2


async def test_pings_are_signs_of_life(server: ScriptedServer) -> None:
    """A server that only pings is alive."""
    server.heartbeat_seconds = 0.4
    server.script = Script(pause_after=1)
    async with talking(server) as chat:
        turn = chat.send("hi")
        await turn.ack()
        begun = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < begun + 1.5:
            await server.connections[0].ws.ping()
            await asyncio.sleep(0.05)
        server.go.set()
        assert await turn.text() == TEXT
    assert len(server.connections) == 1


async def test_a_proxys_refusal_is_borne_while_reconnecting(server: ScriptedServer) -> None:
    """While the server restarts, its proxy answers 502: the client tries again."""
    server.faults.append(Fault("abort", after=4))
    async with talking(server) as chat:
        turn = chat.send("hi")
        server.refusals.append(502)
        assert await turn.text() == TEXT
    assert len(server.requests) == 3


async def test_filters_with_commas_survive(server: ScriptedServer) -> None:
    """A name with a comma, which the query cannot say, is subscribed to again."""
    async with talking(server) as chat:
        await chat.subscribe(include_names=["RunnableParallel<a,b>"])
        request = server.connections[0].request
        assert request.transport is not None
        request.transport.abort()
        await until(lambda: len(server.connections) == 2 and server.connections[1].received)
    assert server.connections[1].received[0]["include_names"] == ["RunnableParallel<a,b>"]


# --- gaps ---


async def test_a_gap_is_filled_with_history(server: ScriptedServer) -> None:
    """When frames are gone, the turn gets the gap and the history, goes on after it, and knows the whole text."""
    server.script = Script(pause_after=2)
    server.faults.append(Fault("abort", after=4, lose_at=4))
    async with talking(server) as chat:
        turn = chat.send("hi")
        await until(lambda: len(server.connections) == 2 and server.connections[1].received)
        server.go.set()
        frames = await collect(turn)
        assert await turn.text() == TEXT
    assert types(frames)[-4:] == ["gap", "history", "token", "run_finished"]
    page = next(frame for frame in frames if isinstance(frame, HistoryFrame))
    after = frames[frames.index(page) + 1 :]
    assert "".join(str(m.content) for m in page.messages if m.role == "assistant") + said(after) == TEXT


@pytest.mark.parametrize("lose", ["trim", "restore"])
async def test_a_turn_whose_end_is_gone_raises(server: ScriptedServer, lose: Literal["trim", "restore"]) -> None:
    """A turn that ended while we were away, and whose end the log has lost, raises TurnLost with the history."""
    server.faults.append(Fault("abort", after=3, lose_at=6, lose=lose))
    async with talking(server) as chat:
        turn = chat.send("hi")
        with pytest.raises(TurnLost) as lost:
            await turn.finished()
        with pytest.raises(TurnLost):
            await collect(turn)
        assert await chat.send("again").text() == TEXT
    assert lost.value.history is not None
    assert [m.content for m in lost.value.history.messages] == ["hi", TEXT]


async def test_a_repeated_turn_whose_end_is_gone_raises(server: ScriptedServer) -> None:
    """Also where not even the ack had come: the answer is in the history, and the turn says so."""
    server.faults.append(Fault("abort", on="send", lose_at=6))
    async with talking(server) as chat:
        turn = chat.send("hi")
        with pytest.raises(TurnLost):
            await turn.text()
    assert len(server.runs) == 1


async def test_what_another_chat_has_said_is_not_said_again(server: ScriptedServer) -> None:
    """A message sent under the names of one that was answered before this chat began: its turn is over, and says so."""
    names: Any = {"run_id": str(uuid.uuid4()), "message_id": "m"}
    async with talking(server) as chat:
        await chat.send("hi", **names).text()
    async with talking(server) as chat:
        with pytest.raises(TurnLost):
            await chat.send("hi", **names).text()
        await chat.send("and on").text()
    assert len(server.runs) == 2


async def test_a_gap_on_a_living_connection(server: ScriptedServer) -> None:
    """A reader that fell off the log's tail while connected learns on a new connection that its turn is over."""
    server.script = Script(trims=True)
    async with talking(server) as chat:
        frames = chat.frames()
        turn = chat.send("hi")
        with pytest.raises(TurnLost):
            await turn.finished()
        while not isinstance(frame := await anext(frames), GapFrame):
            assert not isinstance(frame, HistoryFrame)
    assert server.connections[0].close_code == CloseCode.GOING_AWAY


async def test_a_queued_turn_outlives_a_gap(server: ScriptedServer) -> None:
    """A turn that waits behind another is not given up for lost because of a gap."""
    server.script = Script(pause_after=1)
    async with talking(server) as chat:
        first, second = chat.send("one"), chat.send("two")
        await second.ack()
        await until(lambda: server.connections[0].position == server.seq)
        server.append("custom", run_id="other", name="x", data=1)
        server.trim()
        await until(lambda: len(server.connections) == 2)
        server.go.set()
        assert await first.text() == TEXT
        assert await second.text() == TEXT


async def test_a_break_while_a_gap_is_filled(server: ScriptedServer) -> None:
    """A connection that breaks before the history came fills the gap on the next one."""
    server.script = Script(pause_after=2)
    server.faults.extend([Fault("abort", after=4, lose_at=4), Fault("abort", on="history", handled=False)])
    async with talking(server) as chat:
        turn = chat.send("hi")
        await until(lambda: len(server.connections) == 3 and server.connections[2].received)
        server.go.set()
        frames = await collect(turn)
        assert await turn.text() == TEXT
    assert [frame.type for frame in frames].count("history") == 1


# --- the end ---


@pytest.mark.parametrize("code", [1000, 1002, 1008, 1009, 4401, 4403, 4404, 4408, 4999])
async def test_a_final_close_wakes_everybody(server: ScriptedServer, code: int) -> None:
    """After a close code that says there is no use, nobody waits on: all get it, and nothing is tried again."""
    server.script = Script(pause_after=1)
    server.faults.append(Fault("close", on="history", handled=False, code=code))
    async with talking(server) as chat:
        turn, queued = chat.send("one"), chat.send("two")
        await turn.ack()
        waiting = [turn.finished(), turn.text(), collect(queued), chat.history()]
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, Disconnected)
            assert (result.code, result.reason) == (code, "as told")
        assert chat.state == "closed"
        with pytest.raises(Disconnected):
            chat.send("more")
        with pytest.raises(Disconnected):
            await chat.ping()
    assert len(server.connections) == 1


async def test_leaving_closes_with_1000(server: ScriptedServer) -> None:
    """Leaving says goodbye, as who asks for it; who waits elsewhere is woken, and all frames are at their end."""
    server.script = Script(pause_after=1)
    async with talking(server) as chat:
        frames = chat.frames()
        turn = chat.send("hi")
        await turn.ack()
        elsewhere = asyncio.create_task(turn.finished())
        await until(lambda: server.seq == 3)
    with pytest.raises(Disconnected) as end:
        await elsewhere
    assert end.value.code == 1000
    assert types([frame async for frame in frames])[-1] == "token"
    await until(lambda: server.connections[0].close_code == 1000)


async def test_leaving_while_reconnecting(server: ScriptedServer) -> None:
    """Leaving does not wait for a server that is not there."""
    async with talking(server) as chat:
        turn = chat.send("hi")
        await turn.finished()
        server.refusals.extend([502] * 100)
        server.connections[0].request.transport.abort()  # type: ignore[union-attr]
        await until(lambda: chat.state == "reconnecting")
        asked = asyncio.create_task(chat.history())
        await until(lambda: len(server.requests) >= 2)
    with pytest.raises(Disconnected):
        await asked
    assert chat.state == "closed"


@pytest.mark.parametrize("options", [{"reconnect": False}, {"max_reconnects": 0}], ids=str)
async def test_reconnecting_can_be_off(server: ScriptedServer, options: dict[str, Any]) -> None:
    """Without reconnecting, a lost connection is the end."""
    server.faults.append(Fault("abort", after=4))
    async with talking(server, **options) as chat:
        with pytest.raises(Disconnected) as end:
            await chat.send("hi").finished()
    assert end.value.code == 1006
    assert len(server.requests) == 1


async def test_attempts_are_bounded(server: ScriptedServer) -> None:
    """After as many failures in a row as were allowed, the chat gives up with the last one."""
    async with talking(server, max_reconnects=2) as chat:
        server.faults.append(Fault("abort", after=1))
        server.refusals.extend([502, 500])
        server.connections[0].request.transport.abort()  # type: ignore[union-attr]
        await until(lambda: chat.state == "closed")
        with pytest.raises(Disconnected) as end:
            await chat.ping()
    assert end.value.http_status == 500


async def test_the_first_connection_is_tried_once(server: ScriptedServer) -> None:
    """A wrong address, a refusal and a bad credential are told at once, as what they are."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Disconnected) as nobody:
            async with connect(f"http://127.0.0.1:{taken.getsockname()[1]}"):
                pytest.fail("connected to nobody")
    assert (nobody.value.code, nobody.value.http_status) == (1006, None)
    server.refusals.append(403)
    with pytest.raises(Disconnected) as refused:
        async with talking(server):
            pytest.fail("was refused")
    assert refused.value.http_status == 403
    server.faults.append(Fault("close", after=0, code=4401))
    with pytest.raises(Disconnected) as unauthorized:
        async with talking(server):
            pytest.fail("was not authorized")
    assert unauthorized.value.code == 4401
    with pytest.raises(InvalidArgument):
        async with talking(server, thread_id="../etc"):
            pytest.fail("that is no thread id")


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("127.0.0.1:8000", {}, "url: expected http://HOST:PORT or ws://HOST:PORT/ws, got '127.0.0.1:8000'"),
        ("localhost:8000", {}, "url: expected http://HOST:PORT or ws://HOST:PORT/ws, got 'localhost:8000'"),
        ("ftp://127.0.0.1", {}, "url: expected http://HOST:PORT or ws://HOST:PORT/ws, got 'ftp://127.0.0.1'"),
        ("http://127.0.0.1:1", {"history": 0}, "history: expected a whole number from 1, got 0"),
        ("http://127.0.0.1:1", {"on_disconnect": "stop"}, "on_disconnect: expected cancel or continue, got 'stop'"),
        ("http://127.0.0.1:1", {"include_types": "tool"}, "include_types: expected a list, got the string 'tool'"),
    ],
)
async def test_what_cannot_be_is_told_before_connecting(url: str, options: dict[str, Any], message: str) -> None:
    """An option that no server would take is refused by its name, with what was expected and what came."""
    with pytest.raises(InvalidArgument) as refused:
        async with connect(url, **options):
            pytest.fail("connected")
    assert refused.value.message == message


async def test_a_misspelt_option_is_no_filter() -> None:
    """An argument that ``connect`` does not have is an error of its caller's, as with any function."""
    with pytest.raises(TypeError, match="histroy"):
        async with connect("http://127.0.0.1:1", histroy=5):  # type: ignore[call-arg]
            pytest.fail("connected")


async def test_a_server_that_says_nothing_is_not_waited_for(server: ScriptedServer) -> None:
    """A server that accepts and never says ready fails within the time to open."""
    server.faults.append(Fault("silence", after=0))
    with pytest.raises(Disconnected, match="silent"):
        async with talking(server, open_timeout=1):
            pytest.fail("there was no ready")


async def test_an_unreadable_frame_is_the_end(server: ScriptedServer) -> None:
    """A known frame with wrong fields is no server to go on with: told at once, instead of waited over."""
    server.faults.append(Fault("garbage", after=4))
    async with talking(server) as chat:
        with pytest.raises(Disconnected, match="token") as end:
            await chat.send("hi").finished()
    assert end.value.code == 1002


async def test_nothing_is_left_behind(server: ScriptedServer) -> None:
    """After many chats, cut and left at any point, no task and no socket of the client remains."""
    before = set(asyncio.all_tasks())
    for round_ in range(12):
        server.faults.append(Fault("abort", after=1 + round_ % 6))
        async with talking(server) as chat:
            turn = chat.send("hi")
            if round_ % 2:
                await turn.finished()
    gc.collect()
    await until(lambda: not [t for t in asyncio.all_tasks() - before if "threadwire-client" in t.get_name()])
    await until(lambda: all(connection.ws.closed for connection in server.connections))


# --- the real server ---


async def test_a_conversation_with_the_real_server(serve: Serve) -> None:
    """Two turns, a cancelled one, and a history that has them all."""
    served = await serve(model={"name": "simulated", "simulated": {"tokens_per_second": 200, "first_token_ms": 0}})
    async with asyncio.timeout(SECONDS), connect(served.url) as chat:
        first, second = chat.send("hi"), chat.send("there")
        assert types(await collect(first))[:3] == WHOLE[:3]
        assert types(await collect(second))[0] == "run_queued"
        third = chat.send("stop")
        async for frame in third:
            if isinstance(frame, TokenFrame):
                await third.cancel()
                break
        assert (await third.finished()).status == "cancelled"
        texts = [await turn.text() for turn in (first, second, third)]
        page = await chat.history()
    assert [m.content for m in page.messages if m.role == "assistant"] == texts
    assert page.messages[-1].status == "cancelled"


async def test_cuts_from_the_real_server_are_not_noticed(serve: Serve) -> None:
    """An answer through a line that breaks again and again is the same as the one in the history."""
    served = await serve(model={"name": "simulated", "simulated": {"tokens_per_second": 40, "first_token_ms": 0}})
    async with asyncio.timeout(SECONDS), fault_proxy(served.url) as proxy, connect(proxy.url) as chat:
        turn = chat.send("hi")
        frames: list[Frame] = []
        async for frame in turn:
            frames.append(frame)
            if len(frames) in (1, 4, 7, 12):
                proxy.cut()
        page = await chat.history()
        assert chat.ready.resume == "replayed"
    assert said(frames) == page.messages[-1].content == await turn.text()
    assert len(page.messages) == 2


async def test_the_example_runs(serve: Serve) -> None:
    """The example prints an answer to each of its arguments."""
    served = await serve()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parents[1] / "examples" / "python_client.py"),
        "hi",
        "again",
        env={**os.environ, "SERVER_URL": served.url},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert len(out.decode().splitlines()) >= 2


# --- its parts ---


def test_what_the_history_covers_is_no_news() -> None:
    """Frames held over a gap are dropped where the history has them, but for the ends of runs; later ones follow."""
    position = Position()
    position.open_gap(GapFrame(requested=3, earliest=7, epoch="e-1", run=None))
    end = RunFinishedFrame(seq=8, run_id="r", status="completed", reason=None, error=None, usage=None, duration_ms=1)
    held: list[Frame] = [token(7), end, token(9), token(10)]
    assert [position.accept(frame) for frame in [*held, token(10)]] == [False] * 5
    assert position.query() == {"after": "6", "epoch": "e-1"}
    covered, news = position.fill_gap(9)
    assert (covered, news) == ([held[0], held[2]], [end, held[3]])
    assert position.query() == {"after": "10", "epoch": "e-1"}
    assert [position.accept(frame) for frame in (token(10), token(11))] == [False, True]


def test_backoff_doubles_with_full_jitter() -> None:
    """Delays are anywhere from nothing to a bound that doubles from 0.25 to 10 s; refusals wait longer."""

    def bounds(failures: int, code: int) -> tuple[float, float]:
        low, high = (delay(failures, chance, code=code, http_status=None, announced=None) for chance in (0.0, 1.0))
        return low, high

    assert [bounds(n, 1006) for n in range(8)] == [(0, b) for b in (0.25, 0.5, 1, 2, 4, 8, 10, 10)]
    assert [bounds(n, 1013) for n in range(6)] == [(2, 4), (4, 8), (8, 16), (16, 32), (30, 60), (30, 60)]
    assert bounds(0, 4429) == (2, 4)
    assert bounds(10_000, 1006) == (0, 10)
    assert delay(3, 1.0, code=1012, http_status=None, announced=1.5) == 1.5


def test_close_codes_say_whether_to_come_back() -> None:
    """Known codes follow the protocol's table; of unknown ones only those that may pass are tried again."""
    assert all(may_reconnect(code) is code.reconnect for code in CloseCode)
    assert [may_reconnect(code) for code in (1005, 1006, 1014, 3000)] == [True] * 4
    assert [may_reconnect(code) for code in (1002, 1003, 4000, 4999)] == [False] * 4
    assert [may_reconnect(1006, status) for status in (400, 401, 404, 429, 502, 503)] == [False] * 3 + [True] * 3


def token(seq: int, content: str = "x", message_id: str = "a") -> TokenFrame:
    return TokenFrame(seq=seq, run_id="r", message_id=message_id, node="n", content=content)


async def test_untaken_tokens_merge() -> None:
    """Tokens that nobody has taken are joined, up to a bound, and no one else's frame is changed by it."""
    buffer, shared = FrameBuffer(), token(1, "He")
    for frame in (shared, token(2, "l"), token(3, "lo"), token(4, "!", "b")):
        buffer.put(frame)
    first, second = await buffer.get(), await buffer.get()
    assert isinstance(first, TokenFrame)
    assert isinstance(second, TokenFrame)
    assert (first.content, first.seq, second.content, shared.content) == ("Hello", 3, "!", "He")
    for seq in range(100_000):
        buffer.put(token(seq))
    assert len(buffer) <= 100_000 // 4096 + 1


async def test_a_slow_reader_of_all_frames_gets_a_gap() -> None:
    """A bounded buffer drops what waits and says from where to where, also when it overflows again."""
    buffer = FrameBuffer(4, lambda: "e-1")
    for seq in range(1, 11):
        buffer.put(token(seq, message_id=str(seq)))
    gap = await buffer.get()
    assert isinstance(gap, GapFrame)
    assert (gap.requested, gap.epoch) == (1, "e-1")
    rest = await buffer.get()
    assert isinstance(rest, TokenFrame)
    assert rest.seq == gap.earliest
    buffer.put(PongFrame(seq=1))
    assert len(buffer) <= 4


async def test_who_only_sends_keeps_no_frames(server: ScriptedServer) -> None:
    """A chat whose turns are over and whose frames nobody reads holds none of them."""
    async with talking(server) as chat:
        for frame in [chat.frames()]:
            assert frame is not None
        del frame
        for _ in range(5):
            await chat.send("hi").finished()
        gc.collect()
        held = [found for found in gc.get_objects() if isinstance(found, TokenFrame)]
    assert held == []


def test_it_loads_neither_langgraph_nor_the_server() -> None:
    """Importing the client loads of threadwire only what the protocol stands on, and no graph, store or settings."""
    code = "import sys, threadwire.client; print(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = out.stdout.split()
    heavy = ("langgraph", "langchain", "pydantic_settings", "sqlite3", "aiosqlite", "structlog", "yaml", "openai")
    assert [name for name in loaded if name.split(".")[0].startswith(heavy)] == []
    parts = {".".join(name.split(".")[:2]) for name in loaded if name.split(".")[0] == "threadwire"}
    assert parts == {"threadwire"} | {f"threadwire.{part}" for part in ("client", "errors", "jsonsafe", "protocol")}


# --- without async ---


async def in_a_thread(work: Callable[[], Any]) -> Any:
    async with asyncio.timeout(SECONDS):
        return await asyncio.to_thread(work)


async def test_the_synchronous_face(server: ScriptedServer) -> None:
    """A script iterates, asks and cancels without async, and leaves no thread behind."""

    def script() -> list[Any]:
        with connect_sync(server.url) as chat:
            frames = list(chat.send("hi"))
            assert chat.state == "live"
            assert chat.thread_id == chat.ready.thread_id == "t-1"
            assert chat.ping().type == "pong"
            server.script = Script(pause_after=1)
            turn = chat.send("stop")
            turn.ack()
            turn.cancel()
            assert turn.finished().status == "cancelled"
            assert len(chat.history().messages) == 4
            return frames

    frames = await in_a_thread(script)
    assert types(frames) == WHOLE
    assert said(frames) == TEXT
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("threadwire")] == []


async def test_the_synchronous_face_raises_the_same(server: ScriptedServer) -> None:
    """Failures come through as they are."""
    server.errors["send"] = deque([{"code": "busy", "message": "Busy.", "retry": True}])

    def script() -> None:
        with connect_sync(server.url) as chat, pytest.raises(CommandFailed, match="Busy"):
            list(chat.send("hi"))
        server.refusals.append(403)
        with pytest.raises(Disconnected), connect_sync(server.url):
            pytest.fail("was refused")

    await in_a_thread(script)


async def test_giving_up_while_connecting_leaves_nothing(server: ScriptedServer) -> None:
    """Ctrl-C before the server has said anything ends the script at once, its thread and its socket with it."""
    server.faults.append(Fault("silence", after=0))
    code = f"""
import logging, os, signal, sys, threading
from threadwire.client import connect_sync
# In dev mode asyncio tells of each step that took 0.1 s, which on a busy machine any may.
logging.getLogger("asyncio").setLevel(logging.ERROR)
# Where the tests run in a shell's background, it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def press():
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
try:
    with connect_sync({server.url!r}):
        print("connected")
except KeyboardInterrupt:
    print([t.name for t in threading.enumerate() if t.name == "threadwire-client"])
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "dev", "-W", "error", "-c", code),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await until(lambda: server.connections)
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate(b"now\n")
    assert (out.decode().strip(), err.decode()) == ("[]", "")


def test_the_synchronous_face_works_in_a_notebook() -> None:
    """It works in a thread whose event loop runs, as a notebook's does."""
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with scripted_server() as server:
            urls.append(server.url)
            ready.set()
            await until(stop.is_set)

    beside = threading.Thread(target=asyncio.run, args=(serve(),))
    beside.start()
    assert ready.wait(SECONDS)

    async def cell() -> str:
        with connect_sync(urls[0]) as chat:
            return chat.send("hi").text()

    try:
        assert asyncio.run(cell()) == TEXT
    finally:
        stop.set()
        beside.join()


async def test_reconnecting_is_seen(server: ScriptedServer) -> None:
    """Who reads all frames sees a ready of each new connection, with how it resumed."""
    server.faults.append(Fault("abort", after=4))
    async with talking(server) as chat:
        frames = chat.frames()
        await chat.send("hi").finished()
        while not isinstance(frame := await anext(frames), ReadyFrame):
            pass
    assert frame.resume == "replayed"
