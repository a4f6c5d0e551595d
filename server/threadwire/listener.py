"""A run's callbacks as the events they stand for, heard in the moment in which they happen.

``astream_events`` says all of a run, through a queue, to a task of its own: for each token an event with the ids of all
that stands above it, a wake-up of the loop and a change of tasks. Where nobody may see raw events, only a part of that
becomes frames, and this says that part, in place: a token of a model that costs nothing takes 40 % of the CPU less.
What it says has the shape of ``astream_events(version="v2")`` (tried on langchain-core 1.8), and one test holds both to
the same frames.
"""

# ruff: noqa: ARG002, D102 -- the methods are LangChain's, and called when their names say

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk

# Models stream, though only invoked, where such a handler listens: LangGraph's own handlers are found by it too.
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from threadwire.marker import Marker, name_of

#: What each token's event is called, by the kind of its model.
_STREAMED = {"chat_model": "on_chat_model_stream", "llm": "on_llm_stream"}


class Listener(BaseCallbackHandler, _StreamingCallbackHandler[Any]):
    """Gives ``hear`` the events of one run; always on the loop, also where a node runs in a thread.

    It calls ``marker`` itself, before ``hear``, who needs the marks: langchain-core (1.8) puts the handlers into a set
    where it merges managers, so of two handlers either may be called first.
    """

    #: Called in place, in the order of what happens.
    run_inline = True
    #: Text of models is told as it is read, past LangChain, in a ``models.telling.Piece``.
    hears_in_place = True
    #: What ``hear`` raises is a fault of ours, and fails the run.
    raise_error = True

    def __init__(self, hear: Callable[[Any], None], marker: Marker) -> None:
        self._hear = hear
        self._marker = marker
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        # What the events of one model, tool or retriever have in common.
        self._running: dict[UUID, dict[str, Any]] = {}
        self._parents: dict[UUID, UUID | None] = {}

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Leave a runnable's chunks as they are: no frame tells them."""
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        """Leave them."""
        return output

    def _give(self, event: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self._hear(event)
        else:
            # The loop may have ended: a thread that nobody could stop goes on without it.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._hear, event)

    def _start(self, kind: str, serialized: Any, run_id: UUID, told: dict[str, Any], given: Any) -> None:
        self._parents[run_id] = told.get("parent_run_id")
        self._running[run_id] = common = {
            "kind": kind,
            "run_id": str(run_id),
            "name": name_of(serialized, told),
            "tags": told.get("tags") or [],
            "metadata": told.get("metadata") or {},
            "parent_ids": self._above(run_id),
            "input": given,
        }
        self._give({**common, "event": f"on_{kind}_start", "data": {"input": given}})

    def _above(self, run_id: UUID) -> list[str]:
        """What stands above a run, the root first."""
        above: list[str] = []
        parent = self._parents.get(run_id)
        while parent is not None:
            above.append(str(parent))
            parent = self._parents.get(parent)
        return above[::-1]

    def _end(self, run_id: UUID, what: str, **data: Any) -> None:
        common = self._running.pop(run_id, None)
        if common is not None:
            event = f"on_{common['kind']}_{what}"
            self._give({**common, "event": event, "data": {**data, "input": common["input"]}})

    # --- what LangChain calls ---------------------------------------------------------------------

    def on_chain_start(self, *_args: Any, run_id: UUID, parent_run_id: UUID | None = None, **_kwargs: Any) -> None:
        """Nothing to tell, but it stands above others."""
        self._parents[run_id] = parent_run_id

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._marker.on_chat_model_start(run_id=run_id, **kwargs)
        self._start("chat_model", serialized, run_id, kwargs, {"messages": messages})

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._start("llm", serialized, run_id, kwargs, {"prompts": prompts})

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **_kwargs: Any) -> None:
        if not self._marker.ignore_llm:
            self._marker.on_llm_new_token(chunk=chunk)
        common = self._running.get(run_id)
        if common is None:
            return
        if common["kind"] == "llm":
            said = token if chunk is None else chunk
        else:
            said = AIMessageChunk(content=token) if chunk is None else chunk.message
        self._give({**common, "event": _STREAMED[common["kind"]], "data": {"chunk": said}})

    def on_llm_end(self, response: Any, *, run_id: UUID, **_kwargs: Any) -> None:
        first = next((found for generations in response.generations for found in generations), None)
        output = {} if first is None else getattr(first, "message", {"generations": [[{"text": first.text}]]})
        self._end(run_id, "end", output=output)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        """No event tells of it: the run's end does."""
        self._running.pop(run_id, None)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._marker.on_tool_start(run_id=run_id, **kwargs)
        self._start("tool", serialized, run_id, kwargs, kwargs.get("inputs") or {})

    def on_tool_end(self, output: Any, *, run_id: UUID, **_kwargs: Any) -> None:
        self._end(run_id, "end", output=output)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        self._end(run_id, "error", error=error)

    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._start("retriever", serialized, run_id, kwargs, {"query": query})

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_kwargs: Any) -> None:
        self._end(run_id, "end", output=documents)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        self._running.pop(run_id, None)

    def on_custom_event(
        self, name: str, data: Any, *, run_id: UUID, tags: list[str] | None = None, **_kwargs: Any
    ) -> None:
        self._give(
            {
                "event": "on_custom_event",
                "run_id": str(run_id),
                "name": name,
                "tags": tags or [],
                "parent_ids": [],
                "data": data,
            }
        )
