"""Graphs that ask a person."""

from __future__ import annotations

from typing import Any

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from graphs import chat_openai


@tool
async def confirm(what: str) -> str:
    """Ask a person."""
    return f"{what}: {interrupt({'question': what})}"


def asking(_config: Any) -> Any:
    """A tool-calling loop whose one tool asks: ``/tool confirm {"what": "it"}``."""
    model = chat_openai().bind_tools([confirm])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_node("tools", ToolNode([confirm]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()
