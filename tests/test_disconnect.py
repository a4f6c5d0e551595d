"""Leaving, coming back, repeating and queueing: what becomes of a thread's turns."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import WSMsgType

from conftest import Serve
from harness import Provider, Served, Socket, eventually
from threadwire.connector import CONNECTIONS
from threadwire.http import HUB

#: Longer than any test; it must be stopped.
ENDLESS = "/tokens 100000\n/tokens-per-second 100"
#: Longer than the graces below, and no longer than a test may take.
ONE_SECOND = "/tokens 100\n/tokens-per-second 100"
#: A grace nobody waits for: what ends a run within a test's deadline did not wait for it.
NEVER = {"disconnect_grace_seconds": 600}

Leave = Callable[[Socket], Awaitable[Any]]


async def close(socket: Socket) -> None:
    """As ``socket.close()`` of a page does when it says 1000."""
    await socket.ws.close(code=1000)


async def close_without_code(socket: Socket) -> None:
    """As ``socket.close()`` does."""
    await socket.ws._writer.send_frame(b"", WSMsgType.CLOSE)
    await socket.ws.close()


async def go_away(socket: Socket) -> None:
    """As a browser does when its page is reloaded, left or closed."""
    await socket.ws.close(code=1001)


async def vanish(socket: Socket) -> None:
    """As a train does in a tunnel."""
    await socket.vanish()


def new_id() -> str:
    return str(uuid.uuid4())


async def idle(served: Served) -> None:
    """Wait until no thread has work in hand."""
    await eventually(lambda: served.server.app[HUB].active == 0, "no run is active")


async def everything(served: Served, thread_id: str, epoch: str) -> Socket:
    """The thread's whole log, read again from its beginning."""
    socket = await served.attach(thread_id, after=0, epoch=epoch, on_disconnect="continue")
    assert socket.frames[0]["resume"] == "replayed"
    await socket.ask("ping")
    return socket


async def speaking(served: Served, content: str = ENDLESS, **query: Any) -> tuple[Socket, str]:
    """A socket on t1 whose run has said something, and the run's id."""
    socket = await served.attach("t1", **query)
    await socket.command("send", content=content)
    token = await socket.until("token")
    return socket, token["run_id"]


async def roles(served: Served) -> list[tuple[str, str | None]]:
    return [(message["role"], message.get("status")) for message in await served.history("t1")]


# --- the last reader leaves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [close, close_without_code])
async def test_a_deliberate_close_cancels_at_once(serve: Serve, leave: Leave) -> None:
    """A close that the client's code asked for ends the run without any grace; what was said is kept, marked."""
    served = await serve(runs=NEVER)
    socket, run_id = await speaking(served)
    epoch = socket.frames[0]["epoch"]
    await leave(socket)
    await idle(served)
    [finished] = (await everything(served, "t1", epoch)).of("run_finished")
    assert (finished["run_id"], finished["status"], finished["reason"]) == (run_id, "cancelled", "disconnect")
    [user, answer] = await served.history("t1")
    assert answer["status"] == "cancelled"
    assert answer["content"].startswith(socket.text())
    assert user["content"] == ENDLESS


@pytest.mark.parametrize("leave", [go_away, vanish])
async def test_a_loss_cancels_after_the_grace(serve: Serve, leave: Leave) -> None:
    """After any other loss the run waits for somebody, and is cancelled when nobody comes."""
    served = await serve(runs={"disconnect_grace_seconds": 0.3})
    socket, _ = await speaking(served)
    epoch, said = socket.frames[0]["epoch"], len(socket.text())
    await leave(socket)
    await idle(served)
    [finished] = (await everything(served, "t1", epoch)).of("run_finished")
    assert (finished["status"], finished["reason"]) == ("cancelled", "disconnect")
    # It went on talking meanwhile: some thirty tokens.
    assert len((await served.history("t1"))[1]["content"]) > said + 50


@pytest.mark.parametrize("leave", [go_away, vanish])
async def test_no_grace_is_at_once(serve: Serve, leave: Leave) -> None:
    """With `disconnect_grace_seconds: 0` every loss ends the run."""
    served = await serve(runs={"disconnect_grace_seconds": 0})
    socket, _ = await speaking(served)
    await leave(socket)
    await idle(served)
    assert await roles(served) == [("user", None), ("assistant", "cancelled")]


