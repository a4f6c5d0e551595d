"""What every storage must do: ``Storage``'s promises, as tests that each implementation runs."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import PutOp

from threadwire.errors import Forbidden, InvalidArgument, TooLarge
from threadwire.storage import (
    MAX_METADATA_BYTES,
    Fence,
    FenceClosed,
    Frames,
    LogRow,
    RunEnd,
    RunRow,
    RunStart,
    RunStop,
    Storage,
    ThreadMark,
    ThreadQuery,
    ThreadRow,
    Truncation,
)

Factory = Callable[[], AbstractAsyncContextManager[Storage]]
#: What ``a_run`` makes of its thread's metadata.
TITLED = {"title": "grüß dich ✓"}
INTERRUPTS = [{"id": "i1", "value": {"question": "wirklich? ✓"}, "node": "ask"}]


def a_run(run_id: str = "r1", thread_id: str = "t1", **changes: Any) -> RunRow:
    """A queued turn that brings the message ``m-<run_id>``."""
    run = RunRow(
        run_id=run_id,
        thread_id=thread_id,
        trigger="send",
        message_id=f"m-{run_id}",
        request={"content": "grüß dich ✓", "context": {"a": [1, None, 2.5]}},
        on_disconnect="cancel",
        created_at=100.5,
        turn=f"m-{run_id}",
    )
    return replace(run, **changes)


def config_of(thread_id: str, **more: str) -> RunnableConfig:
    """Where a thread's root checkpoints are."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **more}}


async def put(saver: BaseCheckpointSaver[str], thread_id: str = "t1", value: Any = "v") -> Checkpoint:
    """Save a checkpoint whose channel ``x`` has ``value``."""
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"]["x"] = value
    await saver.aput(config_of(thread_id), checkpoint, {"step": 1}, {})
    return checkpoint


async def a_line(
    saver: BaseCheckpointSaver[str],
    count: int,
    *,
    thread_id: str = "t1",
    namespace: str = "",
    parents: dict[str, str] | None = None,
    ids: Sequence[str] = (),
) -> list[str]:
    """Save checkpoints, each the child of the one before, with its id as a write; gives their ids, oldest first."""
    made: list[str] = []
    config = config_of(thread_id, checkpoint_ns=namespace)
    if (found := await saver.aget_tuple(config)) is not None:
        config = found.config
    for number in range(count):
        checkpoint = empty_checkpoint()
        checkpoint["id"] = ids[number] if ids else checkpoint["id"]
        config = await saver.aput(config, checkpoint, {"step": 1, "parents": parents or {}}, {})
        await saver.aput_writes(config, [("y", checkpoint["id"])], "task")
        made.append(checkpoint["id"])
    return made


async def newest(saver: BaseCheckpointSaver[str], thread_id: str = "t1") -> Any:
    """What channel ``x`` has in the thread's newest checkpoint; None where there is none."""
    found = await saver.aget_tuple(config_of(thread_id))
    return found.checkpoint["channel_values"]["x"] if found else None


async def accept(storage: Storage, run: RunRow) -> None:
    """Take a run in, on a thread whose log is new if the thread is."""
    await storage.accept_run(run, LogRow(run.thread_id, f"epoch of {run.run_id}"))


async def finish(storage: Storage, run_id: str, **changes: Any) -> None:
    """End a run as completed, its thread idle, where ``changes`` do not say otherwise."""
    ending: dict[str, Any] = {
        "status": "completed",
        "reason": None,
        "error": None,
        "usage": None,
        "at": 300.0,
        "thread_status": "idle",
        "interrupts": [],
    }
    await storage.write([], [RunEnd(run_id=run_id, **(ending | changes))])


def fold_list(state: Sequence[Any], writes: Sequence[Any]) -> list[Any]:
    """A delta channel's reducer: append; each write is a list."""
    return [*state, *(item for write in writes for item in write)]


@dataclass
class Order:
    """A type of a served graph's own."""

    number: int


class Counted(TypedDict):
    total: Annotated[int, operator.add]


class Noted(TypedDict):
    notes: Annotated[list[str], DeltaChannel(fold_list, snapshot_frequency=7)]
    unwritten: Annotated[list[str], DeltaChannel(fold_list)]


async def _note(state: Noted) -> dict[str, list[str]]:
    return {"notes": [f"of {len(state['notes'])}"]}


