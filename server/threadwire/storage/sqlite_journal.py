"""Logs and their frames, and the marks that are written with them; the base of ``SqliteStorage``.

All that is new of all logs, with what their runs' rows must say by then, is one transaction: who reads the file after a
crash finds a run's end with the frame that tells it, or neither.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

import orjson

from threadwire.storage import Frames, LogRow, Mark, RunEnd, RunStart, RunStop, ThreadMark, Truncation
from threadwire.storage.sqlite_threads import SqliteThreads
from threadwire.title import TITLE, title_of

LOG = """
INSERT INTO logs SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM threads WHERE thread_id = ?1)
ON CONFLICT (thread_id) DO UPDATE SET
    floor = max(floor, excluded.floor), last = excluded.last, reserved = excluded.reserved,
    touched_at = excluded.touched_at
"""
FRAMES = """
INSERT OR REPLACE INTO frames SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM logs WHERE thread_id = ?1)
"""
TRIM = "DELETE FROM frames WHERE thread_id = ? AND last <= ?"
START = """
UPDATE runs SET status = 'running', reason = NULL, started_at = ?, base = ? WHERE run_id = ? AND status = 'queued'
"""
STOP = "UPDATE runs SET reason = ? WHERE run_id = ? AND status = 'queued'"
BUSY = """
UPDATE threads SET status = 'busy', interrupts = '[]', updated_at = max(updated_at, ?)
WHERE thread_id = (SELECT thread_id FROM runs WHERE run_id = ?)
"""
TURN = """
INSERT OR REPLACE INTO turns
SELECT thread_id, turn, ? FROM runs WHERE run_id = ? AND turn IS NOT NULL AND trigger <> 'respond' AND NOT ?
"""
END = """
UPDATE runs SET status = ?, reason = ?, error = ?, usage = ?, ended_at = ?
WHERE run_id = ? AND status IN ('queued', 'running')
"""
LEFT = """
UPDATE threads
SET status = coalesce(?, status), interrupts = coalesce(?, interrupts), updated_at = max(updated_at, ?)
WHERE thread_id = (SELECT thread_id FROM runs WHERE run_id = ?)
"""
WAITS = "UPDATE threads SET status = ?, interrupts = ? WHERE thread_id = ?"
#: Ids of checkpoints are UUIDs of version 6: they sort by their age. What was written after ``base`` was begun from it.
TRUNCATE = (
    "DELETE FROM checkpoints WHERE thread_id = ?1 AND (?2 IS NULL OR checkpoint_id > ?2)",
    "DELETE FROM writes WHERE thread_id = ?1 AND (?2 IS NULL OR checkpoint_id >= ?2)",
    "DELETE FROM turns WHERE thread_id = ?1 AND (?2 IS NULL OR base >= ?2)",
)
FORGET_TEXTS = "DELETE FROM texts WHERE thread_id = ? AND message_id IN (SELECT value FROM json_each(?))"
REQUESTS = "SELECT message_id, request FROM runs WHERE thread_id = ? AND message_id IS NOT NULL ORDER BY accepted"
READ_LOG = "SELECT thread_id, epoch, floor, last, reserved, touched_at FROM logs WHERE thread_id = ?"
READ_FRAMES = "SELECT last, data, origins FROM frames WHERE thread_id = ? ORDER BY last"
OVER = """
SELECT logs.thread_id FROM logs WHERE touched_at < ? AND logs.thread_id IN (SELECT thread_id FROM frames)
AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.thread_id = logs.thread_id AND status IN ('queued', 'running'))
"""
FORGET = "DELETE FROM frames WHERE thread_id = ?"
FORGOTTEN = "UPDATE logs SET floor = last WHERE thread_id = ?"
NEWEST = """
SELECT checkpoint_id FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1
"""
BASE = """
SELECT base FROM turns WHERE thread_id = ?1 AND message_id = ?2 AND (base IS NULL OR EXISTS (
    SELECT 1 FROM checkpoints WHERE thread_id = ?1 AND checkpoint_ns = '' AND checkpoint_id = base
    AND instr(CAST(metadata AS TEXT), '"threadwire_pruned"') = 0))
