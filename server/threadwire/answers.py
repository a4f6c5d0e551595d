"""What waits to be told to one connection alone: answers to its commands, and frames about the connection itself.

Bounded: a connection reads no more commands while too many answers wait for a client that does not read. Knows no
socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from threadwire.errors import ThreadwireError
from threadwire.protocol import MAX_WAITING_ANSWERS, Command, error_frame


@dataclass(slots=True)
class Answer:
    """A frame; made when it is sent, where it depends on the moment."""

    frame: dict[str, Any] | Callable[[], dict[str, Any]]
    #: The log position it is true for: the frames up to there go first.
    after: int = 0
    #: Set once it is sent, for whoever waits with the next.
    sent: asyncio.Event | None = None

    def made(self) -> dict[str, Any]:
        """The frame, as it is true now."""
        return self.frame() if callable(self.frame) else self.frame


def named(frame: dict[str, Any], command: Command) -> dict[str, Any]:
    """The frame that answers a command, with its ``id`` where it has one."""
    return frame if command.id is None else {**frame, "id": command.id}


class Answers:
    """The answers of one connection, in order. ``wake`` is called when there is one more."""

    __slots__ = ("_moving", "_promised", "_waiting", "_wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        # A list, and not the deque it is: most connections are idle, and an empty deque has 760 bytes.
        self._waiting: list[Answer] = []
        # Commands that were taken and not answered yet count as answers that wait.
        self._promised = 0
        self._moving: asyncio.Future[None] | None = None

    def put(self, answer: Answer) -> None:
        """Let one more wait."""
        self._waiting.append(answer)
        self._wake()

    def put_first(self, *frames: dict[str, Any]) -> None:
        """Let these go before whatever waits already."""
        self._waiting[:0] = [Answer(frame) for frame in frames]
        self._wake()

    def promise(self) -> Callable[[Answer], None]:
        """Count an answer that is to come; what is returned puts it, once."""
        self._promised += 1
        kept = False

        def keep(answer: Answer) -> None:
            nonlocal kept
            if not kept:
                kept = True
                self._promised -= 1
                self.put(answer)

        return keep

    def promise_ack(self, command_id: str | None) -> Callable[[dict[str, Any] | ThreadwireError], None]:
        """``promise``, for a command that is acknowledged with fields or refused with an error."""
        keep = self.promise()

        def answer(found: dict[str, Any] | ThreadwireError) -> None:
            if isinstance(found, ThreadwireError):
                keep(Answer(error_frame(found, command_id)))
            else:
                keep(Answer({"type": "ack", "id": command_id, **found}))

        return answer

    def first(self) -> Answer | None:
        """The next to be sent; it stays."""
        return self._waiting[0] if self._waiting else None

    def pop(self) -> None:
        """Take out the first: it is being sent."""
        del self._waiting[0]
        self.give_up()

    @property
    def full(self) -> bool:
        """Whether no more commands may be read."""
        return len(self._waiting) + self._promised > MAX_WAITING_ANSWERS

    async def moved(self) -> None:
        """Wait until one has been taken out, or ``give_up`` was called."""
        self._moving = asyncio.get_running_loop().create_future()
        await self._moving

    def give_up(self) -> None:
        """Let nobody wait for room: the connection ends."""
        if self._moving is not None and not self._moving.done():
            self._moving.set_result(None)
