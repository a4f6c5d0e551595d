"""The turns of one chat that are not over, and whether their end can still come.

A run's ``run_finished`` can be lost to a client that was away: the log is bounded. A turn is *in doubt* while
nothing proves that its end is still ahead: after a connection began whose ``ready`` names it neither as
running nor as queued; after a gap, where it is not the one that runs. Any frame of the run ends the doubt,
since from there on the log has no hole. A turn that is still in doubt once this reader has passed all that
was in the log is over.
"""

from __future__ import annotations

from threadwire.client.turn import Turn
from threadwire.protocol import (
    AckFrame,
    Frame,
    GapFrame,
    HistoryFrame,
    MessageFrame,
    ReadyFrame,
    RunFinishedFrame,
    RunInfo,
    RunStartedFrame,
)


class Turns:
    """Open turns by run.

    Attributes:
        doubted: The runs of turns in doubt.
    """

    def __init__(self) -> None:
        self.doubted: set[str] = set()
        self._open: dict[str, Turn] = {}
        self._running: str | None = None
        #: What ``ready`` named, and what has shown a frame since then: runs whose end is ahead of us.
        self._ahead: set[str] = set()
        #: Acknowledged before the connection began, so that ``ready`` would have named them.
        self._decidable: set[str] = set()

    def add(self, turn: Turn) -> None:
        """Begin to follow a turn."""
        self._open[turn.run_id] = turn

    def open(self) -> list[Turn]:
        """The turns that are not over, oldest first."""
        return [turn for turn in self._open.values() if not turn.over]

    def attach(self, ready: ReadyFrame) -> None:
        """Begin a connection."""
        active = _active(ready.run)
        self._ahead = {queued.run_id for queued in ready.queue} | ({active} if active else set())
        self._decidable = {turn.run_id for turn in self.open() if turn.acknowledged}
        self.doubted = self._decidable - self._ahead
        if ready.resume == "fresh":
            self._running = active

    def open_gap(self, gap: GapFrame, *, at_attach: bool) -> None:
        """Frames were lost. Right after ``ready``, that has said it all; later, only ``gap.run`` is known."""
        self._running = _active(gap.run)
        if not at_attach:
            self._ahead = {self._running} if self._running else set()
            self._decidable = set()
            self.doubted = {turn.run_id for turn in self.open()} - self._ahead

    def acknowledged(self, ack: AckFrame) -> bool:
        """Whether there is doubt: a command that was already known may have had its run come and gone."""
        if not ack.duplicate or ack.run_id not in self._open or ack.run_id in self._ahead:
            return False
        self.doubted.add(ack.run_id)
        return True

    def lost(self) -> list[Turn]:
        """Take out the turns whose doubt is decided: they are over. Ask when all of the log is behind us."""
        decided = self.doubted & self._decidable
        self.doubted -= decided
        return [turn for run_id in decided if (turn := self._open.pop(run_id, None)) is not None]

    def seen(self, frame: Frame) -> None:
        """A frame came, to be passed on or not: its run has its end ahead."""
        run_id = getattr(frame, "run_id", None)
        if isinstance(run_id, str):
            self._ahead.add(run_id)
            self.doubted.discard(run_id)

    def pass_on(self, frame: Frame) -> None:
        """Give a frame to the turn it belongs to, if that is one of ours."""
        owner = self._owner(frame)
        self.track(frame)
        if owner is not None:
            owner.take(frame)
        if isinstance(frame, RunFinishedFrame):
            self._ahead.discard(frame.run_id)
            self._open.pop(frame.run_id, None)

    def track(self, frame: Frame) -> None:
        """Note which run the thread is at."""
        if isinstance(frame, RunStartedFrame):
            self._running = frame.run_id
        elif isinstance(frame, RunFinishedFrame) and self._running == frame.run_id:
            self._running = None

    def reload(self, history: HistoryFrame) -> None:
        """Give all turns what the thread holds now, in place of what they missed."""
        for turn in self.open():
            turn.reload(history, running=turn.run_id == self._running)

    def _owner(self, frame: Frame) -> Turn | None:
        if isinstance(frame, MessageFrame):
            # It names no run. A thread runs one at a time; only a message of a turn that never started stands
            # apart.
            own = (turn for turn in self._open.values() if turn.message_id == frame.message.id)
            return next(own, None) or self._open.get(self._running or "")
        return self._open.get(getattr(frame, "run_id", None) or "")


def _active(run: RunInfo | None) -> str | None:
    return run.run_id if run is not None and run.status != "interrupted" else None
