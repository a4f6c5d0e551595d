"""How large what a message carries besides its text is. Pure; ``content`` is as ``send`` has it, checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def attachment_sizes(content: Any) -> Iterator[tuple[int, int]]:
    """Of each content block that holds an attachment: its index, and the attachment's size in bytes, unpacked."""
    if isinstance(content, str):
        return
    for index, block in enumerate(content):
        if block["type"] == "text":
            continue
        # Fields that a block's type does not have may be anything.
        base64, text, url = (
            value if isinstance(value := block.get(name), str) else "" for name in ("base64", "text", "url")
        )
        size = _unpacked(base64) + len(text.encode())
        if url[:5].lower() == "data:":
            head, _, data = url.partition(",")
            size += _unpacked(data) if head.lower().endswith(";base64") else len(data)
        yield index, size


def _unpacked(base64: str) -> int:
    return len(base64.rstrip("=")) * 3 // 4
