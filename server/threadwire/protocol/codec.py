"""Between bytes and models, both ways, and the errors that name what was expected and what came."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from threadwire.errors import BadFrame, InvalidArgument, ThreadwireError, UnknownCommand
from threadwire.jsonsafe import is_deeper
from threadwire.protocol.codes import CloseCode
from threadwire.protocol.commands import COMMANDS, INPUT_BLOCKS, Batch, Command, Edit, Send
from threadwire.protocol.content import Content
from threadwire.protocol.frames import FRAMES, Frame, UnknownFrame

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

#: A thread's id, as a JSON Schema's pattern.
THREAD_ID = r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$"
# Python's $ lets a line's end pass.
_THREAD_ID = re.compile(THREAD_ID.removeprefix("^").replace("$", r"\Z"))


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
        if not isinstance(kind, str) or kind not in INPUT_BLOCKS:
            known = ", ".join(INPUT_BLOCKS)
            came = repr(kind[:64]) if isinstance(kind, str) else _json_type(kind)
            raise _with_id(InvalidArgument(f"{field}.type", f"expected one of {known}; got {came}"), command_id)
        try:
            _check_block(kind, block, field)
        except InvalidArgument as error:
            raise _with_id(error, command_id) from None


def _check_block(kind: str, block: dict[str, Any], where: str) -> None:
    """Refuse a block that has nothing in it: it would stay in its thread, and fail each turn from then on."""
    sources = INPUT_BLOCKS[kind]
    given = [name for name in sources if block.get(name) is not None]
    instead = "" if given or not sources[1:] else f" here or in {' or '.join(sources[1:])}"
    if "base64" in given and kind != "text-plain":
        given.append("mime_type")
    for name in given or sources[:1]:
        value = block.get(name)
        if not isinstance(value, str) or (name != "text" and not value):
            came = "nothing" if value == "" else _json_type(value)
            raise InvalidArgument(f"{where}.{name}", f"expected a string{instead}, got {came}")


def _explain(invalid: ValidationError, value: dict[str, Any]) -> InvalidArgument:
    """Turn pydantic's findings about ``value`` into one sentence about the first field that is wrong."""
    first, *others = invalid.errors(include_url=False)
    if others and first["type"] == "string_type" and isinstance(first["input"], list):
        # Content is text or blocks: blocks are what was meant.
        first = others[0]
    kind, location = first["type"], first["loc"]
    if kind == "missing":
        return InvalidArgument(".".join([*path_in(value, location[:-1]), str(location[-1])]), explain(first))
    field = ".".join(path_in(value, location))
    if kind == "string_type" and "list" in str(others[:1]):
        came = _json_type(first["input"])
        return InvalidArgument(field, f"expected a string or a list of content blocks, got {came}")
    return InvalidArgument(field, explain(first))


def explain(found: ErrorDetails) -> str:
    """One of pydantic's findings in the words of every refusal: what was expected, and what came."""
    kind, came = found["type"].replace("_parsing", "_type"), found["input"]
    if kind == "missing":
        return "expected, but it is not there"
    if kind in ("value_error", "assertion_error"):
        # The words of the field's own check.
        return found["msg"].partition(", ")[2] or found["msg"]
    message = {"expected": found["msg"].removeprefix("Input should be "), **found.get("ctx", {})}
    expected = _EXPECTED.get(kind, "{expected}").format_map(message)
    counted = kind.startswith(("string_too_", "too_")) and isinstance(came, str | list | dict)
    return f"expected {expected}, got {len(came) if counted else _json_type(came)}"


#: pydantic's error types in JSON's words.
_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "an object",
    "dict_type": "an object",
    "float_type": "a number",
    "greater_than_equal": "a number from {ge}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than_equal": "a number up to {le}",
    "list_type": "a list",
    "model_type": "an object",
    "string_pattern_mismatch": "a UUID",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} character(s)",
    "string_type": "a string",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} item(s)",
}


def path_in(value: Any, location: Iterable[int | str]) -> list[str]:
    """The part of pydantic's path that the client wrote: a union's branches add names of their own."""
    found: list[str] = []
    for part in location:
        try:
            value = value[part]
        except (LookupError, TypeError):
            continue
        found.append(str(part)[:64])
    return found


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
        return str(value)
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    return "a list" if isinstance(value, list) else "an object"


def _brief(error: Exception) -> str:
    return str(error).split(":", maxsplit=1)[0][:120]


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
