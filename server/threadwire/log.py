"""A thread's log of frames, and its cursors.

``log.append(frame)`` numbers a frame and wakes the cursors; it never waits. A cursor holds a number, no queue:
``cursor.take()`` gives what comes after it, already encoded, and raises ``Gap`` once the log has been trimmed past it.

The newest entry stays open while no cursor has passed it: a ``token`` (or ``reasoning``) that follows an unread one of
the same message is merged into it, so a fast reader sees every token as it comes and a slow one, or a burst, gets fewer
and larger frames. Passing an entry seals it and keeps its bytes: every reader, and every replay, gets the same bytes.

The log is bounded in bytes, always; completeness yields to the bound, and ``Gap`` says so. Only the newest entry stays
however large it is, or no reader would ever get it.

A log that is journaled lets readers pass ``readable`` and no further: frames that are promises (``protocol.PROMISES``)
wait there until they are in the journal, everything waits whose number is not reserved yet (after a crash numbers go on
above all that were reserved, so that none means two frames). So numbers can jump, and ``has`` tells a number that was
never given, or was lost with its frame, from one after which nothing is missing.

Knows nothing of sockets, runs or what its frames mean, except which may merge and which are promises.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from threadwire.errors import Gap
from threadwire.filters import Filter, Origin
from threadwire.protocol import PROMISES, encode

#: Frames whose ``content`` is text to append to what came before it.
_TEXTS = frozenset({"token", "reasoning"})
#: A merged frame grows no further than this: a reader that stalled for a minute gets pages, not one huge message.
MAX_MERGED_CHARS = 16 * 1024
#: What an entry costs beside its bytes (measured with tracemalloc: object, number, bytes header), so that the bound
#: holds for the process's memory and not only for the text.
ENTRY_OVERHEAD = 360
#: Trimmed entries are dropped from the front of the list in batches: deleting one at a time moves the whole list.
_COMPACT_AFTER = 512


#: Above every number there is.
_UNBOUNDED = 2**62


class Numbered(NamedTuple):
    """A frame as the journal keeps it."""

    seq: int
    data: bytes
    origin: Origin | None


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
            self.data = _kept(self.frame)
            self.frame = None
        return self.data


class Log:
    """The frames of one thread, numbered from 1 within ``epoch``, at most ``max_bytes`` of them (0: no bound)."""

    def __init__(self, epoch: str, max_bytes: int, *, journaled: bool = False) -> None:
        self.epoch = epoch
        self._max_bytes = max_bytes
        self._entries: list[_Entry] = []
        self._seqs: list[int] = []
        # Entries before this index are trimmed and wait to be dropped.
        self._start = 0
        self._bytes = 0
        #: The number of the newest frame there was; the next has ``_next``, or a later one.
        self.last = 0
        self._next = 1
        #: Every frame after this number is here.
        self.floor = 0
        #: Readers pass no frame after this one.
        self.readable = 0 if journaled else _UNBOUNDED
        #: Numbers up to this one are reserved for this process.
        self.reserved = self.readable
        # Numbers of the promises that are not in the journal yet; None where there is no journal.
        self._held: deque[int] | None = deque() if journaled else None
        # The newest entry if it is text: it may still grow, unless it has been sealed or trimmed meanwhile.
        self._open: _Entry | None = None
        # Cursors that have seen all there is, and must hear of more. One that has not will look again by itself: what
        # a thousand stalled readers cost an append is nothing.
        self._asleep: set[Cursor] = set()

    @property
    def first(self) -> int:
        """The number of the earliest frame still here; that of the next where there is none."""
        return self._seqs[self._start] if self._start < len(self._seqs) else self._next

    @property
    def shown(self) -> int:
        """The number of the newest frame that readers may have."""
        if self.last <= self.readable:
            return self.last
        index = bisect_right(self._seqs, self.readable, self._start)
        return self._seqs[index - 1] if index > self._start else self.floor

    @property
    def held(self) -> bool:
        """Whether frames wait for the journal."""
        return self.last > self.readable

    def has(self, seq: int) -> bool:
        """Whether a reader that has passed ``seq`` (and all before it) has lost nothing."""
        index = bisect_left(self._seqs, seq, self._start)
        return seq == self.floor or (index < len(self._seqs) and self._seqs[index] == seq)

    @property
    def bytes(self) -> int:
        """What the log holds, in bytes of memory (an estimate that counts each entry's overhead)."""
        return self._bytes

    def next_after(self, seq: int) -> int:
        """The number of the earliest frame after ``seq``; of the next where there is none."""
        index = bisect_right(self._seqs, seq, self._start)
        return self._seqs[index] if index < len(self._seqs) else self._next

    def append(self, frame: dict[str, Any], origin: Origin | None = None) -> int:
        """Take a frame, number it (``frame["seq"]``), wake the cursors; returns its number.

        ``origin`` is None for frames that no filter hides. The log owns the frame from now on.
        """
        is_text = frame["type"] in _TEXTS
        if not (is_text and self._merge(frame, origin)):
            self._add(frame, origin, is_text=is_text)
        if self._bytes > self._max_bytes > 0:
            self._trim()
        self._wake()
        return self.last

    def _add(self, frame: dict[str, Any], origin: Origin | None, *, is_text: bool) -> None:
        if self._open is not None:
            self._seal(self._open)
        self.last = frame["seq"] = self._next
        self._next += 1
        if self._held is not None and frame["type"] in PROMISES:
            self._held.append(self.last)
            self._set_readable()
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

    # --- the journal's part ---

    def restore(self, *, epoch: str, floor: int, last: int, reserved: int, frames: Iterable[Numbered]) -> None:
        """Be the log that an earlier process left; only where nothing was appended yet.

        ``last`` is the newest number in the journal, ``reserved`` the newest that may have been given.
        """
        self.epoch, self.floor, self.last, self._next = epoch, floor, last, reserved + 1
        self.reserve(reserved)
        for seq, data, origin in frames:
            entry = _Entry({}, origin)
            entry.frame, entry.data, entry.size = None, data, ENTRY_OVERHEAD + len(data)
            self._entries.append(entry)
            self._seqs.append(seq)
            self._bytes += entry.size
        if self._bytes > self._max_bytes > 0:
            self._trim()

    def reserve(self, seq: int) -> None:
        """Numbers up to ``seq`` are reserved in the journal: their frames may be read."""
        self.reserved = seq
        self._set_readable()
        if self._bytes > self._max_bytes > 0:
            self._trim()
        self._wake()

    def settle(self, seq: int) -> None:
        """Let out the promises up to ``seq``: they are in the journal, or wait for it no more."""
        held = self._held
        if held and held[0] <= seq:
            while held and held[0] <= seq:
                held.popleft()
            self._set_readable()
            self._wake()

    def amend(self, seq: int, frame: dict[str, Any] | None) -> None:
        """Put another frame in the place of one that no reader may have had yet; None: nothing."""
        index = bisect_left(self._seqs, seq, self._start)
        if seq <= self.readable or index == len(self._seqs) or self._seqs[index] != seq:
            return
        entry = self._entries[index]
        entry.frame = None
        entry.data = b"" if frame is None else _kept({**frame, "seq": seq})
        size = ENTRY_OVERHEAD + len(entry.data)
        self._bytes += size - entry.size
        entry.size = size

    def after(self, seq: int) -> list[Numbered]:
        """For the journal: all frames after ``seq`` that are here, sealed, whoever may read them yet."""
        if self._open is not None:
            self._seal(self._open)
        index = bisect_right(self._seqs, seq, self._start)
        return [
            Numbered(number, entry.data, entry.origin)
            for number, entry in zip(self._seqs[index:], self._entries[index:], strict=True)
            if entry.data
        ]

    def _set_readable(self) -> None:
        held = self._held
        self.readable = min(self.reserved, held[0] - 1) if held else self.reserved

    def _wake(self) -> None:
        if self._asleep:
            woken, self._asleep = self._asleep, set()
            for cursor in woken:
                cursor.wake()

    def trim_to(self, seq: int) -> None:
        """Drop the frames up to and including ``seq``."""
        while self._start < len(self._seqs) and self._seqs[self._start] <= seq:
            self._drop_first()
        self._compact()

    def seal(self) -> None:
        """Let nothing more be merged into the newest frame: somebody holds what it says now, by other means."""
        if self._open is not None:
            self._seal(self._open)

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
        # A number that is not reserved may be given again by the next process: no reader must come to stand behind it.
        while (
            self._bytes > self._max_bytes
            and self._start < len(self._entries) - 1
            and self._seqs[self._start] <= self.reserved
        ):
            self._drop_first()
        self._compact()

    def _drop_first(self) -> None:
        entry = self._entries[self._start]
        self.floor = self._seqs[self._start]
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


def _kept(frame: dict[str, Any]) -> bytes:
    """A frame's bytes, in no more memory than they need: what orjson (3.13) gives holds a block of 4 KiB."""
    return bytes(memoryview(encode(frame)))


class Cursor:
    """A reader's place in a log: ``position`` is the number of the last frame it has passed."""

    __slots__ = ("_log", "_waiter", "_wake", "filter", "position")

    def __init__(self, log: Log | None, after: int, wake: Callable[[], None] | None) -> None:
        """``log`` None: there is none yet, see ``begin``."""
        self._log = log
        self._wake = wake
        self._waiter: asyncio.Future[None] | None = None
        self.position = after
        #: What this reader wants to see; None is everything.
        self.filter: Filter | None = None

    def begin(self, log: Log) -> None:
        """Read from its log, which has been made."""
        self._log = log
        log._asleep.add(self)  # noqa: SLF001 -- one idea in two classes

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
        if log is None:
            return []
        if self.position < log.floor:
            requested, self.position = self.position + 1, log.floor
            raise Gap(requested, log.first)
        bound = log.readable if until is None else min(until, log.readable)
        if self.position >= log.last or self.position >= log.readable:
            log._asleep.add(self)  # noqa: SLF001 -- one idea in two classes
            return []
        entries, seqs, start, which = log._entries, log._seqs, log._start, self.filter  # noqa: SLF001
        index, end = bisect_right(seqs, self.position, start), len(entries)
        taken: list[bytes] = []
        size = 0
        while index < end and size < max_bytes and seqs[index] <= bound:
            entry = entries[index]
            if entry.frame is not None:
                log._seal(entry)  # noqa: SLF001
            self.position = seqs[index]
            if entry.data and (which is None or entry.origin is None or which.passes(entry.origin)):
                taken.append(entry.data)
                size += len(entry.data)
            index += 1
        if index == end or seqs[index] > log.readable:
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
        if self._log is not None:
            self._log._asleep.discard(self)  # noqa: SLF001
