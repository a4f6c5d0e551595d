"""What may be named as the graph, and that it is served as its author meant it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conftest import Serve
from harness import Served
from process import ServerProcess
from threadwire.errors import StartupError

Write = Callable[..., str]

#: Begins each module that is written here: an echo, as a builder.
ECHO = """
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

def node(state):
    return {"messages": [AIMessage("served: " + state["messages"][-1].text)]}

builder = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
"""


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports is forgotten after it; the current directory is the test's own."""
    modules, path = set(sys.modules), list(sys.path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def write() -> Write:
    """``write("name.py", text)`` puts an echo module with more ``text`` into the current directory."""

    def put(name: str, text: str = "", *, echo: bool = True) -> str:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ECHO if echo else "") + textwrap.dedent(text))
        return name

    return put


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(tmp_path / "here")
    yield process
    await process.kill()


def read(name: str) -> str:
    return Path(name).read_text()


async def answer(served: Served, content: str = "hi", thread_id: str = "t1", **fields: Any) -> Any:
    """What the graph answers last to ``content``."""
    socket = await served.attach(thread_id)
    frames = await socket.turn(content, **fields)
    assert frames[-1]["status"] == "completed", frames[-1]
    return (await served.history(thread_id))[-1]["content"]


async def refusal(serve: Serve, target: str) -> str:
    """The one line with which the server does not start."""
    with pytest.raises(StartupError) as caught:
        await serve(target)
    assert "\n" not in caught.value.message
    assert caught.value.message
    return caught.value.message


# --- every way to name it -----------------------------------------------------------------------------------------

WAYS = {
    "builder": "graph = builder",
    "compiled": "graph = builder.compile(name='mine')",
    "factory": "def graph(): return builder",
    "factory_of_compiled": "def graph(): return builder.compile()",
    "factory_with_config": """
        def graph(config):
            assert config["configurable"] == {}
            return builder.compile()
        """,
    "factory_with_optional_config": "def graph(config=None): return builder",
    "async_factory": "async def graph(): return builder",
    "async_factory_with_config": "async def graph(config): return builder.compile()",
    "async_context_manager": """
        from contextlib import asynccontextmanager
        @asynccontextmanager
        async def graph():
            yield builder
        """,
    "async_context_manager_with_config": """
        from contextlib import asynccontextmanager
        @asynccontextmanager
        async def graph(config):
            yield builder.compile()
        """,
    "context_manager": """
        from contextlib import contextmanager
        @contextmanager
        def graph(config):
            yield builder.compile()
        """,
    "object_with_aenter": """
        class Manager:
            async def __aenter__(self): return builder.compile()
            async def __aexit__(self, *_): pass
        graph = Manager()
        """,
    "class_with_aenter": """
        class graph:
            async def __aenter__(self): return builder.compile()
            async def __aexit__(self, *_): pass
        """,
    "callable_object": """
        class Factory:
            async def __call__(self, config): return builder
        graph = Factory()
        """,
    "dotted_attribute": """
        class graph:
            inner = builder
        """,
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_graph_may_be_given_as(serve: Serve, write: Write, way: str) -> None:
    """A compiled graph, a builder, a factory (async, with the config or without), an async context manager."""
    attribute = "graph.inner" if way == "dotted_attribute" else "graph"
    served = await serve(f"{write(f'way_{way}.py', WAYS[way])}:{attribute}")
    assert await answer(served) == "served: hi"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("near.py", "near.py:builder"),
        ("near_module.py", "near_module:builder"),
        ("folder/deep.py", "folder/deep.py:builder"),
        ("package/inner/graphs.py", "package.inner.graphs:builder"),
        ("with-dash.py", "with-dash.py:builder"),
        ("server.py", "server.py:builder"),
        ("server.py", "server:builder"),
        ("config.py", "config.py:builder"),
        ("json.py", "json.py:builder"),
    ],
)
async def test_where_it_is_found(serve: Serve, write: Write, name: str, target: str) -> None:
    """By path or by dotted name from the current directory, whatever its name is."""
    write(name)
    assert await answer(await serve(target)) == "served: hi"


async def test_an_absolute_path(serve: Serve, write: Write, tmp_path: Path) -> None:
    """A path may be absolute."""
    write("absolute.py")
    assert await answer(await serve(f"{tmp_path}/here/absolute.py:builder")) == "served: hi"


