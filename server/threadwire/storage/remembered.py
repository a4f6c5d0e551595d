"""What a thread's messages were made from, and what was made: the next turn reads the same bytes again.

The value of a ``DeltaChannel`` is made, once a turn, from the last checkpoint that holds it whole (LangGraph writes one
every hundred updates) and all that was written since. To make each message anew was nearly two thirds of turn 1,000. So
of each thread what was read last stays here, with its bytes. The database is asked as before, and only where it gives
other bytes are they taken apart: nothing that is written, taken back, pruned or deleted has to be told here.

Who reads so shares messages with later readers, and must change none in place. Those of the last turn, into which
LangChain writes what a person has decided (``HumanInTheLoopMiddleware``), are copied for each.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import DeltaChannelHistory
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot

#: Of stored bytes, of all threads; with the objects made from them they take four to six times as much.
MAX_BYTES = 8 * 1024 * 1024
#: Bytes at its end that something stored is found by; the message's id is there, or the versions of the channels.
_TAIL = 512

#: What is stored, with the name of how; and what that is.
_Made = tuple[tuple[str, bytes], Any]


class Reading:
    """A serializer for one reading of a thread, which takes what it can from the reading before."""

    def __init__(self, serde: SerializerProtocol, before: Mapping[bytes, _Made]) -> None:
        self._serde = serde
        self._before = before
        #: What was read, by their tails.
        self.read: dict[bytes, _Made] = {}

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """As the serializer does: LangGraph's protocol has it, though nothing is written while reading."""
        return self._serde.dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """What is stored there."""
        tail = data[1][-_TAIL:]
        found = self._before.get(tail)
        if found is None or found[0] != data:
            found = (data, self._serde.loads_typed(data))
        self.read[tail] = found
        return found[1]


class Remembered:
    """Of each thread what was read last; of all, the threads that were read last, up to ``max_bytes``."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[int, Mapping[bytes, _Made]]] = OrderedDict()

    def begin(self, thread_id: str, serde: SerializerProtocol) -> Reading:
        """A reading of the thread."""
        _size, before = self._kept.get(thread_id, (0, {}))
        return Reading(serde, before)

    def end(self, thread_id: str, reading: Reading) -> None:
        """Keep what was read, in the place of what was kept of the thread."""
        self.forget(thread_id)
        size = sum(len(stored) for (_kind, stored), _made in reading.read.values())
        self._kept[thread_id] = (size, reading.read)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self.forget(next(iter(self._kept)))

    def forget(self, thread_id: str) -> None:
        """Keep nothing of the thread."""
        size, _read = self._kept.pop(thread_id, (0, {}))
        self._bytes -= size


def own(histories: Mapping[str, DeltaChannelHistory]) -> dict[str, DeltaChannelHistory]:
    """The same, in lists of the reader's own, with messages of its own from the last user's message on."""
    return {name: _own(history) for name, history in histories.items()}


def _own(history: DeltaChannelHistory) -> DeltaChannelHistory:
    writes = history["writes"]
    last = next((at for at in range(len(writes) - 1, -1, -1) if _has_user(writes[at][2])), None)
    mine: DeltaChannelHistory = {"writes": [*writes[: last or 0], *copy.deepcopy(writes[last or 0 :])]}
    if "seed" in history:
        mine["seed"] = _own_seed(history["seed"], shared=last is not None)
    return mine


def _own_seed(seed: Any, *, shared: bool) -> Any:
    value = seed.value if isinstance(seed, _DeltaSnapshot) else seed
    if not isinstance(value, list):
        return copy.deepcopy(seed)
    last = len(value)
    if not shared:
        last = next((at for at in range(last - 1, -1, -1) if isinstance(value[at], HumanMessage)), 0)
    mine = [*value[:last], *copy.deepcopy(value[last:])]
    return _DeltaSnapshot(mine) if isinstance(seed, _DeltaSnapshot) else mine


def _has_user(written: Any) -> bool:
    messages = written if isinstance(written, list) else [written]
    return any(isinstance(message, HumanMessage) for message in messages)
