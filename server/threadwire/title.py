"""What a thread is called, and what it is found by: the text of what its user wrote.

Pure. A user's content is text, or LangChain's content blocks as the wire has them.
"""

from __future__ import annotations

from typing import Any

#: The metadata key of a thread's name.
TITLE = "title"
#: How long a title made from a message is at most, in characters.
MAX_TITLE = 60

# Titles are shown in terminals too.
_CONTROL = dict.fromkeys([*range(32), *range(127, 160)], " ")


def plain_text(content: str | list[dict[str, Any]]) -> str:
    """A content's text, one line a block; blocks of other kinds are left out."""
    if isinstance(content, str):
        return content
    texts = (block.get("text") for block in content if block.get("type") == "text")
    return "\n".join(text for text in texts if isinstance(text, str))


def title_of(content: str | list[dict[str, Any]]) -> str | None:
    """The beginning of a content on one line, cut at a word where there is one; None where it has no text."""
    # A title is far shorter than this: a megabyte of text is not split for it.
    words = plain_text(content)[: MAX_TITLE * 20].translate(_CONTROL).split()
    line = " ".join(words)
    if len(line) <= MAX_TITLE:
        return line or None
    cut = line[:MAX_TITLE]
    head, space, _ = cut.rpartition(" ")
    return f"{head if space and len(head) > MAX_TITLE // 2 else cut[:-1]}…"