async def test_siblings_and_the_current_directory_are_importable(serve: Serve, write: Write) -> None:
    """A file imports what lies beside it, and what lies where the command is run."""
    write("far/beside.py", "WORD = 'beside'", echo=False)
    write("at_hand.py", "WORD = 'at hand'", echo=False)
    write(
        "far/importer.py",
        """
        import at_hand, beside
        builder.nodes.clear(); builder.edges.clear()
        builder.add_node("words", lambda _: {"messages": [AIMessage(f"{beside.WORD}, {at_hand.WORD}")]})
        builder.add_edge(START, "words")
        """,
    )
    assert await answer(await serve("far/importer.py:builder")) == "beside, at hand"


@pytest.mark.parametrize("flag", [(), ("-P",)], ids=["python -m", "as the installed command"])
async def test_modules_named_as_ours(
    process: ServerProcess, write: Write, session: aiohttp.ClientSession, flag: tuple[str, ...]
) -> None:
    """A user's own `server.py`, `config.py`, `app.py` and `graph.py` are the user's, in a real process."""
    for name in ("config", "app", "graph", "storage"):
        write(f"{name}.py", f"WORD = '{name}'", echo=False)
    write(
        "server.py",
        """
        import app, config, graph, storage
        WORDS = " ".join(module.WORD for module in (app, config, graph, storage))
        def words(state): return {"messages": [AIMessage(WORDS)]}
        served = StateGraph(MessagesState).add_node("words", words).add_edge(START, "words")
        """,
    )
    await process.start("server:served", flags=flag)
    assert await answer(process.served(session)) == "app config graph storage"


async def test_a_context_manager_is_entered_and_left_once(serve: Serve, write: Write) -> None:
    """It is open while the server runs, the same for all turns, and left when the server has stopped."""
    write(
        "managed.py",
        """
        from contextlib import asynccontextmanager
        from pathlib import Path
        told = Path("told.txt")
        @asynccontextmanager
        async def graph(config):
            told.write_text("entered ")
            def node(state): return {"messages": [AIMessage(told.read_text())]}
            yield StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
            told.write_text(told.read_text() + "left")
        """,
    )
    served = await serve("managed.py:graph")
    assert await answer(served) == "entered "
    assert await answer(served) == "entered "
    for socket in served.sockets:
        await socket.ws.close()
    await served.server.close()
    assert read("told.txt") == "entered left"


async def test_a_context_manager_is_left_when_the_start_fails(serve: Serve, write: Write) -> None:
    """What was opened for a graph that turns out to be none is closed again."""
    write(
        "opened.py",
        """
        from contextlib import asynccontextmanager
        from pathlib import Path
        @asynccontextmanager
        async def graph():
            try: yield "no graph"
            finally: Path("left.txt").write_text("left")
        """,
    )
    await refusal(serve, "opened.py:graph")
    assert read("left.txt") == "left"


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import does_not_exist_anywhere", ["bad.py", "does_not_exist_anywhere"]),
        ("def broken(:\n    pass", ["bad.py", "SyntaxError"]),
        ("raise ValueError('told\\nin two lines')", ["bad.py", "ValueError", "told in two lines"]),
        ("import sys; sys.exit(3)", ["bad.py", "SystemExit"]),
        ("", ["bad.py", "graph"]),
        ("graphe = 7", ["bad.py has no attribute 'graph'; the nearest there is 'graphe'"]),
        (
            "from langgraph.func import entrypoint\n@entrypoint()\nasync def graph(given): return given",
            ["bad.py:graph is an entrypoint of the functional API", "in a node of a StateGraph"],
        ),
        ("graph = 7", ["bad.py:graph", "int"]),
        ("graph = 'text'", ["bad.py:graph", "str"]),
        ("graph = None", ["bad.py:graph", "None"]),
        ("def graph(): return None", ["bad.py:graph", "None"]),
        ("def graph(): raise RuntimeError('no key')", ["bad.py:graph", "RuntimeError", "no key"]),
        ("async def graph(): raise RuntimeError('no key')", ["bad.py:graph", "RuntimeError", "no key"]),
        ("def graph(config, more): return builder", ["bad.py:graph"]),
        ("graph = StateGraph(MessagesState)", ["bad.py:graph"]),
        ("graph = StateGraph(MessagesState).add_node('a', node)", ["bad.py:graph"]),
        (
            (
                "from typing import TypedDict\nclass State(TypedDict):\n    text: str\n"
                "graph = StateGraph(State).add_node('a', node).add_edge(START, 'a').compile()"
            ),
            ["bad.py:graph", "messages", "MessagesState"],
        ),
    ],
)
async def test_what_is_no_graph_is_told_in_a_line(serve: Serve, write: Write, text: str, names: list[str]) -> None:
    """Whatever is wrong with it, the server does not start, and one line names the graph and the fault."""
    write("bad.py", text)
    message = await refusal(serve, "bad.py:graph")
    for name in names:
        assert name in message


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("missing.py:graph", ["missing.py"]),
        ("no.such.module:graph", ["no.such.module"]),
        ("there.py:absent", ["there.py", "absent"]),
        ("there.py:builder.absent", ["there.py", "builder.absent"]),
        ("here:graph", ["here"]),
    ],
)
async def test_what_is_not_there_is_told_in_a_line(serve: Serve, write: Write, target: str, names: list[str]) -> None:
    """A file, module or attribute that is not there is named."""
    write("there.py")
    message = await refusal(serve, target)
    for name in names:
        assert name in message