@pytest.mark.parametrize("leave", [go_away, vanish])
async def test_coming_back_in_time_keeps_the_run(serve: Serve, leave: Leave) -> None:
    """Whoever attaches within the grace finds the run going on, and nothing of it missing."""
    served = await serve(runs={"disconnect_grace_seconds": 2})
    socket, run_id = await speaking(served, "/tokens 400\n/tokens-per-second 100")
    epoch, last = socket.frames[0]["epoch"], socket.frames[-1]["seq"]
    await leave(socket)
    back = await served.attach("t1", after=last, epoch=epoch)
    assert (back.frames[0]["resume"], back.frames[0]["run"]) == ("replayed", {"run_id": run_id, "status": "running"})
    finished = await back.until("run_finished")
    assert (finished["run_id"], finished["status"]) == (run_id, "completed")
    [_, answer] = await served.history("t1")
    assert answer["content"] == socket.text() + back.text()
    assert "status" not in answer


async def test_another_tab_keeps_the_run(serve: Serve) -> None:
    """A run goes on while anybody reads its thread, though the one who asked for it has closed."""
    served = await serve(runs={"disconnect_grace_seconds": 0})
    other = await served.attach("t1")
    socket, run_id = await speaking(served, ONE_SECOND)
    await socket.ws.close()
    finished = await other.until("run_finished")
    assert (finished["run_id"], finished["status"]) == (run_id, "completed")


async def test_the_last_to_leave_decides_how_soon(serve: Serve) -> None:
    """One tab is lost, then the other closes: the close is deliberate, so nothing is waited for."""
    served = await serve(runs=NEVER)
    socket, _ = await speaking(served)
    other = await served.attach("t1")
    await socket.vanish()
    await eventually(lambda: len(served.server.app[CONNECTIONS]) == 1, "the loss is seen")
    await other.ws.close(code=1000)
    await idle(served)
    assert await roles(served) == [("user", None), ("assistant", "cancelled")]


async def test_each_loss_has_its_own_grace(serve: Serve) -> None:
    """A grace that somebody ended does not go on counting: the next loss starts a new one."""
    served = await serve(runs={"disconnect_grace_seconds": 2})
    socket, run_id = await speaking(served, "/tokens 400\n/tokens-per-second 100")
    epoch = socket.frames[0]["epoch"]
    for _ in range(6):
        last = socket.frames[-1]["seq"]
        await socket.vanish()
        socket = await served.attach("t1", after=last, epoch=epoch)
        for _ in range(40):
            await socket.until("token")
    finished = await socket.until("run_finished")
    assert (finished["run_id"], finished["status"]) == (run_id, "completed")


async def test_continue_finishes_the_run(serve: Serve) -> None:
    """`on_disconnect=continue` lets the run end by itself, and keeps it for the next visit."""
    served = await serve(runs={"disconnect_grace_seconds": 0})
    socket, _ = await speaking(served, "/tokens 30\n/tokens-per-second 100", on_disconnect="continue")
    epoch, last = socket.frames[0]["epoch"], socket.frames[-1]["seq"]
    await socket.ws.close()
    await idle(served)
    back = await served.attach("t1", after=last, epoch=epoch)
    finished = await back.until("run_finished")
    assert finished["status"] == "completed"
    [_, answer] = await served.history("t1")
    assert answer["content"] == socket.text() + back.text()


async def test_continue_is_the_configs_default_too(serve: Serve) -> None:
    """`runs.on_disconnect` is for connections that say nothing; one that says `cancel` has it its way."""
    served = await serve(runs={"disconnect_grace_seconds": 0, "on_disconnect": "continue"})
    socket, _ = await speaking(served, "/tokens 20\n/tokens-per-second 100")
    await socket.ws.close()
    await idle(served)
    assert (await roles(served))[1:] == [("assistant", None)]
    socket, _ = await speaking(served, on_disconnect="cancel")
    await socket.ws.close()
    await idle(served)
    assert (await roles(served))[3:] == [("assistant", "cancelled")]


async def test_on_disconnect_is_the_senders(serve: Serve) -> None:
    """What becomes of a run is up to the connection that started it, not to the one that leaves last."""
    served = await serve(runs={"disconnect_grace_seconds": 0})
    sender = await served.attach("t1", on_disconnect="continue")
    reader = await served.attach("t1", on_disconnect="cancel")
    await sender.command("send", content="/tokens 30\n/tokens-per-second 100")
    await reader.until("token")
    await sender.ws.close()
    await reader.ws.close()
    await idle(served)
    assert (await roles(served))[1:] == [("assistant", None)]


