"""What the torture has found, each as small as it gets: a server that dies at that very statement.

A death is a copy of the file as it is on the disk at that moment, on which another server is started.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import uuid
from pathlib import Path
from typing import Any, Protocol

import pytest

from conftest import Serve
from harness import DEADLINE, Provider, Served, Socket, eventually
from torture.launcher import Doom, doomed
from torture.model import check_request

ENDLESS = "/tokens 100000\n/tokens-per-second 200"
ASKS = '/tool confirm {"what": "it"}'


class Death(Doom):
    """The file as it is at an event, in a copy."""

    def __init__(self, event: str, database: Path) -> None:
        super().__init__({"TORTURE_KILL": event})
        self._database = database
        self.left: Path | None = None

    def strike(self) -> None:
        copy = self._database.with_suffix(".left")
        for ending in ("", "-wal"):
            if Path(f"{self._database}{ending}").exists():
                shutil.copy(f"{self._database}{ending}", f"{copy}{ending}")
        self.left = copy


class Dies(Protocol):
    """See the fixture."""

    def __call__(self, event: str, kind: type[Death] = Death) -> Death: ...


class _Switch(Doom):
    """Passes on what happens, once there is somebody for it."""

    def __init__(self) -> None:
        super().__init__({})
        self.death: Death | None = None

    def event(self, name: str) -> None:
        if self.death is not None:
            self.death.event(name)


@pytest.fixture
def dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dies:
    """``dies("1 after commit …")``: from now on, the served file's death at that event."""
    switch, connect = _Switch(), sqlite3.connect
    factory = doomed(switch)
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **o: connect(*a, **{"factory": factory, **o}))

    def at(event: str, kind: type[Death] = Death) -> Death:
        switch.death = kind(event, tmp_path / "threadwire.db")
        return switch.death

    return at


def moved(left: Path) -> Path:
    """What a death has left, in a folder of its own: there the next one can die."""
    database = left.parent / "second" / "threadwire.db"
    database.parent.mkdir()
    for ending in ("", "-wal"):
        if Path(f"{left}{ending}").exists():
            shutil.move(f"{left}{ending}", f"{database}{ending}")
    return database


async def after(death: Death, serve: Serve, graph: str | None) -> Served:
    """The next server."""
    left: Path = await eventually(lambda: death.left, "it dies")
    return await serve(graph, database=left)


async def whole_log(served: Served, first: Socket) -> Socket:
    """A client that has read all there is, after the death, of the thread of another."""
    socket = await served.attach("t1", after=0, epoch=first.frames[0]["epoch"])
    assert socket.frames[0]["resume"] == "replayed"
    await socket.ask("ping")
    return socket


async def asked(served: Served) -> tuple[Socket, str]:
    """A client whose thread waits for an answer, and the question's id."""
    socket = await served.attach("t1")
    await socket.turn("/tokens 2", message_id="m0")
    await socket.ask("send", content=ASKS, message_id="m-asks")
    await socket.until("run_finished", status="interrupted")
    return socket, socket.of("interrupt")[-1]["interrupts"][0]["id"]


async def checkpoint_of(served: Served, messages: int) -> str:
    """The checkpoint at the end of a turn that has so many messages."""
    async with served.session.post(f"{served.url}/threads/t1/history", json={"limit": 100}) as response:
        states = await response.json()
    place = next(s for s in states if len(s["values"]["messages"]) == messages and not s["next"])
    return str(place["checkpoint"]["checkpoint_id"])


def forget_turns(served: Served) -> None:
    """The checkpoints before its turns are gone."""
    with sqlite3.connect(served.database) as connection:
        connection.execute("DELETE FROM turns")
    connection.close()


def queued(
    connection: sqlite3.Connection, run_id: str, message_id: str, content: str, reason: str | None = None, **fields: str
) -> None:
    """A ``send`` that was acknowledged in the moment of the death."""
    connection.execute(
        "INSERT INTO runs"
        " (run_id, thread_id, trigger, message_id, request, on_disconnect, created_at, status, turn, reason)"
        " VALUES (?, 't1', 'send', ?, ?, 'cancel', 1, 'queued', ?, ?)",
        (run_id, message_id, json.dumps({"content": content, **fields}), message_id, reason),
    )


