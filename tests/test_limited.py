"""Limits over real sockets: who is refused hears of which limit and until when; who waits hears their place."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conftest import Serve, Servers
from harness import Served, Socket, eventually
from rawsocket import connect_raw, shrink_send_buffers
from threadwire.connector import ALLOWANCE, CONNECTIONS
from threadwire.limits import day_of, seconds_left
from threadwire.settings import WITH_AUTH, Limits

ENDLESS = "/tokens 100000\n/tokens-per-second 50"
TOKENS = {"ada": "a" * 40, "bob": "b" * 40}
AUTH = {"mode": "tokens", "tokens": TOKENS}
LONG_IMAGE = [{"type": "image", "base64": "A" * 4000, "mime_type": "image/png"}]


async def attach_as(served: Served, user: str) -> Socket:
    """A socket of a user's, on a new thread."""
    headers = {"Authorization": f"Bearer {TOKENS[user]}"}
    ws = await served.session.ws_connect(f"{served.url}/ws", headers=headers, max_msg_size=0, autoclose=False)
    socket = Socket(ws)
    served.sockets.append(socket)
    assert (await socket.next())["type"] == "ready"
    return socket


async def refused(response: aiohttp.ClientResponse) -> tuple[int, str, str]:
    """Status, code and message; what comes too early says when to come again."""
    error = (await response.json())["error"]
    assert (response.status == 429) is ("Retry-After" in response.headers)
    assert int(response.headers.get("Retry-After", 1)) >= 1
    return response.status, error["code"], error["message"]


# --- connections ------------------------------------------------------------------------------------------------------


async def why_closed(socket: Socket) -> tuple[int, str]:
    message = await socket.ws.receive()
    assert message.type is aiohttp.WSMsgType.CLOSE
    await socket.ws.close()
    return int(message.data), str(message.extra)


@pytest.mark.parametrize("limit", ["connections_per_user", "connections_per_address"])
async def test_connections(serve: Serve, limit: str) -> None:
    """One too many closes with 4429, whose reason names the limit and when; once one has gone there is room."""
    served = await serve("graphs:echo", limits={limit: 2})
    first, second = await served.attach(), await served.attach()
    code, reason = await why_closed(await served.connect())
    assert (code, reason) == (4429, f"limits.{limit} is 2: try again in 10 s.")
    assert (await second.ask("ping"))["type"] == "pong"
    await first.ws.close()

    async def room() -> bool:
        socket = await served.connect()
        message = await socket.ws.receive()
        return message.type is aiohttp.WSMsgType.TEXT

    await eventually(room, "there is room again")


async def test_a_stream_is_a_connection(serve: Serve) -> None:
    """A stream over HTTP counts, and is refused with 429 and ``Retry-After``."""
    served = await serve(limits={"connections_per_user": 1})
    url = f"{served.url}/threads/t1/runs/stream"
    async with served.session.post(url, json={"content": ENDLESS}) as streaming:
        await streaming.content.readline()
        for path, body in (
            ("/threads/t2/runs/stream", {"content": "hi"}),
            ("/runs/batch", {"inputs": ["hi"]}),
        ):
            async with served.session.post(f"{served.url}{path}", json=body) as response:
                status, code, message = await refused(response)
                assert (status, code) == (429, "rate_limited")
                assert "limits.connections_per_user is 1" in message


async def test_upgrades(serve: Serve) -> None:
    """Too many upgrades within a second close with 4429."""
    served = await serve("graphs:echo", limits={"upgrades_per_second": 3})
    sockets = await asyncio.gather(*(served.connect() for _ in range(12)))
    first = [await socket.ws.receive() for socket in sockets]
    closed = [message for message in first if message.type is aiohttp.WSMsgType.CLOSE]
    assert len(closed) >= 1
    assert len(first) - len(closed) >= 3
    assert {message.data for message in closed} == {4429}
    assert all("limits.upgrades_per_second is 3" in str(message.extra) for message in closed)


# --- commands and turns -----------------------------------------------------------------------------------------------


