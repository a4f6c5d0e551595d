"""The built-in agent: its tools, its context, its messages in a delta channel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.tools import BaseTool
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.prebuilt import ToolRuntime
from langgraph.store.memory import InMemoryStore

from conftest import Serve
from harness import Provider, Socket, eventually
from threadwire.agent import open_agent
from threadwire.agent.arithmetic import evaluate, show
from threadwire.agent.context import IMAGE_TOKENS, _tokens, context_budget, fit
from threadwire.agent.messages import fold_messages
from threadwire.agent.tools import make_tools
from threadwire.graph import open_agent_graph
from threadwire.history import user_message
from threadwire.models.simulated import SimulatedChatModel
from threadwire.repair import make_whole
from threadwire.settings import AGENT_TOOLS, Agent
from threadwire.storage import open_storage


async def call(socket: Socket, *tools: str) -> list[tuple[str, str]]:
    """One turn in which the model calls these tools; status and result of each, in the order of the calls."""
    frames = await socket.turn("\n".join(f"/tool {tool}" for tool in tools))
    assert frames[-1]["status"] == "completed", frames[-1]
    results = {frame["id"]: frame for frame in frames if frame["type"] == "tool_result"}
    ids = [frame["id"] for frame in frames if frame["type"] == "tool_call"]
    return [(results[identity]["status"], results[identity]["result"]) for identity in ids]


# --- tools ---------------------------------------------------------------------------------------


async def test_tools_end_to_end(serve: Serve) -> None:
    """Parallel calls of the agent's tools are told, answered in the thread and read by the model."""
    served = await serve()
    socket = await served.attach("t1")
    found = await call(
        socket,
        'calculate {"expression": "2^10 / 3"}',
        'convert_units {"value": 20, "from_unit": "degC", "to_unit": "degF"}',
        'save_note {"title": "Plans", "text": "sail"}',
    )
    assert found == [
        ("ok", "341.333333333333"),
        ("ok", "20 degC = 68 degree_Fahrenheit"),
        ("ok", "Saved the note 'Plans'."),
    ]
    assert "341.333333333333" in socket.text()
    roles = [message["role"] for message in await served.history("t1")]
    assert roles == ["user", "assistant", "tool", "tool", "tool", "assistant"]


async def test_tools_through_a_real_provider(serve: Serve, provider: Provider) -> None:
    """ChatOpenAI is offered all tools, calls one, and gets its result by the call's id."""
    served = await serve(model={"name": "openai:simulated", "base_url": provider.base_url})
    socket = await served.attach("t1")
    assert await call(socket, 'calculate {"expression": "6*7"}') == [("ok", "42")]
    first, second = (await provider.requests())[-2:]
    assert [tool["function"]["name"] for tool in first["tools"]] == list(AGENT_TOOLS)
    assistant, tool = second["messages"][-2:]
    assert (tool["role"], tool["content"], tool["tool_call_id"]) == ("tool", "42", assistant["tool_calls"][0]["id"])


async def test_mistakes_of_the_model_are_results(serve: Serve) -> None:
    """Wrong arguments, malformed ones and what a tool cannot do are told to the model; the run goes on."""
    served = await serve()
    socket = await served.attach("t1")
    found = await call(
        socket,
        'calculate {"formula": "1"}',
        'current_time {"zone": "Atlantis"}',
        # Every argument has a default: dropping this one would tell the time of another place.
        'current_time {"timezone": "Europe/Berlin"}',
        'save_note {"title": "a", "text": "b", "user": "someone else"}',
    )
    assert [status for status, _ in found] == ["error"] * 4
    await socket.turn("/tool list_notes {}\n/tool calculate oops")
    before = await served.history("t1")
    await socket.turn("and on")
    after = await served.history("t1")
    assert after[: len(before)] == before
    assert [message["role"] for message in after[len(before) :]] == ["user", "assistant"]
    malformed = [message for message in after if message["role"] == "tool" and "malformed" in message["content"]]
    assert len(malformed) == 1


