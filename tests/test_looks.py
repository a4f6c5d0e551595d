"""A provider's stream is looked at at once while there is time, and in steps while there is little."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import pytest

from harness import DEADLINE, eventually
from model_kit import Steady
from threadwire.busy import Busy
from threadwire.models import looks
from threadwire.models.transport import AiohttpTransport

#: Long enough for a slow machine to write a few words in.
LONG = 2.0


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
        for word in (b"one", b"two", b"three"):
            await say(writer, word)
            # It is read before the next is said.
            assert await anext(pieces) == word
        await say(writer, b"")
        assert [piece async for piece in pieces] == []


async def test_without_time_words_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first comes at once; those that follow it closely are read in one, and none is missing."""
    monkeypatch.setattr(looks, "LONGEST", LONG)
    async with talking(1.0) as (provider, client), client.stream("GET", provider.url) as response:
        writer, pieces = await provider.asked.get(), response.aiter_raw()
        await say(writer, b"one")
        assert await anext(pieces) == b"one"
        began = time.monotonic()
        await say(writer, b"two", b"three", b"four", b"")
        assert [piece async for piece in pieces] == [b"twothreefour"]
        assert time.monotonic() - began > LONG / 2


async def test_streams_that_are_due_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are looked at in one moment each goes on by itself: one that was closed takes none along."""
    monkeypatch.setattr(looks, "LONGEST", 0.5)
    monkeypatch.setattr(looks, "TICK", 0.25)
    async with talking(1.0) as (provider, client), AsyncExitStack() as stack:
        streams = []
        for _ in range(3):
            response = await stack.enter_async_context(client.stream("GET", provider.url))
            writer, pieces = await provider.asked.get(), response.aiter_raw()
            await say(writer, b"one")
            streams.append((response, writer, pieces))
        for _, writer, pieces in streams:
            assert await anext(pieces) == b"one"
            await say(writer, b"two")
        await streams[0][0].aclose()
        for _, writer, pieces in streams[1:]:
            assert await anext(pieces) == b"two"
            await say(writer, b"three", b"")
            assert [piece async for piece in pieces] == [b"three"]


async def test_a_connection_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request goes the same way, and is read."""
    monkeypatch.setattr(looks, "LONGEST", 0.05)
    async with talking(1.0) as (provider, client):
        for _ in range(3):
            async with client.stream("GET", provider.url) as response:
                writer = await provider.asked.get()
                await say(writer, b"one", b"two", b"")
                assert b"".join([piece async for piece in response.aiter_raw()]) == b"onetwo"
        assert provider.connections == 1


async def test_closed_while_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stops does not wait: the provider hears of it at once."""
    monkeypatch.setattr(looks, "LONGEST", DEADLINE)
    async with talking(1.0) as (provider, client):
        async with client.stream("GET", provider.url) as response:
            await say(await provider.asked.get(), b"one")
            assert await anext(response.aiter_raw()) == b"one"
        await eventually(lambda: provider.lost == 1)


async def test_cut_while_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before is read, then the loss is told."""
    monkeypatch.setattr(looks, "LONGEST", 0.2)
    async with talking(1.0) as (provider, client), client.stream("GET", provider.url) as response:
        writer, pieces = await provider.asked.get(), response.aiter_raw()
        await say(writer, b"one")
        assert await anext(pieces) == b"one"
        await say(writer, b"two")
        writer.close()
        assert await anext(pieces) == b"two"
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(pieces)


@pytest.mark.parametrize(("load", "share"), [(0.0, 0.0), (0.2, 0.0), (0.3, 0.5), (0.4, 1.0), (1.0, 1.0)])
def test_a_loop_knows_how_busy_it_is(load: float, share: float) -> None:
    """From a fifth of its time on it begins to have none to spare; what was is forgotten soon."""
    now = worked = 0.0
    busy = Busy(lambda: now, lambda: worked)
    for before in (0.0, 1.0, load):
        for _ in range(20):
            now, worked = now + 0.3, worked + 0.3 * before
            found = busy.share()
        assert found == pytest.approx(min(1.0, max(0.0, (before - 0.2) / 0.2)), abs=0.01)
    assert found == pytest.approx(share, abs=0.01)
    # Nobody has asked for a while.
    now += 10.0
    assert busy.share() == 0.0