async def test_commands(serve: Serve) -> None:
    """Each command over the limit is answered with its id, the limit and the wait; after that wait it is taken."""
    served = await serve("graphs:echo", limits={"commands_per_second": 5})
    socket = await served.attach()
    for number in range(150):
        await socket.command("ping", id=str(number))
    answers = [await socket.next() for _ in range(150)]
    assert [answer["id"] for answer in answers] == [str(number) for number in range(150)]
    errors = [answer for answer in answers if answer["type"] == "error"]
    assert errors
    for error in errors:
        assert (error["code"], error["retry"]) == ("rate_limited", True)
        assert "limits.commands_per_second is 5" in error["message"]
        assert 0 < error["retry_after_seconds"] <= 1

    async def taken() -> bool:
        return bool((await socket.ask("ping"))["type"] == "pong")

    await eventually(taken)


async def test_requests(serve: Serve) -> None:
    """Requests over HTTP are commands; probes, the page and the protocol are not."""
    served = await serve("graphs:echo", limits={"commands_per_second": 1})

    async def get(path: str) -> int:
        async with served.session.get(f"{served.url}{path}") as response:
            return response.status

    async def too_many() -> bool:
        async with served.session.post(f"{served.url}/threads/count", json={}) as response:
            if response.status != 429:
                return False
            status, code, message = await refused(response)
            assert (status, code) == (429, "rate_limited")
            assert "limits.commands_per_second is 1" in message
            return True

    await eventually(too_many)
    for path in ("/healthz", "/readyz", "/protocol.json", "/") * 3:
        assert await get(path) == 200


async def test_turns(serve: Serve) -> None:
    """Turns over the limit are refused on the socket and over HTTP; a repeat of one that was taken is not."""
    served = await serve("graphs:echo", limits={"turns_per_minute": 2})
    socket = await served.attach("t1")
    ids = {"run_id": "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f", "message_id": "m1"}
    await socket.turn("one", **ids)
    await socket.turn("two")
    error = await socket.ask("send", content="three")
    assert (error["code"], error["retry"]) == ("rate_limited", True)
    assert "limits.turns_per_minute is 2" in error["message"]
    assert 0 < error["retry_after_seconds"] <= 60
    assert (await socket.ask("regenerate"))["code"] == "rate_limited"
    assert (await socket.ask("batch", inputs=["x"]))["code"] == "rate_limited"
    assert (await socket.ask("send", content="one", **ids))["duplicate"] is True
    for path, body in (("/threads/t2/runs/stream", {"content": "x"}), ("/runs/batch", {"inputs": ["x"]})):
        async with served.session.post(f"{served.url}{path}", json=body) as response:
            assert (await refused(response))[:2] == (429, "rate_limited")
    assert [m["content"] for m in await served.history("t1") if m["role"] == "user"] == ["one", "two"]


async def test_attachments(serve: Serve) -> None:
    """An attachment over the limit is ``too_large``, in a send, an edit, a batch, and over HTTP with 413."""
    served = await serve("graphs:echo", limits={"attachment_bytes": 2999})
    socket = await served.attach("t1")
    await socket.turn("one", message_id="m1")
    for kind, fields in (
        ("send", {"content": LONG_IMAGE}),
        ("edit", {"message_id": "m1", "content": LONG_IMAGE}),
        ("batch", {"inputs": ["x", LONG_IMAGE]}),
    ):
        error = await socket.ask(kind, **fields)
        assert error["code"] == "too_large", kind
        assert "limits.attachment_bytes is 2999" in error["message"]
    url = f"{served.url}/threads/t1/runs/stream"
    async with served.session.post(url, json={"content": LONG_IMAGE}) as response:
        assert (await refused(response))[:2] == (413, "too_large")


