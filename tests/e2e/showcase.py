"""Graphs for the page: one that repeats Markdown word by word, and an assistant whose every word is scripted.

The scripted one is for pictures and for what needs all kinds of frames: reasoning, tools, a question to a person.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt


class Scripted(BaseChatModel):
    """Says a text word by word, after thinking another."""

    text: str
    thought: str = ""
    calls: tuple[dict[str, Any], ...] = ()
    pause: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for word in re.findall(r"\s*\S+\s*", self.thought):
            chunk = AIMessageChunk(content="", additional_kwargs={"reasoning_content": word})
            yield ChatGenerationChunk(message=chunk)
            await asyncio.sleep(self.pause)
        words = re.findall(r"\s*\S+\s*", self.text)
        for word in words:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
            await asyncio.sleep(self.pause)
        usage = {"input_tokens": 214, "output_tokens": len(words), "total_tokens": 214 + len(words)}
        last = AIMessageChunk(content="", tool_calls=list(self.calls), usage_metadata=usage)
        yield ChatGenerationChunk(message=last)


async def _repeat(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await Scripted(text=state["messages"][-1].text).ainvoke(state["messages"])]}


#: Says again what it is told, so that a test can have any Markdown in an answer.
repeating = StateGraph(MessagesState).add_node("model", _repeat).add_edge(START, "model")


async def _nasty(state: MessagesState) -> dict[str, Any]:
    """A tool call whose name, arguments and result are what it is told."""
    text = state["messages"][-1].text
    call = {"id": f"call-{len(state['messages'])}", "name": "look", "args": {"what": text, text[:50]: 1}}
    return {"messages": [AIMessage("", tool_calls=[call]), ToolMessage(text, tool_call_id=call["id"], name="look")]}


async def _ask(state: MessagesState) -> dict[str, Any]:
    answer = interrupt({"question": state["messages"][-1].text, "answers": ["yes", "no"]})
    return {"messages": [AIMessage(f"You said {answer}.")]}


#: The same in the arguments and result of a tool.
nasty = StateGraph(MessagesState).add_node("tools", _nasty).add_edge(START, "tools")
#: Asks a person what it is told.
asking = StateGraph(MessagesState).add_node("ask", _ask).add_edge(START, "ask")


async def _review(state: MessagesState) -> dict[str, Any]:
    request = {"name": "refund", "args": {"order": "A1002", "amount": 89.0}, "description": state["messages"][-1].text}
    answer = interrupt(
        {
            "action_requests": [request],
            "review_configs": [{"action_name": "refund", "allowed_decisions": ["approve", "edit", "reject"]}],
        }
    )
    return {"messages": [AIMessage(f"Decided: {answer['decisions'][0]}")]}


#: Asks as LangChain's human-in-the-loop middleware does.
reviewing = StateGraph(MessagesState).add_node("review", _review).add_edge(START, "review")


async def _wonder(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"I got {interrupt('Anything to add?')!r}.")]}


#: Takes any answer.
wondering = StateGraph(MessagesState).add_node("ask", _wonder).add_edge(START, "ask")

CODE = """Here is the idea: a thread is a **log**, and every reader of it is a *cursor*. \
A slow reader holds nothing but a number.

```python
class Cursor:
    \"\"\"A reader's place in a log: a number, no queue.\"\"\"

    async def read(self) -> list[bytes]:
        while self.position == self.log.last:
            await self.log.changed()
        frames = self.log.after(self.position)  # merged where nobody took them
        self.position += len(frames)
        return frames
```

From this follow, without further machinery:

1. several tabs on one conversation,
2. resuming after a dropped connection, and
3. slow readers that cost **no memory** and slow nobody down.

| reader | holds | when it stalls |
|---|---|---|
| queue per client | every frame | memory grows |
| cursor | one number | tokens merge |

Read on in the [protocol](https://example.org/protocol)."""

TOKYO = """It is **21:14 in Tokyo**, 17 °C and clear. 🌙

For the evening: 浅草 (*Asakusa*) is lit until 23:00, and the last train back leaves at 00:12."""

THOUGHT = """The user wants the time and the weather in Tokyo. Both need a tool; they do not depend on each other, \
so I can call them at the same time."""

REFUND = """Order **A1002** (a pair of boots, 89.00 €) was paid by card. A refund of that size needs a person's word."""

#: What is asked, and what is thought, called and said.
SCRIPT: dict[str, list[dict[str, Any]]] = {
    "Why are cursors better than queues?": [{"text": CODE}],
    "What time is it in Tokyo, and do I need an umbrella?": [
        {
            "thought": THOUGHT,
            "text": "Let me look.",
            "calls": [
                {"id": "call_time", "name": "current_time", "args": {"zone": "Asia/Tokyo"}},
                {"id": "call_weather", "name": "weather", "args": {"city": "Tokyo", "hours": 6}},
            ],
        },
        {"text": TOKYO},
    ],
    "I want my money back for A1002": [
        {
            "text": REFUND,
            "calls": [{"id": "call_refund", "name": "refund", "args": {"order": "A1002", "amount": 89.0}}],
        },
        {"text": "Done: 89.00 € will be in your account within three days."},
    ],
}


@tool
async def current_time(zone: str) -> str:
    """Tell the time."""
    await asyncio.sleep(0.08)
    return f"Thursday, 2026-11-26T21:14:08+09:00 (JST), {zone}"


@tool
async def weather(city: str, hours: int) -> str:
    """Tell the weather."""
    await asyncio.sleep(0.6)
    return json.dumps({"city": city, "now": "clear", "celsius": 17, "rain_mm": [0] * hours})


@tool
async def refund(order: str, amount: float) -> str:
    """Pay back a customer's order."""
    request = {"name": "refund", "args": {"order": order, "amount": amount}, "description": refund.description}
    interrupt({"action_requests": [request]})
    return "done"


async def _model(state: MessagesState) -> dict[str, Any]:
    messages = state["messages"]
    last = max(index for index, message in enumerate(messages) if message.type == "human")
    said = sum(message.type == "ai" for message in messages[last:])
    steps = SCRIPT.get(messages[last].text, [{"text": f"You said: {messages[last].text}"}])
    step = steps[min(said, len(steps) - 1)]
    return {"messages": [await Scripted(**step, pause=0.02).ainvoke(messages)]}


def _next(state: MessagesState) -> str:
    answer: Any = state["messages"][-1]
    return "tools" if answer.tool_calls else "__end__"


scripted = StateGraph(MessagesState).add_node("model", _model)
scripted.add_node("tools", ToolNode([current_time, weather, refund]))
scripted.add_edge(START, "model")
scripted.add_conditional_edges("model", _next, ["tools", "__end__"])
scripted.add_edge("tools", "model")


async def _fill(state: MessagesState) -> dict[str, Any]:
    count = int(state["messages"][-1].text)
    kinds = (HumanMessage, AIMessage)
    return {
        "messages": [
            kinds[index % 2](f"message {index}\n\nand a second line", id=f"m{index}") for index in range(count)
        ]
    }


#: Told a number, puts as many messages into the thread.
filling = StateGraph(MessagesState).add_node("fill", _fill).add_edge(START, "fill")
