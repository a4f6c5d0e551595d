"""Frames that wait for one reader, in memory that does not grow with the time it takes.

Tokens of one message that nobody has taken yet are merged, as in the server's log. A bounded buffer whose
reader falls behind drops what waits and says so with a ``gap`` frame, as the server would.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeGuard

from threadwire.protocol import LOG_FRAMES, Frame, GapFrame, ReasoningFrame, TokenFrame, UnknownFrame

#: Untaken tokens are merged up to this many characters: ever longer joins would cost their square.
MERGE_CHARACTERS = 4096


class FrameBuffer:
    """A queue of frames with an end.

    Attributes:
        limit: How many frames may wait, or None where the source itself ends (one turn).
    """

    def __init__(self, limit: int | None = None, epoch: Callable[[], str] = str) -> None:
        self.limit = limit
        self._epoch = epoch
        self._waiting: deque[Frame] = deque()
        self._merged: Frame | None = None
        self._closed = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, frame: Frame) -> None:
        """Add a frame; never waits. After ``close`` it does nothing."""
        if self._closed:
            return
        if not self._merge(frame):
            if self.limit is not None and len(self._waiting) >= self.limit:
                self._overrun(frame)
            self._waiting.append(frame)
        self._changed.set()

    def close(self, error: Exception | None = None) -> None:
        """End the queue: readers take what waits, then get ``error``, or the end."""
        if not self._closed:
            self._closed = True
            self._error = error
            self._changed.set()

    async def get(self) -> Frame | None:
        """Take the next frame, waiting for it; None at the end, from then on.

        Raises what ``close`` was given.
        """
        while not self._waiting:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        frame = self._waiting.popleft()
        if not self._waiting:
            self._merged = None
        return frame

    def _merge(self, frame: Frame) -> bool:
        if not self._waiting or not _is_text(frame):
            return False
        last = self._waiting[-1]
        if not _is_text(last) or (last.type, last.message_id, last.node) != (
            frame.type,
            frame.message_id,
            frame.node,
        ):
            return False
        if len(last.content) >= MERGE_CHARACTERS:
            return False
        if last is not self._merged:
            # Other readers may hold the same frame.
            last = last.model_copy()
            self._waiting[-1] = self._merged = last
        last.content += frame.content
        last.seq = frame.seq
        return True

    def _overrun(self, frame: Frame) -> None:
        first = self._waiting[0]
        numbers = [number for number in map(number_of, self._waiting) if number is not None]
        last = numbers[-1] if numbers else 0
        requested = first.requested if isinstance(first, GapFrame) else numbers[0] if numbers else 0
        earliest = number_of(frame) or last + 1
        self._waiting.clear()
        self._merged = None
        self._waiting.append(GapFrame(requested=requested, earliest=earliest, epoch=self._epoch(), run=None))


def number_of(frame: Frame) -> int | None:
    """The frame's place in the thread's log, or None where it is about this connection alone."""
    if frame.type in LOG_FRAMES or isinstance(frame, UnknownFrame):
        number = getattr(frame, "seq", None)
        return number if isinstance(number, int) else None
    return None


def _is_text(frame: Frame) -> TypeGuard[TokenFrame | ReasoningFrame]:
    return isinstance(frame, TokenFrame | ReasoningFrame)
