"""Our own tables, row by row, and what is written to them beside frames. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
RunStatus = Literal["queued", "running", "completed", "cancelled", "interrupted", "failed", "lost"]
OnDisconnect = Literal["cancel", "continue"]
ThreadSort = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]


@dataclass(slots=True)
class ThreadRow:
    """A thread as our own table has it. Times are seconds since the epoch."""

    thread_id: str
    created_at: float
    updated_at: float
    #: LangGraph Agent Server's words: ``interrupted`` waits for a person, ``error`` after a failed run.
    status: ThreadStatus = "idle"
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Pending interrupts as the wire has them: ``[{id, value, node}]``.
    interrupts: list[dict[str, Any]] = field(default_factory=list)
    #: The identity of the user it belongs to; empty: nobody's, made where nobody had to say who they are.
    owner: str = ""


@dataclass(frozen=True, slots=True)
class ThreadQuery:
    """Which threads of one owner; None is no condition."""

    #: Always a condition: who forgets it finds nobody's threads, and not everybody's.
    owner: str = ""
    #: Metadata that contains this, as PostgreSQL's ``@>`` has it.
    metadata: dict[str, Any] | None = None
    status: ThreadStatus | None = None
    ids: Sequence[str] | None = None
    #: In the title, or in one message that a user sent: as it stands, case aside.
    text: str | None = None


@dataclass(slots=True)
class RunRow:
    """A turn as our own table has it: enough to start it, and to answer a repeated command with its first answer."""

    run_id: str
    thread_id: str
    trigger: Literal["send", "respond", "regenerate", "edit"]
    #: The user's message (``send``, ``edit``); None where the turn adds none.
    message_id: str | None
    #: What the command said, JSON-safe: ``content``, ``context``, ``responses``, ... as the trigger needs.
    request: dict[str, Any]
    on_disconnect: OnDisconnect
    created_at: float
    status: RunStatus = "queued"
    #: Why it ended as it did; of a queued one, why it is not to start any more.
    reason: str | None = None
    error: dict[str, str] | None = None
    usage: dict[str, Any] | None = None
    started_at: float | None = None
    ended_at: float | None = None
    #: The id of the user's message that it answers; a run that answers a question has that of the run that asked.
    turn: str | None = None
    #: The checkpoint it went on from; None: it has not started, or there was none.
    base: str | None = None

    @property
    def strategy(self) -> str:
        """What it does to a run that is active, in LangGraph's words."""
        return str(self.request.get("multitask_strategy", "enqueue"))

    @property
    def owner(self) -> str:
        """The identity of the user who asked for it; empty: nobody had to say who they are."""
        return str(self.request["user"]["identity"]) if "user" in self.request else ""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as it is kept: by a hash that tells nothing of it. Times are seconds since the epoch."""

    token_id: str
    #: The user's, and unique.
    name: str
    salt: bytes
    hash: bytes
    created_at: float
    expires_at: float | None


# --- the journal ---------------------------------------------------------------------------------


@dataclass(slots=True)
class LogRow:
    """A thread's log, as far as it is known without its frames. Numbers are of frames (``seq``)."""

    thread_id: str
    epoch: str
    #: Every frame after this one is in the journal, up to ``last``.
    floor: int = 0
    #: The newest frame that was written.
    last: int = 0
    #: The newest number that may have been given to a frame.
    reserved: int = 0
    #: When it was last written to, in seconds since the epoch.
    touched_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of one log that were written together: what is in them is the journal's."""

    last: int
    data: bytes
    origins: bytes


@dataclass(frozen=True, slots=True)
class RunStart:
    """A queued run starts, from the checkpoint ``base``, and its thread is ``busy`` and waits for nobody.

    Another run stays as it is. ``has_message``: the turn's message is in that checkpoint already, so that it is not the
    one before the turn.
    """

    run_id: str
    base: str | None
    at: float
    has_message: bool = False


@dataclass(frozen=True, slots=True)
class RunStop:
    """A queued run is not to start any more: ``reason`` is what it will end with. Another run stays as it is."""

    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunEnd:
    """A run ends, and leaves its thread in ``thread_status``, waiting for ``interrupts``; None leaves either as it is.

    A run that has ended stays as it is, and so does its thread.
    """

    run_id: str
    status: RunStatus
    reason: str | None
    error: dict[str, str] | None
    usage: dict[str, Any] | None
    at: float
    thread_status: ThreadStatus | None
    interrupts: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class ThreadMark:
    """What a thread waits for changes, where no run does it."""

    thread_id: str
    status: ThreadStatus
    interrupts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Truncation:
    """A thread loses its checkpoints after ``base``, and what was begun from there; None: all it has.

    It is found by the users' messages ``message_ids`` no more, nor named by one of them.
    """

    thread_id: str
    base: str | None
    message_ids: tuple[str, ...] = ()


Mark: TypeAlias = RunStart | RunStop | RunEnd | ThreadMark | Truncation
