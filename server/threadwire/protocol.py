"""The wire, ``threadwire.v1``: commands, frames, close codes; encode and decode, both ways.

Clients send *commands*, the server sends *frames*; each is one JSON object in one text message. The models here are
the single definition: the server validates commands with them, the Python client reads frames with them,
``/protocol.json`` is their JSON Schema, and ``tests/frames.json`` holds examples that every client is held to.

Pure: knows no socket, no graph, no clock. Where a fact is not ours: ids of threads and runs are LangGraph's
(``thread_id``, ``run_id``), the six filter fields have LangChain's meaning, codes from 1000 are RFC 6455's.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated, Any, Literal, TypeAlias

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)

from threadwire.errors import BadFrame, InvalidArgument, ThreadwireError, UnknownCommand
from threadwire.jsonsafe import is_deeper

SUBPROTOCOL = "threadwire.v1"

#: Answers that may wait for a reader before its connection is no longer read from.
MAX_WAITING_ANSWERS = 256
#: Frames a client may break in a minute before it is cut off with 1008.
MAX_BAD_FRAMES_PER_MINUTE = 100
#: Raw events that wait for one reader; more are dropped and counted.
MAX_WAITING_EVENTS = 128
#: How deep a command's JSON may nest, itself included. orjson writes 254 levels; what is stored and sent again, inside
#: messages inside frames, must stay well below.
MAX_DEPTH = 64

_THREAD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


class CloseCode(enum.IntEnum):
    """Why a connection ends, and with it whether a client should come back (see ``reconnect``)."""

    CLIENT = 1000
    GOING_AWAY = 1001
    NOT_UTF8 = 1007
    PROTOCOL_ABUSE = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    OVER_CAPACITY = 1013
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    THREAD_DELETED = 4404
    NO_CREDENTIAL = 4408
    LIMIT = 4429

    @property
    def reconnect(self) -> bool:
        """Whether a client may connect again by itself."""
        return self in _RECONNECT


_RECONNECT = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.INTERNAL,
        CloseCode.RESTART,
        CloseCode.OVER_CAPACITY,
        CloseCode.LIMIT,
    }
)

# --- commands -------------------------------------------------------------------------------------

CommandId: TypeAlias = Annotated[str, StringConstraints(max_length=64)]
RunId: TypeAlias = Annotated[str, StringConstraints(pattern=_UUID.pattern.removesuffix(r"\Z") + "$", max_length=36)]
MessageId: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=128)]
# fail_fast: a megabyte of wrong items is one mistake, not half a million.
Blocks: TypeAlias = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
#: A message's content: text, or LangChain's standard content blocks.
Content: TypeAlias = str | Blocks
MultitaskStrategy: TypeAlias = Literal["enqueue", "reject", "interrupt", "rollback"]

#: Content blocks a user's message may hold: LangChain's standard ones that are input.
INPUT_BLOCKS = ("text", "image", "audio", "video", "file", "text-plain")
#: The content of a user's message; what the types do not say is checked by ``_check`` and told in the schema.
InputContent: TypeAlias = Annotated[
    Content,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {"type": {"enum": list(INPUT_BLOCKS)}},
                        "required": ["type"],
                        "if": {"properties": {"type": {"const": "text"}}},
                        "then": {"properties": {"text": {"type": "string"}}, "required": ["text"]},
                    },
                },
            ]
        }
    ),
]


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: CommandId | None = None


class Send(_Command):
    """Add a user message and start a run."""

    type: Literal["send"]
    content: InputContent
    message_id: MessageId | None = None
    run_id: RunId | None = None
    multitask_strategy: MultitaskStrategy | None = None
    stream: Literal["events", "messages"] | None = None
    context: dict[str, Any] | None = None
    checkpoint_id: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None


class Cancel(_Command):
    """Stop a run: the named one, or the current one."""

    type: Literal["cancel"]
    run_id: RunId | None = None


class Respond(_Command):
    """Answer interrupts and resume."""

    type: Literal["respond"]
    responses: Annotated[dict[str, Any], Field(min_length=1)]
    run_id: RunId | None = None


class Regenerate(_Command):
    """Answer the user's message of a turn again."""

    type: Literal["regenerate"]
    message_id: MessageId | None = None
    run_id: RunId | None = None


class Edit(_Command):
    """Replace a user message, drop what followed it, and run."""

    type: Literal["edit"]
    message_id: MessageId
    content: InputContent
    run_id: RunId | None = None


