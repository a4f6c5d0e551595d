"""What is served: the user's graph, or the built-in one, compiled with our checkpointer and store.

``open_graph("module:attribute", …)`` takes a compiled graph, a ``StateGraph`` builder, a (async) factory of either, or
a context manager, async or not, that gives either. Knows nothing of threads, sockets or frames.

A compiled graph is served as a copy of itself (``Pregel.copy``), so that what its author compiled in (name, cache,
breakpoints) stays. A copy loses the allow-list that strict deserialisation needs, and would hand the graph's own
dataclasses back as dicts on the second turn; so it is taken from a compilation of the same builder and given to each
saver.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator, Collection, Container
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langgraph.channels.last_value import LastValue
from langgraph.channels.named_barrier_value import NamedBarrierValue, NamedBarrierValueAfterFinish
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from threadwire.approvals import check_answer
from threadwire.context import ContextSchema
from threadwire.errors import StartupError
from threadwire.loading import load_target, one_line

if TYPE_CHECKING:  # imported where there is no graph of the user's
    from threadwire.agent import AgentSettings

#: The state's channel that holds the conversation.
MESSAGES = "messages"
#: A node that only ``Graph.for_repair``'s copy has. It has no edges, so writing in its name runs nobody's router.
REPAIR_NODE = "threadwire_repair"


class AuthUser(dict[str, Any]):
    """Who asks, as the Agent Server gives it to a graph: by key and by attribute, LangGraph's ``BaseUser``.

    LangGraph takes it from the config into ``runtime.server_info.user``.
    """

    @property
    def identity(self) -> str:
        """Their name: what tools and the store go by."""
        return str(self["identity"])

    @property
    def display_name(self) -> str:
        """How they are called."""
        return str(self["display_name"])

    @property
    def is_authenticated(self) -> bool:
        """Always."""
        return bool(self["is_authenticated"])

    @property
    def permissions(self) -> list[str]:
        """What their credential says they may."""
        return list(self["permissions"])


def configurable(thread_id: str, user: dict[str, Any] | None) -> dict[str, Any]:
    """A run's ``configurable``; ``user`` is who asks, None where nobody has to say who they are."""
    found: dict[str, Any] = {"thread_id": thread_id}
    if user is not None:
        found["langgraph_auth_user"] = AuthUser(user)
    return found


class Graph:
    """A served graph: a template from which each run gets a copy of its own."""

    def __init__(
        self,
        compiled: CompiledStateGraph[Any, Any, Any, Any],
        saver: BaseCheckpointSaver[str],
        name: str,
        *,
        asks_before: Container[str] | None = None,
    ) -> None:
        self.name = name
        #: Of the built-in agent: the tools that a person is asked about.
        self._asks_before = asks_before
        #: Whether a run may be given the same messages as the next: the agent changes none; a user's graph may.
        self.shares_messages = asks_before is not None
        self._compiled = compiled
        self._repair = _with_repair_node(compiled.builder).compile(checkpointer=saver)
        _forget_joins(self._repair)
        allowed = self._repair.checkpointer
        # With LANGGRAPH_STRICT_MSGPACK, compiling has derived a saver that may read the schemas' own types.
        self._serde = allowed.serde if isinstance(allowed, BaseCheckpointSaver) else saver.serde
        self._context = ContextSchema(compiled.context_schema)
        #: Whether a write to the conversation takes the place of all of it: its state has no reducer for them.
        self.replaces_messages = isinstance(compiled.channels.get(MESSAGES), LastValue)
        #: Whether it was compiled to stop before or after nodes, which no event tells.
        self.has_breakpoints = bool(compiled.interrupt_before_nodes or compiled.interrupt_after_nodes)

    @property
    def root_name(self) -> str:
        """What the graph's own events are called, where LangChain is asked for them."""
        return self._compiled.get_name()

    def for_run(self, saver: BaseCheckpointSaver[str], store: BaseStore) -> CompiledStateGraph[Any, Any, Any, Any]:
        """A copy for one run, which writes through ``saver`` and ``store``."""
        saver.serde = self._serde
        return self._compiled.copy({"checkpointer": saver, "store": store})

    def for_fresh_run(self, store: BaseStore) -> CompiledStateGraph[Any, Any, Any, Any]:
        """A copy for one run without a thread: it keeps nothing but what its nodes write to ``store``."""
        return self._compiled.copy({"checkpointer": None, "store": store})

    def for_state(self, saver: BaseCheckpointSaver[str]) -> CompiledStateGraph[Any, Any, Any, Any]:
        """A copy to read and mend a thread's state with; it also has ``REPAIR_NODE``."""
        reader = copy.copy(saver)
        reader.serde = self._serde
        return self._repair.copy({"checkpointer": reader})

    def check_context(self, context: dict[str, Any] | None, user: dict[str, Any] | None = None) -> Any:
        """The runtime context for a run, of the graph's ``context_schema``; raises ``InvalidArgument``.

        ``user`` is who asks: the context's ``user``, where it has one.
        """
        return self._context.check(context, user)

    def check_answer(self, field: str, question: Any, answer: Any) -> None:
        """Refuse an answer to an interrupt that would only fail the run; raises ``InvalidArgument``."""
        check_answer(field, question, answer, self._asks_before)


