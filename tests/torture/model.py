"""What a client can count on, as a model that shares no code with the server: it reads frames and complains.

``Thread`` is what all clients together know of one thread: every frame that anybody has ever seen, with its bytes,
every command and its answer. ``View`` is one conversation as the frames tell it. Each broken promise is an
``AssertionError`` that says which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

#: Frames that no crash may take back once anybody has seen them.
KEPT = {"message", "messages_removed", "run_started", "interrupt", "run_finished"}
#: Why a command may be refused here.
REFUSALS = {"busy", "queue_full", "no_active_run", "no_such_run", "no_such_message", "no_such_interrupt"}
#: How a run may end that did not complete.
REASONS = {
    "cancelled": {"client", "superseded", "disconnect"},
    "interrupted": {"interrupt"},
    "lost": {"crash"},
    "failed": {"error"},
}


@dataclass
class Command:
    """One command of a client's, said until it is answered."""

    id: str
    type: str
    fields: dict[str, Any]
    ack: dict[str, Any] | None = None
    refused: str | None = None
    #: Whether it may have been told to fail.
    may_fail: bool = False
    #: Whether it was said again when its run had been seen already.
    repeated: bool = False

    @property
    def run_id(self) -> str:
        return str(self.fields["run_id"])

    @property
    def answered(self) -> bool:
        return self.ack is not None or self.refused is not None

    def wire(self) -> dict[str, Any]:
        return {"type": self.type, "id": self.id, **self.fields}


@dataclass
class Thread:
    """See the module."""

    thread_id: str
    epoch: str | None = None
    #: By number: the bytes of the frame, and in which life of the server it was first seen.
    frames: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    commands: dict[str, Command] = field(default_factory=dict)
    #: Ids of the runs whose frames anybody has seen.
    seen_runs: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    #: How its runs may end.
    reasons: dict[str, set[str]] = field(default_factory=lambda: REASONS)

    def saw_ready(self, ready: dict[str, Any]) -> None:
        if self.epoch is None and not ready["created"]:
            self.epoch = ready["epoch"]
        assert ready["created"] or ready["epoch"] == self.epoch, "the epoch changed"

    def saw(self, raw: bytes, frame: dict[str, Any], life: int) -> None:
        """A frame of the log came, to any client."""
        seq = frame["seq"]
        before = self.frames.setdefault(seq, (raw, life))
        assert before[0] == raw, f"frame {seq} is not what it was:\n  {before[0]!r}\n  {raw!r}"
        if "run_id" in frame:
            self.seen_runs.add(frame["run_id"])
        if frame["type"] == "run_finished":
            self.ended.add(frame["run_id"])

    @property
    def answered_question(self) -> bool:
        """Whether a command has been taken that ends the question the thread may wait with."""
        kinds = ("respond", "edit", "regenerate")
        return any(c.type in kinds and c.ack and c.run_id not in self.ended for c in self.commands.values())

    def answered(self, command: Command, frame: dict[str, Any]) -> None:
        """An answer to a command that starts a run or stops one."""
        if frame["type"] == "error":
            assert frame["code"] in REFUSALS, f"refused: {command} {frame}"
            assert command.ack is None, f"acknowledged, then refused: {command} {frame}"
            assert command.type == "cancel" or command.run_id not in self.seen_runs, f"refused, but ran: {command}"
            command.refused = frame["code"]
            return
        ack = {key: value for key, value in frame.items() if key not in ("type", "id", "duplicate")}
        if command.type == "cancel":
            command.ack = ack
            return
        assert ack["run_id"] == command.run_id
        if command.ack is not None:
            assert frame.get("duplicate") is True, f"a repeat was taken for new: {command} {frame}"
            assert ack == command.ack, f"a repeat was answered otherwise: {command} {frame}"
        elif command.repeated:
            assert frame.get("duplicate") is True, f"a repeat was taken for new: {command} {frame}"
        command.ack = ack

    # --- when all is quiet ---

    def audit(self, audited: list[int], view: View, history: list[dict[str, Any]]) -> None:
        """``audited`` are the numbers of the frames that a reader of the whole log has got, ``view`` what they say."""
        self._check_kept(audited)
        self._check_runs(view)
        view.check(history)
        assert not view.open_calls, f"calls without results: {view.open_calls}"
        _check_calls(history)
        shown = {message["id"] for message in history}
        for command in self.commands.values():
            wanted = command.ack.get("message_id") if command.ack else None
            if wanted is None or wanted in shown or wanted in view.removed:
                continue
            end = view.ended[command.run_id]
            left = end["status"] == "cancelled" and end["reason"] == "client" and command.run_id not in view.started
            assert left, f"a user's message is gone: {command} {end}"
        assert not shown & view.removed, f"removed, but still there: {shown & view.removed}"
        assert all(message.get("status") != "running" for message in history)
        for message in history:
            if message["role"] == "assistant" and isinstance(message["content"], str):
                told = self._told(message["id"])
                assert told.startswith(message["content"]) or view.replaced & {message["id"]}, (
                    f"not what was said: {message} {told!r}"
                )

    def _check_kept(self, audited: list[int]) -> None:
        assert audited == sorted(set(audited)), "numbers go back or come twice"
        there = set(audited)
        newest_kept: dict[int, int] = {}
        for seq in audited:
            if seq in self.frames:
                newest_kept[self.frames[seq][1]] = seq
        for seq, (raw, life) in sorted(self.frames.items()):
            if seq not in there:
                frame = json.loads(raw)
                assert frame["type"] not in KEPT, f"a promise is gone: {frame}"
                newer = newest_kept.get(life, 0)
                assert seq > newer, f"lost from the middle, {newer} is there: {frame}"

    def _check_runs(self, view: View) -> None:
        for command in self.commands.values():
            if command.ack is None or command.type == "cancel":
                continue
            end = view.ended.get(command.run_id)
            assert end is not None, f"never ended: {command}"
            if end["status"] == "failed":
                assert command.may_fail, f"failed: {command} {end}"
                assert end["error"]["code"] == "graph_error", end
            if end["status"] != "completed":
                assert end["reason"] in self.reasons[end["status"]], end
        refused = {command.run_id for command in self.commands.values() if command.refused and command.type != "cancel"}
        assert not refused & view.seen_runs, f"refused, but ran: {refused & view.seen_runs}"
        assert view.seen_runs <= {c.run_id for c in self.commands.values() if c.type != "cancel"}

    def _told(self, message_id: str) -> str:
        found = (json.loads(raw) for _, (raw, _) in sorted(self.frames.items()) if b'"token"' in raw)
        return "".join(f["content"] for f in found if f["type"] == "token" and f["message_id"] == message_id)