async def test_only_named_tools_are_offered(serve: Serve, provider: Provider, tmp_path: Path) -> None:
    """agent.tools says which; with none of them no tools are sent at all."""
    model = {"name": "openai:simulated", "base_url": provider.base_url}
    for names in (["calculate", "current_time"], []):
        served = await serve(model=model, agent={"tools": names}, database=tmp_path / f"{len(names)}.db")
        await (await served.attach("t1")).turn()
        offered = [tool["function"]["name"] for tool in (await provider.requests())[-1].get("tools", [])]
        assert sorted(offered) == sorted(names)


def test_settings_name_the_tools_there_are() -> None:
    """The names that the settings know are those of the tools, in their order."""
    assert [tool.name for tool in make_tools(AGENT_TOOLS)] == list(AGENT_TOOLS)


def test_unknown_tool_is_refused() -> None:
    """An unknown name is a mistake in the config, told with the nearest known one."""
    with pytest.raises(ValueError, match="there is no tool 'calculator'; the nearest is calculate"):
        Agent(tools=["calculator"])


async def test_a_model_without_tools_is_offered_none() -> None:
    """A model that cannot call tools gets an agent that offers none, and it answers."""
    async with open_agent(FakeListChatModel(responses=["hello"]), Agent(), calls_tools=False, takes=()) as agent:
        state = await agent.graph.ainvoke({"messages": [HumanMessage("hi")]})
    assert [message.text for message in state["messages"]] == ["hi", "hello"]


def tool_named(name: str) -> BaseTool:
    [found] = make_tools([name])
    return found


async def result(name: str, **arguments: Any) -> str:
    return str(await tool_named(name).ainvoke(arguments))


async def test_current_time() -> None:
    """The time is now, in the zone asked for, with its day of the week; UTC where none is."""
    told = await result("current_time", zone="Asia/Tokyo")
    day, stamp, zone = told.split(" ")
    then = datetime.fromisoformat(stamp)
    assert abs(datetime.now(UTC) - then) < timedelta(seconds=30)
    assert (day, zone, then.utcoffset()) == (f"{then:%A},", "(JST)", timedelta(hours=9))
    assert "(UTC)" in await result("current_time")


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        ("berlin", "Did you mean Europe/Berlin?"),
        ("New York", "Did you mean America/New_York?"),
        ("Europe/Brelin", "Did you mean Europe/Berlin"),
        ("../../etc/passwd", "There is no time zone"),
        ("", "There is no time zone"),
        ("\0", "There is no time zone"),
        ("x" * 10_000, "Expected a name such as"),
    ],
)
async def test_unknown_zones(zone: str, told: str) -> None:
    """What is no zone is told, with those that may have been meant."""
    assert told in await result("current_time", zone=zone)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("0.1 + 0.2", "0.3"),
        ("10 / 4", "2.5"),
        ("10 / 5", "2"),
        ("7 // 2", "3"),
        ("-7 % 3", "2"),
        ("2 ^ 10", "1024"),
        ("2 ** -1", "0.5"),
        ("-2 ^ 2", "-4"),
        ("2^64 + 1", "18446744073709551617"),
        ("sqrt(16) + max(1, 2, 3)", "7"),
        ("round(pi, 4)", "3.1416"),
        ("round(2567, -2)", "2600"),
        ("sin(radians(30))", "0.5"),
        ("factorial(20)", "2432902008176640000"),
        ("1_000 * 1e-3", "1"),
        ("0 * -1.0", "0"),
    ],
)
def test_arithmetic(expression: str, value: str) -> None:
    """Whole numbers are exact, others have 15 digits; the usual precedence holds."""
    assert show(evaluate(expression)) == value


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("9**9**9", "too large"),
        ("3999999**3999999", "too large"),
        ("2**4095 * 2", "too large"),
        ("1e308 * 10", "too large"),
        ("exp(1000)", "too large"),
        ("10.0 ** 400", "too large"),
        ("factorial(10**9)", "from 0 to 500"),
        ("factorial(2.5)", "from 0 to 500"),
        ("round(1, -10**9)", "from -20 to 20"),
        ("1 / 0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("(-8) ^ (1/3)", "not a real number"),
        ("sqrt(-1)", "sqrt: "),
        ("1e999 - 1e999", "too large"),
        ("1,000 + 1", "thousands separators"),
        ("__import__('os')", "unexpected"),
        ("open(1)", "there is no 'open'"),
        ("pi.real", "not an arithmetic expression"),
        ("sqrt", "there is no 'sqrt'"),
        ("abs(1, 2)", "does not take these arguments"),
        ("True + 1", "not an arithmetic expression"),
        ("1j", "not an arithmetic expression"),
        ("1 if 2 else 3", "not an arithmetic expression"),
        ("", "not an arithmetic expression"),
        ("(" * 250 + "1" + ")" * 40, "not an arithmetic expression"),
        ("1+" * 200 + "1", "longer than 300"),
    ],
)
def test_arithmetic_has_bounds(expression: str, told: str) -> None:
    """What is no arithmetic, has no value, or would cost more than a moment is refused."""
    with pytest.raises(ValueError, match=told):
        evaluate(expression)


