"""Whatever comes before there is a socket, memory stays bounded and the others are served."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import trustme
from aiohttp import web

from attack import HEAD, MIB, MakeTarget, attacked, eof, somebody_talks
from harness import DEADLINE, eventually
from rawsocket import frame
from threadwire.arrivals import Site, begin

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures by /proc")

__all__ = ["attacked"]  # a fixture

QUICK = {"server__handshake_timeout_seconds": "2"}

# --- before the upgrade -----------------------------------------------------------------------------------------------

BEGINNINGS = {
    "nothing": b"",
    "half a line": b"GET /ws HT",
    "half a head": HEAD,
    "half an upgrade": HEAD + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    "a body that does not come": b"POST /threads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
    "an endless body": b"POST /threads HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "an upgrade with a body": HEAD + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 9\r\n\r\n{",
    "half of a second request": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}
#: A request, with the beginning of another one behind it.
BEHIND = {
    "half an upgrade": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + HEAD,
    "half a third": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2 + HEAD,
    "behind chunks": b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
}


async def test_half_open_connections_are_cut(attacked: MakeTarget) -> None:
    """Who does not say what they want within ``server.handshake_timeout_seconds`` is cut, however far they came."""
    served = await attacked(**QUICK)

    async def stall(beginning: bytes) -> bytes:
        reader, writer = await served.open()
        writer.write(beginning)
        if beginning.startswith(b"GET /healthz"):
            await reader.readuntil(b'"ok"}')
            writer.write(HEAD)
        try:
            return await eof(reader)
        finally:
            writer.close()

    answers = await asyncio.gather(*map(stall, BEGINNINGS.values()))
    for name, answer in zip(BEGINNINGS, answers, strict=True):
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408"), name


async def test_what_comes_behind_a_request_has_the_same_deadline(attacked: MakeTarget) -> None:
    """The beginning of another request in the same packet does not make the connection an idle one; those are kept."""
    served = await attacked(**QUICK)
    kept = [await served.open() for _ in range(2)]
    for (reader, writer), end in zip(kept, (3, len(HEAD)), strict=True):
        request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        # However it is cut into packets.
        writer.write(request[:-end])
        await asyncio.sleep(0.1)
        writer.write(request[-end:])
        await reader.readuntil(b'"ok"}')
    for name, data in BEHIND.items():
        reader, writer = await served.open()
        writer.write(data)
        assert (await eof(reader)).startswith(b"HTTP/1.1 "), name
        writer.close()
    for reader, writer in kept:
        # Each of the others has had its deadline after theirs.
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.readuntil(b'"ok"}')).startswith(b"HTTP/1.1 200")
        writer.close()


async def healthy(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


class Caller:
    """Connections to a site of its own, with what ``Site`` is given."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[begin])
        app.router.add_get("/healthz", healthy)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await Site(self._runner, "127.0.0.1", 0, seconds=60, **self._options).start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for writer in self._writers:
            await close(writer)
        await self._runner.cleanup()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = await asyncio.open_connection("127.0.0.1", self._runner.addresses[0][1])
        self._writers.append(made[1])
        return made

    async def get(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether a request is answered; not where the connection has been ended."""
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            try:
                return b" 200 " in await reader.readuntil(b'"ok"}')
            except (ConnectionError, asyncio.IncompleteReadError):
                return False

    async def one_more(self) -> bool:
        """Whether a request on a new connection is answered."""
        return await self.get(*await self.open())


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_idle_connections_go_first() -> None:
    """Where connections become too many, the one that has been idle for longest goes; none that does something."""
    async with Caller(most=3) as caller:
        first, *idle = [await caller.open() for _ in range(3)]
        # It is in the middle of saying something.
        first[1].write(HEAD)
        for one in idle:
            assert await caller.get(*one)
        more = await caller.open()
        assert await caller.get(*more)
        assert await eof(idle[0][0]) == b""
        for one in (idle[1], more):
            assert await caller.get(*one)
        assert not first[0].at_eof()


async def test_an_address_has_so_many_connections() -> None:
    """More from one address are cut, whatever they are for, until one has gone; a trusted proxy's are not counted."""
    async with Caller(per_address=2) as caller:
        first = await caller.open()
        assert await caller.get(*first)
        assert await caller.one_more()
        assert not await caller.one_more()
        await close(first[1])
        await eventually(caller.one_more, "there is room again")
    async with Caller(per_address=2, trusted=lambda peer: peer == "127.0.0.1") as caller:
        assert [await caller.one_more() for _ in range(5)] == [True] * 5


LAST = {
    "no HTTP": (b"hello\r\n\r\n", b"400"),
    "a broken body": (
        b"POST /threads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"400",
    ),
    "too large": (
        b"POST /threads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3000000\r\n\r\n" + b" " * 2_000_000,
        b"413",
    ),
    "a body that does not come": (BEGINNINGS["a body that does not come"], b"408"),
}


@pytest.mark.parametrize("name", LAST)
async def test_the_last_answer_says_so(attacked: MakeTarget, name: str) -> None:
    """An answer behind which the server closes has ``Connection: close``."""
    served = await attacked(**QUICK)
    data, status = LAST[name]
    reader, writer = await served.open()
    writer.write(data)
    answer = await eof(reader)
    head = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert head[0].split()[1] == status
    assert b"connection: close" in head
    writer.close()


async def test_a_body_that_trickles_is_cut(attacked: MakeTarget) -> None:
    """A byte now and then is no progress."""
    served = await attacked(**QUICK)
    reader, writer = await served.open()
    writer.write(b"POST /threads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n")

    async def trickle() -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    task = asyncio.create_task(trickle())
    answer = await eof(reader)
    task.cancel()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer


async def test_slow_loris(attacked: MakeTarget) -> None:
    """Hundreds who send an upgrade byte by byte are cut, cost little, and are in nobody's way."""
    served = await attacked(**QUICK)
    descriptors, memory = served.descriptors, served.memory

    async def drip() -> None:
        reader, writer = await served.open()
        ending = asyncio.create_task(eof(reader))
        try:
            for position in range(len(HEAD)):
                writer.write(HEAD[position : position + 1])
                # They keep at it for as long as they are let.
                await asyncio.wait({ending}, timeout=0.05)
                if ending.done():
                    break
            else:
                await ending
        finally:
            writer.close()

    async with somebody_talks(served):
        await asyncio.gather(*(drip() for _ in range(300)))
    await served.back_to(descriptors)
    assert served.memory - memory < 64 * MIB


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="hi")


