"""Raw events: what ``astream_events`` tells, for the readers that asked for it, through small bounded buffers.

They never enter the log: they are 40 times its bytes and carry prompts and internals. The server's policy comes first,
then the reader's own filter; an event is made JSON and encoded once for all who want it, and not at all where nobody
does. A reader that does not keep up loses events and is told how many; the run waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from threadwire.events import ROOT
from threadwire.filters import Filter, Origin
from threadwire.jsonsafe import json_safe
from threadwire.protocol import MAX_WAITING_EVENTS, encode

#: The bound for what is beside an event's data: its metadata, its tags.
MAX_ABOUT_BYTES = 16 * 1024
_MAX_NAME_CHARS = 1000


class RawReader:
    """One reader's events that are not sent yet, ``max_bytes`` of them at most (0: by their number only).

    ``wake`` is called when there is one more.
    """

    __slots__ = ("_bytes", "_max_bytes", "_waiting", "_wake", "filter")

    def __init__(self, wake: Callable[[], None], max_bytes: int) -> None:
        self._wake = wake
        # A number stands where so many are missing.
        # A list, since it is short, and most connections have none: an empty deque has 760 bytes.
        self._waiting: list[tuple[Origin, bytes] | int] = []
        self._bytes = 0
        self._max_bytes = max_bytes
        #: What this reader wants to see; None: it wants none.
        self.filter: Filter | None = None

    def put(self, origin: Origin, data: bytes) -> None:
        """Let one more wait; where enough do (``MAX_WAITING_EVENTS``, or their bytes), it is counted and gone."""
        fits = not self._max_bytes or self._bytes + len(data) <= self._max_bytes
        if len(self._waiting) < MAX_WAITING_EVENTS and fits:
            self._waiting.append((origin, data))
            self._bytes += len(data)
        else:
            newest = self._waiting[-1] if self._waiting else None
            if isinstance(newest, int):
                self._waiting[-1] = newest + 1
            else:
                self._waiting.append(1)
        self._wake()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> bytes | None:
        """The next frame, or None; frames that a newer filter hides are passed over."""
        while self._waiting:
            found = self._waiting.pop(0)
            if not isinstance(found, int):
                origin, data = found
                self._bytes -= len(data)
                if self.filter is not None and self.filter.passes(origin):
                    return data
            elif self.filter is not None:
                return encode({"type": "event", "dropped": found})
        return None


class RawFeed:
    """The raw events of one thread's runs; ``allowed``: somebody may come to want them."""

    def __init__(self, policy: Filter, *, allowed: bool = True) -> None:
        self.allowed = allowed
        self._policy = policy
        self._readers: set[RawReader] = set()

    def subscribe(self, reader: RawReader, wanted: Filter | None) -> None:
        """Give a reader the events that pass ``wanted`` from now on; None: none any more."""
        reader.filter = wanted
        if wanted is None:
            self._readers.discard(reader)
        else:
            self._readers.add(reader)

    def wanted(self) -> bool:
        """Whether anybody wants events."""
        return bool(self._readers)

    def publish(self, run_id: str, event: Any, graph_name: str) -> None:
        """Give an event to whom it concerns; ``graph_name`` is what its root is called there."""
        name = graph_name if event["name"] == ROOT and not event.get("parent_ids") else event["name"]
        origin = Origin(kind_of(event["event"]), name, tuple(event.get("tags") or ()))
        if not self._policy.passes(origin):
            return
        data = None
        for reader in self._readers:
            if reader.filter is not None and reader.filter.passes(origin):
                data = data or encode({"type": "event", "run_id": run_id, "event": shown(event, name)})
                reader.put(origin, data)


def kind_of(event: str) -> str:
    """The type an event is filtered by: ``on_chat_model_stream`` is of type ``chat_model``."""
    return event.removeprefix("on_").rpartition("_")[0]


def shown(event: Any, name: str) -> dict[str, Any]:
    """An event as the wire has it: JSON, and each part of it bounded."""
    data = event.get("data")
    return {
        "event": event["event"],
        "name": name[:_MAX_NAME_CHARS],
        "run_id": event["run_id"],
        "parent_ids": list(event.get("parent_ids") or ()),
        "tags": json_safe(list(event.get("tags") or ()), MAX_ABOUT_BYTES),
        "metadata": json_safe(event.get("metadata") or {}, MAX_ABOUT_BYTES),
        # What a custom event holds is as its author likes; of the others each part is bounded by itself.
        "data": {str(key): json_safe(value) for key, value in data.items()}
        if isinstance(data, dict) and event["event"] != "on_custom_event"
        else json_safe(data),
    }
