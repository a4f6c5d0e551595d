"""A client that does at random what clients do, and holds the server to ``model.py``."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import suppress
from random import Random
from typing import Any

import aiohttp

from torture.model import Command, Thread, View

ENDLESS = "/tokens 100000\n/tokens-per-second 200"
CONTENTS = (
    *2 * ["/tokens 5"],
    "hello",
    *2 * ["/tokens 40\n/tokens-per-second 100"],
    *2 * ["/tokens 300\n/tokens-per-second 500"],
    '/tool add {"a": 1, "b": 2}\n/tokens 4',
    '/tool slow {"n": 60}\n/tool add {"a": 2, "b": 2}\n/tokens 20\n/tokens-per-second 100',
    *2 * ['/tool confirm {"what": "it"}\n/tokens 10'],
    '/tool confirm {"what": "this"}\n/tool confirm {"what": "that"}\n/tool slow {"n": 20}\n/tokens 3',
    "/tool fail {}",
    ENDLESS,
)
STARTING = ("send", "respond", "edit", "regenerate")


class Client:
    """One client of one thread, over all its connections."""

    def __init__(self, thread: Thread, random: Random, session: aiohttp.ClientSession) -> None:
        self.thread = thread
        self.view = View()
        self.last = 0
        self.ready: dict[str, Any] = {}
        #: What it said and heard no answer to, by the command's id.
        self.outstanding: dict[str, Command] = {}
        self.life = 0
        self._random = random
        self._session = session
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        # Frames after a gap, until the history comes; None where there is none.
        self._waiting: list[dict[str, Any]] | None = None
        self._floor = 0
        self._count = 0

    async def connect(self, url: str, life: int) -> bool:
        """Attach, and resume where it was; False where nobody is there."""
        self.life = life
        query = {"thread_id": self.thread.thread_id, "on_disconnect": self._random.choice(("cancel", "continue"))}
        resuming = bool(self.ready) and not self.ready["created"]
        if resuming:
            query |= {"after": str(self.last), "epoch": str(self.thread.epoch)}
        else:
            query |= {"history": "1000"}
        try:
            self._ws = await self._session.ws_connect(f"{url}/ws", params=query, max_msg_size=0)
            self.ready = await self._receive()
        except (aiohttp.ClientError, ConnectionError, _Gone):
            return False
        ready = self.ready
        assert ready["type"] == "ready"
        self.thread.saw_ready(ready)
        self._waiting, self._floor = None, 0
        if resuming:
            assert ready["resume"] in ("replayed", "gap"), ready
            self._check_resume(ready)
        else:
            self.view = View(whole=False)
            self.last = 0
            with suppress(_Gone):
                history = await self._receive()
                assert history["type"] == "history", history
                self._reload(history)
        return True

    def _check_resume(self, ready: dict[str, Any]) -> None:
        if ready["resume"] == "replayed":
            assert ready["seq"] >= self.last, f"replayed, but {ready['seq']} is before {self.last}"
        else:
            self._waiting = []
            self._say({"type": "history", "id": "reload", "limit": 1000})

    async def read(self) -> None:
        """Take frames until the connection ends."""
        with suppress(_Gone):
            while True:
                self._take(await self._receive())

    async def _receive(self) -> dict[str, Any]:
        assert self._ws is not None
        message = await self._ws.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise _Gone
        raw = message.data.encode()
        frame: dict[str, Any] = json.loads(raw)
        if "seq" in frame and frame["type"] not in ("ready", "history", "pong"):
            if self._waiting is None:
                assert frame["seq"] > self.last, f"{frame['seq']} after {self.last}"
            self.thread.saw(raw, frame, self.life)
        return frame

    def _take(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind in ("ack", "error"):
            command = self.outstanding.pop(frame["id"], None)
            assert command is not None, f"an answer to nothing: {frame}"
            self.thread.answered(command, frame)
        elif kind == "history":
            if frame["id"] == "reload":
                waiting, self._waiting = self._waiting or [], None
                self._reload(frame)
                for late in waiting:
                    self._apply(late)
        elif kind == "gap":
            if self._waiting is None:
                self._waiting = []
                self._say({"type": "history", "id": "reload", "limit": 1000})
        elif "seq" in frame and kind != "pong":
            self._apply(frame)

    def _apply(self, frame: dict[str, Any]) -> None:
        if self._waiting is not None:
            self._waiting.append(frame)
        elif frame["seq"] > self._floor:
            self.view.apply(frame)
            self.last = frame["seq"]

    def _reload(self, history: dict[str, Any]) -> None:
        self.view.reload(history["messages"], self.ready["interrupts"])
        self.last = self._floor = history["seq"]

    # --- what it does ---

    def _say(self, fields: dict[str, Any]) -> None:
        assert self._ws is not None
        if not self._ws.closed:
            task = asyncio.ensure_future(self._ws.send_str(json.dumps(fields)))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def command(self, kind: str, *, may_fail: bool = False, **fields: Any) -> Command:
        """Say something new."""
        self._count += 1
        command = Command(uuid.UUID(int=self._random.getrandbits(128), version=4).hex, kind, fields, may_fail=may_fail)
        if kind in STARTING:
            fields["run_id"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
            self.thread.commands[command.run_id] = command
        self.outstanding[command.id] = command
        self._say(command.wire())
        return command

    def resend(self) -> None:
        """Say again what was not answered, and something that was; a cancel of whatever runs then is given up."""
        self.outstanding = {i: c for i, c in self.outstanding.items() if c.type in STARTING}
        acked = [c for c in self.thread.commands.values() if c.ack is not None]
        for command in self._random.sample(acked, min(2, len(acked))):
            self.outstanding[command.id] = command
        for command in self.outstanding.values():
            command.repeated = command.run_id in self.thread.seen_runs
            self._say(command.wire())

    def act(self) -> None:
        """Do something."""
        random, view = self._random, self.view
        choice = random.random()
        users = [i for i, m in view.messages.items() if m["role"] == "user"]
        answers = [i for i, m in view.messages.items() if m["role"] == "assistant"]
        if choice < 0.15:
            runs = [c.run_id for c in self.thread.commands.values()]
            which: dict[str, Any] = {"run_id": random.choice(runs)} if runs and random.random() < 0.6 else {}
            self.command("cancel", **which)
        elif choice < 0.3 and view.interrupts:
            some = random.sample(view.interrupts, random.randint(1, len(view.interrupts)))
            self.command("respond", responses={found["id"]: "yes" for found in some})
        elif choice < 0.38 and users:
            self.command("edit", message_id=random.choice(users), **self._content())
        elif choice < 0.44 and answers:
            again: dict[str, Any] = {"message_id": random.choice(answers)} if random.random() < 0.5 else {}
            self.command("regenerate", may_fail=True, **again)
        elif choice < 0.5:
            self._say({"type": "history", "id": "look", "limit": 5})
        else:
            strategy = random.choice(("enqueue", "enqueue", "interrupt", "rollback", "reject"))
            identity = str(uuid.UUID(int=random.getrandbits(128), version=4))
            self.command("send", message_id=identity, multitask_strategy=strategy, **self._content())

    def _content(self) -> dict[str, Any]:
        content = self._random.choice(CONTENTS)
        return {"content": content, "may_fail": "/tool fail" in content}

    async def drop(self) -> None:
        """Go without a word, or with one."""
        if self._ws is not None:
            connection = self._ws._response.connection
            if self._random.random() < 0.7 and connection is not None and connection.transport is not None:
                connection.transport.abort()
            await self._ws.close()


class _Gone(Exception):  # noqa: N818 -- it says what happened
    """The connection has ended."""
