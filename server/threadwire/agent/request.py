"""What the model is sent: what it takes of the thread's messages, and as many as fit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse

from threadwire.agent.content import TakenContent
from threadwire.agent.context import ContextBudget


class FitRequest(AgentMiddleware[Any, Any]):
    """Both in one: what LangChain has around each middleware costs more than either."""

    def __init__(self, content: TakenContent, budget: ContextBudget) -> None:
        super().__init__()
        self._content = content
        self._budget = budget

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Put the request's messages into what the model takes."""
        messages = self._budget.fit(request, self._content.of)
        return await handler(request.override(messages=messages))