@given(st.text(alphabet="0123456789.+-*/%^() epi,sqrtfacoldun", max_size=300))
def test_any_arithmetic_is_quick(expression: str) -> None:
    """Whatever is asked, there is a finite number or a sentence, at once."""
    start = time.process_time()
    try:
        shown = show(evaluate(expression))
    except ValueError as error:
        shown = str(error)
    assert shown
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "told"),
    [
        (5, "miles", "km", "5 miles = 8.04672 kilometer"),
        (90, "km/h", "meters per second", "90 km/h = 25 meter / second"),
        (-40, "°F", "°C", "-40 °F = -40 degree_Celsius"),
        (3, "GiB", "MB", "3 GiB = 3221.225472 megabyte"),
        (1, "square meter", "ft^2", "1 square meter = 10.76391042 foot ** 2"),
        (9.81, "m/s^2", "ft/s**2", "9.81 m/s^2 = 32.18503937 foot / second ** 2"),
        (1, "km", "kg", "Cannot convert: "),
        (1, "parsnip", "kg", "Unknown unit: parsnip."),
        (1, "m^9^9^9^9", "m", "Not a unit: "),
        (1, "10**9", "m", "Not a unit: "),
        (1, "__import__('os')", "m", "Not a unit: "),
        (1, "m" * 61, "m", "Not a unit: "),
        (1, "", "m", "Not a unit: "),
    ],
)
async def test_units(value: float, from_unit: str, to_unit: str, told: str) -> None:
    """Quantities are converted; what is no unit, or another dimension, is told."""
    assert (await result("convert_units", value=value, from_unit=from_unit, to_unit=to_unit)).startswith(told)


async def test_notes_outlive_their_thread(serve: Serve) -> None:
    """A note is seen in other threads of the user and after a restart, replaced, listed and deleted."""
    served = await serve()
    first = await served.attach("t1")
    await call(first, 'save_note {"title": "Boat", "text": "blue"}')
    assert await call(first, 'save_note {"title": " Boat ", "text": "red"}') == [("ok", "Replaced the note 'Boat'.")]
    await first.ws.close()
    await served.server.close()
    second = await (await serve(database=served.database)).attach("t2")
    assert await call(second, 'read_note {"title": "Boat"}', "list_notes {}") == [("ok", "red"), ("ok", "Notes: Boat")]
    assert await call(second, 'delete_note {"title": "Boat"}') == [("ok", "Deleted the note 'Boat'.")]
    gone = ("error", "There is no note 'Boat'. The notebook is empty.")
    assert await call(second, 'read_note {"title": "Boat"}') == [gone]
    assert await call(second, 'delete_note {"title": "Boat"}') == [gone]


class Notebook:
    """A user's notebook, through the tools as the agent runs them."""

    def __init__(self, store: InMemoryStore, user: Any) -> None:
        configurable = {} if user is None else {"langgraph_auth_user": user}
        self.runtime: ToolRuntime[Any, Any] = ToolRuntime(
            state={},
            context=None,
            config={"configurable": configurable},
            stream_writer=print,
            tool_call_id="c",
            store=store,
        )

    async def use(self, name: str, **arguments: Any) -> str:
        call = {"name": name, "args": {**arguments, "runtime": self.runtime}, "id": "c", "type": "tool_call"}
        return str((await tool_named(name).ainvoke(call)).content)