async def test_a_handshake_of_tls_has_the_same_deadline(tmp_path: Path) -> None:
    """A TLS connection that never says hello is cut as well; one that does is served."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = Site(runner, "127.0.0.1", 0, seconds=1, ssl_context=context)
    await site.start()
    try:
        port = runner.addresses[0][1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        assert await eof(reader) == b""
        writer.close()
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(b"GET / HT")
        assert await eof(reader) == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await eof(reader)).endswith(b"hi")
        writer.close()
    finally:
        await runner.cleanup()


async def test_what_takes_long_is_not_cut(attacked: MakeTarget) -> None:
    """The deadline is for what the client has to say: an open socket and a long answer outlive it."""
    served = await attacked(**QUICK, model__simulated__tokens_per_second="20")
    socket = await served.served.attach("t1")
    url = f"{served.served.url}/threads/t2/runs/stream"
    async with served.served.session.post(url, json={"content": "/tokens 50"}) as response:
        lines = [line async for line in response.content]
    assert b'"status":"completed"' in lines[-1]
    assert (await socket.ask("ping"))["type"] == "pong"


async def test_what_is_no_http(attacked: MakeTarget) -> None:
    """Garbage is refused with the error body, and a traceback is not what it leaves in the log."""
    served = await attacked()
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET / HTTP/9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n:\r\n\r\n"):
        reader, writer = await served.open()
        writer.write(garbage + b"\r\n" * 2)
        answer = await eof(reader)
        writer.close()
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), answer
        assert b'"error"' in answer


async def test_a_reconnect_storm(attacked: MakeTarget) -> None:
    """Everybody connects, vanishes and comes back, again and again: nothing piles up."""
    served = await attacked()
    descriptors, memory = served.descriptors, served.memory

    async def storm(number: int) -> None:
        for turn in range(10):
            upgraded = await served.upgrade(f"thread_id=storm-{number}")
            assert upgraded.head.startswith(b"HTTP/1.1 101")
            if turn % 2:
                await upgraded.reader.readexactly(2)
            upgraded.vanish()

    async with somebody_talks(served):
        await asyncio.gather(*(storm(number) for number in range(100)))
    await served.back_to(descriptors)
    assert served.memory - memory < 64 * MIB


# --- compression ------------------------------------------------------------------------------------------------------


async def test_deflate_is_not_spoken(attacked: MakeTarget) -> None:
    """Offered, permessage-deflate is not taken; a frame that claims to be packed breaks the protocol."""
    served = await attacked()
    upgraded = await served.upgrade(headers=b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")
    assert b"deflate" not in upgraded.head.lower()
    upgraded.writer.write(frame(b"x" * 100, first=0x40))
    assert (1002).to_bytes(2, "big") in await eof(upgraded.reader)
    upgraded.vanish()


async def test_a_packed_bomb(attacked: MakeTarget) -> None:
    """A body of a gigabyte that comes as a megabyte is refused once it is too large, and not unpacked to its end."""
    served = await attacked(**QUICK)
    packed = gzip.compress(bytes(64 * MIB), 1) * 16
    memory = served.memory
    url = f"{served.served.url}/threads/t1/runs/stream"

    async def bomb() -> None:
        for encoding in ("gzip", "deflate"):
            headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
            with suppress(aiohttp.ClientConnectionError):
                async with served.served.session.post(url, data=BytesIO(packed), headers=headers) as response:
                    assert response.status in (400, 413)

    async with somebody_talks(served):
        await asyncio.gather(*(bomb() for _ in range(10)))
    assert served.process.memory("VmHWM") - memory < 96 * MIB


async def test_packed_bodies_are_taken(attacked: MakeTarget) -> None:
    """One that unpacks to something small is no bomb."""
    served = await attacked()
    body, headers = gzip.compress(b'{"metadata": {"a": 1}}'), {"Content-Encoding": "gzip"}
    async with served.served.session.post(f"{served.served.url}/threads", data=body, headers=headers) as response:
        assert (response.status, (await response.json())["metadata"]) == (200, {"a": 1})