# --- the state ----------------------------------------------------------------------------------------------------

STATEFUL = """
import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated
from pydantic import BaseModel
from notes import Note

class Mood(Enum):
    GOOD = "good"

@dataclass
class Profile:
    name: str
    tags: list[str] = field(default_factory=list)

class Order(BaseModel):
    number: int
    profile: Profile | None = None

class State(MessagesState):
    profile: Profile
    order: Order
    orders: list[Order]
    mood: Mood
    note: Note

async def remember(state):
    if state["messages"][-1].text == "hang":
        await asyncio.Event().wait()
    names = [type(state.get(k)).__name__ for k in ("profile", "order", "mood", "note")]
    kinds = [isinstance(state.get("profile"), Profile), isinstance(state.get("order"), Order),
             isinstance(state.get("mood"), Mood), isinstance(state.get("note"), Note),
             all(isinstance(o, Order) for o in state.get("orders") or [None])]
    if state.get("profile") is None:
        profile = Profile("Ada", ["x"])
        return {"messages": [AIMessage("new")], "profile": profile, "order": Order(number=1, profile=profile),
                "orders": [Order(number=2)], "mood": Mood.GOOD, "note": Note("kept")}
    said = f"{all(kinds)} {names} {state['profile'].name} {state['order'].number} {state['note'].text}"
    return {"messages": [AIMessage(said)]}

builder = StateGraph(State).add_node("remember", remember).add_edge(START, "remember")
compiled = builder.compile()
"""
REMEMBERED = "True ['Profile', 'Order', 'Mood', 'Note'] Ada 1 kept"


def write_stateful(write: Write, name: str) -> None:
    write("notes.py", "from dataclasses import dataclass\n@dataclass\nclass Note:\n    text: str\n", echo=False)
    write(name, STATEFUL)


@pytest.mark.parametrize("target", ["stateful.py:builder", "stateful.py:compiled", "stateful:compiled"])
async def test_a_state_of_own_types_is_itself_on_the_second_turn(serve: Serve, write: Write, target: str) -> None:
    """Dataclasses, pydantic models and enums in the state come back as what they are, turn after turn."""
    write_stateful(write, "stateful.py")
    served = await serve(target)
    assert [await answer(served) for _ in range(3)] == ["new", REMEMBERED, REMEMBERED]


@pytest.mark.parametrize(("target", "kinds"), [("named", ["NoneType", "Own"]), ("untyped", ["NoneType", "dict"])])
async def test_the_states_annotations_name_the_types(serve: Serve, write: Write, target: str, kinds: list[str]) -> None:
    """A class of the graph's own is itself again where the state names it; where it names ``Any``, it is a dict."""
    write(
        "kinds.py",
        """
        from dataclasses import dataclass
        from typing import Any

        @dataclass
        class Own:
            number: int

        class Named(MessagesState):
            own: Own

        class Untyped(MessagesState):
            own: Any

        def tell(state):
            return {"own": Own(1), "messages": [AIMessage(type(state.get("own")).__name__)]}

        named, untyped = (StateGraph(s).add_node("tell", tell).add_edge(START, "tell") for s in (Named, Untyped))
        """,
    )
    served = await serve(f"kinds.py:{target}")
    assert [await answer(served) for _ in range(2)] == kinds


