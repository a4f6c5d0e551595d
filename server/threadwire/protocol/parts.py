"""What frames are made of, as models that let pass what a later server adds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from threadwire.protocol.content import Content


class Open(BaseModel):
    """A client must live with fields that a later server adds."""

    model_config = ConfigDict(extra="allow")


class ErrorInfo(Open):
    """Why something failed; ``message`` is a sentence."""

    code: str
    message: str


class ToolCall(Open):
    """A call the model asked for."""

    id: str
    name: str
    args: dict[str, Any]


class Usage(Open):
    """Tokens, as the provider counts them."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    details: dict[str, Any] = {}


class Message(Open):
    """A message of the thread."""

    id: str
    role: Literal["user", "assistant", "tool", "system"]
    content: Content
    status: Literal["complete", "running", "cancelled", "failed", "lost"] = "complete"
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    name: str | None = None
    usage: dict[str, Any] | None = None


class Interrupt(Open):
    """A question the graph waits for an answer to."""

    id: str
    value: Any
    node: str | None


class RunInfo(Open):
    """The run a thread is at."""

    run_id: str
    status: Literal["running", "cancelling", "interrupted"]


class Queued(Open):
    """A turn that waits."""

    run_id: str
    message_id: str
    content: Content
