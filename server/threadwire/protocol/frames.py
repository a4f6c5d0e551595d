"""What the server sends: the frames, as models that let pass what a later server adds."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from threadwire.protocol.content import Content


class _Frame(BaseModel):
    # A client must live with fields a later server adds.
    model_config = ConfigDict(extra="allow")


class _LogFrame(_Frame):
    """A frame of the thread's log: numbered, replayed byte for byte."""

    seq: int


class ErrorInfo(_Frame):
    """Why something failed; ``message`` is a sentence."""

    code: str
    message: str


class ToolCall(_Frame):
    """A call the model asked for."""

    id: str
    name: str
    args: dict[str, Any]


class Usage(_Frame):
    """Tokens, as the provider counts them."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    details: dict[str, Any] = {}


class Message(_Frame):
    """A message of the thread."""

    id: str
    role: Literal["user", "assistant", "tool", "system"]
    content: Content
    status: Literal["complete", "running", "cancelled", "failed", "lost"] = "complete"
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    name: str | None = None
    usage: dict[str, Any] | None = None


class Interrupt(_Frame):
    """A question the graph waits for an answer to."""

    id: str
    value: Any
    node: str | None


class RunInfo(_Frame):
    """The run a thread is at."""

    run_id: str
    status: Literal["running", "cancelling", "interrupted"]


class Queued(_Frame):
    """A turn that waits."""

    run_id: str
    message_id: str
    content: Content


class ReadyFrame(_Frame):
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


class AckFrame(_Frame):
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


class ErrorFrame(_Frame):
    """A command was not taken, or (``id`` null) something about the connection is wrong."""

    type: Literal["error"] = "error"
    id: str | None
    code: str
    message: str
    retry: bool
    retry_after_seconds: float | None = None


class HistoryFrame(_Frame):
    """A page of messages, oldest first, true for the log position ``seq``."""

    type: Literal["history"] = "history"
    id: str | None = None
    messages: list[Message]
    before: str | None
    seq: int


class PongFrame(_Frame):
    """``seq`` is the log position this reader has passed."""

    type: Literal["pong"] = "pong"
    id: str | None = None
    seq: int


class GapFrame(_Frame):
    """Frames were lost to this reader; it goes on from ``earliest``."""

    type: Literal["gap"] = "gap"
    requested: int
    earliest: int
    epoch: str
    run: RunInfo | None


class BatchResultFrame(_Frame):
    """One input of a batch is done."""

    type: Literal["batch_result"] = "batch_result"
    run_id: str
    index: int
    message: Message | None = None
    error: ErrorInfo | None = None


class GoawayFrame(_Frame):
    """The server is going to close: reconnect after the (jittered) delay."""

    type: Literal["goaway"] = "goaway"
    reason: str
    reconnect_after_seconds: float


class CredentialExpiringFrame(_Frame):
    """What this connection was let in by is about to end, and it is closed with 4401 then, unless ``reauth`` comes."""

    type: Literal["credential_expiring"] = "credential_expiring"
    expires_in_seconds: float


class EventFrame(_Frame):
    """One raw event, or how many this reader missed."""

    type: Literal["event"] = "event"
    run_id: str | None = None
    event: dict[str, Any] | None = None
    dropped: int | None = None


class RunLogFrame(_Frame):
    """Operations of a JSON Patch (RFC 6902); applied one frame after the other they make LangChain's RunState."""

    type: Literal["log"] = "log"
    ops: list[dict[str, Any]]


class MessageFrame(_LogFrame):
    """A whole message was added to the thread."""

    type: Literal["message"] = "message"
    message: Message


class MessagesRemovedFrame(_LogFrame):
    """Messages were taken out, before what replaces them."""

    type: Literal["messages_removed"] = "messages_removed"
    run_id: str
    message_ids: list[str]


class RunQueuedFrame(_LogFrame):
    """A turn waits for the one before it."""

    type: Literal["run_queued"] = "run_queued"
    run_id: str
    message: Message
    position: int


class RunStartedFrame(_LogFrame):
    """A turn began."""

    type: Literal["run_started"] = "run_started"
    run_id: str
    trigger: Literal["send", "respond", "regenerate", "edit", "batch"]


