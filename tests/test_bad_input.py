"""Whatever a client sends is answered by name, and everything else goes on working."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

import rawsocket
from conftest import Serve
from harness import DEADLINE, Served, Socket, eventually
from rawsocket import BINARY, CLOSE, PING, PONG, TEXT, RawSocket, connect_raw, frame, shrink_send_buffers
from threadwire.connection import Connection
from threadwire.connector import CONNECTIONS
from threadwire.protocol import MAX_DEPTH, MAX_WAITING_ANSWERS

EXAMPLES = json.loads((Path(__file__).parent / "frames.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
async def nothing_is_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No test leaves a failure that nobody looked at, or a task of a connection."""
    yield
    for raw in rawsocket.OPEN:
        raw.vanish()
    rawsocket.OPEN.clear()
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture
async def served(serve: Serve) -> Served:
    return await serve("graphs:echo")


async def gone(served: Served) -> None:
    """Wait until no connection is left, and none of their tasks."""
    await eventually(lambda: not served.server.app[CONNECTIONS], "the connections are gone")
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith("writer ")]


async def works(socket: Socket) -> None:
    """A connection that answers a ping and holds a conversation."""
    assert (await socket.ask("ping"))["type"] == "pong"
    frames = await socket.turn("still there?")
    assert frames[-1]["status"] == "completed"


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(0, len(EXAMPLES["commands"]["bad"]), 40))
async def test_bad_commands_are_answered(served: Served, start: int) -> None:
    """Each bad command gets one error with its code and field, in order, and the connection lives."""
    socket = await served.attach("t1")
    examples = EXAMPLES["commands"]["bad"][start : start + 40]
    for example in examples:
        await socket.ws.send_str(example["text"] if "text" in example else json.dumps(example["command"]))
    for example in examples:
        error = await socket.next()
        assert (error["type"], error["code"]) == ("error", example["code"]), example
        if "field" in example:
            assert error["message"].startswith(f"{example['field']}: ")
    await works(socket)


async def test_binary_is_a_bad_frame(served: Served) -> None:
    """A binary message is answered, also one that holds a good command."""
    socket = await served.attach("t1")
    for data in (b"", b"\x00\xff", b'{"type":"ping"}'):
        await socket.ws.send_bytes(data)
        error = await socket.next()
        assert (error["type"], error["id"], error["code"]) == ("error", None, "bad_frame")
        assert "binary" in error["message"]
    await works(socket)


async def test_errors_carry_the_id(served: Served) -> None:
    """An error names the command it answers wherever an id could be read, and says null where none could."""
    socket = await served.attach("t1")
    for text, identity in (
        ('{"type":"nope","id":"a"}', "a"),
        ('{"type":"send","id":"b"}', "b"),
        ('{"id":"c"}', "c"),
        ('{"type":"ping","id":5}', None),
        ('{"type":"ping","id":"' + "x" * 100_000 + '"}', None),
        ('{"type":"ping","id":"d"', None),
        ('{"type":"cancel","id":"e"}', "e"),
        ('{"type":"cancel"}', None),
    ):
        await socket.ws.send_str(text)
        error = await socket.next()
        assert (error["type"], error["id"]) == ("error", identity)
        assert len(error["message"]) < 300
    await works(socket)


async def test_commands_without_an_id_are_answered(served: Served) -> None:
    """Without an id a command is answered all the same: an ack or error says null, the others leave it out."""
    socket = await served.attach("t1")
    await socket.command("ping")
    assert "id" not in await socket.next()
    await socket.command("history")
    assert "id" not in await socket.next()
    await socket.command("subscribe", exclude_types=["tool"])
    assert await socket.next() == {"type": "ack", "id": None}
    await socket.command("send", content="hi")
    ack = await socket.next()
    assert (ack["type"], ack["id"]) == ("ack", None)
    await socket.until("run_finished", run_id=ack["run_id"])


