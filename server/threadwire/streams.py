"""How a run listens to its graph, as ``send``'s ``stream`` says: by ``events``, or by ``messages``.

``events`` is all that becomes frames, as ``listener.Listener`` says it; or ``astream_events``, which says all that
happens, where somebody may want raw events too. ``messages`` is LangGraph's own ``stream_mode="messages"``: what
models say and what nodes add, and no more. Its items are given the shape of the events they stand for, so that one
translator makes the same frames of both. What it does not say is collected from the callbacks: which model call a chunk
belongs to, what the models said that LangGraph leaves out of it (plain LLMs, and those tagged ``nostream``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.outputs import ChatGeneration, LLMResult
from langgraph.constants import TAG_NOSTREAM

from threadwire.events import ROOT
from threadwire.filters import Origin, WantedTypes
from threadwire.listener import Listener
from threadwire.marker import InPlace, Marker, name_of
from threadwire.toolcalls import Marks


async def listen(
    graph: Any,
    given: Any,
    config: dict[str, Any],
    *,
    stream: str,
    marks: Marks,
    marker: Marker,
    every: Callable[[], bool] | None,
    hear: Callable[[Any], None],
    **options: Any,
) -> None:
    """Run the graph to its end; ``hear`` is given the events for ``events.Translator``, in their order.

    ``every`` says whether somebody wants the events that become no frames too; asked for each one. None: nobody may.
    ``marker`` is called before what it marks is heard.
    """
    callbacks = config["callbacks"]
    if stream == "messages":
        events = _messages(graph, given, {**config, "callbacks": [marker, *callbacks]}, marks, options)
    elif every is None:
        heard = {**config, "callbacks": InPlace.of(*callbacks, Listener(hear, marker))}
        events = _callbacks(graph, given, heard, options)
    else:
        events = _events(graph, given, {**config, "callbacks": InPlace.of(marker, *callbacks)}, every, options)
    async with aclosing(events):
        async for event in events:
            hear(event)


def _events(
    graph: Any, given: Any, config: dict[str, Any], every: Callable[[], bool], options: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    return graph.astream_events(  # type: ignore[no-any-return]
        given,
        {**config, "run_name": ROOT},
        version="v2",
        # Ask for what readers may see and the root's own chunks, and for nothing else: each event costs.
        include_names=[ROOT],
        include_types=WantedTypes(every),
        stream_mode=["values", "custom"],
        subgraphs=True,
        **options,
    )


async def _callbacks(
    graph: Any, given: Any, config: dict[str, Any], options: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    """The root's chunks; the rest is heard by the callbacks meanwhile.

    LangGraph gives a step's chunks before it begins the next: nothing that a later step says is heard before them.
    """
    stream = graph.astream(
        given,
        {**config, "run_name": ROOT},
        stream_mode=["values", "custom"],
        subgraphs=True,
        **options,
    )
    async with aclosing(stream):
        async for chunk in stream:
            yield _root_chunk(chunk)


def _root_chunk(chunk: Any) -> dict[str, Any]:
    return {"event": "on_chain_stream", "name": ROOT, "parent_ids": [], "data": {"chunk": chunk}}


async def _messages(
    graph: Any, given: Any, config: dict[str, Any], marks: Marks, options: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    calls = _Calls(marks)
    stream = graph.astream(
        given,
        {**config, "run_name": ROOT, "callbacks": [*config["callbacks"], calls]},
        stream_mode=["messages", "values", "custom"],
        subgraphs=True,
        **options,
    )
    async with aclosing(stream):
        async for item in stream:
            for event in calls.left_out():
                yield event
            if item[1] == "messages":
                for event in calls.events(*item[2]):
                    yield event
            else:
                yield _root_chunk(item)
        for event in calls.left_out():
            yield event


@dataclass(slots=True)
class _Call:
    """One model call."""

    kind: str
    run_id: str
    name: str
    tags: list[str]
    #: The very object that LangGraph gives with each chunk: by it the chunk finds its call.
    metadata: dict[str, Any]
    chunks: list[AIMessageChunk] = field(default_factory=list)

    def event(self, what: str, **data: Any) -> dict[str, Any]:
        """The event that ``astream_events`` would have given."""
        return {
            "event": f"on_{self.kind}_{what}",
            "run_id": self.run_id,
            "name": self.name,
            "tags": self.tags,
            "metadata": self.metadata,
            "parent_ids": [],
            "data": data,
        }


class _Calls(BaseCallbackHandler):
    """The model calls of one run, and what becomes of each item of ``stream_mode="messages"``."""

    run_inline = True

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._running: dict[UUID, _Call] = {}
        self._by_metadata: dict[int, _Call] = {}
        self._parents: dict[UUID, UUID | None] = {}
        self._tools: set[UUID] = set()
        self._left_out: list[dict[str, Any]] = []
        # The calls that nodes asked for, and no model, by their ids.
        self._asked: dict[str, Any] = {}

    def events(self, message: Any, metadata: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What one message, or chunk of one, tells."""
        if isinstance(message, ToolMessage):
            data = {"output": message, "call": self._asked.pop(message.tool_call_id, None)}
            yield {"event": "on_tool_message", "data": data, "metadata": metadata}
            return
        call = self._by_metadata.get(id(metadata))
        if call is None:
            # A node added it; the next step's values tell it, and the messages of its tools that they were called.
            if isinstance(message, AIMessage):
                self._asked.update((wanted["id"], wanted) for wanted in message.tool_calls if wanted["id"])
            return
        if isinstance(message, AIMessageChunk):
            call.chunks.append(message)
            yield call.event("stream", chunk=message)
            # LangChain sees to it that each streamed answer ends with such a chunk.
            if message.chunk_position != "last":
                return
            message = add_ai_message_chunks(call.chunks[0], *call.chunks[1:])
        del self._by_metadata[id(metadata)]
        yield call.event("end", output=message)

    def left_out(self) -> Iterator[dict[str, Any]]:
        """What models have said, since the last time, that LangGraph leaves out."""
        while self._left_out:
            yield self._left_out.pop(0)

    # --- what the callbacks say -------------------------------------------------------------------

    def on_chain_start(self, *_args: Any, run_id: UUID, parent_run_id: UUID | None = None, **_kwargs: Any) -> None:
        self._parents[run_id] = parent_run_id

    def on_tool_start(self, *_args: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        self._parents[run_id] = parent_run_id
        self._tools.add(run_id)
        if call_id := kwargs.get("tool_call_id"):
            self._marks.tools[call_id] = Origin("tool", kwargs.get("name") or "", tuple(kwargs.get("tags") or ()))

    def on_chat_model_start(self, serialized: Any, *_args: Any, run_id: UUID, **kwargs: Any) -> None:
        call = self._start("chat_model", serialized, run_id, kwargs)
        if TAG_NOSTREAM not in call.tags:
            self._by_metadata[id(call.metadata)] = call

    def on_llm_start(self, serialized: Any, *_args: Any, run_id: UUID, **kwargs: Any) -> None:
        self._start("llm", serialized, run_id, kwargs)

    def _start(self, kind: str, serialized: Any, run_id: UUID, told: dict[str, Any]) -> _Call:
        metadata = told.get("metadata")
        call = _Call(
            kind,
            str(run_id),
            name_of(serialized, told),
            told.get("tags") or [],
            metadata if metadata is not None else {},
        )
        self._running[run_id] = call
        above = told.get("parent_run_id")
        while above is not None:
            if above in self._tools:
                self._marks.inside_tool.add(str(run_id))
                break
            above = self._parents.get(above)
        return call

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_kwargs: Any) -> None:
        call = self._running.pop(run_id, None)
        if call is None or id(call.metadata) in self._by_metadata or call.chunks:
            return
        first = response.generations[0][0] if response.generations and response.generations[0] else None
        if call.kind == "llm":
            text = "" if first is None else first.text
            self._left_out.append(call.event("end", output={"generations": [[{"text": text}]]}))
        elif isinstance(first, ChatGeneration) and TAG_NOSTREAM in call.tags and isinstance(first.message, AIMessage):
            self._left_out.append(call.event("end", output=first.message))

    def on_llm_error(self, *_args: Any, run_id: UUID, **_kwargs: Any) -> None:
        if (call := self._running.pop(run_id, None)) is not None:
            self._by_metadata.pop(id(call.metadata), None)
