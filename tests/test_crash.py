"""kill -9: what a server that was killed leaves to the next, as its clients see it."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conftest import Servers
from harness import Provider, Served, Socket, eventually

GRAPHS = Path(__file__).parent
#: At the provider's 200 tokens/s longer than any test.
LONG = "/tokens 100000"
UNDOES = "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f"


def seen(socket: Socket) -> dict[int, bytes]:
    """The frames of the thread's log that a client has, by number."""
    pairs = zip(socket.frames, socket.raw, strict=True)
    kinds = ("ready", "history", "pong", "ack", "error", "goaway", "gap")
    return {frame["seq"]: raw for frame, raw in pairs if frame["type"] not in kinds}


async def journaled(served: Served, thread_id: str, seq: int) -> None:
    """Wait until the frame of that number is on disk."""

    def last() -> bool:
        with sqlite3.connect(f"file:{served.database}?mode=ro", uri=True) as connection:
            rows = connection.execute("SELECT last FROM logs WHERE thread_id = ?", (thread_id,)).fetchall()
        connection.close()
        return bool(rows) and rows[0][0] >= seq

    await eventually(last, f"frame {seq} of {thread_id} is in the journal")


async def integrity(served: Served) -> None:
    with sqlite3.connect(served.database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


async def test_killed_in_mid_answer(servers: Servers, session: aiohttp.ClientSession, provider: Provider) -> None:
    """The same log in the same epoch, what was said kept as `lost`, one run_finished that says so, and on it goes."""
    first = servers("first")
    await first.start(f"{GRAPHS}/graphs.py:openai")
    served = first.served(session)
    socket = await served.attach("t1")
    await socket.turn("/tokens 3", message_id="m0")
    ack = await socket.ask("send", content=LONG, message_id="m1")
    for _ in range(50):
        token = await socket.until("token")
    await journaled(served, "t1", token["seq"])
    first.signal(signal.SIGKILL)
    await first.ended()
    await integrity(served)

    second = servers("second")
    await second.start(f"{GRAPHS}/graphs.py:openai")
    served = second.served(session)
    epoch = socket.frames[0]["epoch"]
    back = await served.attach("t1", after=token["seq"], epoch=epoch)
    assert (back.frames[0]["resume"], back.frames[0]["epoch"]) == ("replayed", epoch)
    finished = await back.until("run_finished", run_id=ack["run_id"])
    assert (finished["status"], finished["reason"]) == ("lost", "crash")
    # What was already seen comes again byte for byte, and ends where the journal ended.
    whole = await served.attach("t1", after=0, epoch=epoch)
    await whole.until("run_finished", run_id=ack["run_id"])
    old, new = seen(socket), seen(whole)
    assert all(new[seq] == raw for seq, raw in old.items() if seq <= token["seq"])
    assert sorted(new) == list(new)
    assert [f["run_id"] for f in whole.of("run_finished")].count(ack["run_id"]) == 1
    # The thread has it, under the id its tokens had, and says what became of it.
    history = (await whole.ask("history"))["messages"]
    assert [(m["role"], m.get("status")) for m in history[2:]] == [("user", None), ("assistant", "lost")]
    assert history[3]["id"] == token["message_id"]
    assert history[3]["content"] == whole.text(ack["run_id"])
    assert history[3]["content"].startswith(socket.text(ack["run_id"])[: len(history[3]["content"])])
    assert finished["messages"] == history[2:]
    # A command that is said again is known, and the next turn works.
    repeat = await whole.ask("send", content=LONG, message_id="m1", run_id=ack["run_id"])
    assert (repeat["type"], repeat["duplicate"]) == ("ack", True)
    assert (await whole.turn("/tokens 3"))[-1]["status"] == "completed"
    sent = (await provider.requests())[-1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "user", "assistant", "user"]


async def test_killed_in_many_ways_at_once(
    servers: Servers, session: aiohttp.ClientSession, provider: Provider
) -> None:
    """Threads in all sorts of states, one kill: each is itself again, and its provider takes the next turn."""
    graph = f"{GRAPHS}/asking_graphs.py:both"
    first = servers("first")
    await first.start(graph, RUNS__DISCONNECT_GRACE_SECONDS="60")
    served = first.served(session)

    tool = await served.attach("tool")
    await tool.command("send", content='/tool add {"a": 1, "b": 2}\n/tool hang {}')
    last = await tool.until("tool_call", name="hang")
    await journaled(served, "tool", last["seq"])

    asks = await served.attach("asks")
    await asks.command("send", content='/tool confirm {"what": "it"}')
    await asks.until("run_finished", status="interrupted")

    queue = await served.attach("queue")
    await queue.command("send", content=LONG, message_id="q0")
    await queue.until("token")
    waits = [await queue.ask("send", content=f"/tokens {n}", message_id=f"q{n}") for n in (1, 2)]
    dropped = await queue.ask("send", content="/tokens 4", message_id="q4")
    assert (await queue.ask("cancel", run_id=dropped["run_id"]))["type"] == "ack"

    undone = await served.attach("undone")
    await undone.command("send", content=LONG, message_id="u0")
    await undone.until("token")

    silent = await served.attach("silent")
    await silent.command("send", content=f"{LONG}\n/first-token-ms 100000", message_id="s0")
    await silent.until("message")

    first.signal(signal.SIGKILL)
    await first.ended()
    await integrity(served)
    with sqlite3.connect(served.database) as connection:
        # A turn that takes the place of the one that was running, acknowledged in the moment of the kill.
        request = json.dumps({"content": "/tokens 2", "multitask_strategy": "rollback"})
        connection.execute(
            "INSERT INTO runs"
            " (run_id, thread_id, trigger, message_id, request, on_disconnect, created_at, status, turn)"
            " VALUES (?, 'undone', 'send', 'u1', ?, 'cancel', 1, 'queued', 'u1')",
            (UNDOES, request),
        )
    connection.close()

    second = servers("second")
    await second.start(graph, RUNS__DISCONNECT_GRACE_SECONDS="60")
    served = second.served(session)

    async def back(socket: Socket) -> Socket:
        ready = socket.frames[0]
        again = await served.attach(ready["thread_id"], after=0, epoch=ready["epoch"])
        assert again.frames[0]["resume"] == "replayed", again.frames[0]
        return again

    # A tool that hung: its call is closed, the finished one keeps its result.
    tool = await back(tool)
    assert (await tool.until("run_finished"))["status"] == "lost"
    results = {f["name"]: f["status"] for f in tool.of("tool_result")}
    assert results == {"add": "ok", "hang": "error"}
    assert len(tool.of("tool_result")) == len(tool.of("tool_call")) == 2
    assert (await tool.turn("/tokens 2"))[-1]["status"] == "completed"
    assert_accepted((await provider.requests())[-1]["messages"])

    # A question is still asked, and can be answered.
    asks = await back(asks)
    [question] = asks.frames[0]["interrupts"]
    assert asks.frames[0]["run"]["status"] == "interrupted"
    answer = await asks.ask("respond", responses={question["id"]: "yes"})
    assert (await asks.until("run_finished", run_id=answer["run_id"]))["status"] == "completed"
    assert asks.of("tool_result")[-1]["result"] == "it: yes"

    # The queue is what it was, in its order; what was cancelled in it stays cancelled.
    queue = await back(queue)
    for ack in waits:
        assert (await queue.until("run_finished", run_id=ack["run_id"]))["status"] == "completed"
    assert [f["status"] for f in queue.of("run_finished")] == ["cancelled", "lost", "completed", "completed"]
    history = (await queue.ask("history"))["messages"]
    assert [m["id"] for m in history if m["role"] == "user"] == ["q0", "q1", "q2"]

    # What was to be rolled back is.
    undone = await back(undone)
    await undone.until("run_finished", run_id=UNDOES, status="completed")
    assert "u0" in undone.of("messages_removed")[0]["message_ids"]
    assert [m["id"] for m in (await undone.ask("history"))["messages"] if m["role"] == "user"] == ["u1"]

    # A turn that had said nothing leaves its message and no answer.
    silent = await back(silent)
    finished = await silent.until("run_finished")
    assert [m["id"] for m in finished["messages"]] == ["s0"]
    assert [m["id"] for m in (await silent.ask("history"))["messages"]] == ["s0"]
    assert (await silent.turn("/tokens 2"))[-1]["status"] == "completed"


def assert_accepted(messages: list[dict[str, Any]]) -> None:
    """Each tool call is followed by its result, none is orphaned."""
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
        else:
            assert not waiting
        waiting |= {call["id"] for call in message.get("tool_calls") or ()}
    assert not waiting


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        # The graph is done and its checkpoint written; that the run is, is not.
        ("UPDATE runs SET status = ?", "completed"),
        ("INSERT OR REPLACE INTO checkpoints", "lost"),
    ],
)
async def test_killed_at_a_statement(
    servers: Servers, session: aiohttp.ClientSession, provider: Provider, statement: str, status: str
) -> None:
    """A run whose outcome the checkpointer has is finished with that, and its clients get what they had not heard."""
    first = servers("first")
    await first.start(f"{GRAPHS}/graphs.py:openai", kill_at=statement)
    served = first.served(session)
    socket = await served.attach("t1")
    ack = await socket.ask("send", content="/tokens 20", message_id="m0")
    assert await first.ended() == -signal.SIGKILL
    second = servers("second")
    await second.start(f"{GRAPHS}/graphs.py:openai")
    back = await second.served(session).attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    finished = await back.until("run_finished", run_id=ack["run_id"])
    assert finished["status"] == status
    history = (await back.ask("history"))["messages"]
    told = {m["message"]["id"]: m["message"]["content"] for m in back.of("message")}
    for message in history:
        assert told.get(message["id"], back.text()) == message["content"]
    assert [m["role"] for m in history] == (["user", "assistant"] if status == "completed" else ["user"])
    assert (await back.turn("/tokens 2"))[-1]["status"] == "completed"


