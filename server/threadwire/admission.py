"""Commands that start a turn or stop one: taken in, refused, or answered as they were the first time."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

from threadwire.allowance import Allowance
from threadwire.conversation import Conversation
from threadwire.errors import Busy, NoActiveRun, NoSuchRun, QueueFull, ShuttingDown, ThreadwireError
from threadwire.inbox import Answer
from threadwire.intake import Intake, Starting, answer_of
from threadwire.journal import Record
from threadwire.protocol import Cancel, Edit, Send
from threadwire.question import Question
from threadwire.readers import Readers
from threadwire.run import Outcome
from threadwire.storage import OnDisconnect, RunRow, RunStop, Storage
from threadwire.turn import Turn
from threadwire.turns import Turns


class Admission:
    """One thread's."""

    def __init__(
        self,
        turns: Turns,
        *,
        conversation: Conversation,
        intake: Intake,
        question: Question,
        readers: Readers,
        record: Record,
        storage: Storage,
        make_turn: Callable[[RunRow, Context], Turn],
        max_queued: int,
        allowance: Allowance,
        tell_queued: Callable[[Turn], None],
    ) -> None:
        self._conversation = conversation
        self._intake = intake
        self._turns = turns
        self._question = question
        self._readers = readers
        self._record = record
        self._storage = storage
        self._make_turn = make_turn
        self._max_queued = max_queued
        self._allowance = allowance
        self._tell_queued = tell_queued

    async def start(
        self,
        command: Starting,
        answer: Answer,
        on_disconnect: OnDisconnect,
        user: dict[str, Any] | None,
        context: Context,
    ) -> None:
        """Take in a turn that ``user`` asks for; ``context`` is what it is asked for in.

        It is refused, answered as the first was where it is a repeat, or committed, and waits or runs.
        """
        if isinstance(command, Send | Edit):
            self._allowance.attachments("content", command.content)
        row = self._intake.row(command, on_disconnect, user)
        try:
            self._admit(row)
            await self._allowance.turn(row.owner)
            await self._intake.complete(row, command)
        except ThreadwireError:
            # A repeat is answered as it was, whatever the thread is doing now.
            if (repeat := await self._intake.repeat(row, command)) is None:
                raise
            answer(repeat)
            return
        if (repeat := await self._intake.accept(row, command)) is not None:
            answer(repeat)
            return
        self._conversation.exists = True
        answer(answer_of(row))
        turn = self._make_turn(row, context)
        if self._readers.gone:
            # Whoever sent it has closed meanwhile.
            turn.disconnect()
        if not self._turns.add(turn, first=not isinstance(command, Send)):
            self._tell_queued(turn)

    def _admit(self, row: RunRow) -> None:
        """Raise what the thread's turns have against one more."""
        turns = self._turns
        if self._turns.draining:
            raise ShuttingDown("The server is going to stop.")
        if row.trigger != "send":
            if turns.current is not None or turns.in_line:
                raise Busy("A run is active on this thread.")
        elif row.strategy == "reject" and (turns.current is not None or turns.queue or self._conversation.waiting):
            raise Busy(
                "The thread waits for a person." if self._conversation.waiting else "A run is active on this thread."
            )
        elif row.strategy in ("enqueue", "reject") and len(turns.queue) >= self._max_queued:
            raise QueueFull(f"{len(turns.queue)} turns wait on this thread already.")

    async def cancel(self, cancel: Cancel, answer: Answer) -> None:
        """Stop a run, take one out of the queue, or drop the question; raises what there is against it."""
        wanted = cancel.run_id.lower() if cancel.run_id is not None else None
        current, queue = self._turns.current, self._turns.queue
        if wanted is None and current is None and self._turns.in_line:
            wanted = queue[0].run_id
        if current is not None and wanted in (None, current.run_id):
            current.cancel("client")
            if current.row.status == "queued":
                # Nothing on disk says that it has started: the next server would begin it.
                await self._storage.write([], [RunStop(current.run_id, "client")])
            answer({"run_id": current.run_id})
            return
        for turn in queue:
            if turn.run_id == wanted:
                # Answered when it is durable: no restart starts it after all.
                if turn.left_message:
                    turn.cancel("client")
                    await self._storage.write([], [RunStop(turn.run_id, "client")])
                    self._turns.pump()
                else:
                    queue.remove(turn)
                    self._turns.pump()
                    busy = self._turns.current is not None or self._turns.in_line
                    await turn.finish(Outcome("cancelled", "client"), 0, thread_busy=busy)
                answer({"run_id": turn.run_id})
                return
        waiting = self._conversation.waiting
        if waiting and current is None and wanted in (None, waiting[0]["run_id"]):
            run_id = waiting[0]["run_id"]
            await self._question.drop(lambda: answer({"run_id": run_id}))
            self._turns.pump()
            return
        if wanted is None:
            raise NoActiveRun("No run is active on this thread.")
        if await self._storage.get_run(self._conversation.thread_id, wanted) is None:
            raise NoSuchRun("This thread has never seen that run.")
        raise NoActiveRun("That run has already ended.")
