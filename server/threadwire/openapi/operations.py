"""What each HTTP route takes and gives: a table by method and path, as the router has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from threadwire.bodies import MAX_LIMIT, STATE_FIELD
from threadwire.openapi.schemas import ref
from threadwire.protocol import RUN_ID, THREAD_ID


@dataclass(frozen=True, slots=True)
class Operation:
    """One route: ``answers`` are response objects by status, ``errors`` the refusals beside those of any route."""

    name: str
    summary: str
    answers: Mapping[int, dict[str, Any]]
    errors: Mapping[int, str] = field(default_factory=dict)
    parameters: tuple[dict[str, Any], ...] = ()
    body: dict[str, Any] | None = None
    body_required: bool = False
    description: str = ""


def _answer(what: str, schema: dict[str, Any] | None = None, media: str = "application/json") -> dict[str, Any]:
    return {"description": what} if schema is None else {"description": what, "content": {media: {"schema": schema}}}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, schema: dict[str, Any], what: str = "") -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, **({"description": what} if what else {})}


_TEXT = {"type": "string"}
_STATUS = {"type": "object", "properties": {"status": _TEXT}, "required": ["status"]}
_FLAG = {"enum": ["true", "false", "1", "0"]}
_NUMBER = {"type": "integer", "minimum": 0}
_THREAD_ID = _path("thread_id", {"type": "string", "pattern": THREAD_ID})
_RUN_ID = _path("run_id", {"type": "string", "pattern": RUN_ID})
_CHECKPOINT_ID = _path("checkpoint_id", {"type": "string", "minLength": 1, "maxLength": 128})
# In a query a comma separates them, and nothing is none.
_STATE_FIELDS = STATE_FIELD.replace(r"[\s\S]", "[^,]").replace(")$", ")?$")
_SELECT = _query(
    "select",
    {"type": "array", "items": {"type": "string", "maxLength": 256, "pattern": _STATE_FIELDS}},
    "Fields of the state, or values.<key>",
)
_ON_DISCONNECT = _query(
    "on_disconnect", {"enum": ["cancel", "continue"]}, "What the run does when this client goes away"
)
_FILTERS = tuple(
    _query(f"{way}_{what}", _TEXT, "As the field of subscribe, with commas or repeated")
    for way in ("include", "exclude")
    for what in ("types", "names", "tags")
)
_FRAMES = {
    "description": "The frames, one a line",
    "content": {"application/x-ndjson": {"schema": _TEXT, "x-item-schema": ref("Frame")}},
}
_UNKNOWN = {404: "There is no such thread"}
_BODY = {413: "The body, or a part of it, is too large"}
_STORED = {503: "The database did not take it"}
_STARTS = {
    **_BODY,
    404: "There is no such checkpoint",
    409: "A run is active, and multitask_strategy is reject",
    503: "The server is stopping, or the database did not take it",
}
_FILE = {
    206: _answer("A part of it, as asked for by Range", _TEXT, "*/*"),
    304: _answer("As the client has it"),
    412: _answer("Not as the client has it"),
    416: _answer("It has no such part"),
}

OPERATIONS: dict[str, Operation] = {
    "GET /ws": Operation(
        "connect",
        "The WebSocket",
        {101: _answer("From here on threadwire.v1 is spoken")},
        description="Needs the headers of an upgrade. What is said then is in /protocol.json.",
        parameters=(
            _query("thread_id", {"type": "string", "pattern": THREAD_ID}, "Absent: the server mints one"),
            _query("after", _NUMBER, "Resume behind this seq; together with epoch"),
            _query("epoch", _TEXT),
            _query("history", {**_NUMBER, "minimum": 1}, "So many of the latest messages come behind ready"),
            _ON_DISCONNECT,
            *_FILTERS,
            _query("raw", _FLAG, "Raw events as well"),
            _query("ticket", _TEXT, "A one-time credential"),
        ),
    ),
    "GET /": Operation("page", "The browser client", {200: _answer("The page", _TEXT, "text/html"), **_FILE}),
    "GET /client/{path}": Operation(
        "client_file",
        "A file of the browser client",
        {200: _answer("The file", _TEXT, "*/*"), **_FILE},
        {404: "There is no such file"},
        parameters=(_path("path", _TEXT),),
    ),
    "GET /healthz": Operation("healthz", "Whether the process lives", {200: _answer("It does", _STATUS)}),
    "GET /readyz": Operation(
        "readyz",
        "Whether it takes a new connection",
        {
            200: _answer("It does", _STATUS),
            503: _answer("It is stopping, or its database takes no write", {"anyOf": [_STATUS, ref("Error")]}),
        },
    ),
    "GET /metrics": Operation(
        "metrics", "What the operator measures", {200: _answer("Prometheus text", _TEXT, "text/plain")}
    ),
    "GET /protocol.json": Operation(
        "protocol", "JSON Schema of every command and frame", {200: _answer("The schema", ref("Protocol"))}
    ),
    "GET /openapi.json": Operation("openapi", "This document", {200: _answer("It", {"type": "object"})}),
    "POST /tickets": Operation(
        "ticket",
        "A one-time credential for a browser's socket",
        {
            200: _answer(
                "It, for the query parameter ticket of /ws",
                {
                    "type": "object",
                    "properties": {"ticket": _TEXT, "expires_in_seconds": {"type": "number"}},
                    "required": ["ticket", "expires_in_seconds"],
                },
            )
        },
    ),
    "POST /threads/{thread_id}/runs/stream": Operation(
        "run",
        "One turn without a socket",
        {200: _FRAMES},
        _STARTS,
        (_THREAD_ID, _ON_DISCONNECT),
        ref("SendBody"),
        body_required=True,
    ),
    "POST /threads/{thread_id}/runs/{run_id}/cancel": Operation(
        "cancel",
        "Stop a run",
        {202: _answer("It is being stopped"), 204: _answer("It has ended (wait)")},
        {404: "There is no such run", 409: "It has ended already", **_STORED},
        (_THREAD_ID, _RUN_ID, _query("wait", _FLAG), _query("action", {"const": "interrupt"})),
    ),
    "POST /runs/batch": Operation(
        "batch",
        "Inputs on the graph, each without a thread",
        {200: _FRAMES},
        {**_BODY, 409: "A run of that id is going on", 503: "The server is stopping"},
        body=ref("BatchBody"),
        body_required=True,
    ),
    "POST /runs/stream": Operation(
        "run_log",
        "One run without a thread, as LangChain's log of it",
        {200: _FRAMES},
        {**_BODY, 409: "A run of that id is going on", 503: "The server is stopping"},
        body=ref("RunBody"),
        body_required=True,
        description="403 unless the server has events.allow_raw.",
    ),
    "POST /threads": Operation(
        "create_thread",
        "Make a thread before its first message",
        {200: _answer("The thread", ref("Thread"))},
        {**_BODY, **_STORED, 409: "There is a thread of that id already"},
        body=ref("CreateThread"),
    ),
    "POST /threads/search": Operation(
        "search_threads",
        "A page of threads",
        {200: _answer("Those that match", {"type": "array", "items": ref("SelectedThread"), "maxItems": MAX_LIMIT})},
        {**_BODY, **_STORED},
        body=ref("SearchThreads"),
    ),
    "POST /threads/count": Operation(
        "count_threads",
        "How many threads match",
        {200: _answer("The number", {"type": "integer", "minimum": 0})},
        {**_BODY, **_STORED},
        body=ref("CountThreads"),
    ),
    "GET /threads/{thread_id}": Operation(
        "get_thread",
        "One thread with its values",
        {200: _answer("The thread", ref("Thread"))},
        {**_UNKNOWN, **_STORED},
        (_THREAD_ID,),
    ),
    "PATCH /threads/{thread_id}": Operation(
        "update_thread",
        "Lay metadata over the thread's",
        {200: _answer("The thread", ref("Thread")), 204: _answer("Done (Prefer: return=minimal)")},
        {**_UNKNOWN, **_BODY, **_STORED},
        (_THREAD_ID, {"name": "Prefer", "in": "header", "schema": _TEXT}),
        ref("UpdateThread"),
    ),
    "DELETE /threads/{thread_id}": Operation(
        "delete_thread",
        "Stop everything on a thread, and delete it",
        {204: _answer("It is gone")},
        {**_UNKNOWN, **_STORED},
        (_THREAD_ID,),
    ),
    "POST /threads/{thread_id}/copy": Operation(
        "copy_thread",
        "Fork a thread with all its checkpoints",
        {200: _answer("The new thread", ref("Thread"))},
        {**_UNKNOWN, **_STORED},
        (_THREAD_ID,),
    ),
    "GET /threads/{thread_id}/state": Operation(
        "get_state",
        "A thread's newest state",
        {200: _answer("The state", ref("SelectedState"))},
        {**_UNKNOWN, **_STORED},
        (_THREAD_ID, _query("subgraphs", _FLAG), _SELECT),
    ),
    "POST /threads/{thread_id}/state/checkpoint": Operation(
        "get_state_at",
        "The state at a checkpoint, of a subgraph too",
        {200: _answer("The state", ref("SelectedState"))},
        {404: "There is no such thread or checkpoint", **_BODY, **_STORED},
        (_THREAD_ID,),
        ref("ReadState"),
        body_required=True,
    ),
    "GET /threads/{thread_id}/state/{checkpoint_id}": Operation(
        "get_state_of",
        "The state at a checkpoint",
        {200: _answer("The state", ref("SelectedState"))},
        {404: "There is no such thread or checkpoint", **_STORED},
        (_THREAD_ID, _CHECKPOINT_ID, _query("subgraphs", _FLAG), _SELECT),
    ),
    "GET /threads/{thread_id}/history": Operation(
        "get_history",
        "A thread's states, newest first",
        {200: _answer("The states", {"type": "array", "items": ref("SelectedState")})},
        {**_UNKNOWN, **_STORED, 413: "So many states are too large"},
        (
            _THREAD_ID,
            _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
            _query("before", {"type": "string", "maxLength": 128}, "A checkpoint's id"),
            _SELECT,
        ),
    ),
    "POST /threads/{thread_id}/history": Operation(
        "find_history",
        "A thread's states, newest first, with filters",
        {200: _answer("The states", {"type": "array", "items": ref("SelectedState")})},
        {**_UNKNOWN, **_STORED, 413: "The body, or so many states, are too large"},
        (_THREAD_ID,),
        ref("ReadHistory"),
    ),
    "GET /threads/{thread_id}/export": Operation(
        "export_thread",
        "The conversation as a file",
        {
            200: {
                "description": "Markdown or JSON",
                "headers": {"Content-Disposition": {"schema": _TEXT}},
                "content": {"text/markdown": {"schema": _TEXT}, "application/json": {"schema": ref("Export")}},
            }
        },
        {**_UNKNOWN, **_STORED},
        (_THREAD_ID, _query("format", {"enum": ["md", "json"]})),
    ),
}
