"""A person is asked before given tools are called: LangChain's ``HumanInTheLoopMiddleware``, by names of the config.

All calls of one answer that need a decision come as one interrupt; none of that answer's calls runs before it is
answered. ``threadwire.approvals`` looks at the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Protocol

from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain.agents.middleware.human_in_the_loop import InterruptOnConfig

from threadwire.agent.tools import TOOL_NAMES
from threadwire.errors import StartupError
from threadwire.logs import get_logger

logger = get_logger(__name__)


class Offered(Protocol):
    """The tools of MCP servers."""

    @property
    def known(self) -> set[str]:
        """The names there are."""
        ...

    @property
    def all_listed(self) -> bool:
        """Whether no others can come."""
        ...

    def names_for(self, own_name: str) -> Iterator[str]:
        """What a tool of that name may be called on offer."""
        ...


#: The result of a call that a person edited begins with this; LangChain adds what ran instead. The model's message
#: keeps the call it made: a model that finds another one there tends to make its own once more.
EDITED = "Note: a person changed this call before it ran, which was intended. Do not repeat the original call."


def asking(names: Sequence[str], mcp: Offered | None) -> HumanInTheLoopMiddleware[Any, Any]:
    """What asks before the tools of these names; of a server's tool, its own name and the one on offer both mean it.

    Raises:
        StartupError: there is no such tool.
    """
    _check(names, mcp)
    asked = {alias for name in names for alias in (name, *(mcp.names_for(name) if mcp is not None else ()))}
    return HumanInTheLoopMiddleware(
        # With LangChain's own description, the arguments would be told twice.
        {name: _config(name) for name in sorted(asked)},
        edit_notice=EDITED,
    )


def _config(name: str) -> InterruptOnConfig:
    return {
        "allowed_decisions": ["approve", "edit", "reject", "respond"],
        "description": f"The assistant asks before it calls {name}.",
    }


def _check(names: Sequence[str], mcp: Offered | None) -> None:
    known = {*TOOL_NAMES, *(mcp.known if mcp is not None else ())}
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    if mcp is not None and not mcp.all_listed:
        # Perhaps a tool of a server that is not there yet: it will be asked about when it is.
        logger.warning("agent.ask_before names tools that are not there yet", names=unknown)
        return
    nearest = get_close_matches(unknown[0], sorted(known), n=1, cutoff=0)[0]
    raise StartupError(f"agent.ask_before: there is no tool {unknown[0][:60]!r}; the nearest is {nearest}")
