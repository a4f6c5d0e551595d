"""What a thread's conversation is at this moment: its row, its messages, the question it waits for.

Stored messages come from the checkpointer; the ones being written come from the run's transcript. Which of the two has
a message changes hands when a run starts and ends: ``moved()`` says so, and ``history`` reads again where that
happened while it read.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage

from threadwire.errors import NoSuchMessage
from threadwire.graph import MESSAGES, Graph
from threadwire.history import message_ids, page, to_wire, to_wires
from threadwire.run import Run
from threadwire.storage import Storage


class Conversation:
    """One thread's messages and state. Reads nothing before it is asked."""

    def __init__(self, thread_id: str, graph: Graph, storage: Storage, max_page: int, *, minted: bool) -> None:
        self.thread_id = thread_id
        #: Whether the thread has a row: its first accepted command makes one.
        self.exists = False
        #: Pending interrupts as stored: the wire's fields, and the ``run_id`` of the run that asked.
        self.waiting: list[dict[str, Any]] = []
        #: Whether the state has no such question any more: the graph is another one now, or a crash came in between.
        self.stale = False
        #: The run in hand once it has told its start, else None.
        self.run: Run | None = None
        self._graph = graph
        self._storage = storage
        self._max_page = max_page
        self._loaded = minted
        self._known: set[str] | None = set() if minted else None
        self._version = 0

    async def load(self) -> None:
        """Read the thread's row, once."""
        if self._loaded:
            return
        row = await self._storage.get_thread(self.thread_id)
        asked = await self._asked() if row is not None and row.interrupts else set()
        interrupts = row.interrupts if row is not None else []
        waiting = [found for found in interrupts if found["id"] in asked]
        if not self._loaded:
            self._loaded = True
            self.exists = self.exists or row is not None
            self.stale = bool(interrupts) and not waiting
            self.waiting = waiting or interrupts
            if row is None:
                self._known = set()

    async def _asked(self) -> set[str]:
        """What the state still asks."""
        graph = self._graph.for_state(self._storage.reader)
        snapshot = await graph.aget_state({"configurable": {"thread_id": self.thread_id}})
        return {interrupt.id for interrupt in snapshot.interrupts}

    def moved(self, run: Run | None) -> None:
        """``run`` writes messages from now on; None: all there are are stored."""
        self.run = run
        self._version += 1

    async def known(self) -> set[str]:
        """Ids of the messages readers can know of; a run adds what it tells. Read once while the thread lives."""
        if self._known is None:
            self._known = set(message_ids(await self.stored()))
        return self._known

    async def has(self, identity: str) -> bool:
        """Whether a message has that id, stored or being written."""
        if identity in await self.known():
            return True
        return self.run is not None and any(said.message_id == identity for said in self.run.transcript.said())

    def interrupts(self) -> list[dict[str, Any]]:
        """Pending interrupts as the wire has them."""
        return [{key: value for key, value in found.items() if key != "run_id"} for found in self.waiting]

    async def history(self, before: str | None, limit: int | None) -> tuple[list[dict[str, Any]], str | None]:
        """A page of messages, oldest first, and the cursor of the page before. True for the moment it returns.

        Raises:
            NoSuchMessage: ``before`` is the id of no message.
        """
        while True:
            version = self._version
            messages = await self.messages()
            if version == self._version:
                break
        found = page(messages, before, min(limit or self._max_page, self._max_page))
        if found is None:
            raise NoSuchMessage(f"The thread has no message {str(before)[:64]!r}.")
        return found

    async def messages(self) -> list[dict[str, Any]]:
        """All messages as the wire has them, those being written last; no await once a run is past its first step."""
        run = self.run
        stored = run.transcript.state if run is not None else None
        if stored is None:
            stored = await self.stored()
        wires = to_wires(stored)
        if run is not None:
            ids = {wire["id"] for wire in wires}
            if run.user is not None and run.user.id not in ids:
                wires.append(to_wire(run.user, str(run.user.id)))
            wires.extend(wire for wire in run.transcript.overlay() if wire["id"] not in ids)
        return wires

    async def stored(self, checkpoint_id: str | None = None) -> list[BaseMessage]:
        """The messages of the newest checkpoint, or of another; none where that is not there."""
        if not self.exists:
            return []
        graph = self._graph.for_state(self._storage.reader)
        where = {"thread_id": self.thread_id, **({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}
        snapshot = await graph.aget_state({"configurable": where})
        return list(snapshot.values.get(MESSAGES) or [])
