"""What a client asks for in the query of its upgrade request (or of a stream over HTTP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multidict import MultiMapping

from threadwire.errors import Forbidden, InvalidArgument
from threadwire.filters import Filter
from threadwire.protocol import check_thread_id, validate_command
from threadwire.storage import OnDisconnect

_FILTERS = (
    "include_types",
    "include_names",
    "include_tags",
    "exclude_types",
    "exclude_names",
    "exclude_tags",
)
#: Beyond the end of every log. More digits are counted as this much: JSON's numbers have 64 bits.
_BEYOND = 10**15
#: One for all connections: each empty set that is made has 216 bytes.
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A connection's parameters, checked. ``thread_id`` None: the server mints one."""

    thread_id: str | None
    after: int | None
    epoch: str | None
    history: int | None
    on_disconnect: OnDisconnect
    filter: Filter
    #: Whether it wants raw events as well.
    raw: bool


def read_query(query: MultiMapping[str], default_on_disconnect: OnDisconnect, *, allow_raw: bool) -> Wanted:
    """Read them; unknown ones are ignored.

    Raises:
        InvalidArgument: one is not what it should be; the message names it.
        Forbidden: raw events, which this server does not let out.
    """
    thread_id = query.get("thread_id")
    after, epoch = _number(query, "after", 0), query.get("epoch")
    if (after is None) != (epoch is None):
        missing = "epoch" if epoch is None else "after"
        raise InvalidArgument(missing, "expected, since after and epoch go together")
    raw = _boolean(query, "raw")
    check_raw(wanted=raw, allowed=allow_raw)
    return Wanted(
        thread_id=check_thread_id(thread_id) if thread_id is not None else None,
        after=after,
        epoch=epoch,
        history=_number(query, "history", 1),
        on_disconnect=read_on_disconnect(query, default_on_disconnect),
        filter=_filter(query),
        raw=raw,
    )


def read_on_disconnect(query: Mapping[str, str], default: OnDisconnect) -> OnDisconnect:
    """``on_disconnect``, or the config's; raises ``InvalidArgument``."""
    found = query.get("on_disconnect", default)
    if found == "cancel":
        return "cancel"
    if found == "continue":
        return "continue"
    raise InvalidArgument("on_disconnect", f"expected cancel or continue, got {found[:64]!r}")


def check_raw(*, wanted: bool, allowed: bool) -> None:
    """Whether a reader may have raw events; raises ``Forbidden``."""
    if wanted and not allowed:
        raise Forbidden("raw: this server lets no raw events out (events.allow_raw).")


def _number(query: Mapping[str, str], name: str, least: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    number = -1
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) <= 15 else _BEYOND
    if number < least:
        raise InvalidArgument(name, f"expected a whole number from {least}, got {text[:64]!r}")
    return number


def _boolean(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false")
    if text not in ("true", "false", "1", "0"):
        raise InvalidArgument(name, f"expected true or false, got {text[:64]!r}")
    return text in ("true", "1")


def _filter(query: MultiMapping[str]) -> Filter:
    """The six lists, each with commas or repeated, and held to what a ``subscribe`` may have."""
    names = {name: _names(query, name) for name in _FILTERS}
    if any(names.values()):
        validate_command({"type": "subscribe", **names})
    return Filter(**{name: frozenset(found) if found else _NONE for name, found in names.items()})


def _names(query: MultiMapping[str], name: str) -> list[str]:
    return [part for text in query.getall(name, ()) for part in text.split(",") if part]
