"""The graph that is tortured: a tool-calling loop on the real ChatOpenAI, one of whose tools asks a person."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.tools import tool

from asking_graphs import confirm
from graphs import add, fail, tool_loop


@tool
async def slow(n: int) -> str:
    """Take so many milliseconds."""
    await asyncio.sleep(n / 1000)
    return f"waited {n}"


TOOLS = [add, fail, slow, confirm]


def talking(_config: Any) -> Any:
    """The tools: ``add``, ``fail``, ``slow {"n": 100}``, ``confirm {"what": "it"}``; see ``threadwire simulate``."""
    return tool_loop(TOOLS)
