"""A client's cursor on its thread's log: what it has seen, what it may drop, where it goes on; pure.

Between a ``gap`` and the history that fills it, frames are held back: those up to the history's ``seq`` are
in the history, and only the later ones are news.
"""

from __future__ import annotations

from threadwire.client.buffer import number_of
from threadwire.protocol import Frame, GapFrame, ReadyFrame, RunFinishedFrame


class Position:
    """Where a client is in the log.

    Attributes:
        seq: The last frame that was passed on.
        epoch: The log's epoch; empty before the first ``ready``.
        gap: The gap that waits for its history, or None.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.epoch = ""
        self.gap: GapFrame | None = None
        self._known = False
        self._held: list[Frame] = []

    def query(self) -> dict[str, str]:
        """The parameters that make a connection go on from here; empty where this is not known yet."""
        return {"after": str(self.seq), "epoch": self.epoch} if self._known else {}

    def attach(self, ready: ReadyFrame) -> None:
        """Begin a connection."""
        self._held = []
        if ready.resume == "replayed":
            return
        if ready.epoch != self.epoch or ready.resume == "fresh":
            # With a run active, its frames come next, and their numbers are below ready.seq.
            active = ready.run is not None and ready.run.status != "interrupted"
            self._known = not active and ready.resume == "fresh"
            self.seq = ready.seq if self._known else 0
            self.epoch = ready.epoch
            self.gap = None

    def open_gap(self, gap: GapFrame) -> None:
        """Hold frames back from here on, until ``fill_gap``."""
        self.gap = gap
        self.epoch = gap.epoch
        self.seq = gap.earliest - 1
        self._known = True
        self._held = []

    def fill_gap(self, upto: int) -> tuple[list[Frame], list[Frame]]:
        """Let go what was held: what the history covers, and the news.

        ``upto`` is the history's ``seq`` (0: there is none); everything up to it must have come. The ends of runs
        are news also where the history covers them: only they say how a run ended.
        """
        held, self._held, self.gap = self._held, [], None
        covered: list[Frame] = []
        news: list[Frame] = []
        for frame in held:
            self.seq = number_of(frame) or self.seq
            is_news = self.seq > upto or isinstance(frame, RunFinishedFrame)
            (news if is_news else covered).append(frame)
        self.seq = max(self.seq, upto)
        return covered, news

    def skip_to(self, seq: int) -> None:
        """Everything up to ``seq`` is behind us: a ``pong`` or the first ``history`` said so."""
        if self.gap is None:
            self._known = True
            self.seq = max(self.seq, seq)

    def accept(self, frame: Frame) -> bool:
        """Whether to pass a frame on now: not where it was seen before, and not while a gap is open."""
        number = number_of(frame)
        if number is None:
            return True
        if number <= self.seq:
            return False
        if self.gap is not None:
            if not self._held or number > (number_of(self._held[-1]) or 0):
                self._held.append(frame)
            return False
        self.seq = number
        self._known = True
        return True
