"""Who is attached to a thread, and what happens when nobody is any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from threadwire.storage import OnDisconnect


class Reader(Protocol):
    """One of a thread's readers."""

    #: For the runs this reader starts.
    on_disconnect: OnDisconnect

    def end(self, code: int, reason: str) -> None:
        """Give it what it has not read yet, then close it with ``code``."""
        ...


class Readers:
    """The readers of one thread. ``alone`` is called when the last one has left for good."""

    def __init__(self, grace_seconds: float, alone: Callable[[], None]) -> None:
        self._readers: set[Reader] = set()
        self._grace_seconds = grace_seconds
        self._alone = alone
        self._grace: asyncio.TimerHandle | None = None

    def add(self, reader: Reader) -> None:
        """Somebody is here; who was missed is missed no more."""
        self._readers.add(reader)
        self._stop()

    def remove(self, reader: Reader, *, deliberate: bool) -> None:
        """A reader has gone: ``deliberate`` when its code closed, else it may come back within the grace."""
        self._readers.discard(reader)
        if self._readers:
            return
        self._stop()
        seconds = 0.0 if deliberate else self._grace_seconds
        if seconds > 0:
            self._grace = asyncio.get_running_loop().call_later(seconds, self._leave)
        else:
            self._leave()

    @property
    def gone(self) -> bool:
        """Whether nobody is here and nobody is waited for."""
        return not self._readers and self._grace is None

    def close(self) -> None:
        """Wait for nobody any more."""
        self._stop()

    def _stop(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _leave(self) -> None:
        self._grace = None
        self._alone()

    def __iter__(self) -> Iterator[Reader]:
        return iter(tuple(self._readers))

    def __len__(self) -> int:
        return len(self._readers)
