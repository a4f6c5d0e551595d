"""The runtime context of a run, checked against the served graph's ``context_schema``. Pure."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, NotRequired, Required, get_type_hints, is_typeddict

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from threadwire.errors import InvalidArgument, StartupError
from threadwire.protocol import explain

#: The field of a context that says who asks.
USER = "user"


class ContextSchema:
    """What a graph's context may be: a dataclass, a pydantic model or a TypedDict; None is no context at all.

    Raises:
        StartupError: the schema is none of these, or cannot be resolved.
    """

    def __init__(self, schema: Any) -> None:
        try:
            self._adapter = None if schema is None else TypeAdapter[Any](_readable(schema))
        except Exception as error:
            message = f"graph: its context_schema {getattr(schema, '__name__', schema)} cannot be used"
            raise StartupError(f"{message}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        self._names = _names(schema)
        #: The type of its field ``user``; None: it has none.
        self._of_user = _type_of_user(schema) if schema is not None else None

    def check(self, context: dict[str, Any] | None, user: dict[str, Any] | None = None) -> Any:
        """The context for a run, of the graph's own type; None is an empty one. Raises ``InvalidArgument``.

        A field ``user`` is the server's to fill, where there is a user: with all that is known of them, or with their
        identity where it is text.
        """
        if self._adapter is None:
            if context is not None:
                raise InvalidArgument("context", "the served graph takes no context")
            return None
        if self._names is not None and (unknown := set(context or {}) - self._names):
            raise InvalidArgument(f"context.{min(unknown)[:64]}", "the served graph's context has no such field")
        given = dict(context or {})
        if user is not None and self._of_user is not None:
            if USER in given:
                raise InvalidArgument(f"context.{USER}", "is the server's to say")
            given[USER] = user["identity"] if self._of_user is str else user
        try:
            return self._adapter.validate_python(given)
        except ValidationError as invalid:
            first = invalid.errors(include_url=False)[0]
            where = ".".join(["context", *(str(part) for part in first["loc"])])
            raise InvalidArgument(where, explain(first)) from None


def _type_of_user(schema: Any) -> Any:
    hint = get_type_hints(schema).get(USER) if isinstance(schema, type) else None
    return str if hint in (str, str | None) else hint


def _readable(schema: Any) -> Any:
    """Before Python 3.12 pydantic reads only typing_extensions' TypedDict, and graphs are written with typing's."""
    if not is_typeddict(schema):
        return schema
    hints = {
        name: Required[hint] if name in schema.__required_keys__ else NotRequired[hint]
        for name, hint in get_type_hints(schema).items()
    }
    return TypedDict(schema.__name__, hints)  # type: ignore[operator]


def _names(schema: Any) -> frozenset[str] | None:
    """The names a context may have; None where its class decides that itself, as pydantic's do."""
    if is_dataclass(schema):
        return frozenset(field.name for field in fields(schema) if field.init)
    return frozenset(get_type_hints(schema)) if is_typeddict(schema) else None
