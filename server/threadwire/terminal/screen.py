"""How things look: what is printed for good, and the few lines below it that still change."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from threadwire.protocol import Message
from threadwire.terminal.markdown import THEME, rendered
from threadwire.terminal.texts import brief, call, clean, mark, reasoning_of, text_of

#: Longer lines are hard to read, on however wide a terminal.
MAX_WIDTH = 100
PROMPT = "› "  # noqa: RUF001 -- no greater-than sign, which quotes in Markdown


class Screen:
    """The terminal. Everything that is printed goes above the lines that still change."""

    def __init__(self) -> None:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a TextIOWrapper: it is a terminal
        self._console = Console(theme=THEME, highlight=False, soft_wrap=False)
        self._live: Live | None = None
        self._last = ""

    # --- printed ---

    def greet(self, about: str, *, again: bool) -> None:
        """Say what this is a conversation with."""
        hint = [] if again else [Text("/help says what can be typed; Ctrl-D leaves", style="dim")]
        self._print("greeting", Group(Text(clean(about), style="bold"), *hint))

    def user(self, text: str) -> None:
        """What a person said."""
        said = Table.grid()
        said.add_row(Text(PROMPT, style="bold magenta"), Text(clean(text).rstrip(), style="bold"))
        self._print("user", said)

    def answer(self, markdown: str) -> None:
        """What the assistant said."""
        if markdown.strip():
            self._print("answer", rendered(markdown))

    def reasoning(self, text: str) -> None:
        """What it thought."""
        if text.strip():
            self._print("reasoning", thought(text))

    def tool(self, title: str, result: str, ok: bool = True) -> None:
        """A tool call that has ended; calls in a row stand together."""
        line = Text.assemble(("✓ ", "green") if ok else ("✗ ", "red"), (clean(title), ""))
        parts: list[RenderableType] = [line]
        if result:
            parts.append(Padding(Text(clean(result), style="dim" if ok else "red"), (0, 0, 0, 2)))
        self._print("tool", Group(*parts), together=True)

    def note(self, text: str) -> None:
        """Something beside the conversation."""
        self._print("note", Text(clean(text), style="dim"), together=True)

    def warn(self, text: str) -> None:
        """Something that is not as it should be."""
        self._print("warning", Text.assemble(("! ", "bold red"), (clean(text), "red")), together=True)

    def question(self, markdown: str, hint: str) -> None:
        """What the graph asks a person."""
        asked = Text("? a question to you", style="bold magenta")
        self._print("question", Group(asked, rendered(markdown), Text(hint, style="dim")))

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """Words and what they mean."""
        table = Table.grid(padding=(0, 2))
        for word, meaning in rows:
            table.add_row(Text(word, style="bold"), meaning)
        self._print("table", table)

    def messages(self, messages: Iterable[Message]) -> dict[str, str]:
        """A page of the history; gives the tool calls in it that have no result, by id, as they are shown."""
        calls: dict[str, str] = {}
        for message in messages:
            if message.role == "user":
                self.user(text_of(message.content))
            elif message.role == "tool":
                title = calls.pop(message.tool_call_id or "", message.name or "tool")
                self.tool(title, brief(text_of(message.content)), ok=message.status == "complete")
            elif message.role == "assistant":
                self.reasoning(reasoning_of(message.content))
                self.answer(text_of(message.content))
                calls |= {asked.id: call(asked.name, asked.args) for asked in message.tool_calls}
                if cut := mark(message):
                    self.warn(cut)
        return calls

    def space(self) -> None:
        """An empty line, before what is no part of the conversation."""
        self._last = ""
        self._console.print()

    # --- still changing ---

    def show(self, *parts: RenderableType) -> None:
        """Put these below all that is printed, in the place of what stood there; what is too long shows its end."""
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(self._end_of(parts), refresh=True)

    def wait(self, status: str) -> None:
        """Show that there is nothing to show but this."""
        self.show(Text(clean(status), style="dim"))

    def hide(self) -> None:
        """Take away what still changes."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def width(self) -> int:
        """In columns."""
        return min(self._console.width, MAX_WIDTH)

    def _end_of(self, parts: Iterable[RenderableType]) -> RenderableType:
        lines: list[list[Segment]] = []
        for part in parts:
            lines += [[], *self._lines(part)]
        return _joined(lines[-max(1, self._console.height - 2) :])

    def _lines(self, what: RenderableType) -> list[list[Segment]]:
        """As lines of the terminal, without the empty ones that rich puts around lists and tables."""
        lines = self._console.render_lines(what, self._console.options.update(width=self.width), pad=False)
        full = [place for place, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        return lines[full[0] : full[-1] + 1] if full else []

    def _print(self, kind: str, what: RenderableType, *, together: bool = False) -> None:
        if self._last and not (together and self._last == kind):
            self._console.print()
        self._last = kind
        with self._console:  # written at once
            if self._live is not None:
                # It would be drawn again below what is now printed, which is what it has shown so far.
                self._live.update(Text(""), refresh=True)
            self._console.print(_joined(self._lines(what)))


def _joined(lines: Iterable[list[Segment]]) -> Segments:
    new_line = Segment.line()
    return Segments([segment for line in lines for segment in (*line, new_line)])


def thought(text: str) -> Text:
    """Reasoning, as it is shown."""
    return Text(clean(text).strip(), style="dim italic")