async def test_each_command_is_answered_once(served: Served) -> None:
    """A hundred commands of all kinds, good and bad, sent in one go: one answer for each id."""
    socket = await served.attach("t1")
    kinds: list[dict[str, Any]] = [
        {"type": "ping"},
        {"type": "history"},
        {"type": "history", "before": "nothing"},
        {"type": "subscribe"},
        {"type": "subscribe", "raw": True},
        {"type": "cancel", "run_id": "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f"},
        {"type": "nope"},
        {"type": "send"},
        {"type": "send", "content": "a", "run_id": "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e70", "message_id": "m1"},
        {"type": "respond", "responses": {"i": 1}},
        {"type": "regenerate"},
        {"type": "edit", "message_id": "m", "content": "a"},
        {"type": "batch", "inputs": ["a"]},
    ]
    wanted = []
    for n in range(104):
        wanted.append(f"c{n}")
        await socket.ws.send_str(json.dumps({**kinds[n % len(kinds)], "id": wanted[-1]}))
    answers: list[str] = []
    while len(answers) < len(wanted):
        found = await socket.next()
        if "id" in found and found["type"] in ("ack", "error", "history", "pong"):
            answers.append(found["id"])
    assert sorted(answers) == sorted(wanted)
    assert (await socket.ask("ping"))["type"] == "pong"
    ids = [found["id"] for found in socket.frames if found.get("id") in set(wanted)]
    assert sorted(ids) == sorted(wanted)


