"""A model on this machine: the real ``ChatOpenAI``, on llama.cpp's HTTP server in a child process.

``LocalServer`` keeps that child (``llama.py``) running: it starts it in the background, starts it again when it
dies, and ends with it. A turn that comes before it is ready waits; one that it dies under fails as a provider's
would. Importing this module imports langchain_openai; ``open_model`` does so when the config picks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import sys
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from threadwire.errors import ModelError
from threadwire.logs import get_logger
from threadwire.models import llama
from threadwire.models.openai import STREAMING, chat_class
from threadwire.models.transport import open_http_client

if TYPE_CHECKING:
    from threadwire.models import ModelSettings
    from threadwire.models.weights import Weights

logger = get_logger(__name__)

#: Requests that are answered at the same time; further ones wait for a slot.
SLOTS = 4
#: The context of each slot, answer included. 4 x 4096 take 0.5 GB with SmolLM2-135M, weights and all.
CONTEXT_TOKENS = 4096
#: How long the child may take to end by itself.
_END_SECONDS = 2.0
#: A child that served less than this counts as one that does not start.
_STABLE_SECONDS = 10.0
_MAX_DELAY_SECONDS = 30.0
#: Lines of the child's output that are logged when it dies.
_LAST_LINES = 20
_MAX_LINE_BYTES = 1 << 20


class LocalServer:
    """The child process and its address; an async context manager, which starts and ends it."""

    def __init__(self, path: Path, alias: str) -> None:
        self.path = path
        self.alias = alias
        #: Random, so that nobody else on this machine uses the model, or passes for it.
        self.api_key = secrets.token_urlsafe(32)
        #: The child that runs now.
        self.pid: int | None = None
        # A proxy of the environment has no way to this loopback.
        self.client = open_http_client(use_proxies=False, event_hooks={"request": [self._direct]})
        #: Its port, or why it does not start; pending while it is starting.
        self._port: asyncio.Future[int | str] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the child in the background."""
        self._port = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_running(), name="local model")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child and wait for that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        self._settle("it was stopped")
        await self.client.aclose()

    async def port(self) -> int:
        """Where the child listens on 127.0.0.1, as soon as it does.

        Raises:
            ModelError: it does not start, or was never asked to.
        """
        if self._port is None:
            raise ModelError("The local model was not started.")
        found = await asyncio.shield(self._port)
        if isinstance(found, str):
            raise ModelError("The local model does not run. The server's log says why.")
        return found

    async def _direct(self, request: Any) -> None:
        """Wait for the child and send the request to it: an httpx hook, called before each attempt."""
        request.url = request.url.copy_with(port=await self.port())

    async def _keep_running(self) -> None:
        loop, delay = asyncio.get_running_loop(), 0.0
        while True:
            began = loop.time()
            try:
                why = await self._run_child()
            except (OSError, ValueError) as error:  # no process to be had, or no end to a line
                why = f"{type(error).__name__}: {error}"
            served = self._port is not None and self._port.done()
            delay = 0.0 if served and loop.time() - began > _STABLE_SECONDS else max(1.0, delay * 2)
            delay = min(delay, _MAX_DELAY_SECONDS)
            logger.warning("local model ended", path=str(self.path), why=why, again_in_seconds=delay)
            if served:
                self._port = loop.create_future()
            else:
                self._settle(why)
            await asyncio.sleep(delay)
            if self._port is not None and self._port.done():
                self._port = loop.create_future()

    async def _run_child(self) -> str:
        """Run one child to its end; returns why it ended."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", llama.__file__),  # by its path: whatever is on sys.path here, and quicker than the package
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_MAX_LINE_BYTES,
        )
        self.pid = child.pid
        try:
            with contextlib.suppress(ConnectionError):  # it has died already; its end is seen below
                stdin = cast("asyncio.StreamWriter", child.stdin)
                stdin.write(json.dumps(self._orders()).encode() + b"\n")
                await stdin.drain()
            last = await self._listen(child)
            code = await child.wait()
            return f"exit code {code}" + "".join(f"\n  {line}" for line in last)
        finally:
            self.pid = None
            await _end(child)

    def _orders(self) -> llama.Orders:
        return {
            "path": str(self.path),
            "alias": self.alias,
            "api_key": self.api_key,
            "slots": SLOTS,
            "context_tokens": CONTEXT_TOKENS,
            "parent": os.getpid(),
            "debug": logging.getLogger("threadwire").isEnabledFor(logging.DEBUG),
        }

    async def _listen(self, child: asyncio.subprocess.Process) -> deque[str]:
        """Read the child's output to its end; returns the last of it."""
        last: deque[str] = deque(maxlen=_LAST_LINES)
        async for raw in cast("asyncio.StreamReader", child.stdout):
            line = raw.decode(errors="replace").rstrip()
            if line.startswith('{"ready": '):
                self._settle(int(json.loads(line)["ready"]))
                logger.debug("local model ready", path=str(self.path), pid=child.pid)
            else:
                last.append(line)
                logger.debug("llama.cpp", line=line)
        return last

    def _settle(self, found: int | str) -> None:
        if self._port is not None and not self._port.done():
            self._port.set_result(found)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Close its stdin, upon which it ends; kill it if it does not, and wait until it is gone."""
    cast("asyncio.StreamWriter", child.stdin).close()
    try:
        async with asyncio.timeout(_END_SECONDS):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def open_chat_local(settings: ModelSettings, server: LocalServer, weights: Weights | None) -> ChatOpenAI:
    """A streaming ``ChatOpenAI`` on ``server``; what ``settings`` leave open is as the ``weights`` want it."""
    limit = settings.max_tokens or (weights.max_tokens if weights else None)
    temperature = settings.temperature
    if temperature is None and weights:
        temperature = weights.temperature
    options: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    extra: dict[str, Any] = {"max_tokens": limit} if limit else {}
    if weights:
        extra["repeat_penalty"] = weights.repeat_penalty
    return chat_class(settings)(
        model=server.alias,
        base_url="http://127.0.0.1/v1",  # the port is put in by the client's hook
        api_key=SecretStr(server.api_key),
        http_async_client=server.client,
        **STREAMING,
        extra_body=extra or None,
        # What may be sent, for whoever trims conversations: the answer needs the rest.
        profile={"max_input_tokens": CONTEXT_TOKENS - min(limit or CONTEXT_TOKENS // 4, CONTEXT_TOKENS // 2)},
        **options,
    )
