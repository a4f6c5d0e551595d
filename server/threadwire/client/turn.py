"""One turn, as the client that started it sees it: its frames, its text, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from threadwire.client.commands import Answer
from threadwire.client.errors import TurnFailed
from threadwire.client.following import Following
from threadwire.protocol import (
    AckFrame,
    Content,
    Frame,
    HistoryFrame,
    Interrupt,
    InterruptFrame,
    Message,
    MessageFrame,
    MessagesRemovedFrame,
    RunFinishedFrame,
    TokenFrame,
)


class Turn(Following):
    """A run that this client started.

    It is an async iterator of the run's frames, from ``run_queued`` or ``run_started`` to ``run_finished``.
    The iteration ends after ``run_finished`` or raises; it never ends short in silence. Leaving it early does
    not cancel the run, and the other methods work whether or not anybody iterates.

    All that waits raises ``CommandFailed`` where the server did not take the command, ``Disconnected`` where
    the chat closed before the end, ``TurnLost`` where the end came while the connection was lost for too
    long.

    Attributes:
        run_id: The run's id, a UUID; ours, and known from the start.
        message_id: The id of the user's message; an ``edit`` gets it with its ack. None where the command adds
            none (``respond``, ``regenerate``).
        interrupts: What the graph waits for, where the turn ended as ``interrupted``: ``Chat.respond`` answers it.
    """

    def __init__(
        self,
        run_id: str,
        message_id: str | None,
        answer: asyncio.Future[Answer],
        cancel: Callable[[str], Awaitable[AckFrame]],
    ) -> None:
        super().__init__(run_id, answer, cancel)
        self.message_id = message_id
        self.interrupts: list[Interrupt] = []
        self._text = _Text()

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self

    async def __anext__(self) -> Frame:
        frame = await self._frames.get()
        if frame is None:
            raise StopAsyncIteration
        return frame

    async def text(self) -> str:
        """Wait for the end and return what the assistant said; several messages are parted by an empty line.

        A turn that was cancelled or interrupted returns what it said until then.

        Raises:
            TurnFailed: the status is ``failed`` or ``lost``, or the run had an error (a timeout).
        """
        finished = await self.finished()
        if finished.status in ("failed", "lost") or finished.error is not None:
            raise TurnFailed(finished, self._text.joined())
        return self._text.joined()

    @property
    def acknowledged(self) -> bool:
        """Whether the server has taken the command."""
        return self._answer.done() and not self._answer.cancelled() and self._answer.exception() is None

    def take(self, frame: Frame) -> None:
        """Add one of the run's frames."""
        if self.over:
            return
        self._frames.put(frame)
        self._text.add(frame)
        if isinstance(frame, InterruptFrame):
            self.interrupts = frame.interrupts
        elif isinstance(frame, RunFinishedFrame):
            self._finished = frame
            self._end(None)

    def reload(self, history: HistoryFrame, *, running: bool) -> None:
        """Add the history that fills a gap; ``running``: it was true while this run was the thread's current one."""
        self._frames.put(history)
        self._text.reload(history.messages, self.message_id, running=running)

    def _answered(self, answer: asyncio.Future[Answer]) -> None:
        super()._answered(answer)
        if self.acknowledged and (message_id := getattr(answer.result(), "message_id", None)) is not None:
            self.message_id = message_id


class _Text:
    """What the assistant has said in one run, by message."""

    def __init__(self) -> None:
        self._parts: dict[str, list[str]] = {}

    def add(self, frame: Frame) -> None:
        if isinstance(frame, TokenFrame):
            self._parts.setdefault(frame.message_id, []).append(frame.content)
        elif isinstance(frame, MessageFrame):
            self._replace([frame.message])
        elif isinstance(frame, MessagesRemovedFrame):
            for message_id in frame.message_ids:
                self._parts.pop(message_id, None)
        elif isinstance(frame, RunFinishedFrame) and frame.messages is not None:
            self._parts.clear()
            self._replace(frame.messages)

    def reload(self, messages: list[Message], user_message_id: str | None, *, running: bool) -> None:
        """Take what the history says of this run: tokens were missed."""
        places = [place for place, message in enumerate(messages) if message.id == user_message_id]
        if not places:
            self._replace([m for m in messages if m.id in self._parts or (running and m.status == "running")])
            return
        self._parts.clear()
        for message in messages[places[0] + 1 :]:
            if message.role == "user":
                break
            self._replace([message])

    def joined(self) -> str:
        said = ("".join(parts) for parts in self._parts.values())
        return "\n\n".join(text for text in said if text)

    def _replace(self, messages: list[Message]) -> None:
        for message in messages:
            if message.role == "assistant":
                self._parts[message.id] = [_plain(message.content)]


def _plain(content: Content) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text", "")) for block in content if block.get("type") == "text")
