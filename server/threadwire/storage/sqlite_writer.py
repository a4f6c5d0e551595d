"""One SQLite connection for LangGraph's saver, LangGraph's store and our tables, without torn transactions.

Each write is one transaction, run to its end even where its caller is cancelled. The saver's go through
``sqlite_transactions.py``. The store's are LangGraph's own, statement by statement: ``ConnectionLock`` rolls back what
was left open before anybody else writes, ``guarded`` puts it behind its run's fence. Knows nothing of our tables, nor
of the file.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar, cast

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.store.base import BaseStore, Op, PutOp, Result
from langgraph.store.sqlite.aio import AsyncSqliteStore

from threadwire.errors import StorageError
from threadwire.storage import Fence
from threadwire.storage.remembered import Remembered, own
from threadwire.storage.sqlite_transactions import (
    Connection,
    NoLock,
    Reads,
    Transactions,
    Writes,
    settle,
    storage_errors,
)

T = TypeVar("T")

#: A key of a checkpoint's metadata: it is there for what is read from it alone (``sqlite_prune.py``).
PRUNED = "threadwire_pruned"

#: Checkpoints read at once by ``alist``; the connection is free between two pages.
PAGE = 16

# The fence of the write a task does, set by ``guarded``. The lock is taken deep inside LangGraph's methods,
# which have no argument for it, and a write that waits for the lock while its fence closes is refused too.
_FENCE: ContextVar[Fence | None] = ContextVar("threadwire_fence", default=None)


async def guarded(fence: Fence | None, work: Callable[..., Awaitable[T]], *values: Any) -> T:
    """Do a write under its fence; only in a task of its own, as ``settle`` gives it one.

    Raises:
        FenceClosed: the fence was closed before the write had the connection.
        StorageError: the database did not take it; nothing of it is kept.
    """
    _FENCE.set(fence)
    with storage_errors():
        return await work(*values)


class ConnectionLock:
    """A connection, for one at a time: an ``asyncio.Lock`` that gives it, and leaves no transaction behind it.

    Where the body raises, cancellation included, the connection is rolled back before the next one has it: a
    transaction left open would be committed by the next writer, as part of its own.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()
        self._closed = False

    async def __aenter__(self) -> Connection:
        await self._lock.acquire()
        try:
            self._admit(_FENCE.get())
        except BaseException:
            self._lock.release()
            raise
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                # In the connection's queue before this waits: it goes first after a second cancellation too.
                await self._connection.rollback()
        finally:
            self._lock.release()

    def _admit(self, fence: Fence | None) -> None:
        if self._closed:
            raise StorageError("The database is closed.")
        if fence is not None:
            fence.check()

    async def close(self) -> None:
        """Wait for who has the connection, and let nobody in any more."""
        async with self._lock:
            self._closed = True


