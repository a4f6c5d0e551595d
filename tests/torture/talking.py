"""The graph that is tortured: a tool-calling loop on the real ChatOpenAI, one of whose tools asks a person."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from asking_graphs import confirm
from graphs import add, chat_openai, fail


@tool
async def slow(n: int) -> str:
    """Take so many milliseconds."""
    await asyncio.sleep(n / 1000)
    return f"waited {n}"


TOOLS = [add, fail, slow, confirm]


def talking(_config: Any) -> Any:
    """The tools: ``add``, ``fail``, ``slow {"n": 100}``, ``confirm {"what": "it"}``; see ``threadwire simulate``."""
    model = chat_openai().bind_tools(TOOLS)

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_node("tools", ToolNode(TOOLS))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()
