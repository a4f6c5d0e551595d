"""A run as it is seen: takes its frames, prints what is done and shows what is not."""

from __future__ import annotations

import time

from rich.console import RenderableType
from rich.spinner import Spinner
from rich.text import Text

from threadwire.protocol import (
    CustomFrame,
    Frame,
    Message,
    MessageFrame,
    MessagesRemovedFrame,
    ReasoningFrame,
    RetrievalFrame,
    RunFinishedFrame,
    RunQueuedFrame,
    RunStartedFrame,
    TokenFrame,
    ToolCallFrame,
    ToolResultFrame,
    UsageFrame,
)
from threadwire.terminal.markdown import Blocks, rendered
from threadwire.terminal.screen import Screen, thought
from threadwire.terminal.texts import brief, call, clean, cut_off, text_of

#: Text that is still coming is formatted at each look; of more than this, its end is shown as it is.
MAX_FORMATTED = 4000
#: Lines of the reasoning that is going on.
THOUGHT_LINES = 6


class _Answer:
    """One message of the assistant."""

    def __init__(self) -> None:
        self.text = ""
        self.blocks = Blocks()

    def add(self, text: str) -> None:
        self.text += text
        self.blocks.add(text)


class TurnView:
    """What there is to see of one run; ``printed`` gets the ids of the messages and tool calls that it prints."""

    def __init__(self, screen: Screen, printed: set[str]) -> None:
        self._screen = screen
        self._printed = printed
        self._status = "sending"
        self._answers: dict[str, _Answer] = {}
        #: The text of the messages that are printed.
        self._said: dict[str, str] = {}
        self._thoughts: dict[str, str] = {}
        # By their ids.
        self._tools: dict[str, str] = {}
        self._spinners: dict[str, Spinner] = {}
        self._model: str | None = None
        self._since = time.monotonic()

    def resume(self, message: Message) -> None:
        """Go on with a message that the history has the beginning of."""
        self._status = "answering"
        self._answers[message.id] = answer = _Answer()
        answer.add(text_of(message.content))

    def resume_tools(self, calls: dict[str, str]) -> None:
        """Go on with tool calls that the history has, and their results not."""
        self._tools |= calls

    @property
    def open_tools(self) -> dict[str, str]:
        """Tool calls that have no result yet, as they are shown."""
        return dict(self._tools)

    def abandon(self) -> None:
        """Print what there is of texts whose end will not come here: they come again, as a whole."""
        self._think_no_more()
        for answer in self._answers.values():
            self._screen.answer(answer.blocks.all())

    def take(self, frame: Frame) -> None:
        """Take one of its frames."""
        match frame:
            case TokenFrame():
                self._think_no_more()
                self._status = "answering"
                self._answers.setdefault(frame.message_id, _Answer()).add(frame.content)
            case ReasoningFrame():
                self._status = "thinking"
                self._thoughts[frame.message_id] = self._thoughts.get(frame.message_id, "") + frame.content
            case ToolCallFrame():
                self.settle()
                self._tools[frame.id] = call(frame.name, frame.args)
            case ToolResultFrame():
                self._tool_ended(frame)
            case UsageFrame():
                self._model = frame.model or self._model
                self._close(frame.message_id)
            case MessageFrame():
                self._whole(frame.message)
            case RunFinishedFrame():
                self._finish(frame)
            case _:
                self._take_rare(frame)

    def _take_rare(self, frame: Frame) -> None:
        match frame:
            case RunQueuedFrame():
                self._status = "waiting for the turn before" if frame.position <= 1 else f"waiting, {frame.position}."
            case RunStartedFrame():
                self._status = "waiting for the model"
                self._since = time.monotonic()
            case RetrievalFrame():
                found = f"{len(frame.documents)} documents" if frame.status == "ok" else "failed"
                self._screen.tool(f"{frame.name}: {brief(frame.query, 100, 1)}", found, ok=frame.status == "ok")
            case CustomFrame():
                self._screen.note(f"· {frame.name}: {brief(frame.data)}")
            case MessagesRemovedFrame():
                self._screen.note("the last messages were taken out; what follows replaces them")
            case _:
                pass

    def settle(self) -> None:
        """Print all text there is, as whole."""
        self._think_no_more()
        for message_id in list(self._answers):
            self._close(message_id)

    def show(self, status: str | None = None) -> None:
        """Print the blocks that are whole, and show the rest; ``status`` in the place of the run's own."""
        first = next(iter(self._answers.values()), None)
        if first is not None:
            # Only of the first: where nodes talk at the same time, each message is printed in one piece.
            self._screen.answer(first.blocks.whole())
        parts: list[RenderableType] = [_end_of_thought(text) for text in self._thoughts.values()]
        parts += [_preview(answer.blocks.rest) for answer in self._answers.values() if answer.blocks.rest.strip()]
        parts += [self._spinner(title) for title in self._tools.values()]
        seconds = int(time.monotonic() - self._since)
        line = status or ("" if self._tools else self._status)
        if line:
            parts.append(self._spinner(f"{line} · {seconds} s" if seconds else line, "status"))
        self._screen.show(*parts)

    def _close(self, message_id: str) -> None:
        answer = self._answers.pop(message_id, None)
        if answer is not None:
            self._screen.answer(answer.blocks.all())
            self._said[message_id] = self._said.get(message_id, "") + answer.text
            self._printed.add(message_id)

    def _think_no_more(self) -> None:
        for text in self._thoughts.values():
            self._screen.reasoning(text)
        self._thoughts.clear()

    def _tool_ended(self, frame: ToolResultFrame) -> None:
        title = self._tools.pop(frame.id, frame.name)
        self._printed.add(frame.id)
        self._spinners.pop(title, None)
        seconds = (frame.duration_ms or 0) / 1000
        took = f" · {seconds:.1f} s" if seconds >= 0.1 else ""
        self._status = "waiting for the model"
        self._screen.tool(f"{title}{took}", brief(frame.result), ok=frame.status == "ok")

    def _whole(self, message: Message) -> None:
        """A message that came whole, or that replaces what its tokens told."""
        if message.role == "user":
            self._screen.user(text_of(message.content))
            self._printed.add(message.id)
        if message.role != "assistant":
            return
        text = text_of(message.content)
        said = self._said.get(message.id, "")
        answer = self._answers.get(message.id)
        said += answer.text if answer is not None else ""
        if text.startswith(said):
            if text[len(said) :]:
                self._answers.setdefault(message.id, _Answer()).add(text[len(said) :])
        elif not said.startswith(text):  # of a lost answer, the thread may have less than was seen
            self._close(message.id)
            self._screen.note("what follows replaces what was said so far")
            self._screen.answer(text)
            self._said[message.id] = text

    def _finish(self, frame: RunFinishedFrame) -> None:
        for message in frame.messages or ():
            self._whole(message)
        self.settle()
        if why := cut_off(frame):
            self._screen.warn(why)
        self._screen.note(self._cost(frame))

    def _cost(self, frame: RunFinishedFrame) -> str:
        parts = [self._model] if self._model else []
        if frame.usage is not None:
            parts.append(f"{frame.usage.input_tokens} tokens in, {frame.usage.output_tokens} out")
        return " · ".join([*parts, f"{frame.duration_ms / 1000:.1f} s"])

    def _spinner(self, text: str, key: str | None = None) -> Spinner:
        spinner = self._spinners.setdefault(key or text, Spinner("dots", style="magenta"))
        spinner.update(text=Text(clean(text), style="dim"))
        return spinner


def _preview(text: str) -> RenderableType:
    if len(text) > MAX_FORMATTED:
        return Text(clean(text[-MAX_FORMATTED:]))
    return rendered(text)


def _end_of_thought(text: str) -> RenderableType:
    return thought("\n".join(text.strip().splitlines()[-THOUGHT_LINES:]))
