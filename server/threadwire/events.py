"""Which of a graph's events a reader sees, and as which frame.

A ``Translator`` is fed the ``astream_events(version="v2")`` events of one run, in order, and gives the frames of the
thread's log. It also keeps the run's transcript: what each model call has said so far and which tool calls are open,
for ``history`` in mid-run and for making a cut-off turn whole.

The server's policy (a ``Filter`` over an event's type, name and tags) is applied here, once for all readers; a
reader's own filter acts at its cursor, on the ``Origin`` a frame carries. Pure and table-driven: knows no asyncio, no
clock (times come in as arguments), no log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.utils.utils import LC_AUTO_PREFIX

from threadwire.filters import Answer, Filter, Origin
from threadwire.history import Said, content_of, message_id, text_of, to_wire
from threadwire.jsonsafe import json_safe
from threadwire.toolcalls import Marks, Told, ToolCalls

#: The name of the root run, by which its events are picked out of the stream.
ROOT = "threadwire"
#: Documents of one retrieval that are sent, and characters of each.
MAX_DOCUMENTS, MAX_DOCUMENT_CHARS = 20, 2000


@dataclass(slots=True)
class _Call:
    """One model call."""

    origin: Origin
    visible: bool
    node: str | None
    #: The id of the root graph's task it runs in: with it, the state can tell whether that task's work is stored.
    task_id: str | None
    #: Whether its text may be kept if the turn is cut off: not a tool's own model, not structured output.
    kept: bool
    #: Structured output's tool call is its format: nothing will be called.
    structured: bool
    message_id: str = ""
    #: Whether that id is the provider's own.
    named: bool = False
    #: Whether any reasoning was told.
    thought: bool = False
    parts: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    # ``origin`` with its answer, made at the first token: there is one for each.
    _text_origin: Origin | None = None

    def answer(self) -> Answer | None:
        """The answer it gives, where that is kept."""
        return Answer(self.message_id, self.task_id) if self.kept else None

    def text_origin(self) -> Origin:
        """Where its text comes from."""
        if self._text_origin is None:
            self._text_origin = self.origin._replace(answer=self.answer())
        return self._text_origin


#: Content blocks that token, reasoning and tool_call frames tell.
_TOLD_BLOCKS = frozenset({"text", "reasoning", "tool_call", "tool_call_chunk", "invalid_tool_call"})
_USAGE_DETAILS: tuple[Literal["input_token_details", "output_token_details"], ...] = (
    "input_token_details",
    "output_token_details",
)


class Translator:
    """The events of one run, as frames. See the module."""

    def __init__(self, run_id: str, policy: Filter, marks: Marks, messages_key: str = "messages") -> None:
        self.run_id = run_id
        self._policy = policy
        self._marks = marks
        #: Ids of the thread's messages that readers know of; grows as the run tells more. The conversation's.
        self.known: set[str] = set()
        self._key = messages_key
        self._calls: dict[str, _Call] = {}
        self.tools = ToolCalls(run_id, policy, marks)
        self._told_text: dict[str, str] = {}
        # The current turn's answers as they were told last, by id.
        self._told_answers: dict[str, dict[str, Any]] = {}
        #: The thread's messages as the graph had them at its last step; None before the first.
        self.state: Sequence[BaseMessage] | None = None
        #: The same, in a list that no graph adds to.
        self._looked_at: list[BaseMessage] = []
        #: Whether the graph said that it waits for a person.
        self.interrupted = False
        self.usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        self.has_usage = False
        #: What went in and came out, by model.
        self.usage_by_model: dict[str, tuple[int, int]] = {}
        self._table: dict[str, Callable[[Any, float], Iterator[Told]]] = {
            "on_chat_model_start": self._model_start,
            "on_llm_start": self._model_start,
            "on_chat_model_stream": self._model_stream,
            "on_llm_stream": self._model_stream,
            "on_chat_model_end": self._model_end,
            "on_llm_end": self._llm_end,
            "on_tool_start": self.tools.start,
            "on_tool_end": self.tools.end,
            "on_tool_error": self.tools.error,
            "on_tool_message": self.tools.message,
            "on_retriever_end": self._retriever_end,
            "on_custom_event": self._custom_event,
            "on_chain_stream": self._root_stream,
        }

    def feed(self, event: Any, now: float) -> Iterator[Told]:
        """The frames one event becomes, each with its origin (None: no filter hides it). ``now`` in seconds."""
        handler = self._table.get(event["event"])
        return handler(event, now) if handler is not None else iter(())

    # --- what the run has said so far -------------------------------------------------------------

    def said(self, unfinished_tasks: set[str] | None = None) -> list[Said]:
        """What model calls said that the graph may not have stored, in the order they began.

        ``unfinished_tasks``: ids of the root graph's tasks whose work is not stored; None: not asked yet, give all
        since the last step.
        """
        return [
            Said(call.message_id, "".join(call.parts), call.tool_calls, call.ended)
            for call in self._calls.values()
            if call.visible and call.kept and (call.parts or call.tool_calls)
            if unfinished_tasks is None or call.task_id in unfinished_tasks
        ]

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
    def answer(self) -> str | None:
        """The text of the thread's last message, where that is an assistant's."""
        last = self.state[-1] if self.state else None
        return text_of(last) if isinstance(last, AIMessage) else None

    def settle(self, messages: Sequence[BaseMessage], now: float) -> Iterator[Told]:
        """What is still to be told when the run was cut off and ``messages`` is all that its thread now holds."""
        for call in self._calls.values():
            if call.visible:
                self._told_text[call.message_id] = "".join(call.parts)
        if self.state is None:
            # Stopped before its first step.
            self.tools.reopen([m for index, m in enumerate(messages) if message_id(m, index) in self.known])
        yield from self._step(messages, now)
        yield from self.tools.close(now)

    # --- models -----------------------------------------------------------------------------------

    def _model_start(self, event: Any, _now: float) -> Iterator[Told]:
        self._call(event)
        return iter(())

    def _call(self, event: Any) -> _Call:
        key = event["run_id"]
        call = self._calls.get(key)
        if call is None:
            metadata = event["metadata"]
            kind = "llm" if event["event"].startswith("on_llm") else "chat_model"
            origin = Origin(kind, event["name"], tuple(event.get("tags") or ()))
            inside_tool = key in self._marks.inside_tool or any(map(self.tools.ran, event.get("parent_ids") or ()))
            call = _Call(
                origin=origin,
                visible=self._policy.passes(origin),
                node=metadata.get("langgraph_node"),
                task_id=_root_task(metadata),
                kept=not inside_tool and key not in self._marks.structured,
                structured=key in self._marks.structured,
                message_id=key,
            )
            self._calls[key] = call
        return call

    def _model_stream(self, event: Any, _now: float) -> Iterator[Told]:
        call = self._calls.get(event["run_id"]) or self._call(event)
        if not call.visible:
            return
        chunk = event["data"]["chunk"]
        if not call.parts and (identity := getattr(chunk, "id", None)):
            # The provider's own id may come first and once, and LangChain's in its place after that.
            named = not identity.startswith(LC_AUTO_PREFIX)
            if named or not call.named:
                call.message_id, call.named = identity, named
        yield from self._say(call, *_parts_of(chunk))

    def _say(self, call: _Call, text: str, reasoning: str) -> Iterator[Told]:
        if reasoning:
            call.thought = True
            yield self._text("reasoning", call, reasoning), call.origin
        if text:
            call.parts.append(text)
            yield self._text("token", call, text), call.text_origin()

    def _text(self, kind: str, call: _Call, content: str) -> dict[str, Any]:
        return {
            "type": kind,
            "run_id": self.run_id,
            "message_id": call.message_id,
            "node": call.node,
            "content": content,
        }

    def _model_end(self, event: Any, _now: float) -> Iterator[Told]:
        call = self._call(event)
        call.ended = True
        output = event["data"].get("output")
        if not isinstance(output, AIMessage):
            return
        if not call.parts and output.id:
            call.message_id = output.id
        if call.visible:
            # A model that does not stream: one frame with the whole text.
            text, reasoning = _parts_of(output)
            yield from self._say(call, "" if call.parts else text, "" if call.thought else reasoning)
            self._told_text[call.message_id] = "".join(call.parts)
            yield from self._tool_calls(call, output)
        if output.usage_metadata:
            yield from self._usage(call, output)

    def _llm_end(self, event: Any, _now: float) -> Iterator[Told]:
        call = self._call(event)
        call.ended = True
        output = event["data"].get("output")
        if not call.visible or call.parts:
            return
        generations = output.get("generations") if isinstance(output, dict) else None
        text = generations[0][0].get("text", "") if generations and generations[0] else ""
        yield from self._say(call, text, "")

    def _tool_calls(self, call: _Call, output: AIMessage) -> Iterator[Told]:
        if call.structured:
            return
        for wanted in output.tool_calls:
            call_id = wanted["id"] or f"{call.message_id}-{len(call.tool_calls)}"
            origin = Origin("tool", wanted["name"], call.origin.tags, call.answer())
            if self._policy.passes(origin):
                args = json_safe(wanted["args"])
                call.tool_calls.append({"id": call_id, "name": wanted["name"], "args": args})
                yield from self.tools.tell(call_id, wanted["name"], args, call.node, origin)

    def _usage(self, call: _Call, output: AIMessage) -> Iterator[Told]:
        found = output.usage_metadata
        assert found is not None  # noqa: S101 -- the caller looked
        self.has_usage = True
        for key in self.usage:
            self.usage[key] += int(found.get(key) or 0)  # type: ignore[call-overload]
        model = str(output.response_metadata.get("model_name") or "unknown")
        into, out = self.usage_by_model.get(model, (0, 0))
        self.usage_by_model[model] = into + found["input_tokens"], out + found["output_tokens"]
        details: dict[str, Any] = {key: found[key] for key in _USAGE_DETAILS if found.get(key)}
        if call.visible:
            frame = {
                "type": "usage",
                "run_id": self.run_id,
                "message_id": call.message_id,
                "model": output.response_metadata.get("model_name"),
                "input_tokens": found["input_tokens"],
                "output_tokens": found["output_tokens"],
                "total_tokens": found["total_tokens"],
                "details": details,
            }
            yield frame, call.origin

    # --- the rest ---------------------------------------------------------------------------------

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
        added = [
            (identity, message)
            for index, message in enumerate(messages[same:], same)
            # What is known is passed over without a call.
            if message.id not in self.known and (identity := message_id(message, index)) not in self.known
        ]
        for identity, message in added:
            self.known.add(identity)
            if isinstance(message, ToolMessage) and message.tool_call_id in self.tools.told:
                # A call the tool node answered itself (an unknown tool, bad arguments) has had no tool event.
                status = "error" if message.status == "error" else "ok"
                yield from self.tools.result(message.tool_call_id, content_of(message), status, now)
                if self.tools.changed(message):
                    yield {"type": "message", "message": to_wire(message, identity)}, None
            elif not self._told_whole(identity, message):
                yield {"type": "message", "message": to_wire(message, identity)}, None
        yield from self._rewritten(messages)
        if first:
            self.tools.reopen(messages)
        else:
            # What ended before this step is settled: the graph's state says what became of it.
            for key in [key for key, call in self._calls.items() if call.ended]:
                del self._calls[key]
            self.tools.settled()

    def _rewritten(self, messages: Sequence[BaseMessage]) -> Iterator[Told]:
        """Answers that the graph has written once more under their id, perhaps with other calls: tell them again.

        Only the current turn's are looked at.
        """
        begins = next((at for at in range(len(messages), 0, -1) if isinstance(messages[at - 1], HumanMessage)), 0)
        for index in range(begins, len(messages)):
            message = messages[index]
            if isinstance(message, AIMessage):
                identity = message_id(message, index)
                wire = to_wire(message, identity)
                if self._told_answers.setdefault(identity, wire) != wire:
                    self._told_answers[identity] = wire
                    self.tools.rename(wire.get("tool_calls") or ())
                    yield {"type": "message", "message": wire}, None

    def _told_whole(self, identity: str, message: BaseMessage) -> bool:
        if isinstance(message, HumanMessage | ToolMessage) or not isinstance(message, AIMessage):
            return False
        told = self._told_text.pop(identity, None)
        calls = {call["id"] for call in message.tool_calls}
        if told is None or told != text_of(message) or not calls <= self.tools.told:
            return False
        # A picture, a citation, what a provider calls by a name of its own: no token has told it.
        return isinstance(message.content, str) or all(
            block.get("type") in _TOLD_BLOCKS for block in message.content_blocks
        )


def _root_task(metadata: dict[str, Any]) -> str | None:
    namespace = metadata.get("langgraph_checkpoint_ns")
    return namespace.split("|", 1)[0].rpartition(":")[2] if isinstance(namespace, str) else None


def _parts_of(message: Any) -> tuple[str, str]:
    """Text and reasoning of a message or a chunk, of a chat model or a plain one."""
    content = getattr(message, "content", None)
    if content is None:
        return (message if isinstance(message, str) else str(getattr(message, "text", ""))), ""
    if isinstance(content, str):
        return content, message.additional_kwargs.get("reasoning_content") or ""
    text, reasoning = [], []
    for block in message.content_blocks:
        if block.get("type") == "text":
            text.append(block.get("text") or "")
        elif block.get("type") == "reasoning":
            reasoning.append(block.get("reasoning") or "")
    return "".join(text), "".join(reasoning)
