"""Which of a graph's events a reader sees, and as which frame.

A ``Translator`` is fed the ``astream_events(version="v2")`` events of one run, in order, and gives the frames of the
thread's log. It also keeps the run's transcript: what each model call has said so far and which tool calls are open,
for ``history`` in mid-run and for making a cut-off turn whole.

The server's policy (a ``Filter`` over an event's type, name and tags) is applied here, once for all readers; a
reader's own filter acts at its cursor, on the ``Origin`` a frame carries. Pure and table-driven: knows no asyncio, no
clock (times come in as arguments), no log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter, is_
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from threadwire.filters import Filter, Origin
from threadwire.history import Said, content_of, message_id, text_of, to_wire
from threadwire.jsonsafe import json_safe
from threadwire.modelcalls import ModelCalls
from threadwire.toolcalls import Marks, Told, ToolCalls

#: The name of the root run, by which its events are picked out of the stream.
ROOT = "threadwire"
#: Documents of one retrieval that are sent, and characters of each.
MAX_DOCUMENTS, MAX_DOCUMENT_CHARS = 20, 2000
_ID = attrgetter("id")


class Translator:
    """The events of one run, as frames. See the module."""

    def __init__(self, run_id: str, policy: Filter, marks: Marks, messages_key: str = "messages") -> None:
        self.run_id = run_id
        self._policy = policy
        #: Ids of the thread's messages that readers know of; grows as the run tells more. The conversation's.
        self.known: set[str] = set()
        self._key = messages_key
        self.tools = ToolCalls(run_id, policy, marks)
        self.models = ModelCalls(run_id, policy, marks, self.tools)
        # The current turn's messages as they were told last, by id.
        self._told_messages: dict[str, dict[str, Any]] = {}
        #: The thread's messages as the graph had them at its last step; None before the first.
        self.state: Sequence[BaseMessage] | None = None
        #: The same, in a list that no graph adds to.
        self._looked_at: list[BaseMessage] = []
        #: Whether the graph said that it waits for a person.
        self.interrupted = False
        self.usage = self.models.usage
        self.usage_by_model = self.models.usage_by_model
        self._table: dict[str, Callable[[Any, float], Iterable[Told]]] = {
            "on_chat_model_start": self.models.start,
            "on_llm_start": self.models.start,
            "on_chat_model_stream": self.models.stream,
            "on_llm_stream": self.models.stream,
            "on_chat_model_end": self.models.end,
            "on_llm_end": self.models.llm_end,
            "on_tool_start": self.tools.start,
            "on_tool_end": self.tools.end,
            "on_tool_error": self.tools.error,
            "on_tool_message": self.tools.message,
            "on_retriever_end": self._retriever_end,
            "on_custom_event": self._custom_event,
            "on_chain_stream": self._root_stream,
        }

    def feed(self, event: Any, now: float) -> Iterable[Told]:
        """The frames one event becomes, each with its origin (None: no filter hides it). ``now`` in seconds."""
        handler = self._table.get(event["event"])
        return handler(event, now) if handler is not None else ()

    # --- what the run has said so far -------------------------------------------------------------

    def said(self, unfinished_tasks: set[str] | None = None) -> list[Said]:
        """What model calls said that the graph may not have stored, in the order they began.

        ``unfinished_tasks``: ids of the root graph's tasks whose work is not stored; None: not asked yet, give all
        since the last step.
        """
        return self.models.said(unfinished_tasks)

    def overlay(self) -> list[dict[str, Any]]:
        """The messages being written, as the wire has them: after the stored ones, in ``history``."""
        stored = {message.id for message in self.state or ()}
        messages: list[dict[str, Any]] = []
        for said in self.said():
            if said.message_id in stored:
                continue
            wire: dict[str, Any] = {"id": said.message_id, "role": "assistant", "content": said.text}
            if not said.ended:
                wire["status"] = "running"
            if said.tool_calls:
                wire["tool_calls"] = said.tool_calls
            messages.append(wire)
        answered = {message.tool_call_id for message in self.state or () if isinstance(message, ToolMessage)}
        messages.extend(result for result in self.tools.results if result["tool_call_id"] not in answered)
        return messages

    @property
    def has_usage(self) -> bool:
        """Whether a model told what it used."""
        return bool(self.usage_by_model)

    @property
    def answer(self) -> str | None:
        """The text of the thread's last message, where that is an assistant's."""
        last = self.state[-1] if self.state else None
        return text_of(last) if isinstance(last, AIMessage) else None

    def settle(self, messages: Sequence[BaseMessage], now: float) -> Iterator[Told]:
        """What is still to be told when the run was cut off and ``messages`` is all that its thread now holds."""
        self.models.cut_off()
        if self.state is None:
            # Stopped before its first step.
            self.tools.reopen([m for index, m in enumerate(messages) if message_id(m, index) in self.known])
        yield from self._step(messages, now)
        yield from self.tools.close(now)

    # --- other events -----------------------------------------------------------------------------

    def _retriever_end(self, event: Any, _now: float) -> Iterator[Told]:
        origin = Origin("retriever", event["name"], tuple(event.get("tags") or ()))
        if not self._policy.passes(origin):
            return
        documents = event["data"].get("output") or []
        frame = {
            "type": "retrieval",
            "run_id": self.run_id,
            "name": event["name"],
            "query": str((event["data"].get("input") or {}).get("query", "")),
            "documents": [
                {
                    "id": document.id,
                    "page_content": document.page_content[:MAX_DOCUMENT_CHARS],
                    "metadata": json_safe(document.metadata, 4096),
                }
                for document in documents[:MAX_DOCUMENTS]
            ],
            "status": "ok",
        }
        yield frame, origin

    def _custom_event(self, event: Any, _now: float) -> Iterator[Told]:
        yield from self._custom(event["name"], event["data"], tuple(event.get("tags") or ()))

    def _custom(self, name: str, data: Any, tags: tuple[str, ...] = ()) -> Iterator[Told]:
        origin = Origin("custom", name, tags)
        if self._policy.passes(origin):
            yield {"type": "custom", "run_id": self.run_id, "name": name, "data": json_safe(data)}, origin

    def _root_stream(self, event: Any, now: float) -> Iterator[Told]:
        if event["name"] != ROOT or event.get("parent_ids"):
            return
        namespace, mode, payload = event["data"]["chunk"]
        if mode == "custom":
            yield from self._custom("custom", payload)
        elif mode == "values" and not namespace and isinstance(payload, dict):
            if "__interrupt__" in payload:
                self.interrupted = True
            messages = payload.get(self._key)
            if isinstance(messages, list):
                yield from self._step(messages, now)

    def _step(self, messages: Sequence[BaseMessage], now: float) -> Iterator[Told]:
        """The graph has finished a step: tell what it added and the tokens did not."""
        first, before = self.state is None, self._looked_at
        self.state, self._looked_at = messages, list(messages)
        # An old thread has thousands: those of the step before are not looked at again.
        same = len(before) if len(before) <= len(messages) and all(map(is_, before, messages)) else 0
        added = []
        # All of an old thread's are known at first, which is soon said of them together.
        if not self.known.issuperset(map(_ID, messages[same:])):
            added = [
                (identity, message)
                for index, message in enumerate(messages[same:], same)
                if (identity := message_id(message, index)) not in self.known
            ]
        for identity, message in added:
            self.known.add(identity)
            if isinstance(message, ToolMessage) and message.tool_call_id in self.tools.told:
                # A call the tool node answered itself (an unknown tool, bad arguments) has had no tool event.
                status = "error" if message.status == "error" else "ok"
                yield from self.tools.result(message.tool_call_id, content_of(message), status, now)
                if self.tools.changed(message):
                    yield {"type": "message", "message": to_wire(message, identity)}, None
            elif not self.models.told_whole(identity, message):
                yield {"type": "message", "message": to_wire(message, identity)}, None
        yield from self._rewritten(messages)
        if first:
            self.tools.reopen(messages)
        else:
            self.models.settled()
            self.tools.settled()

    def _rewritten(self, messages: Sequence[BaseMessage]) -> Iterator[Told]:
        """What the graph has written once more under its id, perhaps with other calls: tell it again.

        Only the current turn's are looked at: the user's message, and the answers that follow it.
        """
        begins = next((at for at in range(len(messages) - 1, -1, -1) if isinstance(messages[at], HumanMessage)), 0)
        for index in range(begins, len(messages)):
            message = messages[index]
            if isinstance(message, AIMessage | HumanMessage):
                identity = message_id(message, index)
                wire = to_wire(message, identity)
                if self._told_messages.setdefault(identity, wire) != wire:
                    self._told_messages[identity] = wire
                    self.tools.rename(wire.get("tool_calls") or ())
                    yield {"type": "message", "message": wire}, None
