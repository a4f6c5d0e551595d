"""A reader's place at a thread: of one that nobody has ever asked anything, no more than this is made.

Most connections of most servers are idle, and many never say a word. So a thread that has no row, and is not live, is
not made for who attaches to it: its reader gets a ``Seat``, which knows the epoch the log will have. The first command
makes the thread, and all who wait for it become its readers in that moment, in which its log is empty: they miss
nothing. Knows no WebSocket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from threadwire.attachment import Attached
from threadwire.filters import Filter
from threadwire.inbox import Answer
from threadwire.log import Cursor
from threadwire.protocol import Command
from threadwire.raw import RawReader
from threadwire.readers import Reader
from threadwire.storage import OnDisconnect
from threadwire.thread import Thread


class Room(Protocol):
    """Where seats are: the hub."""

    def get(self, thread_id: str) -> Thread:
        """The live thread; who waits for it is its reader from then on (``Seat.rise``)."""
        ...

    async def is_new(self, thread_id: str) -> bool:
        """Whether there is no such thread, live or stored."""
        ...

    def seat(self, seat: Seat) -> str:
        """Let it wait for a thread that is not live; returns the epoch its log will have."""
        ...

    def leave(self, seat: Seat) -> None:
        """It waits no more."""
        ...


class Seat:
    """One reader's. It is a thread to its connection."""

    __slots__ = ("_hub", "_minted", "_thread", "cursor", "reader", "thread_id")

    def __init__(self, hub: Room, thread_id: str, *, minted: bool) -> None:
        """``minted``: nobody can have used that id before."""
        self.thread_id = thread_id
        self.reader: Reader | None = None
        self.cursor: Cursor | None = None
        self._hub = hub
        self._minted = minted
        self._thread: Thread | None = None

    async def attach(
        self,
        reader: Reader,
        *,
        after: int | None = None,
        epoch: str | None = None,
        history: int | None = None,
        wake: Callable[[], None] | None = None,
    ) -> Attached:
        """Let the reader in, as ``Thread.attach`` does."""
        if after is not None or not (self._minted or await self._hub.is_new(self.thread_id)):
            self._thread = thread = self._hub.get(self.thread_id)
            return await thread.attach(reader, after=after, epoch=epoch, history=history, wake=wake)
        self.reader, self.cursor = reader, Cursor(None, 0, wake)
        ready = {
            "thread_id": self.thread_id,
            "created": True,
            "epoch": self._hub.seat(self),
            "seq": 0,
            "resume": "fresh",
            "run": None,
            "queue": [],
            "interrupts": [],
        }
        none: dict[str, Any] = {"type": "history", "messages": [], "before": None, "seq": 0}
        return Attached(self.cursor, ready, None, None if history is None else none)

    def rise(self, thread: Thread) -> None:
        """The thread is made."""
        assert self.reader is not None  # noqa: S101 -- only who is seated is called
        assert self.cursor is not None  # noqa: S101
        self._thread = thread
        thread.join(self.reader, self.cursor)

    def detach(self, reader: Reader, *, deliberate: bool) -> None:
        """The reader has gone."""
        if self._thread is None:
            self._hub.leave(self)
        else:
            self._thread.detach(reader, deliberate=deliberate)

    @property
    def idle(self) -> bool:
        """Whether nobody has asked its thread anything yet."""
        return self._thread is None

    def end(self, code: int, reason: str) -> None:
        """Close the reader that waits."""
        if self.reader is not None:
            self.reader.end(code, reason)

    def subscribe(self, reader: RawReader, wanted: Filter | None) -> None:
        """Give a reader raw events from now on; None: none any more."""
        if wanted is not None or self._thread is not None:
            self._live().subscribe(reader, wanted)

    def submit(
        self, command: Command, answer: Answer, on_disconnect: OnDisconnect, user: dict[str, Any] | None = None
    ) -> None:
        """Take a command that changes the thread."""
        self._live().submit(command, answer, on_disconnect, user)

    async def history(self, before: str | None, limit: int | None) -> dict[str, Any]:
        """A ``history`` frame."""
        return await self._live().history(before, limit)

    def gap(self, requested: int, earliest: int) -> dict[str, Any]:
        """The frame that tells the reader what it has lost."""
        return self._live().gap(requested, earliest)

    def _live(self) -> Thread:
        if self._thread is None:
            # By ``rise``, which the hub calls for all that wait.
            self._hub.get(self.thread_id)
        assert self._thread is not None  # noqa: S101 -- only who is attached is asked
        return self._thread
