"""Graphs for the tests of threads as resources: one that asks within a subgraph, one with tools, one that fails."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt


async def _ask(state: MessagesState) -> dict[str, Any]:
    answer = interrupt({"question": f"{state['messages'][-1].text}?"})
    return {"messages": [AIMessage(f"you said {answer}")]}


_inner = StateGraph(MessagesState).add_node("ask", _ask).add_edge(START, "ask").compile()
asking = StateGraph(MessagesState).add_node("inner", _inner).add_edge(START, "inner")


class Odd:
    """What no JSON has a form for."""

    def __init__(self) -> None:
        self.secret = "not to be told"


class State(MessagesState):
    extra: Any


async def _call(state: State) -> dict[str, Any]:
    call = {"id": f"call-{len(state['messages'])}", "name": "look", "args": {"what": state["messages"][-1].text}}
    return {"messages": [AIMessage("Let me look.", tool_calls=[call])]}


async def _look(state: State) -> dict[str, Any]:
    call = state["messages"][-1].tool_calls[0]  # type: ignore[union-attr]
    if call["args"]["what"] == "hang":
        await asyncio.Event().wait()
    return {"messages": [ToolMessage("```\nfound\n```", tool_call_id=call["id"], name="look")]}


async def _say(_state: State) -> dict[str, Any]:
    return {"messages": [AIMessage("There it is.")], "extra": {"odd": {1, 2}, b"k": b"\x00\xff", 3: 4.5}}


working = (
    StateGraph(State)
    .add_node("call", _call)
    .add_node("look", _look)
    .add_node("say", _say)
    .add_edge(START, "call")
    .add_edge("call", "look")
    .add_edge("look", "say")
)


async def _fail(_state: MessagesState) -> dict[str, Any]:
    raise ValueError("secret-in-exception")


failing = StateGraph(MessagesState).add_node("fail", _fail).add_edge(START, "fail")
