"""Where a person types: one line or several, with the lines of former conversations at hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prompt_toolkit import PromptSession
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from threadwire.terminal.state import private_file

_STYLE = Style.from_dict({"prompt": "bold ansimagenta", "bottom-toolbar": "noreverse ansired"})


class Withdrawn(Exception):  # noqa: N818 -- it says what happened
    """The prompt was taken away, since there is something to show; what was typed is kept."""


class Editor:
    """A prompt that can be taken away and comes back as it was."""

    def __init__(self) -> None:
        path = private_file("chat-history")
        history: History = FileHistory(str(path)) if path is not None else InMemoryHistory()
        self._session: PromptSession[str] = PromptSession(
            history=history,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="  ",
            style=_STYLE,
            erase_when_done=True,
            reserve_space_for_menu=0,
        )
        self._kept = ""

    async def read(self, prompt: str) -> str:
        """Let a person type.

        Raises:
            Withdrawn: ``withdraw`` was called.
            EOFError: Ctrl-D or Ctrl-C where nothing was typed.
        """
        kept, self._kept = self._kept, ""
        message = FormattedText([("class:prompt", prompt)])
        try:
            return await self._session.prompt_async(message, default=kept, handle_sigint=False)
        finally:
            _mark_pastes(True)

    def withdraw(self) -> None:
        """Take the prompt away: ``read`` raises ``Withdrawn``, and the next one has its text."""
        app = self._session.app
        if app.is_running and app.future is not None and not app.future.done():
            self.keep(self._session.default_buffer.text)
            app.exit(exception=Withdrawn())

    def keep(self, text: str) -> None:
        """What the next ``read`` begins with."""
        self._kept = text

    def status(self, text: str | None) -> None:
        """Show a line below the prompt, or none."""
        if self._session.bottom_toolbar != text:
            self._session.bottom_toolbar = text
            self._session.app.invalidate()


def _keys() -> KeyBindings:
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=typing)
    def _send(event: KeyPressEvent) -> None:
        if event.current_buffer.text.strip():
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=typing)
    def _clear_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=EOFError())

    return keys


@contextmanager
def quiet_keys() -> Iterator[None]:
    """Keys are not shown while no prompt is there; they wait for the next one, and Ctrl-C works."""
    _mark_pastes(True)
    try:
        with _without_echo():
            yield
    finally:
        _mark_pastes(False)


def _mark_pastes(on: bool) -> None:
    """Have the terminal say what is pasted: what is pasted while an answer comes is one message, not one a line."""
    sys.stdout.write("\x1b[?2004h" if on else "\x1b[?2004l")
    sys.stdout.flush()


@contextmanager
def _without_echo() -> Iterator[None]:
    try:
        import termios
    except ImportError:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = termios.tcgetattr(descriptor)
    quiet[0] &= ~termios.ICRNL  # Enter stays what the prompt takes for Enter
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