"""
#: For a copy that is started on for the first time: the numbers of the original's logs mean other frames from here on.
#: The frames stay: a run that was going on when the copy was made has what it had said in them.
RENEW = """
BEGIN IMMEDIATE;
UPDATE logs SET epoch = lower(hex(randomblob(16))), reserved = last;
PRAGMA application_id = 0;
COMMIT
"""


class SqliteJournal(SqliteThreads):
    """See the module."""

    async def write(self, logs: Sequence[tuple[LogRow, Frames | None]], marks: Sequence[Mark]) -> None:
        """Write what is new of some logs, and what goes with it, in one transaction."""
        rows = [_log(log) for log, _ in logs]
        frames = [(log.thread_id, new.last, new.data, new.origins) for log, new in logs if new]
        floors = [(log.thread_id, log.floor) for log, _ in logs]

        def work(database: sqlite3.Connection) -> None:
            database.executemany(LOG, rows)
            database.executemany(FRAMES, frames)
            database.executemany(TRIM, floors)
            for mark in marks:
                _mark(database, mark)

        await self._write(work)

    async def read_log(self, thread_id: str) -> LogRow | None:
        """The thread's log, or None where it has none yet."""
        rows = await self._read(READ_LOG, thread_id)
        return LogRow(*rows[0]) if rows else None

    async def read_frames(self, thread_id: str) -> list[Frames]:
        """What is in the journal of the thread's log, in the order of the frames."""
        return [Frames(*row) for row in await self._read(READ_FRAMES, thread_id)]

    async def forget_frames(self, before: float, *, but: Collection[str]) -> None:
        """Delete frames of logs last written to ``before``; not of ``but``, nor where a run has not ended."""
        over = [row for row in await self._read(OVER, before) if row[0] not in but]
        if not over:
            return

        def work(database: sqlite3.Connection) -> None:
            database.executemany(FORGET, over)
            database.executemany(FORGOTTEN, over)

        await self._write(work)

    async def newest_checkpoint(self, thread_id: str) -> str | None:
        """The id of the thread's newest checkpoint."""
        rows = await self._read(NEWEST, thread_id)
        return rows[0][0] if rows else None

    async def turn_base(self, thread_id: str, message_id: str) -> tuple[str | None] | None:
        """The checkpoint before the turn of that user's message; None: not known, or no longer there."""
        rows = await self._read(BASE, thread_id, message_id)
        return (rows[0][0],) if rows else None


def _log(log: LogRow) -> tuple[object, ...]:
    """Its columns; ``dataclasses.astuple`` takes ten times as long."""
    return log.thread_id, log.epoch, log.floor, log.last, log.reserved, log.touched_at


def _mark(database: sqlite3.Connection, mark: Mark) -> None:
    execute = database.execute
    if isinstance(mark, RunStart):
        if execute(START, (mark.at, mark.base, mark.run_id)).rowcount:
            execute(BUSY, (mark.at, mark.run_id))
            execute(TURN, (mark.base, mark.run_id, mark.has_message))
    elif isinstance(mark, RunEnd):
        ended = (mark.status, mark.reason, _json(mark.error), _json(mark.usage), mark.at, mark.run_id)
        if execute(END, ended).rowcount:
            execute(LEFT, (mark.thread_status, _json(mark.interrupts), mark.at, mark.run_id))
    elif isinstance(mark, RunStop):
        execute(STOP, (mark.reason, mark.run_id))
    elif isinstance(mark, ThreadMark):
        execute(WAITS, (mark.status, _json(mark.interrupts), mark.thread_id))
    else:
        _truncate(database, mark)


def _truncate(database: sqlite3.Connection, mark: Truncation) -> None:
    execute = database.execute
    for statement in TRUNCATE:
        execute(statement, (mark.thread_id, mark.base))
    execute(FORGET_TEXTS, (mark.thread_id, _json(list(mark.message_ids))))
    if mark.base is None:
        _retitle(database, mark.thread_id, mark.message_ids)


def _retitle(database: sqlite3.Connection, thread_id: str, message_ids: Sequence[str]) -> None:
    """Let a title that one of these messages gave be the next one's to give."""
    [(text,)] = database.execute("SELECT metadata FROM threads WHERE thread_id = ?", (thread_id,)).fetchall()
    requests = {row[0]: orjson.loads(row[1]) for row in database.execute(REQUESTS, (thread_id,)).fetchall()}
    titles = {identity: title_of(request.get("content") or "") for identity, request in requests.items()}
    metadata = orjson.loads(text)
    if TITLE in metadata and metadata[TITLE] in {titles.get(identity) for identity in message_ids}:
        left = (title for identity, title in titles.items() if identity not in message_ids and title)
        metadata[TITLE] = next(left, None)
        if metadata[TITLE] is None:
            del metadata[TITLE]
        database.execute("UPDATE threads SET metadata = ? WHERE thread_id = ?", (_json(metadata), thread_id))


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
