"""The agent's state: messages in a channel that stores what each step added, and not all of them again with each step.

With LangGraph's usual reducer each checkpoint holds the whole conversation, so that a thread's size grows with the
square of its length. ``DeltaChannel`` stores the writes, and a snapshot once in a while; it is in beta, which is why
langgraph's minor version is pinned. LangGraph's own message reducer for it is private and ignores
``REMOVE_ALL_MESSAGES``, with which ``create_agent`` repairs invalid tool calls (it would double the conversation), so
this is one of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Annotated, Any, Required

from langchain.agents import AgentState
from langchain_core.messages import (
    AnyMessage,
    BaseMessage,
    BaseMessageChunk,
    RemoveMessage,
    convert_to_messages,
    message_chunk_to_message,
)
from langgraph.channels import DeltaChannel
from langgraph.graph.message import REMOVE_ALL_MESSAGES


def fold_messages(state: Sequence[Any], writes: Sequence[Any]) -> list[BaseMessage]:
    """``add_messages`` over a batch of writes, each a message or a list of them.

    A message with an id that is there already replaces it in its place; ``RemoveMessage`` removes, of an unknown id
    nothing. As the channel needs it: deterministic, and folding two batches one after the other gives what folding
    both at once gives. Messages get their ids before they are written: LangGraph's loop does that for this channel.
    """
    nameless = (f"\0{number}" for number in count())
    before = _typed(state)
    messages = dict(zip([message.id or next(nameless) for message in before], before, strict=True))
    for write in writes:
        for message in _typed(write if isinstance(write, list) else [write]):
            if not isinstance(message, RemoveMessage):
                messages[message.id or next(nameless)] = message
            elif message.id == REMOVE_ALL_MESSAGES:
                messages.clear()
            else:
                messages.pop(message.id or "", None)
    return list(messages.values())


def _typed(messages: Sequence[Any]) -> Sequence[BaseMessage]:
    # All of an old thread's are looked at, four times a turn: their types first, which are few.
    kinds = set(map(type, messages))
    if not all(issubclass(kind, BaseMessage) for kind in kinds):
        messages = convert_to_messages(messages)
        kinds = set(map(type, messages))
    if any(issubclass(kind, BaseMessageChunk) for kind in kinds):
        return [message_chunk_to_message(m) if isinstance(m, BaseMessageChunk) else m for m in messages]
    return messages


class ChatState(AgentState[Any]):
    """What a thread of the built-in agent holds."""

    messages: Required[Annotated[list[AnyMessage], DeltaChannel(fold_messages)]]
