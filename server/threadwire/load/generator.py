"""Starts the sessions of one process: so many, or by chance at a rate; and watches whether it keeps its own time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

from threadwire.load.connection import Opener
from threadwire.load.options import Options, behaviour_of
from threadwire.load.recorder import Recorder
from threadwire.load.scenario import Conversation
from threadwire.load.session import Session
from threadwire.load.tab import World

#: How often the process looks whether it is late.
BEAT_SECONDS = 0.05
#: How long turns that are under way may take once the run was stopped.
STOP_SECONDS = 5.0


class Generator:
    """The sessions of worker ``worker`` of ``options.processes``; each takes every so many-th session."""

    def __init__(self, options: Options, recorder: Recorder, worker: int = 0) -> None:
        self._options = options
        self._recorder = recorder
        self._worker = worker
        self._over = asyncio.Event()
        self._world = World(options, recorder, Opener(options, recorder), self._over)
        self._busy: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Start every session at its time, and wait until the last has ended."""
        beat = asyncio.create_task(self._beat())
        began = time.monotonic()
        try:
            await self._start_all(began)
            while self._busy:
                await asyncio.wait(self._busy)
            self._over.set()
            while self._idle:
                await asyncio.wait(self._idle)
        finally:
            beat.cancel()
            self._abandon()

    def stop(self) -> None:
        """Start no more; turns that are under way are waited for, a little."""
        self._over.set()
        asyncio.get_running_loop().call_later(STOP_SECONDS, self._abandon)

    def _abandon(self) -> None:
        for task in self._busy | self._idle:
            task.cancel()

    async def _start_all(self, began: float) -> None:
        duration = self._options.duration_seconds
        for number, at in self._arrivals():
            if duration and at >= duration:
                break
            if not await self._not_over(began + at):
                return
            self._start(number, began + at)
        if duration:
            await self._not_over(began + duration)
            self._over.set()

    def _arrivals(self) -> Iterator[tuple[int, float]]:
        """This worker's sessions, and when each is due, in seconds from the beginning."""
        options = self._options
        if options.scenario.recorded:
            times: Iterator[float] = (found.steps[0].at or 0.0 for found in options.scenario.conversations)
        elif options.arrivals_per_second:
            times = _poisson(options)
        else:
            step = options.ramp_seconds / options.sessions
            times = (number * step for number in range(options.sessions))
        for number, at in enumerate(times):
            if number % options.processes == self._worker:
                yield number, at

    def _start(self, number: int, due: float) -> None:
        behaviour = behaviour_of(number, self._options.shares, self._options.seed)
        task = asyncio.create_task(self._keep_going(number, behaviour, due))
        tasks = self._idle if behaviour == "idle" else self._busy
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _keep_going(self, number: int, behaviour: str, due: float) -> None:
        """One session; in a closed loop that ends by time, another one after it, and so on."""
        chance = random.Random(f"{self._options.seed} {number}")  # noqa: S311 -- the same again with the same seed
        again = self._options.duration_seconds and not self._options.arrivals_per_second
        while True:
            started = time.monotonic()
            await Session(self._world, number, behaviour, self._conversation(number, chance), chance).run(due)
            if not again or self._options.scenario.recorded or self._over.is_set():
                return
            # One that fails at once must not become a storm.
            await asyncio.sleep(max(0.0, started + 1.0 - time.monotonic()) * chance.random())
            due = time.monotonic()

    def _conversation(self, number: int, chance: random.Random) -> Conversation:
        scenario = self._options.scenario
        return scenario.conversations[number] if scenario.recorded else scenario.pick(chance)

    async def _not_over(self, until: float) -> bool:
        """Wait until that time; False where the run was stopped before."""
        seconds = until - time.monotonic()
        if seconds > 0 and not self._over.is_set():
            waiting = asyncio.ensure_future(self._over.wait())
            await asyncio.wait([waiting], timeout=seconds)
            waiting.cancel()
        return not self._over.is_set()

    async def _beat(self) -> None:
        while True:
            due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._recorder.lag = max(self._recorder.lag, time.monotonic() - due)


def _poisson(options: Options) -> Iterator[float]:
    """Arrivals by chance at a steady rate; the same for the same seed, in every worker."""
    chance, at = random.Random(options.seed), 0.0  # noqa: S311 -- the same again with the same seed
    number = 0
    while options.duration_seconds or number < options.sessions:
        at += chance.expovariate(options.arrivals_per_second)
        yield at
        number += 1