async def test_queued_turns_follow_their_own_on_disconnect(serve: Serve) -> None:
    """When the last reader leaves, queued turns go their own ways; each leaves its message, in order."""
    served = await serve(runs={"disconnect_grace_seconds": 0})
    goes_on, gives_up = await served.attach("t1", on_disconnect="continue"), await served.attach("t1")
    epoch = goes_on.frames[0]["epoch"]
    runs = []
    for socket, content in (
        (goes_on, "/tokens 300\n/tokens-per-second 100"),
        (gives_up, "second"),
        (goes_on, "third"),
        (gives_up, "fourth"),
    ):
        runs.append((await socket.ask("send", content=content))["run_id"])
    await goes_on.ws.close()
    await gives_up.ws.close()
    await idle(served)
    told = (await everything(served, "t1", epoch)).frames
    finished = [(f["run_id"], f["status"], f["reason"]) for f in told if f["type"] == "run_finished"]
    assert sorted(run for run, _, _ in finished) == sorted(runs)
    assert {run: (status, reason) for run, status, reason in finished} == {
        runs[0]: ("completed", None),
        runs[1]: ("cancelled", "disconnect"),
        runs[2]: ("completed", None),
        runs[3]: ("cancelled", "disconnect"),
    }
    assert [f["run_id"] for f in told if f["type"] == "run_started"] == [runs[0], runs[2]]
    history = await served.history("t1")
    assert [m["role"] for m in history] == ["user", "assistant", "user", "user", "assistant", "user"]
    assert [m["content"] for m in history if m["role"] == "user"][1:] == ["second", "third", "fourth"]
    said = [f["message"]["content"] for f in told if f["type"] == "message" and f["message"]["role"] == "user"]
    assert said == [m["content"] for m in history if m["role"] == "user"]


async def test_the_next_turn_works_after_a_queue_was_given_up(serve: Serve, provider: Provider) -> None:
    """After a close: what was said and asked is there, the provider is idle, and the next turn works."""
    served = await serve("graphs:openai", runs=NEVER)
    socket, _ = await speaking(served, "/tokens 5000")
    for content in ("second", "third"):
        await socket.ask("send", content=content)
    await socket.ws.close()
    await idle(served)
    assert (await provider.stats())["open"] == 0
    assert [role for role, _ in await roles(served)] == ["user", "assistant", "user", "user"]
    back = await served.attach("t1")
    assert back.frames[0]["queue"] == []
    assert back.frames[0]["run"] is None
    await back.turn("/tokens 3")
    sent = [m["role"] for m in (await provider.requests())[-1]["messages"]]
    assert sent == ["user", "assistant", "user", "user", "user"]


@pytest.mark.parametrize("leave", [close, vanish])
async def test_sending_and_leaving_leaves_no_run(serve: Serve, leave: Leave) -> None:
    """A client that leaves right after its send has either sent or not: the run ends, and the thread is whole."""
    served = await serve(runs={"disconnect_grace_seconds": 0})
    for _ in range(10):
        socket = await served.attach("t1")
        await socket.command("send", content=ENDLESS)
        await leave(socket)
    await idle(served)
    history = await served.history("t1")
    assert all(m["role"] == "user" or m["status"] == "cancelled" for m in history)
    if leave is close:
        assert len([m for m in history if m["role"] == "user"]) == 10
    await (await served.attach("t1")).turn("and now?")


# --- repeats ------------------------------------------------------------------------------------------------------


async def test_a_repeat_is_answered_and_not_run_again(serve: Serve) -> None:
    """The same `run_id` again, running, finished or after a restart: the first answer, marked, and nothing happens."""
    served = await serve()
    socket = await served.attach("t1")
    send = {"content": ONE_SECOND, "run_id": new_id(), "message_id": "m1"}
    first = await socket.ask("send", **send)
    assert first["type"] == "ack"
    assert "duplicate" not in first
    expected = {"run_id": send["run_id"], "message_id": "m1", "duplicate": True}

    async def repeat(on: Socket, **changed: Any) -> dict[str, Any]:
        answer = await on.ask("send", **{**send, **changed})
        return {key: answer.get(key) for key in expected}

    assert await repeat(socket) == expected
    assert await repeat(socket, run_id=send["run_id"].upper()) == expected
    other = await served.attach("t1")
    assert await repeat(other) == expected
    await socket.until("run_finished")
    assert await repeat(socket) == expected
    await served.server.close()
    again = await serve(database=served.database)
    socket = await again.attach("t1")
    assert await repeat(socket) == expected
    await socket.ask("ping")
    assert socket.of("run_started") == []
    assert [role for role, _ in await roles(again)] == ["user", "assistant"]