class History(_Command):
    """Ask for a page of messages, the latest first pages."""

    type: Literal["history"]
    before: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] | None = None


Names: TypeAlias = Annotated[
    list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=100, fail_fast=True)
]


class Subscribe(_Command):
    """Narrow which events become frames on this connection; replaces the former filter whole."""

    type: Literal["subscribe"]
    include_types: Names = []
    include_names: Names = []
    include_tags: Names = []
    exclude_types: Names = []
    exclude_names: Names = []
    exclude_tags: Names = []
    raw: bool = False


class Batch(_Command):
    """Run each input on the graph, without a thread."""

    type: Literal["batch"]
    inputs: Annotated[list[InputContent], Field(min_length=1, fail_fast=True)]
    max_concurrency: Annotated[int, Field(ge=1)] | None = None
    run_id: RunId | None = None


class Ping(_Command):
    """Ask for a ``pong``."""

    type: Literal["ping"]


Command: TypeAlias = Send | Cancel | Respond | Regenerate | Edit | History | Subscribe | Batch | Ping
COMMANDS: dict[str, type[_Command]] = {
    "send": Send,
    "cancel": Cancel,
    "respond": Respond,
    "regenerate": Regenerate,
    "edit": Edit,
    "history": History,
    "subscribe": Subscribe,
    "batch": Batch,
    "ping": Ping,
}


def decode(data: str | bytes) -> Command:
    """Read one command.

    Raises:
        BadFrame: not JSON, not an object, or nested deeper than ``MAX_DEPTH``.
        UnknownCommand: its ``type`` is none of ours.
        InvalidArgument: a field is missing, unknown, or not what it should be; the message names the field, what
            was expected and what came.

    Whatever is raised carries ``command_id``, the command's ``id`` where one could be read.
    """
    return validate_command(decode_object(data))


def decode_object(data: str | bytes) -> dict[str, Any]:
    """Read one JSON object. Raises ``BadFrame``."""
    try:
        value = orjson.loads(data)
    except ValueError as error:
        raise _with_id(BadFrame(f"expected a JSON object, got text that is not JSON ({_brief(error)})"), None) from None
    if not isinstance(value, dict):
        raise _with_id(BadFrame(f"expected a JSON object, got {_json_type(value)}"), None)
    return value


def validate_command(value: dict[str, Any]) -> Command:
    """Check a JSON object against the command its ``type`` names; raises as ``decode`` does."""
    name = value.get("type")
    command_id = _readable_id(value)
    if is_deeper(value, MAX_DEPTH):
        message = f"expected JSON nested at most {MAX_DEPTH} deep, got deeper"
        raise _with_id(BadFrame(message), command_id)
    if not isinstance(name, str):
        came = "none" if name is None and "type" not in value else _json_type(name)
        error: ThreadwireError = InvalidArgument("type", f"expected the name of a command, got {came}")
        raise _with_id(error, command_id)
    model = COMMANDS.get(name)
    if model is None:
        known = ", ".join(COMMANDS)
        raise _with_id(UnknownCommand(f"expected one of {known}; got {name[:64]!r}"), command_id)
    for field in value:
        if field not in model.model_fields:
            message = f"is not a field of {name}, which has {', '.join(model.model_fields)}"
            raise _with_id(InvalidArgument(repr(field[:64])[1:-1], message), command_id)
    try:
        command = model.model_validate(value)
    except ValidationError as invalid:
        raise _with_id(_explain(invalid, value), command_id) from None
    if isinstance(command, Send | Edit):
        _check(command.content, "content", command_id)
    elif isinstance(command, Batch):
        for index, content in enumerate(command.inputs):
            _check(content, f"inputs.{index}", command_id)
    return command  # type: ignore[return-value]  # COMMANDS maps each name to its model


def check_thread_id(value: str) -> str:
    """Return a well-formed thread id as it came; raises ``InvalidArgument``."""
    if not _THREAD_ID.match(value):
        expected = "1-128 characters of A-Z a-z 0-9 . _ ~ -, the first a letter or digit"
        raise InvalidArgument("thread_id", f"expected {expected}; got {value[:140]!r}")
    return value


