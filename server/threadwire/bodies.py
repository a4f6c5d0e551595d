"""What clients send to the ``/threads`` routes, checked: the bodies and queries of ``langgraph_sdk`` and what we add.

Pure. What the Agent Server takes and this one does not is refused by its name, since leaving it out would change what
the client gets; empty, it is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema

from threadwire.errors import InvalidArgument
from threadwire.jsonsafe import MAX_VALUE_DEPTH, is_deeper
from threadwire.protocol import THREAD_ID, WHOLE, check_thread_id, explain, path_in
from threadwire.snapshots import STATE_FIELDS, THREAD_FIELDS, is_state_field
from threadwire.storage import ThreadQuery, ThreadSort, ThreadStatus

#: Fields of the Agent Server's that are not supported.
_UNSUPPORTED = ("supersteps", "ttl", "values", "extract")
#: The largest page, as in the Agent Server.
MAX_LIMIT = 1000

Model = TypeVar("Model", bound=BaseModel)
Metadata = dict[str, Any]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT), WHOLE]
ThreadId = Annotated[str, AfterValidator(check_thread_id), WithJsonSchema({"type": "string", "pattern": THREAD_ID})]


def _thread_field(name: str) -> str:
    if name not in THREAD_FIELDS:
        raise ValueError(f"expected one of {', '.join(THREAD_FIELDS)}")
    return name


def _state_field(name: str) -> str:
    if not is_state_field(name):
        raise ValueError("expected a field of the state, or values.<key>")
    return name


#: A field of the state, or one of its values.
STATE_FIELD = rf"^(?:{'|'.join(STATE_FIELDS)}|values\.[\s\S]+)$"
StateField = Annotated[
    str,
    StringConstraints(max_length=256),
    AfterValidator(_state_field),
    WithJsonSchema({"type": "string", "maxLength": 256, "pattern": STATE_FIELD}),
]
ThreadField = Annotated[
    str, AfterValidator(_thread_field), WithJsonSchema({"type": "string", "enum": list(THREAD_FIELDS)})
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CreateThread(_Body):
    """``POST /threads``."""

    thread_id: ThreadId | None = None
    metadata: Metadata | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None


class UpdateThread(_Body):
    """``PATCH /threads/{id}``."""

    metadata: Metadata | None = None


class CountThreads(_Body):
    """``POST /threads/count``: which threads."""

    metadata: Metadata | None = None
    status: ThreadStatus | None = None
    ids: Annotated[list[str], Field(max_length=MAX_LIMIT)] | None = None
    #: Ours: text in the title or in what the user wrote.
    query: Annotated[str, StringConstraints(max_length=256)] | None = None

    def threads(self, owner: str) -> ThreadQuery:
        """What it asks the storage for, of a user's threads."""
        return ThreadQuery(owner, metadata=self.metadata, status=self.status, ids=self.ids, text=self.query)


class SearchThreads(CountThreads):
    """``POST /threads/search``: a page of them."""

    limit: Limit | None = None
    offset: Annotated[int, Field(ge=0, le=2**53), WHOLE] | None = None
    sort_by: ThreadSort | None = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[ThreadField] | None = None


class CheckpointRef(BaseModel):
    """A checkpoint as the SDK hands it back; more than its place is not needed of it."""

    model_config = ConfigDict(strict=True, frozen=True)

    thread_id: str | None = None
    checkpoint_ns: Annotated[str, StringConstraints(max_length=4096)] | None = None
    checkpoint_id: Annotated[str, StringConstraints(max_length=128)] | None = None


class ReadState(_Body):
    """``POST /threads/{id}/state/checkpoint``."""

    checkpoint: CheckpointRef
    subgraphs: bool | None = None
    select: list[StateField] | None = None


class ReadHistory(_Body):
    """``POST /threads/{id}/history``."""

    limit: Limit | None = None
    before: Annotated[str, StringConstraints(max_length=128)] | CheckpointRef | None = None
    #: The keys' form is the saver's, which refuses others by itself.
    metadata: (
        Annotated[Metadata, Field(json_schema_extra={"propertyNames": {"pattern": r"^[A-Za-z0-9_.-]+$"}})] | None
    ) = None
    checkpoint: CheckpointRef | None = None
    select: list[StateField] | None = None


def check(model: type[Model], body: dict[str, Any]) -> Model:
    """Read a body as a ``model``; raises ``InvalidArgument``, which names the field."""
    if is_deeper(body, MAX_VALUE_DEPTH):
        raise InvalidArgument("body", f"expected JSON nested at most {MAX_VALUE_DEPTH} deep, got deeper")
    for name in _UNSUPPORTED:
        if body.get(name):
            raise InvalidArgument(name, "is not supported by this server")
    known = {name: value for name, value in body.items() if name not in _UNSUPPORTED}
    try:
        return model.model_validate(known)
    except ValidationError as invalid:
        # What was meant of a union shows in its last branch.
        found = invalid.errors(include_url=False)[-1]
        unknown = found["type"] == "extra_forbidden"
        message = (
            f"is not a field of this request, which has {', '.join(model.model_fields)}" if unknown else explain(found)
        )
        # What is not there has a path that is nowhere in the body.
        field = ".".join(path_in(known, found["loc"]) or map(str, found["loc"])) or "body"
        raise InvalidArgument(field, message) from None


def read_flag(values: Sequence[str], name: str) -> bool:
    """A query parameter that is true or false, false where it is not there; raises ``InvalidArgument``."""
    if len(values) > 1:
        raise InvalidArgument(name, f"expected it once, got it {len(values)} times")
    text = values[0].lower() if values else "false"
    if text not in ("true", "false", "1", "0"):
        raise InvalidArgument(name, f"expected true or false, got {text[:64]!r}")
    return text in ("true", "1")


def read_select(values: Sequence[str]) -> list[str]:
    """``select`` from a query, repeated or with commas; raises ``InvalidArgument``."""
    names = [name for value in values for name in value.split(",") if name]
    for name in names:
        if not is_state_field(name):
            raise InvalidArgument("select", f"expected fields of the state, or values.<key>; got {name[:64]!r}")
    return names
