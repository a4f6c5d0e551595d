"""Old checkpoints of a thread deleted, without taking from a kept one what it is read from.

Kept of the root are the newest so many; of each subgraph what was written since the oldest of these, and the newest
before that where the subgraph has a memory of its own. A checkpoint of a graph with a ``DeltaChannel`` has that
channel's value in the writes of its ancestors, back to one that holds it whole. Ancestors that are needed so stay,
hidden (``PRUNED``; ``sqlite_writer.Saver`` passes over them): by themselves they may be incomplete, and nobody may
go on from them.

What is looked at: the ids of all the thread's checkpoints, which are in the index; the metadata of two, which says
whether there are such channels; and only where there are, the ancestors' own blobs, in which no value is made.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from threadwire.storage.sqlite_threads import SqliteThreads
from threadwire.storage.sqlite_writer import PRUNED

#: Checkpoints deleted in one transaction, and read at once: those of a long thread can have a megabyte each, and
#: nobody else writes meanwhile.
BATCH = 64

#: Reads a checkpoint's names and opens none of its values: they are what takes the time, and may be anything.
_NAMES = JsonPlusSerializer(allowed_msgpack_modules=None, __unpack_ext_hook__=lambda _code, _data: None)

_ROOT = "SELECT metadata FROM checkpoints WHERE thread_id = ?1 AND checkpoint_ns = '' ORDER BY checkpoint_id"
_OVER = f"SELECT * FROM ({_ROOT} DESC LIMIT 1 OFFSET ?2) UNION ALL SELECT * FROM ({_ROOT} LIMIT 1)"  # noqa: S608
_ROWS = (
    "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM checkpoints WHERE thread_id = ?"
    " ORDER BY checkpoint_ns, checkpoint_id DESC"
)
_THESE = "thread_id = ? AND checkpoint_ns = ? AND checkpoint_id IN (SELECT value FROM json_each(?))"
_METADATA = f"SELECT checkpoint_id, metadata FROM checkpoints WHERE {_THESE}"  # noqa: S608 -- our own names
_CONTENT = f"SELECT checkpoint_id, metadata, type, checkpoint FROM checkpoints WHERE {_THESE}"  # noqa: S608
_NEWEST = "SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ''"
_THIS = "WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"


@dataclass(frozen=True, slots=True)
class _Content:
    """What a checkpoint says of its channels: the names of those it holds, and of all that were ever written."""

    metadata: dict[str, Any]
    values: Collection[str]
    versions: Collection[str]

    def lacks(self, names: Collection[str]) -> set[str]:
        """Of these channels, the ones whose value is further back."""
        return {name for name in names if name in self.versions and name not in self.values}


@dataclass(slots=True)
class _Plan:
    """What becomes of a thread: each is a namespace and an id; ``hidden`` with the metadata it gets."""

    newest: str
    #: Newest first: whatever is left after a part of them still has its ancestors.
    deleted: list[tuple[str, str]]
    hidden: list[tuple[str, str, str]]


class SqlitePruning(SqliteThreads):
    """Pruning, through the connections of ``SqliteThreads``."""

    async def prune_thread(self, thread_id: str, keep: int, *, slack: int = 0) -> int:
        """Delete the thread's checkpoints but the newest ``keep`` (0: all) and what these need; returns how many went.

        Does nothing while there are at most ``keep + slack``, nor where the thread gets a checkpoint meanwhile.
        """
        if keep == 0 or not await self._is_over(thread_id, keep + slack):
            return 0
        plan = await self._plan(thread_id, keep)
        gone = 0
        for batch in _batches(plan.deleted) if plan.deleted else [()]:
            if not await self._carry_out(thread_id, plan, batch):
                break
            gone += len(batch)
        return gone

    async def _is_over(self, thread_id: str, count: int) -> bool:
        """Whether more than so many are to be seen; where a pruning was cut off, the oldest is, behind hidden ones."""
        found = await self._read(_OVER, thread_id, count)
        return len(found) > 1 and any(PRUNED not in _loaded(metadata) for (metadata,) in found)

    async def _plan(self, thread_id: str, keep: int) -> _Plan:
        parents: dict[str, dict[str, str | None]] = {}
        for namespace, checkpoint_id, parent_id in await self._read(_ROWS, thread_id):
            parents.setdefault(namespace, {})[checkpoint_id] = parent_id
        root = list(parents.get("", ()))[:keep]
        plan = _Plan(root[0] if root else "", [], [])
        for namespace, rows in parents.items() if root else ():
            kept = set(root) if not namespace else await self._kept_of_subgraph(thread_id, namespace, list(rows), root)
            needed = await self._needed(thread_id, namespace, rows, kept)
            plan.deleted += [(namespace, one) for one in rows if one not in kept and one not in needed]
            plan.hidden += [
                (json.dumps({**metadata, PRUNED: True}, ensure_ascii=False), namespace, one)
                for one, metadata in needed.items()
                if PRUNED not in metadata
            ]
        return plan

    async def _kept_of_subgraph(
        self, thread_id: str, namespace: str, ids: Sequence[str], root: Sequence[str]
    ) -> set[str]:
        """What a subgraph wrote since the oldest kept checkpoint of the root, and what it would go on from there.

        The namespace of a task ends with it and has its id (``node:id``); one without is a subgraph with a checkpointer
        of its own, whose next call goes on from its newest. Ids tell the time; where a clock was set back, the
        metadata says to which checkpoint of the root one belongs.
        """
        kept = {one for one in ids if one >= root[-1]}
        older = [one for one in ids if one not in kept]
        if ":" not in namespace:
            kept.update(older[:1])
        for batch in _batches(older):
            for one, metadata in await self._read(_METADATA, thread_id, namespace, _list(batch)):
                if (_loaded(metadata).get("parents") or {}).get("") in root:
                    kept.add(one)
        return kept

    async def _needed(
        self, thread_id: str, namespace: str, parents: Mapping[str, str | None], kept: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """The ancestors that kept checkpoints are read from, with their metadata.

        Only what a kept checkpoint with a parent beyond the kept ones lacks: further on the way from it, each lacks
        at most the same.
        """
        edge = [one for one in parents if one in kept and parents[one] in parents and parents[one] not in kept]
        newest = next((one for one in parents if one in kept), None)
        if not edge or newest is None:
            return {}
        found = await self._read(_METADATA, thread_id, namespace, _list([newest, *edge]))
        channels = {
            name for _, metadata in found for name in _loaded(metadata).get("counters_since_delta_snapshot", ())
        }
        needed: dict[str, dict[str, Any]] = {}
        for start in edge if channels else []:
            needed |= await self._read_from(thread_id, namespace, _line(start, parents, kept), channels)
        return {one: metadata for one, metadata in needed.items() if one not in kept}

    async def _read_from(
        self, thread_id: str, namespace: str, line: Sequence[str], channels: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """The first of the line and those behind it that it reads these channels from, with their metadata."""
        needed: dict[str, dict[str, Any]] = {}
        # The first alone: as often as not, it has all.
        for batch in [line[:1], *_batches(line[1:])]:
            contents = await self._contents(thread_id, namespace, batch)
            for one in batch:
                if one not in contents:  # the thread is being deleted
                    return needed
                needed[one] = contents[one].metadata
                channels = contents[one].lacks(channels)
                if not channels:
                    return needed
        return needed

    async def _contents(self, thread_id: str, namespace: str, ids: Sequence[str]) -> dict[str, _Content]:
        contents: dict[str, _Content] = {}
        for one, metadata, kind, blob in await self._read(_CONTENT, thread_id, namespace, _list(ids)):
            checkpoint = _NAMES.loads_typed((kind, blob))
            contents[one] = _Content(
                _loaded(metadata), checkpoint.get("channel_values") or (), checkpoint.get("channel_versions") or ()
            )
        return contents

    async def _carry_out(self, thread_id: str, plan: _Plan, batch: Sequence[tuple[str, str]]) -> bool:
        hidden = [(text.encode("utf-8", "ignore"), thread_id, *where) for text, *where in plan.hidden]

        def change(database: sqlite3.Connection) -> bool:
            # A run that goes on meanwhile may go on from what is about to be deleted.
            if database.execute(_NEWEST, (thread_id,)).fetchall() != [(plan.newest,)]:
                return False
            database.executemany(f"UPDATE checkpoints SET metadata = ? {_THIS}", hidden)  # noqa: S608
            for table in ("checkpoints", "writes"):
                rows = [(thread_id, *where) for where in batch]
                database.executemany(f"DELETE FROM {table} {_THIS}", rows)  # noqa: S608
            return True

        done = await self._write(change)
        plan.hidden.clear()
        return done


def _line(start: str, parents: Mapping[str, str | None], kept: Collection[str]) -> list[str]:
    """A checkpoint and its ancestors, nearest first, up to one that is kept for itself."""
    # A dict, since an id that was saved again under a descendant makes the line a loop.
    line = {start: None}
    one = parents[start]
    while one is not None and one in parents and one not in kept and one not in line:
        line[one] = None
        one = parents[one]
    return list(line)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _list(ids: Sequence[str]) -> str:
    return orjson.dumps(ids).decode()


def _loaded(metadata: bytes | str | None) -> dict[str, Any]:
    # json and not orjson: LangGraph writes NaN where there is one.
    found: dict[str, Any] = json.loads(metadata) if metadata else {}
    return found