async def test_killed_again_and_again_while_it_recovers(
    servers: Servers, session: aiohttp.ClientSession, provider: Provider
) -> None:
    """Recovery that is cut off at each of its writes is done over, and ends the same."""
    graph = f"{GRAPHS}/asking_graphs.py:both"
    first = servers("first")
    await first.start(graph, RUNS__DISCONNECT_GRACE_SECONDS="60")
    served = first.served(session)
    socket = await served.attach("t1")
    ack = await socket.ask("send", content='/tool add {"a": 1, "b": 2}\n/tool hang {}', message_id="m0")
    last = await socket.until("tool_result", name="add")
    await journaled(served, "t1", last["seq"])
    first.signal(signal.SIGKILL)
    await first.ended()
    # The update that clears what is pending, the one that closes the calls, the journal's, the run's end.
    for number, statement in enumerate(
        ["INSERT OR REPLACE INTO checkpoints", "2 INSERT OR REPLACE INTO checkpoints", "INSERT OR REPLACE INTO frames"]
    ):
        server = servers(f"again{number}")
        await server.launch(graph, "--port", "0", kill_at=statement)
        assert await server.ended() == -signal.SIGKILL, statement
    final = servers("final")
    await final.start(graph)
    back = await final.served(session).attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    await back.until("run_finished", run_id=ack["run_id"], status="lost")
    assert {f["id"]: f["status"] for f in back.of("tool_result")}.keys() == {f["id"] for f in back.of("tool_call")}
    assert (await back.turn("/tokens 2"))[-1]["status"] == "completed"
    assert len(back.of("run_finished")) == 2
    assert_accepted((await provider.requests())[-1]["messages"])