async def test_a_repeat_of_a_queued_turn_queues_nothing(serve: Serve) -> None:
    """Repeating a turn that waits, or was cancelled while it did, gives its answer, also where the queue is full."""
    served = await serve(runs={"max_queued": 1})
    socket, _ = await speaking(served)
    send = {"content": "later", "run_id": new_id(), "message_id": "m2"}
    assert (await socket.ask("send", **send))["type"] == "ack"
    assert (await socket.ask("send", **send))["duplicate"] is True
    assert [queued["run_id"] for queued in (await served.attach("t1")).frames[0]["queue"]] == [send["run_id"]]
    assert (await socket.ask("cancel", run_id=send["run_id"]))["type"] == "ack"
    assert (await socket.ask("send", **send))["duplicate"] is True
    assert (await served.attach("t1")).frames[0]["queue"] == []
    await socket.command("cancel")
    await socket.until("run_finished", status="cancelled", reason="client")


@pytest.mark.parametrize("when", ["running", "finished", "restarted"])
async def test_an_id_is_not_used_twice(serve: Serve, when: str) -> None:
    """The id of a run or message with other content, or with another's id, is refused and changes nothing."""
    served = await serve()
    socket = await served.attach("t1")
    run_id = new_id()
    await socket.ask("send", content=ONE_SECOND, run_id=run_id, message_id="m1")
    if when != "running":
        await socket.until("run_finished")
    if when == "restarted":
        await served.server.close()
        served = await serve(database=served.database)
        socket = await served.attach("t1")
    for wrong, name in (
        ({"content": "other", "run_id": run_id, "message_id": "m1"}, "other content"),
        ({"content": ONE_SECOND, "run_id": run_id, "message_id": "m2"}, "other message_id"),
        ({"content": ONE_SECOND, "run_id": new_id(), "message_id": "m1"}, "other run_id"),
        ({"content": ONE_SECOND, "message_id": "m1"}, "no run_id"),
        ({"content": "other", "run_id": run_id}, "other content, no message_id"),
    ):
        answer = await socket.ask("send", **wrong)
        assert (answer["type"], answer.get("code")) == ("error", "invalid_argument"), name
    if when == "running":
        await socket.until("run_finished")
    assert [role for role, _ in await roles(served)] == ["user", "assistant"]


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_answers_id_is_not_taken_for_a_question(serve: Serve, restarted: bool) -> None:
    """A `message_id` that an assistant's message has is refused: it would replace that answer."""
    served = await serve()
    socket = await served.attach("t1")
    await socket.turn("one")
    answer = (await served.history("t1"))[1]
    if restarted:
        await served.server.close()
        served = await serve(database=served.database)
        socket = await served.attach("t1")
    refused = await socket.ask("send", content="mine", message_id=answer["id"])
    assert refused["code"] == "invalid_argument"
    assert (await served.history("t1"))[1] == answer


async def test_the_id_of_an_answer_being_written_is_refused(serve: Serve) -> None:
    """The same while the answer is still being told: its id is known to every reader by then."""
    served = await serve()
    socket, _ = await speaking(served, ONE_SECOND)
    refused = await socket.ask("send", content="mine", message_id=socket.of("token")[0]["message_id"])
    assert (refused["type"], refused.get("code")) == ("error", "invalid_argument")
    await socket.until("run_finished")
    [_, answer] = await served.history("t1")
    assert (answer["role"], answer["content"]) == ("assistant", socket.text())


async def test_the_id_of_a_cut_off_answer_is_refused(serve: Serve) -> None:
    """The same for an answer that was cancelled, and was put into the thread by us."""
    served = await serve()
    socket, _ = await speaking(served)
    await socket.command("cancel")
    await socket.until("run_finished")
    before = await served.history("t1")
    refused = await socket.ask("send", content="mine", message_id=before[1]["id"])
    assert (refused["type"], refused.get("code")) == ("error", "invalid_argument")
    assert await served.history("t1") == before


