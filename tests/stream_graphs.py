"""Graphs for the tests of streaming, served as ``stream_graphs:name``: kinds of models, chains, subgraphs."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.language_models import LLM, BaseChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, GenerationChunk
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, SecretStr
from typing_extensions import TypedDict

from cut_graphs import gates
from graphs import add, chat_openai, fail


class Chunks(BaseChatModel):
    """Says the given chunks, one after the other; called without streaming, their sum."""

    chunks: list[AIMessageChunk]
    streams: bool = True

    @property
    def _llm_type(self) -> str:
        return "chunks"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        whole = self.chunks[0]
        for chunk in self.chunks[1:]:
            whole = whole + chunk
        fields = {key: value for key, value in whole.model_dump().items() if key not in ("type", "tool_call_chunks")}
        fields.pop("chunk_position", None)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(**fields))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self.chunks:
            yield ChatGenerationChunk(message=chunk.model_copy())

    def _should_stream(self, **kwargs: Any) -> bool:
        return self.streams and super()._should_stream(**kwargs)


class Words(LLM):
    """A plain LLM that streams the prompt back, a word at a time."""

    @property
    def _llm_type(self) -> str:
        return "words"

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        return prompt

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        for word in prompt.split(" "):
            chunk = GenerationChunk(text=f"{word} ")
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


class Shelf(BaseRetriever):
    """Finds two documents, always."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(f"{query} {n}", metadata={"n": n}) for n in range(2)]


def one(name: str, node: Any) -> Any:
    return StateGraph(MessagesState).add_node(name, node).add_edge(START, name).compile()


def said(*chunks: AIMessageChunk, streams: bool = True) -> Any:
    """A graph of one call of a model that says them."""
    model = Chunks(chunks=list(chunks), streams=streams)

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return one("model", call)


_USAGE: Any = {
    "input_tokens": 9,
    "output_tokens": 4,
    "total_tokens": 13,
    "input_token_details": {"cache_read": 7},
    "output_token_details": {"reasoning": 3},
}
_BLOCKS = (
    AIMessageChunk(content=[{"type": "reasoning", "reasoning": "let me ", "index": 0}]),
    AIMessageChunk(content=[{"type": "reasoning", "reasoning": "see", "index": 0}]),
    AIMessageChunk(content=[{"type": "text", "text": "A ", "index": 1}]),
    AIMessageChunk(content=[{"type": "text", "text": "cat", "index": 1}]),
    AIMessageChunk(content=[{"type": "image", "url": "https://example.org/cat.png", "index": 2}]),
    AIMessageChunk(content=[], usage_metadata=_USAGE, response_metadata={"model_name": "multi"}),
)
#: Reasoning, text and a picture, with cached and reasoning tokens; streamed, and at once.
blocks = said(*_BLOCKS)
blocks_at_once = said(*_BLOCKS, streams=False)
#: As DeepSeek's and vLLM's servers have it.
_THOUGHT = (
    AIMessageChunk(content="", additional_kwargs={"reasoning_content": "hm, "}),
    AIMessageChunk(content="", additional_kwargs={"reasoning_content": "yes"}),
    AIMessageChunk(content="So."),
)
thoughtful = said(*_THOUGHT)
thoughtful_at_once = said(*_THOUGHT, streams=False)
#: The provider's own id comes first, and then LangChain's in its place, as with OpenAI's Responses API.
named = said(AIMessageChunk(content="", id="resp_1"), AIMessageChunk(content="by "), AIMessageChunk(content="name"))


async def _plain(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    parts = [part async for part in Words().astream(f"{state['messages'][-1].text} indeed", config)]
    return {"messages": [AIMessage("".join(parts))]}


#: A plain LLM that streams.
plain_llm = one("words", _plain)


async def _plain_at_once(_state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(await FakeListLLM(responses=["all at once"]).ainvoke("hi"))]}


#: A plain LLM that does not.
plain_llm_at_once = one("list", _plain_at_once)


