"""The client without ``async``, for scripts and notebooks: a thread of its own runs the event loop.

It works beside a loop that runs already, as a notebook's does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar, Unpack

from threadwire.client.batch import Batch
from threadwire.client.chat import Chat
from threadwire.client.link import State
from threadwire.client.opening import connect
from threadwire.client.options import ConnectOptions, Filters, SendOptions
from threadwire.client.turn import Turn
from threadwire.protocol import (
    AckFrame,
    BatchResultFrame,
    Content,
    Frame,
    HistoryFrame,
    Interrupt,
    PongFrame,
    ReadyFrame,
    RunFinishedFrame,
)

T = TypeVar("T")

#: How long leaving waits for what was given up (a close waits up to 2 s for the server's).
END_SECONDS = 5.0


class _Loop:
    """An event loop in a thread; ``wait`` runs a coroutine there and waits here."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: an interpreter that ends without leaving the `with` is not held up.
        self._thread = threading.Thread(target=self._loop.run_forever, name="threadwire-client", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        done = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return done.result()
        except BaseException:
            # Ctrl-C comes here: what was waited for must not go on.
            done.cancel()
            raise

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(_others_end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncTurn:
    """A ``Turn`` whose methods wait: an iterator of the run's frames; the rest is as ``Turn`` says."""

    def __init__(self, turn: Turn, loop: _Loop) -> None:
        self._turn = turn
        self._loop = loop

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._turn.run_id

    @property
    def message_id(self) -> str | None:
        """The id of the user's message, where the command adds one."""
        return self._turn.message_id

    @property
    def interrupts(self) -> list[Interrupt]:
        """What the graph waits for, where the turn ended as ``interrupted``."""
        return self._turn.interrupts

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        frame = self._loop.wait(_next(self._turn))
        if frame is None:
            raise StopIteration
        return frame

    def ack(self) -> AckFrame:
        """Wait until the server has taken the command."""
        return self._loop.wait(self._turn.ack())

    def cancel(self) -> AckFrame:
        """Stop the run."""
        return self._loop.wait(self._turn.cancel())

    def text(self) -> str:
        """Wait for the end and return what the assistant said."""
        return self._loop.wait(self._turn.text())

    def finished(self) -> RunFinishedFrame:
        """Wait for the end and return its frame."""
        return self._loop.wait(self._turn.finished())


class SyncBatch:
    """A ``Batch`` whose methods wait: an iterator of its results as they finish; the rest is as ``Batch`` says."""

    def __init__(self, batch: Batch, loop: _Loop) -> None:
        self._batch = batch
        self._loop = loop

    @property
    def run_id(self) -> str:
        """The batch's id."""
        return self._batch.run_id

    def __iter__(self) -> Iterator[BatchResultFrame]:
        return self

    def __next__(self) -> BatchResultFrame:
        frame = self._loop.wait(_next(self._batch))
        if frame is None:
            raise StopIteration
        return frame

    def ack(self) -> AckFrame:
        """Wait until the server has taken it."""
        return self._loop.wait(self._batch.ack())

    def cancel(self) -> AckFrame:
        """Stop all of it."""
        return self._loop.wait(self._batch.cancel())

    def results(self) -> list[BatchResultFrame]:
        """Wait for the end and return a result for each input, in the order of the inputs."""
        return self._loop.wait(self._batch.results())

    def finished(self) -> RunFinishedFrame:
        """Wait for the end and return its frame."""
        return self._loop.wait(self._batch.finished())


class SyncChat:
    """A ``Chat`` whose methods wait; made by ``connect_sync``. It may be used from several threads."""

    def __init__(self, chat: Chat, loop: _Loop) -> None:
        self._chat = chat
        self._loop = loop

    @property
    def thread_id(self) -> str:
        """The thread's id."""
        return self._chat.thread_id

    @property
    def ready(self) -> ReadyFrame:
        """What the server said when the present connection began."""
        return self._chat.ready

    @property
    def first_history(self) -> HistoryFrame | None:
        """The messages that ``connect_sync(history=…)`` asked for."""
        return self._chat.first_history

    @property
    def state(self) -> State:
        """``connecting``, ``live``, ``reconnecting`` or ``closed``."""
        return self._chat.state

    def send(self, content: Content, **options: Unpack[SendOptions]) -> SyncTurn:
        """Say something."""

        async def send() -> Turn:
            return self._chat.send(content, **options)

        return SyncTurn(self._loop.wait(send()), self._loop)

    def respond(self, responses: dict[str, Any]) -> SyncTurn:
        """Answer interrupts, ``{interrupt_id: value}``."""

        async def respond() -> Turn:
            return self._chat.respond(responses)

        return SyncTurn(self._loop.wait(respond()), self._loop)

    def edit(self, message_id: str, content: Content) -> SyncTurn:
        """Replace a user message and what followed it."""

        async def edit() -> Turn:
            return self._chat.edit(message_id, content)

        return SyncTurn(self._loop.wait(edit()), self._loop)

    def regenerate(self, message_id: str | None = None) -> SyncTurn:
        """Have a turn answered again."""

        async def regenerate() -> Turn:
            return self._chat.regenerate(message_id)

        return SyncTurn(self._loop.wait(regenerate()), self._loop)

    def batch(self, inputs: Sequence[Content], *, max_concurrency: int | None = None) -> SyncBatch:
        """Run each input on the graph by itself, without a thread."""

        async def batch() -> Batch:
            return self._chat.batch(inputs, max_concurrency=max_concurrency)

        return SyncBatch(self._loop.wait(batch()), self._loop)

    def cancel(self, run_id: str | None = None) -> AckFrame:
        """Stop a run, or the one that is active now."""
        return self._loop.wait(self._chat.cancel(run_id))

    def history(self, before: str | None = None, limit: int | None = None) -> HistoryFrame:
        """Read a page of messages, oldest first."""
        return self._loop.wait(self._chat.history(before, limit))

    def subscribe(self, **filters: Unpack[Filters]) -> AckFrame:
        """Replace the filter of events."""
        return self._loop.wait(self._chat.subscribe(**filters))

    def ping(self) -> PongFrame:
        """Ask for a sign of life."""
        return self._loop.wait(self._chat.ping())


@contextmanager
def connect_sync(url: str, **options: Unpack[ConnectOptions]) -> Iterator[SyncChat]:
    """``connect`` without ``async``: the same options (but for ``session``), the same errors."""
    loop = _Loop()
    try:
        opening = connect(url, **options)
        chat = loop.wait(_enter(opening))
        try:
            yield SyncChat(chat, loop)
        finally:
            loop.wait(_leave(opening))
    finally:
        loop.close()


async def _others_end() -> None:
    """Let what was given up clean up after itself; it has been cancelled, and twice would cut that short."""
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=END_SECONDS)


async def _next(source: AsyncIterator[T]) -> T | None:
    return await anext(source, None)


async def _enter(opening: AbstractAsyncContextManager[Chat]) -> Chat:
    return await opening.__aenter__()


async def _leave(opening: AbstractAsyncContextManager[Chat]) -> None:
    await opening.__aexit__(None, None, None)