def journaled(served: Served) -> int:
    """The newest frame that is on disk."""
    with sqlite3.connect(f"file:{served.database}?mode=ro", uri=True) as connection:
        [(last,)] = connection.execute("SELECT last FROM logs WHERE thread_id = 't1'")
    connection.close()
    return int(last)


async def test_a_rolled_back_run_leaves_no_messages(serve: Serve, dies: Dies) -> None:
    """A run that died while a turn waited to take its place: it is superseded, and brings nothing back."""
    served = await serve()
    socket = await served.attach("t1")
    await socket.ask("send", content=ENDLESS, message_id="m-gone")
    await socket.until("token")
    death = dies("1 after commit .*INSERT INTO runs")
    await socket.ask("send", content="/tokens 2", multitask_strategy="rollback", message_id="m-next")
    log = await whole_log(await after(death, serve, None), socket)
    ended = next(f for f in log.of("run_finished") if f["status"] == "cancelled")
    assert ended["reason"] == "superseded"
    assert not ended.get("messages")
    assert "m-gone" in log.of("messages_removed")[0]["message_ids"]


async def test_an_answer_goes_before_what_waits_for_it(serve: Serve, provider: Provider, dies: Dies) -> None:
    """An answer that was taken and had not started runs first, whatever was waiting behind the question."""
    served = await serve("asking_graphs:asking")
    socket, question = await asked(served)
    queued = await socket.ask("send", content="/tokens 2")
    death = dies("1 after commit .*INSERT INTO runs")
    answer = await socket.ask("respond", responses={question: "yes"})
    again = await after(death, serve, "asking_graphs:asking")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    for run_id in (answer["run_id"], queued["run_id"]):
        assert (await log.until("run_finished", run_id=run_id))["status"] == "completed"


async def test_a_question_ends_with_the_run_that_answers_it(serve: Serve, provider: Provider, dies: Dies) -> None:
    """A run that answers a question dies: the question is not asked again, its call is closed, what waited runs."""
    served = await serve("asking_graphs:asking")
    socket, question = await asked(served)
    queued = await socket.ask("send", content="/tokens 2")
    death = dies("1 after commit .*UPDATE runs SET status = 'running'")
    answer = await socket.ask("respond", responses={question: "yes"})
    again = await after(death, serve, "asking_graphs:asking")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    assert (await log.until("run_finished", run_id=answer["run_id"]))["status"] == "lost"
    assert [f["status"] for f in log.of("tool_result")] == ["error"]
    assert (await log.until("run_finished", run_id=queued["run_id"]))["status"] == "completed"
    welcome = (await again.attach("t1")).frames[0]
    assert (welcome["run"], welcome["interrupts"]) == (None, [])


async def test_a_call_is_closed_though_its_question_was_dropped(serve: Serve, provider: Provider, dies: Dies) -> None:
    """A server that dies after it has dropped a question from the state and before it has told that: it is told."""
    served = await serve("asking_graphs:asking")
    socket, _ = await asked(served)
    death = dies("2 after commit .*INTO checkpoints")
    await socket.ask("cancel")
    again = await after(death, serve, "asking_graphs:asking")
    log = await whole_log(again, socket)
    assert log.frames[0]["interrupts"] == []
    [call], [result] = log.of("tool_call"), log.of("tool_result")
    assert (result["id"], result["status"]) == (call["id"], "error")
    assert (await log.turn("/tokens 2"))[-1]["status"] == "completed"
    async with again.session.get(f"{again.url}/threads/t1") as response:
        found = await response.json()
    assert (found["status"], found["interrupts"]) == ("idle", {})


