"""A cut-off turn made whole in the checkpointer, so that what was said is kept and the next turn always works.

Tried on langgraph 1.2.22. ``(None, END)`` clears everything pending and commits what finished siblings of a fan-out
wrote, which a plain update would drop. What is missing is then written in the name of a node without edges
(``graph.REPAIR_NODE``): written as the cut-off node, or as START, it would run the user's routers on a state they do
not expect. Each step can be repeated: messages go in under the ids they were told with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langgraph.graph import END
from langgraph.types import StateSnapshot, StateUpdate

from threadwire.graph import MESSAGES, REPAIR_NODE, Graph
from threadwire.history import CutStatus, Said, missing, open_tool_calls
from threadwire.logs import get_logger
from threadwire.storage import Storage

logger = get_logger(__name__)

#: Kept with a checkpoint that the first of the two steps made.
CUT = "threadwire_cut"


async def make_whole(
    graph: Graph,
    storage: Storage,
    thread_id: str,
    *,
    user: HumanMessage | None,
    said: Callable[[set[str]], Sequence[Said]],
    status: CutStatus,
    results: Mapping[str, ToolMessage] = MappingProxyType({}),
    checkpoint_id: str | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> list[BaseMessage]:
    """Leave the thread as if its turn had ended there; returns all its messages.

    ``user`` is the turn's own message, added where the graph had not stored it. ``said`` is given the ids of the
    root graph's tasks whose work is not stored, and gives what their model calls had said. ``results`` has what tools
    gave, by call id, though their node had not got to store it. With ``checkpoint_id`` the thread goes on from there:
    a copy of that checkpoint, made whole, becomes the newest. ``metadata`` is kept with what this writes.
    """
    editor = graph.for_state(storage.saver())
    config: Any = {**config_of(thread_id), "metadata": dict(metadata)}
    where = config_of(thread_id, checkpoint_id)
    snapshot = await editor.aget_state(where)
    unfinished = _unfinished(snapshot)
    if snapshot.next or snapshot.tasks or checkpoint_id:
        cut: Any = {**where, "metadata": {**metadata, CUT: True}}
        await editor.abulk_update_state(cut, [[StateUpdate(None, END)]])
        snapshot = await editor.aget_state(config)
    elif (snapshot.metadata or {}).get(CUT) and snapshot.parent_config is not None:
        # A process died between the two steps: what it had cut off is in the checkpoint before.
        unfinished = _unfinished(await editor.aget_state(snapshot.parent_config))
    answers = said(unfinished)
    stored: list[BaseMessage] = list(snapshot.values.get(MESSAGES) or [])
    added = missing(stored, user, answers, results, status)
    if added:
        written = [*stored, *added] if graph.replaces_messages else added
        await editor.abulk_update_state(config, [[StateUpdate({MESSAGES: written}, REPAIR_NODE)]])
    messages = [*stored, *added]
    if still_open := open_tool_calls(messages):
        logger.error("tool calls left open", thread_id=thread_id, calls=[call["id"] for call in still_open])
    return messages


def _unfinished(snapshot: StateSnapshot) -> set[str]:
    return {task.id for task in snapshot.tasks if task.result is None}


def config_of(thread_id: str, checkpoint_id: str | None = None) -> Any:
    """What LangGraph finds a thread by: its newest checkpoint, or another."""
    configurable = {"thread_id": thread_id, "checkpoint_ns": ""}
    return {"configurable": {**configurable, "checkpoint_id": checkpoint_id} if checkpoint_id else configurable}
