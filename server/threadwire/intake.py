"""From a command to an accepted turn: checked, committed, and the same answer for the same command said again."""

from __future__ import annotations

import time
from typing import Any

import uuid_utils

from threadwire.errors import InvalidArgument
from threadwire.graph import Graph
from threadwire.protocol import Respond, Send
from threadwire.storage import OnDisconnect, RunRow, Storage


class Intake:
    """What one thread takes in."""

    def __init__(self, thread_id: str, graph: Graph, storage: Storage) -> None:
        self._thread_id = thread_id
        self._graph = graph
        self._storage = storage

    def row(self, command: Send | Respond, on_disconnect: OnDisconnect) -> RunRow:
        """The turn a command asks for. Raises ``InvalidArgument`` where it cannot be."""
        request: dict[str, Any]
        message_id = None
        if isinstance(command, Send):
            self._check(command)
            request = {"content": command.content}
            if command.context is not None:
                request["context"] = command.context
            message_id = command.message_id or str(uuid_utils.uuid4())
        else:
            request = {"responses": command.responses}
        return RunRow(
            run_id=command.run_id.lower() if command.run_id is not None else str(uuid_utils.uuid7()),
            thread_id=self._thread_id,
            trigger=command.type,
            message_id=message_id,
            request=request,
            on_disconnect=on_disconnect,
            created_at=time.time(),
        )

    def _check(self, send: Send) -> None:
        if send.multitask_strategy not in (None, "enqueue"):
            field = "multitask_strategy"
            raise InvalidArgument(field, f"{send.multitask_strategy!r} is not available yet: use 'enqueue'")
        if send.stream not in (None, "events"):
            raise InvalidArgument("stream", f"{send.stream!r} is not available yet: use 'events'")
        if send.checkpoint_id is not None:
            raise InvalidArgument("checkpoint_id", "going on from a checkpoint is not available yet")
        self._graph.check_context(send.context)

    async def accept(self, row: RunRow, command: Send | Respond) -> dict[str, Any] | None:
        """Commit a turn; None, or the answer that the same command got the first time.

        Raises:
            InvalidArgument: its ids were used for something else.
        """
        try:
            await self._storage.accept_run(row)
        except InvalidArgument:
            if (repeat := await self.repeat(row, command)) is not None:
                return repeat
            raise
        return None

    async def repeat(self, row: RunRow, command: Send | Respond) -> dict[str, Any] | None:
        """The first answer to a command the thread has seen, else None.

        Raises:
            InvalidArgument: it has seen the ``run_id``, but with another command.
        """
        first = await self._storage.get_run(self._thread_id, row.run_id)
        if first is None:
            return None
        said = command.message_id if isinstance(command, Send) else None
        if said is not None and first.message_id != said:
            raise InvalidArgument("message_id", "this run_id came with another message_id before")
        if first.trigger != row.trigger or first.request.get("content") != row.request.get("content"):
            field = "message_id" if said is not None else "run_id"
            raise InvalidArgument(field, "already used on this thread for another command")
        return {**answer_of(first), "duplicate": True}


def answer_of(row: RunRow) -> dict[str, Any]:
    """The fields of the ``ack`` that a turn's command gets."""
    return {"run_id": row.run_id, **({"message_id": row.message_id} if row.message_id else {})}
