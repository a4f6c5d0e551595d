"""What is measured on a server that runs. Each scenario gives a row, as it goes into the results."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from benchmarks.contenders import Contender, Process
from benchmarks.dialects import Turn, summary
from benchmarks.load import Crowd, Seen
from benchmarks.machine import Moment

Row = dict[str, Any]

#: Tokens per second of a session, and tokens of its turns: four seconds, an answer of some sentences.
RATE, TOKENS = 50, 200
RAMP = TOKENS / RATE
#: What is measured, after the ramp.
WINDOW = 4.0
#: Where one token in a hundred comes later than this, a person sees the text stutter.
SMOOTH_MS = 100.0
LEVELS = (10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1000, 1500)
TURN_SECONDS = 180.0


class Field:
    """A server under test, and the provider it asks."""

    def __init__(self, contender: Contender, server: Process, provider: Process, own: int) -> None:
        self.contender, self.server, self.provider, self.own = contender, server, provider, own

    def counters(self) -> Moment:
        return Moment.now(self.server.pid, [self.provider.pid, self.own])

    async def told(self, path: str) -> Any:
        """What the provider knows."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.provider.url}/{path}") as response:
            return await response.json()

    async def settle(self) -> None:
        """Wait until the provider has nobody left: what a server goes on with does not fall to the next."""
        async with asyncio.timeout(TURN_SECONDS):
            while (await self.told("stats"))["open"]:  # noqa: ASYNC110 -- it is in another process
                await asyncio.sleep(0.1)

    async def turn(self, thread: str, content: str) -> Turn:
        """One turn on a connection of its own."""
        session = self.contender.dialect()
        await session.open(self.server.url, thread)
        async with asyncio.timeout(TURN_SECONDS):
            turn = await session.ask(content)
            await turn.over
        session.close()
        return turn


async def check(field: Field) -> None:
    """That the server delivers all of the text, and has the turn when it is started again.

    Raises:
        AssertionError: it does not.
    """
    thread = str(uuid.uuid4())
    heard = (await field.turn(thread, "tokens=50 rate=0")).text
    said = (await field.told("last"))["said"]
    assert heard == said, f"{field.contender.name} delivered {heard[:100]!r} where {said[:100]!r} was said"
    await field.server.stop()
    await field.server.start()
    await field.turn(thread, "tokens=1 rate=0")
    stored = str((await field.told("last"))["messages"])
    if field.contender.client_remembers:
        stored = field.server.bytes_of("chat.db*").decode(errors="replace")
    assert said[:40].strip() in stored, f"{field.contender.name} has forgotten the turn"


async def warm(field: Field) -> None:
    """What only the first turns cost is not measured."""
    for _ in range(3):
        await field.turn(str(uuid.uuid4()), "tokens=50 rate=0")


async def single(field: Field) -> Row:
    """One session, 2,000 tokens, no delay."""
    return await _work(field, 1, "tokens=2000 rate=0")


async def burst(field: Field) -> Row:
    """50 sessions at once, 200 tokens each, no delay."""
    return await _work(field, 50, "tokens=200 rate=0")


async def turn(field: Field) -> Row:
    """What a turn takes beside its tokens: 20 sessions, ten turns of one token each."""
    return await _work(field, 20, "tokens=1 rate=0", turns=10)


async def crowd(field: Field) -> Row:
    """100 sessions at 50 tokens/s, two turns of 200 tokens each."""
    return await _work(field, 100, f"tokens={TOKENS} rate={RATE}", ramp=RAMP, turns=2)


async def _work(field: Field, sessions: int, content: str, ramp: float = 0.0, turns: int = 1) -> Row:
    """All of so much work, however long it takes."""
    async with _open(field, sessions) as crowd, asyncio.timeout(TURN_SECONDS):
        seen = await crowd.work(field.counters, content, ramp, turns)
    tokens, rate = (int(word.split("=")[1]) for word in content.split())
    wanted = sessions * turns * tokens
    assert seen.tokens == wanted, f"{field.contender.name}: {seen.tokens} of {wanted} tokens"
    # Without a delay there is always more to send: the server is the limit, or else the load's core is full.
    return _row(seen, kept_up=bool(rate) and seen.spent.seconds < 1.1 * (ramp + turns * tokens / rate))


@asynccontextmanager
async def _open(field: Field, sessions: int) -> AsyncIterator[Crowd]:
    """So many connected sessions; at the end nothing is left of what they asked for."""
    crowd = Crowd(field.contender.dialect, field.server.url)
    try:
        await crowd.open(sessions)
        yield crowd
    finally:
        crowd.close()
        await field.settle()


async def two_hundred(field: Field) -> Row:
    """200 sessions at 50 tokens/s, a turn of 200 tokens after the other."""
    return await stream(field, 200)


async def stream(field: Field, sessions: int) -> Row:
    """So many sessions at 50 tokens/s; the row also says whether the server kept up (``smooth``)."""
    async with _open(field, sessions) as crowd:
        seen = await crowd.stream(field.counters, f"tokens={TOKENS} rate={RATE}", RAMP, WINDOW)
    wanted = sessions * RATE * WINDOW
    row = _row(seen, kept_up=seen.tokens > 0.95 * wanted) | {"sessions": sessions, "tokens_wanted": int(wanted)}
    late = row["delay_ms"]["p99"]
    return row | {"smooth": bool(late and late < SMOOTH_MS and seen.tokens > 0.95 * wanted and not seen.problems)}


async def capacity(field: Field, guess: int = 100) -> Row:
    """The most of ``LEVELS`` sessions at which the server keeps up, sought from a guess on, up or down."""
    probes: dict[int, Row] = {}
    at = max((index for index, level in enumerate(LEVELS) if level <= guess), default=0)
    while LEVELS[at] not in probes:
        probe = probes[LEVELS[at]] = await stream(field, LEVELS[at])
        at = min(at + 1, len(LEVELS) - 1) if probe["smooth"] else max(at - 1, 0)
    best = max((level for level, probe in probes.items() if probe["smooth"]), default=0)
    failed = [probe for level, probe in probes.items() if level > best]
    return {
        "sessions": best,
        "probes": list(probes.values()),
        "notes": [f"at {probe['sessions']} sessions {note}" for probe in failed for note in probe["notes"]],
    }


def _row(seen: Seen, *, kept_up: bool) -> Row:
    spent, notes = seen.spent, seen.spent.notes(kept_up)
    if seen.problems:
        notes.append(f"{len(seen.problems)} sessions failed: {seen.problems[0]}")
    return {
        "cpu_us_per_token": round(spent.server / max(1, seen.tokens) * 1e6, 1),
        "tokens": seen.tokens,
        "seconds": round(spent.seconds, 2),
        "server_busy": round(spent.server / spent.seconds, 3),
        "load_busy": round(spent.load / spent.seconds, 3),
        "neighbours": round(spent.neighbours / spent.seconds, 3),
        "load_lag_ms": round(seen.lag * 1000, 1),
        "delay_ms": summary(seen.delays),
        "first_ms": summary(seen.firsts),
        "notes": notes,
    }
