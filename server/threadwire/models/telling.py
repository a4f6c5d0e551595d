"""The text of one model call: who listens is told of it as it is read, and LangChain is given it in one piece.

On its way a token goes up through eight generators of the SDK's, langchain-openai's and LangChain's, each with
something to ask of it; LangChain sees what kind each handler is and gathers the others, keeps all chunks until the call
is over, and then adds them up. Their objects, a dozen a token, were most of what the garbage collector had to look at:
with 100 sessions at 50 tokens/s it stopped the loop for 100 ms at a time.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, Self, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.outputs import ChatGenerationChunk
from pydantic import BaseModel


def is_in_place(handler: Any) -> bool:
    """Whether a callback handler is called in place, and may raise."""
    plain = handler.run_inline and handler.raise_error
    return plain and not inspect.iscoroutinefunction(handler.on_llm_new_token)


class Telling:
    """One call whose handlers are all called in place; as a context it is ``CURRENT``."""

    def __init__(self, manager: AsyncCallbackManagerForLLMRun, blank: ChatGenerationChunk) -> None:
        """``blank`` is a chunk as the model makes them, of no text."""
        #: For LangChain, which is not to tell again what has been told.
        self.manager = _told_by(manager)
        self._say = sayer(_as_langchain_has_it(blank, f"lc_run--{manager.run_id}"))
        self._hear = [handler.on_llm_new_token for handler in manager.handlers if not handler.ignore_llm]
        self._about: dict[str, Any] = {
            "run_id": manager.run_id,
            "parent_run_id": manager.parent_run_id,
            "tags": manager.tags,
        }
        self._token: Token[Telling | None] | None = None

    def __enter__(self) -> Self:
        self._token = CURRENT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token  # noqa: S101 -- it was entered
        CURRENT.reset(self._token)

    def tell(self, text: str) -> None:
        """Tell a piece of text; it is not kept."""
        chunk = self._say(text)
        for hear in self._hear:
            hear(text, chunk=chunk, **self._about)

    def made(self, text: str) -> ChatGenerationChunk:
        """All of the text that was told, as LangChain is to have it."""
        self.manager.told = made = self._say(text)
        return made


#: The call that is being made, if its text is told past LangChain.
CURRENT: ContextVar[Telling | None] = ContextVar("telling", default=None)


class _ToldBy(AsyncCallbackManagerForLLMRun):
    """LangChain's own, but for what has been told."""

    told: ChatGenerationChunk | None = None

    async def on_llm_new_token(self, token: Any, *, chunk: Any = None, **told: Any) -> None:
        if chunk is None or chunk is not self.told:
            await super().on_llm_new_token(token, chunk=chunk, **told)


def _told_by(manager: AsyncCallbackManagerForLLMRun) -> _ToldBy:
    made = copy.copy(manager)
    made.__class__ = _ToldBy
    assert isinstance(made, _ToldBy)  # noqa: S101 -- for mypy
    return made


def _as_langchain_has_it(blank: ChatGenerationChunk, identity: str) -> ChatGenerationChunk:
    """What ``BaseChatModel`` (langchain-core 1.8) makes of a chunk before it tells it."""
    made = blank.model_copy()
    made.message = blank.message.model_copy()
    made.message.response_metadata = {**made.message.response_metadata}
    made.message.id = identity
    return made


def sayer(blank: ChatGenerationChunk) -> Callable[[str], ChatGenerationChunk]:
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
