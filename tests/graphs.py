"""Graphs that are served in the tests, one per behaviour."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from threadwire.testing import ScriptedModel, calls
from wiretap import tap

#: HTTP clients of the models in use; ``close_clients`` ends them in the loop they were used in.
_clients: list[Any] = []


def chat_openai(**options: Any) -> Any:
    """The real ChatOpenAI on the provider of the ``provider`` fixture.

    With a client of its own: the one it would take is kept for the whole process by its base_url, so a later test whose
    provider is at the same port would get it with connections of a loop that has ended, and its first request fails.
    """
    import openai
    from langchain_openai import ChatOpenAI

    return _asking(ChatOpenAI, openai.DefaultAsyncHttpxClient(), options)


def lean_openai(**options: Any) -> Any:
    """The same as the server has it of its own, lean."""
    from threadwire.models.lean import ChatOpenAI
    from threadwire.models.transport import open_http_client

    return _asking(ChatOpenAI, open_http_client(), {"stream_chunk_timeout": None} | options)


def _asking(kind: Any, client: Any, options: dict[str, Any]) -> Any:
    _clients.append(client)
    return kind(
        http_async_client=client,
        model="simulated",
        base_url=os.environ["PROVIDER_URL"],
        api_key=tap.KEY,
        stream_usage=True,
        max_retries=0,
        **options,
    )


async def close_clients() -> None:
    """Close what the models of this test asked their provider with."""
    while _clients:
        await _clients.pop().aclose()


async def _echo(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"echo: {state['messages'][-1].text}")]}


echo = StateGraph(MessagesState).add_node("echo", _echo).add_edge(START, "echo")


def openai(_config: Any) -> Any:
    """One model call through the lean ChatOpenAI, as it comes; the other graphs have langchain-openai's own."""
    model = lean_openai()

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("model", call).add_edge(START, "model").compile()


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
async def hang() -> str:
    """Never answer."""
    await asyncio.Event().wait()
    return "never"


@tool
async def fail() -> str:
    """Raise."""
    raise ValueError(tap.EXCEPTION)


def tool_loop(tools: list[Any]) -> Any:
    """The real ChatOpenAI and its tools, in turn, until it calls none."""
    model = chat_openai().bind_tools(tools)

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


def agent(_config: Any) -> Any:
    """A tool-calling loop through the real ChatOpenAI: ``/tool add {"a": 1, "b": 2}`` makes the model call it."""
    return tool_loop([add, hang, fail])


def forgiving(_config: Any) -> Any:
    """A tool that raises, in a tool node that tells the model what it raised."""
    model = ScriptedModel(calls(("fail", {})), "It failed.").bind_tools([fail])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_node("tools", ToolNode([fail], handle_tool_errors=True))
    builder.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
    return builder.compile()


async def _wait(state: MessagesState) -> dict[str, Any]:
    get_stream_writer()("before the wait")
    await asyncio.Event().wait()
    return {}


#: Says something that no message is, and never ends.
waits = StateGraph(MessagesState).add_node("wait", _wait).add_edge(START, "wait")
