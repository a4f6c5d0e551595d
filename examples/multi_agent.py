"""Several agents in one graph, each a subgraph of its own: a desk that plans, researchers at once, a writer.

    threadwire serve examples/multi_agent.py:graph

Ask it anything: the desk splits the question, a researcher looks into each part at the same time, and the writer makes
one answer of what they found. Tokens of all of them stream, each under its own message and node; a client that wants to
see the writer only connects with ``include_tags=writer``. The models are simulated, so that it runs without a key: put
your own in their place (``ChatOpenAI(model="gpt-4o-mini")``).
"""

from __future__ import annotations

import operator
import re
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from threadwire.models.simulated import SimulatedChatModel

researcher = SimulatedChatModel(name="researcher", tags=["research"], tokens_per_second=200, first_token_ms=0)
writer = SimulatedChatModel(name="writer", tags=["writer"], tokens_per_second=200, first_token_ms=0)


# --- a researcher: a subgraph with a state of its own ---------------------------------------------


class Research(TypedDict, total=False):
    """What one researcher knows."""

    topic: str
    said: AnyMessage
    findings: list[str]


async def look(state: Research) -> Research:
    """Look into one topic."""
    asked = [SystemMessage("You are a researcher. Be brief."), HumanMessage(state["topic"])]
    return {"said": await researcher.ainvoke(asked)}


def digest(state: Research) -> Research:
    """Keep what matters of it."""
    return {"findings": [f"{state['topic']}: {state['said'].text}"]}


research = (
    StateGraph(Research)
    .add_node("look", look)
    .add_node("digest", digest)
    .add_edge(START, "look")
    .add_edge("look", "digest")
    .compile(name="research")
)


# --- the desk -------------------------------------------------------------------------------------


class State(MessagesState):
    """The conversation, and what the researchers of this turn have found."""

    topics: list[str]
    findings: Annotated[list[str], operator.add]
    used: int


def plan(state: State) -> dict[str, Any]:
    """Split the question into topics."""
    asked = str(state["messages"][-1].text)
    topics = [part.strip(" ?.!") for part in re.split(r",| and |;", asked) if part.strip(" ?.!")]
    return {"topics": topics[:4]}


def assign(state: State) -> list[Send] | str:
    """A researcher for each of them."""
    return [Send("research", {"topic": topic}) for topic in state["topics"]] or "write"


async def write(state: State) -> dict[str, Any]:
    """One answer of what was found in this turn."""
    found = "\n".join(state.get("findings", [])[state.get("used", 0) :])
    answer = await writer.ainvoke([SystemMessage("You are a writer."), HumanMessage(f"Write this up:\n{found}")])
    return {"messages": [AIMessage(answer.content, id=answer.id, name="writer")], "used": len(state["findings"])}


graph = StateGraph(State)
graph.add_node("plan", plan)
# What a researcher said is its own: of its state only ``findings`` is the desk's too.
graph.add_node("research", research)
graph.add_node("write", write)
graph.add_edge(START, "plan")
graph.add_conditional_edges("plan", assign, ["research", "write"])
graph.add_edge("research", "write")
graph.add_edge("write", END)
