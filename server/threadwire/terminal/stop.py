"""Ctrl-C while an answer comes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from threadwire.client import Chat, ClientError
from threadwire.terminal.signals import Signals

EXIT_INTERRUPTED = 128 + signal.SIGINT


class Stop:
    """The first time it cancels the run; its end then comes like any other. The second time it leaves the program.

    Attributes:
        asked: Whether there was a first time.
    """

    def __init__(self, chat: Chat, signals: Signals, run_id: Callable[[], str | None]) -> None:
        self.asked = False
        self._chat = chat
        self._signals = signals
        self._run_id = run_id
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        """Ctrl-C was pressed."""
        run_id = self._run_id()
        if self.asked or run_id is None:
            self._signals.leave(EXIT_INTERRUPTED)
            return
        self.asked = True
        self._task = asyncio.create_task(self._cancel(run_id))

    @property
    def status(self) -> str | None:
        """What there is to say of it."""
        return "stopping (Ctrl-C once more leaves)" if self.asked else None

    async def _cancel(self, run_id: str) -> None:
        try:
            await self._chat.cancel(run_id)
        except ClientError:
            # It has ended already, or the connection has: whoever follows the run hears of either.
            return
