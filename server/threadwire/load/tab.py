"""One tab of a session: a reader, and the connection it has just now."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass
from typing import Any

from threadwire.client.backoff import ABNORMAL, delay, may_reconnect
from threadwire.load.connection import OPEN_SECONDS, Connection, Opener, Refused
from threadwire.load.options import Options
from threadwire.load.reader import Reader
from threadwire.load.recorder import Recorder

#: Attempts to connect, at first and after a loss.
MAX_ATTEMPTS = 8
#: A slow reader sleeps that long, then reads that long, and so on.
SLOW_SLEEP_SECONDS = 2.0
SLOW_READ_SECONDS = 0.1


class Over(Exception):  # noqa: N818 -- how a session's coroutine is left
    """The session cannot go on; why has been counted."""


@dataclass(frozen=True, slots=True)
class World:
    """What all sessions of a process share."""

    options: Options
    recorder: Recorder
    opener: Opener
    #: Set when it is time to go: who waits for nothing else waits for this.
    over: asyncio.Event


class Tab:
    """It comes back after every loss, as a client does, and sends again what was not answered."""

    def __init__(self, world: World, number: int, name: str, *, timed: bool) -> None:
        self.reader = Reader(name, world.recorder, self._on_answer, timed=timed)
        self._world = world
        self._number = number
        self._timed = timed
        self._connection: Connection | None = None
        self._ready: asyncio.Future[None] | None = None
        self._asked: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}

    async def open(self, due: float) -> None:
        """Connect for the first time; it was due at ``due``."""
        await self._connect("connect", due)

    def close(self) -> None:
        """Leave for good."""
        if self._connection is not None:
            self._connection.close()

    def cut(self) -> None:
        """Vanish."""
        self._attached.cut()
        self.reader.left(at_once=True)

    async def read_slowly(self) -> None:
        """Mostly sleep, and read a little in between, until cancelled; then read on."""
        try:
            while True:
                self._attached.pause()
                await asyncio.sleep(SLOW_SLEEP_SECONDS)
                self._attached.resume()
                await asyncio.sleep(SLOW_READ_SECONDS)
        finally:
            self._attached.resume()

    def ask(self, command: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Send a command; the future is its answer, waited for by ``until``."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[command["id"]] = command, answer
        self._attached.send(command)
        return answer

    async def page(self, before: str | None) -> dict[str, Any] | None:
        """A page of the thread's messages; None where the server refuses, which is counted."""
        place = {} if before is None else {"before": before}
        answer = self.ask({"type": "history", "id": f"h-{uuid.uuid4()}", "limit": 100, **place})
        await self.until(answer)
        frame = answer.result()
        if frame["type"] == "error":
            self._world.recorder.error(frame["code"])
            return None
        return frame

    async def until(self, done: asyncio.Future[Any]) -> None:
        """Wait for something to come over this connection, or over the next ones; raises ``Over``."""
        while not done.done():
            lost = self._attached.lost
            await asyncio.wait([done, lost], return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and not done.done():
                await self.come_back()

    async def come_back(self) -> None:
        """Connect again where this reader left off; raises ``Over`` where that is no use."""
        began, connection = time.monotonic(), self._attached
        if self.reader.away is None:
            # Not our doing.
            code = connection.close_code
            self._world.recorder.error("connection_lost" if code == ABNORMAL else f"closed_{code}")
            self.reader.left(at_once=False)
            await self._wait_before_the_next(code, 0, None)
        await self._connect("reconnect", began)
        for command, _ in list(self._asked.values()):
            self._attached.send(command)

    @property
    def _attached(self) -> Connection:
        assert self._connection is not None  # noqa: S101 -- a tab is used once it is open
        return self._connection

    async def _connect(self, what: str, began: float) -> None:
        recorder, failures = self._world.recorder, 0
        while True:
            code, status = ABNORMAL, None
            self._ready = asyncio.get_running_loop().create_future()
            try:
                self._connection = await self._world.opener.open(self.reader, self._number, self.reader.query)
                either = [self._ready, self._connection.lost]
                await asyncio.wait(either, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if self._ready.done():
                    break
                code = self._connection.close_code
                recorder.error(f"closed_{code}" if self._connection.lost.done() else "ready_timeout")
                self._connection.cut()
            except Refused as refused:
                recorder.error(refused.code)
                status = refused.status
            failures += 1
            if what == "reconnect":
                # The server was away, or full: it may have lost what we missed.
                self.reader.left(at_once=False)
            await self._wait_before_the_next(code, failures, status)
        if self._timed:
            recorder.latency(what, time.monotonic() - began)

    async def _wait_before_the_next(self, code: int, failures: int, status: int | None) -> None:
        if not may_reconnect(code, status) or failures >= MAX_ATTEMPTS or self._world.over.is_set():
            raise Over
        announced, self.reader.goaway = self.reader.goaway, None
        chance = random.random()  # noqa: S311 -- jitter
        seconds = delay(failures, chance, code=code, http_status=status, announced=announced)
        try:
            async with asyncio.timeout(seconds):
                await self._world.over.wait()
        except TimeoutError:
            return
        raise Over

    def _on_answer(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "ready":
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
            return
        if frame["type"] == "gap":
            # A page of history comes behind all frames up to its place.
            page = self.ask({"type": "history", "id": f"h-{uuid.uuid4()}", "limit": 1})
            page.add_done_callback(lambda _: self.reader.settle())
            return
        command_and_answer = self._asked.pop(frame.get("id") or "", None)
        if command_and_answer is not None and not command_and_answer[1].done():
            command_and_answer[1].set_result(frame)