@pytest.mark.parametrize("step", [1, 2])
async def test_the_repair_is_killed_between_its_steps(
    serve: Serve, provider: Provider, dies: Dies, tmp_path: Path, step: int
) -> None:
    """What had been said is kept, whichever of the repair's steps a second death comes after."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    await socket.ask("send", content="/tokens 30\n/tokens-per-second 100\n/silent 30", message_id="m0")
    while len(socket.text().split()) < 30:
        await socket.until("token")
    first = dies("1 after commit .*INSERT OR REPLACE INTO frames")
    left = await eventually(lambda: first.left, "it dies")
    database = moved(left)
    second = dies(f"{step} after commit .*INTO checkpoints")
    second._database = database
    await serve("graphs:openai", database=database)
    again = await after(second, serve, "graphs:openai")
    log = await whole_log(again, socket)
    [ended] = log.of("run_finished")
    assert ended["status"] == "lost"
    history = await again.history("t1")
    assert [m["role"] for m in history] == ["user", "assistant"]
    assert history[1]["content"] == log.text()
    assert ended["messages"] == history


@pytest.mark.parametrize("command", ["edit", "regenerate", "send"])
@pytest.mark.parametrize("pruned", [False, True])
async def test_going_back_is_killed(serve: Serve, provider: Provider, dies: Dies, command: str, pruned: bool) -> None:
    """A server dies when the thread has gone back and the turn has not started: it starts, and what went is told."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    for number in range(3):
        await socket.turn("/tokens 3", message_id=f"m{number}")
    before = [m["id"] for m in await served.history("t1")]
    fields: dict[str, Any] = {"message_id": before[3]}
    if command == "edit":
        fields = {"message_id": "m1", "content": "/tokens 2"}
    elif command == "send":
        fields = {"content": "/tokens 2", "checkpoint_id": await checkpoint_of(served, 2), "message_id": "m9"}
    if pruned:
        if command == "send":
            pytest.skip("there is no other way to a checkpoint")
        forget_turns(served)
    death = dies("1 after commit .*INTO checkpoints")
    ack = await socket.ask(command, **fields)
    again = await after(death, serve, "graphs:openai")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    assert (await log.until("run_finished", run_id=ack["run_id"]))["status"] == "completed"
    kept = 3 if command == "regenerate" else 2
    assert log.of("messages_removed")[0]["message_ids"] == before[kept:]
    history = [m["id"] for m in await again.history("t1")]
    assert history[:kept] == before[:kept]
    assert len(history) == 4
    for request in await provider.requests():
        check_request(request["messages"])


