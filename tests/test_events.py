"""What a graph's events become, told by real events of real graphs."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from conftest import Serve
from harness import Provider
from test_cancel import assert_paired, fresh_gates
from threadwire.events import ROOT, Translator
from threadwire.filters import Filter, Origin, WantedTypes
from threadwire.history import Said, missing, open_tool_calls, page, to_wire
from threadwire.marker import Marker as _Marker
from threadwire.settings import Settings
from threadwire.toolcalls import Marks

__all__ = ["fresh_gates"]  # an autouse fixture

Frames = list[dict[str, Any]]


async def events_of(graph: Any, content: str, marks: Marks) -> list[Any]:
    """The events that a run asks of a graph."""
    if callable(graph) and not hasattr(graph, "compile"):
        graph = graph({})
    compiled = graph.compile(checkpointer=InMemorySaver()) if hasattr(graph, "compile") else graph
    compiled = compiled.copy({"checkpointer": InMemorySaver()})
    stream = compiled.astream_events(
        {"messages": [HumanMessage(content, id="user")]},
        {
            "configurable": {"thread_id": "t"},
            "run_id": uuid.uuid4(),
            "run_name": ROOT,
            "callbacks": [_Marker(marks, lambda: False)],
        },
        version="v2",
        include_names=[ROOT],
        include_types=WantedTypes(),
        stream_mode=["values", "custom"],
        subgraphs=True,
    )
    return [event async for event in stream]


async def translate(graph: Any, content: str = "hi", **policy: Any) -> tuple[Frames, Translator]:
    """A turn's frames under the default policy, or one with other fields, and the translator after it."""
    marks = Marks()
    settings = Settings().events.model_copy(update=policy)
    translator = Translator("run", Filter.of(settings), marks)
    translator.known = {"user"}
    frames: Frames = []
    for event in await events_of(graph, content, marks):
        frames += [frame for frame, _ in translator.feed(event, 0.0)]
    return frames, translator


def of(frames: Frames, kind: str) -> Frames:
    return [frame for frame in frames if frame["type"] == kind]


def text(frames: Frames) -> str:
    return "".join(frame["content"] for frame in of(frames, "token"))


# --- models ---------------------------------------------------------------------------------------


async def test_tokens_tell_the_whole_message(provider: Provider) -> None:
    """Joined, they are the stored text; no message frame says it again."""
    import graphs

    frames, translator = await translate(graphs.openai, "/tokens 20\n/reasoning well then")
    assert translator.state is not None
    stored = translator.state[-1]
    assert text(frames) == stored.text
    assert {f["message_id"] for f in of(frames, "token")} == {stored.id}
    assert {f["node"] for f in of(frames, "token")} == {"model"}
    assert of(frames, "message") == []
    [usage] = of(frames, "usage")
    # Reasoning is output as well.
    assert usage["output_tokens"] >= 20
    assert translator.usage["total_tokens"] == usage["total_tokens"]


async def test_a_quiet_model_comes_as_a_message(provider: Provider) -> None:
    """Tagged nostream, it shows no tokens and no usage frame; what the graph stores of it is a whole message."""
    from cut_graphs import quiet

    frames, translator = await translate(quiet, "/tokens 5")
    assert of(frames, "token") == []
    [message] = of(frames, "message")
    assert translator.state is not None
    assert message["message"]["content"] == translator.state[-1].text
    # Its cost is the run's all the same.
    assert translator.usage["output_tokens"] == 5


async def test_a_model_that_does_not_stream(provider: Provider) -> None:
    """One token frame with the whole text."""
    from cut_graphs import at_once

    frames, translator = await translate(at_once, "/tokens 5")
    assert translator.state is not None
    assert [f["content"] for f in of(frames, "token")] == [translator.state[-1].text]
    assert of(frames, "message") == []


async def test_a_message_without_a_model() -> None:
    """What a node adds by itself is a message frame."""
    import graphs

    frames, _ = await translate(graphs.echo, "hi")
    assert [f["message"]["content"] for f in of(frames, "message")] == ["echo: hi"]
    assert frames == of(frames, "message")


