"""What a thread has been through: its states, their history, and the conversation as a document.

Read through the served graph from the connection that waits for no writer: a run that is going on shows as far as it is
committed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

import orjson
from aiohttp import web
from langgraph.types import StateSnapshot

from threadwire import bodies
from threadwire.errors import InvalidArgument, NoSuchCheckpoint, TooLarge
from threadwire.export import to_markdown
from threadwire.graph import MESSAGES
from threadwire.history import to_wires
from threadwire.http import STORAGE
from threadwire.resources import GRAPH, find_row, newest_state, read_body, respond
from threadwire.snapshots import selected_state, state_json, thread_json
from threadwire.title import TITLE

#: The largest history in one answer, in bytes; a state has all the thread's messages.
MAX_HISTORY_BYTES = 64 * 1024 * 1024


class StateRoutes:
    """The handlers; they find the storage and the graph in the application."""

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register them."""
        router.add_get("/threads/{thread_id}/state", self.state)
        router.add_post("/threads/{thread_id}/state/checkpoint", self.state_at)
        router.add_get("/threads/{thread_id}/state/{checkpoint_id}", self.state)
        router.add_get("/threads/{thread_id}/history", self.history)
        router.add_post("/threads/{thread_id}/history", self.history)
        router.add_get("/threads/{thread_id}/export", self.export)

    async def state(self, request: web.Request) -> web.Response:
        """The thread's newest state, or the one of the checkpoint that the path names."""
        subgraphs = bodies.read_flag(request.query.getall("subgraphs", []), "subgraphs")
        select = bodies.read_select(request.query.getall("select", []))
        path = {name: value for name, value in request.match_info.items() if name == "checkpoint_id"}
        checkpoint = bodies.check(bodies.CheckpointRef, path)
        return await _state(request, checkpoint, select, subgraphs=subgraphs)

    async def state_at(self, request: web.Request) -> web.Response:
        """The state of a checkpoint, a subgraph's too."""
        wanted = bodies.check(bodies.ReadState, await read_body(request))
        return await _state(request, wanted.checkpoint, wanted.select or (), subgraphs=bool(wanted.subgraphs))

    async def history(self, request: web.Request) -> web.Response:
        """The thread's states, newest first; GET has ``limit`` and ``before``, a checkpoint's id, in its query."""
        body = await read_body(request) if request.method == "POST" else _history_query(request)
        wanted = bodies.check(bodies.ReadHistory, body)
        row = await find_row(request)
        states, size = [], 0
        async for snapshot in _history(request, row.thread_id, wanted):
            states.append(orjson.dumps(selected_state(state_json(snapshot), wanted.select or ())))
            size += len(states[-1])
            if size > MAX_HISTORY_BYTES:
                raise TooLarge(f"{len(states)} states are over {MAX_HISTORY_BYTES} bytes: ask for fewer, with before.")
        return web.Response(body=b"[" + b",".join(states) + b"]", content_type="application/json")

    async def export(self, request: web.Request) -> web.Response:
        """The stored conversation as a file, ``?format=md`` (default) or ``json``."""
        kind = request.query.get("format", "md")
        if kind not in ("md", "json"):
            raise InvalidArgument("format", f"expected md or json, got {kind[:64]!r}")
        row = await find_row(request)
        stored = (await newest_state(request, row.thread_id)).values.get(MESSAGES) or []
        messages = to_wires(stored)
        # An id has no character that means anything in a header or to a file system.
        headers = {"Content-Disposition": f'attachment; filename="{row.thread_id}.{kind}"'}
        if kind == "json":
            thread = thread_json(row, None)
            kept = ("thread_id", "created_at", "updated_at", "status", "metadata")
            return respond({**{name: thread[name] for name in kept}, "messages": messages}, headers)
        title = row.metadata.get(TITLE)
        text = to_markdown(title if isinstance(title, str) and title.strip() else row.thread_id, messages)
        body = text.encode("utf-8", "replace")
        return web.Response(body=body, content_type="text/markdown", charset="utf-8", headers=headers)


def _config(thread_id: str, checkpoint: bodies.CheckpointRef | None) -> Any:
    if checkpoint is not None and checkpoint.thread_id not in (None, thread_id):
        raise InvalidArgument("checkpoint.thread_id", "expected the thread of the path")
    configurable = {"thread_id": thread_id, "checkpoint_ns": (checkpoint and checkpoint.checkpoint_ns) or ""}
    if checkpoint is not None and checkpoint.checkpoint_id:
        configurable["checkpoint_id"] = checkpoint.checkpoint_id
    return {"configurable": configurable}


async def _state(
    request: web.Request, checkpoint: bodies.CheckpointRef, select: Collection[str], *, subgraphs: bool
) -> web.Response:
    row = await find_row(request)
    config = _config(row.thread_id, checkpoint)
    graph = request.app[GRAPH].for_state(request.app[STORAGE].reader)
    try:
        snapshot = await graph.aget_state(config, subgraphs=subgraphs)
    except ValueError:  # a namespace that is no subgraph's
        snapshot = None
    asked = checkpoint.checkpoint_id or checkpoint.checkpoint_ns
    if snapshot is None or (asked and snapshot.created_at is None):
        raise NoSuchCheckpoint("The thread has no such checkpoint.")
    return respond(selected_state(state_json(snapshot), select))


def _history_query(request: web.Request) -> dict[str, Any]:
    query = request.query
    limit = query.get("limit", "10")
    body: dict[str, Any] = {"limit": int(limit) if limit.isascii() and limit.isdigit() else limit}
    if "before" in query:
        body["before"] = query["before"]
    return {**body, "select": bodies.read_select(query.getall("select", []))}


async def _history(request: web.Request, thread_id: str, wanted: bodies.ReadHistory) -> AsyncIterator[StateSnapshot]:
    config = _config(thread_id, wanted.checkpoint)
    config["configurable"].pop("checkpoint_id", None)
    before = None
    if wanted.before is not None:
        ref = wanted.before
        ref = bodies.CheckpointRef(checkpoint_id=ref) if isinstance(ref, str) else ref
        before = _config(thread_id, ref)
    graph = request.app[GRAPH].for_state(request.app[STORAGE].reader)
    states = graph.aget_state_history(config, filter=wanted.metadata, before=before, limit=wanted.limit or 10)
    try:
        async for snapshot in states:
            yield snapshot
    except ValueError as error:
        raise InvalidArgument("metadata", "expected plain keys, of letters, digits, _ . and -") from error
