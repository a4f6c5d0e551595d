"""MCP servers' tools for the agent: offered as they are at the time of each model call, under names of their own.

A tool keeps its server's name for it; where that name is taken, by one of ours or another server's, the server's own
name comes before it. Names are given once and stay.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.tools.tool_node import ToolCallRequest
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command

from threadwire.agent.mcp import McpServer

# What OpenAI takes as a function's name; others take no less.
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME = 64
#: Of the names that a tool could get, those that one with so many namesakes has got.
_LIKELY = 20


class McpTools(AgentMiddleware[Any, Any]):
    """Offers the servers' tools to the model and runs those it calls."""

    def __init__(self, servers: Sequence[McpServer], taken: Iterable[str]) -> None:
        super().__init__()
        self._servers = {server.name: server for server in servers}
        #: A name on offer: the server and its own name for the tool; None where it is one of ours.
        self._names: dict[str, tuple[str, str] | None] = dict.fromkeys(taken)
        # In the config's order, whichever of them was there first.
        self._on_offer()

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Offer the tools there are now, beside the agent's own."""
        return await handler(request.override(tools=[*request.tools, *self._on_offer()]))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Run the server's tool of that name."""
        name = request.tool_call["name"]
        owner = self._names.get(name)
        if request.tool is not None or owner is None:
            return await handler(request)
        tool = self._servers[owner[0]].tools.get(owner[1])
        if tool is None:
            return _error(request, f"The MCP server {owner[0]!r} no longer has this tool.")
        return await handler(request.override(tool=_named(tool, name)))

    @property
    def known(self) -> set[str]:
        """The names there are: those on offer, and the servers' own."""
        own = (own_name for server in self._servers.values() for own_name in server.tools)
        return {*self._names, *own}

    @property
    def all_listed(self) -> bool:
        """Whether every server has told its tools."""
        return all(server.listed for server in self._servers.values())

    def names_for(self, own_name: str) -> Iterator[str]:
        """What a tool that a server calls so may be called on offer, whichever server's it is, come or yet to come."""
        for server in self._servers:
            yield from islice(_candidates(server, own_name), _LIKELY)

    def _on_offer(self) -> list[BaseTool]:
        return [
            _named(tool, self._name(server.name, own_name))
            for server in self._servers.values()
            for own_name, tool in server.tools.items()
        ]

    def _name(self, server: str, own_name: str) -> str:
        owner = (server, own_name)
        name = ""
        for name in _candidates(server, own_name):
            if self._names.setdefault(name, owner) == owner:
                break
        return name


def _candidates(server: str, own_name: str) -> Iterator[str]:
    """The names for a tool on offer, the best first: the first that is free is taken."""
    clean = _NOT_IN_A_NAME.sub("_", own_name)
    prefix = _NOT_IN_A_NAME.sub("_", server)
    yield clean[-_MAX_NAME:]
    yield f"{prefix}_{clean}"[-_MAX_NAME:]
    for number in range(2, 1000):
        yield f"{prefix}_{clean}_{number}"[-_MAX_NAME:]


def _named(tool: BaseTool, name: str) -> BaseTool:
    return tool if tool.name == name else tool.model_copy(update={"name": name})


def _error(request: ToolCallRequest, text: str) -> ToolMessage:
    call = request.tool_call
    return ToolMessage(content=text, name=call["name"], tool_call_id=call["id"] or "", status="error")
