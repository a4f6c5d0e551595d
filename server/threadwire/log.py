"""A thread's log of frames, and its cursors.

``log.append(frame)`` numbers a frame and wakes the cursors; it never waits. A cursor holds a number, no queue:
``cursor.take()`` gives what comes after it, already encoded, and raises ``Gap`` once the log has been trimmed past it.

The newest entry stays open while no cursor has passed it: a ``token`` (or ``reasoning``) that follows an unread one of
the same message is merged into it, so a fast reader sees every token as it comes and a slow one, or a burst, gets fewer
and larger frames. Passing an entry seals it and keeps its bytes: every reader, and every replay, gets the same bytes.

The log is bounded in bytes, always; completeness yields to the bound, and ``Gap`` says so. Only the newest entry stays
however large it is, or no reader would ever get it. Knows nothing of sockets, runs or what its frames mean, except
which may merge.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from threadwire.errors import Gap
from threadwire.filters import Filter, Origin
from threadwire.protocol import encode

#: Frames whose ``content`` is text to append to what came before it.
_TEXTS = frozenset({"token", "reasoning"})
#: A merged frame grows no further than this: a reader that stalled for a minute gets pages, not one huge message.
MAX_MERGED_CHARS = 16 * 1024
#: What an entry costs beside its bytes (measured with tracemalloc: object, number, bytes header), so that the bound
#: holds for the process's memory and not only for the text.
ENTRY_OVERHEAD = 360
#: Trimmed entries are dropped from the front of the list in batches: deleting one at a time moves the whole list.
_COMPACT_AFTER = 512


class _Entry:
    __slots__ = ("data", "frame", "origin", "parts", "size")

    def __init__(self, frame: dict[str, Any], origin: Origin | None) -> None:
        self.frame: dict[str, Any] | None = frame
        self.origin = origin
        # Texts merged into an open token after its first; joined when it is sealed.
        self.parts: list[str] | None = None
        self.data = b""
        self.size = 0

    def seal(self) -> bytes:
        if self.frame is not None:
            if self.parts is not None:
                self.frame["content"] = "".join((self.frame["content"], *self.parts))
                self.parts = None
            self.data = encode(self.frame)
            self.frame = None
        return self.data


class Log:
    """The frames of one thread, numbered from 1 within ``epoch``, at most ``max_bytes`` of them (0: no bound)."""

    def __init__(self, epoch: str, max_bytes: int) -> None:
        self.epoch = epoch
        self._max_bytes = max_bytes
        self._entries: list[_Entry] = []
        self._seqs: list[int] = []
        # Entries before this index are trimmed and wait to be dropped.
        self._start = 0
        self._bytes = 0
        self.last = 0
        # The newest entry if it is text: it may still grow, unless it has been sealed or trimmed meanwhile.
        self._open: _Entry | None = None
        # Cursors that have seen all there is, and must hear of more. One that has not will look again by itself: what
        # a thousand stalled readers cost an append is nothing.
        self._asleep: set[Cursor] = set()

    @property
    def first(self) -> int:
        """The number of the earliest frame still here; ``last + 1`` where there is none."""
        return self._seqs[self._start] if self._start < len(self._seqs) else self.last + 1

    @property
    def bytes(self) -> int:
        """What the log holds, in bytes of memory (an estimate that counts each entry's overhead)."""
        return self._bytes

    def append(self, frame: dict[str, Any], origin: Origin | None = None) -> int:
        """Take a frame, number it (``frame["seq"]``), wake the cursors; returns its number.

        ``origin`` is None for frames that no filter hides. The log owns the frame from now on.
        """
        is_text = frame["type"] in _TEXTS
        if not (is_text and self._merge(frame, origin)):
            if self._open is not None:
                self._seal(self._open)
            self.last += 1
            frame["seq"] = self.last
            entry = _Entry(frame, origin)
            self._entries.append(entry)
            self._seqs.append(self.last)
            if is_text:
                # An estimate until it is sealed.
                entry.size = ENTRY_OVERHEAD + len(frame["content"])
                self._bytes += entry.size
                self._open = entry
            else:
                self._open = None
                self._seal(entry)
        if self._bytes > self._max_bytes > 0:
            self._trim()
        if self._asleep:
            woken, self._asleep = self._asleep, set()
            for cursor in woken:
                cursor.wake()
        return self.last

    def trim_to(self, seq: int) -> None:
        """Drop the frames up to and including ``seq``."""
        while self._start < len(self._seqs) and self._seqs[self._start] <= seq:
            self._drop_first()
        self._compact()

    def cursor(self, after: int, wake: Callable[[], None] | None = None) -> Cursor:
        """A reader that has seen ``after`` and everything before it.

        ``wake`` is called at the first append after the cursor was made, and after each ``take`` that reached the end.
        Close it when done. ``after`` may lie before ``first``: the first ``take`` then raises ``Gap``.
        """
        cursor = Cursor(self, after, wake)
        self._asleep.add(cursor)
        return cursor

    def _merge(self, frame: dict[str, Any], origin: Origin | None) -> bool:
        newest = self._open
        if newest is None:
            return False
        held, text = newest.frame, frame["content"]
        if (
            held is None
            or held["message_id"] != frame["message_id"]
            or held["type"] != frame["type"]
            or held["run_id"] != frame["run_id"]
            or held["node"] != frame["node"]
            or newest.origin != origin
            or newest.size - ENTRY_OVERHEAD + len(text) > MAX_MERGED_CHARS
        ):
            return False
        if newest.parts is None:
            newest.parts = []
        newest.parts.append(text)
        newest.size += len(text)
        self._bytes += len(text)
        return True

    def _seal(self, entry: _Entry) -> None:
        if entry.frame is not None:
            size = ENTRY_OVERHEAD + len(entry.seal())
            self._bytes += size - entry.size
            entry.size = size

    def _trim(self) -> None:
        while self._bytes > self._max_bytes and self._start < len(self._entries) - 1:
            self._drop_first()
        self._compact()

    def _drop_first(self) -> None:
        entry = self._entries[self._start]
        self._bytes -= entry.size
        # Freed now, not when the list is compacted.
        entry.data = b""
        entry.frame = entry.parts = None
        self._start += 1

    def _compact(self) -> None:
        if self._start > _COMPACT_AFTER and self._start * 2 > len(self._entries):
            del self._entries[: self._start]
            del self._seqs[: self._start]
            self._start = 0


class Cursor:
    """A reader's place in a log: ``position`` is the number of the last frame it has passed."""

    __slots__ = ("_log", "_waiter", "_wake", "filter", "position")

    def __init__(self, log: Log, after: int, wake: Callable[[], None] | None) -> None:
        self._log = log
        self._wake = wake
        self._waiter: asyncio.Future[None] | None = None
        self.position = after
        #: What this reader wants to see; None is everything.
        self.filter: Filter | None = None

    def wake(self) -> None:
        """Called by the log: there is something new."""
        if self._wake is not None:
            self._wake()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self, max_bytes: int = 65536, until: int | None = None) -> list[bytes]:
        """Pass the next frames, at most about ``max_bytes`` of them and none after ``until``; empty at the end.

        Frames its filter hides are passed (and sealed) and not given.

        Raises:
            Gap: frames after ``position`` are gone. The cursor then stands before the earliest frame there is.
        """
        log = self._log
        if self.position >= log.last:
            log._asleep.add(self)  # noqa: SLF001 -- one idea in two classes
            return []
        entries, seqs, start = log._entries, log._seqs, log._start  # noqa: SLF001
        first = seqs[start] if start < len(seqs) else log.last + 1
        if self.position < first - 1:
            requested, self.position = self.position + 1, first - 1
            raise Gap(requested, first)
        index, end, which = bisect_right(seqs, self.position, start), len(entries), self.filter
        taken: list[bytes] = []
        size = 0
        while index < end and size < max_bytes and (until is None or seqs[index] <= until):
            entry = entries[index]
            if entry.frame is not None:
                log._seal(entry)  # noqa: SLF001
            self.position = seqs[index]
            if which is None or entry.origin is None or which.passes(entry.origin):
                taken.append(entry.data)
                size += len(entry.data)
            index += 1
        if index == end:
            log._asleep.add(self)  # noqa: SLF001
        return taken

    async def read(self, max_bytes: int = 65536) -> list[bytes]:
        """``take``, waiting while there is nothing. Raises ``Gap`` as it does."""
        while not (taken := self.take(max_bytes)):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return taken

    def close(self) -> None:
        """Leave the log; it wakes this cursor no more."""
        self._log._asleep.discard(self)  # noqa: SLF001