async def test_two_models_at_once(provider: Provider) -> None:
    """Each token says whose it is: joined by message id they are the stored texts."""
    from cut_graphs import two_models

    frames, translator = await translate(two_models, "/tokens 15")
    assert translator.state is not None
    stored = {message.id: str(message.text) for message in translator.state[1:]}
    said: dict[str, str] = {}
    nodes: dict[str, set[str]] = {}
    for frame in of(frames, "token"):
        said[frame["message_id"]] = said.get(frame["message_id"], "") + frame["content"]
        nodes.setdefault(frame["message_id"], set()).add(frame["node"])
    assert said == stored
    assert sorted(map(sorted, nodes.values())) == [["left"], ["right"]]
    assert sum(f["total_tokens"] for f in of(frames, "usage")) == translator.usage["total_tokens"]


async def test_a_rewritten_answer_is_told_again(provider: Provider) -> None:
    """Where the graph stores something else under the tokens' id, a message frame replaces them."""
    from cut_graphs import rewrites

    frames, _ = await translate(rewrites, "/tokens 3")
    [message] = of(frames, "message")
    assert message["message"]["content"] == "rewritten"
    assert message["message"]["id"] == of(frames, "token")[0]["message_id"]


# --- tools ----------------------------------------------------------------------------------------


async def test_equal_parallel_calls(provider: Provider) -> None:
    """Equal calls are told apart by the model's ids."""
    from cut_graphs import agent

    line = '/tool add {"a": 1, "b": 2}\n'
    frames, translator = await translate(agent, line * 3)
    assert_paired(frames)
    assert len(of(frames, "tool_call")) == 3
    assert [(f["result"], f["status"]) for f in of(frames, "tool_result")] == [("3", "ok")] * 3
    assert len(of(frames, "usage")) == 2
    assert translator.usage["input_tokens"] == sum(f["input_tokens"] for f in of(frames, "usage"))


async def test_different_parallel_calls(provider: Provider) -> None:
    """Each result is its own call's."""
    from cut_graphs import agent

    frames, _ = await translate(agent, '/tool add {"a": 1, "b": 2}\n/tool add {"a": 5, "b": 6}')
    args = {f["id"]: f["args"] for f in of(frames, "tool_call")}
    for result in of(frames, "tool_result"):
        assert result["result"] == str(args[result["id"]]["a"] + args[result["id"]]["b"])


async def test_a_tool_error_that_is_handled(provider: Provider) -> None:
    """One result with status error; the exception's words are on no frame."""
    from cut_graphs import agent

    frames, _ = await translate(agent, "/tool fail {}")
    assert_paired(frames)
    assert of(frames, "tool_result")[0]["status"] == "error"
    assert "secret-in-exception" not in repr(frames)


async def test_a_tool_that_is_not_there(provider: Provider) -> None:
    """A call that the tool node answers itself gets its result, an error."""
    from cut_graphs import agent

    frames, _ = await translate(agent, "/tool ghost {}")
    assert_paired(frames)
    assert of(frames, "tool_result")[0]["status"] == "error"


async def test_arguments_that_do_not_fit(provider: Provider) -> None:
    """Bad arguments are an error result as well."""
    from cut_graphs import agent

    frames, _ = await translate(agent, '/tool add {"a": "x"}')
    assert_paired(frames)
    assert of(frames, "tool_result")[0]["status"] == "error"


async def test_a_tool_that_returns_a_command(provider: Provider) -> None:
    """Its result is the ToolMessage in the command's update."""
    from cut_graphs import agent

    frames, _ = await translate(agent, '/tool note {"text": "this"}')
    assert_paired(frames)
    assert of(frames, "tool_call")[0]["args"] == {"text": "this"}
    assert of(frames, "tool_result")[0]["result"] == "noted this"


async def test_a_tool_that_a_node_calls() -> None:
    """Called without a model's asking, it has a call of its own and its result."""
    from cut_graphs import direct_tool

    frames, _ = await translate(direct_tool)
    assert_paired(frames)
    [call] = of(frames, "tool_call")
    assert (call["name"], call["args"], call["node"]) == ("add", {"a": 1, "b": 2}, "direct")
    assert of(frames, "tool_result")[0]["result"] in (3, "3")