def _check(content: Content, where: str, command_id: str | None) -> None:
    if not content:
        raise _with_id(InvalidArgument(where, "expected text or content blocks, got nothing"), command_id)
    if isinstance(content, str):
        return
    for index, block in enumerate(content):
        kind = block.get("type")
        field = f"{where}.{index}"
        if kind not in INPUT_BLOCKS:
            known = ", ".join(INPUT_BLOCKS)
            came = repr(kind[:64]) if isinstance(kind, str) else _json_type(kind)
            raise _with_id(InvalidArgument(f"{field}.type", f"expected one of {known}; got {came}"), command_id)
        if kind == "text" and not isinstance(block.get("text"), str):
            came = _json_type(block.get("text"))
            raise _with_id(InvalidArgument(f"{field}.text", f"expected a string, got {came}"), command_id)


def _explain(invalid: ValidationError, value: dict[str, Any]) -> InvalidArgument:
    """Turn pydantic's findings about ``value`` into one sentence about the first field that is wrong."""
    first, *others = invalid.errors(include_url=False)
    if others and first["type"] == "string_type" and isinstance(first["input"], list):
        # Content is text or blocks: blocks are what was meant.
        first = others[0]
    kind, came = first["type"], _json_type(first["input"])
    if kind == "missing":
        return InvalidArgument(_path((*first["loc"][:-1],), value, first["loc"][-1]), "expected, but it is not there")
    field = _path(first["loc"], value)
    if kind == "string_type" and "list" in str(others[:1]):
        return InvalidArgument(field, f"expected a string or a list of content blocks, got {came}")
    expected = _EXPECTED.get(kind, "{expected}").format_map({"expected": first["msg"], **first.get("ctx", {})})
    return InvalidArgument(field, f"expected {expected}, got {came}")


#: pydantic's error types in JSON's words.
_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "greater_than_equal": "a number from {ge}",
    "int_type": "a whole number",
    "less_than_equal": "a number up to {le}",
    "list_type": "a list",
    "string_pattern_mismatch": "a UUID",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} character(s)",
    "string_type": "a string",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} item(s)",
}


def _path(location: tuple[int | str, ...], value: Any, *missing: int | str) -> str:
    """The part of pydantic's path that the client wrote: a union's branches add names of their own."""
    found: list[str] = []
    for part in location:
        try:
            value = value[part]
        except (LookupError, TypeError):
            continue
        found.append(str(part)[:64])
    return ".".join([*found, *map(str, missing)])


def _with_id(error: ThreadwireError, command_id: str | None) -> ThreadwireError:
    error.command_id = command_id  # type: ignore[attr-defined]
    return error


def _readable_id(value: dict[str, Any]) -> str | None:
    found = value.get("id")
    return found if isinstance(found, str) and len(found) <= 64 else None


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    return "a list" if isinstance(value, list) else "an object"


def _brief(error: Exception) -> str:
    return str(error).split(":", maxsplit=1)[0][:120]


# --- frames --------------------------------------------------------------------------------------


class _Frame(BaseModel):
    # A client must live with fields a later server adds.
    model_config = ConfigDict(extra="allow")


class _LogFrame(_Frame):
    """A frame of the thread's log: numbered, replayed byte for byte."""

    seq: int


class ErrorInfo(_Frame):
    """Why something failed; ``message`` is a sentence."""

    code: str
    message: str


class ToolCall(_Frame):
    """A call the model asked for."""

    id: str
    name: str
    args: dict[str, Any]


