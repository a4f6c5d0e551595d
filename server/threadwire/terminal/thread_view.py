"""A thread as it is seen: whose frame is whose, what was printed already, what has to be loaded again."""

from __future__ import annotations

from threadwire.protocol import (
    LOG_FRAMES,
    Frame,
    GapFrame,
    HistoryFrame,
    InterruptFrame,
    Message,
    MessageFrame,
    ReadyFrame,
    RunFinishedFrame,
    RunInfo,
    RunStartedFrame,
)
from threadwire.terminal.attachment import RELOADED
from threadwire.terminal.questions import Questions
from threadwire.terminal.screen import Screen
from threadwire.terminal.turn_view import TurnView


class ThreadView:
    """Takes all frames of a chat, in their order.

    Attributes:
        questions: What waits for a person's answer.
        before: The cursor for the page of messages before those that were printed; None at the beginning.
    """

    def __init__(self, screen: Screen) -> None:
        self.questions = Questions()
        self.before: str | None = None
        self._screen = screen
        self._views: dict[str, TurnView] = {}
        self._running: str | None = None
        self._reloading = False
        # Tool calls that wait for a person: the run that goes on has their results.
        self._asking: dict[str, str] = {}
        #: Ids of messages, and of tool calls with their result, that are printed: no history prints them again.
        self._printed: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether more is to come by itself."""
        return bool(self._views) or self._reloading

    @property
    def run_id(self) -> str | None:
        """The run to stop, if somebody wants that: the one that is on, or the first that waits."""
        return self._running or next(iter(self._views), None)

    def attach(self, ready: ReadyFrame, history: HistoryFrame | None) -> None:
        """Begin with what the server said on connecting."""
        self.questions.put(ready.interrupts)
        self._run(ready.run)
        if history is not None:
            self.before = history.before
            if history.before is not None:
                self._screen.note("earlier messages: /history")
            self._load(history.messages)

    def follow(self, run_id: str, message_id: str | None) -> None:
        """A run of our own is on its way; its user message is printed already."""
        self._views[run_id] = TurnView(self._screen, self._printed)
        if message_id is not None:
            self._printed.add(message_id)

    def forget(self, run_id: str) -> None:
        """That run will not be heard of."""
        self._views.pop(run_id, None)
        if self._running == run_id:
            self._running = None

    def follows(self, run_id: str) -> bool:
        """Whether that run's end is still to come."""
        return run_id in self._views

    def take(self, frame: Frame) -> None:
        """Take one frame; what is done of it is printed."""
        match frame:
            case GapFrame():
                self._gap(frame)
            case HistoryFrame() if self._reloading:
                self._reloading = False
                self._screen.note(RELOADED)
                self._load(frame.messages)
            case ReadyFrame():
                self.questions.put(frame.interrupts)
            case MessageFrame():
                self._message(frame)
            case _ if frame.type in LOG_FRAMES:
                self._of_run(frame)
            case _:
                pass

    def lost(self, run_id: str, history: HistoryFrame | None) -> None:
        """That run ended unheard: print what the thread has of it."""
        self.forget(run_id)
        if history is not None:
            self._load(history.messages)
        self._screen.warn("how the turn ended was not heard; what the thread has of it is above")

    def page(self, messages: list[Message], before: str | None) -> None:
        """Print a page of earlier messages."""
        self.before = before
        self._screen.messages(messages)

    def show(self, status: str | None) -> None:
        """Show what is not done yet."""
        view = self._views.get(self._running or "") or next(iter(self._views.values()), None)
        if view is not None:
            view.show(status)
        elif status is not None or self._reloading:
            self._screen.wait(status or "reloading")

    def _of_run(self, frame: Frame) -> None:
        run_id = getattr(frame, "run_id", None)
        if not isinstance(run_id, str):
            return
        # Frames come again once the history is there: where it cannot be read, they show that nobody waits for it.
        self._reloading = False
        if isinstance(frame, RunStartedFrame):
            self._running = run_id
            self.questions.put([])
            if frame.trigger == "respond":
                self._view(run_id).resume_tools(self._asking)
            self._asking = {}
        elif isinstance(frame, InterruptFrame):
            self.questions.put(frame.interrupts)
        self._view(run_id).take(frame)
        if isinstance(frame, RunFinishedFrame):
            if frame.status == "interrupted":
                self._asking = self._view(run_id).open_tools
            self.forget(run_id)

    def _message(self, frame: MessageFrame) -> None:
        """A message names no run: it belongs to the one that is on, if one is."""
        if frame.message.role == "user" and frame.message.id in self._printed:
            return
        view = self._views.get(self._running or "")
        if view is not None:
            view.take(frame)
        else:
            self._load([frame.message])

    def _view(self, run_id: str) -> TurnView:
        return self._views.setdefault(run_id, TurnView(self._screen, self._printed))

    def _gap(self, gap: GapFrame) -> None:
        """Frames are lost: print what there is, and begin anew with the history that follows."""
        for view in self._views.values():
            view.abandon()
        self._views.clear()
        self._reloading = True
        self._run(gap.run)

    def _run(self, run: RunInfo | None) -> None:
        self._running = run.run_id if run is not None and run.status != "interrupted" else None
        if self._running is not None:
            self._view(self._running)

    def _load(self, messages: list[Message]) -> None:
        """Print the messages that are not printed yet; one that is being written goes on below."""
        new = [m for m in messages if m.id not in self._printed and (m.tool_call_id or "") not in self._printed]
        whole = [message for message in new if message.status != "running"]
        unfinished = self._screen.messages(whole)
        self._printed |= {message.id for message in whole}
        if self._running is not None:
            view = self._view(self._running)
            for message in new:
                if message.status == "running":
                    view.resume(message)
            view.resume_tools(unfinished)
        else:
            self._asking |= unfinished
