"""A person and a thread: reads what is typed, shows what comes, and takes turns between the two.

There is one reader of the chat's frames, and one that prints at a time: while a run is on, of ours or of another
window, it is shown and nothing is asked; while nothing runs there is a prompt, which is taken away when something comes
and then put back with what was typed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from threadwire.client import Chat, CommandFailed, Disconnected, Turn, TurnLost, connect
from threadwire.errors import InvalidArgument
from threadwire.protocol import LOG_FRAMES, Frame, GapFrame, RunFinishedFrame, check_thread_id
from threadwire.terminal import commands
from threadwire.terminal.attachment import LOST, Attachment
from threadwire.terminal.editor import Editor, Withdrawn, quiet_keys
from threadwire.terminal.screen import PROMPT, Screen
from threadwire.terminal.signals import Signals
from threadwire.terminal.stop import Stop
from threadwire.terminal.thread_view import ThreadView

#: Messages of the history that are shown at once.
PAGE = 20
#: Between two looks at what changes.
TICK_SECONDS = 0.1
EXIT_LEFT = 0
EXIT_FAILED = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on: a thread, or a new one."""

    thread_id: str | None


async def converse(url: str, thread_id: str | None, token: str | None, signals: Signals) -> int:
    """Talk until the person leaves; gives the exit code. Raises ``Disconnected`` if the first connection fails."""
    screen, editor = Screen(), Editor()
    place: Place | None = Place(thread_id)
    connected = False
    with quiet_keys():
        while place is not None:
            try:
                async with connect(url, thread_id=place.thread_id, token=token, history=PAGE) as chat:
                    conversation = Conversation(chat, screen, editor, signals)
                    screen.greet(_about(chat), again=connected)
                    connected = True
                    place = await conversation.run()
            except Disconnected as error:
                if not connected:
                    raise
                screen.warn(f"the conversation is over: {error.reason or error.code}")
                return EXIT_FAILED
    return EXIT_LEFT


def _about(chat: Chat) -> str:
    model = chat.ready.model.get("name")
    return " · ".join([chat.ready.server, *([str(model)] if model else []), f"thread {chat.thread_id}"])


