"""Any Python object as JSON that can be sent: what graphs dispatch and tools return is whatever their authors like.

Pure. An object that has no sensible form becomes a string that names its type, never its address or its content; what
is too large is cut, and says so.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import orjson
from pydantic import BaseModel

#: The bound for one value on the wire, in bytes of JSON.
MAX_VALUE_BYTES = 64 * 1024
#: How deep one value may nest; what lies deeper becomes the name of its type. Clients' parsers have limits too.
MAX_VALUE_DEPTH = 64

_PLAIN = frozenset({bool, int, float})
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def json_safe(value: Any, max_bytes: int = MAX_VALUE_BYTES) -> Any:
    """A JSON value (dict, list, str, number, bool, None) that stands for ``value``.

    One larger than ``max_bytes`` becomes ``{"truncated": true, "bytes": n, "preview": "…"}``; what nests deeper than
    ``MAX_VALUE_DEPTH`` is left out.
    """
    # Exactly these: what derives from float, as numpy's numbers do, is not written later on.
    if value is None or type(value) in _PLAIN or (type(value) is str and len(value) < 1000):
        return value if type(value) is not int or -(2**63) <= value < 2**64 else str(value)
    data = _dump(value)
    if len(data) > max_bytes:
        preview = data[: min(max_bytes, 2048)].decode("utf-8", "ignore")
        return {"truncated": True, "bytes": len(data), "preview": preview}
    found = orjson.loads(data)
    return _walk(found, 0, set()) if is_deeper(found, MAX_VALUE_DEPTH) else found


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # A cycle, keys that are no keys, half a surrogate pair, a dump that raises: walk it by hand.
        pass
    try:
        return orjson.dumps(_walk(value, 0, set()))
    except Exception:
        # Whatever an object's own code raises where it is only looked at, or another thread is just changing it.
        return orjson.dumps(f"<{type(value).__name__}>")


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects nest deeper in ``value`` (a JSON value) than that; 1 is a list of plain values."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return bool(level)


def _default(value: Any) -> Any:  # noqa: PLR0911 -- a case a line
    if isinstance(value, float):
        return float(value)
    if isinstance(value, BaseModel):
        # As what they are, not as the field's type: a list of messages is dumped with its tool calls.
        return value.model_dump(mode="python", warnings=False, serialize_as_any=True)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, AbstractSet | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if type(value).__module__ == "numpy":
        # What orjson does not write by itself: arrays of objects or of text, dates, those that are not contiguous.
        found = value.tolist()
        # Numbers wider than Python's stay what they are.
        if type(found) is not type(value):
            return found
    return f"<{type(value).__name__}>"


def _walk(value: Any, depth: int, above: set[int]) -> Any:
    """By hand, in the same form as orjson's; what cannot be looked at costs itself alone, and not what is beside it."""
    try:
        return _form(value, depth, above)
    except Exception:
        # Whatever the object's own code raises: its type is what is left to say.
        return f"<{type(value).__name__}>"


def _form(value: Any, depth: int, above: set[int]) -> Any:  # noqa: PLR0911 -- a case a line
    if isinstance(value, Enum):
        return _walk(value.value, depth, above)
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if depth >= MAX_VALUE_DEPTH:
        return f"<{type(value).__name__}>"
    return "<cycle>" if id(value) in above else _opened(value, depth, above | {id(value)})


def _opened(value: Any, depth: int, inside: set[int]) -> Any:
    if isinstance(value, Mapping):
        return {_key(key): _walk(item, depth + 1, inside) for key, item in value.items()}
    if isinstance(value, list | tuple | AbstractSet):
        return [_walk(item, depth + 1, inside) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _walk(item, depth + 1, inside) for name, item in _attributes(value) if not name.startswith("_")}
    try:
        # Dates, UUIDs, numpy's numbers and arrays.
        return orjson.loads(orjson.dumps(value, option=_OPTIONS))
    except (TypeError, ValueError, RecursionError):
        return _walk(_default(value), depth + 1, inside)


def _attributes(value: Any) -> list[tuple[str, Any]]:
    if hasattr(value, "__dict__"):
        return list(vars(value).items())
    return [(item.name, getattr(value, item.name, None)) for item in fields(value)]


def _key(key: Any) -> str:
    if isinstance(key, Enum):
        return _key(key.value)
    if isinstance(key, str):
        return str(_walk(key, 0, set()))
    if type(key).__module__ == "numpy":
        key = key.tolist()
    try:
        return str(next(iter(orjson.loads(orjson.dumps({key: None}, option=_OPTIONS)))))
    except (TypeError, ValueError, RecursionError):
        return str(key) if isinstance(key, int | float) else f"<{type(key).__name__}>"