async def test_tokens_of_a_day(serve: Serve, tmp_path: Path) -> None:
    """A user who has used up the day's tokens is refused until the next, also after a restart and by whatever way."""
    database = tmp_path / "kept.db"
    limits = {"tokens_per_day_per_user": 5}
    served = await serve(limits=limits, database=database)
    socket = await served.attach("t1")
    await socket.turn("/tokens 20")
    error = await socket.ask("send", content="more")
    assert (error["code"], error["retry"]) == ("quota_exceeded", True)
    assert "limits.tokens_per_day_per_user" in error["message"]
    assert 0 < error["retry_after_seconds"] <= 86_400
    async with served.session.delete(f"{served.url}/threads/t1") as response:
        assert response.status == 204
    await socket.ws.close()
    await served.server.close()
    served = await serve(limits=limits, database=database)
    socket = await served.attach("t2")
    assert (await socket.ask("send", content="more"))["code"] == "quota_exceeded"
    for path, body in (("/threads/t3/runs/stream", {"content": "x"}), ("/runs/batch", {"inputs": ["x"]})):
        async with served.session.post(f"{served.url}{path}", json=body) as response:
            assert (await refused(response))[:2] == (429, "quota_exceeded")
    await socket.ask("batch", inputs=["x"])
    assert (await socket.until("batch_result"))["error"]["code"] == "quota_exceeded"


async def test_a_batch_spends_tokens(serve: Serve) -> None:
    """What runs without a thread is counted too; inputs that are left when the tokens are used up are refused."""
    served = await serve(limits={"tokens_per_day_per_user": 5, "max_batch_concurrency": 1})
    socket = await served.attach()
    await socket.ask("batch", inputs=["/tokens 20", "x"])
    await socket.until("run_finished")
    results = socket.of("batch_result")
    assert "message" in results[0]
    assert results[1]["error"]["code"] == "quota_exceeded"


async def test_what_waits_for_a_client_that_does_not_read(serve: Serve) -> None:
    """Beside the log no more than ``buffered_bytes`` and one frame wait for it, however much is said."""
    # Raw events have the prompt, which is let out here.
    agent = {"system_prompt": "Be kind."}
    served = await serve(limits={"buffered_bytes": 4096}, events={"allow_raw": True}, agent=agent)
    shrink_send_buffers(served)
    raw = await connect_raw(served, "thread_id=t1&raw=true", receive_buffer=4096)
    assert (await raw.next())["type"] == "ready"
    talker = await served.attach("t1")
    before = served.server.app[CONNECTIONS]
    [stalled] = [one for one in before if one._raw.filter is not None]
    most = 0
    await talker.command("send", content="/tokens 5000\n/tokens-per-second 0")
    while (await talker.next())["type"] != "run_finished":
        transport = stalled._ws._transport
        assert transport is not None
        assert stalled._raw._bytes <= 4096
        most = max(most, transport.get_write_buffer_size())
    # A frame has at most 16,384 characters.
    assert 0 < most < 4096 + 2 * 16_384
    raw.vanish()


async def test_ready_tells_what_a_client_may_know(serve: Serve) -> None:
    """``ready.limits`` has the client's own limits, as numbers, and none that are about others."""
    served = await serve("graphs:echo", limits={"commands_per_second": 7, "connections_per_address": 9})
    limits = (await (await served.connect()).next())["limits"]
    assert limits == {
        "max_message_bytes": 1_048_576,
        "history_page": 100,
        "max_queued": 16,
        "batch_inputs": 1000,
        "max_batch_concurrency": 8,
        "attachment_bytes": 786_432,
        "commands_per_second": 7,
        "concurrent_runs_per_user": 0,
        "connections_per_user": 0,
        "tokens_per_day_per_user": 0,
        "turns_per_minute": 0,
    }


def test_defaults_are_by_mode() -> None:
    """Unless it is set, nothing limits users and addresses where nobody is told apart; else there are defaults."""
    none, tokens = Limits().of_mode("none"), Limits(turns_per_minute=0).of_mode("tokens")
    assert all(getattr(none, name) == 0 for name in WITH_AUTH)
    assert {name: getattr(tokens, name) for name in WITH_AUTH} == {**WITH_AUTH, "turns_per_minute": 0}
    assert Limits(turns_per_minute=3).of_mode("none").turns_per_minute == 3
    described = {name: info.description or "" for name, info in Limits.model_fields.items()}
    assert all(f"null: {value}, with auth.mode none 0" in described[name] for name, value in WITH_AUTH.items())


