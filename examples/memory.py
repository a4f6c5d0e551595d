"""Long-term memory per user, in the store: what one conversation has learnt, the next one knows.

    threadwire serve examples/memory.py:graph

Say "Remember that I am allergic to nuts." in one thread and "What do you know of me?" in another, both with the context
``{"user": "ada"}`` (a field of ``send``). Threads are conversations; the store is what is known across them, here under
the user's name, and kept in the same database. With authentication the user would come from there, not the client:
``config["configurable"]["langgraph_auth_user"]``, as on the LangGraph Agent Server.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime


@dataclass
class Context:
    """Who is talking."""

    user: str = "anonymous"


async def answer(state: MessagesState, runtime: Runtime[Context]) -> dict[str, Any]:
    """Remember, forget, or say what is remembered."""
    said = str(state["messages"][-1].text)
    store, memories = runtime.store, (runtime.context.user, "memories")
    assert store is not None  # threadwire gives every graph one
    if found := re.match(r"\s*remember (?:that )?(.+)", said, re.IGNORECASE | re.DOTALL):
        await store.aput(memories, str(uuid.uuid4()), {"text": found[1].strip(" .!")})
        return say("I will remember that.")
    kept = sorted(await store.asearch(memories, limit=100), key=lambda item: item.created_at)
    if re.match(r"\s*forget", said, re.IGNORECASE):
        for item in kept:
            await store.adelete(memories, item.key)
        return say("Forgotten.")
    if not kept:
        return say(f"I know nothing of you yet, {runtime.context.user}.")
    return say("I know that " + "; ".join(item.value["text"] for item in kept) + ".")


def say(text: str) -> dict[str, Any]:
    """An answer."""
    return {"messages": [AIMessage(text)]}


graph = StateGraph(MessagesState, context_schema=Context)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
