"""One reader of a thread and what it holds the server to; pure: frames in, counts and violations out.

A reader outlives its connections: it has a place in the thread's log and comes back to it. Two tabs of a session are
two readers of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from threadwire.load.recorder import GAP_STEP, Recorder
from threadwire.load.texts import text_of

_STEPS_PER_SECOND = 1e6 / GAP_STEP


class View:
    """A run, as one reader sees it.

    Attributes:
        sent: When its command was sent, on the process's clock.
        alarm: After that many token frames ``on_alarm`` is called.
        resumed: The reader was away while the run went on.
        holes: The reader was told that it missed something: what it has of the text says nothing.
    """

    __slots__ = (
        "alarm", "frames", "holes", "last", "on_alarm", "on_end", "resumed", "run_id", "sent", "status", "texts",
    )  # fmt: skip

    def __init__(self, run_id: str, sent: float, on_end: Callable[[], None]) -> None:
        self.run_id = run_id
        self.sent = sent
        self.on_end = on_end
        self.last = 0.0
        self.frames = 0
        self.alarm = 0
        self.on_alarm: Callable[[], None] | None = None
        self.resumed = False
        self.holes = False
        self.status: str | None = None
        self.texts: dict[str, list[str]] = {}


class Reader:
    """A place in a log, and the turns that pass it.

    Attributes:
        timed: Whether this reader's times are counted; a second tab's and a slow reader's are not.
        seq: The number of the last frame that was read.
        away: Why it has no connection: we ``cut`` it, or it was ``lost``; None while it is attached.
        on_answer: Called with each frame that answers a command, and with each ``ready`` and ``gap``.
    """

    def __init__(
        self, name: str, recorder: Recorder, on_answer: Callable[[dict[str, Any]], None], *, timed: bool
    ) -> None:
        self.name = name
        self.timed = timed
        self.thread_id: str | None = None
        self.epoch: str | None = None
        self.seq = 0
        self.turns: dict[str, View] = {}
        self.interrupts: list[dict[str, Any]] = []
        self.goaway: float | None = None
        #: The ids of the messages that the session has sent; its tabs share them.
        self.said: set[str] = set()
        self._recorder = recorder
        self._on_answer = on_answer
        self._finished: set[str] = set()
        #: After a gap the server goes on from its earliest frame: up to here they may come again.
        self._again = 0
        #: Runs whose end a gap may have swallowed, with how many of their frames had come by then.
        self._doubted: dict[str, int] = {}
        self.away: Literal["cut", "lost"] | None = None
        self._special: dict[str, Callable[[dict[str, Any], float], None]] = {
            "ready": self._ready,
            "gap": self._gap,
            "goaway": self._goaway,
            "message": self._message,
            "messages_removed": self._removed,
            "usage": self._usage,
            "interrupt": self._interrupt,
            "run_finished": self._run_finished,
            "ack": self._answer,
            "error": self._answer,
            "history": self._answer,
            "pong": self._answer,
        }

    # --- what the session tells it ---

    def follow(self, turn: View) -> None:
        """Expect a run."""
        self.turns[turn.run_id] = turn

    def left(self, *, at_once: bool) -> None:
        """The connection is gone. ``at_once``: we cut it, and come back before anything can be lost."""
        self.away = "cut" if at_once else "lost"
        for turn in self.turns.values():
            if turn.status is None:
                turn.resumed = True
                turn.last = 0.0  # being away is no gap

    @property
    def query(self) -> dict[str, str]:
        """The parameters by which the next connection goes on where this one ended."""
        if self.thread_id is None:
            return {}
        place = {"after": str(self.seq), "epoch": self.epoch} if self.epoch is not None and self.away else {}
        return {"thread_id": self.thread_id, **place}

    # --- what the connection gives it ---

    def settle(self) -> None:
        """All that was in the log at a gap has been read: of whom nothing came, the end is among what is gone."""
        doubted, self._doubted = self._doubted, {}
        for run_id, frames in doubted.items():
            if self.turns[run_id].frames == frames:
                self._end(self.turns[run_id], "unheard")

    def take(self, frame: dict[str, Any], now: float) -> None:
        """Take one frame. Tokens come first: they are nearly all there is."""
        kind = frame["type"]
        if kind != "token":
            self._take_other(kind, frame, now)
            return
        seq = frame["seq"]
        if seq <= self.seq:
            self._order(seq, kind)
            return
        self.seq = seq
        turn = self.turns.get(frame["run_id"])
        if turn is None:
            self._foreign(frame)
            return
        text = frame["content"]
        parts = turn.texts.get(frame["message_id"])
        if parts is None:
            turn.texts[frame["message_id"]] = [text]
        else:
            parts.append(text)
        recorder = self._recorder
        if turn.last:
            if self.timed:
                recorder.gaps[int((now - turn.last) * _STEPS_PER_SECOND)] += 1
        elif not turn.frames and self.timed:
            recorder.latency("first_token", now - turn.sent)
        turn.last = now
        recorder.tokens += text.count(" ") or 1
        turn.frames += 1
        if turn.frames == turn.alarm and turn.on_alarm is not None:
            turn.on_alarm()

    def _take_other(self, kind: str, frame: dict[str, Any], now: float) -> None:
        seq = frame.get("seq")
        # Of these, seq says how far the log is, and is no number of their own.
        if seq is not None and kind not in ("ready", "history", "pong"):
            if seq <= self.seq:
                self._order(seq, kind)
                return
            self.seq = seq
        run_id = frame.get("run_id")
        if run_id is not None and run_id not in self.turns and kind != "ack":
            self._foreign(frame)
            return
        if self._doubted and run_id is not None:
            self._doubted.pop(run_id, None)
        special = self._special.get(kind)
        if special is not None:
            special(frame, now)

    # --- frames that mean something ---

    def _ready(self, frame: dict[str, Any], _: float) -> None:
        if self.thread_id is not None and frame["thread_id"] != self.thread_id:
            self._recorder.violation("foreign_frame", f"{self.name}: asked for its thread, got {frame['thread_id']}")
        self.thread_id = frame["thread_id"]
        away, self.away = self.away, None
        if away and frame["resume"] != "replayed":
            self._lost(away, f"ready says {frame['resume']}")
            self._open_holes()
        if not away:
            # The frames of a run that is active come from its start.
            self.seq = 0 if frame["run"] else frame["seq"]
        elif frame["resume"] == "replayed" and frame["seq"] < self.seq:
            self._lost(away, f"its log ends at {frame['seq']}, after {self.seq} was sent")
        self._go_on(frame["epoch"])
        self._on_answer(frame)

    def _gap(self, frame: dict[str, Any], _: float) -> None:
        self._recorder.count("gaps")
        self._go_on(frame["epoch"])
        self._again = self.seq
        self.seq = max(self.seq, frame["earliest"] - 1)
        self._open_holes()
        active = frame["run"]["run_id"] if frame["run"] else None
        self._doubted = {
            turn.run_id: turn.frames
            for turn in self.turns.values()
            if turn.status is None and turn.frames and turn.run_id != active
        }
        self._on_answer(frame)

    def _goaway(self, frame: dict[str, Any], _: float) -> None:
        self.goaway = frame["reconnect_after_seconds"]
        self._recorder.count("goaways")

    def _message(self, frame: dict[str, Any], _: float) -> None:
        message = frame["message"]
        self.check_owner(message, "got")
        for turn in self.turns.values():
            if message["id"] in turn.texts:
                turn.texts[message["id"]] = [text_of(message["content"])]

    def _removed(self, frame: dict[str, Any], _: float) -> None:
        for turn in self.turns.values():
            for message_id in frame["message_ids"]:
                turn.texts.pop(message_id, None)

    def _usage(self, frame: dict[str, Any], _: float) -> None:
        if self.timed:
            self._recorder.usage_tokens += frame["output_tokens"]

    def _interrupt(self, frame: dict[str, Any], _: float) -> None:
        self.interrupts = frame["interrupts"]

    def _run_finished(self, frame: dict[str, Any], _: float) -> None:
        run_id = frame["run_id"]
        if run_id in self._finished:
            self._recorder.violation("run_finished_twice", f"{self.name}: run {run_id} ended again")
            return
        self._finished.add(run_id)
        turn = self.turns[run_id]
        if frame.get("messages") is not None:
            turn.texts = {
                found["id"]: [text_of(found["content"])] for found in frame["messages"] if found["role"] == "assistant"
            }
        if self.timed and frame["error"] is not None:
            self._recorder.error(frame["error"]["code"])
        self._end(turn, frame["status"])

    def _answer(self, frame: dict[str, Any], _: float) -> None:
        self._on_answer(frame)

    # --- findings ---

    def check_owner(self, message: dict[str, Any], how: str) -> None:
        """A message of a person must be this session's."""
        if message["role"] == "user" and message["id"] not in self.said:
            explanation = f"{self.name}: {how} the message {message['id']}, which it did not send"
            self._recorder.violation("foreign_frame", explanation)

    def _end(self, turn: View, status: str) -> None:
        if turn.status is None:
            turn.status = status
            turn.on_end()

    def _open_holes(self) -> None:
        for turn in self.turns.values():
            if turn.status is None:
                turn.holes = True

    def _go_on(self, epoch: str) -> None:
        """In the same log, or in a new one, whose numbers begin anew."""
        if self.epoch is not None and epoch != self.epoch:
            self.seq = self._again = 0
        self.epoch = epoch

    def _order(self, seq: int, kind: str) -> None:
        """The frame is passed over, as any client would."""
        if seq <= self._again:
            return
        name = "seq_repeated" if seq == self.seq else "seq_went_back"
        self._recorder.violation(name, f"{self.name}: a {kind} with seq {seq} after seq {self.seq}")

    def _foreign(self, frame: dict[str, Any]) -> None:
        explanation = f"{self.name}: a {frame['type']} of run {frame['run_id']}, which it did not start"
        self._recorder.violation("foreign_frame", explanation)

    def _lost(self, away: str, what: str) -> None:
        if away == "cut":
            self._recorder.violation(
                "resume_gap", f"{self.name}: it came back at once after seq {self.seq}, and {what}"
            )
        else:
            self._recorder.error("gap_after_loss")
