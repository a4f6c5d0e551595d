"""Frames of a thread's log: what becomes of the thread, for everybody who reads it."""

from __future__ import annotations

from typing import Any, Literal

from threadwire.protocol.parts import ErrorInfo, Interrupt, Message, Open, Usage


class LogFrame(Open):
    """A frame of the thread's log: numbered, replayed byte for byte."""

    seq: int


class MessageFrame(LogFrame):
    """A whole message was added to the thread."""

    type: Literal["message"] = "message"
    message: Message


class MessagesRemovedFrame(LogFrame):
    """Messages were taken out, before what replaces them."""

    type: Literal["messages_removed"] = "messages_removed"
    run_id: str
    message_ids: list[str]


class RunQueuedFrame(LogFrame):
    """A turn waits for the one before it."""

    type: Literal["run_queued"] = "run_queued"
    run_id: str
    message: Message
    position: int


class RunStartedFrame(LogFrame):
    """A turn began."""

    type: Literal["run_started"] = "run_started"
    run_id: str
    trigger: Literal["send", "respond", "regenerate", "edit", "batch"]


class TokenFrame(LogFrame):
    """Text to append to a message."""

    type: Literal["token"] = "token"
    run_id: str
    message_id: str
    node: str | None
    content: str


class ReasoningFrame(LogFrame):
    """Text to append to a message's reasoning."""

    type: Literal["reasoning"] = "reasoning"
    run_id: str
    message_id: str
    node: str | None
    content: str


class ToolCallFrame(LogFrame):
    """The model asked for a tool; ``args`` are whole."""

    type: Literal["tool_call"] = "tool_call"
    run_id: str
    id: str
    name: str
    args: dict[str, Any]
    node: str | None


class ToolResultFrame(LogFrame):
    """A tool ended; ``id`` is its ``tool_call``'s."""

    type: Literal["tool_result"] = "tool_result"
    run_id: str
    id: str
    name: str
    result: Any
    status: Literal["ok", "error"]
    duration_ms: int | None


class UsageFrame(LogFrame):
    """What one model call cost."""

    type: Literal["usage"] = "usage"
    run_id: str
    message_id: str
    model: str | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    details: dict[str, Any]


class RetrievalFrame(LogFrame):
    """A retriever ran."""

    type: Literal["retrieval"] = "retrieval"
    run_id: str
    name: str
    query: str
    documents: list[dict[str, Any]]
    status: Literal["ok", "error"]


class CustomFrame(LogFrame):
    """The graph dispatched a custom event or wrote to the stream writer."""

    type: Literal["custom"] = "custom"
    run_id: str
    name: str
    data: Any


class InterruptFrame(LogFrame):
    """The graph waits for a person."""

    type: Literal["interrupt"] = "interrupt"
    run_id: str
    interrupts: list[Interrupt]


class RunFinishedFrame(LogFrame):
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
