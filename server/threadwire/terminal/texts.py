"""Texts as a terminal may show them. Pure, but for ``note``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from threadwire.protocol import Content, Message, RunFinishedFrame

#: What a model or a tool says must not move the cursor, set the title or write to the clipboard: the control
#: characters of C0 but newline and tab, DEL and C1.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_WHY = {
    "client": "cancelled",
    "disconnect": "cut off: nobody was listening any more",
    "superseded": "cut off: another message took its place",
    "timeout": "cut off: it took longer than the server allows",
    "shutdown": "cut off: the server was stopped",
    "abandoned": "cut off: a step would not stop and was given up",
}
_STATUS = {
    "cancelled": "cut off",
    "failed": "cut off: the turn failed",
    "lost": "cut off: the server went down in mid-answer",
}


def note(text: str) -> None:
    """Tell something beside the answer, a line on stderr."""
    sys.stderr.write(f"threadwire: {clean(text)}\n")
    sys.stderr.flush()


def clean(text: str) -> str:
    """The text without control characters; tabs are spaces."""
    return _CONTROL.sub("", text.replace("\r\n", "\n")).expandtabs(4)


def text_of(content: Content) -> str:
    """What can be read of a message's content; other blocks are named."""
    if isinstance(content, str):
        return content
    parts = []
    for block in content:
        kind = block.get("type")
        if kind == "text":
            parts.append(str(block.get("text", "")))
        elif kind != "reasoning":
            parts.append(f"[{kind}]")
    return "".join(parts)


def reasoning_of(content: Content) -> str:
    """The reasoning among a message's content blocks."""
    blocks = () if isinstance(content, str) else content
    return "".join(str(block.get("reasoning", "")) for block in blocks if block.get("type") == "reasoning")


def brief(value: Any, characters: int = 240, lines: int = 3) -> str:
    """A value in a few lines: text as it is, all else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = clean(text).strip()
    kept = "\n".join(text.splitlines()[:lines])[:characters].rstrip()
    return kept if kept == text else f"{kept} …"


def call(name: str, args: Mapping[str, Any]) -> str:
    """A tool call in a line: ``calculate(expression="1 + 1")``."""
    said = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in args.items())
    return brief(f"{name}({said})".replace("\n", " "), characters=160)


def cut_off(finished: RunFinishedFrame) -> str | None:
    """How a turn ended, where that needs a word."""
    if finished.status in ("completed", "interrupted"):
        return None
    if finished.error is not None:
        return clean(f"{finished.error.message} ({finished.error.code})")
    if finished.status == "lost":
        return _STATUS["lost"]
    return _WHY.get(finished.reason or "") or f"{finished.status}: {finished.reason or 'no reason given'}"


def mark(message: Message) -> str | None:
    """How a message of the history was cut off."""
    return _STATUS.get(message.status)
