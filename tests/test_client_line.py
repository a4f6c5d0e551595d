"""The Python client and the real server with a bad line between them: the conversation comes out whole."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from functools import partial
from random import Random

import pytest

from conftest import Serve
from fault_proxy import Fault, FaultProxy, Kind, fault_proxy
from harness import DEADLINE, Served, eventually
from threadwire.client import Chat, Turn, connect
from threadwire.client.buffer import number_of
from threadwire.protocol import Frame, MessageFrame, RunFinishedFrame, TokenFrame

#: Set it to a seed that was printed to have the same faults again (not the same moments).
SEED = int(os.environ.get("TORTURE_SEED") or secrets.randbits(32))
#: The client gives a silent line up after two and a half, the server after one or two.
HEARTBEAT = 0.4
KINDS: tuple[Kind, ...] = ("reset", "reset", "close", "freeze", "deaf", "mute", "stall", "trickle")


def faults(random: Random) -> Iterator[Fault]:
    """For one connection after another; some strike in the handshake, and some live long enough to get on."""
    while True:
        after = random.randint(0, 900) if random.random() < 0.15 else random.randint(1200, 9000)
        do = random.choice(KINDS)
        # A stall is shorter than the client's patience, or longer.
        seconds = random.choice((0.2, 2.0)) if do == "stall" else 0.001
        yield Fault(do, after=after, seconds=seconds, piece=random.randint(5, 60), lasts=3000)


class Seen:
    """What one reader of a thread was shown of it, over all its connections."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.frames: list[Frame] = []
        self._source = chat.frames()

    async def read(self, runs: set[str]) -> None:
        """Until all of these have ended."""
        ended: set[str] = set()
        while not runs <= ended:
            frame = await anext(self._source)
            self.frames.append(frame)
            if isinstance(frame, RunFinishedFrame):
                ended.add(frame.run_id)

    def has(self, frames: int) -> bool:
        """Whether so many have come."""
        return len(self.frames) >= frames

    def texts(self) -> dict[str, str]:
        """What each message is, by its tokens and whole messages."""
        found: dict[str, str] = {}
        for frame in self.frames:
            if isinstance(frame, TokenFrame):
                found[frame.message_id] = found.get(frame.message_id, "") + frame.content
            elif isinstance(frame, MessageFrame):
                found[frame.message.id] = str(frame.message.content)
        return found


def assert_in_order(frames: list[Frame]) -> None:
    """Each place in the log came once, and none before an earlier one."""
    numbers = [number for number in map(number_of, frames) if number is not None]
    assert numbers == sorted(set(numbers))


async def say(chat: Chat, random: Random, name: str, count: int) -> list[tuple[str, Turn, list[Frame]]]:
    """So many turns, one behind the other or before the one before has ended; each with the frames it gave."""
    said: list[tuple[str, Turn, asyncio.Task[list[Frame]]]] = []
    for number in range(count):
        speed, tokens = random.choice((200, 400)), random.randint(5, 60)
        content = f"/tokens {tokens}\n/tokens-per-second {speed}\n{name} {number}"
        turn = chat.send(content)
        said.append((content, turn, asyncio.create_task(collect(turn))))
        if random.random() < 0.6:
            await said[-1][2]
    return [(content, turn, await frames) for content, turn, frames in said]


async def collect(turn: Turn) -> list[Frame]:
    return [frame async for frame in turn]


