"""What only LangChain's callbacks say, and what they can still do: each run has a ``Marker`` among its callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import LLMResult

from threadwire.tally import Probe
from threadwire.toolcalls import Marks


class Marker(BaseCallbackHandler):
    """Collects what the events leave out (``events.Marks``), and stops what has not heard of its cancellation.

    A cancellation is lost where Python 3.11's ``asyncio.wait_for`` has a result at that very moment (gh-86296), and
    ``ChatOpenAI`` waits so for each chunk (``stream_chunk_timeout``): half of all cancels, tried at 1,000 tokens/s, and
    a hundred in a row where the loop is so busy that the next chunk has always come. A thread never hears of one. So a
    stopped run ends at its next token, model or tool, by an exception, which nobody can miss.
    """

    #: Called in place, before the others: a task of its own for each token would cost more than the rest of it.
    run_inline = True

    def __init__(self, marks: Marks, stopped: Callable[[], bool], probe: Probe | None = None) -> None:
        self._marks = marks
        self._stopped = stopped
        self._probe = probe or Probe()

    @property
    def ignore_llm(self) -> bool:
        """Whether ``on_llm_new_token`` need not be called: told here, it costs a token next to nothing."""
        return not (self._stopped() or self._probe.armed)

    def on_llm_new_token(self, *_args: Any, chunk: Any = None, **_kwargs: Any) -> None:
        """Called while it is stopping, or for a token that is timed, see ``ignore_llm``."""
        self._check()
        if self._probe.armed and chunk is not None:
            self._probe.came(getattr(chunk, "message", chunk))

    def on_chat_model_start(self, *_args: Any, run_id: UUID, **kwargs: Any) -> None:
        """No event says whether it is for structured output."""
        self._check()
        if (kwargs.get("options") or {}).get("ls_structured_output_format"):
            self._marks.structured.add(str(run_id))

    def on_tool_start(self, *_args: Any, run_id: UUID, **kwargs: Any) -> None:
        """``on_tool_start`` of the events has no ``tool_call_id``."""
        self._check()
        if call_id := kwargs.get("tool_call_id"):
            self._marks.tool_call_ids[str(run_id)] = call_id

    def _check(self) -> None:
        if self._stopped():
            raise asyncio.CancelledError


def name_of(serialized: dict[str, Any] | None, told: dict[str, Any]) -> str:
    """What a callback's start says its runnable is called, as LangChain's own handler of events has it."""
    about = serialized or {}
    return str(told.get("name") or about.get("name") or (about.get("id") or ["Unnamed"])[-1])


class Costs(BaseCallbackHandler):
    """What the models of a run cost together; ``total()`` is None where none has said it."""

    run_inline = True

    def __init__(self) -> None:
        self._sum = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        self._told = False
        #: What went in and came out, by model.
        self.by_model: dict[str, tuple[int, int]] = {}

    def on_llm_end(self, response: LLMResult, **_kwargs: Any) -> None:
        """A model has ended, a chat model too."""
        for generation in response.generations[0] if response.generations else ():
            message = getattr(generation, "message", None)
            if isinstance(message, AIMessage) and message.usage_metadata:
                usage, model = message.usage_metadata, str(message.response_metadata.get("model_name") or "unknown")
                into, out = self.by_model.get(model, (0, 0))
                self.by_model[model] = into + usage["input_tokens"], out + usage["output_tokens"]
                self.add(dict(usage))

    def add(self, usage: dict[str, Any] | None) -> None:
        """Add what another run cost."""
        if usage:
            self._told = True
            for key in self._sum:
                self._sum[key] += int(usage.get(key) or 0)

    def total(self) -> dict[str, int] | None:
        """As ``run_finished`` has it."""
        return dict(self._sum) if self._told else None


class InPlace(AsyncCallbackManager):
    """Has the handlers that LangChain adds, of events or of the log, called in place as ours are.

    Where one handler is called in place, langchain-core (1.8) tells the others nothing of the start of a plain LLM, and
    its handler then trips over the rest of that call. It also saves a task for each token: 65 µs of CPU a token instead
    of 100, of a model that costs nothing itself.
    """

    @classmethod
    def of(cls, *handlers: BaseCallbackHandler) -> Self:
        """A manager that has these."""
        return cls(list(handlers), list(handlers))

    def add_handler(self, handler: BaseCallbackHandler, inherit: bool = True) -> None:
        """Add one."""
        handler.run_inline = True
        super().add_handler(handler, inherit)
