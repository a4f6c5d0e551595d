"""From a command to an accepted turn: checked, committed, and the same answer for the same command said again."""

from __future__ import annotations

import time
from typing import Any, TypeAlias

import uuid_utils

from threadwire.conversation import Conversation
from threadwire.errors import InvalidArgument, NoSuchCheckpoint, NoSuchInterrupt
from threadwire.graph import Graph
from threadwire.journal import Record
from threadwire.protocol import Edit, MultitaskStrategy, Regenerate, Respond, Send
from threadwire.rewind import Rewind
from threadwire.storage import OnDisconnect, RunRow, Storage

#: The commands that start a turn.
Starting: TypeAlias = Send | Respond | Edit | Regenerate
#: What a repeat has in common with the first, besides its ids.
_SAME = ("content", "message_id", "asked")


class Intake:
    """What one thread takes in."""

    def __init__(
        self,
        conversation: Conversation,
        rewind: Rewind,
        record: Record,
        *,
        graph: Graph,
        storage: Storage,
        strategy: MultitaskStrategy,
    ) -> None:
        self._conversation = conversation
        self._rewind = rewind
        self._record = record
        self._graph = graph
        self._storage = storage
        self._strategy = strategy

    def row(self, command: Starting, on_disconnect: OnDisconnect, user: dict[str, Any] | None) -> RunRow:
        """The turn that ``user`` asks for, as far as the command itself says. Raises ``InvalidArgument``."""
        message_id = turn = None
        if isinstance(command, Send):
            request = self._send(command, user)
            message_id = turn = command.message_id or str(uuid_utils.uuid4())
        elif isinstance(command, Edit):
            request = {"content": command.content, "message_id": command.message_id}
            message_id = turn = str(uuid_utils.uuid4())
        elif isinstance(command, Regenerate):
            request = {"asked": command.message_id}
        else:
            request = {"responses": command.responses}
        if user is not None:
            # The next server, which may have to start it, does not know who asked.
            request["user"] = user
        return RunRow(
            run_id=command.run_id.lower() if command.run_id is not None else str(uuid_utils.uuid7()),
            thread_id=self._conversation.thread_id,
            trigger=command.type,
            message_id=message_id,
            request=request,
            on_disconnect=on_disconnect,
            created_at=time.time(),
            turn=turn,
        )

    def _send(self, send: Send, user: dict[str, Any] | None) -> dict[str, Any]:
        self._graph.check_context(send.context, user)
        request: dict[str, Any] = {
            "content": send.content,
            "multitask_strategy": send.multitask_strategy or self._strategy,
        }
        if send.stream is not None:
            request["stream"] = send.stream
        if send.context is not None:
            request["context"] = send.context
        if send.checkpoint_id is not None:
            request["checkpoint_id"] = send.checkpoint_id
        return request

    async def complete(self, row: RunRow, command: Starting) -> None:
        """Say in the row what the thread's state tells of the turn.

        Raises:
            InvalidArgument: its ``message_id`` is taken, or names a message of another role; or what it answers is no
                answer to the question.
            NoSuchMessage, NoSuchInterrupt, NoSuchCheckpoint: the thread has not what it names.
        """
        conversation = self._conversation
        if isinstance(command, Send):
            if command.message_id is not None and await conversation.has(command.message_id):
                raise InvalidArgument("message_id", "already used in this thread")
            if command.checkpoint_id is not None and not await self._rewind.has_checkpoint(command.checkpoint_id):
                raise NoSuchCheckpoint(f"The thread has no checkpoint {command.checkpoint_id!r}.")
        elif isinstance(command, Edit):
            await self._rewind.edited(command.message_id)
            row.request["from"] = await self._rewind.way(command.message_id)
        elif isinstance(command, Regenerate):
            row.turn = await self._rewind.answered(command.message_id)
            row.request["from"] = await self._rewind.way(row.turn)
        else:
            unknown = sorted(set(command.responses) - {interrupt["id"] for interrupt in conversation.waiting})
            if unknown:
                raise NoSuchInterrupt(f"The thread does not wait for an answer to {unknown[0][:64]!r}.")
            for question in conversation.waiting:
                if (identity := question["id"]) in command.responses:
                    answer = command.responses[identity]
                    self._graph.check_answer(f"responses.{identity}", question["value"], answer)
            row.turn = await self._rewind.asking()

    async def accept(self, row: RunRow, command: Starting) -> dict[str, Any] | None:
        """Commit a turn; None, or the answer that the same command got the first time.

        Raises:
            InvalidArgument: its ids were used for something else.
        """
        try:
            await self._storage.accept_run(row, self._record.row)
        except InvalidArgument:
            if (repeat := await self.repeat(row, command)) is not None:
                return repeat
            raise
        self._record.started()
        return None

    async def repeat(self, row: RunRow, command: Starting) -> dict[str, Any] | None:
        """The first answer to a command the thread has seen, else None.

        Raises:
            InvalidArgument: it has seen the ``run_id``, but with another command.
        """
        first = await self._storage.get_run(row.thread_id, row.run_id)
        if first is None:
            return None
        said = command.message_id if isinstance(command, Send) else None
        if said is not None and first.message_id != said:
            raise InvalidArgument("message_id", "this run_id came with another message_id before")
        if first.trigger != row.trigger or any(first.request.get(key) != row.request.get(key) for key in _SAME):
            field = "message_id" if said is not None else "run_id"
            raise InvalidArgument(field, "already used on this thread for another command")
        return {**answer_of(first), "duplicate": True}


def answer_of(row: RunRow) -> dict[str, Any]:
    """The fields of the ``ack`` that a turn's command gets."""
    answer: dict[str, Any] = {"run_id": row.run_id}
    if row.message_id is not None:
        answer["message_id"] = row.message_id
    if "from" in row.request:
        answer["from"] = row.request["from"]
    return answer