# --- the line ---------------------------------------------------------------------------------------------------------


async def in_line(socket: Socket, content: str = "hi", **fields: Any) -> tuple[str, int]:
    """Send something that has to wait; its run and the place it is told."""
    ack = await socket.ask("send", content=content, **fields)
    queued = await socket.until("run_queued", run_id=ack["run_id"])
    return ack["run_id"], queued["position"]


async def speaking(socket: Socket) -> str:
    ack = await socket.ask("send", content=ENDLESS)
    await socket.until("token")
    return str(ack["run_id"])


async def test_runs_wait_in_line(serve: Serve) -> None:
    """Over ``concurrent_runs`` turns wait, are told their place, and run as their time comes."""
    served = await serve(limits={"concurrent_runs": 1})
    one, two, three = [await served.attach(name) for name in ("t1", "t2", "t3")]
    await speaking(one)
    second, place = await in_line(two)
    assert place == 1
    third, place = await in_line(three)
    assert place == 2
    assert two.of("run_started") == []
    again = await served.connect("t2")
    ready = await again.next()
    assert (ready["run"], [turn["run_id"] for turn in ready["queue"]]) == (None, [second])
    await one.ask("cancel")
    assert (await two.until("run_finished"))["status"] == "completed"
    assert (await three.until("run_finished", run_id=third))["status"] == "completed"
    assert served.server.app[ALLOWANCE].line.running == 0


async def test_who_waits_can_be_cancelled(serve: Serve) -> None:
    """A turn in line is taken back as any that waits, named or not, and leaves no message; the line moves on."""
    served = await serve(limits={"concurrent_runs": 1})
    one, two, three = [await served.attach(name) for name in ("t1", "t2", "t3")]
    await speaking(one)
    named, _ = await in_line(two)
    unnamed, _ = await in_line(three)
    assert (await two.ask("cancel", run_id=named))["type"] == "ack"
    assert (await three.ask("cancel"))["run_id"] == unnamed
    for socket, run_id in ((two, named), (three, unnamed)):
        assert (await socket.until("run_finished", run_id=run_id))["reason"] == "client"
    assert len(served.server.app[ALLOWANCE].line) == 0
    assert await served.history("t2") == []
    run_id, place = await in_line(two, "again")
    assert place == 1
    await one.ask("cancel")
    assert (await two.until("run_finished", run_id=run_id))["status"] == "completed"


async def test_a_thread_keeps_its_order_in_line(serve: Serve) -> None:
    """What waits behind a turn in line is told its place on the thread; what wants a thread at rest is busy."""
    served = await serve(limits={"concurrent_runs": 1})
    one, two = await served.attach("t1"), await served.attach("t2")
    await two.turn("before", message_id="m0")
    await speaking(one)
    first, place = await in_line(two, "first")
    assert place == 1
    second, place = await in_line(two, "second")
    assert place == 2
    assert (await two.ask("regenerate"))["code"] == "busy"
    assert (await two.ask("edit", message_id="m0", content="x"))["code"] == "busy"
    assert (await two.ask("send", content="x", multitask_strategy="reject"))["code"] == "busy"
    third, _ = await in_line(two, "third", multitask_strategy="interrupt")
    for run_id in (first, second):
        assert (await two.until("run_finished", run_id=run_id))["reason"] == "superseded"
    await one.ask("cancel")
    assert (await two.until("run_finished", run_id=third))["status"] == "completed"
    users = [message["content"] for message in await served.history("t2") if message["role"] == "user"]
    assert users == ["before", "first", "second", "third"]


async def test_it_follows_its_reader_out_of_the_line(serve: Serve) -> None:
    """A turn in line whose reader has left ends, and so does a thread that is deleted."""
    served = await serve(limits={"concurrent_runs": 1})
    one, two, three = [await served.attach(name) for name in ("t1", "t2", "t3")]
    await speaking(one)
    await in_line(two)
    await in_line(three)
    line = served.server.app[ALLOWANCE].line
    await two.ws.close()
    await eventually(lambda: len(line) == 1, "the one that left is out of the line")
    async with served.session.delete(f"{served.url}/threads/t3") as response:
        assert response.status == 204
    assert len(line) == 0
    assert line.running == 1


