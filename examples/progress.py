"""Progress of a long job, as ``custom`` frames: written by a node, and dispatched from deep inside it.

    threadwire serve examples/progress.py:graph

Say "index 40 files". A node writes to the stream writer (frames with the name ``custom``); what is no node and has no
writer, such as a helper or a chain, dispatches an event under a name of its own, by which a client can filter. Neither
is part of the conversation: who comes later sees the answer, and not the way to it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from langchain_core.callbacks import adispatch_custom_event
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph

#: Files of one step.
STEP = 10


async def read_files(first: int, last: int, config: RunnableConfig) -> int:
    """Read some files; returns how many words they have."""
    await asyncio.sleep(0)  # where it would really read
    words = sum(100 + number % 7 for number in range(first, last))
    # Before Python 3.11 the config had to be handed on; it does no harm to do so.
    await adispatch_custom_event("files_read", {"first": first, "last": last, "words": words}, config=config)
    return words


async def index(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    """Index as many files as were asked for."""
    asked = re.search(r"\d+", str(state["messages"][-1].text))
    total = min(int(asked[0]), 10_000) if asked else 0
    write, words = get_stream_writer(), 0
    write({"stage": "started", "total": total})
    for first in range(0, total, STEP):
        last = min(first + STEP, total)
        words += await read_files(first, last, config)
        write({"stage": "indexing", "done": last, "total": total})
    return {"messages": [AIMessage(f"Indexed {total} files with {words} words.")]}


graph = StateGraph(MessagesState)
graph.add_node("index", index)
graph.add_edge(START, "index")