class StorageContract:
    """Subclass it as ``Test…`` with a ``factory`` fixture that opens the same storage each time."""

    @pytest.fixture
    async def storage(self, factory: Factory) -> AsyncIterator[Storage]:
        async with factory() as storage:
            yield storage

    # --- threads and runs -----------------------------------------------------------------------------------

    async def test_unknown(self, storage: Storage) -> None:
        """What was never written is not there."""
        assert await storage.get_thread("t1") is None
        assert await storage.get_run("t1", "r1") is None
        assert await storage.unfinished_runs() == []

    async def test_accept(self, storage: Storage) -> None:
        """An accepted run reads back as it was given, and its thread is there."""
        await accept(storage, a_run())
        assert await storage.get_run("t1", "r1") == a_run()
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 100.5, metadata=TITLED)

    async def test_accept_known_thread(self, storage: Storage) -> None:
        """A later run moves its thread's ``updated_at`` on, never back, and leaves the rest of it."""
        await accept(storage, a_run())
        await storage.write([], [ThreadMark("t1", "interrupted", INTERRUPTS)])
        await accept(storage, a_run("r2", created_at=200.0))
        await accept(storage, a_run("r3", created_at=150.0))
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 200.0, "interrupted", TITLED, INTERRUPTS)

    @pytest.mark.parametrize("thread_id", ["t1", "t2"])
    async def test_accept_taken_run_id(self, storage: Storage, thread_id: str) -> None:
        """A run id that is taken is refused by its name, and nothing of that run is kept."""
        await accept(storage, a_run())
        with pytest.raises(InvalidArgument) as refused:
            await accept(storage, a_run("r1", thread_id, message_id="m9", created_at=200.0))
        assert refused.value.field == "run_id"
        assert await storage.get_run("t1", "r1") == a_run()
        assert await storage.get_thread("t2") is None
        thread = await storage.get_thread("t1")
        assert thread is not None
        assert thread.updated_at == 100.5

    async def test_accept_taken_message_id(self, storage: Storage) -> None:
        """A message id belongs to one run of its thread; other threads may use it too."""
        await accept(storage, a_run())
        with pytest.raises(InvalidArgument) as refused:
            await accept(storage, a_run("r2", message_id="m-r1"))
        assert refused.value.field == "message_id"
        assert await storage.get_run("t1", "r2") is None
        await accept(storage, a_run("r3", "t2", message_id="m-r1"))

    async def test_accept_without_message(self, storage: Storage) -> None:
        """Any number of runs may bring no message."""
        for run_id in ("r1", "r2"):
            await accept(storage, a_run(run_id, trigger="respond", message_id=None))
        assert [run.message_id for run in await storage.unfinished_runs("t1")] == [None, None]

    async def test_run_of_other_thread(self, storage: Storage) -> None:
        """A thread's runs are not to be had through another thread."""
        await accept(storage, a_run())
        await accept(storage, a_run("r2", "t2"))
        assert await storage.get_run("t2", "r1") is None

    async def test_unfinished(self, storage: Storage) -> None:
        """Queued and running runs come in the order they were accepted, whatever their ids and times."""
        for run_id, thread_id, at in [("c", "t1", 3.0), ("a", "t2", 1.0), ("d", "t1", 2.0), ("b", "t1", 0.0)]:
            await accept(storage, a_run(run_id, thread_id, created_at=at))
        await storage.write([], [RunStart("d", None, 5.0)])
        await finish(storage, "b")
        assert [run.run_id for run in await storage.unfinished_runs()] == ["c", "a", "d"]
        assert [run.run_id for run in await storage.unfinished_runs("t1")] == ["c", "d"]

    async def test_start(self, storage: Storage) -> None:
        """A started run is running, its thread busy."""
        await accept(storage, a_run())
        await storage.write([], [RunStart("r1", None, 200.0)])
        assert await storage.get_run("t1", "r1") == a_run(status="running", started_at=200.0)
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 200.0, "busy", TITLED)

    async def test_start_ended(self, storage: Storage) -> None:
        """A run that has ended, or that nobody knows, is not started, and no thread becomes busy."""
        await accept(storage, a_run())
        await finish(storage, "r1")
        await storage.write([], [RunStart("r1", None, 400.0)])
        await storage.write([], [RunStart("r9", None, 400.0)])
        assert await storage.unfinished_runs() == []
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 300.0, metadata=TITLED)

    async def test_stop(self, storage: Storage) -> None:
        """A queued run says why it is not to start; one that has started, or ended, does not."""
        for run_id in ("r1", "r2", "r3"):
            await accept(storage, a_run(run_id))
        await storage.write([], [RunStart("r2", None, 200.0)])
        await finish(storage, "r3", reason="error")
        await storage.write([], [RunStop(run_id, "client") for run_id in ("r1", "r2", "r3")])
        found = [await storage.get_run("t1", run_id) for run_id in ("r1", "r2", "r3")]
        assert [(run.status, run.reason) for run in found if run] == [
            ("queued", "client"),
            ("running", None),
            ("completed", "error"),
        ]
        # It did start after all.
        await storage.write([], [RunStart("r1", None, 300.0)])
        assert await storage.get_run("t1", "r1") == a_run(status="running", started_at=300.0)

    async def test_finish(self, storage: Storage) -> None:
        """An ended run has its outcome, its thread what it was left in."""
        error, usage = (
            {"code": "timeout", "message": "Zu spät."},
            {"input_tokens": 3, "details": {"cached": 1}},
        )
        await accept(storage, a_run())
        await storage.write([], [RunStart("r1", None, 200.0)])
        await finish(
            storage,
            "r1",
            status="interrupted",
            reason="timeout",
            error=error,
            usage=usage,
            thread_status="interrupted",
            interrupts=INTERRUPTS,
        )
        ended = a_run(status="interrupted", started_at=200.0, ended_at=300.0)
        assert await storage.get_run("t1", "r1") == replace(ended, reason="timeout", error=error, usage=usage)
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 300.0, "interrupted", TITLED, INTERRUPTS)

    async def test_finish_twice(self, storage: Storage) -> None:
        """A run ends once: a second end changes neither it nor its thread. Queued ones end as well."""
        await accept(storage, a_run())
        await finish(storage, "r1", status="cancelled", reason="client")
        await finish(storage, "r1", at=999.0, thread_status="error", interrupts=INTERRUPTS)
        assert await storage.get_run("t1", "r1") == a_run(status="cancelled", reason="client", ended_at=300.0)
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 300.0, metadata=TITLED)

    async def test_set_thread_status(self, storage: Storage) -> None:
        """A thread's status and interrupts change together; a thread that is not there is not made."""
        await accept(storage, a_run())
        await storage.write([], [ThreadMark("t1", "error", INTERRUPTS)])
        await storage.write([], [ThreadMark("t2", "error", INTERRUPTS)])
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 100.5, "error", TITLED, INTERRUPTS)
        assert await storage.get_thread("t2") is None

    async def test_delete(self, storage: Storage) -> None:
        """A deleted thread is gone with its runs and checkpoints, others stay, and its ids are free again."""
        for run_id, thread_id in (("r1", "t1"), ("r2", "t2")):
            await accept(storage, a_run(run_id, thread_id))
            await put(storage.saver(), thread_id)
        await storage.store.aput(("memories",), "k", {"of": "everybody"})
        assert await storage.delete_thread("t1") is True
        assert await storage.get_thread("t1") is None
        assert await storage.get_run("t1", "r1") is None
        assert await newest(storage.reader, "t1") is None
        assert await storage.get_run("t2", "r2") == a_run("r2", "t2")
        assert await newest(storage.reader, "t2") == "v"
        assert await storage.store.aget(("memories",), "k") is not None
        assert await storage.delete_thread("t1") is False
        await accept(storage, a_run())

    async def test_delete_checkpoints_only(self, storage: Storage) -> None:
        """A thread that only the checkpointer knows is deleted as well."""
        await put(storage.saver())
        assert await storage.delete_thread("t1") is True
        assert await newest(storage.reader) is None

    async def test_check(self, storage: Storage) -> None:
        """A storage that can be written to passes its check, again and again, and keeps what it has."""
        await accept(storage, a_run())
        for _ in range(3):
            await storage.check()
        assert await storage.get_run("t1", "r1") == a_run()

    async def test_reopened(self, factory: Factory) -> None:
        """Everything is there after closing and opening again."""
        async with factory() as storage:
            await accept(storage, a_run())
            await put(storage.saver())
            await storage.store.aput(("a", "b"), "k", {"n": 1})
        async with factory() as storage:
            assert await storage.get_run("t1", "r1") == a_run()
            assert await newest(storage.reader) == "v"
            item = await storage.store.aget(("a", "b"), "k")
            assert item is not None
            assert item.value == {"n": 1}

    # --- threads as resources -------------------------------------------------------------------------------

    async def test_create_thread(self, storage: Storage) -> None:
        """A created thread reads back as it was given; one that is there is not touched."""
        made = ThreadRow("t1", 100.5, 100.5, metadata={"k": [1, None, {"ä": 2.5}]})
        assert await storage.create_thread("t1", made.metadata, 100.5) == made
        assert await storage.create_thread("t1", {"other": 1}, 200.0) is None
        assert await storage.get_thread("t1") == made

    async def test_title(self, storage: Storage) -> None:
        """The first message names a thread that has no name, and no later one does."""
        await storage.create_thread("t1", {"n": 1}, 1.0)
        await storage.create_thread("t2", {"title": "mine"}, 1.0)
        await storage.create_thread("t3", {}, 1.0)
        for number, thread_id in enumerate(("t1", "t2", "t3", "t3", "t4")):
            content = [{"type": "text", "text": f"says {number}"}] if number != 2 else [{"type": "image"}]
            await accept(storage, a_run(f"r{number}", thread_id, request={"content": content}))
        await accept(storage, a_run("r9", "t5", trigger="respond", message_id=None, request={"responses": {}}))
        rows = [await storage.get_thread(f"t{number}") for number in range(1, 6)]
        found = [row.metadata if row else None for row in rows]
        assert found == [{"n": 1, "title": "says 0"}, {"title": "mine"}, {}, {"title": "says 4"}, {}]

    async def test_title_of_a_refused_run(self, storage: Storage) -> None:
        """A run that is refused names nothing and is not found by its words."""
        await accept(storage, a_run())
        await storage.create_thread("t2", {}, 1.0)
        with pytest.raises(InvalidArgument):
            await accept(storage, a_run("r1", "t2"))
        assert await storage.get_thread("t2") == ThreadRow("t2", 1.0, 1.0)
        assert [row.thread_id for row in await storage.search_threads(ThreadQuery(text="GRÜSS"))] == ["t1"]

    async def test_update_metadata(self, storage: Storage) -> None:
        """Metadata is laid over key by key, ``updated_at`` moves on, never back, and no thread is made."""
        await storage.create_thread("t1", {"a": 1, "b": {"c": 1}}, 100.0)
        updated = await storage.update_thread_metadata("t1", {"b": {"d": None}, "e": True}, 200.0)
        assert updated == ThreadRow("t1", 100.0, 200.0, metadata={"a": 1, "b": {"d": None}, "e": True})
        assert await storage.update_thread_metadata("t1", {}, 150.0) == updated
        assert await storage.get_thread("t1") == updated
        assert await storage.update_thread_metadata("t2", {"a": 1}, 200.0) is None
        assert await storage.get_thread("t2") is None

    async def test_metadata_too_large(self, storage: Storage) -> None:
        """Metadata over the limit is refused, also where it would become so, and nothing is changed."""
        half = "x" * (MAX_METADATA_BYTES // 2)
        with pytest.raises(TooLarge):
            await storage.create_thread("t1", {"a": half * 2}, 1.0)
        made = await storage.create_thread("t1", {"a": half}, 1.0)
        with pytest.raises(TooLarge):
            await storage.update_thread_metadata("t1", {"b": half}, 2.0)
        assert await storage.get_thread("t1") == made

    async def test_metadata_at_once(self, storage: Storage) -> None:
        """Updates at the same time all count."""
        await storage.create_thread("t1", {}, 1.0)
        await asyncio.gather(*(storage.update_thread_metadata("t1", {str(n): n}, 2.0) for n in range(20)))
        row = await storage.get_thread("t1")
        assert row is not None
        assert row.metadata == {str(n): n for n in range(20)}

    async def _found(self, storage: Storage, page: dict[str, Any] | None = None, **query: Any) -> list[str]:
        rows = await storage.search_threads(ThreadQuery(**query), **(page or {}))
        if page is None:
            assert await storage.count_threads(ThreadQuery(**query)) == len(rows)
        return [row.thread_id for row in rows]

    async def test_search(self, storage: Storage) -> None:
        """Threads are found by what their metadata contains, their status and their ids, all at once too."""
        for number in range(4):
            await storage.create_thread(f"t{number}", {"n": number, "odd": number % 2 == 1, "l": [number, "x"]}, number)
        await storage.write([], [ThreadMark("t2", "error", [])])
        for query, expected in (
            ({}, ["t3", "t2", "t1", "t0"]),
            ({"metadata": {"odd": True}}, ["t3", "t1"]),
            ({"metadata": {"odd": 1}}, []),
            ({"metadata": {"l": ["x", 2]}}, ["t2"]),
            ({"metadata": {"n": None}}, []),
            ({"status": "error"}, ["t2"]),
            ({"ids": []}, []),
            ({"ids": ["t0", "t3", "t9"]}, ["t3", "t0"]),
            ({"ids": ["t0", "t3"], "metadata": {"odd": True}, "status": "idle"}, ["t3"]),
        ):
            assert await self._found(storage, **query) == expected, query

    async def test_search_text(self, storage: Storage) -> None:
        """Text is found in titles and in what was sent, as it stands, in any case and script."""
        await storage.create_thread("t1", {"title": "Über 100% of_it", "note": "hidden"}, 1.0)
        await accept(storage, a_run("r2", "t2", request={"content": "ΣΊΣΥΦΟΣ and straße"}, created_at=2.0))
        await accept(storage, a_run("r3", "t2", request={"content": "second"}, created_at=3.0))
        for text, expected in (
            ("ÜBER 100%", ["t1"]),
            ("100_", []),
            ("hidden", []),
            ("σίσυφος", ["t2"]),
            ("STRASSE", ["t2"]),
            ("SECOND", ["t2"]),
            ("", ["t2", "t1"]),
        ):
            assert await self._found(storage, text=text) == expected, text
        await storage.update_thread_metadata("t1", {"title": ["no", "text"]}, 3.0)
        assert await self._found(storage, text="über") == []

    async def test_search_sorted(self, storage: Storage) -> None:
        """Pages follow each other in the order that was asked for, ties by id."""
        for thread_id, at in (("b", 1.0), ("a", 1.0), ("c", 3.0)):
            await storage.create_thread(thread_id, {}, at)
        await accept(storage, a_run("r1", "a", created_at=5.0))
        await storage.update_thread_metadata("b", {"x": 1}, 9.0)
        await storage.write([], [ThreadMark("c", "error", [])])
        for sort_by, ascending in (
            ("thread_id", "abc"),
            ("status", "cab"),
            ("created_at", "abc"),
            ("updated_at", "cab"),
            ("state_updated_at", "bca"),
        ):
            found = "".join(await self._found(storage, {"sort_by": sort_by, "descending": False}))
            assert found == ascending, sort_by
            assert await self._found(storage, {"sort_by": sort_by}) == list(ascending[::-1])
        assert await self._found(storage, {"limit": 2}) == ["c", "b"]
        assert await self._found(storage, {"limit": 2, "offset": 2}) == ["a"]

    async def test_owners(self, storage: Storage) -> None:
        """A thread is whose first run or creation it was; only who names the owner finds it, and its copy."""
        by_alice: dict[str, Any] = {"content": "plan", "user": {"identity": "alice"}}
        await accept(storage, a_run("r1", "t1", request=by_alice))
        await storage.create_thread("t2", {}, 1.0, "bob")
        await storage.create_thread("t3", {}, 1.0)
        owners = {thread_id: await storage.owner_of(thread_id) for thread_id in ("t1", "t2", "t3", "t4")}
        assert owners == {"t1": "alice", "t2": "bob", "t3": "", "t4": None}
        assert await storage.copy_thread("t1", "t4", 2.0)
        found = {owner: await storage.search_threads(ThreadQuery(owner)) for owner in ("alice", "bob", "", "carol")}
        ids = {owner: {row.thread_id for row in rows} for owner, rows in found.items()}
        assert ids == {"alice": {"t1", "t4"}, "bob": {"t2"}, "": {"t3"}, "carol": set()}
        assert [await storage.count_threads(ThreadQuery(owner, text="plan")) for owner in ("alice", "bob")] == [2, 0]

    async def test_accept_other_owner(self, storage: Storage) -> None:
        """A run of another user's on somebody's thread is refused, and writes nothing."""
        await storage.create_thread("t1", {}, 1.0, "alice")
        by_bob: dict[str, Any] = {"content": "mine", "user": {"identity": "bob"}}
        for request in (by_bob, {"content": "nobody's"}):
            with pytest.raises(Forbidden):
                await accept(storage, a_run("r1", "t1", request=request))
        assert await storage.get_run("t1", "r1") is None
        assert await storage.owner_of("t1") == "alice"

    async def test_secrets(self, factory: Factory) -> None:
        """A secret is made once, by its name, and is the same after a restart."""
        async with factory() as storage:
            found = await storage.secret("a")
            assert len(found) == 32
            assert await storage.secret("a") == found != await storage.secret("b")
            assert await storage.tokens() == []
            assert await storage.token("0" * 16) is None
        async with factory() as storage:
            assert await storage.secret("a") == found

    async def test_copy(self, storage: Storage) -> None:
        """A copy has the thread's row, words and checkpoints with their writes; then the two have nothing in common."""
        await accept(storage, a_run())
        checkpoint = await put(storage.saver(), value="old")
        await storage.saver().aput_writes(config_of("t1", checkpoint_id=checkpoint["id"]), [("y", 1)], "task")
        await finish(storage, "r1", thread_status="interrupted", interrupts=INTERRUPTS)
        copied = await storage.copy_thread("t1", "t2", 500.0)
        assert copied == ThreadRow("t2", 500.0, 500.0, "interrupted", TITLED, INTERRUPTS)
        assert await storage.get_thread("t2") == copied
        assert await storage.get_run("t2", "r1") is None
        assert await self._found(storage, text="grüß") == ["t2", "t1"]
        tuples = [await storage.reader.aget_tuple(config_of(thread_id)) for thread_id in ("t1", "t2")]
        assert tuples[0] is not None
        assert tuples[1] is not None
        assert tuples[0].checkpoint == tuples[1].checkpoint
        assert tuples[0].pending_writes == tuples[1].pending_writes == [("task", "y", 1)]
        await put(storage.saver(), "t2", "new")
        assert await newest(storage.reader) == "old"
        await storage.delete_thread("t1")
        assert await newest(storage.reader, "t2") == "new"
        assert await self._found(storage, text="grüß") == ["t2"]

    async def test_copy_unknown(self, storage: Storage) -> None:
        """What is not there is not copied, its checkpoints without a thread neither."""
        await put(storage.saver())
        assert await storage.copy_thread("t1", "t2", 1.0) is None
        assert await newest(storage.reader, "t2") is None

    # --- checkpoints ----------------------------------------------------------------------------------------

    async def test_read_after_write(self, storage: Storage) -> None:
        """The reader sees a checkpoint and its writes as soon as the saver has returned."""
        saver = storage.saver()
        for number in range(20):
            checkpoint = await put(saver, value=number)
            await saver.aput_writes(config_of("t1", checkpoint_id=checkpoint["id"]), [("y", number)], "task")
            found = await storage.reader.aget_tuple(config_of("t1"))
            assert found is not None
            assert found.checkpoint["channel_values"]["x"] == number
            assert found.pending_writes == [("task", "y", number)]

    async def test_own_types(self, storage: Storage) -> None:
        """A graph's own type comes back as itself through a saver that allows it, as plain data otherwise."""
        allowed = storage.saver(Fence()).with_allowlist([(Order.__module__, "Order")])
        await put(allowed, value=Order(7))
        assert await newest(allowed) == Order(7)
        reader = storage.reader.with_allowlist([(Order.__module__, "Order")])
        assert await newest(reader) == Order(7)
        assert await newest(storage.saver()) == {"number": 7}
        assert await newest(storage.reader) == {"number": 7}

    async def test_list(self, storage: Storage) -> None:
        """History comes whole, newest first, within its limits, however many pages it is read in."""
        saver = storage.saver()
        ids = [(await put(saver, value=number))["id"] for number in range(40)]
        await put(saver, "t2")
        for of in (saver, storage.reader):
            assert await self._ids(of) == ids[::-1]
            assert await self._ids(of, limit=33) == ids[:6:-1]
            assert await self._ids(of, limit=0) == []
            assert await self._ids(of, limit=16) == ids[:23:-1]
            assert await self._ids(of, before=config_of("t1", checkpoint_id=ids[30])) == ids[29::-1]

    @staticmethod
    async def _ids(saver: BaseCheckpointSaver[str], thread_id: str = "t1", **bounds: Any) -> list[str]:
        return [found.checkpoint["id"] async for found in saver.alist(config_of(thread_id), **bounds)]

    # --- pruning ----------------------------------------------------------------------------------------------

    async def test_prune(self, storage: Storage) -> None:
        """The newest are kept with what was written to them, the others go; other threads, runs and rows stay."""
        saver = storage.saver()
        await accept(storage, a_run())
        ids = await a_line(saver, 10)
        await a_line(saver, 10, thread_id="t2")
        assert await storage.prune_thread("t1", 3) == 7
        assert await self._ids(saver) == await self._ids(storage.reader) == ids[:-4:-1]
        for one in ids:
            found = await storage.reader.aget_tuple(config_of("t1", checkpoint_id=one))
            assert (found.pending_writes if found else None) == ([("task", "y", one)] if one in ids[-3:] else None)
        assert len([one async for one in saver.alist(config_of("t2"))]) == 10
        assert await storage.get_run("t1", "r1") == a_run()
        assert await storage.prune_thread("t1", 3) == 0

    async def test_prune_keeps_all(self, storage: Storage) -> None:
        """Nothing goes while there is little enough, where all is to be kept, and of a thread nobody knows."""
        ids = await a_line(storage.saver(), 10)
        for keep, slack in ((10, 0), (7, 3), (0, 0), (1000, 1000)):
            assert await storage.prune_thread("t1", keep, slack=slack) == 0
        assert await self._ids(storage.reader) == ids[::-1]
        assert await storage.prune_thread("t9", 1) == 0
        assert await storage.prune_thread("t1", 7, slack=2) == 3

    async def test_prune_delta(self, storage: Storage) -> None:
        """Of a channel that is kept as its changes, whole once in a while, each kept checkpoint has its value still."""
        builder = StateGraph(Noted).add_node("note", _note).add_edge(START, "note")
        graph: Any = builder.compile(checkpointer=storage.saver())
        for number in range(20):
            await graph.ainvoke({"notes": [str(number)]}, config_of("t1"))
        ids = await self._ids(storage.reader)
        values = [(await graph.aget_state(config_of("t1", checkpoint_id=one))).values for one in ids[:6]]
        assert await storage.prune_thread("t1", 6) > 30
        for thread_id in ("t1", "t2"):
            assert await self._ids(storage.reader, thread_id=thread_id) == ids[:6]
            configs = [config_of(thread_id, checkpoint_id=one) for one in ids[:7]]
            assert [(await graph.aget_state(config)).values for config in configs] == [*values, {}]
            if thread_id == "t1":
                await storage.create_thread("t1", {}, 1.0)
                await storage.copy_thread("t1", "t2", 1.0)

    async def test_prune_subgraphs(self, storage: Storage) -> None:
        """A task's checkpoints go with their root's; a subgraph's own memory keeps what it would go on from."""
        saver = storage.saver()
        last: list[tuple[str, str]] = []
        for number in range(8):
            [root] = await a_line(saver, 1)
            for namespace in ("memory", f"node:{number}", f"node:{number}|memory"):
                made = await a_line(saver, 2 if number < 5 else 1, namespace=namespace, parents={"": root})
                last.append((namespace, made[-1]))
            if number < 5:
                await a_line(saver, 1)
        await a_line(saver, 3)
        assert await storage.prune_thread("t1", 4) > 0
        kept = {
            (one.config["configurable"]["checkpoint_ns"], one.checkpoint["id"])
            async for one in storage.reader.alist({"configurable": {"thread_id": "t1"}})
        }
        # Of the roots with subgraphs, only the last one is kept; before it, the memory's newest.
        assert kept - set(await self._roots(storage)) == {*last[-3:], last[-6]}

    async def _roots(self, storage: Storage) -> list[tuple[str, str]]:
        return [("", one) for one in await self._ids(storage.reader)]

    async def test_prune_by_what_belongs_together(self, storage: Storage) -> None:
        """Where a clock was set back, a kept root's subgraphs are known by what they say they belong to."""
        saver = storage.saver()
        [early] = await a_line(saver, 1, namespace="node:1", parents={"": "will-be"})
        await a_line(saver, 2)
        await a_line(saver, 1, ids=["will-be"])
        assert await storage.prune_thread("t1", 1) == 2
        assert await saver.aget_tuple(config_of("t1", checkpoint_ns="node:1", checkpoint_id=early)) is not None

    async def test_list_slowly(self, storage: Storage) -> None:
        """A reader in the middle of a history keeps nobody from reading or writing, itself included."""
        saver = storage.saver()
        for number in range(20):
            await put(saver, value=number)
        for of in (saver, storage.reader):
            async with asyncio.timeout(10):
                async for found in of.alist(config_of("t1"), limit=20):
                    await put(saver, "t2", value=found.checkpoint["id"])
                    assert await newest(storage.reader, "t2") == found.checkpoint["id"]

    async def test_served_graph(self, storage: Storage) -> None:
        """A graph holds a conversation over the saver, and its nodes have the store."""

        async def add(state: Counted, runtime: Runtime) -> dict[str, int]:
            assert runtime.store is not None
            await runtime.store.aput(("seen",), str(state["total"]), {"total": state["total"]})
            return {"total": 10}

        builder = StateGraph(Counted)
        builder.add_node("add", add)
        builder.add_edge(START, "add")
        builder.add_edge("add", END)
        fence = Fence()
        graph = builder.compile(checkpointer=storage.saver(fence), store=storage.fenced_store(fence))
        assert await graph.ainvoke({"total": 1}, config_of("t1")) == {"total": 11}
        assert await graph.ainvoke({"total": 2}, config_of("t1")) == {"total": 23}
        assert sorted(item.key for item in await storage.store.asearch(("seen",))) == ["1", "13"]

    async def test_sync(self, storage: Storage) -> None:
        """Nodes that run in threads use the saver and the store without awaiting."""
        saver, store = storage.saver(Fence()), storage.fenced_store(Fence())

        def work() -> Any:
            checkpoint = empty_checkpoint()
            saver.put(config_of("t1"), checkpoint, {}, {})
            saver.put_writes(config_of("t1", checkpoint_id=checkpoint["id"]), [("y", 1)], "task")
            store.put(("a",), "k", {"n": 1})
            return store.get(("a",), "k").value, saver.get_tuple(config_of("t1")).pending_writes  # type: ignore[union-attr]

        assert await asyncio.to_thread(work) == ({"n": 1}, [("task", "y", 1)])

    async def test_sync_on_loop(self, storage: Storage) -> None:
        """Used without awaiting on the loop itself, the store says so instead of hanging."""
        with pytest.raises(asyncio.InvalidStateError):
            storage.store.get(("a",), "k")

    async def test_store(self, storage: Storage) -> None:
        """The store puts, gets, searches, lists and deletes, fenced or not, each seeing the other's."""
        fenced = storage.fenced_store(Fence())
        await fenced.aput(("u", "1"), "k", {"colour": "red"})
        await storage.store.aput(("u", "2"), "k", {"colour": "blue"})
        assert [item.value for item in await fenced.asearch(("u",), filter={"colour": "blue"})] == [{"colour": "blue"}]
        assert sorted(await storage.store.alist_namespaces(prefix=("u",))) == [("u", "1"), ("u", "2")]
        await storage.store.adelete(("u", "1"), "k")
        assert await fenced.aget(("u", "1"), "k") is None

    # --- fences ---------------------------------------------------------------------------------------------

    async def test_fence(self, storage: Storage) -> None:
        """Once its fence is closed, a run reads what there is and changes nothing; other runs go on."""
        fence = Fence()
        saver, store = storage.saver(fence), storage.fenced_store(fence)
        checkpoint = await put(saver, value=1)
        await store.aput(("a",), "k", {"n": 1})
        fence.close()
        at = config_of("t1", checkpoint_id=checkpoint["id"])
        for write in (
            lambda: put(saver, value=2),
            lambda: put(saver.with_allowlist([("a", "B")]), value=2),
            lambda: saver.aput_writes(at, [("y", 1)], "task"),
            lambda: saver.adelete_thread("t1"),
            lambda: asyncio.to_thread(saver.delete_thread, "t1"),
            lambda: store.aput(("a",), "k", {"n": 2}),
            lambda: store.adelete(("a",), "k"),
            lambda: store.abatch([PutOp(("a",), "k2", {"n": 2}), PutOp(("a",), "k", None)]),
            lambda: asyncio.to_thread(store.put, ("a",), "k", {"n": 2}),
        ):
            with pytest.raises(FenceClosed):
                await write()
        assert await newest(saver) == 1
        item = await store.aget(("a",), "k")
        assert item is not None
        assert item.value == {"n": 1}
        await put(storage.saver(Fence()), value=3)
        assert await newest(storage.reader) == 3

    async def test_fence_while_waiting(self, storage: Storage) -> None:
        """A write that waits for its turn while its fence closes is refused, and no other is."""
        fence = Fence()
        writes = [
            asyncio.create_task(put(storage.saver(through), thread_id))
            for thread_id, through in (("t1", None), ("t2", fence), ("t3", None))
        ]
        await asyncio.sleep(0)
        fence.close()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert isinstance(outcomes[1], FenceClosed)
        assert [await newest(storage.reader, f"t{number}") for number in (1, 2, 3)] == ["v", None, "v"]

    # --- cancellation ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ["checkpoint", "store", "run"])
    async def test_cancelled_write(self, storage: Storage, kind: str) -> None:
        """A caller cancelled at any moment, however often, is told so once its write is settled, whole."""
        for steps in range(1, 40):
            key = f"k{steps}"
            writing: dict[str, Callable[[], Any]] = {
                "checkpoint": lambda key=key: put(storage.saver(), key),  # type: ignore[misc]
                "store": lambda key=key: storage.store.aput(("a",), key, {"n": 1}),  # type: ignore[misc]
                "run": lambda key=key: accept(storage, a_run(key, key)),  # type: ignore[misc]
            }
            task = asyncio.ensure_future(writing[kind]())
            for _ in range(steps):
                await asyncio.sleep(0)
            told = task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            assert isinstance(outcome, asyncio.CancelledError) or not told
            reading: dict[str, Callable[[], Any]] = {
                "checkpoint": lambda key=key: storage.reader.aget_tuple(config_of(key)),  # type: ignore[misc]
                "store": lambda key=key: storage.store.aget(("a",), key),  # type: ignore[misc]
                "run": lambda key=key: storage.get_run(key, key),  # type: ignore[misc]
            }
            assert await reading[kind]() is not None

    # --- the journal ----------------------------------------------------------------------------------------

    async def test_log_of_a_new_thread(self, storage: Storage) -> None:
        """A thread has the log it was accepted with, from its first run on, and no frames."""
        assert await storage.read_log("t1") is None
        assert await storage.read_frames("t1") == []
        await storage.accept_run(a_run(), LogRow("t1", "e1", reserved=100))
        await storage.accept_run(a_run("r2"), LogRow("t1", "e2", reserved=200))
        assert await storage.read_log("t1") == LogRow("t1", "e1", reserved=100)
        assert await storage.read_frames("t1") == []

    async def test_write_frames(self, factory: Factory) -> None:
        """What is written of a log is there, in the order of its frames, also after closing and opening again."""
        async with factory() as storage:
            await accept(storage, a_run())
            await storage.write([(LogRow("t1", "e1", 0, 3, 100, 5.5), Frames(3, b"one\ntwo", b"[]"))], [])
            await storage.write([(LogRow("t1", "e1", 0, 9, 100, 6.5), Frames(9, b"\xff\0", b"[1]"))], [])
        async with factory() as storage:
            log = await storage.read_log("t1")
            assert log is not None
            assert (log.floor, log.last, log.reserved, log.touched_at) == (0, 9, 100, 6.5)
            assert log.epoch == "epoch of r1", "whoever writes, a log keeps its epoch"
            assert await storage.read_frames("t1") == [Frames(3, b"one\ntwo", b"[]"), Frames(9, b"\xff\0", b"[1]")]

    async def test_write_many_logs(self, storage: Storage) -> None:
        """Logs of several threads go together, one without new frames too; that of no thread is passed over."""
        for number in (1, 2, 3):
            await accept(storage, a_run(f"r{number}", f"t{number}"))
        await storage.write(
            [
                (LogRow("t1", "e", 0, 1, 10, 1.0), Frames(1, b"a", b"[]")),
                (LogRow("t9", "e", 0, 1, 10, 1.0), Frames(1, b"nobody's", b"[]")),
                (LogRow("t2", "e", 4, 4, 20, 2.0), None),
            ],
            [],
        )
        assert await storage.read_frames("t1") == [Frames(1, b"a", b"[]")]
        rows = [await storage.read_log(f"t{number}") for number in (1, 2, 3, 9)]
        assert [row and (row.floor, row.last, row.reserved) for row in rows] == [
            (0, 1, 10),
            (4, 4, 20),
            (0, 0, 0),
            None,
        ]
        assert await storage.read_frames("t9") == []
        assert await storage.get_thread("t9") is None

    async def test_write_again(self, storage: Storage) -> None:
        """Frames that are written again, after a write whose answer was lost, are there once."""
        await accept(storage, a_run())
        for _ in range(2):
            await storage.write([(LogRow("t1", "e", 0, 3, 10, 1.0), Frames(3, b"a", b"[]"))], [])
        assert await storage.read_frames("t1") == [Frames(3, b"a", b"[]")]

    async def test_floor(self, storage: Storage) -> None:
        """Frames up to a log's floor go, those written together only when all of them may."""
        await accept(storage, a_run())
        for last in (3, 6, 9):
            await storage.write([(LogRow("t1", "e", 0, last, 100, 1.0), Frames(last, b"x", b"[]"))], [])
        await storage.write([(LogRow("t1", "e", 5, 9, 100, 1.0), None)], [])
        assert [frames.last for frames in await storage.read_frames("t1")] == [6, 9]
        await storage.write([(LogRow("t1", "e", 9, 12, 100, 1.0), Frames(12, b"x", b"[]"))], [])
        assert [frames.last for frames in await storage.read_frames("t1")] == [12]

    async def test_floor_stays(self, storage: Storage) -> None:
        """A floor never goes down: who forgot frames and who writes the next ones need not know of each other."""
        await accept(storage, a_run())
        await storage.write([(LogRow("t1", "e", 0, 5, 100, 1.0), Frames(5, b"old", b"[]"))], [])
        await finish(storage, "r1")
        await storage.forget_frames(2.0, but=())
        await storage.write([(LogRow("t1", "e", 0, 8, 100, 3.0), Frames(8, b"new", b"[]"))], [])
        log = await storage.read_log("t1")
        assert log is not None
        assert (log.floor, log.last) == (5, 8)
        assert await storage.read_frames("t1") == [Frames(8, b"new", b"[]")]

    async def test_forget_frames(self, storage: Storage) -> None:
        """Frames of logs that were last written to before that go; those of a thread with work in hand stay."""
        for number, at in ((1, 10.0), (2, 20.0), (3, 10.0), (4, 10.0)):
            await accept(storage, a_run(f"r{number}", f"t{number}"))
            await storage.write([(LogRow(f"t{number}", "e", 0, 5, 100, at), Frames(5, b"x", b"[]"))], [])
        for run_id in ("r1", "r2"):
            await finish(storage, run_id)
        await storage.write([], [RunStart("r4", None, 1.0)])
        await storage.forget_frames(20.0, but=())
        rows = [await storage.read_log(f"t{number}") for number in (1, 2, 3, 4)]
        assert [row and (row.floor, row.last, row.reserved) for row in rows] == [(5, 5, 100), *3 * [(0, 5, 100)]]
        assert [len(await storage.read_frames(f"t{number}")) for number in (1, 2, 3, 4)] == [0, 1, 1, 1]
        await storage.forget_frames(20.0, but=())

    async def test_write_is_one_transaction(self, storage: Storage) -> None:
        """Where one mark fails, nothing is written: no frame, no mark before it, and the storage goes on."""
        await accept(storage, a_run())
        log = LogRow("t1", "e", 0, 1, 10, 1.0), Frames(1, b"a", b"[]")
        broken = RunEnd("r1", "completed", None, None, None, object(), "idle", [])  # type: ignore[arg-type]
        with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever the database says of it
            await storage.write([log], [RunStart("r1", None, 5.0), broken])
        assert await storage.get_run("t1", "r1") == a_run()
        assert await storage.read_frames("t1") == []
        await storage.write([log], [RunStart("r1", None, 5.0)])
        run = await storage.get_run("t1", "r1")
        assert run is not None
        assert run.status == "running"
        assert await storage.read_frames("t1") == [log[1]]

    async def test_marks_in_order(self, storage: Storage) -> None:
        """A run that starts and ends in one write has ended, and its thread is what the last mark says."""
        await accept(storage, a_run())
        end = RunEnd("r1", "interrupted", None, None, None, 6.0, "interrupted", INTERRUPTS)
        await storage.write([], [RunStart("r1", None, 5.0), end, ThreadMark("t1", "idle")])
        run = await storage.get_run("t1", "r1")
        assert run is not None
        assert (run.status, run.started_at, run.ended_at) == ("interrupted", 5.0, 6.0)
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 100.5, "idle", TITLED)

    async def test_start_ends_the_question(self, storage: Storage) -> None:
        """A thread whose run starts waits for nobody any more."""
        await accept(storage, a_run())
        await storage.write([], [ThreadMark("t1", "interrupted", INTERRUPTS), RunStart("r1", None, 200.0)])
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 200.0, "busy", TITLED)

    async def test_end_leaves_the_thread(self, storage: Storage) -> None:
        """The end of a run that says nothing of its thread leaves it as it is, whatever came just before."""
        for run_id in ("r1", "r2"):
            await accept(storage, a_run(run_id))
        await finish(storage, "r1", thread_status="interrupted", interrupts=INTERRUPTS)
        await finish(storage, "r2", status="cancelled", at=400.0, thread_status=None, interrupts=None)
        assert await storage.get_thread("t1") == ThreadRow("t1", 100.5, 400.0, "interrupted", TITLED, INTERRUPTS)

    async def test_newest_checkpoint(self, storage: Storage) -> None:
        """The id of what was saved last at the root, whatever subgraphs saved after it."""
        assert await storage.newest_checkpoint("t1") is None
        saver = storage.saver()
        ids = [(await put(saver, value=number))["id"] for number in range(3)]
        inner = empty_checkpoint()
        await saver.aput({"configurable": {"thread_id": "t1", "checkpoint_ns": "sub:1"}}, inner, {"step": 1}, {})
        await put(saver, "t2")
        assert await storage.newest_checkpoint("t1") == ids[-1]

    async def test_turn_base(self, storage: Storage) -> None:
        """A turn began at the checkpoint its run started from; that of a run that answers a question did before."""
        saver = storage.saver()
        base = (await put(saver))["id"]
        await accept(storage, a_run())
        assert await storage.turn_base("t1", "m-r1") is None
        await storage.write([], [RunStart("r1", None, 1.0)])
        assert await storage.turn_base("t1", "m-r1") == (None,)
        await accept(storage, a_run("r2"))
        await storage.write([], [RunStart("r2", base, 2.0)])
        await accept(storage, a_run("r3", trigger="respond", message_id=None, turn="m-r2"))
        later = (await put(saver))["id"]
        await storage.write([], [RunStart("r3", later, 3.0)])
        assert await storage.turn_base("t1", "m-r2") == (base,)
        # Answered again, it begins anew; another thread's turn is another's.
        await accept(storage, a_run("r4", trigger="regenerate", message_id=None, turn="m-r2"))
        await storage.write([], [RunStart("r4", later, 4.0)])
        assert await storage.turn_base("t1", "m-r2") == (later,)
        assert await storage.turn_base("t2", "m-r2") is None
        assert await storage.turn_base("t1", "m-nobody") is None
        # One that has the turn's message is not the one before it.
        await accept(storage, a_run("r5"))
        await storage.write([], [RunStart("r5", later, 5.0, has_message=True)])
        assert await storage.turn_base("t1", "m-r5") is None

    async def test_turn_base_is_gone(self, storage: Storage) -> None:
        """A turn whose checkpoint is not there is not gone back to."""
        await accept(storage, a_run())
        await storage.write([], [RunStart("r1", "never-saved", 1.0)])
        assert await storage.turn_base("t1", "m-r1") is None

    async def test_truncate(self, storage: Storage) -> None:
        """What was saved after a checkpoint goes, with what was begun from it; what leads there stays."""
        saver = storage.saver()
        kept, base = [(await put(saver, value=number)) for number in range(2)]
        await saver.aput_writes(config_of("t1", checkpoint_id=kept["id"]), [("y", 0)], "task")
        await saver.aput_writes(config_of("t1", checkpoint_id=base["id"]), [("y", 1)], "task")
        await accept(storage, a_run())
        await storage.write([], [RunStart("r1", kept["id"], 1.0)])
        await accept(storage, a_run("r2"))
        await storage.write([], [RunStart("r2", base["id"], 2.0)])
        for number in (2, 3):
            await put(saver, value=number)
        await put(saver, "t2", "other")
        await storage.write([], [Truncation("t1", base["id"])])
        found = await storage.reader.aget_tuple(config_of("t1"))
        assert found is not None
        assert found.checkpoint["channel_values"]["x"] == 1
        assert not found.pending_writes
        before = await storage.reader.aget_tuple(config_of("t1", checkpoint_id=kept["id"]))
        assert before is not None
        assert before.pending_writes == [("task", "y", 0)]
        assert await storage.turn_base("t1", "m-r1") == (kept["id"],)
        assert await storage.turn_base("t1", "m-r2") is None
        assert await newest(storage.reader, "t2") == "other"
        await storage.write([], [Truncation("t1", None)])
        assert await newest(storage.reader) is None
        assert await storage.turn_base("t1", "m-r1") is None
        assert await newest(storage.reader, "t2") == "other"

    async def test_delete_takes_the_log(self, storage: Storage) -> None:
        """A deleted thread leaves no log, no frame and no turn; who uses its id again has a new log."""
        await accept(storage, a_run())
        await storage.write([(LogRow("t1", "e", 0, 1, 10, 1.0), Frames(1, b"a", b"[]"))], [RunStart("r1", None, 1.0)])
        await storage.delete_thread("t1")
        assert await storage.read_log("t1") is None
        assert await storage.read_frames("t1") == []
        assert await storage.turn_base("t1", "m-r1") is None
        await storage.write([(LogRow("t1", "e", 0, 2, 10, 1.0), Frames(2, b"b", b"[]"))], [])
        assert await storage.read_log("t1") is None
        await accept(storage, a_run("r2"))
        assert await storage.read_log("t1") == LogRow("t1", "epoch of r2")

    async def test_copy_has_no_log(self, storage: Storage) -> None:
        """A copy begins a log of its own, and knows where the turns of its original began."""
        saver = storage.saver()
        base = (await put(saver))["id"]
        await accept(storage, a_run())
        await storage.write([(LogRow("t1", "e", 0, 1, 10, 1.0), Frames(1, b"a", b"[]"))], [RunStart("r1", base, 1.0)])
        await storage.copy_thread("t1", "t2", 5.0)
        assert await storage.read_log("t2") is None
        assert await storage.read_frames("t2") == []
        assert await storage.turn_base("t2", "m-r1") == (base,)

    # --- spending -----------------------------------------------------------------------------------------------------

    async def test_a_runs_end_is_spent_once(self, storage: Storage) -> None:
        """What a run has used is its user's, on the day of its end: once, however often that is written."""
        day = 20_000
        for run_id, user in (("r1", "ada"), ("r2", "bob"), ("r3", None)):
            row = a_run(run_id)
            row.thread_id = f"of {user}"
            if user is not None:
                row.request["user"] = {"identity": user}
            await accept(storage, row)
        usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
        for run_id in ("r1", "r2", "r3", "r1"):
            end = RunEnd(run_id, "completed", None, None, usage, day * 86_400.0 + 5, "idle", [])
            await storage.write([], [end])
        assert [await storage.tokens_spent(user, day) for user in ("ada", "bob", "", "eve")] == [7, 7, 7, 0]
        assert await storage.tokens_spent("ada", day + 1) == 0
        await storage.spend_tokens("ada", day, 5)
        await storage.spend_tokens("eve", day + 1, 1)
        assert await storage.tokens_spent("ada", day) == 12
        await storage.delete_thread("of ada")
        assert await storage.tokens_spent("ada", day) == 12

    async def test_a_run_without_usage_spends_nothing(self, storage: Storage) -> None:
        """A run that says nothing of tokens is nobody's."""
        await accept(storage, a_run())
        await storage.write([], [RunEnd("r1", "cancelled", "client", None, None, 5.0, "idle", [])])
        assert await storage.tokens_spent("", 0) == 0
