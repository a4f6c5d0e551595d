"""Messages: LangChain's as the wire's and back, pages of them, and what a cut-off turn needs to be whole.

Pure: knows no graph, no storage, no clock. Message classes and content blocks are ``langchain_core.messages``'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from threadwire.jsonsafe import json_safe

CutStatus = Literal["cancelled", "failed", "lost"]

#: Under this key of ``response_metadata`` a cut-off answer says how it ended; providers are not sent that field.
STATUS_KEY = "threadwire_status"

#: The templates of ``langgraph.prebuilt.tool_node`` (1.2) that an exception goes into; the second was an earlier one's.
_CAUGHT = re.compile(
    r"Error: .*\n Please fix your mistakes\.\Z|Error executing tool '.*\n Please fix the error and try again\.\Z",
    re.DOTALL,
)

_CLOSED = {
    "cancelled": "The tool was cancelled before it finished.",
    "failed": "The tool did not finish: the run failed.",
    "lost": "The tool did not finish: the server stopped.",
}


def message_id(message: BaseMessage, index: int) -> str:
    """A message's id; by its place where the graph's reducer gives none."""
    return message.id or f"index-{index}"


def message_ids(messages: Iterable[BaseMessage]) -> list[str]:
    """The ids of a state's messages, in their order."""
    return [message_id(message, index) for index, message in enumerate(messages)]


def to_wires(messages: Iterable[BaseMessage]) -> list[dict[str, Any]]:
    """A state's messages as the wire has them."""
    return [to_wire(message, message_id(message, index)) for index, message in enumerate(messages)]


def user_message(content: str | list[dict[str, Any]], identity: str) -> HumanMessage:
    """The LangChain message of a user's ``content``."""
    return HumanMessage(content=content, id=identity)  # type: ignore[arg-type]  # blocks are JSON objects


def user_wire(content: str | list[dict[str, Any]], identity: str) -> dict[str, Any]:
    """A user's message as the wire has it, before the graph has stored it."""
    return {"id": identity, "role": "user", "content": content}


def to_wire(message: BaseMessage, identity: str) -> dict[str, Any]:
    """A stored message as the wire has it, of the shape of ``protocol.Message``."""
    wire: dict[str, Any] = {"id": identity, "role": _role(message), "content": content_of(message)}
    if isinstance(message, AIMessage):
        status = message.response_metadata.get(STATUS_KEY)
        if status:
            wire["status"] = status
        if message.tool_calls:
            wire["tool_calls"] = [
                {"id": call["id"] or "", "name": call["name"], "args": json_safe(call["args"])}
                for call in message.tool_calls
            ]
        if message.usage_metadata:
            wire["usage"] = dict(message.usage_metadata)
    elif isinstance(message, ToolMessage):
        wire["tool_call_id"] = message.tool_call_id
        if message.status == "error":
            wire["status"] = "failed"
    if message.name:
        wire["name"] = message.name
    return wire


def without_exception(message: BaseMessage) -> BaseMessage:
    """The message as readers may see it: what LangGraph's ToolNode says of an exception it caught is for the model.

    That is the exception's own words, and they can hold anything. An error that the tool's author has put into words
    (``ToolException``, a handler of one's own) is left as it is, and so is what is wrong with a call's arguments.
    """
    if not isinstance(message, ToolMessage) or message.status != "error" or not isinstance(message.content, str):
        return message
    if not _CAUGHT.match(message.content):
        return message
    return message.model_copy(update={"content": f"The tool {message.name or ''} failed.".replace("  ", " ")})


def content_of(message: BaseMessage) -> str | list[dict[str, Any]]:
    """A message's content: its text where it is nothing but text, else LangChain's standard blocks.

    Tool calls are left out: they have a place of their own.
    """
    message = without_exception(message)
    if isinstance(message.content, str):
        return message.content
    blocks = [dict(block) for block in message.content_blocks if not str(block.get("type", "")).startswith("tool_call")]
    if isinstance(message, AIMessage) and all(block.get("type") == "text" for block in blocks):
        return "".join(str(block.get("text", "")) for block in blocks)
    return [json_safe(block, 16 * 1024 * 1024) for block in blocks]