@pytest.mark.parametrize("command", ["edit", "regenerate", "send"])
@pytest.mark.parametrize("pruned", [False, True])
async def test_what_went_back_is_killed_as_it_starts(
    serve: Serve, provider: Provider, dies: Dies, command: str, pruned: bool
) -> None:
    """A server dies when the turn has started and the graph has stored nothing of it: its user's message is there."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    for number in range(3):
        await socket.turn("/tokens 3", message_id=f"m{number}")
    before = [m["id"] for m in await served.history("t1")]
    fields: dict[str, Any] = {"message_id": before[3]}
    if command == "edit":
        fields = {"message_id": "m1", "content": "/tokens 2"}
    elif command == "send":
        fields = {"content": "/tokens 2", "checkpoint_id": await checkpoint_of(served, 2), "message_id": "m9"}
    if pruned:
        if command == "send":
            pytest.skip("there is no other way to a checkpoint")
        forget_turns(served)
    death = dies("1 after commit .*UPDATE runs SET status = 'running'")
    ack = await socket.ask(command, **fields)
    again = await after(death, serve, "graphs:openai")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    ended = await log.until("run_finished", run_id=ack["run_id"])
    assert (ended["status"], ended["reason"]) == ("lost", "crash")
    history = await again.history("t1")
    asks = "m1" if command == "regenerate" else ack["message_id"]
    assert [m["id"] for m in history] == [*before[:2], asks]
    # What it left is what came with it: a message that was there before is not the run's.
    assert ended["messages"] == ([] if command == "regenerate" else history[2:])
    assert (await log.turn("/tokens 2"))[-1]["status"] == "completed"
    sent = (await provider.requests())[-1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "user", "user"]


@pytest.mark.parametrize("command", ["edit", "regenerate"])
async def test_what_went_back_is_superseded(serve: Serve, provider: Provider, dies: Dies, command: str) -> None:
    """A server dies when the thread has gone back and the turn has not started, and never will: nothing has gone."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    for number in range(2):
        await socket.turn("/tokens 3", message_id=f"m{number}")
    before = [m["id"] for m in await served.history("t1")]
    fields = {"message_id": "m0", "content": "/tokens 2"} if command == "edit" else {"message_id": before[1]}
    death = dies("1 after commit .*INTO checkpoints")
    ack = await socket.ask(command, **fields)
    left: Path = await eventually(lambda: death.left, "it dies")
    supersedes = str(uuid.uuid4())
    with sqlite3.connect(left) as connection:
        queued(connection, supersedes, "m-next", "/tokens 2", multitask_strategy="interrupt")
    connection.close()
    again = await after(death, serve, "graphs:openai")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    assert (await log.until("run_finished", run_id=supersedes))["status"] == "completed"
    ended = next(f for f in log.of("run_finished") if f["run_id"] == ack["run_id"])
    assert (ended["status"], ended["reason"]) == ("cancelled", "superseded")
    assert not log.of("messages_removed")
    brought = [ack["message_id"]] if command == "edit" else []
    assert [m["id"] for m in await again.history("t1")][:-1] == [*before, *brought, "m-next"]


async def test_results_beside_a_question_stay(serve: Serve, provider: Provider) -> None:
    """A tool that had its result beside one that asks keeps it when the question is dropped, and is told once."""
    served = await serve("torture.talking:talking")
    socket = await served.attach("t1")
    await socket.ask("send", content=f'{ASKS}\n/tool add {{"a": 1, "b": 2}}')
    await socket.until("run_finished", status="interrupted")
    await socket.ask("cancel")
    await socket.turn("/tokens 2")
    told = {f["name"]: f["status"] for f in socket.of("tool_result")}
    assert told == {"add": "ok", "confirm": "error"}
    assert len(socket.of("tool_result")) == 2
    stored = {m["name"]: m["content"] for m in await served.history("t1") if m["role"] == "tool"}
    assert stored["add"] == "3"


class Hold(Death):
    """Everything that is written waits at an event."""

    def __init__(self, event: str, database: Path) -> None:
        super().__init__(event, database)
        self.reached, self.released = threading.Event(), threading.Event()

    def strike(self) -> None:
        self.reached.set()
        self.released.wait(DEADLINE)


async def test_a_queued_turn_is_cancelled_as_the_run_ends(serve: Serve, provider: Provider, dies: Dies) -> None:
    """Its end says nothing of the thread: not that it is busy, nor that it waits for nobody."""
    served = await serve("asking_graphs:asking")
    socket = await served.attach("t1")
    await socket.turn("/tokens 2")
    hold = dies("1 before commit .*UPDATE runs SET status = \\?", Hold)
    assert isinstance(hold, Hold)
    await socket.ask("send", content=ASKS)
    queued = await socket.ask("send", content="/tokens 2")
    await eventually(hold.reached.is_set, "the run's end is being written")
    await socket.command("cancel", run_id=queued["run_id"])
    for _ in range(3):
        await socket.ask("ping")
    hold.released.set()
    await socket.until("run_finished", run_id=queued["run_id"])
    async with served.session.get(f"{served.url}/threads/t1") as response:
        found = await response.json()
    assert found["status"] == "interrupted"
    assert found["interrupts"]


class Left(Hold):
    """The same, and then it goes on."""

    def leave(self) -> None:
        """The file as it is now, in a copy."""
        Death.strike(self)


