"""Graphs for what an operator sees: one that keeps the loop busy, one whose failure quotes what it was told."""

from __future__ import annotations

import time
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

#: How long ``busy`` keeps everybody waiting, in seconds.
BUSY_SECONDS = 0.4


def _one(node: Any) -> Any:
    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()


async def _busy(_state: MessagesState) -> dict[str, Any]:
    # Wrong in a node that is async, and what the metric is for.
    time.sleep(BUSY_SECONDS)  # noqa: ASYNC251
    return {"messages": [AIMessage("done")]}


busy = _one(_busy)


async def _quoting(state: MessagesState) -> dict[str, Any]:
    said = str(state["messages"][-1].text)
    try:
        return {"messages": dict[str, Any]()[said]}
    except KeyError as error:
        raise ValueError(f"cannot read {said}") from error


quoting = _one(_quoting)
