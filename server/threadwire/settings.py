"""The settings, each key once: its name, default, type, bounds and meaning.

``config.py`` reads them from the file, the environment and the command line. Units are in the names; a limit
of 0 is no limit, unless its description says otherwise. ``Settings()`` gives the defaults and reads nothing.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
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


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/?#@:*\[\]]+)(:[0-9]{1,5})?", re.IGNORECASE)


class Section(BaseModel):
    """A table of keys; none but these, and none may change later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(Section):
    """The certificate that the server shows; without one it speaks plain HTTP."""

    cert: Annotated[str | None, Field(min_length=1, description="Its file: PEM, the chain included; null: none.")] = (
        None
    )
    key: Annotated[
        str | None,
        Field(min_length=1, description="The file of its private key: PEM; null: in that of the certificate."),
    ] = None

    @model_validator(mode="after")
    def _whole(self) -> Tls:
        if self.key is not None and self.cert is None:
            raise ValueError("a key without a certificate: set cert too")
        return self


class Server(Section):
    """Where the server listens, and what its sockets take."""

    host: Annotated[str, Field(min_length=1, description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[Count, Field(le=65535, description="The port to listen on; 0 takes a free one.")] = 8000
    allowed_origins: Annotated[
        list[str],
        Field(
            description="Origins (scheme://host:port) whose pages may connect, beside the server's own; *: all, where"
            " each sends a token."
        ),
    ] = []
    trusted_proxies: Annotated[
        list[str],
        Field(
            description="Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed; empty: none."
        ),
    ] = []
    tls: Tls = Tls()
    heartbeat_seconds: Annotated[
        PositiveDuration,
        Field(description="A ping goes to each socket this often; one that does not answer is closed."),
    ] = 25
    max_message_bytes: Annotated[Count, Field(description="The largest message a client may send.")] = 1_048_576
    max_connections: Annotated[
        Count, Field(description="Connections at the same time; further ones are closed with 1013.")
    ] = 10_000
    metrics_port: Annotated[
        Count | None,
        Field(
            le=65535,
            description="A port of its own for /metrics, on the same address, for everybody who reaches it; 0 takes a"
            " free one; null: the server's own port.",
        ),
    ] = None
    handshake_timeout_seconds: Annotated[
        Duration,
        Field(description="A connection that has not said by then what it wants is cut; a body gets a little more."),
    ] = 10
    drain_seconds: Annotated[
        Duration,
        Field(description="How long runs may go on after SIGTERM before they are cancelled; 0: not at all."),
    ] = 30

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"expected scheme://host or scheme://host:port, and no more, got {origin[:80]!r}")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, networks: list[str]) -> list[str]:
        for network in networks:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"expected IP addresses and networks: {error}") from None
        return networks


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


_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


class Jwt(Section):
    """How tokens of mode jwt are checked; one of jwks_url, public_key and secret."""

    jwks_url: Annotated[
        str | None, Field(pattern=r"^https?://.", description="http:// or https:// URL of the issuer's keys.")
    ] = None
    public_key: Annotated[
        str | None, Field(min_length=1, description="The issuer's public key, the text of its PEM.")
    ] = None
    secret: Annotated[SecretStr | None, Field(min_length=1, description="What the issuer signs with, if shared.")] = (
        None
    )
    issuer: Annotated[str | None, Field(min_length=1, description="What iss must be; null: anything.")] = None
    audience: Annotated[
        str | None, Field(min_length=1, description="What aud must be or hold; null: a token for somebody is refused.")
    ] = None
    algorithms: Annotated[
        list[Algorithm],
        Field(description="How tokens may be signed; empty: HS256 with a secret, else RS256, ES256 and EdDSA."),
    ] = []
    user_claim: Annotated[str, Field(min_length=1, description="The claim that says who the user is.")] = "sub"
    leeway_seconds: Annotated[Duration, Field(description="How far the issuer's clock may be off.")] = 0

    @model_validator(mode="after")
    def _fits(self) -> Jwt:
        if sum(found is not None for found in (self.jwks_url, self.public_key, self.secret)) > 1:
            raise ValueError("expected one of jwks_url, public_key and secret")
        # With a public key taken for a shared secret anybody could sign.
        fitting = _SYMMETRIC if self.secret is not None else _ASYMMETRIC
        if wrong := [name for name in self.algorithms if name not in fitting]:
            raise ValueError(f"algorithms: {wrong[0]} does not go with this key; expected of {', '.join(fitting)}")
        return self

    def pinned(self) -> list[str]:
        """The algorithms that are taken, and no others."""
        return list(self.algorithms) or (["HS256"] if self.secret is not None else ["RS256", "ES256", "EdDSA"])