async def test_a_cancel_is_not_forgotten(serve: Serve, provider: Provider, dies: Dies) -> None:
    """A turn that was cancelled before it had started is not begun by the next server: the cancel was acknowledged."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    [*_, first] = await socket.turn("/tokens 2", message_id="m0")
    # The thread goes back; the turn has not started.
    held = dies("1 before commit .*INTO checkpoints", Left)
    assert isinstance(held, Left)
    ack = await socket.ask("regenerate")
    await eventually(held.reached.is_set, "it goes back")
    await socket.command("cancel", id="stop", run_id=ack["run_id"])
    for _ in range(3):
        await socket.ask("ping")
    if not any(frame.get("id") == "stop" for frame in socket.frames):
        # It waits for the disk, and a copy of that is to be made as soon as the cancel is on it.
        death = dies("1 after commit .*UPDATE runs SET reason")
        held.released.set()
        await socket.until("ack", id="stop")
    else:
        held.leave()
        held.released.set()
        death = held
    again = await after(death, serve, "graphs:openai")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    ended = await log.until("run_finished", run_id=ack["run_id"])
    assert (ended["status"], ended["reason"]) == ("cancelled", "client")
    assert [f["run_id"] for f in log.of("run_started")] == [first["run_id"]]
    assert len(await again.history("t1")) == 2
    assert (await log.turn("/tokens 2"))[-1]["status"] == "completed"


@pytest.mark.parametrize("by", ["cancel", "interrupt", "rollback"])
async def test_a_run_dies_as_it_is_stopped(serve: Serve, provider: Provider, dies: Dies, by: str) -> None:
    """That its node was cancelled is in the checkpointer, and its end is not: nothing has failed."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    run = await socket.ask("send", content=ENDLESS, message_id="m0")
    token = await socket.until("token")
    # What the graph wrote before it is on disk, too.
    await eventually(lambda: journaled(served) >= token["seq"], "it is in the journal")
    death = dies("1 after commit .*INTO writes")
    if by == "cancel":
        await socket.ask("cancel")
    else:
        await socket.ask("send", content="/tokens 2", multitask_strategy=by, message_id="m1")
    log = await whole_log(await after(death, serve, "graphs:openai"), socket)
    ended = log.of("run_finished")[0]
    assert ended["run_id"] == run["run_id"]
    assert (ended["status"], ended["reason"]) == (
        ("cancelled", "superseded") if by == "rollback" else ("lost", "crash")
    )
    assert (await log.turn("/tokens 2"))[-1]["status"] == "completed"


@pytest.mark.parametrize(
    ("answers", "status", "event"),
    [
        (["yes"], "interrupted", "1 before commit .*UPDATE runs SET status = \\?"),
        (["yes", "fail"], "failed", "1 after commit .*INTO writes"),
        # What it had the answer to is all that is there.
        (["yes"], "lost", "1 before commit .*INTO writes"),
    ],
)
async def test_a_run_dies_as_it_asks_again(
    serve: Serve, dies: Dies, answers: list[str], status: str, event: str
) -> None:
    """A run that asks, or fails, in the very step that its answer went on with: no checkpoint is its own."""
    served = await serve("asking_graphs:twice")
    socket = await served.attach("t1")
    await socket.turn("hi")
    for answer in answers[:-1]:
        [question] = socket.of("interrupt")[-1]["interrupts"]
        run = await socket.ask("respond", responses={question["id"]: answer})
        await socket.until("run_finished", run_id=run["run_id"], status="interrupted")
    [question] = socket.of("interrupt")[-1]["interrupts"]
    death = dies(event)
    run = await socket.ask("respond", responses={question["id"]: answers[-1]})
    await socket.until("run_finished", run_id=run["run_id"])
    again = await after(death, serve, "asking_graphs:twice")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    ended = next((f for f in log.of("run_finished") if f["run_id"] == run["run_id"]), None)
    assert (ended or await log.until("run_finished", run_id=run["run_id"]))["status"] == status
    if status == "interrupted":
        [question] = log.of("interrupt")[-1]["interrupts"]
        assert question["id"] == socket.of("interrupt")[-1]["interrupts"][0]["id"]
        last = await log.ask("respond", responses={question["id"]: "no"})
        assert (await log.until("run_finished", run_id=last["run_id"]))["status"] == "completed"
        assert (await again.history("t1"))[-1]["content"] == "yes no"
    else:
        assert (await log.turn("hi"))[-1]["status"] == "interrupted"


