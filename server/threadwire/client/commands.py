"""Commands that wait for their answer, and which of them are said again on the next connection."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from threadwire.client.errors import CommandFailed, Disconnected
from threadwire.protocol import AckFrame, ErrorFrame, HistoryFrame, PongFrame, encode

Answer: TypeAlias = AckFrame | HistoryFrame | PongFrame


@dataclass(slots=True)
class _Waiting:
    text: str
    answer: asyncio.Future[Answer]
    repeatable: bool


class Commands:
    """The commands of one chat, over all its connections, in the order they were given.

    Attributes:
        patient: Whether a command that a draining server refused waits for the next connection.
    """

    def __init__(self, write: Callable[[str], None], *, patient: bool) -> None:
        self.patient = patient
        self._write = write
        self._numbers = itertools.count(1)
        self._waiting: dict[str, _Waiting] = {}

    def issue(self, kind: str, fields: dict[str, Any], *, repeatable: bool) -> asyncio.Future[Answer]:
        """Send a command; the fields that are None are left out.

        The future gets the frame that answers, or ``CommandFailed``, or ``Disconnected``. ``repeatable``:
        doing it twice does no harm (it carries a ``run_id``, or only reads), so it survives a lost
        connection.

        Raises:
            TypeError: a field is not JSON.
        """
        command_id = f"c{next(self._numbers)}"
        said = {name: value for name, value in fields.items() if value is not None}
        text = encode({"type": kind, "id": command_id, **said}).decode()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[command_id] = _Waiting(text, answer, repeatable)
        # Nobody has to wait for it: a failure that no one fetches is not worth a complaint from asyncio.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        answer.add_done_callback(lambda _: self._waiting.pop(command_id, None))
        self._write(text)
        return answer

    def take(self, frame: AckFrame | ErrorFrame | HistoryFrame | PongFrame) -> None:
        """Give an answer to who waits for it; one that nobody waits for is nothing."""
        waiting = self._waiting.get(frame.id) if frame.id is not None else None
        if waiting is None or waiting.answer.done():
            return
        if not isinstance(frame, ErrorFrame):
            waiting.answer.set_result(frame)
        elif not (self.patient and waiting.repeatable and frame.code == "shutting_down"):
            waiting.answer.set_exception(CommandFailed.of(frame))

    def lost(self, error: Disconnected) -> None:
        """Fail what cannot be repeated: the connection is gone, and whether it was done is not known."""
        for waiting in list(self._waiting.values()):
            if not waiting.repeatable and not waiting.answer.done():
                waiting.answer.set_exception(error)

    def repeat(self) -> None:
        """Send what was not answered again, on a new connection, as it was and in its order."""
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                self._write(waiting.text)

    def close(self, error: Disconnected) -> None:
        """Fail all that is left."""
        for waiting in list(self._waiting.values()):
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
