"""Graphs that are cut off, fail, or hold back something, one per behaviour; served as ``cut_graphs:name``.

Where a test has to say when something happens, the graph waits at a gate of ``gates``.
"""

from __future__ import annotations

import asyncio
import operator
import threading
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.config import get_store
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from graphs import add, chat_openai, fail


class Gates:
    """Where nodes wait for the test, and what they say to it."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.said: list[str] = []
        self._async: dict[str, asyncio.Event] = {}
        self._threads: dict[str, threading.Event] = {}

    async def wait(self, name: str) -> None:
        self.reached.append(name)
        await self._async.setdefault(name, asyncio.Event()).wait()

    def block(self, name: str) -> None:
        """As ``wait``, in a thread."""
        self.reached.append(name)
        self._threads.setdefault(name, threading.Event()).wait()

    def open(self, name: str) -> None:
        self._async.setdefault(name, asyncio.Event()).set()
        self._threads.setdefault(name, threading.Event()).set()

    def open_all(self) -> None:
        for name in (*self._async, *self._threads):
            self.open(name)

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]


gates = Gates()


def _one(name: str, node: Any) -> Any:
    return StateGraph(MessagesState).add_node(name, node).add_edge(START, name).compile()


def _text(state: MessagesState) -> str:
    return next(str(m.text) for m in reversed(state["messages"]) if isinstance(m, HumanMessage))


# --- tools ----------------------------------------------------------------------------------------


@tool
async def hang(name: str = "hang") -> str:
    """Wait at a gate."""
    await gates.wait(name)
    return "hung"


@tool
def block() -> str:
    """Wait at a gate, in a thread."""
    gates.block("block")
    return "blocked"


@tool
async def think(text: str) -> str:
    """Ask a model."""
    return str((await chat_openai().ainvoke([HumanMessage(text)])).text)


@tool
async def ask(question: str) -> str:
    """Ask a person."""
    return f"answer: {interrupt({'question': question})}"


@tool
async def note(text: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    """Write to the state."""
    return Command(update={"messages": [ToolMessage(f"noted {text}", tool_call_id=tool_call_id)]})


def agent(_config: Any) -> Any:
    """A tool-calling loop whose tools' errors are handled."""
    tools = [add, fail, hang, block, think, ask, note]
    ghost = {"type": "function", "function": {"name": "ghost", "description": "", "parameters": {}}}
    model = chat_openai().bind_tools([*tools, ghost])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_node("tools", ToolNode(tools, handle_tool_errors="The tool could not do that."))
    builder.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
    return builder.compile()


def fragile_agent(_config: Any) -> Any:
    """The same, but a tool's error ends the run."""
    model = chat_openai().bind_tools([fail])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_node("tools", ToolNode([fail], handle_tool_errors=False))
    builder.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
    return builder.compile()


async def _direct(_state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"sum: {await add.ainvoke({'a': 1, 'b': 2})}")]}


direct_tool = _one("direct", _direct)


async def _direct_hang(_state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"{await hang.ainvoke({})}")]}


direct_hang = _one("direct", _direct_hang)


# --- shapes ---------------------------------------------------------------------------------------


def subgraph(_config: Any) -> Any:
    """A model call in the second step of a subgraph; the first step's message is the subgraph's alone so far."""
    model = chat_openai()

    async def inner(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def first(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("inner first", id="inner-first")]}

    inside: Any = StateGraph(MessagesState)
    inside.add_node("first", first)
    inside.add_node("inner", inner)
    inside.add_edge(START, "first").add_edge("first", "inner")
    return _one("outer", inside.compile())


def fan_out(_config: Any) -> Any:
    """Two branches at once: ``a`` is done at once, ``b`` is a model."""
    model = chat_openai()

    async def a(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("a is done", id=f"a-{len(_state['messages'])}")]}

    async def b(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def c(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("joined")]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("a", a)
    builder.add_node("b", b)
    builder.add_node("c", c)
    builder.add_edge(START, "a").add_edge(START, "b").add_edge(["a", "b"], "c")
    return builder.compile()


async def _pass(_state: MessagesState) -> None:
    """Only takes a step."""


async def _a(_state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("a")]}


