"""The graph that is served when none is named: a plain chat on the configured model."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import SystemMessage
from langgraph.graph import START, MessagesState, StateGraph


def build_agent(model: BaseChatModel, system_prompt: str) -> StateGraph[Any, Any, Any, Any]:
    """One node, ``model``, that answers the conversation so far."""
    instructions = [SystemMessage(system_prompt)] if system_prompt else []

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([*instructions, *state["messages"]])]}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MessagesState)
    builder.add_node("model", answer)
    builder.add_edge(START, "model")
    return builder
