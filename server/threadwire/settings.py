"""The settings, each key once: its name, default, type, bounds and meaning.

``config.py`` reads them from the file, the environment and the command line. Units are in the names; a limit
of 0 is no limit, unless its description says otherwise. ``Settings()`` gives the defaults and reads nothing.
"""

from __future__ import annotations

from difflib import get_close_matches
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from threadwire.mcp_settings import read_servers


def _number(value: Any) -> Any:
    # To pydantic true is 1, so that ``port: yes`` would be port 1.
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


Count = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Duration = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
PositiveDuration = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Temperature = Annotated[float, BeforeValidator(_number), Field(ge=0, le=2, allow_inf_nan=False)]
EventType = Literal["chat_model", "llm", "chain", "tool", "retriever", "prompt", "parser", "custom"]


class Section(BaseModel):
    """A table of keys; none but these, and none may change later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Section):
    """Where the server listens, and what its sockets take."""

    host: Annotated[str, Field(min_length=1, description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[Count, Field(le=65535, description="The port to listen on; 0 takes a free one.")] = 8000
    allowed_origins: Annotated[
        list[str],
        Field(description="Origins (scheme://host:port) whose pages may connect; empty: the server's own."),
    ] = []
    heartbeat_seconds: Annotated[
        PositiveDuration,
        Field(description="A ping goes to each socket this often; one that does not answer is closed."),
    ] = 25
    max_message_bytes: Annotated[Count, Field(description="The largest message a client may send.")] = 1_048_576
    max_connections: Annotated[
        Count, Field(description="Connections at the same time; further ones are closed with 1013.")
    ] = 10_000
    drain_seconds: Annotated[
        Duration,
        Field(description="How long runs may go on after SIGTERM before they are cancelled; 0: not at all."),
    ] = 30


class Simulated(Section):
    """How the simulated model talks."""

    tokens_per_second: Annotated[Duration, Field(description="Its speed; 0: as fast as it can.")] = 50
    first_token_ms: Annotated[Count, Field(description="How long it is silent before its first token.")] = 200
    tokens: Annotated[Positive | None, Field(description="The length of its answers; null: as the input asks.")] = None


class Model(Section):
    """The model behind the built-in graph."""

    name: Annotated[
        str,
        Field(
            pattern=r"^(auto|simulated|openai:.+|local:.+)$",
            description="openai:NAME, local:NAME, local:/path/to/model.gguf, simulated, or auto: OpenAI if there is a"
            " key, else the local model if it is installed, else simulated.",
        ),
    ] = "auto"
    base_url: Annotated[
        str | None,
        Field(
            pattern=r"^https?://.",
            description="http:// or https:// URL of an OpenAI-compatible endpoint; null: OpenAI's.",
        ),
    ] = None
    api_key: Annotated[
        SecretStr | None,
        Field(
            min_length=1,
            description="The provider's key; null: OPENAI_API_KEY of the environment, if it is there.",
        ),
    ] = None
    temperature: Annotated[
        Temperature | None, Field(description="Sampling temperature; null: the provider's default.")
    ] = None
    max_tokens: Annotated[Positive | None, Field(description="Tokens in one answer; null: as many as it takes.")] = None
    stock_client: Annotated[
        bool,
        Field(description="Stream through langchain-openai and openai as they come, at three times the CPU per token."),
    ] = False
    simulated: Simulated = Simulated()


#: The built-in agent's own tools.
AGENT_TOOLS = ("current_time", "calculate", "convert_units", "save_note", "read_note", "list_notes", "delete_note")


class Agent(Section):
    """The built-in graph, served where graph is null."""

    system_prompt: Annotated[str, Field(description="What the model is told before each conversation.")] = (
        "You are a helpful assistant. Answer briefly and to the point; say so when you do not know."
    )
    tools: Annotated[list[str], Field(description="Tools of its own that it may call; empty: none.")] = list(
        AGENT_TOOLS
    )
    mcp_servers: Annotated[
        dict[str, dict[str, Any]],
        Field(description="MCP servers whose tools it may call, by name: command or url, and more (docs/agent.md)."),
    ] = {}
    ask_before: Annotated[
        list[str],
        Field(description="Tools that a person is asked about before each call, MCP servers' too; empty: none."),
    ] = []
    max_context_tokens: Annotated[
        Count | None,
        Field(description="What is sent to the model is kept below this; null: by the model; 0: all of it."),
    ] = None

    @field_validator("mcp_servers")
    @classmethod
    def _servers(cls, tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        read_servers(tables)
        return tables

    @field_validator("tools", "ask_before")
    @classmethod
    def _known(cls, names: list[str], info: ValidationInfo) -> list[str]:
        if info.field_name == "ask_before" and info.data.get("mcp_servers", True):
            # The tools of MCP servers are known when these have been started.
            return names
        for name in names:
            if name not in AGENT_TOOLS:
                nearest = get_close_matches(name, AGENT_TOOLS, n=1, cutoff=0)[0]
                raise ValueError(f"there is no tool {name[:60]!r}; the nearest is {nearest}")
        return names


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


class Auth(Section):
    """Who may connect."""

    mode: Annotated[
        Literal["none", "tokens", "jwt", "custom"],
        Field(description="none: all who reach the server, so only a loopback host. No other is available yet."),
    ] = "none"
    insecure: Annotated[
        bool, Field(description="Let mode none bind to any address: everybody who reaches it may use it.")
    ] = False

    @field_validator("mode")
    @classmethod
    def _available(cls, value: str) -> str:
        if value != "none":
            raise ValueError(f"{value} is not available yet; expected none")
        return value


class Limits(Section):
    """What one client may take."""

    history_page: Annotated[Count, Field(description="Messages in one history frame.")] = 100
    batch_inputs: Annotated[Count, Field(description="Inputs of one batch.")] = 1000
    max_batch_concurrency: Annotated[
        Count, Field(description="Inputs of one batch that run at once, whatever the batch asks for.")
    ] = 8


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
    auth: Auth = Auth()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _loopback_without_auth(self) -> Settings:
        if self.auth.mode == "none" and not self.auth.insecure and not _is_loopback(self.server.host):
            raise ValueError(
                f"server.host: {self.server.host} is not a loopback address, and with auth.mode none"
                " everybody who reaches it could use this server; take 127.0.0.1, or set auth.insecure: true"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
