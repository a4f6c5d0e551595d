"""Runs without a thread, over HTTP: a batch, and a run's log as JSON patches; a frame a line.

A client that goes away stops what it asked for, at once.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from aiohttp import web

from threadwire.auth import USER
from threadwire.batches import Batches, BatchLimits
from threadwire.errors import Forbidden, InvalidArgument
from threadwire.filters import Filter
from threadwire.fresh import FreshParts, FreshRuns
from threadwire.lines import read_object, watched_lines
from threadwire.protocol import Batch as BatchCommand
from threadwire.protocol import Send, validate_command
from threadwire.runlog import RunLog
from threadwire.settings import Events, Limits

BATCHES = web.AppKey("batches", Batches)
FRESH = web.AppKey("fresh", FreshRuns)
#: Fields of ``send`` that a run without a thread has as well.
_FIELDS = ("id", "content", "context", "run_id")


def open_runs(app: web.Application, limits: Limits, parts: FreshParts) -> None:
    """Put what runs without a thread into the application."""
    app[FRESH] = runs = FreshRuns(parts)
    app[BATCHES] = Batches(runs, BatchLimits(limits.batch_inputs, limits.max_batch_concurrency))


class StatelessRoutes:
    """The handlers."""

    def __init__(self, events: Events) -> None:
        self._policy = Filter.of(events)
        self._allow_raw = events.allow_raw

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register them."""
        router.add_post("/runs/batch", self.batch)
        router.add_post("/runs/stream", self.stream)

    async def batch(self, request: web.Request) -> web.StreamResponse:
        """The fields of ``batch``; its ``batch_result``s as they finish, and ``run_finished``."""
        command = validate_command({"type": "batch", **await read_object(request)})
        if not isinstance(command, BatchCommand):
            raise InvalidArgument("type", f"expected batch, got {command.type}")
        batches = request.app[BATCHES]
        user = request[USER]
        await request.app[FRESH].parts.allowance.tokens(user.owner)
        batch = batches.begin(command, user.for_graph())
        try:
            async with watched_lines(request, lambda: batch.cancel("disconnect")) as lines:
                await lines.write({"type": "ack", "id": command.id, "run_id": batch.run_id})
                async with aclosing(batch.frames()) as frames:
                    async for frame in frames:
                        await lines.write(frame)
        finally:
            batches.end(batch)
        return lines.response

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """One run's log, ``stream: "log"``: JSON patches that make LangChain's RunState."""
        body = await read_object(request)
        if (mode := body.pop("stream", None)) != "log":
            came = "nothing" if mode is None else repr(mode)[:64]
            raise InvalidArgument("stream", f"expected 'log' (a run without a thread has no other), got {came}")
        if not self._allow_raw:
            raise Forbidden("stream: this server lets no run logs out (events.allow_raw).")
        if unknown := sorted(set(body) - {*_FIELDS, "type"}):
            raise InvalidArgument(unknown[0][:64], f"is not a field of a run without a thread: {', '.join(_FIELDS)}")
        send = validate_command({"type": "send", **body})
        if not isinstance(send, Send):
            raise InvalidArgument("type", f"expected send, got {send.type}")
        runs = request.app[FRESH]
        allowance, user = runs.parts.allowance, request[USER]
        allowance.attachments("content", send.content)
        await allowance.turn(user.owner)
        log = RunLog(runs.parts, self._policy, send, user.for_graph())
        moved = asyncio.Event()
        place = allowance.line.join(user.owner, moved.set)

        def gone() -> None:
            log.cancel("disconnect")
            moved.set()

        try:
            runs.add(log)
            async with watched_lines(request, gone) as lines:
                await lines.write({"type": "ack", "id": send.id, "run_id": log.run_id})
                if not place.granted:
                    # One that has gone is not waited for: its run ends as it begins.
                    await moved.wait()
                ended = await log.run(lines.write)
                await allowance.spend(user.owner, ended["usage"])
                await lines.write(ended)
        finally:
            runs.remove(log)
            allowance.line.leave(place)
        return lines.response
