"""What a conversation holds and its model does not take: told to it in words.

A user may send any of LangChain's content blocks. A block that the model's provider refuses, or that LangChain cannot
put into its words, would fail this turn and, since it stays in the thread, every later one. What is stored is not
changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from langchain_core.messages import AnyMessage, HumanMessage


class TakenContent:
    """The kinds of blocks a model ``takes``; of the others it gets a note, or their text."""

    def __init__(self, takes: Collection[str]) -> None:
        self._takes = frozenset({"text", *takes})

    def of(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        """The users' messages in what the model takes."""
        # Most are but text; where there is no budget, all of an old thread's come by here.
        return [m if isinstance(m.content, str) else self._taken(m) for m in messages]

    def _taken(self, message: AnyMessage) -> AnyMessage:
        if not isinstance(message, HumanMessage) or isinstance(message.content, str):
            return message
        blocks = [block if isinstance(block, str) else self._block(block) for block in message.content]
        return message if blocks == message.content else message.model_copy(update={"content": blocks})

    def _block(self, block: dict[Any, Any]) -> dict[Any, Any]:
        kind = str(block.get("type", ""))
        if kind in self._takes:
            return block
        if kind == "text-plain" and block.get("text"):
            return {"type": "text", "text": str(block["text"])}
        return {"type": "text", "text": f"[The user sent content of the type {kind} here, which you cannot read.]"}