class Conversation:
    """One thread, as long as the person stays in it."""

    def __init__(self, chat: Chat, screen: Screen, editor: Editor, signals: Signals) -> None:
        self._chat = chat
        self._screen = screen
        self._editor = editor
        self._signals = signals
        self._thread = ThreadView(screen)
        self._attachment = Attachment(chat)
        # Before the first await: from here on nothing is missed.
        self._frames = chat.frames()
        self._waiting: asyncio.Task[Frame] | None = None
        self._place: Place | None = None
        self._left = False

    async def run(self) -> Place | None:
        """Talk until the person leaves (None) or goes to another thread."""
        self._thread.attach(self._chat.ready, self._chat.first_history)
        turn: Turn | None = None
        text: str | None = None
        try:
            while not self._left:
                if turn is not None or self._thread.busy:
                    await self._follow(turn, text)
                    turn = None
                else:
                    text = await self._read()
                    turn = await self._say(text) if text is not None else None
        finally:
            self._screen.hide()
            if self._waiting is not None:
                self._waiting.cancel()
        return self._place

    # --- while a run is on ---

    async def _follow(self, turn: Turn | None, text: str | None) -> None:
        """Show what comes until nothing runs; Ctrl-C stops the run, a second one leaves."""
        ending = asyncio.create_task(turn.finished()) if turn is not None else None
        stop = Stop(self._chat, self._signals, lambda: turn.run_id if turn is not None else self._thread.run_id)
        shown = 0.0
        with self._signals.interrupting(stop):
            while self._thread.busy or ending is not None:
                frame = await self._frame(ending)
                if frame is not None:
                    self._thread.take(frame)
                elif ending is not None and ending.done():
                    assert turn is not None  # noqa: S101 -- it is its end
                    self._ended(turn, ending, text)
                    ending = None
                if news := self._attachment.news():
                    self._screen.note(news)
                if time.monotonic() - shown >= TICK_SECONDS and self._thread.busy:
                    self._thread.show(LOST if self._attachment.lost else stop.status)
                    shown = time.monotonic()
        self._screen.hide()

    def _ended(self, turn: Turn, ending: asyncio.Task[RunFinishedFrame], text: str | None) -> None:
        """All frames of a turn of ours are behind us; raises ``Disconnected``."""
        try:
            finished = ending.result()
        except CommandFailed as refused:
            self._thread.forget(turn.run_id)
            self._screen.warn(f"not taken: {refused.message} ({refused.code})")
            if refused.code == "no_such_interrupt":
                self._thread.questions.put([])
            self._editor.keep(text or "")
        except TurnLost as lost:
            self._thread.lost(turn.run_id, lost.history)
        else:
            if self._thread.follows(turn.run_id):
                self._thread.take(finished)

    async def _frame(self, ending: asyncio.Task[RunFinishedFrame] | None) -> Frame | None:
        """The next frame; None where none is there within a tick, or nothing else will come of a turn of ours."""
        waiting = self._next()
        others = {ending} if ending is not None else set()
        await asyncio.wait({waiting, *others}, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done() and ending is not None and ending.done():
            # What the turn has seen is in our buffer too, and takes a step of the loop to get out.
            await asyncio.wait({waiting}, timeout=TICK_SECONDS)
        return self._taken() if waiting.done() else None

    def _next(self) -> asyncio.Task[Frame]:
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._frames.__anext__())
        return self._waiting

    def _taken(self) -> Frame:
        waiting, self._waiting = self._next(), None
        return waiting.result()

    # --- while nothing runs ---

    async def _read(self) -> str | None:
        """What the person says; None where something has to be shown first."""
        question = self._thread.questions.next
        if question is not None:
            self._screen.question(question.text, question.hint)
        self._screen.space()
        prompt = asyncio.create_task(self._editor.read(PROMPT if question is None else "? "))
        try:
            while not prompt.done():
                waiting = self._next()
                await asyncio.wait({prompt, waiting}, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if news := self._attachment.news():
                    self._editor.status(f"  {news}")
                if waiting.done():
                    frame = self._taken()
                    if frame.type in LOG_FRAMES or isinstance(frame, GapFrame):
                        await self._take_away(prompt)
                    self._thread.take(frame)
            return prompt.result()
        except Withdrawn:
            return None
        except EOFError:
            self._left = True
            return None
        finally:
            await self._take_away(prompt)
            self._editor.status(None)

    async def _take_away(self, prompt: asyncio.Task[str]) -> None:
        while not prompt.done():
            self._editor.withdraw()
            await asyncio.wait({prompt}, timeout=TICK_SECONDS)
        prompt.exception()  # where the program is told to leave, nobody asks for it

    async def _say(self, text: str) -> Turn | None:
        """Do what was typed; gives the run that it started."""
        command = commands.read(text)
        if command is not None:
            await self._do(command)
            return None
        self._screen.user(commands.unescaped(text))
        if self._thread.questions.next is not None:
            try:
                responses = self._thread.questions.answer(text)
            except ValueError as wrong:
                self._screen.warn(str(wrong))
                self._editor.keep(text)
                return None
            if responses is None:
                return None
            turn = self._chat.respond(responses)
        else:
            turn = self._chat.send(commands.unescaped(text))
        self._thread.follow(turn.run_id, turn.message_id)
        return turn

    async def _do(self, command: commands.Command) -> None:
        match command.name:
            case "/help":
                self._screen.table(commands.HELP)
            case "/thread" if command.argument:
                self._go_to(command.argument)
            case "/thread":
                self._screen.note(_about(self._chat))
            case "/new":
                self._place, self._left = Place(None), True
            case "/quit":
                self._left = True
            case "/history":
                await self._ask(self._show_history)
            case "/skip":
                await self._ask(self._skip)

    async def _ask(self, what: Callable[[], Awaitable[None]]) -> None:
        try:
            await what()
        except CommandFailed as refused:
            self._screen.warn(f"{refused.message} ({refused.code})")
        except Disconnected:
            if self._chat.state == "closed":
                raise
            self._screen.warn("the connection was lost before that was answered: try again")

    def _go_to(self, thread_id: str) -> None:
        try:
            self._place, self._left = Place(check_thread_id(thread_id)), True
        except InvalidArgument as invalid:
            self._screen.warn(invalid.message)

    async def _show_history(self) -> None:
        if self._thread.before is None:
            self._screen.note("that is the beginning")
            return
        page = await self._chat.history(self._thread.before, PAGE)
        self._thread.page(page.messages, page.before)

    async def _skip(self) -> None:
        if self._thread.questions.next is None:
            self._screen.note("there is no question")
            return
        await self._chat.cancel()
        self._thread.questions.put([])
        self._screen.note("the question is dropped")
