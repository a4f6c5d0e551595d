"""The text of one model call: who listens is told of it as it is read, and LangChain is given it in one piece.

On its way a token goes up through eight generators of the SDK's, langchain-openai's and LangChain's, each with
something to ask of it; LangChain sees what kind each handler is and gathers the others, keeps all chunks until the call
is over, and then adds them up. Their objects, a dozen a token, were most of what the garbage collector had to look at:
with 100 sessions at 50 tokens/s it stopped the loop for 100 ms at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Self, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseCallbackHandler
from langchain_core.outputs import ChatGenerationChunk
from pydantic import BaseModel


def may_tell(manager: AsyncCallbackManagerForLLMRun) -> bool:
    """Whether all who would hear tokens say of themselves that they can so (``hears_in_place``)."""
    return all(_hears_in_place(handler) or _hears_no_tokens(handler) for handler in manager.handlers)


def _hears_in_place(handler: Any) -> bool:
    """A plain function, to which a ``Piece`` is a chunk; it raises nothing but faults of its own."""
    return getattr(handler, "hears_in_place", False) is True


def _hears_no_tokens(handler: Any) -> bool:
    return type(handler).on_llm_new_token is BaseCallbackHandler.on_llm_new_token


class Piece:
    """As much of a chunk, and of its message, as who hears in place asks for: to make them would take a third of it."""

    __slots__ = ("content", "id")
    additional_kwargs: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, content: str, identity: str) -> None:
        self.content = content
        self.id = identity

    @property
    def message(self) -> Piece:
        """It is both."""
        return self


class Telling:
    """One call whose handlers are all called in place.

    It is for one stream, of ``owner``: whoever makes other calls while this one is made has their own.
    """

    def __init__(self, manager: AsyncCallbackManagerForLLMRun, blank: ChatGenerationChunk, owner: object) -> None:
        """``blank`` is a chunk as the model makes them, of no text."""
        self._hear: list[Callable[..., Any]] = [
            handler.on_llm_new_token for handler in manager.handlers if _hears_in_place(handler)
        ]
        #: For LangChain, which is not to tell again what has been told.
        self.manager = _told_by(manager, self._hear)
        self._id = f"lc_run--{manager.run_id}"
        self._blank = blank
        self._about: dict[str, Any] = {
            "run_id": manager.run_id,
            "parent_run_id": manager.parent_run_id,
            "tags": manager.tags,
        }
        self._owner: object | None = owner

    @classmethod
    def of(cls, owner: object) -> Telling | None:
        """That of the stream which ``owner`` is about to open, if it is told so; asked once."""
        telling = _CURRENT.get()
        if telling is None or telling._owner is not owner:  # noqa: SLF001 -- its own
            return None
        telling._owner = None  # noqa: SLF001
        return telling

    def __enter__(self) -> Self:
        _CURRENT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        # And not reset: a call that nobody ends is closed by the collector, in a context of its own.
        _CURRENT.set(None)

    def tell(self, text: str) -> None:
        """Tell a piece of text; it is not kept."""
        piece = Piece(text, self._id)
        for hear in self._hear:
            hear(text, chunk=piece, **self._about)

    def made(self, text: str) -> ChatGenerationChunk:
        """All of the text that was told, as LangChain is to have it."""
        self.manager.told = made = sayer(self._blank)(text)
        return made


#: The call that is being made, if its text is told past LangChain.
_CURRENT: ContextVar[Telling | None] = ContextVar("telling", default=None)


class _ToldBy(AsyncCallbackManagerForLLMRun):
    """Calls who hears in place, and does no more: LangChain's own would gather."""

    hear: Sequence[Callable[..., Any]]
    told: ChatGenerationChunk | None

    async def on_llm_new_token(self, token: Any, *, chunk: Any = None, **told: Any) -> None:
        if chunk is None or chunk is not self.told:
            for hear in self.hear:
                hear(token, chunk=chunk, run_id=self.run_id, parent_run_id=self.parent_run_id, tags=self.tags, **told)


def _told_by(manager: AsyncCallbackManagerForLLMRun, hear: Sequence[Callable[..., Any]]) -> _ToldBy:
    made = copy.copy(manager)
    made.__class__ = _ToldBy
    assert isinstance(made, _ToldBy)  # noqa: S101 -- for mypy
    made.hear, made.told = hear, None
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
