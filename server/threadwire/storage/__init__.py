"""Where threads live: checkpoints, the graph's store, and our own tables of threads and runs, opened from a URL.

``open_storage(url)`` gives a ``Storage``; ``sqlite.py`` is the default and, so far, the only one. What a storage must
promise is written on the protocol's methods, and ``tests/contracts/storage.py`` holds every implementation to it.
Knows nothing of sockets, frames or runs in progress.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore

from threadwire.errors import ConfigError
from threadwire.storage.fence import Fence, FenceClosed
from threadwire.storage.rows import (
    Frames,
    LogRow,
    Mark,
    OnDisconnect,
    RunEnd,
    RunRow,
    RunStart,
    RunStatus,
    RunStop,
    ThreadMark,
    ThreadQuery,
    ThreadRow,
    ThreadSort,
    ThreadStatus,
    TokenRow,
    Truncation,
)

__all__ = [
    "MAX_METADATA_BYTES",
    "SEARCHED_CHARACTERS",
    "Fence",
    "FenceClosed",
    "Frames",
    "LogRow",
    "Mark",
    "OnDisconnect",
    "RunEnd",
    "RunRow",
    "RunStart",
    "RunStatus",
    "RunStop",
    "Storage",
    "ThreadMark",
    "ThreadQuery",
    "ThreadRow",
    "ThreadSort",
    "ThreadStatus",
    "TokenRow",
    "Truncation",
    "open_storage",
    "size_of",
    "sqlite_path",
]

#: How much metadata a thread may have, as JSON.
MAX_METADATA_BYTES = 64 * 1024
#: How much of each message a thread is found by, in characters.
SEARCHED_CHARACTERS = 10_000


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