@pytest.mark.parametrize("user", ["ann@example.com", {"identity": "ann@example.com"}, "a.b%2Ec", ""])
async def test_each_user_has_a_notebook(user: Any) -> None:
    """Who is authenticated sees their own notes and nobody else's, whatever characters the identity has."""
    store = InMemoryStore()
    mine, other = Notebook(store, user), Notebook(store, "a%2Eb.c")
    await mine.use("save_note", title="key", text="mine")
    assert await other.use("list_notes") == "The notebook is empty."
    assert await mine.use("read_note", title="key") == "mine"


async def test_a_notebook_has_bounds() -> None:
    """Titles, texts and the number of notes are bounded; a note that is there can still be replaced."""
    store = InMemoryStore()
    notebook = Notebook(store, None)
    assert "at most 20000" in await notebook.use("save_note", title="long", text="x" * 20_001)
    assert "from 1 to 100" in await notebook.use("save_note", title="x" * 101, text="")
    assert "from 1 to 100" in await notebook.use("save_note", title="  ", text="")
    for number in range(500):
        await store.aput(("notes", "local"), f"n{number}", {"text": ""})
    assert "full" in await notebook.use("save_note", title="one more", text="")
    assert "Replaced" in await notebook.use("save_note", title="n7", text="new")


# --- context -------------------------------------------------------------------------------------


def turns(count: int, text: str = "x" * 400) -> list[AnyMessage]:
    """So many turns of a question, a tool call, its result and an answer: about 330 tokens each."""
    found: list[AnyMessage] = []
    for number in range(count):
        calls = [{"name": "look", "args": {}, "id": f"c{number}", "type": "tool_call"}]
        found += [
            HumanMessage(f"q{number} {text}", id=f"q{number}"),
            AIMessage("", tool_calls=calls, id=f"t{number}"),
            ToolMessage(text, tool_call_id=f"c{number}", id=f"r{number}"),
            AIMessage(text, id=f"a{number}"),
        ]
    return found


def assert_can_be_sent(messages: Sequence[AnyMessage]) -> None:
    """Begins with the user, and calls and results are there in pairs."""
    assert isinstance(messages[0], HumanMessage)
    calls = [call["id"] for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    assert calls == [message.tool_call_id for message in messages if isinstance(message, ToolMessage)]


@given(st.integers(1, 8), st.integers(-500, 4000), st.integers(0, 3))
def test_what_is_sent_is_whole(count: int, budget: int, cut: int) -> None:
    """Whatever the budget, the last user message is sent, calls have their results, and order stays."""
    messages = turns(count)[: -cut or None]
    sent = fit(messages, budget)
    assert_can_be_sent([m for m in sent if not (isinstance(m, AIMessage) and m.id == messages[-1].id and cut == 2)])
    assert f"q{count - 1}" in [message.id for message in sent]
    ids = [message.id for message in messages]
    assert [ids.index(message.id) for message in sent] == sorted(ids.index(message.id) for message in sent)


def test_the_oldest_turns_go_first() -> None:
    """As many of the latest turns as fit are sent, whole; all of them where they fit."""
    messages = turns(10)
    assert fit(messages, 100_000) == messages
    assert [message.id for message in fit(messages, 800)] == [message.id for message in messages[-8:]]


def test_a_long_turn_loses_its_oldest_steps() -> None:
    """In a turn of many tool calls the user's message and the latest steps are sent."""
    steps = [message for message in turns(10) if not isinstance(message, HumanMessage)]
    sent = fit([HumanMessage("do it", id="q"), *steps], 700)
    assert_can_be_sent(sent)
    assert sent[0].id == "q"
    assert sent[-1].id == "a9"
    assert 4 < len(sent) < 12


def test_a_huge_result_is_cut() -> None:
    """A result that alone is too long is cut to what fits, in what is sent only; it says so."""
    call: Any = {"name": "look", "args": {}, "id": "c", "type": "tool_call"}
    result = ToolMessage("y" * 100_000, tool_call_id="c", id="r")
    sent = fit([HumanMessage("q"), AIMessage("", tool_calls=[call]), result], 2000)
    assert len(sent) == 3
    assert 4000 < len(sent[2].text) < 8000
    assert "more characters do not fit" in sent[2].text
    assert len(result.text) == 100_000


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage(""),
        HumanMessage("Hello, you."),
        HumanMessage("Hello", name="ada"),
        HumanMessage([{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": "x"}}]),
        AIMessage("What a day"),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}]),
        ToolMessage("3", tool_call_id="1"),
        SystemMessage("Be brief."),
    ],
)
def test_tokens_are_counted_as_langchain_does(message: AnyMessage) -> None:
    """The quick way for messages that are but text counts what LangChain's counts."""
    assert _tokens(message) == count_tokens_approximately([message], tokens_per_image=IMAGE_TOKENS)


