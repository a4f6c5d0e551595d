"""One load run: the generating, here or in processes of its own, with its book kept second by second."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

from threadwire.load.generator import Generator
from threadwire.load.ledger import Ledger
from threadwire.load.options import Options
from threadwire.load.recorder import Recorder
from threadwire.load.watch import Watch
from threadwire.load.worker import TICK_SECONDS, Worker


class View(Protocol):
    """Who is shown the run while it goes on."""

    def update(self, row: dict[str, Any], ledger: Ledger) -> None:
        """A second has passed; ``row`` is what there is of it."""


class _Source(Protocol):
    """Where the counting is done."""

    @property
    def cpu_seconds(self) -> float: ...

    def take(self) -> list[tuple[int, dict[str, Any]]]: ...

    def stop(self) -> None: ...

    async def wait(self) -> None: ...


class _Here:
    """The generating is done by this process."""

    def __init__(self, options: Options) -> None:
        self._recorder = Recorder(options.ignored)
        self._generator = Generator(options, self._recorder)

    @property
    def cpu_seconds(self) -> float:
        return time.process_time()

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        return [(0, self._recorder.take())]

    def stop(self) -> None:
        self._generator.stop()

    async def wait(self) -> None:
        await self._generator.run()


class _There:
    """The generating is done by processes of their own."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers

    @property
    def cpu_seconds(self) -> float:
        return sum(worker.cpu_seconds for worker in self._workers)

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        return [(worker.number, told) for worker in self._workers for told in worker.take()]

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    async def wait(self) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.wait())


@contextlib.asynccontextmanager
async def _source(options: Options) -> AsyncIterator[_Source]:
    if options.processes == 1:
        yield _Here(options)
        return
    workers = [await Worker.start(options, number) for number in range(options.processes)]
    try:
        yield _There(workers)
    finally:
        for worker in workers:
            worker.kill()


async def run(options: Options, ledger: Ledger, view: View, watch: Watch) -> bool:
    """Generate the load and keep the book; whether it was stopped by Ctrl-C before its end.

    The first Ctrl-C gives turns that are under way ``STOP_SECONDS`` to finish, a second one does not.
    """
    await watch.open()
    try:
        async with _source(options) as source:
            running = asyncio.create_task(source.wait())
            with _interruptible(source.stop, running.cancel) as stopped:
                await _keep_book(source, running, ledger, watch, view)
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                return stopped.is_set()
    finally:
        await watch.close()


async def _keep_book(source: _Source, running: asyncio.Task[None], ledger: Ledger, watch: Watch, view: View) -> None:
    used, at = source.cpu_seconds, time.monotonic()
    await watch.look()
    while not running.done():
        await asyncio.wait([running], timeout=TICK_SECONDS)
        for worker, taken in source.take():
            ledger.add(taken, worker)
        watched = await watch.look()
        now = time.monotonic()
        cpu = (source.cpu_seconds - used) / max(now - at, 1e-3)
        used, at = source.cpu_seconds, now
        row = ledger.close_second({"generator_cpu": round(cpu, 3), **watched})
        view.update(row, ledger)


@contextlib.contextmanager
def _interruptible(stop: Callable[[], None], cancel: Callable[[], object]) -> Iterator[asyncio.Event]:
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set():
            cancel()
        stopped.set()
        stop()

    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # Windows, or not the main thread
            loop.add_signal_handler(number, on_signal)
            handled.append(number)
    try:
        yield stopped
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
