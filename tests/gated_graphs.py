"""A graph whose every step waits until a test lets it go: it streams, works with a tool, asks, says, or fails."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

#: What the user's message makes the graph do, by its first word.
STREAM, WORK, ASK, ASK_TWICE, QUESTION, SAY, FAIL = "stream", "work", "ask", "both", "question", "say", "fail"


class Gate:
    """Where steps wait."""

    def __init__(self) -> None:
        #: Whether steps do not wait at all.
        self.free = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def step(self) -> None:
        if self.free:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def let(self, steps: int) -> None:
        """Let so many go."""
        for _ in range(min(steps, len(self._waiting))):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def open(self) -> None:
        """Nothing waits from now on."""
        self.free = True
        self.let(len(self._waiting))

    def close(self) -> None:
        self.free = False

    @property
    def waiting(self) -> bool:
        """Whether a step waits."""
        return bool(self._waiting)


GATE = Gate()


class _Model(BaseChatModel):
    """Answers by the last message, a chunk a step."""

    @property
    def _llm_type(self) -> str:
        return "gated"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        last = messages[-1]
        asked = last.text.split()[0] if isinstance(last, HumanMessage) else STREAM
        for part in _CALLS.get(asked, ()) or ("one ", "two ", "three"):
            await GATE.step()
            message = AIMessageChunk(content=part) if isinstance(part, str) else _call(*part)
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None and isinstance(part, str):
                await run_manager.on_llm_new_token(part, chunk=chunk)
            yield chunk


_CALLS: dict[str, tuple[Any, ...]] = {
    WORK: ("well ", (0, "work")),
    ASK: ((0, "confirm"),),
    ASK_TWICE: ("so ", (0, "confirm"), (1, "confirm"), (2, "work")),
}


def _call(index: int, name: str) -> AIMessageChunk:
    call = tool_call_chunk(name=name, args="{}", id=f"call-{uuid.uuid4().hex}", index=index)
    return AIMessageChunk(content="", tool_call_chunks=[call])


@tool
async def work() -> str:
    """Take a step."""
    await GATE.step()
    return "worked"


@tool
async def confirm() -> str:
    """Ask a person."""
    return f"they said {interrupt('sure?')}"


_MODEL = _Model()


async def _answer(state: MessagesState) -> dict[str, Any]:
    last = state["messages"][-1]
    asked = last.text.split()[0] if isinstance(last, HumanMessage) else STREAM
    if asked in (SAY, FAIL, QUESTION):
        await GATE.step()
        if asked == FAIL:
            raise ValueError("told to")
        answer = interrupt("what?") if asked == QUESTION else "nothing"
        return {"messages": [AIMessage(f"said {answer}")]}
    return {"messages": [await _MODEL.ainvoke(state["messages"])]}


gated = (
    StateGraph(MessagesState)
    .add_node("answer", _answer)
    .add_node("tools", ToolNode([work, confirm]))
    .add_edge(START, "answer")
    .add_conditional_edges("answer", tools_condition)
    .add_edge("tools", "answer")
)