async def _b(state: MessagesState) -> dict[str, Any]:
    if _text(state) == "hang":
        await gates.wait("b")
    return {"messages": [AIMessage("b")]}


async def _c(state: MessagesState) -> dict[str, Any]:
    last = max(i for i, m in enumerate(state["messages"]) if isinstance(m, HumanMessage))
    return {"messages": [AIMessage("c after " + " ".join(str(m.text) for m in state["messages"][last + 1 :]))]}


def _uneven() -> Any:
    builder: Any = StateGraph(MessagesState)
    builder.add_node("a", _a)
    builder.add_node("b", _b)
    builder.add_node("c", _c)
    builder.add_node("later_a", _pass).add_node("later_b", _pass)
    builder.add_conditional_edges(
        START,
        lambda state: ["a", "later_b"] if _text(state) == "hang" else ["later_a", "b"],
        ["a", "b", "later_a", "later_b"],
    )
    builder.add_edge("later_a", "a").add_edge("later_b", "b").add_edge(["a", "b"], "c")
    return builder.compile()


#: ``c`` waits for ``a`` and ``b``; in the turn "hang", ``a`` comes first and ``b`` hangs, else ``b`` comes first.
join = _uneven()


def routed(_config: Any) -> Any:
    """Routers, at START too, that raise on anything but a user's message or a whole answer."""
    model = chat_openai()

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def at_start(state: MessagesState) -> str:
        if not isinstance(state["messages"][-1], HumanMessage):
            raise TypeError("not a user's message")
        return "model"

    def after(state: MessagesState) -> str:
        if not state["messages"][-1].response_metadata.get("finish_reason"):
            raise ValueError("not a whole answer")
        return END

    builder: Any = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_conditional_edges(START, at_start, ["model"]).add_conditional_edges("model", after, [END])
    return builder.compile()


class _Replaced(TypedDict):
    messages: list[AnyMessage]


def replaced(_config: Any) -> Any:
    """A state whose messages are replaced by each write."""
    model = chat_openai()

    async def call(state: _Replaced) -> dict[str, Any]:
        return {"messages": [*state["messages"], await model.ainvoke(state["messages"])]}

    return StateGraph(_Replaced).add_node("model", call).add_edge(START, "model").compile()


class _Steps(MessagesState):
    count: Annotated[int, operator.add]


async def _step(state: _Steps) -> dict[str, Any]:
    return {"messages": [AIMessage(f"step {state['count']}")], "count": 1}


#: Twenty quick steps a turn.
steps = (
    StateGraph(_Steps)
    .add_node("step", _step)
    .add_edge(START, "step")
    .add_conditional_edges("step", lambda state: END if state["count"] % 20 == 0 else "step", ["step", END])
)


async def _gated(_state: MessagesState) -> dict[str, Any]:
    await gates.wait("gated")
    return {"messages": [AIMessage("through")]}


#: Waits at the gate ``gated`` and answers.
gated = _one("gated", _gated)


# --- nodes that do not do as they are told --------------------------------------------------------


async def _stubborn(state: MessagesState) -> dict[str, Any]:
    if _text(state) != "stay":
        return {"messages": [AIMessage("fine")]}
    try:
        await gates.wait("never")
    except asyncio.CancelledError:
        await gates.wait("stubborn")
    try:
        await get_store().aput(("notes",), "stubborn", {"text": "I was here"})
    except Exception as error:
        gates.said.append(type(error).__name__)
    gates.reached.append("back")
    return {"messages": [AIMessage("I am back")]}


#: Asked to "stay", it swallows its cancellation and comes back when the gate ``stubborn`` opens.
stubborn = _one("stubborn", _stubborn)


async def _after_cancel(_state: MessagesState) -> dict[str, Any]:
    try:
        await gates.wait("never")
    except asyncio.CancelledError:
        raise RuntimeError("secret: cleanup failed") from None
    return {}


