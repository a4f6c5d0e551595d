"""Where a reader of a thread starts, and what it is told of the place: pure over the thread's log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from threadwire.log import Cursor, Log


@dataclass(slots=True)
class Attached:
    """What a reader gets on attaching: true for one moment, between two frames."""

    cursor: Cursor
    #: The fields of ``ready`` that are the thread's.
    ready: dict[str, Any]
    #: A ``gap`` frame to send after it, or None.
    gap: dict[str, Any] | None
    #: The ``history`` frame that was asked for, or None.
    history: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader starts: after the frame ``position``."""

    position: int
    #: ``ready.resume``.
    resume: str
    #: The number of the first frame it will never get, if there is one.
    lost: int | None = None


def resumable(log: Log, after: int | None, epoch: str | None) -> bool:
    """Whether a reader that has ``after`` of that epoch has lost nothing."""
    return after is not None and epoch == log.epoch and log.has(after)


def place(log: Log, *, after: int | None, epoch: str | None, began: int, with_history: bool) -> Place:
    """The place of a reader; ``began`` is the number of the ``run_started`` of the run in hand, 0: there is none."""
    if after is not None:
        if resumable(log, after, epoch):
            return Place(after, "replayed")
        return Place(log.shown if with_history else log.floor, "gap", after + 1)
    if with_history or not began:
        return Place(log.shown, "fresh")
    if began < log.first:
        return Place(log.floor, "gap", began)
    return Place(began - 1, "fresh")
