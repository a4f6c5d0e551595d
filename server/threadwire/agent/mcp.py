"""MCP servers: one session with each for the life of this server, and started again where it ends.

A session's cancel scopes must be left in the task that entered them, so each server has a task that owns its session
(``McpServer``); runs call tools through it from tasks of their own. While a server is away, its tools answer with an
error result. Only imported where ``agent.mcp_servers`` names a server: it needs the extra ``mcp``.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from langchain_core.tools import BaseTool, ToolException
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool
from mcp import McpError, types

from threadwire.agent.mcp_session import PING_SECONDS, Session, open_session
from threadwire.logs import get_logger
from threadwire.mcp_settings import ServerSettings

logger = get_logger(__name__)

#: How long the start waits for servers; one that takes longer, or fails, comes when it comes.
START_SECONDS = 10.0
#: Before the first new attempt and, doubled each time, at most.
RETRY_SECONDS, MAX_RETRY_SECONDS = 0.5, 60.0
#: A session that lasted longer was a good one: the next attempt comes soon again.
STEADY_SECONDS = 10.0
#: Error codes that say the session is gone, of all that a server may answer: closed, timed out, unknown to it.
_GONE = frozenset({types.CONNECTION_CLOSED, httpx.codes.REQUEST_TIMEOUT, 32600})


class McpServer:
    """One configured server: its session, kept up by ``own``, and its tools as last listed."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self.name = name
        #: As last listed, by MCP's own names; they stay while it is away.
        self.tools: dict[str, BaseTool] = {}
        #: Set once the first attempt to connect has succeeded or failed.
        self.attempted = asyncio.Event()
        #: Whether it has ever told its tools.
        self.listed = False
        self._settings = settings
        self._session: Session | None = None
        self._calls = 0

    async def own(self) -> None:
        """Connect, watch and connect again, until cancelled."""
        failures = 0
        while True:
            connected_at, reason = math.inf, "it has ended"
            try:
                async with open_session(self._settings) as session:
                    await self._list(session)
                    logger.info("mcp server connected", server=self.name, tools=len(self.tools))
                    connected_at, self._session = time.monotonic(), session
                    self.attempted.set()
                    await self._watch(session)
            except Exception as error:
                reason = _reason(error)
            finally:
                self._session = None
                self.attempted.set()
            failures = 1 if time.monotonic() - connected_at > STEADY_SECONDS else failures + 1
            # One line when it goes away, and none for each attempt after that.
            log = logger.warning if failures == 1 or connected_at < math.inf else logger.debug
            log("mcp server away", server=self.name, reason=reason, failures=failures)
            delay = min(RETRY_SECONDS * 2 ** min(failures - 1, 10), MAX_RETRY_SECONDS)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 -- jitter

    async def _watch(self, session: Session) -> None:
        """Return when the session has ended; raise where the server does not answer."""
        while not session.ended.is_set():
            session.wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PING_SECONDS):
                    await session.wake.wait()
            if session.ended.is_set():
                return
            if session.tools_changed:
                await self._list(session)
            elif not self._calls:
                # Some servers do nothing else while a tool runs, so only an idle one is asked.
                await _ping(session)

    async def _list(self, session: Session) -> None:
        session.tools_changed = False
        listed: dict[str, BaseTool] = {}
        cursor: str | None = None
        while True:
            page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
            for tool in page.tools:
                listed[tool.name] = self._convert(tool)
            cursor = page.nextCursor
            if not cursor:
                break
        self.tools, self.listed = listed, True

    def _convert(self, tool: types.Tool) -> BaseTool:
        """LangChain's tool for one of MCP's, with this server in the session's place, so that it outlives sessions."""
        converted: Any = convert_mcp_tool_to_langchain_tool(self, tool)  # type: ignore[arg-type]
        call, handle = converted.coroutine, converted.handle_tool_error

        async def call_plainly(**arguments: Any) -> tuple[Any, None]:
            try:
                content, _ = await call(**arguments)
            except (NotImplementedError, ValueError):  # LangChain has no form for it: sound, for one
                raise ToolException("The tool answered with something that cannot be shown here.") from None
            return _plain(content), None

        converted.coroutine = call_plainly
        # The adapter's handler knows its own errors only, which are subclasses, and raises others again.
        converted.handle_tool_error = lambda error: _plain(
            str(error) if type(error) is ToolException else handle(error)
        )
        return converted  # type: ignore[no-any-return]

    async def call_tool(self, name: str, arguments: dict[str, Any], **_: Any) -> types.CallToolResult:
        """Call a tool, as ``ClientSession.call_tool``; what goes wrong is an error result and not an exception."""
        session = self._session
        if session is None:
            return _failed(f"The MCP server {self.name!r} is not connected at the moment. It is being started again.")
        self._calls += 1
        try:
            return await session.call_within(self._settings.timeout_seconds, name, arguments)
        except TimeoutError:
            return _failed(f"The tool {name!r} did not answer within {self._settings.timeout_seconds:g} s.")
        except McpError as error:
            if error.error.code in _GONE:
                return _failed(f"The MCP server {self.name!r} went away during the call. It is being started again.")
            return _failed(f"The MCP server {self.name!r} refused the call: {error.error.message}")
        except Exception:
            logger.warning("mcp call failed", server=self.name, tool=name, exc_info=True)
            return _failed(f"The call to the MCP server {self.name!r} failed.")
        finally:
            self._calls -= 1
            session.wake.set()


@asynccontextmanager
async def open_servers(settings: Mapping[str, ServerSettings]) -> AsyncIterator[list[McpServer]]:
    """Start all servers, side by side, and stop them in the end; one that cannot be started is tried again later."""
    servers = [McpServer(name, one) for name, one in settings.items()]
    owners = [asyncio.create_task(server.own(), name=f"mcp server {server.name}") for server in servers]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                for server in servers:
                    await server.attempted.wait()
        yield servers
    finally:
        for owner in owners:
            owner.cancel()
        await asyncio.gather(*owners, return_exceptions=True)


async def _ping(session: Session) -> None:
    try:
        await session.send_ping()
    except McpError as error:
        # Any other answer, "method not found" too, comes from a server that is there.
        if error.error.code in _GONE:
            raise


def _plain(content: Any) -> Any:
    """Text as text, not as blocks of it, which many OpenAI-compatible servers do not take from a tool."""
    if isinstance(content, list) and all(isinstance(block, dict) and block.get("type") == "text" for block in content):
        return "\n".join(str(block["text"]) for block in content)
    return content


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(isError=True, content=[types.TextContent(type="text", text=text)])


def _reason(error: BaseException) -> str:
    """Why, in a few words that hold no address and no header."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return error.error.message if isinstance(error, McpError) else type(error).__name__
