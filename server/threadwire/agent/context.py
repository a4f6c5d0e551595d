"""A conversation that fits the model: what is sent is trimmed, what is stored is not.

Whole turns go first, the oldest first, so that what is sent begins with a user's message and no tool call is parted
from its results. The system prompt, the last user message and the latest step always stay. Tokens are counted
approximately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.utils import count_tokens_approximately

#: Makes of messages what the model takes of them.
Taken = Callable[[Sequence[AnyMessage]], list[AnyMessage]]
#: Of a model's own limit; the rest is for its answer and for what counting approximately gets wrong.
USABLE = 0.8
#: What an image costs with most providers, more or less; LangChain's 85 is the smallest there is.
IMAGE_TOKENS = 1000
#: What LangChain counts as the role, of messages that are but text.
_ROLES = {"human": "user", "ai": "assistant"}
#: A tool result that has to be cut keeps at least this many characters.
MIN_RESULT = 500


def context_budget(model: BaseChatModel, configured: int | None) -> int | None:
    """Tokens that may be sent: what is configured, else most of what the model is known to take, else no bound."""
    if configured is not None:
        return configured or None
    limit = (model.profile or {}).get("max_input_tokens")
    return int(limit * USABLE) if limit else None


class ContextBudget:
    """Keeps each request to the model under ``budget`` tokens; None: there is no bound."""

    def __init__(self, budget: int | None) -> None:
        self._budget = budget
        #: What was counted last, since it takes two milliseconds: the tools, and their tokens.
        self._counted: tuple[list[Any], int] = ([], 0)

    def fit(self, request: ModelRequest[Any], taken: Taken) -> list[AnyMessage]:
        """The request's messages trimmed, as ``taken`` makes them; tools and system prompt have their part first."""
        if self._budget is None:
            return taken(request.messages)
        others = self._tool_tokens(request.tools)
        if request.system_message:
            others += _tokens(request.system_message)
        return fit(request.messages, self._budget - others, taken)

    def _tool_tokens(self, tools: list[Any]) -> int:
        if [id(tool) for tool in tools] != [id(tool) for tool in self._counted[0]]:
            self._counted = (list(tools), count_tokens_approximately([], tools=tools))
        return self._counted[1]


def fit(messages: Sequence[AnyMessage], budget: int, taken: Taken = list) -> list[AnyMessage]:
    """The latest messages that fit into ``budget`` tokens, in whole turns; of the last turn at least what must stay."""
    start = _turn_start(messages, len(messages))
    turns = [taken(messages[start:])]
    left = budget - sum(map(_tokens, turns[0]))
    if left < 0:
        return _fit_turn(turns[0], budget)
    while start > 0:
        # Backwards, and not beyond what fits: a thread may be far longer than what is sent.
        before = _turn_start(messages, start)
        turn = taken(messages[before:start])
        left -= sum(map(_tokens, turn))
        if left < 0:
            break
        start = before
        turns.append(turn)
    return [message for turn in reversed(turns) for message in turn]


def _turn_start(messages: Sequence[BaseMessage], end: int) -> int:
    """Where the turn begins that ends before ``end``."""
    return next((at for at in range(end - 1, -1, -1) if isinstance(messages[at], HumanMessage)), 0)


def _fit_turn(turn: list[AnyMessage], budget: int) -> list[AnyMessage]:
    """The user's message and the latest steps that fit; a step is an answer with the results of its tool calls."""
    steps = [at for at, message in enumerate(turn) if isinstance(message, AIMessage)]
    opening = turn[: steps[0]] if steps else turn
    left = budget - sum(map(_tokens, opening))
    start = len(turn)
    for begin in reversed(steps):
        left -= sum(map(_tokens, turn[begin:start]))
        if left < 0 and start < len(turn):
            break
        start = begin
        if left < 0:
            return [*opening, *_cut_results(turn[start:], -left)]
    return [*opening, *turn[start:]]


def _cut_results(step: list[AnyMessage], excess: int) -> list[AnyMessage]:
    """Take ``excess`` tokens out of the step's tool results, the same part of each."""
    total = sum(_tokens(message) for message in step if isinstance(message, ToolMessage))
    part = max(0.0, 1 - excess / total) if total else 1.0
    return [_cut(message, part) if isinstance(message, ToolMessage) else message for message in step]


def _cut(message: ToolMessage, part: float) -> ToolMessage:
    text = str(message.text)
    keep = max(MIN_RESULT, int(len(text) * part * 0.95))
    if len(text) <= keep:
        return message
    note = f"\n[cut here: {len(text) - keep} more characters do not fit into the context]"
    return message.model_copy(update={"content": text[:keep] + note})


def _tokens(message: AnyMessage) -> int:
    """An estimate: four characters a token, as LangChain has it; for other scripts than Latin's four bytes."""
    content, role = message.content, _ROLES.get(message.type)
    if role and type(content) is str and content.isascii() and not (message.name or getattr(message, "tool_calls", [])):
        # What most messages are, counted as LangChain does, which takes 16 µs a message for it.
        return ceil((len(content) + len(role)) / 4) + 3
    text = str(message.text)
    wider = 0 if text.isascii() else (len(text.encode("utf-8", "surrogatepass")) - len(text)) // 4
    return count_tokens_approximately([message], tokens_per_image=IMAGE_TOKENS) + wider