def test_scripts_other_than_latin_are_counted() -> None:
    """Text of which a character is about a token is not taken for a quarter of it."""
    messages: list[AnyMessage] = [HumanMessage("本" * 400), AIMessage("好"), HumanMessage("hi")]
    assert len(fit(messages, 200)) == 1


def test_the_bound_comes_from_the_model() -> None:
    """Without a setting the model's own limit is used, as far as it is known; 0 is no bound."""
    unknown = FakeListChatModel(responses=[])
    known = FakeListChatModel(responses=[], profile={"max_input_tokens": 10_000})
    assert [context_budget(model, None) for model in (unknown, known)] == [None, 8000]
    assert [context_budget(known, tokens) for tokens in (500, 0)] == [500, None]


async def test_a_long_thread_keeps_working(serve: Serve, provider: Provider) -> None:
    """What is sent stays under the bound with the system prompt first; what is stored is the whole thread."""
    model = {"name": "openai:simulated", "base_url": provider.base_url}
    agent = {"max_context_tokens": 1200, "tools": ["calculate"], "system_prompt": "Be kind."}
    served = await serve(model=model, agent=agent)
    socket = await served.attach("t1")
    for number in range(12):
        await socket.turn(f'/tool calculate {{"expression": "{number}*2"}}\n' + "word " * 150)
    for request in await provider.requests():
        assert request["messages"][0] == {"role": "system", "content": "Be kind."}
        assert request["messages"][1]["role"] == "user"
        assert sum(len(str(message["content"] or "")) for message in request["messages"]) < 1200 * 4
    sizes = [len(request["messages"]) for request in await provider.requests()]
    assert max(sizes) > 6
    assert len(await served.history("t1")) == 12 * 4


# --- messages in a delta channel -----------------------------------------------------------------


def test_folding_is_what_add_messages_does() -> None:
    """Messages are appended, replaced by id and removed; removing all begins anew."""
    one, two, three = (HumanMessage(str(number), id=str(number)) for number in (1, 2, 3))
    new = HumanMessage("new", id="1")
    assert fold_messages([one, two], [[new], three]) == [new, two, three]
    assert fold_messages([one, two], [[RemoveMessage(id="1"), RemoveMessage(id="?")]]) == [two]
    assert fold_messages([one, two], [[RemoveMessage(id=REMOVE_ALL_MESSAGES), three]]) == [three]
    assert fold_messages([], [[{"role": "user", "content": "hi", "id": "9"}]]) == [HumanMessage("hi", id="9")]


_MESSAGES: st.SearchStrategy[list[list[BaseMessage]]] = st.lists(
    st.lists(
        st.one_of(
            st.tuples(st.text(max_size=3), st.sampled_from("abcd")).map(lambda pair: HumanMessage(pair[0], id=pair[1])),
            st.sampled_from(["a", "b", REMOVE_ALL_MESSAGES]).map(lambda identity: RemoveMessage(id=identity)),
        ),
        max_size=4,
    ),
    max_size=5,
)


@given(_MESSAGES, _MESSAGES)
def test_folding_in_batches(first: list[list[BaseMessage]], second: list[list[BaseMessage]]) -> None:
    """What the channel counts on: two batches one after the other give what both at once give."""
    assert fold_messages(fold_messages([], first), second) == fold_messages([], [*first, *second])


def size_of(folder: Path) -> int:
    """Bytes of the files in it: the database with its write-ahead log."""
    return sum(path.stat().st_size for path in folder.iterdir())


