"""A turn that is under way, as its session sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from threadwire.load.reader import Reader, View


class Turn:
    """One run, with a view of it for each of the session's tabs; the first is the one that counts.

    Attributes:
        answer: Done with the frame that answers its command.
    """

    def __init__(self, run_id: str, sent: float) -> None:
        self.run_id = run_id
        self.sent = sent
        self.answer: asyncio.Future[dict[str, Any]]
        self.acknowledged = False
        self.views: list[View] = []
        self._ends: list[asyncio.Future[None]] = []

    def show(self, reader: Reader) -> None:
        """Let one more reader follow it."""
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        self.views.append(View(self.run_id, self.sent, _setter(end)))
        reader.follow(self.views[-1])

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when the first tab has seen the end."""
        return self._ends[0]

    def ended_at(self, tab: int) -> asyncio.Future[None]:
        """Done when that tab has seen the end."""
        return self._ends[tab]

    def reached(self, frames: int) -> asyncio.Future[None]:
        """Done when the first tab has seen that many token frames, or the end."""
        found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reach = _setter(found)
        view = self.views[0]
        if view.frames >= frames or view.status is not None:
            reach()
        view.alarm, view.on_alarm = frames, reach
        self.ended.add_done_callback(lambda _: reach())
        return found


def _setter(future: asyncio.Future[None]) -> Callable[[], None]:
    def done() -> None:
        if not future.done():
            future.set_result(None)

    return done