async def test_another_threads_run_id_is_no_repeat(serve: Serve) -> None:
    """An id that another thread has used is answered with neither that thread's turn nor an internal error."""
    served = await serve()
    one, two = await served.attach("t1"), await served.attach("t2")
    run_id = new_id()
    await one.turn("one", run_id=run_id)
    answer = await two.ask("send", content="one", run_id=run_id)
    assert (answer["type"], answer.get("code")) in (("ack", None), ("error", "invalid_argument"))
    assert "duplicate" not in answer


# --- the queue ----------------------------------------------------------------------------------------------------


async def test_turns_are_enqueued_in_order(serve: Serve) -> None:
    """Sends during a run wait in the order they came, are told with their positions, and run one after another."""
    served = await serve()
    socket, first = await speaking(served)
    acks = [await socket.ask("send", content=f"m{number}", message_id=f"id{number}") for number in (1, 2, 3)]
    # Nothing that waits is in the thread yet.
    assert len((await socket.ask("history"))["messages"]) == 2
    other = await served.attach("t1")
    assert other.frames[0]["queue"] == [
        {"run_id": ack["run_id"], "message_id": f"id{n}", "content": f"m{n}"} for n, ack in enumerate(acks, 1)
    ]
    queued = socket.of("run_queued")
    assert [(f["run_id"], f["position"]) for f in queued] == [(a["run_id"], n) for n, a in enumerate(acks, 1)]
    assert [f["message"]["content"] for f in queued] == ["m1", "m2", "m3"]
    await socket.command("cancel")
    for ack in acks:
        await socket.until("run_finished", run_id=ack["run_id"])
    expected = [first, *(ack["run_id"] for ack in acks)]
    assert [f["run_id"] for f in socket.of("run_started")] == expected
    assert [f["run_id"] for f in socket.of("run_finished")] == expected
    order = [f["type"] for f in socket.frames if f["type"] in ("run_started", "run_finished")]
    assert order == ["run_started", "run_finished"] * 4, "at most one runs"
    assert [role for role, _ in await roles(served)] == ["user", "assistant"] * 4


async def test_a_full_queue_refuses(serve: Serve) -> None:
    """Beyond `max_queued` a send is refused with `queue_full` and leaves nothing; there is room again later."""
    served = await serve(runs={"max_queued": 2})
    socket, _ = await speaking(served)
    waiting = [await socket.ask("send", content="waits") for _ in range(2)]
    refused = await socket.ask("send", content="too many")
    assert (refused["type"], refused["code"], refused["retry"]) == ("error", "queue_full", True)
    await socket.ask("cancel", run_id=waiting[0]["run_id"])
    later = await socket.ask("send", content="now there is room")
    assert later["type"] == "ack"
    await socket.command("cancel")
    await socket.until("run_finished", run_id=later["run_id"])
    contents = [m["content"] for m in await served.history("t1") if m["role"] == "user"]
    assert contents == [ENDLESS, "waits", "now there is room"]


async def test_cancelling_a_queued_turn_leaves_no_message(serve: Serve) -> None:
    """Acknowledged at once, one run_finished, no run_started, nothing in the thread; the others move up."""
    served = await serve()
    socket, first = await speaking(served)
    runs = [(await socket.ask("send", content=f"m{number}"))["run_id"] for number in (1, 2)]
    ack = await socket.ask("cancel", run_id=runs[0])
    assert (ack["type"], ack["run_id"]) == ("ack", runs[0])
    await eventually(lambda: _finished(socket, runs[0]), "it is told")
    [finished] = [f for f in socket.of("run_finished") if f["run_id"] == runs[0]]
    assert (finished["status"], finished["reason"]) == ("cancelled", "client")
    info = (await served.attach("t1")).frames[0]
    assert (info["run"]["run_id"], [q["run_id"] for q in info["queue"]]) == (first, [runs[1]])
    assert (await socket.ask("cancel", run_id=runs[0]))["code"] == "no_active_run"
    await socket.command("cancel")
    await socket.until("run_finished", run_id=runs[1])
    assert runs[0] not in [f["run_id"] for f in socket.of("run_started")]
    assert [m["content"] for m in await served.history("t1") if m["role"] == "user"] == [ENDLESS, "m2"]


async def _finished(socket: Socket, run_id: str) -> bool:
    await socket.ask("ping")
    return any(frame["run_id"] == run_id for frame in socket.of("run_finished"))


