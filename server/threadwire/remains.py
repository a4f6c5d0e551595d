"""What the journal has of a run that its process did not end: what it had said, and which tool calls are open.

Read from the thread's frames and where they came from, as ``events.py`` made them. Calls are of all its runs: one that
asks a person is told by another run than its result. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from langchain_core.messages import ToolMessage

from threadwire.filters import Answer, Origin
from threadwire.history import Said

_COUNTS = ("input_tokens", "output_tokens", "total_tokens")


class Remains:
    """See the module. Fed the thread's frames in order, as the journal has them: number, bytes, origin."""

    def __init__(self, run_id: str, frames: Iterable[tuple[int, bytes, Origin | None]]) -> None:
        self._run_id = run_id
        self._answers: dict[str, tuple[Answer, Said]] = {}
        #: What was told of each message, by its id: its text.
        self.texts: dict[str, str] = {}
        #: Names of the calls that were told and have had no result, by id.
        self.open: dict[str, str] = {}
        #: What tools gave, by call id, where readers were shown it.
        self.results: dict[str, ToolMessage] = {}
        #: Ids of the calls that were told.
        self.calls: set[str] = set()
        #: The sum of what was told; None where nothing was.
        self.usage: dict[str, int] | None = None
        texts: dict[str, list[str]] = {}
        for _seq, data, origin in frames:
            frame = orjson.loads(data)
            if frame["type"] == "message":
                # It has no run's id; each is the thread's newest of that id.
                self.texts[frame["message"]["id"]] = _text(frame["message"]["content"])
                continue
            if frame.get("run_id") == run_id:
                self._take(frame, origin, texts)
            self._follow(frame)
        for identity, parts in texts.items():
            self.texts[identity] = "".join(parts)
            if identity in self._answers:
                self._answers[identity][1].text = self.texts[identity]

    def _follow(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "tool_call":
            self.open[frame["id"]] = frame["name"]
            self.calls.add(frame["id"])
            self.results.pop(frame["id"], None)
        elif frame["type"] == "tool_result":
            name = self.open.pop(frame["id"], frame["name"])
            if frame["result"] is not None:
                self.results[frame["id"]] = _result(frame, name)

    def _take(self, frame: dict[str, Any], origin: Origin | None, texts: dict[str, list[str]]) -> None:
        kind = frame["type"]
        if kind == "token":
            texts.setdefault(frame["message_id"], []).append(frame["content"])
            self._answer(origin)
        elif kind == "tool_call":
            if (said := self._answer(origin)) is not None:
                said.ended = True
                said.tool_calls.append({"id": frame["id"], "name": frame["name"], "args": frame["args"]})
        elif kind == "usage":
            self.usage = self.usage or dict.fromkeys(_COUNTS, 0)
            for key in _COUNTS:
                self.usage[key] += frame[key]
            if (found := self._answers.get(frame["message_id"])) is not None:
                # Told at the end of a model call only.
                found[1].ended = True

    def _answer(self, origin: Origin | None) -> Said | None:
        answer = origin.answer if origin is not None else None
        if answer is None:
            return None
        return self._answers.setdefault(answer.message_id, (answer, Said(answer.message_id, "")))[1]

    def said(self, unfinished: set[str]) -> list[Said]:
        """What model calls said that the graph may not have stored; ``unfinished``: its tasks whose work is not."""
        return [
            said for answer, said in self._answers.values() if answer.task_id is None or answer.task_id in unfinished
        ]


def _result(frame: dict[str, Any], name: str) -> ToolMessage:
    result = frame["result"]
    return ToolMessage(
        content=result if isinstance(result, str | list) else orjson.dumps(result).decode(),
        tool_call_id=frame["id"],
        name=name,
        status="error" if frame["status"] == "error" else "success",
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text", "")) for block in content if block.get("type") == "text")