class TokenFrame(_LogFrame):
    """Text to append to a message."""

    type: Literal["token"] = "token"
    run_id: str
    message_id: str
    node: str | None
    content: str


class ReasoningFrame(_LogFrame):
    """Text to append to a message's reasoning."""

    type: Literal["reasoning"] = "reasoning"
    run_id: str
    message_id: str
    node: str | None
    content: str


class ToolCallFrame(_LogFrame):
    """The model asked for a tool; ``args`` are whole."""

    type: Literal["tool_call"] = "tool_call"
    run_id: str
    id: str
    name: str
    args: dict[str, Any]
    node: str | None


class ToolResultFrame(_LogFrame):
    """A tool ended; ``id`` is its ``tool_call``'s."""

    type: Literal["tool_result"] = "tool_result"
    run_id: str
    id: str
    name: str
    result: Any
    status: Literal["ok", "error"]
    duration_ms: int | None


class UsageFrame(_LogFrame):
    """What one model call cost."""

    type: Literal["usage"] = "usage"
    run_id: str
    message_id: str
    model: str | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    details: dict[str, Any]


class RetrievalFrame(_LogFrame):
    """A retriever ran."""

    type: Literal["retrieval"] = "retrieval"
    run_id: str
    name: str
    query: str
    documents: list[dict[str, Any]]
    status: Literal["ok", "error"]


class CustomFrame(_LogFrame):
    """The graph dispatched a custom event or wrote to the stream writer."""

    type: Literal["custom"] = "custom"
    run_id: str
    name: str
    data: Any


class InterruptFrame(_LogFrame):
    """The graph waits for a person."""

    type: Literal["interrupt"] = "interrupt"
    run_id: str
    interrupts: list[Interrupt]


class RunFinishedFrame(_LogFrame):
    """A turn ended; its outcome is durable."""

    type: Literal["run_finished"] = "run_finished"
    run_id: str
    status: Literal["completed", "cancelled", "interrupted", "failed", "lost"]
    reason: str | None
    error: ErrorInfo | None
    usage: Usage | None
    duration_ms: int
    messages: list[Message] | None = None
    # A batch's run_finished is its connection's alone and has no number.
    seq: int | None = None  # type: ignore[assignment]


class UnknownFrame(_Frame):
    """A frame of a later protocol: kept as it came, to be ignored."""

    type: str


Frame: TypeAlias = (
    ReadyFrame
    | AckFrame
    | ErrorFrame
    | HistoryFrame
    | PongFrame
    | GapFrame
    | BatchResultFrame
    | GoawayFrame
    | CredentialExpiringFrame
    | EventFrame
    | RunLogFrame
    | MessageFrame
    | MessagesRemovedFrame
    | RunQueuedFrame
    | RunStartedFrame
    | TokenFrame
    | ReasoningFrame
    | ToolCallFrame
    | ToolResultFrame
    | UsageFrame
    | RetrievalFrame
    | CustomFrame
    | InterruptFrame
    | RunFinishedFrame
    | UnknownFrame
)
FRAMES: dict[str, type[_Frame]] = {
    model.model_fields["type"].default: model
    for model in (
        ReadyFrame,
        AckFrame,
        ErrorFrame,
        HistoryFrame,
        PongFrame,
        GapFrame,
        BatchResultFrame,
        GoawayFrame,
        CredentialExpiringFrame,
        EventFrame,
        RunLogFrame,
        MessageFrame,
        MessagesRemovedFrame,
        RunQueuedFrame,
        RunStartedFrame,
        TokenFrame,
        ReasoningFrame,
        ToolCallFrame,
        ToolResultFrame,
        UsageFrame,
        RetrievalFrame,
        CustomFrame,
        InterruptFrame,
        RunFinishedFrame,
    )
}
#: Told once they are in the journal, with what comes before them: who has seen one finds it in any state of the server.
PROMISES = frozenset({"message", "messages_removed", "run_started", "interrupt", "run_finished"})
#: Frames that are in a thread's log and carry ``seq``.
LOG_FRAMES = frozenset(name for name, model in FRAMES.items() if issubclass(model, _LogFrame))
