"""``threadwire batch``: a file of inputs through the configured graph, in this process, into a file of results.

For backfills: memory is the window's, however long the file is; what is in the results file is not run again, so that
an interrupted one goes on where it was. A result is written as it comes, under its input's line number; a line that a
crash cut short is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import uuid_utils
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from threadwire.batch import Batch, Input
from threadwire.errors import StartupError, ThreadwireError
from threadwire.fresh import FreshParts, fresh_parts
from threadwire.graph import open_agent_graph, open_graph
from threadwire.models import open_model
from threadwire.progress import Progress
from threadwire.protocol import Send, decode_object, validate_command
from threadwire.settings import Settings
from threadwire.tally import Tally
from threadwire.tracing import NoTraces

#: The exit code where some inputs failed, and after Ctrl-C (128 + SIGINT).
EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 130

#: Lines at once where the configuration has no limit: a window there must be.
_WIDTH_WITHOUT_LIMIT = 8

#: What the results file has of a line.
_NONE, _ANSWERED, _FAILED = range(3)


def run(settings: Settings, source: Path, target: Path, max_concurrency: int | None) -> int:
    """Run the lines of ``source`` that have no result in ``target`` yet; returns the exit code.

    Raises:
        StartupError: a file cannot be read or written, or the graph cannot be opened.
    """
    try:
        with source.open("rb") as lines, target.open("ab+") as results:
            return asyncio.run(_run(settings, lines, results, max_concurrency))
    except OSError as error:
        raise StartupError(f"{error.filename or target}: {error.strerror}") from error


async def _run(settings: Settings, lines: BinaryIO, results: BinaryIO, max_concurrency: int | None) -> int:
    ended = _ended_lines(results)
    count = blank = 0
    for line in lines:
        count += 1
        blank += not line.strip()
    if len(ended) > count:
        raise StartupError(f"{results.name}: has results of more lines than {lines.name} has; name another --out")
    lines.seek(0)
    async with _open_parts(settings) as parts:
        width = max_concurrency or settings.limits.max_batch_concurrency or _WIDTH_WITHOUT_LIMIT
        batch = Batch(str(uuid_utils.uuid7()), _inputs(lines, ended), width, parts)
        with _cancelled_by_signals(batch):
            progress = Progress(sys.stderr, count - blank, len(ended) - ended.count(_NONE), ended.count(_FAILED))
            return await _write(batch, results, progress)


async def _write(batch: Batch, results: BinaryIO, progress: Progress) -> int:
    async with aclosing(batch.frames()) as frames:
        async for frame in frames:
            if frame["type"] == "run_finished":
                break
            kept = {key: frame[key] for key in ("index", "message", "error") if key in frame}
            results.write(orjson.dumps(kept) + b"\n")
            results.flush()
            progress.step(error="error" in frame)
    progress.close()
    if frame["status"] == "cancelled":
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if progress.errors else 0


# --- files ----------------------------------------------------------------------------------------


def _ended_lines(results: BinaryIO) -> bytearray:
    """What became of each line: a byte each, however often it has a result. An end that is no whole line is cut off."""
    ended = bytearray()
    whole = 0
    results.seek(0)
    for number, line in enumerate(results, 1):
        if not line.endswith(b"\n"):
            break
        whole += len(line)
        try:
            result = orjson.loads(line)
            index = int(result["index"])
            if index < 0:
                raise ValueError(index)  # noqa: TRY301 -- told as the others are
        except (ValueError, KeyError, TypeError):
            raise StartupError(f"{results.name} line {number}: not a result of threadwire batch") from None
        if index >= len(ended):
            ended.extend(bytes(index + 1 - len(ended)))
        ended[index] = _FAILED if "error" in result else _ANSWERED
    results.truncate(whole)
    return ended


def _inputs(lines: BinaryIO, ended: bytearray) -> Iterator[Input]:
    """The inputs that have no result yet, each under its line's number, from 0; blank lines are none."""
    for index, line in enumerate(lines):
        if line.strip() and (index >= len(ended) or ended[index] == _NONE):
            yield index, _content(line)


def _content(line: bytes) -> Any:
    try:
        send = validate_command({"type": "send", "content": decode_object(line).get("content")})
    except ThreadwireError as error:
        return error
    assert isinstance(send, Send)  # noqa: S101 -- that is its type
    return send.content


# --- the process ----------------------------------------------------------------------------------


@asynccontextmanager
async def _open_parts(settings: Settings) -> AsyncIterator[FreshParts]:
    """The configured graph. Its long-term memory is this run's own: a server may have the database open."""
    async with AsyncExitStack() as stack:
        pool = ThreadPoolExecutor(settings.runs.max_threads, thread_name_prefix="graph")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        asyncio.get_running_loop().set_default_executor(pool)
        saver, store = InMemorySaver(), InMemoryStore()
        if settings.graph is None:
            model = await stack.enter_async_context(open_model(settings.model))
            sys.stderr.write(f"model: {model.name} ({model.why})\n")
            opening = open_agent_graph(
                model.chat_model, settings.agent, calls_tools=model.calls_tools, takes=model.takes, saver=saver
            )
        else:
            opening = open_graph(settings.graph, saver=saver)
        graph = await stack.enter_async_context(opening)
        try:
            graph.check_context(None)
        except ThreadwireError as error:
            raise StartupError(f"graph: it needs a context, which a batch cannot give: {error.message}") from error
        yield fresh_parts(settings.runs, graph, lambda _fence: store, Tally(), NoTraces())


@contextlib.contextmanager
def _cancelled_by_signals(batch: Batch) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the batch; what has finished is kept."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # Windows
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, batch.cancel, "client")
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(name)
