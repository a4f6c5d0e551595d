"""A generating process of its own: ``python -m threadwire.load.worker``, one for each of ``--processes``.

It reads its options on stdin and writes a line each second on stdout: what its recorder ``take``s, with its cpu
seconds. The end of stdin tells it to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson

from threadwire.load.generator import Generator
from threadwire.load.options import Options
from threadwire.load.recorder import Recorder

#: How long a worker's line may be: one of the last explains violations, and tells every gap.
MAX_LINE_BYTES = 16 << 20
TICK_SECONDS = 1.0


def run_loop(main: Callable[[], Any]) -> Any:
    """``asyncio.run`` on uvloop where it is installed: it halves what a frame costs."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def generate(options: Options, worker: int) -> None:
    """Generate, and tell of it on stdout."""
    recorder, before = Recorder(options.ignored), time.process_time()
    generator = Generator(options, recorder, worker)
    running = asyncio.create_task(generator.run())
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    stopping = asyncio.create_task(reader.read())
    stopping.add_done_callback(lambda _: generator.stop())
    while not running.done():
        await asyncio.wait([running], timeout=TICK_SECONDS)
        _tell({**recorder.take(), "cpu_seconds": time.process_time() - before})
    stopping.cancel()
    await running


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


class Worker:
    """The other end: a child, and what it has told since the last ``take``."""

    def __init__(self, process: asyncio.subprocess.Process, number: int) -> None:
        self.number = number
        self.cpu_seconds = 0.0
        self._process = process
        self._lines: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, options: Options, number: int) -> Worker:
        """Start the ``number``-th of ``options.processes``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "threadwire.load.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for the one that shows; it tells the others
        )
        assert process.stdin is not None  # noqa: S101 -- it was asked for
        process.stdin.write(orjson.dumps({"worker": number, "options": options.to_json()}) + b"\n")
        await process.stdin.drain()
        return cls(process, number)

    async def wait(self) -> None:
        """Wait for its end; raises ``RuntimeError`` where that was not a good one."""
        await self._reading
        if code := await self._process.wait():
            raise RuntimeError(f"generating process {self.number} ended with exit code {code}")

    def take(self) -> list[dict[str, Any]]:
        """What it has told since the last time."""
        taken, self._lines = self._lines, []
        return taken

    def stop(self) -> None:
        """Have it start no more turns."""
        assert self._process.stdin is not None  # noqa: S101 -- it was asked for
        self._process.stdin.close()

    def kill(self) -> None:
        """End it now."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 -- it was asked for
        while line := await self._process.stdout.readline():
            told = orjson.loads(line)
            self.cpu_seconds = told.pop("cpu_seconds")
            self._lines.append(told)


def main() -> None:
    """Read what to do from stdin, and do it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = orjson.loads(sys.stdin.buffer.readline())
    run_loop(lambda: generate(Options.from_json(line["options"]), line["worker"]))


if __name__ == "__main__":
    main()
