"""Which events a reader may see: where an event comes from, and LangChain's six filters over it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """The answer of a model call that a frame is a part of, and which is kept if its turn is cut off."""

    message_id: str
    #: The root graph's task whose stored work has all of it; None: not known.
    task_id: str | None


class Origin(NamedTuple):
    """The event a frame was made from, as the six filters see it; and what of it a crash must not lose."""

    type: str
    name: str
    tags: tuple[str, ...]
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """LangChain's six filters: includes are a union, excludes come after; empty is no filter.

    The meaning is that of ``astream_events``' arguments, except that a custom event's type is ``custom``
    (LangChain takes the event's own name for its type).
    """

    include_types: frozenset[str] = frozenset()
    include_names: frozenset[str] = frozenset()
    include_tags: frozenset[str] = frozenset()
    exclude_types: frozenset[str] = frozenset()
    exclude_names: frozenset[str] = frozenset()
    exclude_tags: frozenset[str] = frozenset()

    @classmethod
    def of(cls, source: Any) -> Filter:
        """The filter of anything with the six fields as lists: the config's ``events``, a ``subscribe``."""
        return cls(**{name: frozenset(getattr(source, name)) for name in cls.__dataclass_fields__})

    def __bool__(self) -> bool:
        """Whether it hides anything."""
        return any(getattr(self, name) for name in self.__dataclass_fields__)

    def passes(self, origin: Origin) -> bool:
        """Whether a reader with this filter sees what came from ``origin``."""
        if self.include_types or self.include_names or self.include_tags:
            included = (
                origin.type in self.include_types
                or origin.name in self.include_names
                or not self.include_tags.isdisjoint(origin.tags)
            )
            if not included:
                return False
        return (
            origin.type not in self.exclude_types
            and origin.name not in self.exclude_names
            and self.exclude_tags.isdisjoint(origin.tags)
        )


class WantedTypes(list[str]):
    """The ``include_types`` given to ``astream_events``: every type that becomes frames, and all while ``every()``.

    LangChain only ever asks ``type in include_types``, and takes a custom event's name for its type, so the types to
    let through cannot be listed; the ones to keep out can. The root's own chain events come in by its name. Asked for
    each event anew, so a reader that begins to want raw events in the middle of a run gets them from there on.
    """

    def __init__(self, every: Callable[[], bool] = bool) -> None:
        super().__init__()
        self._every = every

    def __contains__(self, kind: object) -> bool:
        return kind not in ("chain", "prompt", "parser") or self._every()
