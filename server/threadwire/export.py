"""A conversation as a document: Markdown to read, or JSON to go on with. Pure; messages are the wire's."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_ROLES = {"user": "User", "assistant": "Assistant", "tool": "Tool", "system": "System"}
_ENDED = {"cancelled": "cancelled", "failed": "failed", "lost": "lost", "running": "still being written"}


def to_markdown(title: str, messages: Sequence[dict[str, Any]]) -> str:
    """A document with a heading for each message, tool calls and results in fences."""
    parts = [f"# {' '.join(title.split())}", *(part for message in messages for part in _message(message))]
    return "\n\n".join(parts) + "\n"


def _message(message: dict[str, Any]) -> list[str]:
    name = f" `{message['name']}`" if message.get("name") else ""
    ended = f" ({_ENDED[message['status']]})" if message.get("status") in _ENDED else ""
    parts = [f"## {_ROLES[message['role']]}{name}{ended}"]
    text = _text(message["content"])
    if text.strip():
        parts.append(_fenced(text, "") if message["role"] == "tool" else text.strip())
    for call in message.get("tool_calls", ()):
        arguments = json.dumps(call["args"], ensure_ascii=False, indent=2)
        parts.append(f"Calls `{call['name']}`:\n\n{_fenced(arguments, 'json')}")
    return parts


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(
        str(block.get("text", "")) if block.get("type") == "text" else f"*[{block.get('type', 'block')}]*"
        for block in content
    )


def _fenced(text: str, language: str) -> str:
    """A fence longer than any run of backticks in what it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
