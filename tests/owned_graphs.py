"""Graphs that say who asks, in each way LangGraph has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime


@dataclass
class Context:
    user: dict[str, Any] | None = None
    tone: str = "plain"


@dataclass
class Named:
    user: str = "nobody"


async def _who(state: MessagesState, config: RunnableConfig, runtime: Runtime[Context]) -> dict[str, Any]:
    user = config["configurable"].get("langgraph_auth_user")
    said = {
        "config": None if user is None else {**user},
        "attribute": None if user is None else user.identity,
        "server_info": runtime.server_info.user.identity if runtime.server_info and runtime.server_info.user else None,
        "context": runtime.context.user if runtime.context is not None else None,
    }
    return {"messages": [AIMessage(json.dumps(said))]}


who = StateGraph(MessagesState, context_schema=Context).add_node("who", cast("Any", _who)).add_edge(START, "who")
named = StateGraph(MessagesState, context_schema=Named).add_node("who", cast("Any", _who)).add_edge(START, "who")


async def _remember(state: MessagesState, config: RunnableConfig, runtime: Runtime[Any]) -> dict[str, Any]:
    """What was kept for this user; then keep what they say."""
    mine = ("said", config["configurable"]["langgraph_auth_user"]["identity"])
    store: Any = runtime.store
    kept = [item.value["text"] for item in await store.asearch(mine)]
    await store.aput(mine, state["messages"][-1].id, {"text": state["messages"][-1].text})
    return {"messages": [AIMessage(json.dumps(sorted(kept)))]}


remember = StateGraph(MessagesState).add_node("remember", cast("Any", _remember)).add_edge(START, "remember")
