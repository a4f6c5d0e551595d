"""Whatever comes over open sockets, and however many there are, memory stays bounded and the others are served."""

from __future__ import annotations

import asyncio
import resource
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from attack import MIB, Flood, MakeTarget, Target, Upgraded, attacked, eof, somebody_talks
from harness import DEADLINE, eventually
from rawsocket import CLOSE, PING, TEXT, frame

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures by /proc")

__all__ = ["attacked"]  # a fixture

# --- messages ---------------------------------------------------------------------------------------------------------


async def push(upgraded: Upgraded, data: bytes, times: int) -> bytes:
    """Send as long as it is taken; what the server has said by its end."""
    reading = asyncio.create_task(eof(upgraded.reader))
    with suppress(ConnectionError):
        for _ in range(times):
            upgraded.writer.write(data)
            await upgraded.writer.drain()
            if reading.done():
                break
    try:
        return await reading
    finally:
        upgraded.vanish()


def said(code: int, answer: bytes) -> bool:
    """Whether a close frame with that code is in what the server said."""
    return struct.pack("!BB", 0x80 | CLOSE, 2)[:1] in answer and struct.pack("!H", code) in answer


async def test_messages_that_are_too_large(attacked: MakeTarget) -> None:
    """Neither one that says so nor one that never ends, in pieces without a last, is kept beyond the limit."""
    served = await attacked(server__max_message_bytes="262144")
    memory = served.memory
    large = frame(b"", length=2**40) + bytes(65536)
    piece, more = frame(b"x" * 65536, TEXT, fin=False), frame(b"x" * 65536, 0, fin=False)

    async def endless() -> bytes:
        upgraded = await served.upgrade()
        upgraded.writer.write(piece)
        return await push(upgraded, more, 10_000)

    async def oversized() -> bytes:
        return await push(await served.upgrade(), large, 10_000)

    async with somebody_talks(served):
        answers = await asyncio.gather(*(attack() for _ in range(50) for attack in (endless, oversized)))
    assert all(said(1009, answer) for answer in answers)
    assert served.process.memory("VmHWM") - memory < 128 * MIB


async def test_a_message_that_never_ends(attacked: MakeTarget) -> None:
    """A message of empty pieces costs nothing, and does not keep its connection alive."""
    served = await attacked(server__heartbeat_seconds="3")
    memory = served.memory
    empty = frame(b"", 0, fin=False) * 1000
    async with Flood(served, 3, empty, first=frame(b"{", fin=False), reads=False) as flood, somebody_talks(served):
        await eventually(lambda: flood.ended, "they are cut", 2 * DEADLINE)
    assert served.memory - memory < 64 * MIB


async def test_a_flood_of_pings(attacked: MakeTarget) -> None:
    """Pings as fast as they can be sent, by clients that do not read the pongs, pile up nowhere but at the client."""
    served = await attacked()
    memory = served.memory
    async with Flood(served, 10, frame(b"p" * 125, PING) * 500, reads=False) as flood, somebody_talks(served):
        await eventually(lambda: all(flood.stalls), "the server reads no more from them", 2 * DEADLINE)
    assert served.memory - memory < 64 * MIB


async def test_a_flood_of_pings_whose_pongs_are_read(attacked: MakeTarget) -> None:
    """It starves nobody."""
    served = await attacked()
    memory = served.memory
    async with Flood(served, 3, frame(b"", PING) * 2000, reads=True), somebody_talks(served):
        pass
    assert served.memory - memory < 64 * MIB


async def test_half_open_sockets(attacked: MakeTarget) -> None:
    """Clients that are gone without a word are let go by the heartbeat, however many."""
    served = await attacked(server__heartbeat_seconds="1")
    descriptors = served.descriptors
    # They answer no ping and no close.
    silent = [await served.upgrade() for _ in range(200)]
    async with somebody_talks(served):
        # Somebody's own are the only ones left.
        await eventually(lambda: served.descriptors <= descriptors + 2, "they are let go", 2 * DEADLINE)
    for upgraded in silent:
        upgraded.vanish()


# --- many -------------------------------------------------------------------------------------------------------------


async def idle(served: Target, sockets: int, per_socket: int) -> None:
    """So many sockets that do nothing, and somebody who talks; then they all go."""
    descriptors, memory = served.descriptors, served.memory
    gate = asyncio.Semaphore(100)

    async def connect() -> Upgraded:
        async with gate:
            upgraded = await served.upgrade()
            await upgraded.reader.readexactly(2)
            return upgraded

    held = await asyncio.gather(*(connect() for _ in range(sockets)))
    assert served.descriptors >= descriptors + sockets
    assert (served.memory - memory) / sockets < per_socket
    async with somebody_talks(served):
        pass
    for upgraded in held:
        upgraded.vanish()
    await served.back_to(descriptors)


async def test_a_thousand_idle_sockets(attacked: MakeTarget) -> None:
    """They cost what they cost, and nobody waits for them."""
    await idle(await attacked(), 1000, 100_000)


@pytest.mark.torture
async def test_ten_thousand_idle_sockets(attacked: MakeTarget) -> None:
    """As many as this machine's descriptors allow, up to ten thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        served = await attacked(server__max_connections="0")
        await idle(served, min(10_000, hard - 500), 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
