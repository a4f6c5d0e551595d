"""Graphs that ask a person."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from graphs import add, hang, tool_loop


@tool
async def confirm(what: str) -> str:
    """Ask a person."""
    return f"{what}: {interrupt({'question': what})}"


def asking(_config: Any) -> Any:
    """A tool-calling loop whose one tool asks: ``/tool confirm {"what": "it"}``."""
    return tool_loop([confirm])


def both(_config: Any) -> Any:
    """The same, also with tools that answer at once, and never."""
    return tool_loop([confirm, add, hang])


def nested(_config: Any) -> Any:
    """The first, inside a subgraph."""
    return StateGraph(MessagesState).add_node("inner", tool_loop([confirm])).add_edge(START, "inner").compile()


def twice(_config: Any) -> Any:
    """A node that asks twice, and fails where the second answer is ``fail``."""

    async def ask(state: MessagesState) -> dict[str, Any]:
        assert state["messages"]
        answers = [interrupt({"question": "again?"}), interrupt({"question": "again?"})]
        if answers[1] == "fail":
            raise ValueError("secret-in-exception")
        return {"messages": [AIMessage(" ".join(answers))]}

    return StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()


def same_ids(_config: Any) -> Any:
    """A model that counts its calls anew in each answer: each is ``call_0``. It calls the tool it is told."""

    async def call(state: MessagesState) -> dict[str, Any]:
        last = state["messages"][-1]
        if not isinstance(last, HumanMessage):
            return {"messages": [AIMessage("done")]}
        arguments = {"a": 1, "b": 2} if last.text == "add" else {}
        return {"messages": [AIMessage("", tool_calls=[{"id": "call_0", "name": last.text, "args": arguments}])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_node("tools", ToolNode([add, hang]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()
