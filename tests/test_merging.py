"""Merging chunks: what is stored is the merge of what was streamed."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.prompts import ChatPromptTemplate

from conftest import Serve
from harness import Provider, Served
from shared_provider import provider, provider_url
from test_raw import OPEN, attached, raw, turn
from threadwire.graph import MESSAGES
from threadwire.http import STORAGE
from threadwire.resources import GRAPH

__all__ = ["provider", "provider_url"]  # fixtures

#: Graphs of one call, what they are told, and what of a message they are about.
CALLS = [
    ("graphs:openai", "/tokens 12", "text"),
    ("graphs:openai", "/tokens 5\n/reasoning well, let me see", "reasoning"),
    (
        "stream_graphs:calls",
        '/tool look {"where": "under the bed"}\n/tool look {"where": "behind it, too"}',
        "tool calls",
    ),
    ("stream_graphs:blocks", "hi", "blocks, cached tokens"),
    ("stream_graphs:thoughtful", "hi", "reasoning beside the text"),
    ("stream_graphs:named", "hi", "an id of the provider's"),
]


async def stored_answer(served: Served, thread_id: str) -> AIMessage:
    graph = served.server.app[GRAPH].for_state(served.server.app[STORAGE].reader)
    snapshot = await graph.aget_state({"configurable": {"thread_id": thread_id}})
    answer = snapshot.values[MESSAGES][-1]
    assert isinstance(answer, AIMessage)
    return answer


@pytest.mark.parametrize(("graph", "content", "about"), CALLS, ids=[about for _, _, about in CALLS])
async def test_stored_is_the_merge(serve: Serve, provider: Provider, graph: str, content: str, about: str) -> None:
    """The chunks as raw events gave them, read back and added up, are the message in the thread: every field of it."""
    served = await serve(graph, events=OPEN)
    socket = await attached(served, "t1", {"include_types": ["chat_model", "tool"]})
    await turn([socket], content)
    streamed = [e["data"]["chunk"] for e in raw(socket) if e["event"] == "on_chat_model_stream"]
    assert len(streamed) > 2
    whole = reduce(add, [AIMessageChunk(**{k: v for k, v in chunk.items() if k != "type"}) for chunk in streamed])
    assert isinstance(whole, AIMessageChunk)
    merged, stored = message_chunk_to_message(whole), await stored_answer(served, "t1")
    assert isinstance(merged, AIMessage)
    for field in ("id", "content", "tool_calls", "invalid_tool_calls", "usage_metadata", "additional_kwargs"):
        assert getattr(stored, field) == getattr(merged, field), field
    assert stored.response_metadata == merged.response_metadata
    # And the frames tell the same.
    assert socket.text() == str(stored.text)
    assert [(f["id"], f["args"]) for f in socket.of("tool_call")] == [(c["id"], c["args"]) for c in stored.tool_calls]
    assert {f["message_id"] for f in socket.of("token")} <= {stored.id}
    usage: Any = stored.usage_metadata or {}
    assert [f["total_tokens"] for f in socket.of("usage")] == ([usage["total_tokens"]] if usage else [])


async def test_a_cut_off_answer_is_the_merge_so_far(serve: Serve, provider: Provider) -> None:
    """What is kept of a cancelled answer is what was streamed until then."""
    served = await serve("graphs:openai", events=OPEN)
    socket = await attached(served, "t1", {"include_types": ["chat_model"]})
    ack = await socket.ask("send", content="/tokens 5000")
    await socket.until("token")
    await socket.command("cancel", run_id=ack["run_id"])
    await socket.until("run_finished")
    assert (await stored_answer(served, "t1")).content == socket.text()


def test_only_chunks_are_merged_by_plus() -> None:
    """``+`` merges chunks; of two whole messages it makes a prompt template, which is no message at all."""
    assert (AIMessageChunk(content="a") + AIMessageChunk(content="b")).content == "ab"
    assert isinstance(AIMessage("a") + AIMessage("b"), ChatPromptTemplate)
