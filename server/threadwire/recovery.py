"""The end of a run whose process died before it could tell it.

What the checkpointer has is the truth: a run that had come to its end there is ended with that, and what readers had
not heard of it is told as whole messages. Any other is ``lost``: what it had said, as the journal has it, is kept in
the thread, its tool calls are closed, and ``run_finished`` carries all that it left. Every step can be repeated: a
process that dies in the middle of this leaves it to the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.types import StateSnapshot

from threadwire.conversation import Conversation
from threadwire.graph import MESSAGES, Graph
from threadwire.history import CutStatus, content_of, message_ids, text_of, to_wire, user_message
from threadwire.journal import Record
from threadwire.jsonsafe import json_safe
from threadwire.logs import get_logger
from threadwire.remains import Remains
from threadwire.repair import config_of, make_whole
from threadwire.rewind import Rewind
from threadwire.run import Outcome, interrupts_of
from threadwire.storage import RunRow, Storage
from threadwire.turn import Turn

logger = get_logger(__name__)

#: Why a run is lost.
REASON = "crash"
#: How LangGraph's checkpointer has the error of a node that was cancelled: what was raised, as ``repr`` has it.
_CANCELLED = "CancelledError("


async def end_lost(
    turn: Turn,
    record: Record,
    conversation: Conversation,
    graph: Graph,
    storage: Storage,
    *,
    rewind: Rewind,
    undone: bool,
) -> None:
    """Bring the run to its end, and tell it; ``undone``: a turn that waits rolls it back. Raises nothing."""
    row = turn.row
    # All that is on disk stays there, until its end is.
    record.pinned = turn.first_seq = 1
    # While it ran, nothing was asked: a question it had the answer to is no longer one.
    conversation.waiting = []
    try:
        remains = Remains(row.run_id, await record.read())
        outcome, frames = await _recover(row, remains, conversation, graph, storage, rewind=rewind, undone=undone)
        (await conversation.known()).update(found["message"]["id"] for found in frames if found["type"] == "message")
    except Exception:
        # A thread whose state cannot be read must not keep its client waiting for ever.
        logger.exception("run not recovered", thread_id=row.thread_id, run_id=row.run_id)
        outcome, frames = Outcome("lost", REASON, messages=[]), []
    for frame in frames:
        record.tell(frame)
    if undone:
        turn.roll_back()
    began = row.started_at if row.started_at is not None else row.created_at
    await turn.finish(outcome, max(0, round((time.time() - began) * 1000)))


async def left_message(row: RunRow, record: Record, conversation: Conversation) -> bool:
    """Whether a turn that had not started has its message in the thread, or told, since it had been given up."""
    if row.message_id is None or row.message_id in await conversation.known():
        return row.message_id is not None
    return row.message_id in Remains(row.run_id, await record.read()).texts


async def _recover(
    row: RunRow,
    remains: Remains,
    conversation: Conversation,
    graph: Graph,
    storage: Storage,
    *,
    rewind: Rewind,
    undone: bool,
) -> tuple[Outcome, list[dict[str, Any]]]:
    """How the run ended, and the frames that are still to be told before its ``run_finished``."""
    snapshot = await graph.for_state(storage.saver()).aget_state(config_of(row.thread_id))
    # What is going to be taken out has come to no end: nothing of it is told, and its calls are closed.
    outcome = Outcome("lost", REASON) if undone else _outcome(row, snapshot)
    outcome.usage = remains.usage
    messages: list[BaseMessage] = list(snapshot.values.get(MESSAGES) or [])
    if outcome.status in ("lost", "failed"):
        content = row.request.get("content")
        messages = await make_whole(
            graph,
            storage,
            row.thread_id,
            user=user_message(content, row.message_id) if content and row.message_id else await rewind.again(row),
            said=remains.said,
            status=_cut(outcome),
            results=remains.results,
        )
    left = await _left(row, messages, conversation)
    if outcome.status == "lost":
        outcome.messages = [to_wire(message, identity) for identity, message in left]
    frames = [] if outcome.status == "lost" else [*_untold_calls(row, left, remains), *_untold(left, remains)]
    if outcome.status != "interrupted":
        frames.extend(_results(row, messages, remains))
    return outcome, frames


def _cut(outcome: Outcome) -> CutStatus:
    return "failed" if outcome.status == "failed" else "lost"


def _outcome(row: RunRow, snapshot: StateSnapshot) -> Outcome:
    tasks = snapshot.tasks
    if not _reached(row, snapshot):
        return Outcome("lost", REASON)
    # Not ``next``, which leaves out what has its result: a step that was done and never applied leads further.
    if not tasks:
        return Outcome("completed")
    if all(task.result is not None or task.error is not None or task.interrupts for task in tasks):
        errors = [str(task.error) for task in tasks if task.error is not None]
        if any(not error.startswith(_CANCELLED) for error in errors):
            told = {"code": "graph_error", "message": "The graph failed. The server's log says why."}
            return Outcome("failed", "error", told)
        # A run that was being stopped has come to no end: it died before that was written.
        if not errors and any(task.interrupts for task in tasks):
            return Outcome("interrupted", "interrupt", interrupts=interrupts_of(snapshot))
    return Outcome("lost", REASON)


def _reached(row: RunRow, snapshot: StateSnapshot) -> bool:
    """Whether the state is one that the run has left."""
    metadata = snapshot.metadata or {}
    if metadata.get("run_id") == row.run_id:
        return metadata.get("source") == "loop"
    if row.trigger != "respond" or row.base != snapshot.config["configurable"].get("checkpoint_id"):
        return False
    # It has ended no step. But what it had the answer to is asked no more: that step asks something else, or failed.
    answered = set(row.request["responses"])
    waiting = [task for task in snapshot.tasks if task.result is None and task.error is None]
    return bool(snapshot.tasks) and not any(found.id in answered for task in waiting for found in task.interrupts)


async def _left(row: RunRow, messages: list[BaseMessage], conversation: Conversation) -> list[tuple[str, BaseMessage]]:
    """What of the thread's messages is the run's: what was not there when it started."""
    named = list(zip(message_ids(messages), messages, strict=True))
    before = await conversation.stored(row.base) if row.base is not None else []
    # Its own may have been, where a process died that had given the turn up.
    known = set(message_ids(before)) - {row.message_id}
    if row.trigger == "regenerate" and row.turn is not None:
        known.add(row.turn)
    return [(identity, message) for identity, message in named if identity not in known]


def _untold(left: list[tuple[str, BaseMessage]], remains: Remains) -> Iterator[dict[str, Any]]:
    """The messages that readers do not have as they are stored."""
    for identity, message in left:
        if isinstance(message, ToolMessage) and message.tool_call_id in remains.calls:
            continue
        if remains.texts.get(identity) != text_of(message) or not _calls(message) <= remains.calls:
            yield {"type": "message", "message": to_wire(message, identity)}


def _untold_calls(row: RunRow, left: list[tuple[str, BaseMessage]], remains: Remains) -> Iterator[dict[str, Any]]:
    """The tool calls that readers do not know of: their results come as those of the others."""
    for _, message in left:
        for call in message.tool_calls if isinstance(message, AIMessage) else ():
            call_id = call["id"] or ""
            if call_id not in remains.calls:
                remains.calls.add(call_id)
                remains.open[call_id] = call["name"]
                yield {
                    "type": "tool_call",
                    "run_id": row.run_id,
                    "id": call_id,
                    "name": call["name"],
                    "args": json_safe(call["args"]),
                    "node": None,
                }


def _calls(message: BaseMessage) -> set[str]:
    return {call["id"] or "" for call in message.tool_calls} if isinstance(message, AIMessage) else set()


def _results(row: RunRow, messages: list[BaseMessage], remains: Remains) -> Iterator[dict[str, Any]]:
    """A result for each call that was told and has had none."""
    found = {message.tool_call_id: message for message in messages if isinstance(message, ToolMessage)}
    for call_id, name in remains.open.items():
        message = found.get(call_id)
        failed = message is None or message.status == "error"
        yield {
            "type": "tool_result",
            "run_id": row.run_id,
            "id": call_id,
            "name": name,
            "result": content_of(message) if message is not None else "The tool did not finish.",
            "status": "error" if failed else "ok",
            "duration_ms": None,
        }