class Auth(Section):
    """Who may connect (docs/auth.md)."""

    mode: Annotated[
        Literal["none", "tokens", "jwt", "custom"],
        Field(description="none: all who reach the server, so only a loopback host; tokens; jwt; custom: a handler."),
    ] = "none"
    insecure: Annotated[
        bool, Field(description="Let mode none bind to any address: everybody who reaches it may use it.")
    ] = False
    tokens: Annotated[
        dict[str, SecretStr],
        Field(description="Mode tokens: fixed ones, by name, beside those of `threadwire token create`."),
    ] = {}
    jwt: Jwt = Jwt()
    handler: Annotated[
        str | None,
        Field(
            pattern=r".:[A-Za-z_]",
            description="Mode custom: package.module:attribute, an async function of the request that gives a user.",
        ),
    ] = None

    @field_validator("tokens")
    @classmethod
    def _distinct(cls, tokens: dict[str, SecretStr]) -> dict[str, SecretStr]:
        values = [token.get_secret_value() for token in tokens.values()]
        if not all(name.strip() == name != "" for name in tokens) or not all(
            value.isascii() and value.isprintable() and value and " " not in value for value in values
        ):
            raise ValueError("expected names with tokens of printable ASCII characters, none of them empty or a space")
        if len(set(values)) < len(values):
            raise ValueError("two names have the same token")
        return tokens

    @model_validator(mode="after")
    def _complete(self) -> Auth:
        keys = (self.jwt.jwks_url, self.jwt.public_key, self.jwt.secret)
        if self.mode == "jwt" and all(key is None for key in keys):
            raise ValueError("jwt: mode jwt needs one of jwks_url, public_key and secret")
        if self.mode == "custom" and self.handler is None:
            raise ValueError("handler: mode custom needs one, as module:attribute")
        return self

    @property
    def own_machine(self) -> bool:
        """Whether whoever reaches the server may use it, so that only this machine is to reach it."""
        return self.mode == "none" and not self.insecure


class Limits(Section):
    """What users, addresses and clients may take; null: as the mode of auth has it."""

    connections_per_user: Annotated[
        Count | None, Field(description="Connections of one user at the same time; null: 50, with auth.mode none 0.")
    ] = None
    connections_per_address: Annotated[
        Count | None,
        Field(description="Connections from one address at the same time; null: 200, with auth.mode none 0."),
    ] = None
    upgrades_per_second: Annotated[
        Count | None,
        Field(description="New connections from one address, a second; null: 100, with auth.mode none 0."),
    ] = None
    commands_per_second: Annotated[
        Count | None,
        Field(description="Commands and HTTP requests of one user, a second; null: 100, with auth.mode none 0."),
    ] = None
    turns_per_minute: Annotated[
        Count | None, Field(description="Turns that one user may start, a minute; null: 120, with auth.mode none 0.")
    ] = None
    concurrent_runs_per_user: Annotated[
        Count | None,
        Field(description="Runs of one user at the same time, the rest wait; null: 10, with auth.mode none 0."),
    ] = None
    concurrent_runs: Annotated[
        Count, Field(description="Runs of all users at the same time; the rest wait, each user in turn.")
    ] = 2000
    tokens_per_day_per_user: Annotated[
        Count | None,
        Field(description="Tokens of one user's runs in a day (UTC); null: 2000000, with auth.mode none 0."),
    ] = None
    attachment_bytes: Annotated[
        Count, Field(description="One attachment inside a message (base64, a data: URL, or text), unpacked.")
    ] = 786_432
    buffered_bytes: Annotated[
        Count, Field(description="What waits in the server for one client that does not read, raw events included.")
    ] = 4_194_304
    history_page: Annotated[Count, Field(description="Messages in one history frame.")] = 100
    batch_inputs: Annotated[Count, Field(description="Inputs of one batch.")] = 1000
    max_batch_concurrency: Annotated[
        Count, Field(description="Inputs of one batch that run at once, whatever the batch asks for.")
    ] = 8

    def of_mode(self, mode: str) -> Limits:
        """The limits in force with that ``auth.mode``: each a number."""
        defaults = dict.fromkeys(WITH_AUTH, 0) if mode == "none" else WITH_AUTH
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return self.model_copy(update=missing)


#: The limits of users and addresses that hold where users are told apart, and nobody has set others.
WITH_AUTH = {
    "connections_per_user": 50,
    "connections_per_address": 200,
    "upgrades_per_second": 100,
    "commands_per_second": 100,
    "turns_per_minute": 120,
    "concurrent_runs_per_user": 10,
    "tokens_per_day_per_user": 2_000_000,
}


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
