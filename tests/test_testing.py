"""The public test kit: graphs are served, models follow their script, frames are matched and told apart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from graphs import add
from threadwire.client import TurnFailed
from threadwire.errors import StartupError
from threadwire.testing import ScriptedModel, assert_frames, calls, frame, maybe, serve, some


def agent(model: BaseChatModel) -> Any:
    """A loop of a model and a tool."""
    bound = model.bind_tools([add])

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await bound.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call)
    builder.add_node("tools", ToolNode([add]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


async def test_a_scripted_conversation(tmp_path: Path) -> None:
    """A graph that is an object is served; its model says what the script has, and remembers what it was asked."""
    model = ScriptedModel(calls(("add", {"a": 1, "b": 2})), "The sum is 3.", "You are welcome.")
    async with serve(agent(model), folder=tmp_path) as server, server.connect() as chat:
        frames = [found async for found in chat.send("what is 1 + 2?")]
        assert_frames(
            frames,
            "run_started",
            frame("message", message={"role": "user", "content": "what is 1 + 2?"}),
            frame("tool_call", name="add", args={"a": 1, "b": 2}),
            frame("tool_result", result="3", status="ok", duration_ms=lambda found: found >= 0),
            some("token"),
            frame("run_finished", status="completed"),
        )
        assert await chat.send("thanks").text() == "You are welcome."
    assert [message.type for message in model.requests[1]] == ["human", "ai", "tool"]
    assert len(model.requests) == 3


async def test_a_thread_outlives_its_server(tmp_path: Path) -> None:
    """One server after another on the same folder has the threads of the first."""
    async with serve(agent(ScriptedModel("one")), folder=tmp_path) as server, server.connect(thread_id="t") as chat:
        await chat.send("hi").text()
    model = ScriptedModel("two")
    async with serve(agent(model), folder=tmp_path) as server, server.connect(thread_id="t") as chat:
        await chat.send("again").text()
    assert [message.text for message in model.requests[0]] == ["hi", "one", "again"]


async def test_an_answer_that_waits(tmp_path: Path) -> None:
    """An event in an answer holds it, so that a test can cancel in the middle."""
    model = ScriptedModel(["Well, ", asyncio.Event(), "yes."])
    async with serve(agent(model), folder=tmp_path) as server, server.connect() as chat:
        turn = chat.send("hi")
        frames = [await anext(turn)]
        while frames[-1].type != "token":
            frames.append(await anext(turn))
        await turn.cancel()
        frames += [found async for found in turn]
        assert_frames(frames, ..., frame("token", content="Well, "), ..., frame("run_finished", status="cancelled"))


async def test_an_error_and_the_end_of_the_script(tmp_path: Path) -> None:
    """An exception in a script is raised in the graph; so is asking on after the script's end."""
    async with serve(agent(ScriptedModel(ValueError("no"))), folder=tmp_path) as server, server.connect() as chat:
        for text in ("one", "two"):
            with pytest.raises(TurnFailed):
                await chat.send(text).text()


async def test_the_built_in_agent_and_settings() -> None:
    """With no graph the built-in agent is served on the simulated model; sections are settings."""
    async with serve(limits={"history_page": 1}) as server, server.connect() as chat:
        assert "simulated" in await chat.send("hi").text()
        assert len((await chat.history()).messages) == 1


async def test_what_cannot_be_served() -> None:
    """What is no graph is refused as the real server refuses it."""
    with pytest.raises(StartupError):
        async with serve(42):
            pass


A, B, C = {"type": "a", "n": 1}, {"type": "b", "n": 2}, {"type": "c", "n": None}


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([], []),
        ([A, B], ["a", "b"]),
        ([A, B], [...]),
        ([A, B, C], ["a", ..., "c"]),
        ([A, A, B], [some("a"), "b"]),
        ([A, A, B], [some("a"), frame("a", n=1), "b"]),
        ([B], [maybe("a"), "b"]),
        ([A, B], [maybe("a"), "b"]),
        ([A, B, A, C], [..., "a", "c"]),
        ([A], [frame("a", n=lambda found: found < 2)]),
        ([C], [frame("c", n=None, missing=None)]),
    ],
)
def test_frames_that_match(frames: list[dict[str, Any]], expected: list[Any]) -> None:
    """All frames, in order, as expected."""
    assert_frames(frames, *expected)


@pytest.mark.parametrize(
    ("frames", "expected", "why"),
    [
        ([A], [], "expected no further frame, got a n=1"),
        ([], ["a"], "expected frame('a'), got the end"),
        ([A, C], ["a", "b"], "expected frame('b'), got c"),
        ([A, B], ["a", frame("b", n=3)], "expected frame('b', n=3), got b n=2"),
        ([B], [some("a"), "b"], "expected some('a'), got b n=2"),
        ([A, A], [maybe("a")], "expected no further frame, got a n=1"),
        ([A, B, A], ["a", ..., "c"], "expected frame('c')"),
    ],
)
def test_frames_that_do_not_match(frames: list[dict[str, Any]], expected: list[Any], why: str) -> None:
    """The error says what was expected where, and shows the frames."""
    with pytest.raises(AssertionError) as caught:
        assert_frames(frames, *expected)
    assert str(caught.value).startswith(why)
    assert all(found["type"] in str(caught.value) for found in frames)