class Usage(_Frame):
    """Tokens, as the provider counts them."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    details: dict[str, Any] = {}


class Message(_Frame):
    """A message of the thread."""

    id: str
    role: Literal["user", "assistant", "tool", "system"]
    content: Content
    status: Literal["complete", "running", "cancelled", "failed", "lost"] = "complete"
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    name: str | None = None
    usage: dict[str, Any] | None = None


class Interrupt(_Frame):
    """A question the graph waits for an answer to."""

    id: str
    value: Any
    node: str | None


class RunInfo(_Frame):
    """The run a thread is at."""

    run_id: str
    status: Literal["running", "cancelling", "interrupted"]


class Queued(_Frame):
    """A turn that waits."""

    run_id: str
    message_id: str
    content: Content


class ReadyFrame(_Frame):
    """The first frame of every connection."""

    type: Literal["ready"] = "ready"
    protocol: str
    server: str
    thread_id: str
    created: bool
    epoch: str
    seq: int
    resume: Literal["fresh", "replayed", "gap"]
    run: RunInfo | None
    queue: list[Queued]
    interrupts: list[Interrupt]
    model: dict[str, Any]
    heartbeat_seconds: float
    limits: dict[str, Any]


class AckFrame(_Frame):
    """A command was taken."""

    type: Literal["ack"] = "ack"
    id: str | None
    run_id: str | None = None
    message_id: str | None = None
    duplicate: bool | None = None


class ErrorFrame(_Frame):
    """A command was not taken, or (``id`` null) something about the connection is wrong."""

    type: Literal["error"] = "error"
    id: str | None
    code: str
    message: str
    retry: bool
    retry_after_seconds: float | None = None


class HistoryFrame(_Frame):
    """A page of messages, oldest first, true for the log position ``seq``."""

    type: Literal["history"] = "history"
    id: str | None = None
    messages: list[Message]
    before: str | None
    seq: int


class PongFrame(_Frame):
    """``seq`` is the log position this reader has passed."""

    type: Literal["pong"] = "pong"
    id: str | None = None
    seq: int


class GapFrame(_Frame):
    """Frames were lost to this reader; it goes on from ``earliest``."""

    type: Literal["gap"] = "gap"
    requested: int
    earliest: int
    epoch: str
    run: RunInfo | None


class BatchResultFrame(_Frame):
    """One input of a batch is done."""

    type: Literal["batch_result"] = "batch_result"
    run_id: str
    index: int
    message: Message | None = None
    error: ErrorInfo | None = None


class GoawayFrame(_Frame):
    """The server is going to close: reconnect after the (jittered) delay."""

    type: Literal["goaway"] = "goaway"
    reason: str
    reconnect_after_seconds: float


class EventFrame(_Frame):
    """One raw event, or how many this reader missed."""

    type: Literal["event"] = "event"
    run_id: str | None = None
    event: dict[str, Any] | None = None
    dropped: int | None = None


class MessageFrame(_LogFrame):
    """A whole message was added to the thread."""

    type: Literal["message"] = "message"
    message: Message


class MessagesRemovedFrame(_LogFrame):
    """Messages were taken out, before what replaces them."""

    type: Literal["messages_removed"] = "messages_removed"
    run_id: str
    message_ids: list[str]


class RunQueuedFrame(_LogFrame):
    """A turn waits for the one before it."""

    type: Literal["run_queued"] = "run_queued"
    run_id: str
    message: Message
    position: int


class RunStartedFrame(_LogFrame):
    """A turn began."""

    type: Literal["run_started"] = "run_started"
    run_id: str
    trigger: Literal["send", "respond", "regenerate", "edit", "batch"]


class TokenFrame(_LogFrame):
    """Text to append to a message."""

    type: Literal["token"] = "token"
    run_id: str
    message_id: str
    node: str | None
    content: str


class ReasoningFrame(_LogFrame):
    """Text to append to a message's reasoning."""

    type: Literal["reasoning"] = "reasoning"
    run_id: str
    message_id: str
    node: str | None
    content: str


class ToolCallFrame(_LogFrame):
    """The model asked for a tool; ``args`` are whole."""

    type: Literal["tool_call"] = "tool_call"
    run_id: str
    id: str
    name: str
    args: dict[str, Any]
    node: str | None


class ToolResultFrame(_LogFrame):
    """A tool ended; ``id`` is its ``tool_call``'s."""

    type: Literal["tool_result"] = "tool_result"
    run_id: str
    id: str
    name: str
    result: Any
    status: Literal["ok", "error"]
    duration_ms: int | None


class UsageFrame(_LogFrame):
    """What one model call cost."""

    type: Literal["usage"] = "usage"
    run_id: str
    message_id: str
    model: str | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    details: dict[str, Any]


class RetrievalFrame(_LogFrame):
    """A retriever ran."""

    type: Literal["retrieval"] = "retrieval"
    run_id: str
    name: str
    query: str
    documents: list[dict[str, Any]]
    status: Literal["ok", "error"]


class CustomFrame(_LogFrame):
    """The graph dispatched a custom event or wrote to the stream writer."""

    type: Literal["custom"] = "custom"
    run_id: str
    name: str
    data: Any


class InterruptFrame(_LogFrame):
    """The graph waits for a person."""

    type: Literal["interrupt"] = "interrupt"
    run_id: str
    interrupts: list[Interrupt]


