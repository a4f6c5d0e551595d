"""A scripted chat model, honest about being one: what ``script.py`` plans, as LangChain messages.

It needs no provider, so that the whole way can be seen, tested and loaded without one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NoReturn

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from threadwire.errors import ContextTooLong, ModelAuth, ModelError, ModelRateLimited
from threadwire.models.pace import Pace
from threadwire.models.script import Answer, Delta, Failure, Manner, Reasoning, Said, plan

_ROLES = {"human": "user", "ai": "assistant", "tool": "tool", "system": "system"}


class SimulatedChatModel(BaseChatModel):
    """A chat model whose answers are a pure function of the conversation; ``script.py`` has the rules.

    Failures that a message asks for are raised as the ``RunError`` a provider's would be translated to.
    """

    model_name: str = "simulated"
    #: 0 is as fast as possible.
    tokens_per_second: float = Field(default=50.0, ge=0)
    first_token_ms: float = Field(default=200, ge=0)
    #: Exactly that many tokens instead of a sentence.
    tokens: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)

    @property
    def _llm_type(self) -> str:
        return "simulated"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,  # noqa: ARG002 -- a script calls what it is told to
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools; one is called when the user's message says ``/tool NAME {...}``, none is forced."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._plan(messages, kwargs)
        pace, index = Pace(answer, time.monotonic()), 0
        while index < len(answer.deltas):
            time.sleep(pace.wait(index, time.monotonic()))
            until = index + pace.due(index, time.monotonic())
            yield from map(_chunk, answer.deltas[index:until])
            index = until
        if answer.ending == "silent":
            raise ModelError("The simulated model was asked to be silent, and a thread cannot be woken from that.")
        yield self._last(answer)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        answer = self._plan(messages, kwargs)
        pace, index = Pace(answer, time.monotonic()), 0
        while index < len(answer.deltas):
            await asyncio.sleep(pace.wait(index, time.monotonic()))
            until = index + pace.due(index, time.monotonic())
            for delta in answer.deltas[index:until]:
                yield _chunk(delta)
            index = until
        if answer.ending == "silent":
            await asyncio.Event().wait()
        yield self._last(answer)

    def _plan(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> Answer:
        tools = [tool["function"]["name"] for tool in kwargs.get("tools") or []]
        manner = Manner(self.tokens_per_second, self.first_token_ms, self.tokens, self.max_tokens)
        answer = plan([_said(message) for message in messages], tools, manner)
        if answer.failure:
            _fail(answer.failure)
        return answer

    def _last(self, answer: Answer) -> ChatGenerationChunk:
        """The chunk that ends it; with usage, where OpenAI has it too."""
        if answer.ending == "cut":
            raise ModelError("The connection to the simulated model broke off.")
        count = answer.usage
        usage = UsageMetadata(
            input_tokens=count.input_tokens,
            output_tokens=count.output_tokens,
            total_tokens=count.input_tokens + count.output_tokens,
        )
        if count.reasoning_tokens:
            usage["output_token_details"] = OutputTokenDetails(reasoning=count.reasoning_tokens)
        about = {"finish_reason": answer.finish_reason, "model_name": self.model_name}
        message = AIMessageChunk(content="", usage_metadata=usage, response_metadata=about, chunk_position="last")
        return ChatGenerationChunk(message=message)


def _said(message: BaseMessage) -> Said:
    call_id = message.tool_call_id if isinstance(message, ToolMessage) else ""
    return Said(_ROLES.get(message.type, message.type), str(message.text), call_id)


def _chunk(delta: Delta) -> ChatGenerationChunk:
    if isinstance(delta, str):
        message = AIMessageChunk(content=delta)
    elif isinstance(delta, Reasoning):
        message = AIMessageChunk(content="", additional_kwargs={"reasoning_content": delta.text})
    else:
        piece = tool_call_chunk(id=delta.id, name=delta.name, args=delta.arguments, index=delta.index)
        message = AIMessageChunk(content="", tool_call_chunks=[piece])
    return ChatGenerationChunk(message=message)


def _fail(failure: Failure) -> NoReturn:
    if failure.status in (401, 403):
        raise ModelAuth(failure.message)
    if failure.status == 429:
        raise ModelRateLimited(failure.message, retry_after_seconds=failure.retry_after_seconds)
    if failure.code == "context_length_exceeded":
        raise ContextTooLong(failure.message)
    raise ModelError(failure.message)