async def test_the_file_grows_with_the_text(tmp_path: Path) -> None:
    """200 turns take about twice the room of 100, and all of them are there."""
    database = tmp_path / "x.db"
    config: Any = {"configurable": {"thread_id": "t1"}}
    text = "a tide goes out and the river keeps its slow way " * 40
    async with open_storage(f"sqlite:///{database}") as storage:
        model = SimulatedChatModel(tokens_per_second=0, first_token_ms=0)
        async with open_agent_graph(model, Agent(), calls_tools=True, takes=(), saver=storage.saver()) as graph:

            async def size_after(turns: range) -> int:
                for number in turns:
                    run = graph.for_run(storage.saver(), storage.store)
                    await run.ainvoke({"messages": [HumanMessage(f"{number} {text}")]}, config)
                return size_of(tmp_path)

            first = await size_after(range(100))
            second = await size_after(range(100, 200)) - first
            state = await graph.for_state(storage.reader).aget_state(config)
    assert second < first * 1.5, (first, second)
    asked = [message.text.split(" ")[0] for message in state.values["messages"][::2]]
    assert asked == [str(number) for number in range(200)]


async def test_threads_of_the_usual_channel_are_read(tmp_path: Path) -> None:
    """A thread that was written with LangGraph's usual channel is read, and goes on in a delta channel."""
    config: Any = {"configurable": {"thread_id": "t1"}}
    async with open_storage(f"sqlite:///{tmp_path / 'x.db'}") as storage:
        model = SimulatedChatModel(tokens_per_second=0, first_token_ms=0)
        usual = create_agent(model, checkpointer=storage.saver())
        await usual.ainvoke({"messages": [HumanMessage("one")]}, config)
        before = (await usual.aget_state(config)).values["messages"]
        async with open_agent_graph(model, Agent(), calls_tools=True, takes=(), saver=storage.saver()) as graph:
            for text in ("two", "three"):
                await graph.for_run(storage.saver(), storage.store).ainvoke({"messages": [HumanMessage(text)]}, config)
            after = (await graph.for_state(storage.reader).aget_state(config)).values["messages"]
    assert len(before) == 2
    assert after[:2] == before
    assert [message.text for message in after if message.type == "human"] == ["one", "two", "three"]


async def test_a_thread_is_read_after_a_restart(serve: Serve) -> None:
    """A delta channel is read back from the file: messages, tool calls and results, in order."""
    served = await serve()
    socket = await served.attach("t1")
    await call(socket, 'calculate {"expression": "1+1"}', 'calculate {"expression": "2+2"}')
    await socket.turn("hello")
    before = await served.history("t1")
    await socket.ws.close()
    await served.server.close()
    served = await serve(database=served.database)
    assert await served.history("t1") == before
    await (await served.attach("t1")).turn("again")
    assert (await served.history("t1"))[: len(before)] == before


async def cancelled(socket: Socket, content: str, frame: str) -> None:
    """Send, wait for a frame of that type, cancel, and read to the end."""
    await socket.command("send", content=content)
    await socket.until(frame)
    await socket.command("cancel")
    assert (await socket.until("run_finished"))["status"] == "cancelled"


async def test_a_cancelled_answer_is_kept(serve: Serve) -> None:
    """What was said before a cancel is in the thread, marked, under the id its tokens carried; the next turn works."""
    served = await serve()
    socket = await served.attach("t1")
    await socket.turn("first")
    start = len(socket.frames)
    await cancelled(socket, "/tokens 50000\n/tokens-per-second 200", "token")
    tokens = [frame for frame in socket.frames[start:] if frame["type"] == "token"]
    answer = (await served.history("t1"))[-1]
    assert answer["status"] == "cancelled"
    assert answer["id"] == tokens[0]["message_id"]
    assert answer["content"] == "".join(frame["content"] for frame in tokens)
    await socket.turn("on")
    assert [message["role"] for message in await served.history("t1")] == ["user", "assistant"] * 3


@pytest.mark.parametrize("directive", ["/silent", "/error"])
async def test_a_first_turn_that_says_nothing(serve: Serve, directive: str) -> None:
    """Cancelled or failed before any text, the user's message stays and the next turn works."""
    served = await serve()
    socket = await served.attach("t1")
    if directive == "/silent":
        await cancelled(socket, directive, "run_started")
    else:
        frames = await socket.turn(directive)
        assert frames[-1]["status"] == "failed"
    assert [message["content"] for message in await served.history("t1")] == [directive]
    await socket.turn("on")
    assert [message["role"] for message in await served.history("t1")] == ["user", "user", "assistant"]


