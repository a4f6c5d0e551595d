"""What Ctrl-C and the other signals do, which changes as the program goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial


class Signals:
    """Takes over the process's signals, for the task that makes it.

    Attributes:
        exit_code: What the program ends with, once it was told to leave.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._on_interrupt: Callable[[], None] | None = None
        self._taken: list[int] = []
        self._take(signal.SIGINT, self._interrupted)
        # SIGHUP: the terminal's window was closed.
        for name in ("SIGTERM", "SIGHUP"):
            if number := getattr(signal, name, None):
                self._take(number, partial(self.leave, 128 + number))

    def close(self) -> None:
        """Give the signals back."""
        for number in self._taken:
            self._loop.remove_signal_handler(number)

    def leave(self, exit_code: int) -> None:
        """End the program: cancels its task, so that all that is open is closed."""
        self.exit_code = exit_code
        if self._task is not None:
            self._task.cancel()

    @contextmanager
    def interrupting(self, action: Callable[[], None]) -> Iterator[None]:
        """Have Ctrl-C do ``action`` inside; outside it leaves."""
        self._on_interrupt, before = action, self._on_interrupt
        try:
            yield
        finally:
            self._on_interrupt = before

    def _interrupted(self) -> None:
        if self._on_interrupt is not None:
            self._on_interrupt()
        else:
            self.leave(128 + signal.SIGINT)

    def _take(self, number: int, action: Callable[[], None]) -> None:
        # Windows' loops take none: there Ctrl-C ends the program, as asyncio.run has it.
        with suppress(NotImplementedError):
            self._loop.add_signal_handler(number, action)
            self._taken.append(number)
