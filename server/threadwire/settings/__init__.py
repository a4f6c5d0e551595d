"""The settings, each key once: its name, default, type, bounds and meaning.

The sections that check more than types have modules of their own. ``config.py`` reads them all from the file, the
environment and the command line. Units are in the names; a limit of 0 is no limit, unless its description says
otherwise. ``Settings()`` gives the defaults and reads nothing.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field, model_validator

from threadwire.settings.auth import Auth, Jwt
from threadwire.settings.graph import AGENT_TOOLS, Agent, Model, Simulated
from threadwire.settings.limits import WITH_AUTH, Limits
from threadwire.settings.section import Count, Duration, Positive, PositiveDuration, Section
from threadwire.settings.server import Server, Tls

__all__ = [
    "AGENT_TOOLS",
    "WITH_AUTH",
    "Agent",
    "Auth",
    "Events",
    "Jwt",
    "Limits",
    "Log",
    "Logs",
    "Model",
    "Otel",
    "Runs",
    "Section",
    "Server",
    "Settings",
    "Simulated",
    "Storage",
    "Tls",
]

EventType = Literal["chat_model", "llm", "chain", "tool", "retriever", "prompt", "parser", "custom"]


class Storage(Section):
    """Where threads are kept."""

    url: Annotated[
        str,
        Field(min_length=1, description="sqlite:///relative.db or sqlite:////absolute/path.db (four slashes)."),
    ] = "sqlite:///threadwire.db"
    durability: Annotated[
        Literal["sync", "async", "exit"],
        Field(description="A step is written before the next (sync), beside it (async), at the end (exit)."),
    ] = "sync"
    keep_checkpoints: Annotated[
        Count, Field(description="Checkpoints kept of each thread, and up to a quarter more; 0: all.")
    ] = 50


class Runs(Section):
    """How turns begin and end."""

    on_disconnect: Annotated[
        Literal["cancel", "continue"],
        Field(description="cancel or continue: what a run does when the last reader of its thread has left."),
    ] = "cancel"
    disconnect_grace_seconds: Annotated[
        Duration, Field(description="How long a run waits for a reader that was cut off; 0: not at all.")
    ] = 5
    multitask_strategy: Annotated[
        Literal["enqueue", "reject", "interrupt", "rollback"],
        Field(description="What a send does while a run is active, in LangGraph's words."),
    ] = "enqueue"
    max_queued: Annotated[Count, Field(description="Turns that may wait on a thread.")] = 16
    timeout_seconds: Annotated[Duration, Field(description="A run that takes longer is cancelled.")] = 600
    cancel_deadline_seconds: Annotated[
        PositiveDuration,
        Field(description="A node that has not stopped this long after a cancel is given up."),
    ] = 5
    recursion_limit: Annotated[Count, Field(description="Steps of the graph in one run.")] = 50
    max_threads: Annotated[
        Positive,
        Field(description="Threads of the process for synchronous nodes and tools, all runs together."),
    ] = 32


class Events(Section):
    """The policy: which of a graph's events a reader may see, with LangChain's meaning of the six filters."""

    include_types: Annotated[
        list[EventType], Field(description="Types of events that become frames; empty: all types.")
    ] = ["chat_model", "llm", "tool", "retriever", "custom"]
    include_names: Annotated[list[str], Field(description="Names of runnables that are seen; empty: all.")] = []
    include_tags: Annotated[list[str], Field(description="Tags of runnables that are seen; empty: all.")] = []
    exclude_types: Annotated[list[EventType], Field(description="Types of events that are hidden.")] = []
    exclude_names: Annotated[list[str], Field(description="Names of runnables that are hidden.")] = []
    exclude_tags: Annotated[list[str], Field(description="Tags of runnables that are hidden.")] = [
        "nostream",
        "langsmith:hidden",
    ]
    allow_raw: Annotated[
        bool, Field(description="Whether readers may ask for raw events; these carry prompts and internals.")
    ] = False


class Log(Section):
    """The frames of a thread that are kept for its readers."""

    max_bytes_per_thread: Annotated[
        Positive, Field(description="The oldest frames go when a thread's log is larger; always bounded.")
    ] = 4_194_304
    keep_seconds: Annotated[
        Duration,
        Field(description="How long the frames of a finished run are kept for resuming; 0: not at all."),
    ] = 300
    journal_interval_seconds: Annotated[
        PositiveDuration,
        Field(description="How often new frames are written to disk: what a crash may cost of a half-said answer."),
    ] = 0.25


class Logs(Section):
    """What the server writes about its work, on stderr."""

    include_content: Annotated[
        bool,
        Field(description="Log and trace what people and models say, and the texts of exceptions, too."),
    ] = False


class Otel(Section):
    """Traces by OpenTelemetry (extra otel). Where they go, and all else, say its own OTEL_ variables."""

    enabled: Annotated[
        bool, Field(description="Send a span for each connection, run, model call and tool call, by OTLP over HTTP.")
    ] = False


class Settings(Section):
    """All settings of a server, checked and frozen."""

    server: Server = Server()
    graph: Annotated[
        str | None,
        Field(
            pattern=r".:[A-Za-z_]",
            description="package.module:attribute or path/to/file.py:attribute; null: the built-in graph.",
        ),
    ] = None
    model: Model = Model()
    agent: Agent = Agent()
    storage: Storage = Storage()
    runs: Runs = Runs()
    events: Events = Events()
    log: Log = Log()
    logs: Logs = Logs()
    otel: Otel = Otel()
    auth: Auth = Auth()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _loopback_without_auth(self) -> Settings:
        if self.auth.own_machine and not _is_loopback(self.server.host):
            raise ValueError(
                f"server.host: {self.server.host} is not a loopback address, and with auth.mode none"
                " everybody who reaches it could use this server; take 127.0.0.1, or set auth.insecure: true"
            )
        if "*" in self.server.allowed_origins and self.auth.mode == "none":
            raise ValueError(
                "server.allowed_origins: * lets every page in its visitors' browsers use this server, so each has to"
                " bring a token: set auth.mode, or name the origins"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
