"""The model calls of one run: what each has said so far, as tokens come, and what it used.

A call is its LangChain run; its text goes under the id that its message will have. Pure, as ``events.py``, whose
table it is a part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.utils.utils import LC_AUTO_PREFIX

from threadwire.filters import Answer, Filter, Origin
from threadwire.history import Said, text_of
from threadwire.jsonsafe import json_safe
from threadwire.toolcalls import Marks, Told, ToolCalls

#: Content blocks that token, reasoning and tool_call frames tell.
_TOLD_BLOCKS = frozenset({"text", "reasoning", "tool_call", "tool_call_chunk", "invalid_tool_call"})
_USAGE_DETAILS: tuple[Literal["input_token_details", "output_token_details"], ...] = (
    "input_token_details",
    "output_token_details",
)


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


class ModelCalls:
    """See the module."""

    def __init__(self, run_id: str, policy: Filter, marks: Marks, tools: ToolCalls) -> None:
        self.run_id = run_id
        self._policy = policy
        self._marks = marks
        self._tools = tools
        # By LangChain run id.
        self._calls: dict[str, _Call] = {}
        # By message id: what tokens told of a message that no step has shown yet.
        self._told_text: dict[str, str] = {}
        self.usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        #: What went in and came out, by model.
        self.usage_by_model: dict[str, tuple[int, int]] = {}

    def said(self, unfinished_tasks: set[str] | None = None) -> list[Said]:
        """See ``Translator.said``."""
        return [
            Said(call.message_id, "".join(call.parts), call.tool_calls, call.ended)
            for call in self._calls.values()
            if call.visible and call.kept and (call.parts or call.tool_calls)
            if unfinished_tasks is None or call.task_id in unfinished_tasks
        ]

    def told_whole(self, identity: str, message: BaseMessage) -> bool:
        """Whether tokens and tool calls have told all of a message that a step added; asked once."""
        if not isinstance(message, AIMessage):
            return False
        told = self._told_text.pop(identity, None)
        calls = {call["id"] for call in message.tool_calls}
        if told is None or told != text_of(message) or not calls <= self._tools.told:
            return False
        # A picture, a citation, what a provider calls by a name of its own: no token has told it.
        return isinstance(message.content, str) or all(
            block.get("type") in _TOLD_BLOCKS for block in message.content_blocks
        )

    def settled(self) -> None:
        """The graph has finished a step: what ended before it is settled, its state says what became of it."""
        for key in [key for key, call in self._calls.items() if call.ended]:
            del self._calls[key]

    def cut_off(self) -> None:
        """No more tokens will come: what was told of each call is all."""
        for call in self._calls.values():
            if call.visible:
                self._told_text[call.message_id] = "".join(call.parts)

    # --- events -----------------------------------------------------------------------------------

    def start(self, event: Any, _now: float) -> Iterator[Told]:
        """``on_chat_model_start`` and ``on_llm_start``."""
        self._call(event)
        return iter(())

    def _call(self, event: Any) -> _Call:
        key = event["run_id"]
        call = self._calls.get(key)
        if call is None:
            metadata = event["metadata"]
            kind = "llm" if event["event"].startswith("on_llm") else "chat_model"
            origin = Origin(kind, event["name"], tuple(event.get("tags") or ()))
            inside_tool = key in self._marks.inside_tool or any(map(self._tools.ran, event.get("parent_ids") or ()))
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

    def stream(self, event: Any, _now: float) -> Iterable[Told]:
        """``on_chat_model_stream`` and ``on_llm_stream``."""
        call = self._calls.get(event["run_id"]) or self._call(event)
        if not call.visible:
            return ()
        chunk = event["data"]["chunk"]
        if not call.parts and (identity := getattr(chunk, "id", None)):
            # The provider's own id may come first and once, and LangChain's in its place after that.
            named = not identity.startswith(LC_AUTO_PREFIX)
            if named or not call.named:
                call.message_id, call.named = identity, named
        text, reasoning = _parts_of(chunk)
        if reasoning:
            return self._say(call, text, reasoning)
        # No generator: there is one for each token.
        return (self._token(call, text),) if text else ()

    def _token(self, call: _Call, text: str) -> Told:
        call.parts.append(text)
        return self._text("token", call, text), call.text_origin()

    def _say(self, call: _Call, text: str, reasoning: str) -> Iterator[Told]:
        if reasoning:
            call.thought = True
            yield self._text("reasoning", call, reasoning), call.origin
        if text:
            yield self._token(call, text)

    def _text(self, kind: str, call: _Call, content: str) -> dict[str, Any]:
        return {
            "type": kind,
            "run_id": self.run_id,
            "message_id": call.message_id,
            "node": call.node,
            "content": content,
        }

    def end(self, event: Any, _now: float) -> Iterator[Told]:
        """``on_chat_model_end``."""
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

    def llm_end(self, event: Any, _now: float) -> Iterator[Told]:
        """``on_llm_end``."""
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
                yield from self._tools.tell(call_id, wanted["name"], args, call.node, origin)

    def _usage(self, call: _Call, output: AIMessage) -> Iterator[Told]:
        found = output.usage_metadata
        assert found is not None  # noqa: S101 -- the caller looked
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
