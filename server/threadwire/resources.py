"""Threads as resources: the ``/threads`` routes in the shapes of the LangGraph Agent Server.

Handlers only translate: rows are the storage's, and what changes a live thread (a run's end, its deletion) goes through
the hub. ``states.py`` has the routes below them, which read checkpoints.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
from aiohttp import web
from langgraph.types import StateSnapshot

from threadwire import bodies
from threadwire.auth import USER
from threadwire.errors import CommandError, Gap, InvalidArgument, TooLarge
from threadwire.graph import Graph
from threadwire.http import HUB, OWNERSHIP, STORAGE, submitted
from threadwire.ownership import NoSuchThread
from threadwire.protocol import Cancel, check_thread_id, decode_object, encode, validate_command
from threadwire.repair import make_whole
from threadwire.snapshots import thread_json, values_json
from threadwire.storage import OnDisconnect, ThreadMark, ThreadRow

GRAPH = web.AppKey("graph", Graph)


class ThreadExists(CommandError):  # noqa: N818 -- the protocol's way
    """There is one already."""

    code = "conflict"
    http_status = 409


class ThreadRoutes:
    """The handlers; they find the storage, the hub and the graph in the application."""

    def __init__(self, on_disconnect: OnDisconnect) -> None:
        self._on_disconnect = on_disconnect

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register them."""
        router.add_post("/threads", self.create)
        router.add_post("/threads/search", self.search)
        router.add_post("/threads/count", self.count)
        router.add_get("/threads/{thread_id}", self.get)
        router.add_patch("/threads/{thread_id}", self.update)
        router.add_delete("/threads/{thread_id}", self.delete)
        router.add_post("/threads/{thread_id}/copy", self.copy)
        router.add_post("/threads/{thread_id}/runs/{run_id}/cancel", self.cancel)

    async def create(self, request: web.Request) -> web.Response:
        """Make a thread, before its first message. 409 where there is one, unless ``if_exists`` is ``do_nothing``."""
        wanted = bodies.check(bodies.CreateThread, await read_body(request))
        storage, user, ownership = request.app[STORAGE], request[USER], request.app[OWNERSHIP]
        if wanted.thread_id is not None:
            await ownership.check(user, wanted.thread_id)
        thread_id = wanted.thread_id or ownership.mint(user)
        row = await storage.create_thread(thread_id, wanted.metadata or {}, time.time(), user.owner)
        if row is not None:
            request.app[HUB].created(thread_id)
            return respond(thread_json(row, {}))
        existing = await storage.get_thread(thread_id)
        if wanted.if_exists == "do_nothing" and existing is not None:
            return respond(thread_json(existing, None))
        raise ThreadExists("There is a thread of that id already.")

    async def search(self, request: web.Request) -> web.Response:
        """A page of threads. Their ``values`` are null unless they are selected: a listing reads no checkpoints."""
        wanted = bodies.check(bodies.SearchThreads, await read_body(request))
        rows = await request.app[STORAGE].search_threads(
            wanted.threads(request[USER].owner),
            sort_by=wanted.sort_by or "created_at",
            descending=wanted.sort_order != "asc",
            limit=wanted.limit or 10,
            offset=wanted.offset or 0,
        )
        select = wanted.select or ()
        found = []
        for row in rows:
            values = values_json(await newest_state(request, row.thread_id)) if "values" in select else None
            thread = thread_json(row, values)
            found.append({name: thread[name] for name in thread if not select or name in select})
        return respond(found)

    async def count(self, request: web.Request) -> web.Response:
        """How many threads match, as a number."""
        wanted = bodies.check(bodies.CountThreads, await read_body(request))
        return respond(await request.app[STORAGE].count_threads(wanted.threads(request[USER].owner)))

    async def get(self, request: web.Request) -> web.Response:
        """One thread, with the values of its newest checkpoint."""
        row = await find_row(request)
        return respond(thread_json(row, values_json(await newest_state(request, row.thread_id))))

    async def update(self, request: web.Request) -> web.Response:
        """Lay metadata over the thread's, key by key."""
        wanted = bodies.check(bodies.UpdateThread, await read_body(request))
        storage, thread_id = request.app[STORAGE], _thread_id(request)
        row = await storage.update_thread_metadata(thread_id, wanted.metadata or {}, time.time())
        if row is None:
            raise NoSuchThread
        if "return=minimal" in request.headers.get("Prefer", ""):
            return web.Response(status=204)
        return respond(thread_json(row, None))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a thread: its run is stopped, its readers are closed with 4404, every row of it goes."""
        if not await request.app[HUB].delete(_thread_id(request)):
            raise NoSuchThread
        return web.Response(status=204)

    async def copy(self, request: web.Request) -> web.Response:
        """Fork a thread with all its checkpoints. Of one that is busy, what is committed is copied and made whole."""
        storage, copy_id = request.app[STORAGE], request.app[OWNERSHIP].mint(request[USER])
        row = await storage.copy_thread(_thread_id(request), copy_id, time.time())
        if row is None:
            raise NoSuchThread
        if row.status == "busy":
            try:
                await make_whole(
                    request.app[GRAPH],
                    storage,
                    copy_id,
                    user=None,
                    said=lambda _unfinished: [],
                    status="cancelled",
                )
                await storage.write([], [ThreadMark(copy_id, "idle")])
            except Exception:
                await storage.delete_thread(copy_id)
                raise
            row.status, row.interrupts = "idle", []
        return respond(thread_json(row, None))

    async def cancel(self, request: web.Request) -> web.Response:
        """Stop a run, as the ``cancel`` command does; with ``wait``, answer once it has ended."""
        wait = bodies.read_flag(request.query.getall("wait", []), "wait")
        action = request.query.get("action", "interrupt")
        if action != "interrupt":
            raise InvalidArgument("action", f"{action[:64]!r} is not available yet: use 'interrupt'")
        command = validate_command({"type": "cancel", "run_id": request.match_info["run_id"]})
        assert isinstance(command, Cancel)  # noqa: S101 -- that is its type
        thread = request.app[HUB].get(_thread_id(request))
        await thread.load()
        cursor = thread.log.cursor(thread.log.shown)
        try:
            answer = await submitted(thread, command, self._on_disconnect, request[USER])
            while wait:
                run = await request.app[STORAGE].get_run(thread.thread_id, answer["run_id"])
                if run is None or run.ended_at is not None:
                    break
                try:
                    await cursor.read()
                except Gap:
                    continue
        finally:
            cursor.close()
        return web.Response(status=204 if wait else 202)


def _thread_id(request: web.Request) -> str:
    return check_thread_id(request.match_info["thread_id"])


async def find_row(request: web.Request) -> ThreadRow:
    """The row of the path's thread; raises ``NoSuchThread``."""
    row = await request.app[STORAGE].get_thread(_thread_id(request))
    if row is None:
        raise NoSuchThread
    return row


async def read_body(request: web.Request) -> dict[str, Any]:
    """The body's JSON object; an empty one where there is no body."""
    try:
        data = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge("The body is larger than server.max_message_bytes.") from None
    return decode_object(data) if data else {}


def respond(value: Any, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON value as the answer."""
    body = encode(value) if isinstance(value, dict) else orjson.dumps(value)
    return web.Response(body=body, content_type="application/json", headers=headers)


async def newest_state(request: web.Request, thread_id: str) -> StateSnapshot:
    """The state of a thread's newest checkpoint; an empty one where it has none."""
    graph = request.app[GRAPH].for_state(request.app[STORAGE].reader)
    return await graph.aget_state({"configurable": {"thread_id": thread_id}})
