"""The built-in agent, served where no graph is named: LangChain's ``create_agent`` with our own tools and MCP servers'.

Its conversation is stored whole and sent as far as it fits. ``tools.py`` and ``notebook.py`` are its own tools,
``mcp.py`` keeps MCP servers up and ``mcp_tools.py`` offers theirs, ``approval.py`` has a person asked before some are
called, ``context.py`` fits a conversation to the model, ``content.py`` leaves out what the model does not take,
``messages.py`` is how it is stored. Knows nothing of threads, runs or sockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph

from threadwire.agent.approval import asking
from threadwire.agent.content import TakenContent
from threadwire.agent.context import ContextBudget, context_budget
from threadwire.agent.messages import ChatState
from threadwire.agent.request import FitRequest
from threadwire.agent.tools import make_tools
from threadwire.errors import StartupError
from threadwire.logs import get_logger
from threadwire.mcp_settings import ServerSettings, read_servers

if TYPE_CHECKING:  # needs the extra mcp
    from threadwire.agent.mcp_tools import McpTools

__all__ = ["AgentSettings", "build_agent", "open_agent"]

logger = get_logger(__name__)


class AgentSettings(Protocol):
    """The section ``agent``."""

    @property
    def system_prompt(self) -> str:
        """What the model is told first; empty: nothing."""
        ...

    @property
    def tools(self) -> Sequence[str]:
        """Names of the tools on offer."""
        ...

    @property
    def mcp_servers(self) -> Mapping[str, Mapping[str, Any]]:
        """By name, the tables of ``mcp_settings``."""
        ...

    @property
    def ask_before(self) -> Sequence[str]:
        """Names of tools that a person is asked about."""
        ...

    @property
    def max_context_tokens(self) -> int | None:
        """None: what the model is known to take; 0: no bound."""
        ...


class BuiltAgent(NamedTuple):
    """The agent."""

    graph: CompiledStateGraph[Any, Any, Any, Any]
    #: Names of the tools that a person is asked about.
    asks_before: frozenset[str]


@asynccontextmanager
async def open_agent(
    model: BaseChatModel, settings: AgentSettings, *, calls_tools: bool, takes: Collection[str]
) -> AsyncIterator[BuiltAgent]:
    """Start the configured MCP servers and build the agent.

    A model that cannot call tools is offered none; of content blocks it gets those it ``takes``.

    Raises:
        StartupError: there are MCP servers, and the extra ``mcp`` is not installed; or ``ask_before`` names a tool that
            nobody has.
    """
    servers = read_servers(settings.mcp_servers)
    if servers and not calls_tools:
        logger.warning("mcp servers not started: the model cannot call tools", servers=list(servers))
    tools = make_tools(settings.tools) if calls_tools else []
    async with AsyncExitStack() as stack:
        middleware: list[AgentMiddleware[Any, Any]] = []
        mcp: McpTools | None = None
        asks_before: frozenset[str] = frozenset()
        if servers and calls_tools:
            mcp = await _open_mcp(servers, [tool.name for tool in tools], stack)
            middleware.append(mcp)
        if settings.ask_before and calls_tools:
            # The first is the outermost: a call that a person edits is edited before it comes to an MCP server.
            approval = asking(settings.ask_before, mcp)
            middleware.insert(0, approval)
            asks_before = frozenset(approval.interrupt_on)
        budget = ContextBudget(context_budget(model, settings.max_context_tokens))
        middleware.append(FitRequest(TakenContent(takes), budget))
        yield BuiltAgent(build_agent(model, settings.system_prompt, tools, middleware), asks_before)


def build_agent(
    model: BaseChatModel,
    system_prompt: str,
    tools: Sequence[BaseTool],
    middleware: Sequence[AgentMiddleware[Any, Any]] = (),
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The agent's graph: the model, then the tools it calls, until it calls none."""
    return create_agent(
        model,
        tools,
        system_prompt=system_prompt or None,
        middleware=middleware,
        state_schema=ChatState,
    )


async def _open_mcp(servers: dict[str, ServerSettings], taken: Sequence[str], stack: AsyncExitStack) -> McpTools:
    try:
        from threadwire.agent.mcp import open_servers
        from threadwire.agent.mcp_tools import McpTools
    except ModuleNotFoundError as missing:
        raise StartupError(
            f'agent.mcp_servers needs the extra mcp ({missing.name} is missing): pip install "threadwire[mcp]"'
        ) from None
    return McpTools(await stack.enter_async_context(open_servers(servers)), taken)