class RunFinishedFrame(_LogFrame):
    """A turn ended; its outcome is durable."""

    type: Literal["run_finished"] = "run_finished"
    run_id: str
    status: Literal["completed", "cancelled", "interrupted", "failed", "lost"]
    reason: str | None
    error: ErrorInfo | None
    usage: Usage | None
    duration_ms: int
    messages: list[Message] | None = None
    # A batch's run_finished is its connection's alone and has no number.
    seq: int | None = None  # type: ignore[assignment]


class UnknownFrame(_Frame):
    """A frame of a later protocol: kept as it came, to be ignored."""

    type: str


Frame: TypeAlias = (
    ReadyFrame
    | AckFrame
    | ErrorFrame
    | HistoryFrame
    | PongFrame
    | GapFrame
    | BatchResultFrame
    | GoawayFrame
    | EventFrame
    | MessageFrame
    | MessagesRemovedFrame
    | RunQueuedFrame
    | RunStartedFrame
    | TokenFrame
    | ReasoningFrame
    | ToolCallFrame
    | ToolResultFrame
    | UsageFrame
    | RetrievalFrame
    | CustomFrame
    | InterruptFrame
    | RunFinishedFrame
    | UnknownFrame
)
FRAMES: dict[str, type[_Frame]] = {
    model.model_fields["type"].default: model
    for model in (
        ReadyFrame,
        AckFrame,
        ErrorFrame,
        HistoryFrame,
        PongFrame,
        GapFrame,
        BatchResultFrame,
        GoawayFrame,
        EventFrame,
        MessageFrame,
        MessagesRemovedFrame,
        RunQueuedFrame,
        RunStartedFrame,
        TokenFrame,
        ReasoningFrame,
        ToolCallFrame,
        ToolResultFrame,
        UsageFrame,
        RetrievalFrame,
        CustomFrame,
        InterruptFrame,
        RunFinishedFrame,
    )
}
#: Frames that are in a thread's log and carry ``seq``.
LOG_FRAMES = frozenset(name for name, model in FRAMES.items() if issubclass(model, _LogFrame))


def decode_frame(data: str | bytes) -> Frame:
    """Read one frame, as a client does. A ``type`` this version does not know becomes an ``UnknownFrame``.

    Raises:
        BadFrame: not a JSON object with a ``type``, or a known frame whose fields are not what they should be.
    """
    value = decode_object(data)
    name = value.get("type")
    if not isinstance(name, str):
        raise BadFrame(f"expected a frame with a type, got {_json_type(name)}")
    try:
        return FRAMES.get(name, UnknownFrame).model_validate(value)  # type: ignore[return-value]
    except ValidationError as invalid:
        raise BadFrame(f"{name}: {_explain(invalid, value)}") from None


def encode(message: dict[str, Any]) -> bytes:
    """Write one message as UTF-8 JSON.

    Models can give half of a surrogate pair, which is no text: halves that meet are joined, single ones become U+FFFD.
    Numbers beyond 64 bits become text. Raises ``TypeError`` for what is no JSON.
    """
    try:
        return orjson.dumps(message)
    except TypeError:
        return orjson.dumps(_mended(message))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def error_frame(error: ThreadwireError, command_id: str | None = None) -> dict[str, Any]:
    """The ``error`` frame that tells of a failure."""
    frame: dict[str, Any] = {
        "type": "error",
        "id": command_id,
        "code": error.code,
        "message": error.message,
        "retry": error.retry,
    }
    if error.retry_after_seconds is not None:
        frame["retry_after_seconds"] = error.retry_after_seconds
    return frame


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of every command and frame, as ``GET /protocol.json`` gives it."""
    definitions: dict[str, Any] = {}

    def refer(models: dict[str, type[BaseModel]]) -> dict[str, Any]:
        for model in models.values():
            schema = TypeAdapter(model).json_schema(ref_template="#/$defs/{model}")
            definitions.update(schema.pop("$defs", {}))
            definitions[model.__name__] = schema
            # A frame's type has a default, for whoever makes one; on the wire it is always there.
            schema["required"] = sorted({"type", *schema.get("required", [])})
        return {name: {"$ref": f"#/$defs/{model.__name__}"} for name, model in models.items()}

    commands, frames = refer({**COMMANDS}), refer({**FRAMES})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SUBPROTOCOL,
        "commands": commands,
        "frames": frames,
        "close_codes": {str(code.value): {"name": code.name, "reconnect": code.reconnect} for code in CloseCode},
        "anyOf": [*commands.values(), *frames.values()],
        "$defs": definitions,
    }
