"""Several readers of one thread: the same frames for all, each with its own filter, none at another's cost."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from conftest import Serve, Servers
from harness import Provider, Served, Socket, eventually
from process import ServerProcess
from threadwire.http import HUB

TOOL_TURN = '/tool add {"a": 1, "b": 2}\n/tokens 10'
MIB = 1024 * 1024


def numbered(socket: Socket) -> list[bytes]:
    own = ("ready", "history", "pong", "ack", "error", "gap")
    pairs = zip(socket.raw, socket.frames, strict=True)
    return [raw for raw, frame in pairs if frame["type"] not in own]


def kinds(socket: Socket, run_id: str) -> set[str]:
    return {frame["type"] for frame in socket.frames if frame.get("run_id") == run_id}


# --- the same for all ---------------------------------------------------------------------------------------------


async def test_readers_get_the_same_bytes(serve: Serve) -> None:
    """Each reader of a thread gets every frame, whoever sent the turn, in the same bytes."""
    served = await serve()
    readers = [await served.attach("t1") for _ in range(4)]
    for number, reader in enumerate(readers):
        await reader.command("send", content=f"/tokens 20\n/tokens-per-second 500\nfrom {number}")
        await asyncio.gather(*(each.until("run_finished") for each in readers))
    assert len({tuple(numbered(reader)) for reader in readers}) == 1
    assert [len(reader.of("ack")) for reader in readers] == [1, 1, 1, 1]


async def test_threads_do_not_mix(serve: Serve) -> None:
    """A reader gets the frames of its own thread and of no other."""
    served = await serve()
    one, two = await served.attach("t1"), await served.attach("t2")
    await asyncio.gather(one.turn("/tokens 30\n/tokens-per-second 300"), two.turn("hello"))
    assert {f["run_id"] for f in one.of("token")}.isdisjoint(f["run_id"] for f in two.of("token"))
    assert [m["content"] for m in await served.history("t2") if m["role"] == "user"] == ["hello"]


# --- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "hidden"),
    [
        ({}, set()),
        ({"include_types": "tool"}, {"token", "usage"}),
        ({"include_types": "chat_model"}, {"tool_call", "tool_result"}),
        ({"include_types": "chat_model,tool"}, set()),
        ({"exclude_types": "chat_model"}, {"token", "usage"}),
        ({"exclude_names": "add"}, {"tool_call", "tool_result"}),
        ({"include_names": "add"}, {"token", "usage"}),
        ({"include_names": "nobody"}, {"token", "usage", "tool_call", "tool_result"}),
        ({"include_types": "tool", "include_names": "ChatOpenAI"}, set()),
        ({"include_types": "tool", "exclude_names": "add"}, {"token", "usage", "tool_call", "tool_result"}),
    ],
)
async def test_a_filter_hides_only_what_it_names(
    serve: Serve, provider: Provider, query: dict[str, str], hidden: set[str]
) -> None:
    """The six filters act on this reader alone, from its first frame; what is no event always comes."""
    served = await serve("graphs:agent")
    everything, narrow = await served.attach("t1"), await served.attach("t1", **query)
    await everything.command("send", content=TOOL_TURN)
    finished = await everything.until("run_finished")
    await narrow.until("run_finished")
    run_id = finished["run_id"]
    all_kinds = {"run_started", "token", "usage", "tool_call", "tool_result", "run_finished"}
    assert kinds(everything, run_id) - {"message"} >= all_kinds
    assert kinds(narrow, run_id) & all_kinds == all_kinds - hidden
    assert [f for f in numbered(everything) if json.loads(f)["type"] not in hidden] == numbered(narrow)
    # Where it stands counts what its filter hid.
    assert (await narrow.ask("ping"))["seq"] == finished["seq"]


async def test_subscribe_acts_live_and_alone(serve: Serve) -> None:
    """`subscribe` changes in mid-run what this connection sees, and replaces the filter it had."""
    served = await serve()
    one, two = await served.attach("t1", include_types="tool"), await served.attach("t1")
    await two.command("send", content="/tokens 100000\n/tokens-per-second 200")
    await two.until("token")
    assert (await one.ask("ping"))["seq"] >= 1
    assert one.of("token") == []
    assert (await one.ask("subscribe"))["type"] == "ack"
    await one.until("token")
    assert (await one.ask("subscribe", exclude_types=["chat_model"]))["type"] == "ack"
    seen = len(one.of("token"))
    before = await one.ask("ping")
    await two.until("token")
    after = await eventually(lambda: _later_ping(one, before["seq"]), "the hidden frames are passed")
    assert after["seq"] > before["seq"]
    assert len(one.of("token")) == seen
    await two.command("cancel")
    finished = await two.until("run_finished")
    await one.until("run_finished")
    assert (await one.ask("ping"))["seq"] == finished["seq"]
    whole = {f["seq"]: f for f in two.of("token")}
    assert all(whole[f["seq"]] == f for f in one.of("token")), "seq are not renumbered"


async def _later_ping(socket: Socket, seq: int) -> dict[str, Any] | None:
    pong = await socket.ask("ping")
    return pong if pong["seq"] > seq else None


async def test_a_wrong_subscribe_changes_nothing(serve: Serve) -> None:
    """A refused `subscribe` leaves the filter in force."""
    served = await serve()
    socket = await served.attach("t1", include_types="tool")
    assert (await socket.ask("subscribe", include_types=["nonsense", 7]))["code"] == "invalid_argument"
    await socket.turn("hello")
    assert socket.of("token") == []


# --- merging ------------------------------------------------------------------------------------------------------


async def test_a_fast_reader_gets_each_token(serve: Serve) -> None:
    """At a model's usual speed a reader that keeps up gets every token as a frame of its own."""
    served = await serve()
    socket = await served.attach("t1")
    await socket.turn("/tokens 40\n/tokens-per-second 100")
    # A machine that is so busy that a model's tokens come in bursts merges those.
    assert len(socket.of("token")) >= 30


