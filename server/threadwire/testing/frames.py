"""Whether frames are what they should be, told so that a failing test needs no debugger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, TypeAlias

from pydantic import BaseModel

#: Frames of a client, or as they are on the wire.
AnyFrame: TypeAlias = BaseModel | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Matcher:
    """A frame of one type, so many times; its fields equal what is given, or satisfy it where that is a function."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    least: int = 1
    most: float = 1

    def matches(self, found: dict[str, Any]) -> bool:
        """Whether this is one."""
        return found["type"] == self.kind and all(_same(want, found.get(name)) for name, want in self.fields.items())

    def __str__(self) -> str:
        fields = "".join(f", {name}={value!r}" for name, value in self.fields.items())
        how = "some" if self.most > 1 else "frame" if self.least else "maybe"
        return f"{how}({self.kind!r}{fields})"


#: A frame's type is a frame of that type with any fields; ``...`` is any frames, or none.
Expected: TypeAlias = str | Matcher | EllipsisType


def frame(kind: str, **fields: Any) -> Matcher:
    """One frame with these fields: ``frame("run_finished", status="completed", usage=lambda found: found)``."""
    return Matcher(kind, fields)


def some(kind: str, **fields: Any) -> Matcher:
    """One or more of these in a row."""
    return Matcher(kind, fields, most=float("inf"))


def maybe(kind: str, **fields: Any) -> Matcher:
    """One of these, or none."""
    return Matcher(kind, fields, least=0)


def assert_frames(frames: Iterable[AnyFrame], *expected: Expected) -> None:
    """Hold frames, all of them and in order, against what is expected.

    Raises:
        AssertionError: it says how far the frames were as expected, and shows them.
    """
    found = [_plain(given) for given in frames]
    wanted = [Matcher(want) if isinstance(want, str) else want for want in expected]
    furthest = _Furthest()
    if not _match(found, 0, wanted, 0, furthest):
        lines = [f"{'  ' if index < furthest.frame else '> '}{_brief(given)}" for index, given in enumerate(found)]
        want = str(wanted[furthest.want]) if furthest.want < len(wanted) else "no further frame"
        came = _brief(found[furthest.frame]) if furthest.frame < len(found) else "the end"
        raise AssertionError("\n".join([f"expected {want}, got {came}", "the frames were:", *lines]))


@dataclass(slots=True)
class _Furthest:
    """The place where the longest attempt failed."""

    frame: int = 0
    want: int = 0

    def reach(self, frame_index: int, want: int) -> None:
        self.frame, self.want = max((self.frame, self.want), (frame_index, want))


def _match(
    found: list[dict[str, Any]], at: int, wanted: Sequence[Matcher | EllipsisType], want: int, furthest: _Furthest
) -> bool:
    """Try every way, the longest run of each first."""
    furthest.reach(at, want)
    if want == len(wanted):
        return at == len(found)
    expected = wanted[want]
    if isinstance(expected, EllipsisType):
        # The nearest place from where the rest matches.
        return any(_match(found, start, wanted, want + 1, furthest) for start in range(at, len(found) + 1))
    run = 0
    while run < expected.most and at + run < len(found) and expected.matches(found[at + run]):
        run += 1
    return any(_match(found, at + many, wanted, want + 1, furthest) for many in range(run, expected.least - 1, -1))


def _same(want: Any, found: Any) -> bool:
    if isinstance(want, Callable):  # type: ignore[arg-type]  # as a runtime check it is one
        return bool(want(found))
    if isinstance(want, dict) and isinstance(found, dict):
        return all(_same(value, found.get(name)) for name, value in want.items())
    return bool(want == found)


def _plain(given: AnyFrame) -> dict[str, Any]:
    return given.model_dump() if isinstance(given, BaseModel) else given


def _brief(given: dict[str, Any]) -> str:
    told = {name: value for name, value in given.items() if name not in ("type", "run_id", "seq") and value is not None}
    text = ", ".join(f"{name}={value!r}" for name, value in told.items())
    return f"{given['type']} {text[:160]}".rstrip()
