"""A chat model that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, TypeAlias

import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr

#: Text, said a word at a time; tool calls; an exception to be raised; an event to be waited for in the middle.
Answer: TypeAlias = "str | AIMessage | Exception | list[str | asyncio.Event]"

_WORD = re.compile(r"\s*\S+\s*|\s+")


def calls(*named: tuple[str, dict[str, Any]], text: str = "") -> AIMessage:
    """An answer that calls tools: ``calls(("add", {"a": 1, "b": 2}))``."""
    tool_calls = [{"name": name, "args": args, "id": f"call_{uuid.uuid4().hex}"} for name, args in named]
    return AIMessage(text, tool_calls=tool_calls)


class ScriptedModel(BaseChatModel):
    """Answers in the order given: ``ScriptedModel(calls(("add", {"a": 1, "b": 2})), "It is 3.")``.

    A list is an answer with waits in it, ``["Well, ", event, "yes."]``: how to cancel, or to leave, in the middle. One
    asked more often than it has answers raises ``AssertionError``.

    Attributes:
        requests: The messages of each call, in order.
    """

    requests: list[list[BaseMessage]] = Field(default_factory=list)
    _answers: Iterator[Answer] = PrivateAttr()

    def __init__(self, *answers: Answer, **fields: Any) -> None:
        super().__init__(**fields)
        self._answers = iter(answers)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,  # noqa: ARG002 -- the script decides
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools; whether one is called is in the script."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **_: Any,
    ) -> ChatResult:
        pieces = list(self._pieces(messages))
        if any(isinstance(piece, asyncio.Event) for piece in pieces):
            raise AssertionError("an answer that waits needs an async node: await model.ainvoke(...)")
        return generate_from_stream(iter([piece for piece in pieces if isinstance(piece, ChatGenerationChunk)]))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **_: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for piece in self._pieces(messages):
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                await asyncio.sleep(0)
                yield piece

    def _pieces(self, messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk | asyncio.Event]:
        self.requests.append(messages)
        answer = next(self._answers, None)
        if answer is None:
            raise AssertionError(f"the model was asked {len(self.requests)} times, and its script is over")
        if isinstance(answer, Exception):
            raise answer
        for part in answer if isinstance(answer, list) else [answer]:
            if isinstance(part, asyncio.Event):
                yield part
            else:
                yield from _chunks(part)
        yield _chunk(AIMessageChunk(content="", chunk_position="last"))


def _chunks(part: str | AIMessage) -> Iterator[ChatGenerationChunk]:
    for word in _WORD.findall(part if isinstance(part, str) else str(part.text)):
        yield _chunk(AIMessageChunk(content=word))
    if isinstance(part, AIMessage):
        pieces = [
            ToolCallChunk(
                name=call["name"], args=_json(call["args"]), id=call["id"], index=index, type="tool_call_chunk"
            )
            for index, call in enumerate(part.tool_calls)
        ]
        yield _chunk(AIMessageChunk(content="", tool_call_chunks=pieces))


def _chunk(message: AIMessageChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=message)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
