"""A stand-in for a provider: an OpenAI-compatible HTTP server that says what ``models/script.py`` plans.

``threadwire simulate`` runs it, so that tests and benchmarks go through the real ``ChatOpenAI``. It counts
who is connected, and keeps the last requests for who wants to see what a provider is told. It is a double for
tests on loopback and checks no key. Knows nothing of the rest of threadwire, and imports no LangChain.

``POST /v1/chat/completions``, ``GET /v1/models``
    As OpenAI's; a token is one delta.
``GET /stats``
    ``{"open", "finished", "aborted", "peak", "total"}``: a request is open from its arrival to its end, and
    aborted if the client left before that; a failure that the script wanted is an end. ``peak`` is the most
    that were open at once.
``POST /reset``
    Zeroes these, but for what is open, and forgets the requests.
``GET /requests``
    The bodies of the last 100 requests, the oldest first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from aiohttp import web

from threadwire.errors import StartupError, ThreadwireError
from threadwire.models.completion import Chunks, completion, read_request, refusal
from threadwire.models.pace import Pace
from threadwire.models.script import Answer, Failure, Manner
from threadwire.models.variety import RequestLimit, Saying, Variety
from threadwire.simulate_options import Options, add_arguments, read

KEPT_REQUESTS = 100
#: Seconds that open requests may take when the server stops: none is worth waiting for.
SHUTDOWN_SECONDS = 0.1


async def start_simulator(host: str = "127.0.0.1", port: int = 0, **behaviour: Any) -> tuple[web.AppRunner, int]:
    """Start it in the running loop; gives the runner, whose ``cleanup()`` stops it, and its port (0 takes a free one).

    ``behaviour`` is the fields of ``simulate_options.Options``.

    Raises:
        StartupError: the address cannot be listened on.
    """
    return await _start(host, port, Options(**behaviour))


async def _start(host: str, port: int, options: Options) -> tuple[web.AppRunner, int]:
    app = _Simulator(options).app()
    # Without handler_cancellation a handler that waits would not notice that its client has left.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except OSError as error:
        await runner.cleanup()
        # uvloop's and asyncio's own text names the address once more.
        why = os.strerror(error.errno) if error.errno else str(error)
        raise StartupError(f"cannot listen on {host}:{port}: {why}; try another --port") from error
    return runner, runner.addresses[0][1]


def run(host: str, port: int, options: Options) -> None:
    """Serve until SIGINT or SIGTERM. Says in one line on stdout where it is, once it listens.

    Raises:
        StartupError: the address cannot be listened on.
    """

    async def serve() -> None:
        stopped = asyncio.Event()
        for signum in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows has only KeyboardInterrupt
                asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
        runner, actual = await _start(host, port, options)
        try:
            sys.stdout.write(f"simulated provider on http://{host}:{actual}/v1\n")
            sys.stdout.flush()
            await stopped.wait()
        finally:
            await runner.cleanup()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


def main(argv: list[str] | None = None) -> int:
    """Run it by itself, as ``python -m threadwire.simulate``; gives the exit code."""
    parser = argparse.ArgumentParser(prog="threadwire simulate", description="An OpenAI-compatible stand-in.")
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        run(args.host, args.port, read(args))
    except ThreadwireError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


@dataclass(slots=True)
class _Stats:
    open: int = 0
    finished: int = 0
    aborted: int = 0
    peak: int = 0
    total: int = 0

    def enter(self) -> None:
        self.open += 1
        self.total += 1
        self.peak = max(self.peak, self.open)

    def leave(self, *, finished: bool) -> None:
        self.open -= 1
        self.finished += finished
        self.aborted += not finished

    def reset(self) -> None:
        self.finished = self.aborted = 0
        self.peak = self.total = self.open


class _Simulator:
    def __init__(self, options: Options) -> None:
        self._manner = Manner(options.tokens_per_second, options.first_token_ms, options.tokens)
        self._variety = Variety(
            first_token_sigma=options.first_token_sigma,
            burst=options.burst,
            error_rate=options.error_rate,
            stall_rate=options.stall_rate,
            sayings=[Saying(say, weight) for weight, say in options.script],
            seed=options.seed,
        )
        self._limit = RequestLimit(options.rate_limit)
        self._stats = _Stats()
        self._requests: deque[Any] = deque(maxlen=KEPT_REQUESTS)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=0)  # a long conversation is more than aiohttp's 1 MiB
        app.router.add_post("/v1/chat/completions", self._count)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/stats", self._get_stats)
        app.router.add_post("/reset", self._reset)
        app.router.add_get("/requests", self._get_requests)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": "simulated", "object": "model", "created": 0, "owned_by": "threadwire"}
        return _json({"object": "list", "data": [model]})

    async def _get_stats(self, _: web.Request) -> web.Response:
        return _json(asdict(self._stats))

    async def _reset(self, _: web.Request) -> web.Response:
        self._stats.reset()
        self._requests.clear()
        return _json({})

    async def _get_requests(self, _: web.Request) -> web.Response:
        return _json(list(self._requests))

    async def _count(self, request: web.Request) -> web.StreamResponse:
        self._stats.enter()
        finished = False
        try:
            response = await self._complete(request)
            finished = True
        except ConnectionError:
            # A write met a closed connection before the cancellation did; there is nobody to answer.
            return web.Response()
        else:
            return response
        finally:
            self._stats.leave(finished=finished)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            body = orjson.loads(await request.read())
            self._requests.append(body)
            answer = read_request(body, self._manner, self._variety)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"not a chat completion request: {error!r}"
            return _refuse(Failure(400, "invalid_request_error", None, problem, None))
        if refused := self._limit.refusal(time.monotonic()):
            return _refuse(refused)
        if answer.failure:
            return _refuse(answer.failure)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body["model"]}
        if body.get("stream"):
            include_usage = (body.get("stream_options") or {}).get("include_usage", False)
            return await _stream(request, answer, Chunks(head, answer, include_usage=include_usage))
        return await _whole(request, answer, head)


async def _stream(request: web.Request, answer: Answer, chunks: Chunks) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    pace, index, count = Pace(answer, time.monotonic()), 0, len(answer.deltas)
    first = chunks.first
    while index < count:
        await asyncio.sleep(pace.wait(index, time.monotonic()))
        until = index + pace.due(index, time.monotonic())
        if not index:
            await response.prepare(request)
        await response.write(first + b"".join(map(chunks.encode, answer.deltas[index:until])))
        first, index = b"", until
    await _end(request, answer)
    if answer.ending == "whole":
        if not count:
            await response.prepare(request)
        await response.write_eof(first + chunks.last)
    return response


async def _whole(request: web.Request, answer: Answer, head: dict[str, Any]) -> web.Response:
    now = time.monotonic()
    await asyncio.sleep(Pace(answer, now).wait(len(answer.deltas), now))
    await _end(request, answer)
    return _json(completion(head, answer))


async def _end(request: web.Request, answer: Answer) -> None:
    """Do what the script has in the place of an end."""
    if answer.ending == "silent":
        await asyncio.Event().wait()
    if answer.ending == "cut" and request.transport:
        request.transport.close()  # what was written still goes out


def _refuse(failure: Failure) -> web.Response:
    headers = {} if failure.retry_after_seconds is None else {"Retry-After": str(failure.retry_after_seconds)}
    return _json(refusal(failure), failure.status, headers)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = orjson.dumps(value)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


if __name__ == "__main__":
    sys.exit(main())
