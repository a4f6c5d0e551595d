"""Frames about one connection alone: not in the thread's log, not numbered, not told again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from threadwire.protocol.parts import ErrorInfo, Interrupt, Message, Open, Queued, RunInfo


class ReadyFrame(Open):
    """The first frame of every connection."""

    type: Literal["ready"] = "ready"
    protocol: str
    server: str
    thread_id: str
    created: bool
    epoch: str
    seq: int
    resume: Literal["fresh", "replayed", "gap"]
    run: RunInfo | None
    queue: list[Queued]
    interrupts: list[Interrupt]
    model: dict[str, Any]
    heartbeat_seconds: float
    limits: dict[str, Any]


class AckFrame(Open):
    """A command was taken."""

    type: Literal["ack"] = "ack"
    id: str | None
    run_id: str | None = None
    message_id: str | None = None
    duplicate: bool | None = None
    #: Of ``edit`` and ``regenerate``: the thread goes on from the checkpoint before the turn, or with its messages
    #: taken out where that has been pruned.
    from_: Literal["checkpoint", "messages"] | None = Field(default=None, alias="from")
    #: Of ``reauth``: how long the new credential is good; null: it does not end by itself.
    expires_in_seconds: float | None = None


class ErrorFrame(Open):
    """A command was not taken, or (``id`` null) something about the connection is wrong."""

    type: Literal["error"] = "error"
    id: str | None
    code: str
    message: str
    retry: bool
    retry_after_seconds: float | None = None


class HistoryFrame(Open):
    """A page of messages, oldest first, true for the log position ``seq``."""

    type: Literal["history"] = "history"
    id: str | None = None
    messages: list[Message]
    before: str | None
    seq: int


class PongFrame(Open):
    """``seq`` is the log position this reader has passed."""

    type: Literal["pong"] = "pong"
    id: str | None = None
    seq: int


class GapFrame(Open):
    """Frames were lost to this reader; it goes on from ``earliest``."""

    type: Literal["gap"] = "gap"
    requested: int
    earliest: int
    epoch: str
    run: RunInfo | None


class BatchResultFrame(Open):
    """One input of a batch is done."""

    type: Literal["batch_result"] = "batch_result"
    run_id: str
    index: int
    message: Message | None = None
    error: ErrorInfo | None = None


class GoawayFrame(Open):
    """The server is going to close: reconnect after the (jittered) delay."""

    type: Literal["goaway"] = "goaway"
    reason: str
    reconnect_after_seconds: float


class CredentialExpiringFrame(Open):
    """What this connection was let in by is about to end, and it is closed with 4401 then, unless ``reauth`` comes."""

    type: Literal["credential_expiring"] = "credential_expiring"
    expires_in_seconds: float


class EventFrame(Open):
    """One raw event, or how many this reader missed."""

    type: Literal["event"] = "event"
    run_id: str | None = None
    event: dict[str, Any] | None = None
    dropped: int | None = None


class RunLogFrame(Open):
    """Operations of a JSON Patch (RFC 6902); applied one frame after the other they make LangChain's RunState."""

    type: Literal["log"] = "log"
    ops: list[dict[str, Any]]
