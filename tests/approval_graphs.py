"""Graphs of a user's own in which a person has a say about tool calls; served as ``approval_graphs:name``."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from graphs import add


@tool
async def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@tool
async def keep(text: str) -> str:
    """Keep a text."""
    return f"kept {len(text)}"


def _call(name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c1", "name": name, "args": args, "type": "tool_call"}


async def _want(_state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("", id="a1", tool_calls=[_call("add", {"a": 1, "b": 2})])]}


async def _correct(state: MessagesState) -> dict[str, Any]:
    """A person says what to call instead; the message is written again under its id, a copy or itself."""
    wanted: Any = state["messages"][-1]
    said = interrupt({"call": wanted.tool_calls[0]["name"]})
    if said["in_place"]:
        wanted.tool_calls = [_call(said["name"], said["args"])]
        return {"messages": [wanted]}
    return {"messages": [wanted.model_copy(update={"tool_calls": [_call(said["name"], said["args"])]})]}


_corrected: Any = StateGraph(MessagesState)
_corrected.add_node("want", _want).add_node("correct", _correct).add_node("tools", ToolNode([add, multiply]))
_corrected.add_edge(START, "want").add_edge("want", "correct").add_edge("correct", "tools")
corrected = _corrected.compile()


async def _rephrase(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"{state['messages'][-1].text}, politely", id="a1")]}


async def _say(_state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("no", id="a1")]}


_rephrased: Any = StateGraph(MessagesState)
_rephrased.add_node("say", _say).add_node("rephrase", _rephrase)
rephrased = _rephrased.add_edge(START, "say").add_edge("say", "rephrase").compile()


class _Scripted(FakeMessagesListChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def strict(_config: Any) -> Any:
    """LangChain's middleware, with fewer decisions than the agent's, about a text too large to be told whole."""
    asks = HumanInTheLoopMiddleware({"keep": {"allowed_decisions": ["approve", "reject"]}})
    wants = AIMessage("", tool_calls=[_call("keep", {"text": "x" * 70_000})])
    return create_agent(_Scripted(responses=[wants, AIMessage("done")]), [keep], middleware=[asks])


@tool
async def whisper(text: str) -> str:
    """Say something that nobody may see."""
    return f"psst: {text}"


whisper.tags = ["nostream"]  # what the decorator takes no argument for


def private(_config: Any) -> Any:
    """The same about a tool whose results the default policy hides."""
    wants = AIMessage("", tool_calls=[_call("whisper", {"text": "a"})])
    asks = HumanInTheLoopMiddleware({"whisper": True})
    return create_agent(_Scripted(responses=[wants, AIMessage("done")]), [whisper], middleware=[asks])
