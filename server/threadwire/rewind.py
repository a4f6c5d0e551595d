"""A thread taken back to where it was before one of its turns, or to any of its checkpoints.

The thread goes on from a copy of the old checkpoint, which becomes the newest; what was there after it stays, as
another branch. Where the checkpoint is gone, the messages are taken out of the newest by their ids, and the state's
other channels stay as they are. Knows no frames and no runs in progress.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.base import CheckpointMetadata, empty_checkpoint
from langgraph.types import StateUpdate

from threadwire.conversation import Conversation
from threadwire.errors import InvalidArgument, NoSuchCheckpoint, NoSuchMessage
from threadwire.graph import MESSAGES, REPAIR_NODE, Graph
from threadwire.history import message_id, message_ids
from threadwire.repair import config_of, make_whole
from threadwire.storage import RunRow, Storage

#: Kept with a checkpoint that a run has gone back to: the one it went back from, and which run it is (not under
#: ``run_id``: LangGraph takes a run that finds its own for one that is resumed, and gives it no input).
LEFT, WHOSE = "threadwire_left", "threadwire_run"


class _Way(NamedTuple):
    """Whose way back it is, and from which checkpoint."""

    run_id: str
    left: str | None

    @property
    def metadata(self) -> dict[str, str]:
        return {WHOSE: self.run_id} | ({LEFT: self.left} if self.left else {})


class Rewind:
    """One thread's way back."""

    def __init__(self, conversation: Conversation, graph: Graph, storage: Storage) -> None:
        self._conversation = conversation
        self._graph = graph
        self._storage = storage
        self._thread_id = conversation.thread_id

    # --- before a turn is accepted ---

    async def edited(self, identity: str) -> None:
        """Check that this is a message whose turn can begin anew; raises ``NoSuchMessage``, ``InvalidArgument``."""
        for index, message in enumerate(await self._conversation.stored()):
            if message_id(message, index) == identity:
                if not isinstance(message, HumanMessage):
                    raise InvalidArgument("message_id", "expected a user's message, got one of another role")
                return
        raise NoSuchMessage(f"The thread has no message {identity!r}.")

    async def answered(self, identity: str | None) -> str:
        """The user's message whose turn the given message is part of; None: the last turn's.

        Raises:
            NoSuchMessage: there is no such message, or none that a user sent before it.
            InvalidArgument: it is not an assistant's.
        """
        stored = await self._conversation.stored()
        end = len(stored)
        if identity is not None:
            ids = message_ids(stored)
            if identity not in ids:
                raise NoSuchMessage(f"The thread has no message {identity!r}.")
            end = ids.index(identity)
            if stored[end].type != "ai":
                raise InvalidArgument("message_id", "expected an assistant's message, got one of another role")
        for index in range(end - 1, -1, -1):
            if isinstance(stored[index], HumanMessage):
                return message_id(stored[index], index)
        raise NoSuchMessage("The thread has no message of a user to answer.")

    async def asking(self) -> str:
        """The user's message of the turn whose question the thread waits with; raises ``NoSuchMessage``."""
        run = await self._storage.get_run(self._thread_id, self._conversation.waiting[0]["run_id"])
        # A copy of a thread has its question, but not its runs.
        return run.turn if run is not None and run.turn is not None else await self.answered(None)

    async def way(self, turn: str) -> str:
        """How the thread gets back to before that turn: ``checkpoint`` or ``messages``."""
        return "messages" if await self._storage.turn_base(self._thread_id, turn) is None else "checkpoint"

    async def has_checkpoint(self, checkpoint_id: str) -> bool:
        """Whether the thread can go on from there."""
        return await self._storage.reader.aget_tuple(config_of(self._thread_id, checkpoint_id)) is not None

    # --- at its start ---

    async def go_back(self, row: RunRow) -> tuple[list[str], HumanMessage | None]:
        """Take the thread to where the turn goes on.

        Returns the ids of the messages that this took out, and the user's message where the turn answers it again.

        Raises:
            NoSuchCheckpoint: it is gone, and so is every other way.
            NoSuchMessage: the message is.
        """
        at: str | None = row.request.get("checkpoint_id")
        edited: str | None = row.request.get("message_id") if row.trigger == "edit" else None
        again = row.turn if row.trigger == "regenerate" else None
        if at is None and edited is None and again is None:
            return [], None
        way = _Way(row.run_id, await self._storage.newest_checkpoint(row.thread_id))
        before = await self._conversation.stored(way.left)
        ids = message_ids(before)
        if at is not None:
            await self._fork(at, way)
            kept = await self._kept()
        else:
            kept = await self._before_turn(edited or again or "", ids, way)
        removed = [identity for identity in ids if identity not in kept and identity != again]
        return removed, _asking(before, again)

    async def restore(self, row: RunRow) -> None:
        """Undo ``go_back`` for a turn that its process did not come to start: it may never, and nothing was told."""
        goes_back = row.trigger in ("edit", "regenerate") or "checkpoint_id" in row.request
        left = await self._left(row.run_id, None) if goes_back else None
        if left is not None and await self.has_checkpoint(left):
            await self._fork(left)

    async def again(self, row: RunRow) -> HumanMessage | None:
        """The user's message that a turn answers again, from where it was before: it may be nowhere else."""
        left = await self._left(row.run_id, row.base) if row.trigger == "regenerate" and row.base else None
        return _asking(await self._conversation.stored(left), row.turn) if left is not None else None

    async def _left(self, run_id: str, at: str | None) -> str | None:
        """The checkpoint that a run has gone back from, where it has made the one ``at``; None: the newest."""
        found = await self._storage.reader.aget_tuple(config_of(self._thread_id, at))
        metadata: Mapping[str, Any] = found.metadata if found is not None else {}
        return metadata.get(LEFT) if metadata.get(WHOSE) == run_id else None

    async def _before_turn(self, turn: str, ids: list[str], way: _Way) -> set[str]:
        if turn not in ids:
            raise NoSuchMessage("The message is no longer in the thread.")
        base = await self._storage.turn_base(self._thread_id, turn)
        if base is not None:
            await self._fork(base[0], way)
            return await self._kept()
        gone = ids[ids.index(turn) :]
        await self.take_out(gone, way)
        kept = await self._kept()
        if not kept.isdisjoint(gone):
            raise NoSuchCheckpoint(
                "The checkpoint before that message has been pruned, and this graph's messages cannot be taken out."
            )
        return kept

    async def _kept(self) -> set[str]:
        return set(message_ids(await self._conversation.stored()))

    async def _fork(self, checkpoint_id: str | None, way: _Way | None = None) -> None:
        """Make a copy of that checkpoint the thread's newest, whole; None: an empty one."""
        if checkpoint_id is not None:
            if not await self.has_checkpoint(checkpoint_id):
                raise NoSuchCheckpoint("That checkpoint is no longer there.")
            await make_whole(
                self._graph,
                self._storage,
                self._thread_id,
                user=None,
                said=lambda _unfinished: [],
                status="cancelled",
                checkpoint_id=checkpoint_id,
                metadata=way.metadata if way is not None else {},
            )
            return
        metadata: CheckpointMetadata = {"source": "fork", "step": -1, "parents": {}}
        config = config_of(self._thread_id) | {"metadata": way.metadata if way is not None else {}}
        await self._storage.saver().aput(config, empty_checkpoint(), metadata, {})

    async def take_out(self, ids: list[str], way: _Way | None = None) -> None:
        """Take messages out of the newest checkpoint by their ids, where the graph's reducer can."""
        config = config_of(self._thread_id) | ({"metadata": way.metadata} if way is not None else {})
        there = await self._kept()
        editor = self._graph.for_state(self._storage.saver())
        if self._graph.replaces_messages:
            stored = await self._conversation.stored()
            left: list[BaseMessage] = [m for i, m in enumerate(stored) if message_id(m, i) not in ids]
        else:
            left = [RemoveMessage(id=identity) for identity in ids if identity in there]
        await editor.abulk_update_state(config, [[StateUpdate({MESSAGES: left}, REPAIR_NODE)]])

    # --- a turn that never was ---

    async def undone(self, turn: str) -> tuple[tuple[str | None] | None, list[str]]:
        """What is undone with a turn that is in the thread.

        Returns the checkpoint before it, as ``Storage.turn_base`` has it, and the ids of its messages.
        """
        base = await self._storage.turn_base(self._thread_id, turn)
        ids = [wire["id"] for wire in await self._conversation.messages()]
        if base is None:
            return None, ids[ids.index(turn) :] if turn in ids else []
        stored = await self._conversation.stored(base[0]) if base[0] else []
        kept = set(message_ids(stored))
        return base, [identity for identity in ids if identity not in kept]


def _asking(messages: Sequence[BaseMessage], identity: str | None) -> HumanMessage | None:
    return next((m for m in messages if identity and m.id == identity and isinstance(m, HumanMessage)), None)