def chain(_config: Any) -> Any:
    """A chain that is no graph: prompt | model | parser, its tokens streamed by the node that calls it."""
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{text}")])
    pipe = prompt | chat_openai() | StrOutputParser()

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(await pipe.ainvoke({"text": state["messages"][-1].text}))]}

    return one("chain", call)


class _Private(TypedDict):
    messages: list[BaseMessage]
    topic: str


def nested(_config: Any) -> Any:
    """A model in a subgraph in a subgraph, each with a state of its own kind."""
    model = chat_openai()

    async def write(state: _Private) -> dict[str, Any]:
        return {"messages": [*state["messages"], await model.ainvoke([HumanMessage(state["topic"])])]}

    inner: Any = StateGraph(_Private).add_node("write", write).add_edge(START, "write").compile(name="inner")

    async def middle(state: MessagesState) -> dict[str, Any]:
        found = await inner.ainvoke({"messages": [], "topic": str(state["messages"][-1].text)})
        return {"messages": [found["messages"][-1]]}

    outer: Any = StateGraph(MessagesState).add_node("middle", middle).add_edge(START, "middle").compile(name="outer")
    return one("outer", outer)


def tagged(_config: Any) -> Any:
    """Three models: a tagged planner, a writer, and a critic whose tokens are for nobody."""
    planner = chat_openai(tags=["plan"])
    writer = chat_openai(name="writer")
    critic = chat_openai(tags=["nostream"])

    async def plan(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await planner.ainvoke(state["messages"])]}

    async def write(state: MessagesState) -> dict[str, Any]:
        answer = await writer.ainvoke(state["messages"][:1])
        await critic.ainvoke(state["messages"][:1])
        return {"messages": [answer]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("plan", plan)
    builder.add_node("write", write)
    return builder.add_edge(START, "plan").add_edge("plan", "write").compile()


def everything(_config: Any) -> Any:
    """Events of every type: prompts, parsers, chains, retrievers, models, custom ones, in two tagged branches."""
    model = chat_openai(tags=["one"])
    prompt = PromptTemplate.from_template("about {text}").with_config(tags=["two"])
    pipe = (prompt | model | StrOutputParser()).with_config(run_name="pipe")
    both = RunnableParallel(a=pipe, b=RunnableLambda(str).with_config(run_name="plain", tags=["one", "two"]))

    async def call(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        text = str(state["messages"][-1].text)
        get_stream_writer()({"stage": "writing"})
        await adispatch_custom_event("progress", {"done": 1}, config=config)
        found = await Shelf(tags=["one"]).ainvoke(text, config)
        made = await both.ainvoke({"text": text}, config)
        words = await Words(tags=["two"]).ainvoke(text, config)
        return {"messages": [AIMessage(f"{made['a']} {len(found)} {words}")]}

    return one("work", call)


def fan(_config: Any) -> Any:
    """Three equal models at once, in three nodes."""
    model = chat_openai()
    builder: Any = StateGraph(MessagesState)
    for name in ("a", "b", "c"):

        async def call(state: MessagesState, name: str = name) -> dict[str, Any]:
            return {"messages": [await model.ainvoke([HumanMessage(f"{name}\n{state['messages'][0].text}")])]}

        builder.add_node(name, call)
        builder.add_edge(START, name)
    return builder.compile()


def calls(_config: Any) -> Any:
    """A model that asks for tools and nothing that runs them: what is stored are its calls."""
    model = chat_openai().bind_tools([{"name": "look", "description": "", "parameters": {"type": "object"}}])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return one("model", call)


def by_hand(_config: Any) -> Any:
    """A node that is no model asks for tools: the same twice, one that fails, and one that there is not."""

    def ask(state: MessagesState) -> dict[str, Any]:
        if isinstance(state["messages"][-1], ToolMessage):
            return {"messages": [AIMessage("done")]}
        asked = [("add", {"a": 1, "b": 2}), ("add", {"a": 1, "b": 2}), ("fail", {}), ("ghost", {})]
        calls = [{"name": name, "args": args, "id": f"call-{index}"} for index, (name, args) in enumerate(asked)]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    tools = ToolNode([add, fail], handle_tool_errors=True)
    builder: Any = StateGraph(MessagesState).add_node("ask", ask).add_node("tools", tools)
    builder.add_edge(START, "ask").add_conditional_edges("ask", tools_condition).add_edge("tools", "ask")
    return builder.compile()


@tool
def secret() -> str:
    """Give away what nobody is to see."""
    return "sesame"


secret.tags = ["nostream"]


def hidden_tool(_config: Any) -> Any:
    """A tool whose own tags hide what it gives; the model's asking for it is seen."""
    model = chat_openai().bind_tools([secret])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder: Any = StateGraph(MessagesState).add_node("model", call).add_node("tools", ToolNode([secret]))
    builder.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
    return builder.compile()


@dataclass
class Box:
    """Holds anything, itself too."""

    inside: Any = None


class Model(BaseModel):
    """A pydantic model with a secret in it."""

    anything: Any = None
    key: SecretStr = SecretStr("hunter2")


class Sore:
    """Raises whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def nested_lists(depth: int) -> Any:
    """A core in so many lists."""
    return [nested_lists(depth - 1)] if depth else "core"


def odd_objects() -> dict[str, Any]:
    """Everything that has no plain form in JSON."""
    cycle: list[Any] = [1]
    cycle.append(cycle)
    box = Box()
    box.inside = {"again": box}
    return {
        "message": AIMessage("hi", id="m", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
        "document": Document("page", metadata={"when": dt.date(2026, 1, 2)}),
        "model": Model(anything=Box(1)),
        "dataclass": Box((1, {2})),
        "numpy": [
            np.arange(3),
            np.float64(1.5),
            np.array(["a", None], dtype=object),
            np.datetime64("2026"),
        ],
        "bytes": b"\x00\xff",
        "exception": ValueError("secret-in-exception"),
        "list_cycle": cycle,
        "object_cycle": box,
        "nothing": object(),
        "sore": Sore(),
        "generator": (n for n in range(3)),
        "lambda": str,
        "half": "\ud83d",
        "nan": math.nan,
        "huge": 2**80,
        "keys": {1: "a", (1, 2): "b", None: "c"},
        "deep": nested_lists(200),
        "large": "x" * 200_000,
    }


async def _odd(_state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    for key, value in odd_objects().items():
        await adispatch_custom_event(key, value, config=config)
    return {"messages": [AIMessage("odd")]}


odd = one("odd", _odd)


async def _flood(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    for number in range(int(str(state["messages"][-1].text))):
        await adispatch_custom_event("drop", {"number": number, "weight": "." * 4000}, config=config)
    return {"messages": [AIMessage("flooded")]}


#: Dispatches as many custom events as it is told to, as fast as it can.
flood = one("flood", _flood)


async def _first(state: MessagesState) -> dict[str, Any]:
    return {}


async def _gated(state: MessagesState) -> dict[str, Any]:
    await gates.wait("gated")
    return {"messages": [AIMessage("through")]}


#: A step, then one that waits at the gate ``gated``.
two_steps: Any = (
    StateGraph(MessagesState)
    .add_node("first", _first)
    .add_node("second", _gated)
    .add_edge(START, "first")
    .add_edge("first", "second")
)


async def _count(_state: MessagesState) -> dict[str, Any]:
    gates.reached.append("counted")
    return {"messages": [AIMessage("." * 4000)]}


#: Says that it was reached, and 4,000 dots.
counted = one("count", _count)


async def _gate_named(state: MessagesState) -> dict[str, Any]:
    if (name := str(state["messages"][-1].text)) != "through":
        await gates.wait(name)
    return {"messages": [AIMessage(name)]}


#: Waits at the gate of the name it is told; "through" has none.
gate_named = one("gate", _gate_named)


async def _slashed(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    shout = RunnableLambda(str.upper).with_config(run_name="a/b~c")
    return {"messages": [AIMessage(await shout.ainvoke(str(state["messages"][-1].text), config))]}


#: A runnable whose name is no part of a path.
slashed = one("slashed", _slashed)