async def converse(served: Served, proxy: FaultProxy, random: Random, *, thread: str, turns: int) -> None:
    """Talk over the bad line, and from a second tab straight to the server; then compare it all with what is stored."""
    async with (
        connect(served.url, thread_id=thread) as other,
        # The first connection is tried once, so it is a good one.
        connect(proxy.url, thread_id=thread, open_timeout=1) as chat,
    ):
        tabs = (Seen(chat), Seen(other))
        proxy.faults = faults(random)
        proxy.cut()
        said = await asyncio.gather(
            say(chat, random, "bad", turns), say(other, Random(random.random()), "good", turns // 3)
        )
        told = [each for both in said for each in both]
        await asyncio.gather(*(tab.read({turn.run_id for _, turn, _ in told}) for tab in tabs))
        texts = {turn.run_id: await turn.text() for _, turn, _ in told}
    stored = await served.history(thread)
    assert len(stored) == 2 * len(told)
    assert len({message["id"] for message in stored}) == len(stored)
    whole = {message["id"]: message["content"] for message in stored}
    for content, turn, frames in told:
        place = next(at for at, message in enumerate(stored) if message["id"] == turn.message_id)
        question, answer = stored[place : place + 2]
        assert (question["role"], question["content"]) == ("user", content)
        assert (answer["role"], answer["content"], answer.get("status")) == ("assistant", texts[turn.run_id], None)
        assert (await turn.finished()).status == "completed"
        assert [frame.type for frame in frames].count("run_finished") == 1
        assert [frame.type for frame in frames].count("run_started") == 1
        assert_in_order(frames)
    for tab in tabs:
        assert_in_order(tab.frames)
        assert tab.texts() == whole
        assert [f.type for f in tab.frames].count("run_finished") == len(told)


async def talk(serve: Serve, seed: int, *, threads: int, turns: int, to_the_end: bool = False) -> Counter[Kind]:
    """Conversations beside each other, each over a bad line of its own; how many faults of each kind there were."""
    print(f"TORTURE_SEED={seed}")
    # A client that comes back is no client that has left, however its line broke.
    served = await serve(
        server={"heartbeat_seconds": HEARTBEAT},
        runs={"disconnect_grace_seconds": 60},
        limits={"history_page": 1000},
    )
    random = Random(seed)
    struck: Counter[Kind] = Counter()

    async def one(number: int, chance: Random) -> None:
        async with fault_proxy(served.url) as proxy:
            await converse(served, proxy, chance, thread=f"t{number}", turns=turns)
            if to_the_end:
                # Whoever is at the end of a dead line gives it up, without a word from the other.
                async with asyncio.timeout(DEADLINE):
                    for line in proxy.frozen:
                        await line.given_up()
            struck.update(proxy.struck)

    async with asyncio.TaskGroup() as group:
        for number in range(threads):
            group.create_task(one(number, Random(random.random())))
    print(dict(struck))
    return struck


async def test_a_bad_line_is_not_noticed(serve: Serve) -> None:
    """Through cuts, stalls, dead and trickling lines, each turn's text is the stored message, each there once."""
    async with asyncio.timeout(60):
        struck = await talk(serve, SEED, threads=4, turns=3)
    assert struck


async def test_a_line_of_a_few_bytes_at_a_time(serve: Serve) -> None:
    """A long answer comes whole to a reader whose line is slow, and breaks, while another has long had it."""
    served = await serve()
    async with asyncio.timeout(DEADLINE), fault_proxy(served.url) as proxy:
        proxy.plan(*(Fault("trickle", after=number * 700, piece=61, seconds=0.001) for number in range(20)))
        async with connect(served.url, thread_id="t") as fast, connect(proxy.url, thread_id="t") as slow:
            tabs = Seen(fast), Seen(slow)
            turn = fast.send("/tokens 4000")
            behind = asyncio.create_task(tabs[1].read({turn.run_id}))
            await tabs[0].read({turn.run_id})
            assert not behind.done()
            for cuts in range(1, 4):
                await eventually(partial(tabs[1].has, 3 * cuts), "it gets on")
                proxy.cut()
            await behind
            text = await turn.text()
    for tab in tabs:
        assert_in_order(tab.frames)
        assert text in tab.texts().values()
    assert [message["content"] for message in await served.history("t")] == ["/tokens 4000", text]
    assert len(text.split()) == 4000


@pytest.mark.torture
async def test_bad_lines_for_long(serve: Serve) -> None:
    """Hundreds of turns through hundreds of faults."""
    async with asyncio.timeout(900):
        struck = await talk(serve, SEED, threads=8, turns=60, to_the_end=True)
    assert all(struck[kind] for kind in KINDS)