async def test_a_policy_without_tools(provider: Provider) -> None:
    """Excluded types become no frames; tokens stay."""
    from cut_graphs import agent

    frames, _ = await translate(agent, '/tool add {"a": 1, "b": 2}', exclude_types=["tool"])
    assert of(frames, "tool_call") == of(frames, "tool_result") == []
    assert text(frames)


async def test_a_tool_of_a_node_that_is_cut(serve: Serve) -> None:
    """A tool that a node called itself and that was cut off gets an error result."""
    served = await serve("cut_graphs:direct_hang")
    socket = await served.attach("t")
    ack = await socket.ask("send", content="hi")
    await socket.until("tool_call")
    await socket.command("cancel", run_id=ack["run_id"])
    await socket.until("run_finished")
    assert_paired(socket.frames)


# --- filters --------------------------------------------------------------------------------------


def test_filters_are_langchains() -> None:
    """Includes are a union, excludes come after, empty is no filter."""
    origin = Origin("chat_model", "gpt", ("a", "b"))
    assert Filter().passes(origin)
    assert Filter(include_types=frozenset({"tool"}), include_tags=frozenset({"b"})).passes(origin)
    assert not Filter(include_names=frozenset({"other"})).passes(origin)
    assert not Filter(include_types=frozenset({"chat_model"}), exclude_tags=frozenset({"a"})).passes(origin)
    assert not Filter(exclude_names=frozenset({"gpt"})).passes(origin)
    assert not Filter(exclude_types=frozenset({"chat_model"})).passes(origin)


# --- history --------------------------------------------------------------------------------------


def test_missing_is_what_makes_it_whole() -> None:
    """User's message, answer, and a result for each open call; doing it twice adds nothing."""
    user = HumanMessage("do it", id="u")
    call = {"id": "c1", "name": "add", "args": {}}
    other = {"id": "c2", "name": "add", "args": {}}
    done = ToolMessage("3", tool_call_id="c1", name="add")
    said = [Said("m", "half", [call, other], ended=True), Said("n", "ha"), Said("o", "")]
    added = missing([SystemMessage("s")], user, said, {"c1": done}, "cancelled")
    wires = [to_wire(message, str(message.id)) for message in added]
    assert [(w["role"], w["content"], w.get("status")) for w in wires] == [
        ("user", "do it", None),
        ("assistant", "half", None),
        ("tool", "3", None),
        ("tool", "The tool was cancelled before it finished.", "failed"),
        ("assistant", "ha", "cancelled"),
    ]
    assert missing(added, user, said, {}, "lost") == []


def test_open_calls_are_the_last_turns() -> None:
    """A call of an earlier turn is not closed behind the user's message that followed it."""
    call = {"id": "c", "name": "add", "args": {}, "type": "tool_call"}
    asked = AIMessage("", tool_calls=[call])
    assert [c["id"] for c in open_tool_calls([HumanMessage("a"), asked])] == ["c"]
    assert open_tool_calls([HumanMessage("a"), asked, HumanMessage("b")]) == []


def test_pages() -> None:
    """From the latest back to the first, each message once."""
    messages = [{"id": str(index)} for index in range(7)]
    found = page(messages, None, 3)
    assert found is not None
    seen = [found[0]]
    while found[1] is not None:
        found = page(messages, found[1], 3)
        assert found is not None
        seen.insert(0, found[0])
    assert [message for messages_ in seen for message in messages_] == messages
    assert page(messages, "none", 3) is None


async def test_a_stopped_run_says_no_more(provider: Provider) -> None:
    """Where the cancellation itself got lost, a stopped run's model is cut at its next token."""
    import graphs

    stopped = asyncio.Event()
    stream = graphs.openai({}).astream_events(
        {"messages": [HumanMessage("/tokens 5000\n/tokens-per-second 500")]},
        {"run_name": ROOT, "callbacks": [_Marker(Marks(), stopped.is_set)]},
        version="v2",
    )
    said: list[str] = []

    async def listen() -> None:
        async for event in stream:
            if event["event"] == "on_chat_model_stream":
                said.append(event["data"]["chunk"].text)
                stopped.set()

    # LangChain trips over a cancellation it did not expect.
    with pytest.raises((asyncio.CancelledError, AttributeError)):
        await listen()
    assert len(said) < 20
