"""What a conversation holds and its model does not take: told to it in words.

A user may send any of LangChain's content blocks. A block that the model's provider refuses, or that LangChain cannot
put into its words, would fail this turn and, since it stays in the thread, every later one. What is stored is not
changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, HumanMessage


class TakeContent(AgentMiddleware[Any, Any]):
    """Sends the model the kinds of blocks it ``takes``, and of the others a note, or their text."""

    def __init__(self, takes: Collection[str]) -> None:
        super().__init__()
        self._takes = frozenset({"text", *takes})

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Put the users' messages into what the model takes."""
        # Most are but text, and all of an old thread's come by here.
        messages = [m if isinstance(m.content, str) else self._taken(m) for m in request.messages]
        return await handler(request.override(messages=messages))

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
