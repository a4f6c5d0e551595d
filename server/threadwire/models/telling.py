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
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseCallbackHandler
from langchain_core.outputs import ChatGenerationChunk


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

    def __init__(self, manager: AsyncCallbackManagerForLLMRun, owner: object) -> None:
        #: For LangChain, which is not to tell again what has been told.
        self.manager = _told_by(manager)
        self._id = f"lc_run--{manager.run_id}"
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
        self.manager.tell(text, chunk=Piece(text, self._id))

    def gives(self, chunk: ChatGenerationChunk) -> None:
        """LangChain is about to have this, of which all has been told."""
        self.manager.told = chunk


#: The call that is being made, if its text is told past LangChain.
_CURRENT: ContextVar[Telling | None] = ContextVar("telling", default=None)


class _ToldBy(AsyncCallbackManagerForLLMRun):
    """Calls who hears in place, and does no more: LangChain's own would gather."""

    hear: Sequence[Callable[..., Any]]
    told: ChatGenerationChunk | None

    async def on_llm_new_token(self, token: Any, *, chunk: Any = None, **told: Any) -> None:
        if chunk is None or chunk is not self.told:
            self.tell(token, chunk=chunk, **told)

    def tell(self, token: Any, **told: Any) -> None:
        for hear in self.hear:
            hear(token, run_id=self.run_id, parent_run_id=self.parent_run_id, tags=self.tags, **told)


def _told_by(manager: AsyncCallbackManagerForLLMRun) -> _ToldBy:
    made = copy.copy(manager)
    made.__class__ = _ToldBy
    assert isinstance(made, _ToldBy)  # noqa: S101 -- for mypy
    made.hear = [handler.on_llm_new_token for handler in manager.handlers if _hears_in_place(handler)]
    made.told = None
    return made
