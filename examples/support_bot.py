"""A graph of your own: support for a shop's orders, with a person asked before money is paid back.

    threadwire serve examples/support_bot.py:graph

Then say "Where is order A1002?" or "I want my money back for A1002". It needs no model and no key: what a node answers
is its own business, and a chat model may be called in any of them. It shows what the server makes of a graph: progress
that a node writes (``custom`` frames), a question to a person (``interrupt``, answered with ``respond``), and state
beside the messages, kept with the thread: the order that is talked about need not be named twice.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

ORDERS: dict[str, dict[str, Any]] = {
    "A1001": {"item": "a desk lamp", "price": 34.5, "status": "was delivered on Monday"},
    "A1002": {"item": "a pair of boots", "price": 89.0, "status": "is on its way and comes tomorrow"},
    "A1003": {"item": "a kettle", "price": 41.0, "status": "is being packed"},
}


class State(MessagesState):
    """The conversation, and the order it is about."""

    order: str


def read(state: State) -> dict[str, Any]:
    """Find the order in what was said; without one, the former stays."""
    found = re.search(r"\b[A-Z]\d{4}\b", state["messages"][-1].text.upper())
    return {"order": found[0]} if found else {}


def choose(state: State) -> Literal["ask", "refund", "status"]:
    """Where to go with it."""
    if state.get("order") not in ORDERS:
        return "ask"
    return "refund" if re.search(r"refund|money back|return", state["messages"][-1].text.lower()) else "status"


def ask(state: State) -> dict[str, Any]:
    """Ask for an order there is."""
    unknown = f"There is no order {state['order']}. " if state.get("order") else ""
    return say(f"{unknown}Which order is it about? It looks like A1002.")


def status(state: State) -> dict[str, Any]:
    """Say where the order is."""
    get_stream_writer()({"progress": f"looking up {state['order']}"})
    order = ORDERS[state["order"]]
    return say(f"Order {state['order']}, {order['item']}, {order['status']}.")


def refund(state: State) -> dict[str, Any]:
    """Pay back, if a person says so: the run ends here and goes on with the answer, however much later that is."""
    order = ORDERS[state["order"]]
    approved = interrupt(
        {"question": f"Pay back {order['price']:.2f} for order {state['order']}?", "answers": [True, False]}
    )
    if not approved:
        return say(f"I am sorry: order {state['order']} cannot be paid back.")
    return say(f"{order['price']:.2f} for order {state['order']} will be in your account within three days.")


def say(text: str) -> dict[str, Any]:
    """An answer."""
    return {"messages": [AIMessage(text)]}


graph = StateGraph(State)
graph.add_node("read", read)
graph.add_node("ask", ask)
graph.add_node("status", status)
graph.add_node("refund", refund)
graph.add_edge(START, "read")
graph.add_conditional_edges("read", choose)
for node in ("ask", "status", "refund"):
    graph.add_edge(node, END)