# --- a reader that does not read ----------------------------------------------------------------------------------


class Deaf:
    """A WebSocket client of its own on a raw socket with small buffers: it reads when told to, and not before."""

    def __init__(self, raw: sockets.socket) -> None:
        self._raw = raw
        self._buffer = bytearray()
        self.frames: list[dict[str, Any]] = []

    @classmethod
    async def connect(cls, url: str, query: str) -> Deaf:
        loop = asyncio.get_running_loop()
        raw = sockets.socket()
        # Before connecting: the window is agreed on then.
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.setblocking(False)
        parts = urlsplit(url)
        await loop.sock_connect(raw, (parts.hostname, parts.port))
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET /ws?{query} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        await loop.sock_sendall(raw, f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        deaf = cls(raw)
        while b"\r\n\r\n" not in deaf._buffer:
            deaf._buffer += await loop.sock_recv(raw, 1)
        assert deaf._buffer.startswith(b"HTTP/1.1 101")
        deaf._buffer.clear()
        return deaf

    async def send(self, command: dict[str, Any], pad: int = 0) -> None:
        data = json.dumps(command).encode().ljust(pad)
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        # A mask of zeros masks nothing.
        await asyncio.get_running_loop().sock_sendall(self._raw, b"\x81" + length + bytes(4) + data)

    async def _take(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while len(self._buffer) < count:
                got = await loop.sock_recv(self._raw, 65536)
                assert got, "the server cut the connection"
                self._buffer += got
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def next(self) -> dict[str, Any]:
        """Read the next text frame; pings are passed over."""
        while True:
            first, second = await self._take(2)
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(await self._take(2 if length == 126 else 8), "big")
            data = await self._take(length)
            if first & 0x0F == 1:
                self.frames.append(json.loads(data))
                return self.frames[-1]
            assert first & 0x0F == 9, f"expected text or a ping, got opcode {first & 0x0F}"

    async def until(self, kind: str) -> dict[str, Any]:
        while (frame := await self.next())["type"] != kind:
            pass
        return frame

    def close(self) -> None:
        self._raw.close()


async def _long_turn(
    server: ServerProcess, session: aiohttp.ClientSession, tokens: int, *, stalled: bool
) -> tuple[int, Deaf, Socket]:
    """A turn on a fresh server with two readers, one of them stalled or not; the process's highest memory."""
    # No heartbeat while it is deaf: what is tested is memory, not how soon a dead client is noticed.
    await server.start(SERVER__HEARTBEAT_SECONDS="600", STORAGE__URL=f"sqlite:///{server.name}.db")
    reader = await server.served(session).attach("t1", on_disconnect="continue")
    await reader.turn("warm up")
    deaf = await Deaf.connect(server.url, "thread_id=t1&on_disconnect=continue")
    await deaf.until("ready")
    hearing = None if stalled else asyncio.create_task(deaf.until("run_finished"))
    await deaf.send({"type": "send", "content": f"/tokens {tokens}"})
    while (await _next(reader))["type"] != "run_finished":
        pass
    if hearing is not None:
        await hearing
    return server.memory("VmHWM"), deaf, reader


async def _next(reader: Socket) -> dict[str, Any]:
    """The next frame, unchecked: checking each of 200,000 would take as long as the turn."""
    message = await asyncio.wait_for(reader.ws.receive(), 120)
    assert message.type is aiohttp.WSMsgType.TEXT
    reader.frames.append(json.loads(message.data))
    return reader.frames[-1]


def _consistent(deaf: Deaf, reader: Socket) -> None:
    """The stalled reader has what the other has, in order, to the end, and nothing is missing without a gap."""
    own = ("ready", "ack", "pong", "history", "error", "gap")
    position = deaf.frames[0]["seq"]
    whole = {f["seq"]: f for f in reader.frames if f["type"] not in own}
    for frame in deaf.frames:
        if frame["type"] == "gap":
            assert frame["requested"] == position + 1
            assert frame["earliest"] > position + 1
            position = frame["earliest"] - 1
        elif frame["type"] not in own:
            assert frame["seq"] == position + 1
            assert frame == whole[frame["seq"]]
            position = frame["seq"]
    assert position == max(whole)


@pytest.mark.slow
async def test_a_reader_that_does_not_read_costs_no_memory(servers: Servers, session: aiohttp.ClientSession) -> None:
    """A turn of 200,000 tokens costs at most 32 MiB more where one reader stalls; later it gets all or a gap."""
    tokens = 200_000
    # At the same time, since each is busy with one core: two servers, one with a stalled reader and one without.
    (usual, hearing, _), (memory, deaf, reader) = await asyncio.gather(
        _long_turn(servers("usual"), session, tokens, stalled=False),
        _long_turn(servers("stalled"), session, tokens, stalled=True),
    )
    hearing.close()
    assert reader.text(reader.frames[-1]["run_id"]).count(" ") == tokens
    assert memory - usual < 32 * MIB, f"{memory / MIB:.0f} MiB with, {usual / MIB:.0f} MiB without"
    assert deaf.frames[-1]["type"] == "ready", "it has read nothing"
    await deaf.until("run_finished")
    _consistent(deaf, reader)
    await deaf.send({"type": "ping"})
    assert (await deaf.until("pong"))["seq"] == reader.frames[-1]["seq"]
    deaf.close()


@asynccontextmanager
async def _deaf(served: Served) -> AsyncIterator[Deaf]:
    deaf = await Deaf.connect(served.url, "thread_id=t1&on_disconnect=continue")
    try:
        await deaf.until("ready")
        yield deaf
    finally:
        deaf.close()


async def test_tokens_nobody_has_taken_are_merged(serve: Serve) -> None:
    """A reader that could not be sent anything for a while gets fewer, larger frames, and all of the text."""
    served = await serve("served_graphs:torrent", log={"max_bytes_per_thread": 64 * MIB})
    async with _deaf(served) as deaf:
        # 6 MB fill what the kernel holds for it; the small ones come after that.
        await deaf.send({"type": "send", "content": "3000 3000"})
        await eventually(lambda: served.server.app[HUB].active == 1, "the run has begun")
        await eventually(lambda: served.server.app[HUB].active == 0, "the run has ended")
        await deaf.until("run_finished")
    tokens = [frame["content"] for frame in deaf.frames if frame["type"] == "token"]
    assert "".join(tokens) == (await served.history("t1"))[1]["content"]
    assert "".join(tokens).endswith("w2999 ")
    assert len(tokens) < 3000
    assert max(len(content) for content in tokens) > 4000
    assert [frame for frame in deaf.frames if frame["type"] == "gap"] == []


async def test_a_stalled_reader_is_told_of_its_gap(serve: Serve) -> None:
    """Where the log is too small, the stalled reader is told from which frame on it goes on, and gets the rest."""
    served = await serve("served_graphs:torrent", log={"max_bytes_per_thread": 100_000})
    reader = await served.attach("t1")
    async with _deaf(served) as deaf:
        await deaf.send({"type": "send", "content": "2500 100"})
        await reader.until("run_finished")
        await deaf.until("run_finished")
    assert [frame for frame in deaf.frames if frame["type"] == "gap"]
    _consistent(deaf, reader)


async def test_a_stalled_reader_slows_nobody_down(serve: Serve) -> None:
    """While one reader stalls, another goes on through turn after turn; and its going changes nothing."""
    served = await serve("served_graphs:torrent")
    reader = await served.attach("t1")
    async with _deaf(served):
        for _ in range(2):
            await reader.turn("1500 10")
    await reader.turn("1 1")
    assert [frame["status"] for frame in reader.of("run_finished")] == ["completed"] * 3


async def test_a_client_that_sends_and_does_not_read_is_not_read_from(serve: Serve) -> None:
    """A client that asks and takes no answer is made to wait, its connection only; later it gets each answer."""
    served = await serve()
    reader = await served.attach("t1")
    await reader.turn("x" * 20_000)
    async with _deaf(served) as deaf:
        asked: list[int] = []
        asking = asyncio.create_task(_ask_for_pages(deaf, 800, asked))
        await eventually(lambda: len(asked) > 256, "it has asked for more than it may")
        stuck = 0
        while stuck != len(asked):
            stuck = len(asked)
            await reader.turn("others go on")
        assert not asking.done(), "the server reads no further"
        for number in range(800):
            assert (await deaf.until("history"))["id"] == str(number)
        await asking


async def _ask_for_pages(deaf: Deaf, count: int, asked: list[int]) -> None:
    for number in range(count):
        # Padded, so that it is not the kernel that takes them all.
        await deaf.send({"type": "history", "id": str(number)}, pad=30_000)
        asked.append(number)