@asynccontextmanager
async def open_graph(target: str, *, saver: BaseCheckpointSaver[str]) -> AsyncIterator[Graph]:
    """Load and compile the graph that ``target`` names: ``package.module:attribute`` or ``path/to/file.py:attribute``.

    Raises:
        StartupError: the target does not import, is no graph, or its state has no messages. One line that says which.
    """
    async with AsyncExitStack() as stack:
        compiled = _compile(await _resolve(load_target(target, "graph"), target, stack), target)
        if MESSAGES not in compiled.channels:
            message = f"graph: the state of {target} has no {MESSAGES!r}, which is where a conversation lives"
            raise StartupError(f"{message}; derive it from langgraph.graph.MessagesState")
        yield Graph(compiled, saver, target)


@asynccontextmanager
async def open_agent_graph(
    model: BaseChatModel,
    settings: AgentSettings,
    *,
    calls_tools: bool,
    takes: Collection[str],
    saver: BaseCheckpointSaver[str],
) -> AsyncIterator[Graph]:
    """The built-in agent on ``model``; a model that cannot call tools is offered none."""
    from threadwire.agent import open_agent

    async with open_agent(model, settings, calls_tools=calls_tools, takes=takes) as agent:
        yield Graph(agent.graph, saver, "agent", asks_before=agent.asks_before)


async def _resolve(found: Any, target: str, stack: AsyncExitStack) -> Any:
    """Call factories and enter context managers until there is a graph."""
    for _ in range(4):
        if isinstance(found, CompiledStateGraph | StateGraph):
            return found
        try:
            if hasattr(type(found), "__aenter__"):
                found = await stack.enter_async_context(found)
            elif hasattr(type(found), "__enter__"):
                found = stack.enter_context(found)
            elif inspect.isawaitable(found):
                found = await found
            elif callable(found):
                found = found({"configurable": {}}) if _takes_config(found) else found()
            else:
                break
        except Exception as error:
            raise StartupError(f"graph: {target} failed: {one_line(error)}") from error
    if isinstance(found, CompiledStateGraph | StateGraph):
        return found
    if isinstance(found, Pregel):
        message = f"graph: {target} is an entrypoint of the functional API, which keeps no cut-off turn"
        raise StartupError(f"{message}; call it in a node of a StateGraph, and serve that")
    expected = "a compiled graph, a StateGraph, a factory or a context manager of one"
    raise StartupError(f"graph: expected {target} to be {expected}, got {type(found).__name__}")


def _takes_config(factory: Any) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in kinds and (p.default is inspect.Parameter.empty or p.name == "config") for p in parameters)


def _compile(found: Any, target: str) -> CompiledStateGraph[Any, Any, Any, Any]:
    if isinstance(found, CompiledStateGraph):
        return found
    try:
        return found.compile()  # type: ignore[no-any-return]
    except Exception as error:
        raise StartupError(f"graph: {target} does not compile: {one_line(error)}") from error


def _with_repair_node(builder: StateGraph[Any, Any, Any, Any]) -> StateGraph[Any, Any, Any, Any]:
    clone: Any = copy.copy(builder)
    clone.nodes = dict(builder.nodes)
    # Adding to a builder that was compiled warns that the compiled graph will not have it: that is what is wanted.
    clone.compiled = False

    async def nothing(_state: Any) -> None:
        """Run by nobody: its name is what is needed."""

    clone.add_node(REPAIR_NODE, nothing)
    return clone  # type: ignore[no-any-return]


def _forget_joins(repair: CompiledStateGraph[Any, Any, Any, Any]) -> None:
    """Let what is written through ``repair`` say that no join has seen any of its sides.

    Where a turn was cut off with one side of ``add_edge([a, b], c)`` done, the checkpoint remembers that side, and in
    the next turn ``c`` would run before it.
    """
    for name, channel in repair.channels.items():
        if isinstance(channel, NamedBarrierValue):
            join: Any = _ForgottenJoin(channel.typ, channel.names)
        elif isinstance(channel, NamedBarrierValueAfterFinish):
            join = _ForgottenDeferredJoin(channel.typ, channel.names)
        else:
            continue
        join.key = name
        repair.channels[name] = join


class _ForgottenJoin(NamedBarrierValue[Any]):
    """A join as it is before either side has come."""

    __slots__ = ()

    def checkpoint(self) -> set[Any]:
        return set()


class _ForgottenDeferredJoin(NamedBarrierValueAfterFinish[Any]):
    """The same, of a deferred node."""

    __slots__ = ()

    def checkpoint(self) -> tuple[set[Any], bool]:
        return set(), False