async def test_a_message_that_was_left_is_told(serve: Serve, provider: Provider, dies: Dies) -> None:
    """A superseded turn has left its message, and its client cancels it: the next server says that it is there."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    first = await socket.ask("send", content=ENDLESS, message_id="m0")
    await socket.until("token")
    waits = await socket.ask("send", content="/tokens 2", message_id="m1")
    # Two that make the first run's thread whole, then the one with the message.
    held = dies("3 before commit .*INTO checkpoints", Hold)
    assert isinstance(held, Hold)
    await socket.ask("send", content="/tokens 2", message_id="m2", multitask_strategy="interrupt")
    await socket.until("run_finished", run_id=first["run_id"])
    await eventually(held.reached.is_set, "it leaves its message")
    await socket.command("cancel", id="stop", run_id=waits["run_id"])
    await socket.ask("ping")
    death = dies("1 after commit .*UPDATE runs SET reason")
    held.released.set()
    await socket.until("ack", id="stop")
    again = await after(death, serve, "graphs:openai")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    while [f["status"] for f in log.of("run_finished")] != ["cancelled", "cancelled", "completed"]:
        await log.until("run_finished")
    users = [m["id"] for m in await again.history("t1") if m["role"] == "user"]
    assert [f["message"]["id"] for f in log.of("message")] == users == ["m0", "m1", "m2"]


async def test_a_message_that_was_left_is_its_turns(serve: Serve, provider: Provider, dies: Dies) -> None:
    """A turn whose message a dead process had left runs after all: the message is that turn's, lost or edited away."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    first = await socket.ask("send", content=ENDLESS, message_id="m0")
    await socket.until("token")
    runs = await socket.ask("send", content=ENDLESS, message_id="m1")
    # Two that make the first run's thread whole, then the one with the message.
    death = dies("3 after commit .*INTO checkpoints")
    await socket.ask("send", content="/tokens 2", message_id="m2", multitask_strategy="interrupt")
    await socket.until("run_finished", run_id=first["run_id"])
    left: Path = await eventually(lambda: death.left, "it dies")
    with sqlite3.connect(left) as connection:
        # As if the one that superseded it had been cancelled in that moment.
        connection.execute("DELETE FROM texts WHERE message_id = 'm2'")
        connection.execute("DELETE FROM runs WHERE message_id = 'm2'")
    connection.close()
    database = moved(left)
    second = await serve("graphs:openai", database=database)
    epoch = socket.frames[0]["epoch"]
    log = await second.attach("t1", after=0, epoch=epoch)
    token = await log.until("token", run_id=runs["run_id"])
    await eventually(lambda: journaled(second) >= token["seq"], "it is in the journal")
    death = dies("1 after commit .*INSERT OR REPLACE INTO frames")
    death._database = database
    third = await after(death, serve, "graphs:openai")
    log = await third.attach("t1", after=0, epoch=epoch)
    ended = await log.until("run_finished", run_id=runs["run_id"])
    history = await third.history("t1")
    assert ended["status"] == "lost"
    assert [m["role"] for m in history] == ["user", "assistant", "user", "assistant"]
    assert ended["messages"] == history[2:]
    edit = await log.ask("edit", message_id="m1", content="/tokens 2")
    await log.until("run_finished", run_id=edit["run_id"], status="completed")
    assert log.of("messages_removed")[-1]["message_ids"] == [m["id"] for m in history[2:]]
    assert [m["id"] for m in await third.history("t1")][:-1] == [*(m["id"] for m in history[:2]), edit["message_id"]]


