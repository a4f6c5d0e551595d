"""Where threads live: checkpoints, the graph's store, and our own tables of threads and runs, opened from a URL.

``open_storage(url)`` gives a ``Storage``; ``sqlite.py`` is the default and, so far, the only one. What a storage must
promise is written on the protocol's methods, and ``tests/contracts/storage.py`` holds every implementation to it.
Knows nothing of sockets, frames or runs in progress.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore

from threadwire.errors import ConfigError

ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
RunStatus = Literal["queued", "running", "completed", "cancelled", "interrupted", "failed", "lost"]
OnDisconnect = Literal["cancel", "continue"]
ThreadSort = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]

#: How much metadata a thread may have, as JSON.
MAX_METADATA_BYTES = 64 * 1024
#: How much of each message a thread is found by, in characters.
SEARCHED_CHARACTERS = 10_000


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

    Another run stays as it is.
    """

    run_id: str
    base: str | None
    at: float


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


Mark: TypeAlias = RunStart | RunEnd | ThreadMark | Truncation


class Fence:
    """The way of one run to its thread's checkpoints and to the store; ``close()`` shuts it for good.

    A node that does not stop when its run is given up may come back at any time; its later checkpoint would become
    the thread's newest and swallow the next turn. Once closed, each write through the run's saver and store raises
    ``FenceClosed`` before it reaches the database, also one that was waiting for its turn. One that has begun ends:
    what is read through ``Storage.saver()`` afterwards, which waits for it, is settled; ``reader`` may be before it.
    """

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether writes are refused."""
        return self._closed

    def close(self) -> None:
        """Refuse every write from now on."""
        self._closed = True

    def check(self) -> None:
        """Raise ``FenceClosed`` once closed."""
        if self._closed:
            raise FenceClosed


class FenceClosed(Exception):  # noqa: N818 -- it says what happened
    """A run that was given up tried to write."""


class Storage(Protocol):
    """Checkpoints, store, threads and runs in one place, with one writer.

    Each method that writes is one transaction: durable when it returns, undone when it raises, and not torn apart by
    the cancellation of its caller. Failures of the database (full, read-only, I/O) come out as ``StorageError``,
    from the saver and the store as well, and leave the storage usable.
    """

    #: Reads checkpoints without waiting for the writer; its writing methods are never called.
    reader: BaseCheckpointSaver[str]
    #: LangGraph's store, unfenced.
    store: BaseStore

    def saver(self, fence: Fence | None = None, *, shared: bool = False) -> BaseCheckpointSaver[str]:
        """A saver that writes; through ``fence``, where one is given. Cheap: made once a run.

        ``shared``: what it reads of old messages may be what another has been given, so the graph may change none in
        place.
        """
        ...

    def fenced_store(self, fence: Fence) -> BaseStore:
        """The store with its writes through ``fence``. Cheap: made once a run."""
        ...

    async def get_thread(self, thread_id: str) -> ThreadRow | None:
        """The thread's row, or None."""
        ...

    async def owner_of(self, thread_id: str) -> str | None:
        """Whose the thread is; None where there is none. Takes as long either way."""
        ...

    async def create_thread(
        self, thread_id: str, metadata: dict[str, Any], at: float, owner: str = ""
    ) -> ThreadRow | None:
        """Insert an idle thread and return its row; None where there is one, which stays as it is.

        Raises:
            TooLarge: the metadata is over ``MAX_METADATA_BYTES``.
        """
        ...

    async def update_thread_metadata(self, thread_id: str, metadata: dict[str, Any], at: float) -> ThreadRow | None:
        """Lay ``metadata`` over the thread's, key by key, and return its row; None where there is none.

        Raises:
            TooLarge: together they are over ``MAX_METADATA_BYTES``; nothing is changed.
        """
        ...

    async def search_threads(
        self,
        query: ThreadQuery,
        *,
        sort_by: ThreadSort = "created_at",
        descending: bool = True,
        limit: int = 10,
        offset: int = 0,
    ) -> list[ThreadRow]:
        """A page of the threads that match; those that sort alike are in the order of their ids.

        Reads no checkpoint. ``state_updated_at`` is when a run last changed the thread.
        """
        ...

    async def count_threads(self, query: ThreadQuery) -> int:
        """How many threads match."""
        ...

    async def copy_thread(self, thread_id: str, copy_id: str, at: float) -> ThreadRow | None:
        """Copy a thread under ``copy_id``, which is free, and return the copy's row; None where there is none.

        With its owner, its metadata, its status and interrupts, what it is found by, all its checkpoints and which
        turns began at them, as they are committed at one moment; without its runs and its log.
        """
        ...

    async def accept_run(self, run: RunRow, log: LogRow) -> None:
        """Insert a queued run, and the thread's row where it is new (``updated_at`` moves on where it is not).

        The first message of a thread whose metadata has no ``title`` gives it one (``title.py``). ``log`` becomes the
        thread's where it has none.

        Raises:
            InvalidArgument: its ``run_id`` is taken, by whatever thread, or its ``message_id`` by a run of this one;
                nothing is written.
            Forbidden: the thread is another user's; nothing is written.
        """
        ...

    async def get_run(self, thread_id: str, run_id: str) -> RunRow | None:
        """A run of that thread, or None."""
        ...

    async def unfinished_runs(self, thread_id: str | None = None) -> list[RunRow]:
        """Runs that are queued or running, in the order they were accepted."""
        ...

    async def write(self, logs: Sequence[tuple[LogRow, Frames | None]], marks: Sequence[Mark]) -> None:
        """Write what is new of some logs, and what goes with it, in one transaction; marks in their order.

        Frames up to a log's ``floor`` are deleted; it never goes down, whoever deleted them. A log whose thread is not
        there is passed over.
        """
        ...

    async def read_log(self, thread_id: str) -> LogRow | None:
        """The thread's log, or None where it has none yet."""
        ...

    async def read_frames(self, thread_id: str) -> list[Frames]:
        """What is in the journal of the thread's log, in the order of the frames."""
        ...

    async def forget_frames(self, before: float, *, but: Collection[str]) -> None:
        """Delete the frames of logs that were last written to ``before``.

        Those of the threads ``but`` stay, and of threads whose runs have not ended.
        """
        ...

    async def newest_checkpoint(self, thread_id: str) -> str | None:
        """The id of the thread's newest checkpoint."""
        ...

    async def turn_base(self, thread_id: str, message_id: str) -> tuple[str | None] | None:
        """The checkpoint before the turn of that user's message (``(None,)``: the turn was the first).

        None where that is not known, or the checkpoint is no longer there.
        """
        ...

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete the thread, its runs, its log, what it is found by and all its checkpoints; False: there was none."""
        ...

    async def prune_thread(self, thread_id: str, keep: int, *, slack: int = 0) -> int:
        """Delete the thread's checkpoints but the newest ``keep`` (0: all); returns how many went, subgraphs' included.

        Each that is kept reads as before: what its channels are read from stays as well, though nobody finds it any
        more, and so do its writes, its subgraphs' checkpoints, and a subgraph's own memory. Does nothing while there
        are at most ``keep + slack``, which costs next to nothing. For when no run is writing to the thread.
        """
        ...

    async def check(self) -> None:
        """Raise ``StorageError`` where the database cannot be written to now."""
        ...

    async def tokens(self) -> list[TokenRow]:
        """All tokens there are; another process makes and revokes them."""
        ...

    async def token(self, token_id: str) -> TokenRow | None:
        """One of them."""
        ...

    async def tokens_spent(self, user: str, day: int) -> int:
        """How many tokens the user's runs have used on that day (UTC, from the epoch); each ``RunEnd`` counts its own.

        Days that are over may be forgotten.
        """
        ...

    async def spend_tokens(self, user: str, day: int, tokens: int) -> None:
        """Add what something that is no run of a thread has used."""
        ...

    async def secret(self, name: str) -> bytes:
        """32 random bytes under that name, made when first asked for and the same ever after."""
        ...


def open_storage(url: str, took: Callable[[float], None] | None = None) -> AbstractAsyncContextManager[Storage]:
    """Open the storage a URL names: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite:///:memory:`` not.

    ``took`` is told how many seconds each write of a checkpoint took.

    Raises:
        ConfigError: the URL names no storage there is.
        StartupError: it is in use by another server, not writable, or not a database.
    """
    return _open_sqlite(sqlite_path(url), took)


def sqlite_path(url: str) -> str:
    """The file a URL names: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``. Raises ``ConfigError``."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return rest[1:]
    expected = "sqlite:///file.db (relative to the current directory) or sqlite:////path/to/file.db"
    raise ConfigError(f"storage.url: expected {expected}, got {url!r}")


def size_of(url: str) -> int:
    """What the database of that URL takes on disk, in bytes; 0 where it is not there."""
    path = sqlite_path(url)
    return sum(found.stat().st_size for end in ("", "-wal") if (found := Path(path + end)).is_file())


@asynccontextmanager
async def _open_sqlite(path: str, took: Callable[[float], None] | None) -> AsyncIterator[Storage]:
    from threadwire.storage.sqlite import SqliteStorage

    async with SqliteStorage.open(path, took) as storage:
        yield storage
