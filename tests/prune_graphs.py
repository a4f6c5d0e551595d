"""Graphs whose threads are pruned: plain and delta channels, subgraphs of a task and with a memory, a question."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from contracts.storage import fold_list
from threadwire.agent.messages import fold_messages


class Plain(MessagesState):
    """As most people write it."""

    word: str
    notes: Annotated[list[str], lambda old, new: [*old, *new]]


class Delta(TypedDict):
    """Two delta channels that are written, and stored whole, at different times; a third that nobody writes."""

    messages: Annotated[list[AnyMessage], DeltaChannel(fold_messages, snapshot_frequency=4)]
    notes: Annotated[list[str], DeltaChannel(fold_list, snapshot_frequency=3)]
    unused: Annotated[list[str], DeltaChannel(fold_list)]
    word: str


class PlainMemory(TypedDict):
    """What a subgraph with a checkpointer of its own remembers."""

    word: str
    memory: Annotated[list[str], lambda old, new: [*old, *new]]


class DeltaMemory(TypedDict):
    """The same, in a delta channel."""

    word: str
    memory: Annotated[list[str], DeltaChannel(fold_list, snapshot_frequency=3)]


async def _talk(state: Any) -> dict[str, Any]:
    said = state["messages"][-1].text
    written: dict[str, Any] = {"messages": [AIMessage(f"{len(state['messages'])}: {said}")], "word": said}
    return {**written, "notes": [said]} if "note" in said else written


async def _remember(state: Any) -> dict[str, Any]:
    return {"memory": [state["word"]], "word": f"{state['word']} after {len(state['memory'])}"}


async def _wonder(state: Any) -> dict[str, Any]:
    return {"word": f"{state['word']} and {interrupt('what?')}"} if "ask" in state["word"] else {}


async def _conclude(state: Any) -> dict[str, Any]:
    return {"messages": [AIMessage(state["word"])]}


def conversation(state: Any, memory: Any) -> Any:
    """A builder: talk, remember in a subgraph of its own memory, wonder in one that may ask, conclude."""
    remembering = StateGraph(memory).add_node("remember", _remember).add_edge(START, "remember")
    wondering = StateGraph(memory).add_node("wonder", _wonder).add_edge(START, "wonder")
    builder = StateGraph(state)
    builder.add_node("talk", _talk)
    builder.add_node("mind", remembering.compile(checkpointer=True))
    builder.add_node("doubt", wondering.compile())
    builder.add_node("conclude", _conclude)
    builder.add_edge(START, "talk").add_edge("talk", "mind").add_edge("mind", "doubt").add_edge("doubt", "conclude")
    return builder


class Counted(TypedDict):
    """One delta channel."""

    notes: Annotated[list[str], DeltaChannel(fold_list, snapshot_frequency=20)]


async def _count(state: Counted) -> dict[str, Any]:
    return {"notes": [str(len(state["notes"]))]}


plain = conversation(Plain, PlainMemory)
delta = conversation(Delta, DeltaMemory)
#: One run of 400 steps.
counting = StateGraph(Counted).add_node("count", _count).add_edge(START, "count")
counting.add_conditional_edges("count", lambda state: "count" if len(state["notes"]) < 400 else END)
