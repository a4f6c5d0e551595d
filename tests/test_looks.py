"""A provider's stream is looked at at each piece while there is time, and at several while there is little."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx2
import pytest

from harness import DEADLINE, eventually
from model_kit import Steady
from threadwire.models import looks
from threadwire.models.busy import Busy
from threadwire.models.transport import AiohttpTransport

#: Long enough for a slow machine to write a few words in.
LONG = 2.0
ONE, TWO = b"data: one", b"data: two"
marked = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux wakes who waits when a socket's mark is taken back"
)


@dataclass
class Provider:
    """Answers each request with events; what it says, and when, is the test's."""

    url: str = ""
    connections: int = 0
    lost: int = 0
    asked: asyncio.Queue[asyncio.StreamWriter] = field(default_factory=asyncio.Queue)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                await self.asked.put(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost += 1
        writer.close()


async def say(writer: asyncio.StreamWriter, *words: bytes) -> None:
    """Each in a piece of its own."""
    for word in words:
        writer.write(b"%x\r\n%s\r\n" % (len(word), word))
        await writer.drain()


async def read(writer: asyncio.StreamWriter, pieces: AsyncIterator[bytes], *words: bytes) -> None:
    """Each is read before the next is said."""
    for word in words:
        await say(writer, word)
        assert await anext(pieces) == word


@asynccontextmanager
async def talking(share: float) -> AsyncIterator[tuple[Provider, httpx2.AsyncClient]]:
    """A provider, and a client whose loop is so busy."""
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with httpx2.AsyncClient(transport=AiohttpTransport(Steady(share)), timeout=DEADLINE) as client:
        yield provider, client
    server.close()


async def test_with_time_each_word_comes_by_itself() -> None:
    """Nothing is put off."""
    async with talking(0.0) as (provider, client), client.stream("GET", provider.url) as response:
        writer, pieces = await provider.asked.get(), response.aiter_raw()
        await read(writer, pieces, b"one", b"two", b"three")
        await say(writer, b"")
        assert [piece async for piece in pieces] == []


@marked
async def test_without_time_words_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two come at once, and tell the pace; those that follow closely are read in one, and none is missing."""
    monkeypatch.setattr(looks, "LONGEST", LONG)
    async with talking(1.0) as (provider, client), client.stream("GET", provider.url) as response:
        writer, pieces = await provider.asked.get(), response.aiter_raw()
        await read(writer, pieces, ONE, TWO)
        began = time.monotonic()
        await say(writer, b"data: three", b"data: four", b"")
        assert [piece async for piece in pieces] == [b"data: threedata: four"]
        assert time.monotonic() - began > LONG / 2


async def test_much_is_worth_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long there would be to wait; and who has the connection next is not left alone."""
    monkeypatch.setattr(looks, "LONGEST", 10 * DEADLINE)
    much = b"data: " + b"x" * looks.ENOUGH
    async with talking(1.0) as (provider, client), asyncio.timeout(DEADLINE):
        for _ in range(3):
            async with client.stream("GET", provider.url) as response:
                writer, pieces = await provider.asked.get(), response.aiter_raw()
                await read(writer, pieces, ONE, TWO, much)
                await say(writer, much, b"")
                assert b"".join([piece async for piece in pieces]) == much
        assert provider.connections == 1


@marked
async def test_the_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stream's last words comes what ends the body, at once or a little later."""
    monkeypatch.setattr(looks, "LONGEST", 10 * DEADLINE)
    last = b"data: " + b"x" * looks.ENOUGH + b"\n\ndata: [DONE]\n\n"
    async with talking(1.0) as (provider, client), client.stream("GET", provider.url) as response:
        writer, pieces = await provider.asked.get(), response.aiter_raw()
        await read(writer, pieces, ONE, TWO, last)
        await say(writer, b"")
        async with asyncio.timeout(DEADLINE):
            assert [piece async for piece in pieces] == []


async def test_streams_wait_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is closed, or has more to say, takes none along."""
    monkeypatch.setattr(looks, "LONGEST", 0.5)
    async with talking(1.0) as (provider, client), AsyncExitStack() as stack:
        streams = []
        for _ in range(3):
            response = await stack.enter_async_context(client.stream("GET", provider.url))
            streams.append((response, await provider.asked.get(), response.aiter_raw()))
        for word in (ONE, TWO):
            for _, writer, pieces in streams:
                await say(writer, word)
                assert await anext(pieces) == word
        await streams[0][0].aclose()
        for _, writer, pieces in streams[1:]:
            await say(writer, b"data: three")
            assert await anext(pieces) == b"data: three"
            await say(writer, b"data: four", b"")
            assert [piece async for piece in pieces] == [b"data: four"]


async def test_closed_while_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stops does not wait: the provider hears of it at once."""
    monkeypatch.setattr(looks, "LONGEST", 10 * DEADLINE)
    async with talking(1.0) as (provider, client):
        async with client.stream("GET", provider.url) as response:
            writer, pieces = await provider.asked.get(), response.aiter_raw()
            await read(writer, pieces, ONE, TWO)
        await eventually(lambda: provider.lost == 1)


async def test_cut_while_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before is read, then the loss is told, both at once."""
    monkeypatch.setattr(looks, "LONGEST", 10 * DEADLINE)
    async with talking(1.0) as (provider, client), client.stream("GET", provider.url) as response:
        writer, pieces = await provider.asked.get(), response.aiter_raw()
        await read(writer, pieces, ONE, TWO)
        await say(writer, b"data: three")
        writer.close()
        async with asyncio.timeout(DEADLINE):
            assert await anext(pieces) == b"data: three"
            with pytest.raises(httpx2.RemoteProtocolError):
                await anext(pieces)


class Clock:
    """The time that a look has."""

    def __init__(self) -> None:
        self.now = 1.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Transport:
    """One of which only the socket matters."""

    ours: socket.socket

    def get_extra_info(self, name: str) -> socket.socket | None:
        return self.ours if name == "socket" else None

    def is_closing(self) -> bool:
        return False

    @property
    def least(self) -> int:
        return self.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@contextmanager
def looking(monkeypatch: pytest.MonkeyPatch, busy: Steady) -> Iterator[tuple[looks.Looks, Transport, Clock]]:
    clock, (ours, theirs) = Clock(), socket.socketpair()
    monkeypatch.setattr(looks, "time", clock)
    with ours, theirs:
        transport = Transport(ours)
        yield looks.Looks(busy, transport), transport, clock  # type: ignore[arg-type]


@marked
@pytest.mark.parametrize(
    ("a_second", "share", "events"),
    [
        (5, 1.0, 0),
        (30, 1.0, 0),
        (31, 1.0, 2),
        (50, 1.0, 3),
        (100, 1.0, 6),
        (50, 0.5, 0),
        (100, 0.5, 3),
        (1000, 1.0, 20),
    ],
)
async def test_how_many_events_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, a_second: float, share: float, events: int
) -> None:
    """As many as come in the time there is, and at most a few kilobytes; none where that would be one."""
    event = b"data: " + b"x" * 194
    with looking(monkeypatch, Steady(share)) as (look, transport, clock):
        for _ in range(40):
            look.took(event)
            clock.now += 1 / a_second
        expected = min(looks.ENOUGH, (events - 0.5) * len(event)) if events else 1
        assert transport.least == pytest.approx(expected, rel=0.1, abs=1)
        look.leave()
        assert transport.least == 1


@marked
async def test_a_pace_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that becomes slow is read as its events come; a loop with time to spare reads each."""
    event, busy = b"data: " + b"x" * 194, Steady(1.0)
    with looking(monkeypatch, busy) as (look, transport, clock):

        def say(count: int, a_second: float) -> None:
            for _ in range(count):
                clock.now += 1 / a_second
                look.took(event)

        say(30, 100)
        assert transport.least > 5 * len(event)
        say(30, 5)
        assert transport.least == 1
        say(30, 100)
        assert transport.least > 5 * len(event)
        busy.is_so(0.0)
        say(1, 100)
        assert transport.least == 1


@marked
async def test_two_that_come_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two events, one right after the other, say little of the pace; it is soon known better."""
    event = b"data: " + b"x" * 194
    with looking(monkeypatch, Steady(1.0)) as (look, transport, clock):
        for pause, count in ((0.0, 1), (0.0005, 1), (looks.LONGEST, 3)):
            clock.now += pause
            look.took(count * event)
        assert transport.least == pytest.approx(1.5 * len(event), abs=1)


async def test_a_system_without_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is read as it comes, as everywhere."""

    class Refusing(socket.socket):
        def setsockopt(self, *_: object) -> None:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    clock = Clock()
    monkeypatch.setattr(looks, "time", clock)
    with Refusing() as refusing:
        look = looks.Looks(Steady(1.0), Transport(refusing))  # type: ignore[arg-type]
        for _ in range(40):
            assert look.took(ONE)
            clock.now += 0.01
        look.leave()


@pytest.mark.parametrize(("load", "share"), [(0.0, 0.0), (0.1, 0.0), (0.125, 0.5), (0.15, 1.0), (1.0, 1.0)])
def test_a_loop_knows_how_busy_it_is(load: float, share: float) -> None:
    """From a tenth of its time on it begins to spare looks; what was is forgotten soon."""
    now = worked = 0.0
    busy = Busy(lambda: now, lambda: worked)
    for before in (0.0, 1.0, load):
        for _ in range(20):
            now, worked = now + 0.3, worked + 0.3 * before
            found = busy.share()
        assert found == pytest.approx(min(1.0, max(0.0, (before - 0.1) / 0.05)), abs=0.01)
    assert found == pytest.approx(share, abs=0.01)
    # Nobody has asked for a while.
    now += 10.0
    assert busy.share() == 0.0
