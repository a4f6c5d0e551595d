"""Graphs for the tests of threads as resources: one that asks within a subgraph, one with tools, one that fails."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt


def _chain(schema: Any, **nodes: Any) -> Any:
    """The nodes one after another."""
    builder: Any = StateGraph(schema)
    for before, (name, node) in zip([START, *nodes], nodes.items(), strict=False):
        builder.add_node(name, node).add_edge(before, name)
    return builder


async def _ask(state: MessagesState) -> dict[str, Any]:
    answer = interrupt({"question": f"{state['messages'][-1].text}?"})
    return {"messages": [AIMessage(f"you said {answer}")]}


asking = _chain(MessagesState, inner=_chain(MessagesState, ask=_ask).compile())


class State(MessagesState):
    extra: Any


async def _call(state: State) -> dict[str, Any]:
    call = {"id": f"call-{len(state['messages'])}", "name": "look", "args": {"what": state["messages"][-1].text}}
    return {"messages": [AIMessage("Let me look.", tool_calls=[call])]}


async def _look(state: State) -> dict[str, Any]:
    answer: Any = state["messages"][-1]
    call = answer.tool_calls[0]
    if call["args"]["what"] == "hang":
        await asyncio.Event().wait()
    return {"messages": [ToolMessage("```\nfound\n```", tool_call_id=call["id"], name="look")]}


async def _say(_state: State) -> dict[str, Any]:
    return {"messages": [AIMessage("There it is.")], "extra": {"odd": {1, 2}, b"k": b"\x00\xff", 3: 4.5}}


working = _chain(State, call=_call, look=_look, say=_say)


async def _fail(_state: MessagesState) -> dict[str, Any]:
    raise ValueError("secret-in-exception")


failing = _chain(MessagesState, fail=_fail)
