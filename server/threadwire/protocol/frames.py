"""What the server sends: all frames, by their types."""

from __future__ import annotations

from typing import TypeAlias, get_args

from threadwire.protocol.connection_frames import (
    AckFrame,
    BatchResultFrame,
    CredentialExpiringFrame,
    ErrorFrame,
    EventFrame,
    GapFrame,
    GoawayFrame,
    HistoryFrame,
    PongFrame,
    ReadyFrame,
    RunLogFrame,
)
from threadwire.protocol.log_frames import (
    CustomFrame,
    InterruptFrame,
    LogFrame,
    MessageFrame,
    MessagesRemovedFrame,
    ReasoningFrame,
    RetrievalFrame,
    RunFinishedFrame,
    RunQueuedFrame,
    RunStartedFrame,
    TokenFrame,
    ToolCallFrame,
    ToolResultFrame,
    UsageFrame,
)
from threadwire.protocol.parts import Open


class UnknownFrame(Open):
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
FRAMES: dict[str, type[Open]] = {
    model.model_fields["type"].default: model for model in get_args(Frame) if model is not UnknownFrame
}
#: Told once they are in the journal, with what comes before them: who has seen one finds it in any state of the server.
PROMISES = frozenset({"message", "messages_removed", "run_started", "interrupt", "run_finished"})
#: Frames that are in a thread's log and carry ``seq``.
LOG_FRAMES = frozenset(name for name, model in FRAMES.items() if issubclass(model, LogFrame))