async def test_a_state_of_own_types_is_itself_after_a_cut_off_turn(serve: Serve, write: Write) -> None:
    """Making a cancelled turn whole reads and writes the state, and leaves its types what they are."""
    write_stateful(write, "stateful.py")
    served = await serve("stateful.py:compiled")
    assert await answer(served) == "new"
    socket = await served.attach("t1")
    await socket.ask("send", content="hang")
    await socket.until("run_started")
    await socket.command("cancel")
    await socket.until("run_finished")
    assert await answer(served) == REMEMBERED


@pytest.mark.parametrize("target", ["stateful.py:builder", "stateful:compiled"])
async def test_a_state_of_own_types_is_itself_after_a_restart(
    process: ServerProcess, write: Write, session: aiohttp.ClientSession, target: str
) -> None:
    """The same with a new process on the same database."""
    write_stateful(write, "stateful.py")
    await process.start(target)
    assert await answer(process.served(session)) == "new"
    process.process.terminate()  # type: ignore[union-attr]
    assert await process.ended() == 0
    await process.start(target)
    assert await answer(process.served(session)) == REMEMBERED


# --- context ------------------------------------------------------------------------------------------------------

CONTEXT = """
from dataclasses import dataclass
from typing import NotRequired, TypedDict
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict

@dataclass
class AsDataclass:
    user: str
    level: int = 1

class AsModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    user: str
    level: int = 1

class AsDict(TypedDict):
    user: str
    level: NotRequired[int]

@dataclass
class AllDefaults:
    user: str = "nobody"

def tell(state, runtime: Runtime):
    return {"messages": [AIMessage(f"{type(runtime.context).__name__} {runtime.context!r}")]}

def graph_of(schema):
    return StateGraph(MessagesState, context_schema=schema).add_node("tell", tell).add_edge(START, "tell").compile()

dataclass_, model, dict_, defaults = map(graph_of, (AsDataclass, AsModel, AsDict, AllDefaults))
"""
SCHEMAS = ["dataclass_", "model", "dict_"]


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_a_right_context_reaches_the_graph(serve: Serve, write: Write, schema: str) -> None:
    """`context` arrives as what `context_schema` says, with its defaults."""
    write("contexts.py", CONTEXT)
    served = await serve(f"contexts.py:{schema}")
    said = await answer(served, context={"user": "ada", "level": 3})
    kind = {"dataclass_": "AsDataclass", "model": "AsModel", "dict_": "dict"}[schema]
    assert said.startswith(kind)
    assert "'ada'" in said
    assert "3" in said


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize(
    ("context", "where"),
    [
        (None, "context.user: expected, but it is not there"),
        ({}, "context.user: expected, but it is not there"),
        ({"level": 3}, "context.user: expected, but it is not there"),
        ({"user": 5}, "context.user: expected a string, got 5"),
        ({"user": "ada", "level": "high"}, "context.level: expected a whole number, got the string 'high'"),
        ({"user": "ada", "levle": 3}, "context.levle"),
    ],
    ids=["none", "empty", "missing", "wrong", "wrong default", "extra"],
)
async def test_a_wrong_context_is_refused(serve: Serve, write: Write, schema: str, context: Any, where: str) -> None:
    """What is missing, of another type or not known is named; no run starts and no message is left."""
    write("contexts.py", CONTEXT)
    served = await serve(f"contexts.py:{schema}")
    socket = await served.attach("t1")
    refused = await socket.ask("send", content="hi", **({} if context is None else {"context": context}))
    assert (refused["type"], refused.get("code")) == ("error", "invalid_argument")
    assert where in refused["message"]
    assert await served.history("t1") == []


async def test_a_context_of_defaults_need_not_be_given(serve: Serve, write: Write) -> None:
    """A schema that has defaults for all of it works without `context`."""
    write("contexts.py", CONTEXT)
    assert "nobody" in await answer(await serve("contexts.py:defaults"))


