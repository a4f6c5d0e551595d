"""Graphs for the tests of readers and of what is served: models that pour, states with types of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.graph import START, MessagesState, StateGraph


class Torrent(BaseChatModel):
    """Asked for ``"20 500"``, it says 20 tokens of 2,000 characters, then 500 of one word, as fast as it can."""

    @property
    def _llm_type(self) -> str:
        return "torrent"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        large, small = (int(number) for number in messages[-1].text.split())
        for number in range(large):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{number}".ljust(2000, ".")))
        for number in range(small):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"w{number} "))


async def _pour(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await Torrent().ainvoke(state["messages"])]}


torrent = StateGraph(MessagesState).add_node("model", _pour).add_edge(START, "model")
