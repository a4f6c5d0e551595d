"""``ChatOpenAI`` as it is, and a third of what it costs for each token; also for graphs of one's own.

Of the 200 µs that a token takes through the stock one, 100 go into the SDK's pydantic objects and 60 into httpx2
(``transport.py``), and before each request the SDK walks the whole conversation. What comes out is the same, which a
test holds against the stock one. Importing this module imports langchain_openai.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self, TypeVar

import langchain_openai
import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from openai import AsyncOpenAI
from openai.resources.chat import AsyncCompletions
from pydantic import BaseModel, PrivateAttr, model_validator

from threadwire.models.sse import LeanStream, Text
from threadwire.models.telling import Telling, may_tell

#: What ``create`` takes that is no part of the body: by the SDK's name for it, the name of the request's option.
_OPTIONS = {"extra_headers": "headers", "extra_query": "params", "extra_body": "extra_json", "timeout": "timeout"}
_PARAMETERS = inspect.signature(AsyncCompletions.create).parameters.keys()


class ChatOpenAI(langchain_openai.ChatOpenAI):
    """The stock one with a lean stream; under its name, so that events, filters and traces know it.

    Only its streams are others; all other ways, the Responses API and structured output are the SDK's own.
    """

    #: Makes what the stock one makes of a chunk that says no more than a text.
    _say: Callable[[str], ChatGenerationChunk] = PrivateAttr()

    @model_validator(mode="after")
    def _stream_lean(self) -> Self:
        nothing = {"choices": [{"delta": {"content": ""}}]}
        blank = super()._convert_chunk_to_generation_chunk(nothing, AIMessageChunk, {})
        assert blank is not None  # noqa: S101 -- only a chunk without a delta is none
        self._say = _sayer(blank)
        if self.root_async_client is not None:  # else the caller has given a client of another kind
            # Assigned and not given to the constructor, which would then make no root_async_client.
            self.async_client = LeanCompletions(self.root_async_client)
        return self

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if run_manager is None or not self._may_tell(run_manager, kwargs):
            return await super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)
        with Telling(run_manager, self.async_client) as telling:
            return await super()._agenerate_with_cache(messages, stop, telling.manager, **kwargs)

    def _may_tell(self, manager: AsyncCallbackManagerForLLMRun, kwargs: dict[str, Any]) -> bool:
        """Whether nobody does more with a chunk of text than to tell it to who hears in place, and keep it."""
        # A class of somebody's own may see to each chunk; and a chunk's timeout is between two, which come late.
        if type(self) is not ChatOpenAI or self.output_version == "v1" or self.stream_chunk_timeout:
            return False
        return may_tell(manager) and not self._should_use_protocol_streaming(
            async_api=True, run_manager=manager, **kwargs
        )

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        if type(chunk) is Text and not base_generation_info and default_chunk_class is AIMessageChunk:
            # By its name, a private attribute goes through a method of pydantic's that takes as long as all the rest.
            made: ChatGenerationChunk = (self.__pydantic_private__ or {})["_say"](chunk.text)
            if chunk.telling is not None:
                chunk.telling.gives(made)
            return made
        return super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)


class LeanCompletions:
    """The SDK's ``chat.completions``; its streams are lean."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client
        self._stock = client.chat.completions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    async def create(self, **parameters: Any) -> Any:
        """As ``AsyncCompletions.create``, with the same request; what is no stream or not known to it goes there."""
        if not parameters.get("stream") or not parameters.keys() <= _PARAMETERS:
            return await self._stock.create(**parameters)
        options: Any = {
            option: parameters.pop(name) for name, option in _OPTIONS.items() if parameters.get(name) is not None
        }
        content = None if "extra_json" in options else _encoded(parameters)
        stream = await self._client.post(
            "/chat/completions",
            cast_to=object,
            body=None if content else parameters,
            content=content,
            options=options,
            stream=True,
            stream_cls=LeanStream,
        )
        if (telling := Telling.of(self)) is not None:
            stream.tell(telling)
        return stream


def _encoded(parameters: dict[str, Any]) -> bytes | None:
    """The body as JSON, of which a long conversation makes much; None: there is something that only the SDK knows."""
    try:
        return orjson.dumps(parameters)
    except orjson.JSONEncodeError:
        return None


def _sayer(blank: ChatGenerationChunk) -> Callable[[str], ChatGenerationChunk]:
    """What makes chunks of a text that are else like one: validating each would cost 15 µs, this takes 3."""
    message_like, chunk_like = _maker(blank.message), _maker(blank)
    return lambda text: chunk_like(text=text, message=message_like(content=text))


Made = TypeVar("Made", bound=BaseModel)


def _maker(blank: Made) -> Callable[..., Made]:
    """What makes copies with nothing in common, and with other fields, not validated."""
    kind, fields, fields_set, extra = (
        blank.__class__,
        blank.__dict__,
        blank.__pydantic_fields_set__,
        blank.__pydantic_extra__,
    )
    own = [name for name, value in fields.items() if type(value) in (dict, list)]
    put = object.__setattr__

    def make(**changes: Any) -> Made:
        made = kind.__new__(kind)
        values = fields | changes
        for name in own:
            values[name] = values[name].copy()
        put(made, "__dict__", values)
        put(made, "__pydantic_fields_set__", fields_set.copy())
        put(made, "__pydantic_extra__", None if extra is None else {})
        put(made, "__pydantic_private__", None)
        return made

    return make