async def test_users_take_turns(serve: Serve) -> None:
    """Somebody's many threads do not keep another user waiting, who goes first as soon as there is room."""
    served = await serve(auth=AUTH, limits={"concurrent_runs": 1, "concurrent_runs_per_user": 0})
    greedy = [await attach_as(served, "ada") for _ in range(4)]
    await speaking(greedy[0])
    for place, socket in enumerate(greedy[1:], start=1):
        assert (await in_line(socket))[1] == place
    other = await attach_as(served, "bob")
    # Ada has had her turn of the round.
    run_id, place = await in_line(other)
    assert place == 2
    assert (await greedy[0].ask("cancel"))["type"] == "ack"
    await other.until("run_finished", run_id=run_id)
    for socket in greedy[1:]:
        await socket.until("run_finished")


async def test_one_user_may_run_so_many(serve: Serve) -> None:
    """Over ``concurrent_runs_per_user`` a user's own wait, and others do not notice."""
    served = await serve(auth=AUTH, limits={"concurrent_runs_per_user": 1})
    first, second = [await attach_as(served, "ada") for _ in range(2)]
    await speaking(first)
    run_id, _ = await in_line(second)
    other = await attach_as(served, "bob")
    assert (await other.turn("hello"))[-1]["status"] == "completed"
    assert second.of("run_started") == []
    await first.ask("cancel")
    assert (await second.until("run_finished", run_id=run_id))["status"] == "completed"


async def test_batches_stand_in_line(serve: Serve) -> None:
    """Each input of a batch takes a place; a batch that waits can be cancelled."""
    served = await serve(limits={"concurrent_runs": 1})
    one, two = await served.attach("t1"), await served.attach("t2")
    await speaking(one)
    ack = await two.ask("batch", inputs=["a", "b", "c"])
    line = served.server.app[ALLOWANCE].line
    await eventually(lambda: len(line) == 3, "all inputs wait")
    await two.command("cancel", run_id=ack["run_id"])
    assert (await two.until("run_finished"))["reason"] == "client"
    assert (len(line), line.running) == (0, 1)
    await two.ask("batch", inputs=["a", "b", "c"])
    await one.ask("cancel")
    assert (await two.until("run_finished"))["status"] == "completed"
    assert len(two.of("batch_result")) == 3


async def test_a_crash_forgets_no_place(servers: Servers, session: aiohttp.ClientSession) -> None:
    """What stood in line runs after a crash, each turn once, and never more at a time than may."""
    server = servers("server")
    await server.start(limits__concurrent_runs="1")
    served = server.served(session)
    one, two = await served.attach("t1"), await served.attach("t2")
    first = await speaking(one)
    second, _ = await in_line(two, "kept", message_id="m2")
    await server.kill()
    await server.start(limits__concurrent_runs="1")
    served = server.served(session)
    one, two = await served.attach("t1"), await served.attach("t2", history="10")

    async def ended() -> Any:
        async with session.get(f"{served.url}/threads/t2") as response:
            # An answer is in the history before its run is over.
            idle = (await response.json())["status"] == "idle"
        messages = await served.history("t2")
        return messages if idle and [m["role"] for m in messages] == ["user", "assistant"] else None

    messages = await eventually(ended, "what waited has run")
    assert messages[0]["content"] == "kept"
    for socket, run_id in ((one, first), (two, second)):
        answer = await socket.ask("cancel", run_id=run_id)
        assert answer["code"] == "no_active_run"


@pytest.fixture(autouse=True)
async def not_at_midnight() -> None:
    """Tokens are by the day: a test that begins in its last minute waits for the next."""
    day = day_of(time.time())
    if seconds_left(time.time()) < 60:
        await eventually(lambda: day_of(time.time()) > day, "the next day", 61)
