"""The shapes that go over HTTP, as JSON Schema.

Bodies are made from the models they are checked with; frames and
commands are those of ``/protocol.json``; threads and their states are written out, as ``snapshots`` makes them.
"""

from __future__ import annotations

from typing import Any, get_args

import orjson
from pydantic.json_schema import models_json_schema

from threadwire import bodies
from threadwire.protocol import json_schema
from threadwire.storage import ThreadStatus

_COMPONENTS = "#/components/schemas/"


def ref(name: str) -> dict[str, Any]:
    """A reference to one of ``SCHEMAS``."""
    return {"$ref": _COMPONENTS + name}


def _object(properties: dict[str, Any], *, optional: bool = False, **more: Any) -> dict[str, Any]:
    required = {} if optional else {"required": list(properties)}
    return {"type": "object", "properties": properties, **required, "additionalProperties": False, **more}


def _nullable(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


_TIME = {"type": "string", "format": "date-time"}
_INTERRUPT = _object({"id": {"type": "string"}, "value": {}})
_CHECKPOINT = _object(
    {
        "thread_id": {"type": "string"},
        "checkpoint_ns": {"type": "string"},
        "checkpoint_id": _nullable("string"),
        "checkpoint_map": _nullable("object"),
    }
)
_THREAD = {
    "thread_id": {"type": "string"},
    "created_at": _TIME,
    "updated_at": _TIME,
    "metadata": {"type": "object"},
    "config": {"type": "object"},
    "context": {"type": "object"},
    "status": {"enum": list(get_args(ThreadStatus))},
    "values": {"type": ["object", "null"], "description": "Null where they were not read"},
    "interrupts": {"type": "object", "additionalProperties": {"type": "array", "items": _INTERRUPT}},
}
_TASK = _object(
    {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "path": {},
        "error": _nullable("string"),
        "interrupts": {"type": "array", "items": _INTERRUPT},
        "checkpoint": {"anyOf": [ref("Checkpoint"), {"type": "null"}]},
        "state": {"anyOf": [ref("ThreadState"), {"type": "null"}]},
        "result": {},
    }
)
_STATE = {
    "values": {"description": "The graph's state: what it keeps, as it keeps it"},
    "next": {"type": "array", "items": {"type": "string"}},
    "checkpoint": ref("Checkpoint"),
    "metadata": {"type": "object"},
    "created_at": _nullable("string"),
    "parent_checkpoint": {"anyOf": [ref("Checkpoint"), {"type": "null"}]},
    "tasks": {"type": "array", "items": _TASK},
    "interrupts": {"type": "array", "items": _INTERRUPT},
}
_ERROR = _object(
    {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "string"}, "message": {"type": "string", "minLength": 1}},
            "required": ["code", "message"],
        }
    }
)
_PROTOCOL = _object(
    {
        "$schema": {"type": "string"},
        "title": {"type": "string"},
        "commands": {"type": "object"},
        "frames": {"type": "object"},
        "close_codes": {"type": "object"},
        "anyOf": {"type": "array"},
        "$defs": {"type": "object"},
    }
)
_EXPORT = _object(
    {
        **{name: _THREAD[name] for name in ("thread_id", "created_at", "updated_at", "status", "metadata")},
        "messages": {"type": "array", "items": ref("Message")},
    }
)


def _protocol() -> dict[str, Any]:
    """Every command and frame, with references to where they are here."""
    definitions = orjson.dumps(json_schema()["$defs"])
    found: dict[str, Any] = orjson.loads(definitions.replace(b'"#/$defs/', b'"' + _COMPONENTS.encode()))
    return found


def _command(schema: dict[str, Any], *left_out: str, **more: Any) -> dict[str, Any]:
    """A command as a body: the route says its type, so that it may be left out."""
    properties = {name: value for name, value in schema["properties"].items() if name not in left_out}
    required = [name for name in schema["required"] if name != "type"]
    return {**schema, "properties": {**properties, **more}, "required": [*required, *more]}


def _schemas() -> dict[str, Any]:
    models = (
        bodies.CreateThread,
        bodies.UpdateThread,
        bodies.CountThreads,
        bodies.SearchThreads,
        bodies.ReadState,
        bodies.ReadHistory,
    )
    _, made = models_json_schema([(model, "validation") for model in models], ref_template=_COMPONENTS + "{model}")
    protocol = _protocol()
    # Fields of a turn on a thread, which a run without one does not have.
    of_a_thread = ("message_id", "multitask_strategy", "checkpoint_id", "stream")
    return {
        **protocol,
        **made["$defs"],
        "SendBody": _command(protocol["Send"]),
        "BatchBody": _command(protocol["Batch"]),
        "RunBody": _command(protocol["Send"], *of_a_thread, stream={"const": "log"}),
        "Error": _ERROR,
        "Checkpoint": _CHECKPOINT,
        "Thread": _object(_THREAD),
        "SelectedThread": _object(_THREAD, optional=True, description="A thread, or the selected fields of one"),
        "ThreadState": _object(_STATE),
        "SelectedState": _object(_STATE, optional=True, description="A state, or the selected fields of one"),
        "Export": _EXPORT,
        "Protocol": _PROTOCOL,
        "Frame": {"anyOf": [ref(name) for name in sorted(protocol) if name.endswith("Frame")]},
    }


SCHEMAS: dict[str, Any] = _schemas()
