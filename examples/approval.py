"""A person approves what the model wants to do: a tool that asks before it acts.

    threadwire serve examples/approval.py:graph

Say ``/tool send_email {"to": "ada@example.org", "text": "Hello"}`` (the model is simulated and does what it is told;
put your own in its place). The run stops with an ``interrupt`` frame that says what is to be done; it may be answered
now or tomorrow, by whoever is allowed to, with ``respond``: ``{"decision": "approve"}``,
``{"decision": "edit", "args": {...}}`` or ``{"decision": "reject", "reason": "..."}``.
"""

from __future__ import annotations

from typing import Any

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from threadwire.models.simulated import SimulatedChatModel

#: What was sent, in the place of a mail server.
OUTBOX: list[dict[str, str]] = []


@tool
def send_email(to: str, text: str) -> str:
    """Send an email."""
    wanted = {"to": to, "text": text}
    # Everything before this line runs again when the answer comes: ask first, act after.
    answer = interrupt({"action": "send_email", "args": wanted, "decisions": ["approve", "edit", "reject"]})
    decision = answer.get("decision") if isinstance(answer, dict) else None
    if decision == "edit":
        wanted |= {key: str(value) for key, value in answer.get("args", {}).items() if key in wanted}
    elif decision != "approve":
        return f"Not sent: {answer.get('reason') or 'a person said no'}." if decision == "reject" else "Not sent."
    OUTBOX.append(wanted)
    return f"Sent to {wanted['to']}: {wanted['text']}"


tools = [send_email]
model = SimulatedChatModel(tokens_per_second=0, first_token_ms=0).bind_tools(tools)


async def call_model(state: MessagesState) -> dict[str, Any]:
    """Ask the model."""
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState)
graph.add_node("model", call_model)
graph.add_node("tools", ToolNode(tools))
graph.add_edge(START, "model")
graph.add_conditional_edges("model", tools_condition)
graph.add_edge("tools", "model")
