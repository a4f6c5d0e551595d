"""One session with an MCP server: it tells when it has ended, and takes back calls that nobody waits for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import anyio
import httpx
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

import threadwire
from threadwire.mcp_settings import HttpServer, ServerSettings, StdioServer

#: An idle server is asked this often whether it is there, and has this long to answer (also to begin with).
PING_SECONDS, ANSWER_SECONDS = 30.0, 20.0


class _Watched:
    """The messages from the server; sets the session's events where they end."""

    def __init__(self, stream: Any, ended: asyncio.Event, wake: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended
        self._wake = wake

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._wake.set()
        await self._stream.__aexit__(kind, error, trace)

    def __aiter__(self) -> Any:
        return self._stream.__aiter__()


class Session(ClientSession):
    """MCP's client session, for calls from any task."""

    def __init__(self, read: Any, write: Any) -> None:
        #: Set when the server has closed its side.
        self.ended = asyncio.Event()
        #: Set when its owner should look: it has ended, a call has, or its tools have changed.
        self.wake = asyncio.Event()
        self.tools_changed = False
        super().__init__(
            _Watched(read, self.ended, self.wake),  # type: ignore[arg-type]
            write,
            read_timeout_seconds=timedelta(seconds=ANSWER_SECONDS),
            message_handler=self._told,
            client_info=types.Implementation(name="threadwire", version=threadwire.__version__),
        )

    async def call_within(self, seconds: float, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        """Call a tool.

        Raises:
            TimeoutError: it took longer; the server is told not to go on.
            McpError: the server refused, or went away.
        """
        # The id that the next request takes; there is no await before it does.
        request_id = self._request_id
        call = asyncio.create_task(self.call_tool(name, arguments, timedelta(seconds=seconds + ANSWER_SECONDS)))
        ended = asyncio.create_task(self.ended.wait())
        try:
            done, _ = await asyncio.wait({call, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if call in done:
                return call.result()
            if ended in done:
                # Its answer to that, "connection closed", is on its way, unless the session was torn down.
                await asyncio.wait({call}, timeout=1)
                if call.done():
                    return call.result()
                raise ConnectionError("the session ended")
            raise TimeoutError
        finally:
            ended.cancel()
            if not call.done():
                call.cancel()
                await self._take_back(request_id)

    async def _take_back(self, request_id: int | str) -> None:
        params = types.CancelledNotificationParams(requestId=request_id)
        notification = types.CancelledNotification(params=params)
        with anyio.move_on_after(1, shield=True):
            try:
                await self.send_notification(types.ClientNotification(notification))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                """It is gone, and the call with it."""

    async def _told(self, message: Any) -> None:
        if isinstance(message, types.ServerNotification) and isinstance(
            message.root, types.ToolListChangedNotification
        ):
            self.tools_changed = True
            self.wake.set()


@asynccontextmanager
async def open_session(settings: ServerSettings) -> AsyncIterator[Session]:
    """Start or reach the server and agree on the protocol; in the end its process is gone."""
    async with _open_transport(settings) as (read, write), Session(read, write) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def _open_transport(settings: ServerSettings) -> AsyncIterator[tuple[Any, Any]]:
    if isinstance(settings, StdioServer):
        program = StdioServerParameters(
            command=settings.command, args=settings.args, env=settings.env, cwd=settings.cwd
        )
        # What it prints on its standard error goes where ours goes.
        async with stdio_client(program, errlog=sys.stderr) as streams:
            yield streams
    elif settings.transport == "sse":
        async with sse_client(settings.url, dict(settings.headers)) as streams:
            yield streams
    else:
        async with _http_client(settings) as client, streamable_http_client(settings.url, http_client=client) as found:
            yield found[0], found[1]


def _http_client(settings: HttpServer) -> httpx.AsyncClient:
    timeout = httpx.Timeout(ANSWER_SECONDS, read=settings.timeout_seconds + ANSWER_SECONDS)
    return create_mcp_http_client(headers=dict(settings.headers), timeout=timeout)
