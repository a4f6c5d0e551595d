"""Threads and their states as JSON, in the shapes of the LangGraph Agent Server (``langgraph_sdk.schema``).

Pure. Whatever a graph keeps in its state comes out as JSON that can be sent: messages as LangChain dumps them
(``{"type": "human", "content", "id", …}``), what has no form of its own as the name of its type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.types import Interrupt, StateSnapshot

from threadwire.history import without_exception
from threadwire.jsonsafe import json_safe
from threadwire.storage import ThreadRow

#: What a ``select`` may name.
THREAD_FIELDS = (
    "thread_id",
    "created_at",
    "updated_at",
    "metadata",
    "config",
    "context",
    "status",
    "values",
    "interrupts",
)
STATE_FIELDS = (
    "values",
    "next",
    "checkpoint",
    "metadata",
    "created_at",
    "parent_checkpoint",
    "tasks",
    "interrupts",
)
#: A state is given whole, unlike a value in a frame.
_WHOLE = 2**62
#: What a task's exception says can hold prompts and keys.
_TASK_ERROR = "The task failed. The server's log says why."


def thread_json(row: ThreadRow, values: dict[str, Any] | None) -> dict[str, Any]:
    """The SDK's ``Thread``; ``values`` None: they were not read.

    Its ``interrupts`` have the interrupt's id as their key where the Agent Server has the task's.
    """
    return {
        "thread_id": row.thread_id,
        "created_at": _iso(row.created_at),
        "updated_at": _iso(row.updated_at),
        "metadata": row.metadata,
        "config": {},
        "context": {},
        "status": row.status,
        "values": values,
        "interrupts": {found["id"]: [{"value": found["value"], "id": found["id"]}] for found in row.interrupts},
    }


def state_json(snapshot: StateSnapshot) -> dict[str, Any]:
    """The SDK's ``ThreadState``, with the states of subgraphs where the snapshot has them."""
    return {
        "values": values_json(snapshot),
        "next": list(snapshot.next),
        "checkpoint": _checkpoint(snapshot.config),
        "metadata": json_safe(dict(snapshot.metadata or {}), _WHOLE),
        "created_at": snapshot.created_at,
        "parent_checkpoint": _checkpoint(snapshot.parent_config) if snapshot.parent_config else None,
        "tasks": [_task(task) for task in snapshot.tasks],
        "interrupts": [_interrupt(interrupt) for interrupt in snapshot.interrupts],
    }


def values_json(snapshot: StateSnapshot) -> dict[str, Any]:
    """The state's values."""
    found: dict[str, Any] = json_safe(_shown(snapshot.values), _WHOLE)
    return found


def _shown(values: Any) -> Any:
    """What a graph keeps or a node gave, but for what exceptions said that a tool node caught."""
    if isinstance(values, Mapping):
        return {key: _shown(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_shown(value) for value in values]
    return without_exception(values) if isinstance(values, BaseMessage) else values


def selected_state(state: dict[str, Any], select: Collection[str]) -> dict[str, Any]:
    """The fields of a state that ``select`` names; ``values.<key>`` is one of its values. All, where it is empty."""
    if not select:
        return state
    found = {name: state[name] for name in STATE_FIELDS if name in select}
    keys = {name.partition(".")[2] for name in select if name.startswith("values.")}
    if keys and "values" not in found:
        found["values"] = {key: value for key, value in state["values"].items() if key in keys}
    return found


def is_state_field(name: str) -> bool:
    """Whether a state's ``select`` may have it."""
    return name in STATE_FIELDS or (name.startswith("values.") and len(name) > len("values."))


def _task(task: Any) -> dict[str, Any]:
    state = task.state
    is_snapshot = isinstance(state, StateSnapshot)
    return {
        "id": task.id,
        "name": task.name,
        "path": json_safe(task.path, _WHOLE),
        "error": _TASK_ERROR if task.error is not None else None,
        "interrupts": [_interrupt(interrupt) for interrupt in task.interrupts],
        "checkpoint": _checkpoint(state) if state is not None and not is_snapshot else None,
        "state": state_json(state) if is_snapshot else None,
        "result": json_safe(_shown(task.result), _WHOLE),
    }


def _interrupt(interrupt: Interrupt) -> dict[str, Any]:
    return {"value": json_safe(interrupt.value, _WHOLE), "id": interrupt.id}


def _checkpoint(config: Mapping[str, Any]) -> dict[str, Any]:
    configurable = config["configurable"]
    return {
        "thread_id": configurable["thread_id"],
        "checkpoint_ns": configurable.get("checkpoint_ns", ""),
        "checkpoint_id": configurable.get("checkpoint_id"),
        "checkpoint_map": configurable.get("checkpoint_map"),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
