"""A thread's actor in hypothesis' hands: a real server on a real file, without sockets, beside ``torture.model``.

A server here is the whole application (storage, journal, graph, hub), asked as a connection asks it. Its graph's steps
are let go one at a time. A restart is clean, or is the death of the process: the file as it is committed at that
moment, on which another server is started.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gated_graphs import ASK, ASK_TWICE, FAIL, GATE, QUESTION, SAY, STREAM, WORK
from harness import DEADLINE
from threadwire import http
from threadwire.app import make_app
from threadwire.errors import Gap, ShuttingDown, ThreadwireError
from threadwire.log import Cursor
from threadwire.protocol import decode
from threadwire.storage import OnDisconnect
from threadwire.testing.server import settings_for
from threadwire.thread import Thread as Actor
from torture.model import REASONS, Command, Thread, View

THREAD = "t1"
CONTENTS = (STREAM, STREAM, WORK, ASK, ASK, ASK, ASK_TWICE, ASK_TWICE, QUESTION, QUESTION, SAY, FAIL)
STRATEGIES = ("enqueue", "enqueue", "enqueue", "reject", "interrupt", "rollback")
#: How far things go after a step: nothing else happens; a little does; all that can.
PACES = (0, 5, 30, None, None)
ODD = st.integers(0, 1_000_000)


class Client:
    """A reader as a connection is one, and what it has seen."""

    def __init__(self, known: Thread, on_disconnect: OnDisconnect) -> None:
        self.on_disconnect = on_disconnect
        #: Whether it takes only what it is made to take.
        self.slow = False
        self.view = View(whole=False)
        #: Whether its view is to be what the thread's history is: it has had all frames, or a history.
        self.complete = False
        self.last = 0
        self.ended: int | None = None
        self.cursor: Cursor | None = None
        self._known = known
        self._floor = 0

    def end(self, code: int, reason: str) -> None:
        assert reason
        self.ended = code

    async def attach(self, actor: Actor, **query: Any) -> dict[str, Any]:
        attached = await actor.attach(self, **query)
        ready, self.cursor = attached.ready, attached.cursor
        self._known.saw_ready(ready)
        assert (attached.gap is not None) == (ready["resume"] == "gap")
        assert ready["seq"] >= attached.cursor.position or ready["resume"] == "fresh"
        if attached.history is not None:
            self.reload(attached.history, ready["interrupts"])
        return ready

    def reload(self, history: dict[str, Any], interrupts: list[dict[str, Any]]) -> None:
        assert history["before"] is None
        self.view.reload(history["messages"], interrupts)
        self._floor = self.last = max(self.last, history["seq"])
        self.complete = True

    def read(self, life: int, max_bytes: int = 1_000_000) -> bool:
        """Take some frames; whether there were any."""
        assert self.cursor is not None
        try:
            taken = self.cursor.take(max_bytes)
        except Gap as gap:
            # Nothing is trimmed here: what a reader has not got is what a dead process had not written.
            raise AssertionError(f"frames from {gap.requested} are gone") from gap
        before = 0
        for raw in taken:
            frame = json.loads(raw)
            assert frame["seq"] > before, f"{frame['seq']} after {before}"
            before = frame["seq"]
            self._known.saw(raw, frame, life)
            if before > self._floor:
                assert before > self.last, f"{before} after {self.last}"
                self.view.apply(frame)
                self.last = before
        return bool(taken)

    def leave(self, actor: Actor | None, *, deliberate: bool = False) -> None:
        if self.cursor is not None:
            self.cursor.close()
            self.cursor = None
            if actor is not None:
                actor.detach(self, deliberate=deliberate)


class ThreadMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.known = Thread(THREAD, reasons={**REASONS, "cancelled": REASONS["cancelled"] | {"shutdown"}})
        self.here: list[Client] = []
        self.away: list[Client] = []
        #: Commands whose answers have not been heard.
        self.asked: list[Command] = []
        #: What is to be said again after a restart.
        self.unheard: list[Command] = []
        #: What was heard and has not been looked at: (command, answer).
        self.heard: list[tuple[Command, dict[str, Any] | ThreadwireError]] = []
        self.lives = self.count = 0
        self.sections: dict[str, Any] = {}
        self.app: web.AppRunner | None = None

    @initialize(keep=st.sampled_from([1, 50]), grace=st.sampled_from([0, 0.02]))
    def start(self, keep: int, grace: float) -> None:
        self.sections = {
            "storage": {"keep_checkpoints": keep},
            "log": {"keep_seconds": 3600, "journal_interval_seconds": 0.02},
            "runs": {"max_queued": 3, "disconnect_grace_seconds": grace},
        }
        self.run(self._open())

    # --- the server ---

    @property
    def database(self) -> Path:
        return self._database(self.lives)

    def _database(self, life: int) -> Path:
        return Path(self.folder.name) / f"{life}.db"

    @property
    def actor(self) -> Actor:
        assert self.app is not None
        return self.app.app[http.HUB].get(THREAD)

    def run(self, coroutine: Any) -> Any:
        found = self.runner.run(coroutine)
        self._listen()
        for client in self.here:
            if client.cursor is not None and not client.slow:
                client.read(self.lives)
        return found

    async def _open(self) -> None:
        GATE.close()
        app = web.AppRunner(make_app(settings_for(self.database, "gated_graphs:gated", self.sections)))
        await app.setup()
        self.app = app

    async def _close(self) -> None:
        if self.app is not None:
            app, self.app = self.app, None
            await app.cleanup()

    async def _abandon(self) -> None:
        """What a process leaves that dies now is what the database has committed."""
        with sqlite3.connect(self.database) as old, sqlite3.connect(self._database(self.lives + 1)) as left:
            old.backup(left)
        old.close()
        left.close()
        for client in self.here:
            client.leave(None)
        self._forget_unheard()
        await self._close()
        self.heard.clear()
        self.lives += 1

    def _forget_unheard(self) -> None:
        """Take what was answered before the end, and no more."""
        self._listen()
        unheard, self.asked = self.asked, []
        self.unheard += [command for command in unheard if command.type != "cancel"]

    # --- waiting ---

    async def _pace(self, pace: int | None) -> None:
        if pace is not None:
            for _ in range(pace):
                await asyncio.sleep(0)
            return
        await self._until(self._quiet)

    async def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        self._listen()
        while not condition():
            assert time.monotonic() < end, self._state()
            await asyncio.sleep(0.001)
            self._listen()

    def _state(self) -> str:
        turns = self.actor._turns
        current = turns.current.row if turns.current else None
        return (
            f"stuck: current {current}, queue {[turn.row for turn in turns.queue]}, gate {GATE.waiting}, "
            f"waiting {self.actor._said.waiting}, held {self.actor.log.held}, asked {self.asked}"
        )

    def _quiet(self) -> bool:
        """Nothing goes on before a step is let go, or somebody says something."""
        actor = self.actor
        waits = not actor._turns.busy or (GATE.waiting and not getattr(actor._turns.current, "stopping", False))
        return not actor._inbox and waits and not actor.log.held and not self.asked

    # --- commands ---

    def _say(self, client: Client, kind: str, *, may_fail: bool = False, **fields: Any) -> Command:
        self.count += 1
        command = Command(f"c{self.count}", kind, fields, may_fail=may_fail)
        if kind != "cancel":
            fields["run_id"] = str(uuid.UUID(int=self.count))
            self.known.commands[command.run_id] = command
        self._submit(client, command)
        return command

    def _submit(self, client: Client, command: Command) -> None:
        self.asked.append(command)
        wire = decode(json.dumps(command.wire()))

        def answer(found: dict[str, Any] | ThreadwireError) -> None:
            self.heard.append((command, found))

        self.actor.submit(wire, answer, client.on_disconnect)

    def _listen(self) -> None:
        heard, self.heard = self.heard, []
        for command, found in heard:
            assert command in self.asked, f"answered twice: {command} {found}"
            self.asked.remove(command)
            if isinstance(found, ShuttingDown) and command.type != "cancel":
                self.unheard.append(command)
                continue
            told = {"type": "error", "code": found.code} if isinstance(found, ThreadwireError) else found
            if command.type == "cancel" and isinstance(found, dict):
                assert found["run_id"] == command.fields.get("run_id", found["run_id"])
            self.known.answered(command, {"type": "ack", **told})

    def _step(self, pace: int | None, act: Callable[[], Any]) -> None:
        async def step() -> None:
            act()
            await self._pace(pace)

        self.run(step())

    def _one(self, which: int) -> Client:
        return self.here[which % len(self.here)]

    def _messages(self, role: str) -> list[str]:
        return [identity for c in self.here for identity, m in c.view.messages.items() if m["role"] == role]

    @precondition(lambda self: self.here)
    @rule(
        which=ODD,
        content=st.sampled_from(CONTENTS),
        strategy=st.sampled_from(STRATEGIES),
        twice=st.integers(0, 4).map(lambda n: n == 0),
        pace=st.sampled_from(PACES),
    )
    def send(self, which: int, content: str, strategy: str, twice: bool, pace: int | None) -> None:
        client = self._one(which)

        def act() -> None:
            identity = f"m{self.count}"
            fields = {"content": f"{content} {self.count}", "message_id": identity, "multitask_strategy": strategy}
            self._say(client, "send", may_fail=content == FAIL, **fields)

        self._step(pace, act)
        if twice:
            self.again(which, len(self.known.commands) - 1, pace)

    @precondition(lambda self: self.here and self.known.commands)
    @rule(which=ODD, command=ODD, pace=st.sampled_from(PACES))
    def again(self, which: int, command: int, pace: int | None) -> None:
        """Say again what was acknowledged."""
        said = list(self.known.commands.values())
        found = said[command % len(said)]
        if found.ack is not None and found not in self.asked:
            self._step(pace, lambda: self._submit(self._one(which), found))

    @precondition(lambda self: self.here)
    @rule(which=ODD, run=ODD, pace=st.sampled_from(PACES))
    def cancel(self, which: int, run: int, pace: int | None) -> None:
        """The current run, any that was ever asked for, or one that nobody knows."""
        runs = [None, None, *self.known.commands, str(uuid.UUID(int=2**127))]
        wanted = runs[run % len(runs)]
        fields: dict[str, Any] = {"run_id": wanted} if wanted else {}
        self._step(pace, lambda: self._say(self._one(which), "cancel", **fields))

    @precondition(lambda self: self.here)
    @rule(which=ODD, some=st.integers(0, 3), unknown=st.integers(0, 5), pace=st.sampled_from(PACES))
    def respond(self, which: int, some: int, unknown: int, pace: int | None) -> None:
        client = self._one(which)
        asked = [found["id"] for found in client.view.interrupts]
        responses = dict.fromkeys(asked[: some or None], "yes")
        if not unknown or not responses:
            responses["nobody"] = "yes"
        self._step(pace, lambda: self._say(client, "respond", responses=responses))

    @precondition(lambda self: self._messages("user"))
    @rule(which=ODD, message=ODD, content=st.sampled_from(CONTENTS), pace=st.sampled_from(PACES))
    def edit(self, which: int, message: int, content: str, pace: int | None) -> None:
        users = self._messages("user")
        fields = {"message_id": users[message % len(users)], "content": f"{content} {self.count}"}
        self._step(pace, lambda: self._say(self._one(which), "edit", may_fail=content == FAIL, **fields))

    @precondition(lambda self: self._messages("assistant"))
    @rule(which=ODD, message=st.none() | ODD, pace=st.sampled_from(PACES))
    def regenerate(self, which: int, message: int | None, pace: int | None) -> None:
        answers = self._messages("assistant")
        fields = {} if message is None else {"message_id": answers[message % len(answers)]}
        self._step(pace, lambda: self._say(self._one(which), "regenerate", may_fail=True, **fields))

    @rule(steps=st.integers(1, 8), pace=st.sampled_from([5, None, None]))
    def go_on(self, steps: int, pace: int | None) -> None:
        """The graph goes on."""

        async def go() -> None:
            for _ in range(steps):
                GATE.let(1)
                await self._pace(pace)

        self.run(go())

    # --- readers ---

    @precondition(lambda self: len(self.here) < 4)
    @rule(
        how=st.sampled_from(["whole", "history", "fresh", "back", "back"]),
        on_disconnect=st.sampled_from(["cancel", "continue"]),
        slow=st.integers(0, 2).map(lambda n: n == 0),
        other=st.booleans(),
    )
    def attach(self, how: str, on_disconnect: OnDisconnect, slow: bool, other: bool) -> None:
        if how == "back" and self.away:
            self.run(self._come_back(self.away.pop(), other_epoch=other))
            return
        client = Client(self.known, on_disconnect)
        client.slow = slow
        query: dict[str, Any] = {"history": 1000} if how == "history" else {}
        if how == "whole" and self.known.epoch is not None:
            query = {"after": 0, "epoch": self.known.epoch}
            client.complete = client.view.whole = True
        self.run(self._attach(client, query))

    async def _attach(self, client: Client, query: dict[str, Any]) -> dict[str, Any]:
        ready = await client.attach(self.actor, **query)
        self.here.append(client)
        if client.view.whole and not client.last and "after" in query:
            assert ready["resume"] == "replayed"
            client.read(self.lives)
            self._check_ready(ready, client.view)
        elif "after" not in query:
            assert ready["resume"] == "fresh"
        return ready

    async def _come_back(self, client: Client, *, other_epoch: bool = False) -> None:
        """Resume, or learn that it cannot be, and load the history."""
        epoch = self.known.epoch or "none"
        gapped = {"after": client.last, "epoch": "x" if other_epoch else epoch}
        ready = await self._attach(client, gapped)
        if ready["resume"] == "gap":
            await self._reload(client)
        else:
            assert not other_epoch

    async def _reload(self, client: Client) -> None:
        client.reload(await self.actor.history(None, 1000), self.actor._said.interrupts())

    def _check_ready(self, ready: dict[str, Any], view: View) -> None:
        """What it says is what the frames up to there say."""
        assert view.whole
        running = view.started - set(view.ended)
        run = ready["run"]
        if running:
            assert run is not None
            assert {run["run_id"]} == running
            assert run["status"] in ("running", "cancelling")
        elif run is not None and run["status"] == "interrupted":
            assert view.ended[run["run_id"]]["status"] == "interrupted"
            assert ready["interrupts"] == view.interrupts
        elif run is not None:
            assert run["run_id"] not in view.ended
        for waiting in ready["queue"]:
            assert waiting["run_id"] not in view.ended
            assert waiting["run_id"] not in view.started
            assert self.known.commands[waiting["run_id"]].fields["message_id"] == waiting["message_id"]

    @precondition(lambda self: self.here)
    @rule(which=ODD, max_bytes=st.sampled_from([1, 500, 1_000_000]))
    def read(self, which: int, max_bytes: int) -> None:
        self._one(which).read(self.lives, max_bytes)

    @precondition(lambda self: self.here)
    @rule(which=ODD, pace=st.sampled_from(PACES))
    def reload(self, which: int, pace: int | None) -> None:
        """Ask for the history in the middle of anything."""

        async def act() -> None:
            await self._reload(self._one(which))
            await self._pace(pace)

        self.run(act())

    @precondition(lambda self: self.here)
    @rule(which=ODD, deliberate=st.booleans(), pace=st.sampled_from(PACES))
    def detach(self, which: int, deliberate: bool, pace: int | None) -> None:
        client = self._one(which)
        self.here.remove(client)
        self.away.append(client)
        self._step(pace, lambda: client.leave(self.actor, deliberate=deliberate))

    # --- the server's end ---

    @rule(clean=st.booleans(), pace=st.sampled_from(PACES), back=st.booleans())
    def restart(self, clean: bool, pace: int | None, back: bool) -> None:
        self.run(self._restart(clean=clean))
        clients, self.here = self.here, []
        for client in clients:
            client.ended = None
            if back:
                self.run(self._come_back(client))
            else:
                self.away.append(client)
        if not self.here:
            self.attach("history", "continue", slow=False, other=False)
        # Whatever was not answered is said again.
        unheard, self.unheard = self.unheard, []
        for command in unheard:
            command.repeated = command.run_id in self.known.seen_runs
            self._step(pace, lambda command=command: self._submit(self.here[0], command))  # type: ignore[misc]

    async def _restart(self, *, clean: bool) -> None:
        if not clean:
            await self._abandon()
        else:
            await self._close()
            for client in self.here:
                assert client.ended == 1012
                client.read(self.lives)
                client.leave(None)
            self._listen()
            assert not self.asked, "everything was answered"
        await self._open()

    # --- at rest ---

    @rule(really=st.integers(0, 2))
    def rest(self, really: int) -> None:
        """Everything has come to its end, and the next turn works."""
        if not really:
            self.run(self._come_to_rest())

    async def _come_to_rest(self) -> None:
        GATE.open()
        probing = Client(self.known, "continue")
        await self._attach(probing, {})
        while True:
            await self._until(self._idle)
            self._listen()
            actor = self.actor
            if not actor._said.waiting and not actor._turns.queue:
                break
            self._say(probing, "cancel")
        await self._audit(probing)
        GATE.close()

    def _idle(self) -> bool:
        return not self.actor._inbox and not self.actor._turns.busy and not self.actor.log.held

    async def _audit(self, probing: Client) -> None:
        if self.known.epoch is None and not self.known.commands:
            self.here.remove(probing)
            probing.leave(self.actor)
            return
        await self._check_whole()
        probe = self._say(probing, "send", content="stream probe", message_id=f"probe{self.count}")
        await self._until(lambda: probe not in self.asked and self._idle())
        whole = await self._check_whole()
        assert whole.ended[probe.run_id]["status"] == "completed", whole.ended[probe.run_id]
        history = await self.actor.history(None, 1000)
        for client in self.here:
            while client.read(self.lives):
                pass
            if client.complete:
                client.view.check(history["messages"])
        self.here.remove(probing)
        probing.leave(self.actor)

    async def _check_whole(self) -> View:
        """Read the whole log, and hold it against what was ever seen, and against the history."""
        auditor = Client(self.known, "continue")
        auditor.view.whole = True
        ready = await auditor.attach(self.actor, after=0, epoch=self.known.epoch or self.actor.log.epoch)
        assert ready["resume"] == "replayed"
        assert (ready["run"], ready["queue"], ready["interrupts"]) == (None, [], [])
        numbers = []
        while auditor.read(self.lives, 1):
            numbers.append(auditor.last)
        history = await self.actor.history(None, 1000)
        auditor.leave(self.actor)
        assert history["seq"] == ready["seq"] == auditor.last
        self.known.audit(numbers, auditor.view, history["messages"])
        return auditor.view

    def teardown(self) -> None:
        try:
            if self.app is not None:
                self.run(self._come_to_rest())
        finally:
            self.runner.run(self._close())
            self.runner.close()
            self.folder.cleanup()
