"""Everything beside the socket: health, the protocol's schema, a turn as a stream of lines.

Handlers only translate: what they ask for is done by the hub and its threads. Failures come out as
``{"error": {"code", "message"}}`` with the status of their class.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from aiohttp import web

from threadwire.auth import USER, User
from threadwire.errors import Gap, InternalError, InvalidArgument, ThreadwireError, Unauthorized
from threadwire.hub import Hub
from threadwire.lines import LOOK_SECONDS, Lines, read_object
from threadwire.log import Cursor
from threadwire.logs import get_logger
from threadwire.ownership import Ownership
from threadwire.protocol import (
    Cancel,
    Send,
    check_thread_id,
    encode,
    json_schema,
    validate_command,
)
from threadwire.storage import OnDisconnect, RunRow, Storage
from threadwire.thread import Thread
from threadwire.upgrade import read_on_disconnect

logger = get_logger(__name__)


def error_response(error: ThreadwireError) -> web.Response:
    """A failure as HTTP."""
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    body = {"error": {"code": error.code, "message": error.message}}
    return web.Response(status=error.http_status, body=encode(body), content_type="application/json", headers=headers)


HUB = web.AppKey("hub", Hub)
STORAGE: web.AppKey[Storage] = web.AppKey("storage", Storage)
OWNERSHIP = web.AppKey("ownership", Ownership)
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """The handlers. The application's hub and storage are there once it has started."""

    def __init__(self, on_disconnect: OnDisconnect) -> None:
        self._on_disconnect = on_disconnect
        self._schema = encode(json_schema())

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register them."""
        router.add_get("/healthz", self.healthz)
        router.add_get("/readyz", self.readyz)
        router.add_get("/protocol.json", self.protocol)
        router.add_post("/threads/{thread_id}/runs/stream", self.stream)

    async def healthz(self, _request: web.Request) -> web.Response:
        """Alive."""
        return web.json_response({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Ready to take a new connection: not draining, and the database takes a write."""
        if request.app[HUB].draining:
            return web.json_response({"status": "draining"}, status=503)
        try:
            await request.app[STORAGE].check()
        except ThreadwireError as error:
            return error_response(error)
        return web.json_response({"status": "ready"})

    async def protocol(self, _request: web.Request) -> web.Response:
        """JSON Schema of every command and frame."""
        return web.Response(body=self._schema, content_type="application/json")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """One turn without a socket: the frames to its ``run_finished``, one a line."""
        thread_id = check_thread_id(request.match_info["thread_id"])
        on_disconnect = read_on_disconnect(request.query, self._on_disconnect)
        send = validate_command({"type": "send", **await read_object(request)})
        if send.type != "send":
            raise InvalidArgument("type", f"expected send, got {send.type}")
        assert isinstance(send, Send)  # noqa: S101 -- that is its type
        thread = request.app[HUB].get(thread_id)
        reader, lines = _LineReader(on_disconnect), Lines(request)
        attached = await thread.attach(reader)
        attached.cursor.position = thread.log.shown
        accepted = False
        try:
            ack = await submitted(thread, send, on_disconnect, request[USER])
            accepted = True
            await lines.open()
            await lines.write({"type": "ack", "id": send.id, **ack})
            turn = _Turn(lines, thread, reader, attached.cursor, ack["run_id"], request.app[STORAGE])
            if not (ack.get("duplicate") and await turn.write_end()):
                await turn.write()
            await lines.response.write_eof()
        except ConnectionError:
            # The client has gone: the thread follows the run's on_disconnect.
            return lines.response
        finally:
            attached.cursor.close()
            # One that was refused has not been here: it must not end what somebody else may come back to.
            thread.detach(reader, deliberate=accepted)
        return lines.response


class _LineReader:
    """A stream of lines as a reader of its thread; it is ended by its cursor's ``run_finished``."""

    def __init__(self, on_disconnect: OnDisconnect) -> None:
        self.on_disconnect = on_disconnect
        self.ended = False

    def end(self, code: int, reason: str) -> None:  # noqa: ARG002 -- a line has no place for them
        """End it where its turn does not run any more before the server does: it waits for the next."""
        self.ended = True


async def submitted(thread: Thread, command: Send | Cancel, on_disconnect: OnDisconnect, user: User) -> dict[str, Any]:
    """Give a thread a command of a user's and wait for its answer; raises what it is refused with."""
    answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def answer(found: dict[str, Any] | ThreadwireError) -> None:
        if answered.done():
            return
        if isinstance(found, ThreadwireError):
            answered.set_exception(found)
        else:
            answered.set_result(found)

    thread.submit(command, answer, on_disconnect, user.for_graph())
    return await answered


@dataclass(frozen=True, slots=True)
class _Turn:
    """One run's way into a response: every frame of its thread, to the run's end."""

    lines: Lines
    thread: Thread
    reader: _LineReader
    cursor: Cursor
    run_id: str
    storage: Storage

    async def write(self) -> None:
        """Write to the run's end. Raises ``ConnectionError`` once the client has gone."""
        last = encode({"type": "run_finished", "run_id": self.run_id})[:-1]
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    taken = await self.cursor.read()
            except TimeoutError:
                if self.reader.ended:
                    return
                self.lines.look()
                continue
            except Gap as gap:
                await self.lines.write(self.thread.gap(gap.requested, gap.earliest))
                # The frame that ends it may be among those that are gone.
                if await self.write_end():
                    return
                continue
            for line in taken:
                await self.lines.write_encoded(line)
                if line.startswith(last):
                    return

    async def write_end(self) -> bool:
        """Write the ``run_finished`` of a run that is over, as it is stored; False where it is not."""
        row = await self.storage.get_run(self.thread.thread_id, self.run_id)
        if row is None or row.ended_at is None:
            return False
        await self.lines.write(_run_finished(row))
        return True


def _run_finished(row: RunRow) -> dict[str, Any]:
    began = row.started_at or row.created_at
    return {
        "type": "run_finished",
        "run_id": row.run_id,
        "status": row.status,
        "reason": row.reason,
        "error": row.error,
        "usage": row.usage,
        "duration_ms": round(((row.ended_at or began) - began) * 1000),
    }


#: Of every answer that does not say otherwise: it is what it says it is, and nobody else's to keep.
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


async def harden(_request: web.Request, response: web.StreamResponse) -> None:
    """Put ``HEADERS`` on an answer that is about to be sent; which versions answer is nobody's business."""
    response.headers["Server"] = "threadwire"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _refusal(request: web.Request, error: web.HTTPException) -> str:
    """What aiohttp refuses, as a sentence that says what was expected and what came."""
    came = f"{request.method} {request.path[:200]}"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"Expected {' or '.join(sorted(error.allowed_methods))} of this path, got {came}."
    if isinstance(error, web.HTTPNotFound):
        return f"There is nothing here: {came}."
    if request.path == "/ws":
        return "Expected the upgrade to a WebSocket of version 13, got a request without its headers."
    return f"{error.reason}."


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Failures of handlers as the error body; what nobody foresaw as ``internal``, with a log line."""
    try:
        return await handler(request)
    except ThreadwireError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        body = {"error": {"code": error.reason.lower().replace(" ", "_"), "message": _refusal(request, error)}}
        # Of its headers only the one that says what would have been allowed is about the answer.
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.Response(status=error.status, body=encode(body), content_type="application/json", headers=headers)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        logger.exception("request failed", path=request.path)
        return error_response(InternalError("The server failed to do that."))