async def test_killed_as_it_asks(servers: Servers, session: aiohttp.ClientSession, provider: Provider) -> None:
    """The question is asked and its call told, once, though the process had told neither; it can be answered."""
    graph = f"{GRAPHS}/asking_graphs.py:both"
    first = servers("first")
    await first.start(graph, kill_at="UPDATE runs SET status = ?", LOG__JOURNAL_INTERVAL_SECONDS="60")
    socket = await first.served(session).attach("t1")
    await socket.command("send", content='/tool confirm {"what": "it"}')
    await first.ended()
    second = servers("second")
    await second.start(graph)
    back = await second.served(session).attach("t1", after=0, epoch=socket.frames[0]["epoch"])
    if not back.of("run_finished"):
        await back.until("run_finished", status="interrupted")
    [call] = back.of("tool_call")
    [question] = back.of("interrupt")[-1]["interrupts"]
    answer = await back.ask("respond", responses={question["id"]: "yes"})
    assert (await back.until("run_finished", run_id=answer["run_id"]))["status"] == "completed"
    assert [(f["id"], f["result"]) for f in back.of("tool_result")] == [(call["id"], "it: yes")]


async def test_killed_as_it_takes_an_answer(
    servers: Servers, session: aiohttp.ClientSession, provider: Provider
) -> None:
    """The run that had the answer is lost, the call that asked is closed, and the next turn works."""
    graph = f"{GRAPHS}/asking_graphs.py:both"
    first = servers("first")
    await first.start(graph, kill_at="INSERT OR REPLACE INTO writes")
    # The question is such a write.
    first_socket = await first.served(session).attach("t1")
    await first_socket.command("send", content='/tool confirm {"what": "it"}', message_id="m0")
    await first.ended()
    second = servers("second")
    await second.start(graph)
    socket = await second.served(session).attach("t1", after=0, epoch=first_socket.frames[0]["epoch"])
    assert (await socket.until("run_finished"))["status"] == "lost"
    await socket.command("send", content='/tool confirm {"what": "that"}', message_id="m1")
    await socket.until("run_finished", status="interrupted")
    [question] = socket.of("interrupt")[-1]["interrupts"]
    second.signal(signal.SIGTERM)
    assert await second.ended() == 0
    third = servers("third")
    await third.start(graph, kill_at="INSERT OR IGNORE INTO writes")
    socket = await third.served(session).attach("t1")
    assert socket.frames[0]["interrupts"][0]["id"] == question["id"]
    answer = await socket.ask("respond", responses={question["id"]: "yes"})
    await third.ended()
    last = servers("last")
    await last.start(graph)
    back = await last.served(session).attach("t1", after=0, epoch=first_socket.frames[0]["epoch"])
    assert (await back.until("run_finished", run_id=answer["run_id"]))["status"] == "lost"
    assert {f["id"] for f in back.of("tool_result")} == {f["id"] for f in back.of("tool_call")}
    assert len(back.of("tool_result")) == len(back.of("tool_call")) >= 1
    assert (await back.turn("/tokens 2"))[-1]["status"] == "completed"
    assert_accepted((await provider.requests())[-1]["messages"])


async def test_a_number_is_never_given_twice(servers: Servers, session: aiohttp.ClientSession) -> None:
    """What a client saw and the journal had not is a gap after the restart, however much comes later."""
    first = servers("first")
    await first.start(LOG__JOURNAL_INTERVAL_SECONDS="60")
    socket = await first.served(session).attach("t1")
    await socket.command("send", content="/tokens 100000\n/tokens-per-second 500")
    for _ in range(20):
        token = await socket.until("token")
    first.signal(signal.SIGKILL)
    await first.ended()
    second = servers("second")
    await second.start()
    served = second.served(session)
    epoch = socket.frames[0]["epoch"]
    for _ in range(2):
        back = await served.attach("t1", after=token["seq"], epoch=epoch, history=10)
        assert back.frames[0]["resume"] == "gap"
        assert back.frames[0]["epoch"] == epoch
        assert (await back.next())["type"] == "history"
        gap = await back.next()
        assert (gap["type"], gap["requested"]) == ("gap", token["seq"] + 1)
        frames = await back.turn("hi")
        numbers = [f["seq"] for f in frames if f["type"] in ("run_started", "token", "run_finished")]
        assert min(numbers) > token["seq"]