async def test_making_whole_before_any_checkpoint(tmp_path: Path) -> None:
    """A turn that was cut off before the graph had stored anything leaves the user's message, also done twice."""
    async with open_storage(f"sqlite:///{tmp_path / 'x.db'}") as storage:
        model = SimulatedChatModel(tokens_per_second=0, first_token_ms=0)
        async with open_agent_graph(model, Agent(), calls_tools=True, takes=(), saver=storage.saver()) as graph:
            for thread_id, turns_before in (("new", 0), ("old", 2)):
                config: Any = {"configurable": {"thread_id": thread_id}}
                for number in range(turns_before):
                    run = graph.for_run(storage.saver(), storage.store)
                    await run.ainvoke({"messages": [HumanMessage(f"turn {number}")]}, config)
                user = user_message("cut off", "m1")
                for _ in range(2):
                    left = await make_whole(graph, storage, thread_id, user=user, said=lambda _: [], status="lost")
                state = await graph.for_state(storage.reader).aget_state(config)
                assert state.values["messages"] == left
                assert [m.type for m in left] == ["human", "ai"] * turns_before + ["human"]
                run = graph.for_run(storage.saver(), storage.store)
                answer = await run.ainvoke({"messages": [HumanMessage("on")]}, config)
                assert [m.type for m in answer["messages"]] == ["human", "ai"] * turns_before + ["human", "human", "ai"]


async def test_a_call_that_was_cut_off_has_a_result(serve: Serve, tmp_path: Path) -> None:
    """A run cancelled between the call and its result leaves an error result, and no call twice."""
    served = await serve()
    socket = await served.attach("t1")
    # The zones of the world are read in a thread, which takes long enough to come in between.
    lines = "\n".join(f'/tool current_time {{"zone": "nowhere-{n}"}}' for n in range(20))
    await cancelled(socket, lines, "tool_call")
    history = await served.history("t1")
    calls = [call["id"] for message in history for call in message.get("tool_calls", [])]
    results = [message["tool_call_id"] for message in history if message["role"] == "tool"]
    assert len(calls) == 20
    assert sorted(results) == sorted(calls)
    await socket.turn("on")


async def test_many_threads_at_once(serve: Serve) -> None:
    """Threads of the agent run side by side and do not mix."""
    served = await serve()

    async def talk(number: int) -> None:
        socket = await served.attach(f"t{number}")
        assert await call(socket, f'calculate {{"expression": "{number}*10"}}') == [("ok", str(number * 10))]

    await asyncio.gather(*(talk(number) for number in range(10)))


async def test_the_system_prompt_is_never_told(serve: Serve) -> None:
    """The system prompt is neither in the thread nor in any frame."""
    served = await serve(agent={"system_prompt": "hush-hush"})
    socket = await served.attach("t1")
    await socket.turn("hello")
    await eventually(lambda: socket.of("run_finished"))
    assert "hush-hush" not in str(socket.frames) + str(await served.history("t1"))


async def test_content_a_model_does_not_take(serve: Serve, provider: Provider) -> None:
    """It is told to the model in words, this turn and every later one; what is stored is what was sent."""
    served = await serve(model={"name": "openai:simulated", "base_url": provider.base_url, "api_key": "none"})
    socket = await served.attach("t1")
    blocks = [
        {"type": "text", "text": "/tokens 2"},
        {"type": "text-plain", "mime_type": "text/plain", "text": "the plain text"},
        {"type": "video", "base64": "AAAA", "mime_type": "video/mp4"},
        {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
    ]
    for content in (blocks, "/tokens 3"):
        assert (await socket.turn(content))[-1]["status"] == "completed"
    sent = (await provider.requests())[-1]["messages"]
    [first] = [m["content"] for m in sent if m["role"] == "user"][:1]
    assert [part["type"] for part in first] == ["text", "text", "text", "image_url"]
    assert first[1]["text"] == "the plain text"
    assert "video" in first[2]["text"]
    [kept] = [m["content"] for m in await served.history("t1") if m["role"] == "user"][:1]
    assert [block["type"] for block in kept] == ["text", "text-plain", "video", "image"]
