"""The turns of one thread: the one in hand, and those that wait for it.

Turns run one after another, in the order of the queue. A thread that waits for a person holds its queue, but for the
answer, and for a turn that takes the question's place. Knows no readers and no commands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from threadwire.conversation import Conversation
from threadwire.line import Line, Place
from threadwire.question import Question
from threadwire.turn import Turn

#: How long a database that did not take a run's end is left alone.
_RETRY_SECONDS = 1.0


class Turns:
    """See the module. ``ended`` is called after each turn, ``waits`` where the next has to wait for other threads'."""

    def __init__(
        self,
        conversation: Conversation,
        question: Question,
        line: Line,
        *,
        ended: Callable[[], None],
        waits: Callable[[Turn], None],
    ) -> None:
        #: The one in hand.
        self.current: Turn | None = None
        #: The ones that wait.
        self.queue: deque[Turn] = deque()
        #: Those that have ended, and whose end is still to be written.
        self.owing: deque[Turn] = deque()
        #: Start nothing more.
        self.draining = False
        self._conversation = conversation
        self._question = question
        self._ended = ended
        self._waits = waits
        self._line = line
        # The thread's place among those whose next turn may run, until it is taken.
        self._place: Place | None = None
        self._taking: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Turn]:
        """All of them, the one in hand first."""
        if self.current is not None:
            yield self.current
        yield from tuple(self.queue)

    def add(self, turn: Turn, *, first: bool = False) -> bool:
        """Let one more wait; False where it has to. One that supersedes the others stops them."""
        if first:
            self.queue.appendleft(turn)
        else:
            self.queue.append(turn)
        self.supersede()
        self.pump()
        return self.current is turn

    def supersede(self) -> None:
        """Stop what stands before a turn that takes its place."""
        turns = tuple(self)
        for place, turn in enumerate(turns):
            if turn.supersedes and turn is not self.current:
                for other in turns[:place]:
                    if other is self.current and turn.row.strategy == "rollback":
                        other.roll_back()
                    else:
                        other.cancel("superseded")

    def pump(self) -> bool:
        """Take the next turn, if there is none in hand and it may be taken."""
        if self._taking is not None:
            return False
        head = self.queue[0] if self.queue and not self._held(self.queue[0]) else None
        if head is not None and (head.stopped is not None or self._may_run(head)):
            turn = self.current = self.queue.popleft()
            place = None
            if turn.stopped is None:
                place, self._place = self._place, None
            # Begun here and not in the task: a cancel may come before the task has started.
            turn.begin()
            self._taking = asyncio.create_task(self._take(turn, place), name=f"turn {turn.run_id}")
            return True
        if head is None:
            self._give_up_place()
        if self.owing and self._retry is None:
            self._taking = asyncio.create_task(self._take(None, None), name="debts")
        return False

    def _may_run(self, turn: Turn) -> bool:
        """Whether it is this thread's time, among all that have something to run; else it gets in line."""
        if self._place is None:
            self._place = self._line.join(turn.row.owner, self._pump_soon)
        return self._place.granted

    def _pump_soon(self) -> None:
        # It is called from within some other thread's end.
        asyncio.get_running_loop().call_soon(self.pump)

    def _give_up_place(self) -> None:
        if self._place is not None:
            self._line.leave(self._place)
            self._place = None

    @property
    def in_line(self) -> bool:
        """Whether the next turn waits for those of other threads."""
        return self._place is not None

    def position(self, turn: Turn) -> int:
        """The place of a turn that waits: behind this thread's own turns; the first of them, behind other threads'."""
        if self._place is not None and self.queue[0] is turn:
            return self._line.position(self._place)
        before = tuple(self.queue)[: self.queue.index(turn) + 1]
        return sum(waiting.stopped is None for waiting in before)

    def _held(self, turn: Turn) -> bool:
        if turn.stopped == "deleted":
            return False
        if self._conversation.waiting and turn.row.trigger == "send" and not self._superseding:
            # Also one that will not run: its message would end the question.
            return True
        return self.draining and turn.stopped is None

    @property
    def _superseding(self) -> Turn | None:
        return next((turn for turn in self if turn.supersedes and turn.stopped is None), None)

    async def _take(self, turn: Turn | None, place: Place | None) -> None:
        """Take one turn, which leaves ``place`` in the end; None: only what is owed."""
        try:
            await self._pay()
            if turn is not None:
                await self._give_up_question(turn)
                await turn.take()
        finally:
            self.current = self._taking = None
            self._conversation.moved(None)
            if place is not None:
                self._line.leave(place)
        if turn is not None:
            self._ended()
            if turn.owed is not None:
                self.owing.append(turn)
                self._retry_later()
        if not self.pump() and self._place is not None and not self._place.granted:
            self._waits(self.queue[0])

    async def _give_up_question(self, turn: Turn) -> None:
        if self._conversation.waiting:
            superseding = self._superseding
            if superseding is not None or turn.row.trigger in ("edit", "regenerate"):
                rolls_back = superseding is not None and superseding.row.strategy == "rollback"
                await self._question.give_up(removing=rolls_back)

    async def _pay(self) -> None:
        """Write the ends that the database did not take, in their order, as far as it takes them now."""
        while self.owing:
            await self.owing[0].take()
            if self.owing[0].owed is not None:
                self._retry_later()
                return
            self.owing.popleft()

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.pump()

    async def stop(self, reason: str) -> None:
        """Stop all of them, and return when that is told."""
        for turn in self:
            turn.cancel(reason)
        self.pump()
        await self.settled()

    def forget(self) -> None:
        """Its thread is deleted: nothing more is to be written."""
        self.queue.clear()
        self.owing.clear()
        self._give_up_place()
        if self._retry is not None:
            self._retry.cancel()

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self._taking is not None

    async def settled(self) -> None:
        """Wait until none is in hand."""
        while self._taking is not None:
            await asyncio.wait({self._taking})
