"""The graph of LangGraph's tutorials: a chatbot that remembers, on the SQLite checkpointer."""

from __future__ import annotations

from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

llm = ChatOpenAI(model="gpt-4o-mini", streaming=True)


async def chatbot(state: MessagesState) -> dict:
    return {"messages": [await llm.ainvoke(state["messages"])]}


def build(checkpointer: BaseCheckpointSaver | None = None) -> CompiledStateGraph:
    builder = StateGraph(MessagesState)
    builder.add_node("chatbot", chatbot)
    builder.add_edge(START, "chatbot")
    builder.add_edge("chatbot", END)
    return builder.compile(checkpointer=checkpointer)