async def test_cancel_names_what_there_is(serve: Serve) -> None:
    """Nothing runs: `no_active_run`; never seen: `no_such_run`; already ended: `no_active_run`."""
    served = await serve()
    socket = await served.attach("t1")
    assert (await socket.ask("cancel"))["code"] == "no_active_run"
    assert (await socket.ask("cancel", run_id=new_id()))["code"] == "no_such_run"
    ended = (await socket.turn("one"))[0]["run_id"]
    assert (await socket.ask("cancel", run_id=ended))["code"] == "no_active_run"
    assert (await socket.ask("cancel"))["code"] == "no_active_run"
    _, run_id = await speaking(served)
    assert (await socket.ask("cancel", run_id=ended))["code"] == "no_active_run"
    assert (await socket.ask("cancel", run_id=run_id))["run_id"] == run_id
    assert (await socket.until("run_finished", run_id=run_id))["status"] == "cancelled"


async def test_a_cancel_right_after_the_send_is_not_lost(serve: Serve) -> None:
    """A cancel that follows its send without waiting stops that run, however far it has come."""
    served = await serve()
    socket = await served.attach("t1")
    for _ in range(5):
        run_id = new_id()
        await socket.command("send", content=ENDLESS, run_id=run_id)
        await socket.command("cancel", run_id=run_id)
        finished = await socket.until("run_finished", run_id=run_id)
        assert (finished["status"], finished["reason"]) == ("cancelled", "client")
    assert len(socket.of("error")) == 0
    await socket.turn("and now?")


async def test_two_tabs_send_at_once(serve: Serve) -> None:
    """Each turn of both runs once, whole, with its own answer; both tabs see the same."""
    served = await serve("graphs:echo", runs={"max_queued": 0})
    tabs = [await served.attach("t1"), await served.attach("t1")]
    for number in range(10):
        for name, tab in zip("ab", tabs, strict=True):
            await tab.command("send", id=f"{name}{number}", content=f"{name}{number}")
    for tab in tabs:
        while len(tab.of("run_finished")) < 20:
            await tab.next()
    for name, tab in zip("ab", tabs, strict=True):
        assert [ack["id"] for ack in tab.of("ack")] == [f"{name}{number}" for number in range(10)]
        assert tab.of("error") == []
        assert set(Counter(f["run_id"] for f in tab.of("run_finished")).values()) == {1}
    assert [f for f in tabs[0].frames if f.get("seq") and f["type"] != "ready"] == [
        f for f in tabs[1].frames if f.get("seq") and f["type"] != "ready"
    ]
    history = [m["content"] for m in await served.history("t1")]
    questions, answers = history[::2], history[1::2]
    assert answers == [f"echo: {question}" for question in questions]
    for name in "ab":
        assert [q for q in questions if q.startswith(name)] == [f"{name}{number}" for number in range(10)]


async def test_every_acknowledged_run_ends_once(serve: Serve) -> None:
    """Sends, cancels and closes in any order: exactly one run_finished each, and each message at most once."""
    served = await serve(runs={"max_queued": 4, "disconnect_grace_seconds": 0})
    keeper = await served.attach("t1", on_disconnect="continue")
    rng = random.Random(7)
    acknowledged: list[str] = []

    async def client() -> None:
        for _ in range(6):
            socket = await served.attach("t1", on_disconnect=rng.choice(["cancel", "continue"]))
            for _ in range(rng.randrange(1, 4)):
                content = rng.choice(["hi", "/tokens 20\n/tokens-per-second 400", "/error"])
                ack = await socket.ask("send", content=content)
                if ack["type"] == "ack":
                    acknowledged.append(ack["run_id"])
                if rng.random() < 0.5:
                    await socket.ask("cancel", **({"run_id": rng.choice(acknowledged)} if acknowledged else {}))
            await rng.choice([close, vanish])(socket)

    reading = asyncio.create_task(_read_all(keeper))
    await asyncio.gather(*(client() for _ in range(4)))
    await idle(served)
    await keeper.command("ping", id="end")
    await reading
    assert acknowledged
    assert Counter(f["run_id"] for f in keeper.of("run_finished")) == Counter(acknowledged)
    started = Counter(f["run_id"] for f in keeper.of("run_started"))
    assert set(started.values()) == {1}
    ids = [message["id"] for message in await served.history("t1")]
    assert len(ids) == len(set(ids))
    await keeper.turn("and now?")


async def _read_all(socket: Socket) -> None:
    while socket.frames[-1].get("id") != "end":
        await socket.next()
