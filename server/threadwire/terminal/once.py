"""One answer, for scripts: its text alone on stdout, all else on stderr. Needs neither rich nor a terminal."""

from __future__ import annotations

import asyncio
import os
import sys

from threadwire.client import Chat, CommandFailed, Disconnected, Turn, TurnLost
from threadwire.protocol import (
    Frame,
    HistoryFrame,
    InterruptFrame,
    Message,
    MessageFrame,
    RunFinishedFrame,
    TokenFrame,
    ToolCallFrame,
    ToolResultFrame,
)
from threadwire.terminal.attachment import RELOADED, Attachment
from threadwire.terminal.questions import as_line
from threadwire.terminal.signals import Signals
from threadwire.terminal.stop import EXIT_INTERRUPTED, Stop
from threadwire.terminal.texts import brief, call, clean, cut_off, note, text_of

EXIT_COMPLETED = 0
EXIT_FAILED = 1
#: Between two looks at the connection.
LOOK_SECONDS = 0.1


class _Output:
    """The answer's text on stdout, each part once; messages are parted by an empty line."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._last = ""
        # A file gets every byte; a terminal must not be steered by what a model says.
        self._for_a_person = sys.stdout.isatty()

    def add(self, message_id: str, text: str) -> None:
        if not text:
            return
        if message_id != self._last and self._last:
            self._write("\n\n")
        self._last = message_id
        self._said[message_id] = self._said.get(message_id, "") + text
        self._write(text)

    def replace(self, message: Message) -> None:
        """The whole text of a message: what of it was not said yet is said."""
        if message.role != "assistant":
            return
        whole, said = text_of(message.content), self._said.get(message.id, "")
        if whole.startswith(said):
            self.add(message.id, whole[len(said) :])
        elif not said.startswith(whole):  # of a lost answer, the thread may have less than was seen
            note("what follows replaces what was said so far")
            self._said[message.id] = ""
            self.add(message.id, f"\n\n{whole}")

    def end(self) -> None:
        """The last line is a whole one."""
        if self._last and not self._said[self._last].endswith("\n"):
            self._write("\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(clean(text) if self._for_a_person else text)
        sys.stdout.flush()


async def answer_once(chat: Chat, message: str, signals: Signals) -> int:
    """Say ``message`` and print the answer as it comes; gives the exit code."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a TextIOWrapper, unless somebody replaced it
    watcher = asyncio.create_task(_watch(chat))
    output = _Output()
    try:
        turn = chat.send(message)
        stop = Stop(chat, signals, lambda: turn.run_id)
        with signals.interrupting(stop):
            code = await _print(turn, output)
            return EXIT_INTERRUPTED if stop.asked else code
    except BrokenPipeError:
        # Nobody reads on (`| head`). Python would try to write the rest once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    finally:
        watcher.cancel()


async def _print(turn: Turn, output: _Output) -> int:
    try:
        async for frame in turn:
            _show(frame, turn, output)
        finished = await turn.finished()
    except TurnLost as lost:
        return _told_by_history(lost, output)
    except CommandFailed as refused:
        note(f"not sent: {refused.message} ({refused.code})")
        return EXIT_FAILED
    except Disconnected as error:
        output.end()
        note(f"the connection is lost: {error.reason or error.code}")
        return EXIT_FAILED
    output.end()
    if why := cut_off(finished):
        note(why)
    return EXIT_COMPLETED if finished.status == "completed" else EXIT_FAILED


def _show(frame: Frame, turn: Turn, output: _Output) -> None:
    match frame:
        case TokenFrame():
            output.add(frame.message_id, frame.content)
        case MessageFrame():
            output.replace(frame.message)
        case HistoryFrame() | RunFinishedFrame(messages=list()):
            if isinstance(frame, HistoryFrame):
                note(RELOADED)
            missed = _after(frame, turn.message_id) if isinstance(frame, HistoryFrame) else frame.messages
            for message in missed or ():
                output.replace(message)
        case ToolCallFrame():
            note(call(frame.name, frame.args))
        case ToolResultFrame():
            note(f"{frame.name}: {brief(frame.result)}" + ("" if frame.status == "ok" else " (an error)"))
        case InterruptFrame():
            for question in frame.interrupts:
                note(f"it waits for an answer, which `threadwire chat --thread ID` can give: {as_line(question.value)}")
        case _:
            pass


def _told_by_history(lost: TurnLost, output: _Output) -> int:
    """The turn's end is gone; the thread shows what it left."""
    messages = _after(lost.history, lost.message_id) if lost.history is not None else []
    for message in messages:
        output.replace(message)
    output.end()
    answers = [message for message in messages if message.role == "assistant"]
    if answers and answers[-1].status == "complete":
        return EXIT_COMPLETED
    note("how the turn ended was not heard, and the thread has no whole answer to it")
    return EXIT_FAILED


def _after(history: HistoryFrame, message_id: str | None) -> list[Message]:
    """The messages that answer the given one."""
    places = [place for place, message in enumerate(history.messages) if message.id == message_id]
    found: list[Message] = []
    for message in history.messages[places[0] + 1 :] if places else ():
        if message.role == "user":
            break
        found.append(message)
    return found


async def _watch(chat: Chat) -> None:
    attachment = Attachment(chat)
    while True:
        if news := attachment.news():
            note(news)
        await asyncio.sleep(LOOK_SECONDS)