@dataclass
class View:
    """A conversation as a client has it: from a history, and the frames after it."""

    #: By id, in order: ``{role, content, run_id}``.
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    seen_runs: set[str] = field(default_factory=set)
    #: Calls that were told, and have no result yet: who made them.
    open_calls: dict[str, str] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)
    triggers: dict[str, str] = field(default_factory=dict)
    interrupts: list[dict[str, Any]] = field(default_factory=list)
    #: Ids of the messages that came whole, in place of their tokens.
    replaced: set[str] = field(default_factory=set)
    #: Whether it has seen all frames there were.
    whole: bool = True
    _run: str | None = None

    def reload(self, messages: list[dict[str, Any]], interrupts: list[dict[str, Any]]) -> None:
        self.messages = {m["id"]: {**m, "run_id": None} for m in messages}
        self.removed -= set(self.messages)
        self.open_calls.clear()
        self.interrupts = interrupts
        self.whole = False
        self._run = None

    def apply(self, frame: dict[str, Any]) -> None:
        """Take the next frame of the log."""
        if "run_id" in frame:
            self.seen_runs.add(frame["run_id"])
            assert frame["run_id"] not in self.ended or frame["type"] in ("messages_removed", "tool_result"), (
                f"after its run's end: {frame} {self.ended[frame['run_id']]}"
            )
        take = getattr(self, f"_{frame['type']}", None)
        if take is not None:
            take(frame)

    def _run_started(self, frame: dict[str, Any]) -> None:
        assert frame["run_id"] not in self.started, f"started twice: {frame}"
        assert self._run is None or not self.whole, f"two at once: {frame}"
        self.started.add(frame["run_id"])
        self._run = frame["run_id"]
        self.triggers[frame["run_id"]] = frame["trigger"]
        self.interrupts = []

    def _message(self, frame: dict[str, Any]) -> None:
        message = frame["message"]
        self.messages[message["id"]] = {**message, "run_id": self._run}
        self.removed.discard(message["id"])
        self.replaced.add(message["id"])

    def _token(self, frame: dict[str, Any]) -> None:
        assert self._run in (frame["run_id"], None), f"of another run than {self._run}: {frame}"
        new = {"id": frame["message_id"], "role": "assistant", "content": "", "run_id": frame["run_id"]}
        self.messages.setdefault(frame["message_id"], new)["content"] += frame["content"]

    def _tool_call(self, frame: dict[str, Any]) -> None:
        self.open_calls[frame["id"]] = frame["run_id"]
        self.calls.add(frame["id"])

    def _tool_result(self, frame: dict[str, Any]) -> None:
        # A node that asked is run again when it is answered, with those of its tools that had their results.
        again = self.triggers.get(frame["run_id"]) == "respond" and frame["id"] in self.calls
        assert self.open_calls.pop(frame["id"], None) or again or not self.whole, f"a result for no call: {frame}"

    def _messages_removed(self, frame: dict[str, Any]) -> None:
        for identity in frame["message_ids"]:
            self.messages.pop(identity, None)
        self.removed |= set(frame["message_ids"])

    def _interrupt(self, frame: dict[str, Any]) -> None:
        self.interrupts = frame["interrupts"]

    def _run_finished(self, frame: dict[str, Any]) -> None:
        run_id = frame["run_id"]
        self.ended[run_id] = frame
        if self._run == run_id:
            self._run = None
        if frame["status"] != "interrupted":
            left = [call for call, of in self.open_calls.items() if of == run_id]
            assert not left, f"calls without results at the end: {left} {frame}"
        if frame.get("messages") is not None:
            self.messages = {i: m for i, m in self.messages.items() if m["run_id"] != run_id}
            for message in frame["messages"]:
                self.messages[message["id"]] = {**message, "run_id": run_id}
                self.replaced.add(message["id"])

    def check(self, history: list[dict[str, Any]]) -> None:
        """It is what the server has."""
        mine = [(m["id"], m["role"], m["content"]) for m in self.messages.values() if _shows(m)]
        theirs = [(m["id"], m["role"], m["content"]) for m in history if _shows(m)]
        assert mine == theirs, "the frames say other than the history:\n  " + "\n  ".join(
            map(
                str,
                [
                    *(("only frames", m) for m in mine if m not in theirs),
                    *(("only history", m) for m in theirs if m not in mine),
                    [m[0] for m in mine],
                    [m[0] for m in theirs],
                ],
            )
        )


def _shows(message: dict[str, Any]) -> bool:
    return message["role"] == "user" or (message["role"] == "assistant" and bool(message["content"]))


def _check_calls(history: list[dict[str, Any]]) -> None:
    """Each call has its result before anybody speaks again."""
    waiting: set[str] = set()
    for message in history:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting, f"a result without a call: {message}"
            waiting.discard(message["tool_call_id"])
        else:
            assert not waiting, f"calls without results before {message}: {waiting}"
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
    assert not waiting, f"calls without results at the end: {waiting}"


def check_request(messages: list[dict[str, Any]]) -> None:
    """What a provider is sent is what it takes."""
    waiting: set[str] = set()
    before = ""
    for message in messages:
        role = message["role"]
        assert role in ("user", "assistant", "tool", "system"), message
        if role == "tool":
            assert message["tool_call_id"] in waiting, f"the provider gets a result without a call: {messages}"
            waiting.discard(message["tool_call_id"])
        else:
            assert not waiting, f"the provider gets calls without results: {messages}"
            assert (before, role) != ("assistant", "assistant"), f"two answers in a row: {messages}"
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
        before = role
    assert not waiting, f"the provider gets calls without results: {messages}"
    assert before in ("user", "tool"), f"nothing to answer: {messages}"