async def test_a_context_for_a_graph_without_one_is_refused(serve: Serve, write: Write) -> None:
    """A graph that has no `context_schema` takes no context."""
    served = await serve(f"{write('plain.py')}:builder")
    socket = await served.attach("t1")
    refused = await socket.ask("send", content="hi", context={"user": "ada"})
    assert refused["code"] == "invalid_argument"
    assert "context" in refused["message"]


# --- how it runs --------------------------------------------------------------------------------------------------


async def test_our_checkpointer_and_store_take_the_place_of_its_own(serve: Serve, write: Write) -> None:
    """What the author compiled in to try it is not used: threads and the store outlive the process."""
    write(
        "stored.py",
        """
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.config import get_store
        from langgraph.store.memory import InMemoryStore
        async def node(state):
            store = get_store()
            found = await store.aget(("seen",), "last")
            await store.aput(("seen",), "last", {"text": state["messages"][-1].text})
            count = len(state["messages"])
            return {"messages": [AIMessage(f"{count} {found.value['text'] if found else None}")]}
        builder = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
        graph = builder.compile(checkpointer=InMemorySaver(), store=InMemoryStore())
        """,
    )
    served = await serve("stored.py:graph")
    assert await answer(served, "one") == "1 None"
    for socket in served.sockets:
        await socket.ws.close()
    await served.server.close()
    again = await serve("stored.py:graph", database=served.database)
    assert await answer(again, "two") == "3 one"


@pytest.mark.parametrize("where", ["interrupt_before", "interrupt_after"])
async def test_a_graph_compiled_to_stop_is_interrupted(serve: Serve, write: Write, where: str) -> None:
    """A breakpoint ends the run as interrupted, with what was said before it kept; the next send works."""
    node = "second" if where == "interrupt_before" else "first"
    write(
        "stopping.py",
        f"""
        def first(state): return {{"messages": [AIMessage("first")]}}
        def second(state): return {{"messages": [AIMessage("second")]}}
        graph = (StateGraph(MessagesState).add_node("first", first).add_node("second", second)
            .add_edge(START, "first").add_edge("first", "second").compile({where}=["{node}"]))
        """,
    )
    served = await serve("stopping.py:graph")
    socket = await served.attach("t1")
    frames = await socket.turn("hi")
    assert frames[-1]["status"] == "interrupted"
    assert [m["content"] for m in await served.history("t1")] == ["hi", "first"]
    frames = await socket.turn("again")
    assert frames[-1]["status"] == "interrupted"
    assert [m["content"] for m in await served.history("t1")] == ["hi", "first", "again", "first"]


async def test_sync_nodes_and_tools_work_and_block_nobody(serve: Serve, write: Write) -> None:
    """A sync node and a sync tool run in threads: they work, and other threads' turns go on meanwhile."""
    write(
        "synchronous.py",
        """
        import threading
        from langchain_core.tools import tool
        from langgraph.prebuilt import ToolNode
        released = threading.Event()

        @tool
        def wait(word: str) -> str:
            "Wait until the other thread has had its turn."
            assert released.wait(15)
            return word.upper()

        def ask(state):
            last = state["messages"][-1]
            if last.type == "tool":
                return {"messages": [AIMessage("the tool said " + last.text)]}
            if last.text == "release":
                released.set()
                return {"messages": [AIMessage("released")]}
            call = {"id": "c1", "name": "wait", "args": {"word": last.text}}
            return {"messages": [AIMessage("", tool_calls=[call])]}

        def route(state):
            return "tools" if getattr(state["messages"][-1], "tool_calls", None) else "__end__"

        graph = StateGraph(MessagesState).add_node("ask", ask).add_node("tools", ToolNode([wait]))
        graph.add_edge(START, "ask").add_conditional_edges("ask", route).add_edge("tools", "ask")
        """,
    )
    served = await serve("synchronous.py:graph")
    socket = await served.attach("t1")
    await socket.command("send", content="hello")
    await socket.until("tool_call")
    assert await answer(served, "release", thread_id="t2") == "released"
    await socket.until("run_finished", status="completed")
    [result] = socket.of("tool_result")
    assert (result["id"], result["result"], result["status"]) == ("c1", "HELLO", "ok")
    assert (await served.history("t1"))[-1]["content"] == "the tool said HELLO"
