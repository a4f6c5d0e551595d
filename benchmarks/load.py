"""Many sessions on one server: each asks, reads to the end, and asks again. Ends with what they saw."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.dialects import Dialect, Turn
from benchmarks.machine import Moment, Spent

#: Handshakes at the same time, while sessions are opened before anything is measured.
OPENING = 50


@dataclass
class Seen:
    """What was seen in the stretch that was measured."""

    spent: Spent
    tokens: int
    delays: list[float]
    firsts: list[float]
    problems: list[str] = field(default_factory=list)
    lag: float = 0.0


class Crowd:
    """Sessions of one dialect on one server."""

    def __init__(self, dialect: type[Dialect], url: str) -> None:
        self.dialect, self.url = dialect, url
        self.sessions: list[Dialect] = []

    async def open(self, count: int) -> None:
        """Connect so many, each on a thread of its own."""
        for start in range(0, count, OPENING):
            batch = [self.dialect() for _ in range(start, min(count, start + OPENING))]
            await asyncio.gather(*(session.open(self.url, str(uuid.uuid4())) for session in batch))
            self.sessions += batch

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.sessions.clear()

    async def work(self, counters: Callable[[], Moment], content: str, ramp: float, turns: int) -> Seen:
        """So many turns each, begun spread over ``ramp`` seconds; what is measured is from the first to the last end.

        So also who does not keep up has done all of the work that is counted.
        """

        async def talk(session: Dialect, wait: float) -> list[Turn]:
            await asyncio.sleep(wait)
            done = []
            for _ in range(turns):
                done.append(await session.ask(content))
                await done[-1].over
            return done

        before, count = counters(), len(self.sessions)
        talks = [talk(session, ramp * number / count) for number, session in enumerate(self.sessions)]
        done = [turn for each in await asyncio.gather(*talks) for turn in each]
        spent = counters().since(before)
        delays = [delay for turn in done for delay in turn.delays]
        return Seen(spent, len(delays), delays, [turn.first for turn in done])

    async def stream(self, counters: Callable[[], Moment], content: str, ramp: float, window: float) -> Seen:
        """Turn after turn each, begun spread over ``ramp`` seconds; what is measured is the ``window`` after that.

        With a ramp of a turn's length, turns begin and end evenly in the window. Turns are under way at its end.
        """
        turns: list[Turn] = []
        problems: list[str] = []
        tasks = [
            asyncio.create_task(self._talk(session, content, ramp * number / len(self.sessions), turns, problems))
            for number, session in enumerate(self.sessions)
        ]
        await asyncio.sleep(ramp)
        before, heard, asked = counters(), {id(turn): len(turn.delays) for turn in turns}, time.monotonic()
        lag = await _lag(window)
        spent = counters().since(before)
        delays = [delay for turn in turns for delay in turn.delays[heard.get(id(turn), 0) :]]
        # Who has waited longer than the others counts as well.
        now = time.monotonic()
        firsts = [
            turn.first or now - turn.asked
            for turn in turns
            if turn.asked >= asked and (turn.first or now - turn.asked > 1)
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return Seen(spent, len(delays), delays, firsts, problems, lag)

    async def _talk(self, session: Dialect, content: str, wait: float, turns: list[Turn], problems: list[str]) -> None:
        await asyncio.sleep(wait)
        try:
            while True:
                turn = await session.ask(content)
                turns.append(turn)
                await turn.over
        except RuntimeError as error:
            problems.append(str(error))


async def _lag(seconds: float) -> float:
    """The load's own worst delay in so many seconds."""
    worst, end = 0.0, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        due = time.monotonic() + min(left, 0.02)
        await asyncio.sleep(due - time.monotonic())
        worst = max(worst, time.monotonic() - due)
    return worst
