"""A conversation: commands out, frames in, over as many connections as it takes.

A frame's way: link (the socket) → ``Chat.on_frame`` → position (seen before? held?) → turns (whose is it?) →
buffers (who reads). Everything here runs on one event loop, and nothing in this way waits.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar, Unpack

from threadwire.client.batch import Batch, OpenBatches
from threadwire.client.buffer import FrameBuffer, number_of
from threadwire.client.commands import Answer, Commands
from threadwire.client.errors import CommandFailed, Disconnected
from threadwire.client.frames import Frames
from threadwire.client.link import Link, State
from threadwire.client.options import Filters, SendOptions, filter_query
from threadwire.client.position import Position
from threadwire.client.recovery import Recovery
from threadwire.client.turn import Turn
from threadwire.client.turns import Turns
from threadwire.protocol import (
    AckFrame,
    BatchResultFrame,
    Content,
    CredentialExpiringFrame,
    ErrorFrame,
    EventFrame,
    Frame,
    GapFrame,
    HistoryFrame,
    PongFrame,
    ReadyFrame,
    RunFinishedFrame,
)

logger = logging.getLogger("threadwire.client")

#: Frames that may wait for a reader of ``frames()``; one that falls further behind gets a ``gap``.
MAX_WAITING_FRAMES = 10_000

A = TypeVar("A", bound=Answer)


class Chat:
    """One thread on a server; made by ``connect``.

    Attributes:
        ready: What the server said of itself and the thread when the present connection began.
        first_history: The messages that ``connect(history=…)`` asked for, else None.
    """

    ready: ReadyFrame
    first_history: HistoryFrame | None

    def __init__(
        self,
        *,
        history: int | None,
        filters: Filters,
        patient: bool,
        make_link: Callable[[Chat], Link],
        renew: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        """``renew`` gives a fresh token, where there can be one."""
        self._renew = renew
        self._renewing: asyncio.Task[None] | None = None
        self.first_history = None
        self._wants_history = history
        self._filters = filters
        self._position = Position()
        self._turns = Turns()
        self._batches = OpenBatches()
        self._link = make_link(self)
        self._commands = Commands(self._link.write, patient=patient)
        self._recovery = Recovery(self, self._position, self._turns, self._pass_on, self._link.reattach)
        self._readers: weakref.WeakSet[Frames] = weakref.WeakSet()
        self._attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._just_attached = False
        self._closed: Disconnected | None = None

    # --- what one can ask of it ---

    @property
    def thread_id(self) -> str:
        """The thread's id, the server's where none was given."""
        return self.ready.thread_id

    @property
    def state(self) -> State:
        """``connecting``, ``live``, ``reconnecting`` or ``closed``."""
        return self._link.state

    def send(self, content: Content, **options: Unpack[SendOptions]) -> Turn:
        """Say something: text, or a list of LangChain's content blocks.

        Raises:
            Disconnected: the chat is closed.
            TypeError: something in the options is not JSON.
        """
        message_id = options.get("message_id") or str(uuid.uuid4())
        return self._turn("send", {**options, "content": content, "message_id": message_id}, message_id)

    def respond(self, responses: dict[str, Any]) -> Turn:
        """Answer interrupts, ``{interrupt_id: value}``, and follow the run that goes on with them."""
        return self._turn("respond", {"responses": responses}, None)

    def edit(self, message_id: str, content: Content) -> Turn:
        """Replace a user message, drop what followed it, and follow the run that answers it."""
        return self._turn("edit", {"message_id": message_id, "content": content}, None)

    def regenerate(self, message_id: str | None = None) -> Turn:
        """Have the turn of an assistant message (default: the last) answered again."""
        return self._turn("regenerate", {"message_id": message_id}, None)

    def batch(self, inputs: Sequence[Content], *, max_concurrency: int | None = None) -> Batch:
        """Run each input on the graph by itself, without a thread; at most ``max_concurrency`` at once.

        Raises:
            Disconnected: the chat is closed.
            TypeError: an input is not JSON.
        """
        if self._closed is not None:
            raise self._closed
        run_id = str(uuid.uuid4())
        fields = {"inputs": list(inputs), "max_concurrency": max_concurrency, "run_id": run_id}
        batch = Batch(run_id, self._commands.issue("batch", fields, repeatable=False), self.cancel)
        self._batches.add(batch)
        return batch

    async def cancel(self, run_id: str | None = None) -> AckFrame:
        """Stop a run, or the one that is active now.

        Without ``run_id`` it is not repeated after a lost connection, where it could hit another run: it then
        raises ``Disconnected``. ``CommandFailed`` where there is nothing to stop.
        """
        return await self._ask(AckFrame, "cancel", {"run_id": run_id}, repeatable=run_id is not None)

    async def history(self, before: str | None = None, limit: int | None = None) -> HistoryFrame:
        """Read a page of messages, oldest first: the last, or those before the cursor of a former page."""
        return await self._ask(HistoryFrame, "history", {"before": before, "limit": limit})

    async def subscribe(self, **filters: Unpack[Filters]) -> AckFrame:
        """Replace the filter of events, from now on and on later connections."""
        self._filters = filters
        return await self._ask(AckFrame, "subscribe", dict(filters))

    async def ping(self) -> PongFrame:
        """Ask for a sign of life; its ``seq`` is how far into the thread's log this connection is."""
        return await self._ask(PongFrame, "ping", {})

    def frames(self) -> Frames:
        """Everything that comes from now on: of all runs and tabs, and the answers to commands.

        Called before the first ``await`` after ``connect``, it misses nothing of what the server sends on
        attaching. A reader that falls more than 10,000 frames behind gets a ``gap`` in place of what it
        missed.
        """
        reader = Frames(FrameBuffer(MAX_WAITING_FRAMES, lambda: self._position.epoch))
        self._readers.add(reader)
        if self._closed is not None:
            reader.buffer.close(_at_end(self._closed))
        return reader

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self.frames()

    # --- for connect ---

    async def open(self) -> None:
        """Connect, and read up to the point from which ``frames()`` goes on; raises ``Disconnected``."""
        self._link.start()
        await self._attached
        # No await between here and the body of the caller's `async with`.
        self._link.gate.set()

    async def close(self) -> None:
        """Close with 1000, and let go all who wait."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._link.close()

    def query(self) -> dict[str, str]:
        """The parameters of the next connection, but for those that are always the same."""
        query = self._position.query() | filter_query(self._filters)
        if not self._attached.done():
            return query if self._wants_history is None else query | {"history": str(self._wants_history)}
        return query | {"thread_id": self.thread_id}

    # --- for the link ---

    def on_frame(self, frame: Frame) -> None:
        """Take one frame from the socket."""
        number = number_of(frame)
        if number is not None:
            self._just_attached = False
            if number > self._position.seq:
                self._turns.seen(frame)
            if self._position.accept(frame):
                self._pass_on(frame)
            return
        if isinstance(frame, ReadyFrame):
            self._on_ready(frame)
        elif isinstance(frame, GapFrame):
            self._on_gap(frame)
        elif isinstance(frame, AckFrame | ErrorFrame | HistoryFrame | PongFrame):
            self._on_answer(frame)
        elif isinstance(frame, EventFrame):
            self._turns.pass_on(frame)
        elif isinstance(frame, BatchResultFrame | RunFinishedFrame):
            self._batches.take(frame)
        elif isinstance(frame, CredentialExpiringFrame):
            self._on_expiring()
        self._publish(frame)

    def on_lost(self, error: Disconnected) -> None:
        """The connection is gone; another one is being tried."""
        self._recovery.stop()
        self._commands.lost(error)
        self._batches.fail(error)

    def on_closed(self, error: Disconnected) -> None:
        """There will be no other connection: wake everybody."""
        self._closed = error
        self._recovery.stop()
        self._commands.close(error)
        self._batches.fail(error)
        for turn in self._turns.open():
            turn.fail(error)
        for reader in self._readers:
            reader.buffer.close(_at_end(error))
        if not self._attached.done():
            self._attached.set_exception(error)

    # --- inside ---

    def _turn(self, kind: str, fields: dict[str, Any], message_id: str | None) -> Turn:
        if self._closed is not None:
            raise self._closed
        run_id = fields.get("run_id") or str(uuid.uuid4())
        answer = self._commands.issue(kind, {**fields, "run_id": run_id}, repeatable=True)
        turn = Turn(run_id, message_id, answer, self.cancel)
        self._turns.add(turn)
        return turn

    async def _ask(self, kind: type[A], name: str, fields: dict[str, Any], *, repeatable: bool = True) -> A:
        if self._closed is not None:
            raise self._closed
        answer = await self._commands.issue(name, fields, repeatable=repeatable)
        if not isinstance(answer, kind):
            raise CommandFailed("internal", f"{name} was answered with {answer.type}", retry=False)
        return answer

    def _pass_on(self, frame: Frame) -> None:
        self._turns.pass_on(frame)
        self._publish(frame)

    def _publish(self, frame: Frame) -> None:
        for reader in list(self._readers):
            reader.buffer.put(frame)

    def _on_ready(self, ready: ReadyFrame) -> None:
        first = not self._attached.done()
        self.ready = ready
        self._just_attached = True
        self._position.attach(ready)
        self._turns.attach(ready)
        if first:
            if self._wants_history is None:
                self._on_attached()
            return
        if any("," in name for names in self._filters.values() if isinstance(names, list) for name in names):
            self._commands.issue("subscribe", dict(self._filters), repeatable=False)
        self._commands.repeat()
        self._recovery.start(ready.seq)

    def _on_attached(self) -> None:
        # Read on when `open` has handed the chat to its user, so that `frames()` can be there before the
        # frames.
        self._link.gate.clear()
        self._attached.set_result(None)

    def _on_gap(self, gap: GapFrame) -> None:
        self._position.open_gap(gap)
        self._turns.open_gap(gap, at_attach=self._just_attached)
        for turn in self._turns.open():
            turn.take(gap)
        # On attaching, ``earliest`` may lie far ahead of all there is: numbers are reserved in blocks.
        self._recovery.start(self.ready.seq if self._just_attached else gap.earliest - 1)

    def _on_expiring(self) -> None:
        if self._renew is not None and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._reauth(self._renew), name="threadwire-client-reauth")

    async def _reauth(self, renew: Callable[[], Awaitable[str | None]]) -> None:
        try:
            if (token := await renew()) is not None:
                await self._commands.issue("reauth", {"token": token}, repeatable=False)
        except Exception as error:
            # The connection ends with the credential, if no other comes; the close code says why.
            logger.warning("the credential was not renewed: %r", error)

    def _on_answer(self, frame: AckFrame | ErrorFrame | HistoryFrame | PongFrame) -> None:
        self._commands.take(frame)
        if isinstance(frame, AckFrame):
            if self._turns.acknowledged(frame):
                self._recovery.start(self.ready.seq)
        elif isinstance(frame, PongFrame):
            self._position.skip_to(frame.seq)
        elif isinstance(frame, HistoryFrame) and frame.id is None:
            self._position.skip_to(frame.seq)
            if not self._attached.done():
                self.first_history = frame
                self._on_attached()


def _at_end(error: Disconnected) -> Disconnected | None:
    """Readers of all frames see a close that this client asked for as the end, and any other as an error."""
    return None if error.code == 1000 else error