#: Turns its cancellation into an error.
sore = _one("sore", _after_cancel)


async def _cancels_itself(_state: MessagesState) -> dict[str, Any]:
    if _text(_state) == "fine":
        return {"messages": [AIMessage("fine")]}
    raise asyncio.CancelledError


cancels_itself = _one("node", _cancels_itself)


def fails(_config: Any) -> Any:
    """Says something, then raises with a secret in the exception, unless the user's message has none."""
    model = chat_openai()

    async def call(state: MessagesState) -> dict[str, Any]:
        answer = await model.ainvoke(state["messages"])
        if "secret" in _text(state):
            raise RuntimeError("secret-in-exception")
        return {"messages": [answer]}

    return _one("model", call)


async def _forever(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("again")]}


#: Takes steps until the limit.
forever = (
    StateGraph(MessagesState)
    .add_node("again", _forever)
    .add_edge(START, "again")
    .add_conditional_edges("again", lambda state: END if _text(state) == "stop" else "again", ["again", END])
)


# --- models whose text is not the answer ----------------------------------------------------------


class Verdict(BaseModel):
    """What is asked for."""

    text: str


def _structured(method: str) -> Any:
    model = chat_openai().with_structured_output(Verdict, method=method)

    async def call(state: MessagesState) -> dict[str, Any]:
        verdict = await model.ainvoke(state["messages"])
        await gates.wait("structured")
        return {"messages": [AIMessage(f"verdict: {verdict.text}")]}

    return _one("judge", call)


def structured_by_schema(_config: Any) -> Any:
    """Structured output as a JSON answer."""
    return _structured("json_schema")


def structured_by_call(_config: Any) -> Any:
    """Structured output as a tool call."""
    return _structured("function_calling")


def quiet(_config: Any) -> Any:
    """A model that readers are not shown streaming."""
    model = chat_openai(tags=["nostream"])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return _one("model", call)


def at_once(_config: Any) -> Any:
    """A model that does not stream."""
    model = chat_openai(disable_streaming=True)

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return _one("model", call)


def sync_model(_config: Any) -> Any:
    """A model called in a thread, by a node that is not async."""
    model = chat_openai()

    def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    return _one("model", call)


def two_models(_config: Any) -> Any:
    """Two models at once, in nodes ``left`` and ``right``."""
    model = chat_openai()

    async def left(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([HumanMessage(f"left\n{_text(state)}")])]}

    async def right(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([HumanMessage(f"right\n{_text(state)}")])]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("left", left)
    builder.add_node("right", right)
    return builder.add_edge(START, "left").add_edge(START, "right").compile()


def drafts(_config: Any) -> Any:
    """A draft that readers see and the thread does not keep; then a gate; then the answer."""
    model = chat_openai()

    async def draft(state: MessagesState) -> None:
        await model.ainvoke([HumanMessage("/tokens 3")])

    async def answer(state: MessagesState) -> dict[str, Any]:
        await gates.wait("answer")
        return {"messages": [AIMessage("answer")]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("draft", draft)
    builder.add_node("answer", answer)
    return builder.add_edge(START, "draft").add_edge("draft", "answer").compile()


def rewrites(_config: Any) -> Any:
    """The graph stores something else than its model said, under the same id."""
    model = chat_openai()

    async def call(state: MessagesState) -> dict[str, Any]:
        answer = await model.ainvoke(state["messages"])
        return {"messages": [AIMessage("rewritten", id=answer.id)]}

    return _one("model", call)


def redacts(_config: Any) -> Any:
    """The graph writes the user's message again, under its id, before it answers."""

    async def redact(state: MessagesState) -> dict[str, Any]:
        return {"messages": [HumanMessage("[redacted]", id=state["messages"][-1].id)]}

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"noted: {_text(state)}")]}

    builder: Any = StateGraph(MessagesState).add_node("redact", redact).add_node("answer", answer)
    return builder.add_edge(START, "redact").add_edge("redact", "answer").compile()