class Saver(AsyncSqliteSaver):
    """LangGraph's saver on a shared connection, behind a fence, with our errors.

    Strict: a row that was tampered with runs no code.
    """

    def __init__(self, connection: Connection, lock: ConnectionLock, transactions: Transactions | None) -> None:
        # None is strict.
        super().__init__(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        self.lock = cast("asyncio.Lock", lock)
        self._transactions = transactions
        self._fence: Fence | None = None
        #: Where old messages are shared with later readers; None: they are not.
        self._remembered: Remembered | None = None
        #: Told how long each write took, in seconds.
        self.took: Callable[[float], None] = lambda _seconds: None

    def through(self, fence: Fence | None, remembered: Remembered | None = None) -> Saver:
        """The same saver, writing through ``fence``; old messages it may share, through ``remembered``."""
        saver = copy.copy(self)
        saver._fence, saver._remembered = fence, remembered  # noqa: SLF001 -- its own class
        return saver

    async def setup(self) -> None:
        """Do nothing: ``open`` has; the original takes the lock to see whether it was done."""

    async def open(self) -> None:
        """Make LangGraph's tables, where this one writes; from then on it can be used."""
        connection = self.conn
        if self._transactions is not None:
            await super().setup()
        self.conn = cast("aiosqlite.Connection", Reads(cast("Connection", connection)))

    def _writing(self) -> AsyncSqliteSaver:
        """The same saver for one write, whose statements are one transaction."""
        if self._transactions is None:
            raise StorageError("This way to the database only reads.")
        saver = copy.copy(self)
        saver.lock = cast("asyncio.Lock", NoLock())
        saver.conn = cast("aiosqlite.Connection", Writes(self._transactions, self._fence))
        return saver

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint."""
        began = time.monotonic()
        saved = await AsyncSqliteSaver.aput(self._writing(), config, checkpoint, metadata, new_versions)
        self.took(time.monotonic() - began)
        return saved

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task wrote since a checkpoint."""
        began = time.monotonic()
        await AsyncSqliteSaver.aput_writes(self._writing(), config, writes, task_id, task_path)
        self.took(time.monotonic() - began)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints of a thread."""
        await AsyncSqliteSaver.adelete_thread(self._writing(), thread_id)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The named checkpoint, None where it was pruned; or the thread's newest."""
        with storage_errors():
            found = await super().aget_tuple(config)
        pruned = found is not None and PRUNED in found.metadata and get_checkpoint_id(config)
        return None if pruned else found

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 -- LangGraph's name for it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, but for pruned ones, newest first, page by page: who takes time between two blocks nobody.

        (The original yields while it holds the connection's lock: langgraph #8558.)
        """
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(PAGE, limit)
            page: list[CheckpointTuple] = []
            with storage_errors():
                async for found in super().alist(config, filter=filter, before=before, limit=size):
                    page.append(found)  # noqa: PERF401 -- super() does not reach into a comprehension
            shown = [found for found in page if PRUNED not in found.metadata]
            for found in shown:
                yield found
            if len(page) < size:
                return
            before = page[-1].config
            limit = None if limit is None else limit - len(shown)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What ``DeltaChannel`` makes its value from."""
        with storage_errors():
            if self._remembered is None:
                return await super().aget_delta_channel_history(config=config, channels=channels)
            saver, thread_id = copy.copy(self), config["configurable"]["thread_id"]
            saver.serde = reading = self._remembered.begin(thread_id, self.serde)
            read = AsyncSqliteSaver.aget_delta_channel_history
            found = await read(saver, config=config, channels=channels)
        self._remembered.end(thread_id, reading)
        return own(found)


# LangGraph asks for it in each run, to see which arguments it takes; to find it out anew takes 1 % of a turn.
Saver.aput_writes.__signature__ = inspect.signature(Saver.aput_writes)  # type: ignore[attr-defined]


class SharedStore(AsyncSqliteStore):
    """LangGraph's store on a shared connection; used through ``FencedStore`` only, which calls ``abatch``."""

    def __init__(self, connection: aiosqlite.Connection, lock: ConnectionLock) -> None:
        super().__init__(connection)
        self.lock = cast("asyncio.Lock", lock)

    def _ensure_task(self) -> None:
        """Start no batching task: writes of several runs would be one transaction, and fail together."""

    @asynccontextmanager
    async def _cursor(self, *, transaction: bool = True) -> AsyncIterator[aiosqlite.Cursor]:
        """As the original, which commits the half of a batch that went well before it failed."""
        async with self.lock, self.conn.cursor() as cursor:
            if transaction:
                await self.conn.execute("BEGIN")
            yield cursor
            if transaction:
                await self.conn.execute("COMMIT")


class FencedStore(BaseStore):
    """LangGraph's store as a run sees it: each call is one transaction, its writes go through the fence."""

    def __init__(self, store: SharedStore, fence: Fence | None) -> None:
        self._store = store
        self._fence = fence

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do all of ``ops``, or none.

        Raises:
            FenceClosed: there is a write among them, and the fence is closed.
            StorageError: the database failed.
        """
        ops = list(ops)
        fence = self._fence if any(isinstance(op, PutOp) for op in ops) else None
        return await settle(guarded(fence, self._store.abatch, ops))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """``abatch`` for other threads than the loop's, where it would wait for itself."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._store.loop:
            raise asyncio.InvalidStateError("The store is used synchronously on the event loop: await its a… methods.")
        return asyncio.run_coroutine_threadsafe(self.abatch(ops), self._store.loop).result()
