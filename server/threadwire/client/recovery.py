"""After a lost connection or a gap: fill it, and end the turns whose end will not come (see ``turns``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from threadwire.client.errors import CommandFailed, Disconnected, TurnLost
from threadwire.client.position import Position
from threadwire.client.turns import Turns
from threadwire.protocol import Frame, HistoryFrame, PongFrame

#: Between two questions whether the server's writer has caught up with its log.
PASSED_SECONDS = 0.05


class Asker(Protocol):
    """What a recovery needs of its chat."""

    async def history(self) -> HistoryFrame:
        """The thread's last messages."""

    async def ping(self) -> PongFrame:
        """How far the connection is."""


class Recovery:
    """At most one recovery at a time, in a task of its own; a new one replaces the former."""

    def __init__(
        self,
        chat: Asker,
        position: Position,
        turns: Turns,
        pass_on: Callable[[Frame], None],
        reattach: Callable[[], Awaitable[None]],
    ) -> None:
        self._chat = chat
        self._position = position
        self._turns = turns
        self._pass_on = pass_on
        self._reattach = reattach
        self._task: asyncio.Task[None] | None = None

    def start(self, upto: int) -> None:
        """Recover; ``upto`` is where the log ended when what was lost became known."""
        self.stop()
        self._task = asyncio.create_task(self._run(upto), name="threadwire-client-recovery")

    def stop(self) -> None:
        """Give up: the connection is gone; the next one begins anew."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, upto: int) -> None:
        try:
            history = None
            if self._position.gap is not None:
                history = await self._fill_gap()
                upto = max(upto, history.seq if history else 0)
            if self._turns.doubted:
                await self._pass(upto)
            if lost := self._turns.lost():
                history = history or await self._last_history()
                for turn in lost:
                    turn.fail(TurnLost(turn.run_id, turn.message_id, history))
            # The answers to repeated commands may bring new doubts.
            await asyncio.gather(*(turn.ack() for turn in self._turns.open()), return_exceptions=True)
            if self._turns.doubted:
                await self._pass(upto)
            if self._turns.doubted:
                # Only a new `ready` can tell.
                await self._reattach()
        except Disconnected:
            # Everybody has been told already.
            return

    async def _fill_gap(self) -> HistoryFrame | None:
        history = await self._last_history()
        if history is not None:
            await self._pass(history.seq)
        covered, news = self._position.fill_gap(history.seq if history else 0)
        for frame in covered:
            self._turns.track(frame)
        if history is not None:
            self._turns.reload(history)
        for frame in news:
            self._pass_on(frame)
        return history

    async def _last_history(self) -> HistoryFrame | None:
        try:
            return await self._chat.history()
        except CommandFailed:
            return None

    async def _pass(self, upto: int) -> None:
        """Wait until the frames up to ``upto`` have come, or were hidden by a filter."""
        while (await self._chat.ping()).seq < upto:  # noqa: ASYNC110 -- it waits for the server
            await asyncio.sleep(PASSED_SECONDS)