async def test_a_message_that_was_told_is_left(serve: Serve, provider: Provider, tmp_path: Path) -> None:
    """A cancelled turn had not started, but had told its message as it was given up: that is there."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    [*_, ended] = await socket.turn("/tokens 2", message_id="m0")
    cancelled, message = str(uuid.uuid4()), {"id": "m1", "role": "user", "content": "hello"}
    left = tmp_path / "left.db"
    with sqlite3.connect(served.database) as source, sqlite3.connect(left) as connection:
        source.backup(connection)
        queued(connection, cancelled, "m1", "hello", reason="client")
        frame = json.dumps({"type": "message", "message": message, "seq": ended["seq"] + 1})
        connection.execute("INSERT INTO frames VALUES ('t1', ?, ?, '[[1,null]]')", (ended["seq"] + 1, frame.encode()))
        connection.execute("UPDATE logs SET last = ?", (ended["seq"] + 1,))
    source.close()
    connection.close()
    again = await serve("graphs:openai", database=left)
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    end = await log.until("run_finished", run_id=cancelled)
    assert (end["status"], end["reason"]) == ("cancelled", "client")
    assert [m["id"] for m in await again.history("t1") if m["role"] == "user"] == ["m0", "m1"]


async def test_what_asked_is_rolled_back(serve: Serve, provider: Provider, dies: Dies) -> None:
    """A run died as it asked, while a turn waited to take its place: it is undone, and its calls have their results."""
    served = await serve("asking_graphs:both")
    socket = await served.attach("t1")
    death = dies("1 before commit .*UPDATE runs SET status = \\?")
    asks = await socket.ask("send", content=f'{ASKS}\n/tool add {{"a": 1, "b": 2}}', message_id="m0")
    left: Path = await eventually(lambda: death.left, "it dies")
    undoes = str(uuid.uuid4())
    with sqlite3.connect(left) as connection:
        queued(connection, undoes, "m1", "/tokens 2", multitask_strategy="rollback")
    connection.close()
    again = await after(death, serve, "asking_graphs:both")
    log = await again.attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    assert (await log.until("run_finished", run_id=undoes))["status"] == "completed"
    ended = next(f for f in log.of("run_finished") if f["run_id"] == asks["run_id"])
    assert (ended["status"], ended["reason"]) == ("cancelled", "superseded")
    assert {f["id"] for f in log.of("tool_result")} == {f["id"] for f in log.of("tool_call")}
    assert [m["id"] for m in await again.history("t1") if m["role"] == "user"] == ["m1"]
    assert (await again.attach("t1")).frames[0]["interrupts"] == []


@pytest.mark.parametrize("pruned", [False, True])
async def test_what_has_just_asked_is_rolled_back(serve: Serve, provider: Provider, dies: Dies, pruned: bool) -> None:
    """A turn takes the place of a run in the moment in which that asks: it is undone, and its calls have results."""
    served = await serve("asking_graphs:asking")
    socket = await served.attach("t1")
    await socket.turn("/tokens 2", message_id="m0")
    asks = await socket.ask("send", content=ASKS, message_id="m1")
    call = await socket.until("tool_call")
    # What the graph waits for is being read.
    hold = dies("1 before SELECT .*FROM checkpoints", Hold)
    assert isinstance(hold, Hold)
    if pruned:
        forget_turns(served)
    await eventually(hold.reached.is_set, "it has asked")
    undoes = await socket.ask("send", content="/tokens 2", multitask_strategy="rollback", message_id="m2")
    hold.released.set()
    assert (await socket.until("run_finished", run_id=undoes["run_id"]))["status"] == "completed"
    ended = next(f for f in socket.of("run_finished") if f["run_id"] == asks["run_id"])
    assert (ended["status"], ended["reason"]) == ("cancelled", "superseded")
    [result] = socket.of("tool_result")
    assert (result["id"], result["status"]) == (call["id"], "error")
    assert [m["id"] for m in await served.history("t1") if m["role"] == "user"] == ["m0", "m2"]
    for request in await provider.requests():
        check_request(request["messages"])
