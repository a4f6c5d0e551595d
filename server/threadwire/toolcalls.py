"""The tool calls of one run: told whole when the model has asked, and their results, paired by the model's id.

LangChain's events (tried on langchain-core 1.7, langgraph 1.2) do not say a tool's ``tool_call_id`` at its start, nor
whether a model call is structured output, so ``Marks`` collects that from the callbacks. An answer may come in several
ways: the tool's end, its error, or a message that the tool node wrote by itself. Pure; times come in as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.errors import GraphBubbleUp

from threadwire.filters import Filter, Origin
from threadwire.history import content_of, open_tool_calls
from threadwire.jsonsafe import json_safe

#: A frame, and the event it was made from (None: no filter hides it).
Told: TypeAlias = tuple[dict[str, Any], Origin | None]


@dataclass(slots=True)
class Marks:
    """What only the callbacks say, by LangChain run id."""

    tool_call_ids: dict[str, str] = field(default_factory=dict)
    structured: set[str] = field(default_factory=set)
    #: Model calls that a tool made; said where no event tells of tools.
    inside_tool: set[str] = field(default_factory=set)
    #: The tools that ran, by the model's call id; said where no event tells of tools.
    tools: dict[str, Origin] = field(default_factory=dict)


@dataclass(slots=True)
class _Tool:
    call_id: str
    name: str
    visible: bool
    started_at: float


@dataclass(slots=True)
class _OpenCall:
    """A ``tool_call`` that was told and has no ``tool_result`` yet."""

    name: str
    origin: Origin
    hidden: bool = False
    started_at: float | None = None


class ToolCalls:
    """See the module."""

    def __init__(self, run_id: str, policy: Filter, marks: Marks) -> None:
        self.run_id = run_id
        self._policy = policy
        self._marks = marks
        # By LangChain run id.
        self._running: dict[str, _Tool] = {}
        # By call id: told, and not answered yet.
        self._open: dict[str, _OpenCall] = {}
        # Of those that were answered: where nobody may see the result.
        self._hidden: set[str] = set()
        #: Ids of the calls that were told.
        self.told: set[str] = set()
        #: The results told since the graph's last step, as messages of the wire.
        self.results: list[dict[str, Any]] = []
        #: What tools gave since the graph's last step, by call id: their node may never get to store it.
        self.messages: dict[str, ToolMessage] = {}

    def ran(self, langchain_run_id: str) -> bool:
        """Whether that is a tool's run."""
        return langchain_run_id in self._running

    def settled(self) -> None:
        """The graph has finished a step: it has stored what tools gave before."""
        self.results.clear()
        self.messages.clear()

    def start(self, event: Any, now: float) -> Iterator[Told]:
        """``on_tool_start``."""
        key = event["run_id"]
        origin = Origin("tool", event["name"], tuple(event.get("tags") or ()))
        call_id = self._marks.tool_call_ids.pop(key, None) or key
        visible = self._policy.passes(origin)
        self._running[key] = _Tool(call_id, event["name"], visible, now)
        if visible and call_id not in self.told:
            # Not asked for by a model that readers see: a node called it itself.
            args = json_safe(event["data"].get("input") or {})
            node = event["metadata"].get("langgraph_node")
            yield from self.tell(call_id, event["name"], args if isinstance(args, dict) else {}, node, origin)
        if call_id in self._open:
            self._open[call_id].started_at = now
            self._open[call_id].hidden = not visible

    def tell(self, call_id: str, name: str, args: Any, node: str | None, origin: Origin) -> Iterator[Told]:
        """A call, whole."""
        self.told.add(call_id)
        self._open[call_id] = _OpenCall(name, origin)
        frame = {
            "type": "tool_call",
            "run_id": self.run_id,
            "id": call_id,
            "name": name,
            "args": args,
            "node": node,
        }
        yield frame, origin

    def rename(self, calls: Iterable[dict[str, Any]]) -> None:
        """These are the calls now, by messages that were told again: what is open is called by its new name."""
        for call in calls:
            if call["id"] in self._open:
                self._open[call["id"]].name = call["name"]

    def end(self, event: Any, now: float) -> Iterator[Told]:
        """``on_tool_end``."""
        tool = self._running.get(event["run_id"])
        if tool is None:
            return
        output = event["data"].get("output")
        message = _tool_message(output, tool.call_id)
        if message is not None:
            self.messages[tool.call_id] = message
            result: Any = content_of(message)
            status = "error" if message.status == "error" else "ok"
        else:
            result, status = json_safe(output), "ok"
        yield from self.result(tool.call_id, result, status, now)

    def error(self, event: Any, now: float) -> Iterator[Told]:
        """``on_tool_error``."""
        tool = self._running.get(event["run_id"])
        # A tool that asks a person, or hands over to another graph, "fails" by LangGraph's own exceptions.
        if tool is not None and not isinstance(event["data"].get("error"), GraphBubbleUp):
            # The exception's own words are the operator's: they can hold anything.
            yield from self.result(tool.call_id, f"The tool {tool.name} failed.", "error", now)

    def message(self, event: Any, now: float) -> Iterator[Told]:
        """What a tool gave, where no event tells of tools but its message comes (``stream: "messages"``)."""
        message, asked = event["data"]["output"], event["data"].get("call")
        call_id = message.tool_call_id
        ran = self._marks.tools.get(call_id)
        if asked is not None and ran is not None and call_id not in self.told and self._policy.passes(ran):
            # Not asked for by a model that readers see, and called all the same, as ``start`` tells.
            node = event["metadata"].get("langgraph_node")
            yield from self.tell(call_id, asked["name"], json_safe(asked["args"]), node, ran)
        status = "error" if message.status == "error" else "ok"
        self.messages[call_id] = message
        yield from self.result(call_id, content_of(message), status, now)

    def result(self, call_id: str, result: Any, status: str, now: float) -> Iterator[Told]:
        """The result of a call that is open; none where it is not (it has one, or was never told)."""
        told = self._open.pop(call_id, None)
        if told is None:
            return
        ran = self._marks.tools.get(call_id)
        hidden = told.hidden or (ran is not None and not self._policy.passes(ran))
        shown = None if hidden else result
        if hidden:
            self._hidden.add(call_id)
        duration = None if told.started_at is None else round((now - told.started_at) * 1000)
        self.results.append(
            {
                "id": f"result-{call_id}",
                "role": "tool",
                "content": shown if isinstance(shown, str | list) else "",
                "tool_call_id": call_id,
                "name": told.name,
                **({"status": "failed"} if status == "error" else {}),
            }
        )
        frame = {
            "type": "tool_result",
            "run_id": self.run_id,
            "id": call_id,
            "name": told.name,
            "result": shown,
            "status": status,
            "duration_ms": duration,
        }
        yield frame, told.origin

    def changed(self, message: ToolMessage) -> bool:
        """Whether the graph stored another result than the tool gave, which is the one that was told."""
        given = self.messages.get(message.tool_call_id)
        return (
            given is not None and message.tool_call_id not in self._hidden and content_of(given) != content_of(message)
        )

    def close(self, now: float) -> Iterator[Told]:
        """A ``tool_result`` that says so for each call still open when the run has ended."""
        for call_id in list(self._open):
            yield from self.result(call_id, "The tool did not finish.", "error", now)

    def reopen(self, messages: Sequence[BaseMessage]) -> None:
        """Calls of an earlier run, which asked a person: they are told, and get their results in this one."""
        for call in open_tool_calls(messages):
            origin = Origin("tool", call["name"], ())
            if self._policy.passes(origin):
                self.told.add(call["id"])
                self._open.setdefault(call["id"], _OpenCall(call["name"], origin))


def _tool_message(output: Any, call_id: str) -> ToolMessage | None:
    """The ToolMessage in what a tool gave: itself, in a list, or in a ``Command``'s update."""
    if isinstance(output, ToolMessage):
        return output
    update = getattr(output, "update", None)
    if isinstance(update, dict):
        output = update.get("messages")
    if isinstance(output, list):
        for item in output:
            if isinstance(item, ToolMessage) and item.tool_call_id == call_id:
                return item
    return None
