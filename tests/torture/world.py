"""Rounds of torture: conversations, a killed server, the next one, and a look at what is left."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp

from harness import Provider
from torture.client import Client
from torture.life import Launcher, Life, check_integrity
from torture.model import Thread, check_request

GRAPH = "talking:talking"
#: How long a thread may take to come to rest once nobody says anything more.
REST_SECONDS = 60.0
#: Where a server kills itself, as ``launcher.py`` has it. What is matched often is killed at a later match.
FAILPOINTS = (
    # The journal's commit: before, inside, after.
    ("before commit INSERT INTO (logs|frames)", 20),
    ("before INSERT OR REPLACE INTO frames", 20),
    ("after INSERT OR REPLACE INTO frames", 20),
    ("after commit .*frames", 20),
    # A run's start and end, and between the last checkpoint and the end.
    ("before commit .*UPDATE runs SET status = 'running'", 4),
    ("after commit .*UPDATE runs SET status = 'running'", 4),
    ("before UPDATE runs SET status = \\?", 5),
    ("before commit .*UPDATE runs SET status = \\?", 5),
    ("after commit .*UPDATE runs SET status = \\?", 5),
    # A message is taken in.
    ("before commit .*INSERT INTO runs", 4),
    ("after commit .*INSERT INTO runs", 4),
    # A turn is cancelled before it has started.
    ("after commit .*UPDATE runs SET reason", 1),
    # The graph's and the repair's steps.
    ("before commit .*INTO checkpoints", 12),
    ("after commit .*INTO checkpoints", 12),
    ("after commit .*INTO writes", 12),
    # A turn is taken back.
    ("before DELETE FROM checkpoints", 2),
    ("after DELETE FROM turns", 2),
    ("after commit .*DELETE FROM turns", 2),
)


@dataclass
class Tally:
    """What happened, for whoever reads the figures."""

    rounds: int = 0
    kills: int = 0
    by_themselves: int = 0
    in_recovery: int = 0
    commands: int = 0
    runs: int = 0
    frames: int = 0
    replayed: int = 0
    gaps: int = 0


class World:
    """One file, one provider, and servers that die on it."""

    def __init__(self, launcher: Launcher, provider: Provider, session: aiohttp.ClientSession, seed: int) -> None:
        self.random = Random(seed)
        self.tally = Tally()
        self._launcher = launcher
        self._provider = provider
        self._session = session
        self._lives = 0
        self._threads: list[tuple[Thread, list[Client]]] = []
        self._made = 0
        self._auditors: list[Client] = []

    async def round(self, *, seconds: float = 1.5, threads: int = 2, clients: int = 3, **doom: str) -> None:
        """Talk, die, come back, and check everything."""
        self.tally.rounds += 1
        self._renew(threads, clients)
        # A kill at random is as good as any.
        kill = self._failpoint(1.0) if not doom and self.random.random() < 0.7 else None
        life = await self._start(**({"kill": kill} if kill else doom))
        try:
            talking = asyncio.create_task(self._talk(life))
            try:
                # From when somebody can talk: a loaded machine takes seconds to start it.
                await life.serving()
                await asyncio.wait({life.ended}, timeout=seconds * self.random.uniform(0.2, 1.5))
                self._kill(life)
                await life.ended
            finally:
                await talking
            self._died(life)
            while self.random.random() < 0.5:
                # Also while it takes up what the one before it left.
                life = await self._start(kill=self._failpoint(0.3) if self.random.random() < 0.6 else "")
                if await life.serving():
                    await asyncio.wait({life.ended}, timeout=self.random.uniform(0, 0.3))
                self._kill(life)
                await life.ended
                self.tally.in_recovery += 1
                self._died(life)
            life = await self._start()
            assert await life.serving(), life.err.read_text()
            await self._check(life)
        except (AssertionError, ExceptionGroup) as error:
            error.add_note(f"thread files: {self._launcher.folder}; round {self.tally.rounds}; life {life.name}")
            error.add_note(life.complaints())
            for client in (*self._auditors, *(client for _, clients in self._threads for client in clients)):
                await client.drop()
            raise
        finally:
            life.kill()
            await life.ended
        self._died(life)

    def _renew(self, threads: int, clients: int) -> None:
        """Some threads go on, others are new; one page of history is to hold all that was said in one."""
        kept = [found for found in self._threads if self.random.random() < 0.5]
        self._threads = [found for found in kept if len(found[0].commands) < 200][:threads]
        while len(self._threads) < threads:
            self._made += 1
            thread = Thread(f"t{self._made}")
            made = [Client(thread, Random(self.random.random()), self._session) for _ in range(clients)]
            self._threads.append((thread, made))

    def _failpoint(self, late: float) -> str:
        pattern, most = self.random.choice(FAILPOINTS)
        return f"{self.random.randint(1, max(1, round(most * late)))} {pattern}"

    async def _start(self, **doom: str) -> Life:
        self._lives += 1
        return await self._launcher.start(GRAPH, **{key: value for key, value in doom.items() if value})

    def _kill(self, life: Life) -> None:
        self.tally.by_themselves += life.ended.done()
        life.kill()

    def _died(self, life: Life) -> None:
        self.tally.kills += 1
        life.check_log()
        check_integrity(self._launcher.folder / "threadwire.db")

    # --- talking ---

    async def _talk(self, life: Life) -> None:
        if await life.serving():
            async with asyncio.TaskGroup() as group:
                for _, clients in self._threads:
                    for client in clients:
                        group.create_task(self._chat(client, life))

    async def _chat(self, client: Client, life: Life) -> None:
        while not life.ended.done() and await client.connect(life.url, self._lives):
            self._count(client)
            client.resend()
            reading = asyncio.create_task(client.read())
            while not reading.done():
                await asyncio.wait({reading}, timeout=self.random.choice((0, 0.01, 0.05, 0.2)))
                if self.random.random() < 0.08:
                    await client.drop()
                elif not reading.done() and len(client.outstanding) < 8:
                    client.act()
            await reading
            await client.drop()
            if self.random.random() < 0.05:
                # Another tab.
                client.ready = {}

    def _count(self, client: Client) -> None:
        self.tally.replayed += client.ready["resume"] == "replayed"
        self.tally.gaps += client.ready["resume"] == "gap"

    # --- looking ---

    async def _check(self, life: Life) -> None:
        reading = []
        for _, clients in self._threads:
            for client in clients:
                assert await client.connect(life.url, self._lives), life.err.read_text()
                self._count(client)
                client.resend()
                reading.append(asyncio.create_task(client.read()))
        try:
            async with asyncio.timeout(REST_SECONDS):
                for thread, clients in self._threads:
                    await self._wait(reading, lambda clients=clients: not any(c.outstanding for c in clients))
                    if thread.epoch is not None:
                        await self._rest(life, thread, reading)
            for thread, clients in self._threads:
                if thread.epoch is not None:
                    await self._audit(life, thread, clients, reading)
        except TimeoutError as error:
            raise AssertionError("not at rest: " + await self._state(life)) from error
        finally:
            for _, clients in self._threads:
                for client in clients:
                    await client.drop()
            await asyncio.gather(*reading, return_exceptions=True)
        await self._check_provider()

    async def _wait(self, reading: list[asyncio.Task[None]], condition: Any) -> None:
        while not condition():
            for task in reading:
                if task.done():
                    task.result()
                    raise AssertionError("a connection was closed")
            await asyncio.sleep(0.01)

    async def _ready(self, life: Life, thread: Thread) -> dict[str, Any]:
        query = {"thread_id": thread.thread_id, "on_disconnect": "continue"}
        async with self._session.ws_connect(f"{life.url}/ws", params=query) as ws:
            return dict(await ws.receive_json())

    async def _state(self, life: Life) -> str:
        return json.dumps([await self._ready(life, thread) for thread, _ in self._threads])

    async def _rest(self, life: Life, thread: Thread, reading: list[asyncio.Task[None]]) -> None:
        """Wait until nothing runs or waits; what would never end is cancelled, questions are dropped."""
        clients = next(clients for found, clients in self._threads if found is thread)
        since = time.monotonic()
        last = None
        while True:
            ready = await self._ready(life, thread)
            run = ready["run"]
            if run is None and not ready["queue"]:
                return
            if (run and run["run_id"]) != last:
                last, since = run and run["run_id"], time.monotonic()
            # An answer that was taken ends the question by itself, unless it was another one's whose end nobody saw.
            if run and run["status"] == "interrupted" and thread.answered_question and time.monotonic() - since < 5:
                pass
            elif run and (time.monotonic() - since > 1 or run["status"] == "interrupted"):
                clients[0].command("cancel", run_id=run["run_id"])
                await self._wait(reading, lambda: not clients[0].outstanding)
            await asyncio.sleep(0.05)

    async def _audit(
        self, life: Life, thread: Thread, clients: list[Client], reading: list[asyncio.Task[None]]
    ) -> None:
        auditor = Client(thread, self.random, self._session)
        self._auditors = [auditor]
        auditor.last, auditor.ready = 0, {"created": False}
        assert await auditor.connect(life.url, self._lives)
        assert auditor.ready["resume"] == "replayed", auditor.ready
        assert auditor.ready["run"] is None, auditor.ready
        numbers: list[int] = []
        while auditor.last < auditor.ready["seq"]:
            frame = await auditor._receive()
            auditor._take(frame)
            numbers.append(auditor.last)
        history = await _history(auditor)
        thread.audit(numbers, auditor.view, history)
        # The next turn works, and the others see it.
        probe = auditor.command("send", content="/tokens 3", message_id=f"probe-{self._lives}-{thread.thread_id}")
        async with asyncio.timeout(REST_SECONDS):
            while probe.run_id not in auditor.view.ended:
                auditor._take(await auditor._receive())
            assert auditor.view.ended[probe.run_id]["status"] == "completed", auditor.view.ended[probe.run_id]
            await self._wait(reading, lambda: all(client.last >= auditor.last for client in clients))
        history = await _history(auditor)
        for client in (auditor, *clients):
            client.view.check(history)
        await auditor.drop()
        self.tally.runs += len(auditor.view.ended)
        self.tally.frames += len(numbers)
        self.tally.commands += len(thread.commands)

    async def _check_provider(self) -> None:
        for request in await self._provider.requests():
            check_request(request["messages"])
        async with self._session.post(f"{self._provider.url}/reset"):
            pass


async def _history(client: Client) -> list[dict[str, Any]]:
    client._say({"type": "history", "id": "all", "limit": 1000})
    while True:
        frame = await client._receive()
        if frame["type"] == "history":
            assert frame["before"] is None
            return list(frame["messages"])
        client._take(frame)
