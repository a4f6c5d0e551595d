"""What a client sends: the commands, as models that refuse what they do not know."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from threadwire.protocol.content import Content

#: A run's id, as a JSON Schema's pattern.
RUN_ID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"

CommandId: TypeAlias = Annotated[str, StringConstraints(max_length=64)]
RunId: TypeAlias = Annotated[str, StringConstraints(pattern=RUN_ID, max_length=36)]
MessageId: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=128)]
MultitaskStrategy: TypeAlias = Literal["enqueue", "reject", "interrupt", "rollback"]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: For whole numbers, as JSON has them: 10.0 is one. Behind their bounds, which the schema would lose otherwise.
WHOLE = BeforeValidator(_whole)

_DATA = ("url", "base64", "file_id")
#: Content blocks a user's message may hold, LangChain's standard ones that are input; each has one of these fields.
INPUT_BLOCKS = {
    "text": ("text",),
    "image": _DATA,
    "audio": _DATA,
    "video": _DATA,
    "file": _DATA,
    "text-plain": ("text", *_DATA),
}


def _block_schema(kind: str, sources: tuple[str, ...]) -> dict[str, Any]:
    """What a block of this type has, as ``codec`` checks it: one of its sources, and with base64 what that is."""
    texts = {name: {"type": ["string", "null"], "minLength": 0 if name == "text" else 1} for name in sources}
    needs = [{"required": [name], "properties": {name: {"type": "string"}}} for name in sources]
    then: dict[str, Any] = {"properties": texts, "anyOf": needs}
    if "base64" in sources and kind != "text-plain":
        then["if"] = {"required": ["base64"], "properties": {"base64": {"type": "string"}}}
        then["then"] = {"required": ["mime_type"], "properties": {"mime_type": {"type": "string", "minLength": 1}}}
    return {"if": {"properties": {"type": {"const": kind}}}, "then": then}


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
                        "allOf": [_block_schema(kind, sources) for kind, sources in INPUT_BLOCKS.items()],
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
    limit: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = None


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
    max_concurrency: Annotated[int, Field(ge=1), WHOLE] | None = None
    run_id: RunId | None = None


class Reauth(_Command):
    """Bring a credential that takes the place of the one this connection was let in by: the same user's."""

    type: Literal["reauth"]
    token: Annotated[str, StringConstraints(min_length=1, max_length=16_384)]


class Ping(_Command):
    """Ask for a ``pong``."""

    type: Literal["ping"]


Command: TypeAlias = Send | Cancel | Respond | Regenerate | Edit | History | Subscribe | Batch | Reauth | Ping
COMMANDS: dict[str, type[_Command]] = {
    "send": Send,
    "cancel": Cancel,
    "respond": Respond,
    "regenerate": Regenerate,
    "edit": Edit,
    "history": History,
    "subscribe": Subscribe,
    "batch": Batch,
    "reauth": Reauth,
    "ping": Ping,
}
