"""A progress bar of one line, for a terminal; where there is none, a line now and then."""

from __future__ import annotations

import time
from typing import TextIO

#: Seconds between two drawings, on a terminal and elsewhere.
_TERMINAL_SECONDS, _LINE_SECONDS = 0.1, 30.0
_WIDTH = 30


class Progress:
    """How far ``total`` steps are, of which ``done`` were done before, ``errors`` of them in vain.

    ``close()`` leaves the last state standing.
    """

    def __init__(self, out: TextIO, total: int, done: int = 0, errors: int = 0) -> None:
        self._out = out
        self._live = out.isatty()
        self._total = total
        self._before = done
        self._done = done
        self.errors = errors
        self._started_at = self._drawn_at = time.monotonic()
        if self._live:
            self._draw()

    def step(self, *, error: bool = False) -> None:
        """One more is done."""
        self._done += 1
        self.errors += error
        if time.monotonic() - self._drawn_at >= (_TERMINAL_SECONDS if self._live else _LINE_SECONDS):
            self._draw()

    def close(self) -> None:
        """Draw it for the last time."""
        self._draw()
        if self._live:
            self._out.write("\n")
            self._out.flush()

    def line(self) -> str:
        """What is to be read of it."""
        seconds = time.monotonic() - self._started_at
        speed = (self._done - self._before) / seconds if seconds else 0.0
        left = f", {_clock((self._total - self._done) / speed)} left" if speed and self._done < self._total else ""
        errors = f", {self.errors} failed" if self.errors else ""
        return f"{self._done}/{self._total}, {speed:.1f}/s{errors}{left}"

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        if not self._live:
            self._out.write(self.line() + "\n")
        else:
            filled = round(_WIDTH * self._done / self._total) if self._total else _WIDTH
            # To the line's beginning, and away with what a longer one left there.
            self._out.write(f"\r\x1b[K[{'█' * filled}{'·' * (_WIDTH - filled)}] {self.line()}")
        self._out.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