def nested(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


async def test_deep_content_is_stored_and_sent(served: Served) -> None:
    """As deep as a command may nest it is stored, told, and read back; one deeper is answered with an error."""
    socket = await served.attach("t1")
    # The command, its content and the block are three levels.
    content = [{"type": "text", "text": "deep", "extras": nested(MAX_DEPTH - 3)}]
    await socket.turn(content)
    [message] = socket.of("message")[:1]
    assert message["message"]["content"] == content
    assert (await served.history("t1"))[0]["content"] == content
    error = await socket.ask("send", content=[{"type": "text", "text": "x", "extras": nested(MAX_DEPTH - 2)}])
    assert error["code"] == "bad_frame"
    error = await socket.ask("send", content="x", context={"deep": nested(MAX_DEPTH)})
    assert error["code"] == "bad_frame"
    await works(socket)


async def test_odd_text_is_kept(served: Served) -> None:
    """NUL, control characters, astral and unassigned characters come back as they went in, also from the database."""
    socket = await served.attach("t1")
    text = "a\u0000b\u0001\u001f\u007f\u0085\u2028\ufeff\uffff\U0001f600\U0010ffff\r\n\t\\\"'"
    await socket.turn(text, message_id="id\u0000\u2028")
    history = await served.history("t1")
    assert (history[0]["id"], history[0]["content"]) == ("id\u0000\u2028", text)
    assert history[1]["content"] == f"echo: {text}"
    await works(socket)


async def test_large_numbers_are_taken(served: Served) -> None:
    """Numbers that fit are kept, larger ones become floats as in JavaScript; neither breaks the thread."""
    socket = await served.attach("t1")
    numbers = [2**63, 2**64 - 1, -(2**63), 2**64, 10**30, 1e308, 5e-324, -0.0]
    await socket.ws.send_str(
        json.dumps({"type": "send", "content": [{"type": "text", "text": "n", "extras": {"n": numbers}}]})
    )
    await socket.until("run_finished")
    [user, _] = await served.history("t1")
    assert user["content"][0]["extras"]["n"] == [float(n) if n >= 2**64 else n for n in numbers]
    await works(socket)


# --- frames of the socket -------------------------------------------------------------------------


async def ready(served: Served, **options: Any) -> RawSocket:
    raw = await connect_raw(served, "thread_id=t1", **options)
    assert (await raw.next())["type"] == "ready"
    return raw


async def test_fragmented_messages_are_one(served: Served) -> None:
    """A command may come in pieces, with a ping between them, split inside a character."""
    raw = await ready(served)
    payload = '{"type":"nope","id":"é"}'.encode()
    middle = payload.index("é".encode()) + 1
    raw.send(payload[:5], fin=False)
    raw.send(b"are you there?", PING)
    raw.send(payload[5:middle], 0, fin=False)
    raw.send(payload[middle:], 0)
    assert await raw.receive() == (PONG, b"are you there?")
    assert (await raw.next())["id"] == "é"
    for byte in frame(b'{"type":"ping","id":"slow"}'):
        raw.writer.write(bytes([byte]))
        await raw.writer.drain()
    assert (await raw.next())["id"] == "slow"
    raw.send(b"", CLOSE)
    assert await raw.closed() == 1000
    await gone(served)


BROKEN_FRAMES = [
    (frame(b'{"type":"\xff"}'), 1007),
    (frame(b"\xc3", fin=False) + frame(b"(", 0), 1007),
    (frame(b"\xed\xa0\x80"), 1007),
    (frame(b"x" * 5000), 1009),
    (frame(b"", length=2**62), 1009),
    (frame(b"x" * 600, fin=False) + frame(b"x" * 600, 0), 1009),
    (frame(b"x" * 5000, BINARY), 1009),
    (frame(b"a", 3), 1002),
    (frame(b"a", 15), 1002),
    (frame(b"a", first=0x40), 1002),
    (frame(b"a", first=0x20), 1002),
    (frame(b"a", 0), 1002),
    (frame(b"a", fin=False) + frame(b"b"), 1002),
    (frame(b"a" * 126, PING), 1002),
    (frame(b"", PING, fin=False), 1002),
    (frame(b"\x03", CLOSE), 1002),
    (frame(b"\x03\xed", CLOSE), 1002),
]


async def test_broken_frames_close(serve: Serve) -> None:
    """What breaks the WebSocket protocol is closed with the code for it, also while the client goes on sending."""
    served = await serve("graphs:echo", server={"max_message_bytes": 1000})
    for data, code in BROKEN_FRAMES:
        raw = await ready(served)
        raw.command("ping", id="before")
        raw.writer.write(data + b"more" * 500_000)
        assert (await raw.next())["id"] == "before"
        assert await raw.closed() == code, data[:40]
        await gone(served)
    await works(await served.attach("t1"))


async def test_the_largest_message_fits(serve: Serve) -> None:
    """``max_message_bytes`` is the largest message that is taken; one byte more is 1009."""
    served = await serve("graphs:echo", server={"max_message_bytes": 1000})
    socket = await served.attach("t1")
    text = json.dumps({"type": "ping", "id": "x"}).ljust(1000)
    await socket.ws.send_str(text)
    assert (await socket.next())["type"] == "pong"
    await socket.ws.send_str(text + " ")
    message = await socket.ws.receive()
    assert (message.data, message.extra) == (1009, "a message is larger than server.max_message_bytes: 1000")
    await socket.ws.close()


async def test_too_many_bad_frames_close(served: Served) -> None:
    """The hundredth bad frame of a minute is answered; the one after it is, and then 1008."""
    socket = await served.attach("t1")
    for _ in range(100):
        await socket.ws.send_str("x")
        assert (await socket.next())["code"] == "bad_frame"
    assert (await socket.ask("ping"))["type"] == "pong"
    await socket.ws.send_str("x")
    assert (await socket.next())["code"] == "bad_frame"
    assert await socket.closed() == 1008
    await socket.ws.close()
    await gone(served)


async def test_a_flood_of_bad_frames_is_cut(served: Served) -> None:
    """A client that floods and reads later still gets its answers and the code; what it said after that is dropped."""
    raw = await ready(served)
    for _ in range(20_000):
        raw.send(b"x" * 50)
    raw.command("send", content="too late")
    for _ in range(101):
        assert (await raw.next())["code"] == "bad_frame"
    assert await raw.closed() == 1008
    await gone(served)
    assert await served.history("t1") == []


# --- clients that do not read ---------------------------------------------------------------------


def waiting(connection: Connection) -> int:
    """How many answers wait on a connection."""
    return len(connection._answers._waiting)


async def stalled(served: Served, pings: int = 4000) -> RawSocket:
    """A client that has sent more than it is willing to read the answers of."""
    shrink_send_buffers(served)
    raw = await ready(served, receive_buffer=4096)
    for n in range(pings):
        raw.command("ping", id=f"{n:064d}")
    [connection] = served.server.app[CONNECTIONS]
    await eventually(lambda: connection._answers.full, "the server stops reading")
    return raw


async def test_answers_wait_bounded(served: Served) -> None:
    """A client that sends and does not read is not read from; when it reads, it gets every answer, once, in order."""
    raw = await stalled(served)
    other = await served.attach("t2")
    await works(other)
    await other.ws.close()
    await eventually(lambda: len(served.server.app[CONNECTIONS]) == 1)
    [connection] = served.server.app[CONNECTIONS]
    assert waiting(connection) <= MAX_WAITING_ANSWERS + 1
    for n in range(4000):
        assert (await raw.next())["id"] == f"{n:064d}"
        if n % 100 == 0:
            assert waiting(connection) <= MAX_WAITING_ANSWERS + 1
    raw.send(b"", CLOSE)
    await raw.closed()
    await gone(served)


def resident() -> int:
    """The memory of this process (the server runs in it), in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures by /proc")
async def test_pages_of_history_do_not_pile_up(served: Served) -> None:
    """A hundred large history pages asked for and not read cost the memory of a few."""
    shrink_send_buffers(served)
    socket = await served.attach("t1")
    await socket.turn("x" * 150_000)
    await socket.ws.close()
    await gone(served)
    raw = await ready(served, receive_buffer=4096)
    before = resident()
    for n in range(100):
        raw.command("history", id=str(n))
    [connection] = served.server.app[CONNECTIONS]
    await eventually(lambda: len(connection._pages) > 90, "the commands are read")
    other = await served.attach("t2")
    for _ in range(10):
        await works(other)
    assert len(connection._pages) > 90, "read when they can be sent, and not before"
    assert waiting(connection) <= 2
    assert resident() - before < 15 * 2**20
    for n in range(100):
        page = await raw.next()
        assert (page["id"], len(page["messages"])) == (str(n), 2)
    raw.vanish()
    await other.ws.close()
    await gone(served)


async def test_a_stalled_client_that_vanishes_is_noticed(served: Served) -> None:
    """A lost socket ends the connection also while the server is not reading from it."""
    raw = await stalled(served)
    raw.vanish()
    await gone(served)


async def test_a_stalled_client_is_cut_off(serve: Serve) -> None:
    """A client that neither reads nor answers the heartbeat costs a socket for a while, and not for ever."""
    served = await serve("graphs:echo", server={"heartbeat_seconds": 0.2})
    raw = await stalled(served)
    await gone(served)
    raw.vanish()


async def test_the_heartbeat(serve: Serve) -> None:
    """The server pings; whoever answers stays, whoever does not gets 1001."""
    served = await serve("graphs:echo", server={"heartbeat_seconds": 0.5})
    raw, silent = await ready(served), await ready(served)
    for _ in range(5):
        assert await raw.receive() == (PING, b"")
        raw.send(b"", PONG)
    assert await silent.closed() == 1001
    raw.command("ping", id="here")
    while (found := await raw.receive())[0] == PING:
        raw.send(b"", PONG)
    assert found[0] == TEXT
    raw.vanish()
    await gone(served)


async def test_commands_before_a_close_are_taken(served: Served) -> None:
    """What was sent before the client's own close counts."""
    raw = await ready(served)
    raw.command("send", content="bye", message_id="m1")
    raw.send(b"\x03\xe9going away", CLOSE)
    assert await raw.closed() == 1001

    async def kept() -> bool:
        return [message["id"] for message in await served.history("t1")][:1] == ["m1"]

    await eventually(kept)


# --- before the upgrade ---------------------------------------------------------------------------


async def refusal(response: aiohttp.ClientResponse) -> tuple[int, str, str]:
    """Status, code and message of an error body."""
    assert response.content_type == "application/json"
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return response.status, body["error"]["code"], body["error"]["message"]


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


BAD_PARAMETERS = [
    ("thread_id=", "thread_id"),
    ("thread_id=-a", "thread_id"),
    ("thread_id=a%2Fb", "thread_id"),
    ("thread_id=a%00", "thread_id"),
    ("thread_id=%C3%A9", "thread_id"),
    ("thread_id=a%0A", "thread_id"),
    ("thread_id=" + "a" * 129, "thread_id"),
    ("after=1", "epoch"),
    ("epoch=e", "after"),
    ("after=&epoch=e", "after"),
    ("after=-1&epoch=e", "after"),
    ("after=1.5&epoch=e", "after"),
    ("after=%D9%A1&epoch=e", "after"),
    ("history=0", "history"),
    ("history=all", "history"),
    ("history=-5", "history"),
    ("history=", "history"),
    ("on_disconnect=", "on_disconnect"),
    ("on_disconnect=stay", "on_disconnect"),
    ("raw=yes", "raw"),
    ("raw=", "raw"),
    ("include_names=" + "n" * 257, "include_names.0"),
    ("exclude_tags=" + ",".join("t" * 101), "exclude_tags"),
]


async def test_bad_parameters_are_refused(served: Served) -> None:
    """A malformed parameter is 400 before the upgrade, with a body that names it."""
    for query, field in BAD_PARAMETERS:
        url = URL(f"{served.url}/ws?{query}", encoded=True)
        async with served.session.get(url, headers=UPGRADE) as response:
            status, code, message = await refusal(response)
        assert (status, code) == (400, "invalid_argument"), query
        assert message.startswith(f"{field}: ")
        assert field != "history" or "from 1," in message


@pytest.mark.parametrize("after", [2**53 - 1, 10**15, 10**400], ids=["javascript", "digits", "beyond"])
async def test_any_number_beyond_the_log_is_a_gap(served: Served, after: int) -> None:
    """``after`` may be any whole number: what lies beyond the log's end is lost."""
    socket = await served.attach("t1")
    await socket.turn("hi")
    [ready] = socket.of("ready")
    again = await served.attach("t1", after=after, epoch=ready["epoch"])
    assert [frame["resume"] for frame in again.of("ready")] == ["gap"]


async def test_lists_may_be_repeated(serve: Serve) -> None:
    """A filter's list comes with commas, or as the parameter repeated."""
    served = await serve("stream_graphs:thoughtful")
    url = f"{served.url}/ws?thread_id=t1&exclude_types=tool&exclude_types=llm,chat_model"
    async with served.session.ws_connect(url) as ws:
        await ws.receive_json()
        await ws.send_json({"type": "send", "content": "hi"})
        types: list[str] = []
        while not types or types[-1] != "run_finished":
            types.append((await ws.receive_json())["type"])
    assert types[-1] == "run_finished"
    assert not {"token", "reasoning"} & set(types)


async def test_raw_events_are_refused_where_they_are_not_let_out(served: Served) -> None:
    """``raw`` is 403 where the server lets none out."""
    async with served.session.get(f"{served.url}/ws?raw=true", headers=UPGRADE) as response:
        assert (await refusal(response))[:2] == (403, "forbidden")


async def test_unknown_parameters_are_ignored(served: Served) -> None:
    """A client of a later version can connect."""
    socket = await served.attach("t1", colour="blue", include_types="", exclude_tags="a,,b")
    await works(socket)


async def test_a_plain_request_is_no_upgrade(served: Served) -> None:
    """``GET /ws`` without an upgrade, or with a broken one, is 400 with the error body."""
    for headers in ({}, {**UPGRADE, "Sec-WebSocket-Version": "1"}, {**UPGRADE, "Sec-WebSocket-Key": "short"}):
        async with served.session.get(f"{served.url}/ws", headers=headers) as response:
            assert (await refusal(response))[:2] == (400, "bad_request")
    await gone(served)


FOREIGN_ORIGINS = [
    "http://evil.example",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1:1",
    "http://127.0.0.1",
    "http://localhost:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://127.0.0.1:{port}@evil.example",
    "https://chat.example",
    "https://chat.example:8443",
    "http://chat.example:8443",
    "null",
    "",
    "*",
    "chat.example",
    "http://[::1",
    "http://\u00e9",
]


async def test_foreign_pages_are_refused(serve: Serve) -> None:
    """An Origin whose scheme, host or port is another is 403, for the socket and for whatever changes something."""
    served = await serve("graphs:echo", server={"allowed_origins": ["https://chat.example:8444"]})
    for origin in FOREIGN_ORIGINS:
        headers = {"Origin": origin.format(port=served.server.port)}
        async with served.session.get(f"{served.url}/ws", headers={**UPGRADE, **headers}) as response:
            assert (await refusal(response))[:2] == (403, "forbidden"), origin
        url = f"{served.url}/threads/t1/runs/stream"
        async with served.session.post(url, headers=headers, json={"content": "hi"}) as response:
            assert (await refusal(response))[:2] == (403, "forbidden"), origin


async def test_known_pages_connect(serve: Serve) -> None:
    """No Origin, the server's own and the listed ones pass; a scheme's own port may be left out."""
    served = await serve(
        "graphs:echo", server={"allowed_origins": ["https://chat.example:8444", "https://plain.example"]}
    )
    own = f"http://127.0.0.1:{served.server.port}"
    for origin in (None, own, "HTTPS://Chat.Example:8444", "https://plain.example", "https://plain.example:443"):
        headers = {} if origin is None else {"Origin": origin}
        async with served.session.ws_connect(f"{served.url}/ws", headers=headers) as ws:
            assert (await ws.receive_json(timeout=DEADLINE))["type"] == "ready", origin


HOSTS = [
    ("127.0.0.1", 200),
    ("localhost:1234", 200),
    ("app.localhost", 200),
    ("[::1]:8000", 200),
    ("127.3.2.1", 200),
    ("evil.example", 403),
    ("127.0.0.1.evil.example", 403),
    ("localhost.evil.example", 403),
    ("10.0.0.1", 403),
    ("0.0.0.0", 403),
    ("a:b:c", 403),
    ("a b", 403),
    ("", 403),
]


async def test_the_server_is_reached_by_a_loopback_name(served: Served) -> None:
    """Where nobody is asked who they are, a name that is not this machine's is refused (DNS rebinding)."""
    for host, status in HOSTS:
        async with served.session.get(f"{served.url}/healthz", headers={"Host": host}) as response:
            assert response.status == status, host
            if status == 403:
                assert (await refusal(response))[1] == "forbidden"


# --- beside the socket ----------------------------------------------------------------------------


REFUSALS = [
    ("GET", "/nothing", 404, "not_found"),
    ("GET", "/healthz/", 404, "not_found"),
    ("GET", "/ws/", 404, "not_found"),
    ("POST", "/threads/t1/runs", 404, "not_found"),
    ("GET", "/%00", 404, "not_found"),
    ("POST", "/healthz", 405, "method_not_allowed"),
    ("PUT", "/ws", 405, "method_not_allowed"),
    ("GET", "/threads/t1/runs/stream", 405, "method_not_allowed"),
    ("DELETE", "/threads/t1", 404, "not_found"),
    ("DELETE", "/threads/%20", 400, "invalid_argument"),
    ("POST", "/threads/-/runs/stream", 400, "invalid_argument"),
    ("POST", "/threads/t1/runs/x/cancel", 400, "invalid_argument"),
    ("POST", "/threads/t1/runs/0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f/cancel", 404, "no_such_run"),
    ("POST", "/threads/t1/runs/stream?on_disconnect=x", 400, "invalid_argument"),
]


async def test_routes_refuse_by_name(served: Served) -> None:
    """Every refusal has its status and the error body, and says which methods there are."""
    for method, path, status, code in REFUSALS:
        url = URL(f"{served.url}{path}", encoded=True)
        async with served.session.request(method, url) as response:
            found = await refusal(response)
            assert found[:2] == (status, code), path
            if status in (404, 405):
                # Also what aiohttp refuses is told as all else is.
                assert found[2][0].isupper(), found[2]
                assert found[2][-1] == ".", found[2]
                assert b'": ' not in await response.read()
            assert ("Allow" in response.headers) is (status == 405)


BAD_BODIES = [
    (b"", 400, "bad_frame", ""),
    (b"hello", 400, "bad_frame", ""),
    (b"[]", 400, "bad_frame", "a list"),
    (b"\xff{}", 400, "bad_frame", ""),
    (b"content=hi", 400, "bad_frame", ""),
    (b"{}", 400, "invalid_argument", "content: "),
    (b'{"content":5}', 400, "invalid_argument", "content: "),
    (b'{"content":"a","type":"cancel"}', 400, "invalid_argument", "content: "),
    (b'{"type":"cancel"}', 400, "invalid_argument", "type: "),
    (b'{"content":"a","type":"nope"}', 400, "unknown_command", ""),
    (b'{"content":"a","run_id":"x"}', 400, "invalid_argument", "run_id: "),
    (b'{"content":"a","multitask_strategy":"merge"}', 400, "invalid_argument", "multitask_strategy: "),
    (b'{"content":[{"type":"text","text":"a","x":' + b"[" * 70 + b"]" * 70 + b"}]}", 400, "bad_frame", "64"),
    (b'{"content":"' + b"x" * 2000 + b'"}', 413, "too_large", ""),
    (b"x" * 900_000, 413, "too_large", ""),
]


async def test_bad_bodies_are_refused(serve: Serve) -> None:
    """A stream that cannot be is refused with the error body before anything is streamed, and makes no thread."""
    served = await serve("graphs:echo", server={"max_message_bytes": 1000})
    for body, status, code, says in BAD_BODIES:
        async with served.session.post(f"{served.url}/threads/t1/runs/stream", data=body) as response:
            found = await refusal(response)
        assert found[:2] == (status, code), body[:60]
        assert says in found[2]
    socket = await served.connect("t1")
    assert (await socket.next())["created"] is True