def text_of(message: BaseMessage) -> str:
    """A message's text, blocks of other kinds left out."""
    return message.content if isinstance(message.content, str) else str(message.text)


def _role(message: BaseMessage) -> str:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, ToolMessage):
        return "tool"
    if isinstance(message, SystemMessage):
        return "system"
    return "assistant"


def page(
    messages: Sequence[dict[str, Any]], before: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None] | None:
    """The ``limit`` latest messages before the one whose id is ``before`` (None: of all), oldest first.

    Returns them and the cursor for the page before (None: that is the beginning); None where there is no such message.
    """
    end = len(messages)
    if before is not None:
        end = next((index for index, message in enumerate(messages) if message["id"] == before), -1)
        if end < 0:
            return None
    start = max(0, end - limit)
    return list(messages[start:end]), (messages[start]["id"] if start > 0 else None)


# --- a cut-off turn made whole -------------------------------------------------------------------


@dataclass(slots=True)
class Said:
    """What one model call had said when its turn was cut off."""

    message_id: str
    text: str
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    #: The model itself had finished; only the node around it had not.
    ended: bool = False


def missing(
    stored: Sequence[BaseMessage],
    user: HumanMessage | None,
    said: Sequence[Said],
    results: Mapping[str, ToolMessage],
    status: CutStatus,
) -> list[AnyMessage]:
    """The messages to add to ``stored`` so that a cut-off turn is whole and the next one works.

    The user's message where the graph had not stored it yet; each answer a reader saw and the graph did not store,
    under the id its tokens carried (so that adding it twice is harmless), marked with ``status``; for each tool call
    without one, also for calls stored before, its result: of ``results`` (by call id) if the tool had finished, else
    an error. Providers refuse a conversation in which a call has no result.
    """
    have = {message.id for message in stored}
    added: list[AnyMessage] = []
    if user is not None and user.id not in have:
        added.append(user)
    for answer in said:
        if answer.message_id not in have and (answer.text or answer.tool_calls):
            added.append(_cut_answer(answer, status))
            calls = [{**call, "key": f"{answer.message_id}-{call['id']}"} for call in answer.tool_calls]
            added.extend(_close(calls, results, status))
    return [*_close(open_tool_calls(stored), results, status), *added]


def open_tool_calls(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Tool calls of the latest turn (after the last user message) that have no result: ``[{id, name, args, key}]``.

    A result stands behind its call: providers that count their calls anew in each answer use the same ids again and
    again. ``key`` is the call's own in the thread.
    """
    answered: set[str] = set()
    found: list[dict[str, Any]] = []
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, ToolMessage):
            answered.add(message.tool_call_id)
        elif isinstance(message, AIMessage):
            own = message_id(message, index)
            found[:0] = [
                {**call, "key": f"{own}-{call['id']}"} for call in message.tool_calls if call["id"] not in answered
            ]
            answered -= {call["id"] for call in message.tool_calls if call["id"] is not None}
    return found


def _cut_answer(answer: Said, status: CutStatus) -> AIMessage:
    return AIMessage(
        content=answer.text,
        id=answer.message_id,
        tool_calls=[
            {"id": c["id"], "name": c["name"], "args": c["args"], "type": "tool_call"} for c in answer.tool_calls
        ],
        # An answer whose model had finished is whole, whatever became of its node.
        response_metadata={} if answer.ended else {STATUS_KEY: status},
    )


def _close(calls: Sequence[dict[str, Any]], results: Mapping[str, ToolMessage], status: CutStatus) -> list[ToolMessage]:
    return [_result(call, results.get(call["id"]), status) for call in calls]


def _result(call: dict[str, Any], found: ToolMessage | None, status: CutStatus) -> ToolMessage:
    # Derived from the call, so that closing it twice replaces the result and does not double it.
    identity = f"closed-{call['key']}"
    if found is not None:
        return found.model_copy(update={"id": found.id or identity})
    return ToolMessage(content=_CLOSED[status], tool_call_id=call["id"], name=call["name"], status="error", id=identity)
