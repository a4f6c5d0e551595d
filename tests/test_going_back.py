"""Going back: edit, regenerate, a send from an older checkpoint, a fork."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from conftest import Serve
from harness import Provider, Served, Socket

ENDLESS = "/tokens 100000\n/tokens-per-second 200"


async def a_thread(served: Served, turns: int = 3) -> Socket:
    """A thread of a few turns; its user messages are m0, m1 and so on."""
    socket = await served.attach("t1")
    for number in range(turns):
        await socket.turn(f"question {number} /tokens 3", message_id=f"m{number}")
    return socket


async def ids(served: Served) -> list[str]:
    return [m["id"] for m in await served.history("t1")]


def prune(served: Served) -> None:
    """Leave the thread its newest checkpoint and nothing else."""
    with sqlite3.connect(served.database) as connection:
        connection.execute("DELETE FROM checkpoints WHERE checkpoint_id < (SELECT max(checkpoint_id) FROM checkpoints)")
    connection.close()


@pytest.mark.parametrize("graph", ["graphs:openai", None])
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_edit(serve: Serve, provider: Provider, graph: str | None, which: int) -> None:
    """The message has a new id and content, what followed is gone for every reader, and the provider sees it so."""
    model = {"name": "openai:simulated", "base_url": provider.base_url, "api_key": "none"}
    served = await serve(graph, model=model)
    socket = await a_thread(served)
    before = await ids(served)
    other = await served.attach("t1")
    ack = await socket.ask("edit", message_id=f"m{which}", content="instead /tokens 3")
    assert (ack["type"], ack["from"]) == ("ack", "checkpoint"), ack
    assert ack["message_id"] not in before
    for reader in (socket, other):
        await reader.until("run_finished", run_id=ack["run_id"], status="completed")
        [removed] = reader.of("messages_removed")
        assert removed["message_ids"] == before[2 * which :]
        [started] = [f for f in reader.of("run_started") if f["run_id"] == ack["run_id"]]
        assert started["trigger"] == "edit"
        [message] = [f for f in reader.of("message") if f["message"]["id"] == ack["message_id"]]
        assert removed["seq"] < message["seq"]
        assert message["seq"] == started["seq"] + 1
    now = await ids(served)
    assert now[: 2 * which + 1] == [*before[: 2 * which], ack["message_id"]]
    assert len(now) == 2 * which + 2
    sent = [m["content"] for m in (await provider.requests())[-1]["messages"] if m["role"] == "user"]
    assert sent == [*(f"question {number} /tokens 3" for number in range(which)), "instead /tokens 3"]
    # And on from there, also further back.
    again = await socket.ask("edit", message_id=ack["message_id"], content="once more /tokens 2")
    await socket.until("run_finished", run_id=again["run_id"], status="completed")
    assert await ids(served) == [*before[: 2 * which], again["message_id"], socket.of("usage")[-1]["message_id"]]


@pytest.mark.parametrize("which", [0, 1, None])
async def test_regenerate(serve: Serve, provider: Provider, which: int | None) -> None:
    """The user's message stays; its answer, and what followed, is replaced by another. Without an id: the last."""
    served = await serve("graphs:openai")
    socket = await a_thread(served)
    before = await ids(served)
    fields = {} if which is None else {"message_id": before[2 * which + 1]}
    ack = await socket.ask("regenerate", **fields)
    assert (ack["type"], ack["from"], "message_id" in ack) == ("ack", "checkpoint", False), ack
    await socket.until("run_finished", run_id=ack["run_id"], status="completed")
    kept = 2 * (2 if which is None else which) + 1
    assert socket.of("messages_removed")[-1]["message_ids"] == before[kept:]
    now = await ids(served)
    assert now[:kept] == before[:kept]
    assert len(now) == kept + 1
    assert now[-1] not in before
    sent = [m["content"] for m in (await provider.requests())[-1]["messages"]]
    assert sent[-1] == f"question {(kept - 1) // 2} /tokens 3"
    assert len(sent) == kept
    again = await socket.ask("regenerate")
    await socket.until("run_finished", run_id=again["run_id"], status="completed")
    assert (await ids(served))[:-1] == now[:-1]


@pytest.mark.parametrize("graph", ["graphs:openai", None])
async def test_where_the_checkpoint_is_gone(serve: Serve, provider: Provider, graph: str | None) -> None:
    """The messages are taken out by their ids, and the ack says so; other channels stay as they are."""
    model = {"name": "openai:simulated", "base_url": provider.base_url, "api_key": "none"}
    served = await serve(graph, model=model)
    socket = await a_thread(served)
    before = await ids(served)
    with sqlite3.connect(served.database) as connection:
        connection.execute("DELETE FROM turns")
    connection.close()
    ack = await socket.ask("edit", message_id="m1", content="instead /tokens 3")
    assert ack["from"] == "messages", ack
    await socket.until("run_finished", run_id=ack["run_id"], status="completed")
    assert socket.of("messages_removed")[-1]["message_ids"] == before[2:]
    assert (await ids(served))[:3] == [*before[:2], ack["message_id"]]
    ack = await socket.ask("regenerate", message_id=before[1])
    await socket.until("run_finished", run_id=ack["run_id"], status="completed")
    assert (await ids(served))[:1] == ["m0"]
    assert len(await ids(served)) == 2


async def test_a_pruned_checkpoint_is_gone(serve: Serve, provider: Provider) -> None:
    """What the table of turns names and the pruning took is not gone back to."""
    served = await serve("graphs:openai")
    socket = await a_thread(served)
    prune(served)
    ack = await socket.ask("edit", message_id="m1", content="instead /tokens 3")
    assert ack["from"] == "messages", ack
    assert (await socket.until("run_finished", run_id=ack["run_id"]))["status"] == "completed"
    assert [m["content"] for m in (await provider.requests())[-1]["messages"] if m["role"] == "user"] == [
        "question 0 /tokens 3",
        "instead /tokens 3",
    ]


async def test_a_send_from_a_checkpoint(serve: Serve, provider: Provider) -> None:
    """The thread goes on from there; what came after is no longer in it, but its states are not lost."""
    served = await serve("graphs:openai")
    socket = await a_thread(served)
    before = await ids(served)
    async with served.session.post(f"{served.url}/threads/t1/history", json={"limit": 100}) as response:
        states = await response.json()
    place = next(s for s in states if len(s["values"]["messages"]) == 2 and not s["next"])
    frames = await socket.turn("elsewhere /tokens 2", checkpoint_id=place["checkpoint"]["checkpoint_id"])
    assert frames[-1]["status"] == "completed"
    assert socket.of("messages_removed")[-1]["message_ids"] == before[2:]
    assert (await ids(served))[:2] == before[:2]
    assert len(await ids(served)) == 4
    async with served.session.post(f"{served.url}/threads/t1/history", json={"limit": 100}) as response:
        later = await response.json()
    assert [s["checkpoint"] for s in later[-len(states) :]] == [s["checkpoint"] for s in states]


async def test_a_checkpoint_in_the_middle_of_a_tool_call(serve: Serve, provider: Provider) -> None:
    """Its open calls are closed first: the provider takes what follows."""
    served = await serve("graphs:agent")
    socket = await served.attach("t1")
    await socket.turn('/tool add {"a": 1, "b": 2}')
    async with served.session.post(f"{served.url}/threads/t1/history", json={"limit": 100}) as response:
        states = await response.json()
    place = next(s for s in states if s["next"] == ["tools"])
    frames = await socket.turn("/tokens 2", checkpoint_id=place["checkpoint"]["checkpoint_id"])
    assert frames[-1]["status"] == "completed"
    sent = (await provider.requests())[-1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "user"]


async def test_what_cannot_be_gone_back_to(serve: Serve) -> None:
    """Each is refused by its name, and changes nothing."""
    served = await serve()
    socket = await a_thread(served, 1)
    before = await ids(served)
    for command, fields, code in (
        ("edit", {"message_id": "nobody", "content": "x"}, "no_such_message"),
        ("edit", {"message_id": before[1], "content": "x"}, "invalid_argument"),
        ("regenerate", {"message_id": "nobody"}, "no_such_message"),
        ("regenerate", {"message_id": before[0]}, "invalid_argument"),
        ("send", {"content": "x", "checkpoint_id": "nowhere"}, "no_such_checkpoint"),
    ):
        error = await socket.ask(command, **fields)
        assert (error["type"], error["code"]) == ("error", code), (command, fields, error)
    empty = await served.attach("t2")
    assert (await empty.ask("regenerate"))["code"] == "no_such_message"
    assert await ids(served) == before


async def test_while_a_run_is_active(serve: Serve) -> None:
    """`busy`: edit and regenerate wait for nobody."""
    served = await serve()
    socket = await a_thread(served, 1)
    await socket.ask("send", content=ENDLESS)
    assert (await socket.ask("edit", message_id="m0", content="x"))["code"] == "busy"
    assert (await socket.ask("regenerate"))["code"] == "busy"


async def test_repeats(serve: Serve) -> None:
    """An edit or a regenerate said again is answered as it was, and done once."""
    served = await serve()
    socket = await a_thread(served, 2)
    run_id = "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f"
    first = await socket.ask("edit", message_id="m1", content="x", run_id=run_id)
    await socket.until("run_finished", run_id=run_id)
    again = await socket.ask("edit", message_id="m1", content="x", run_id=run_id)
    assert {**again, "id": None} == {**first, "id": None, "duplicate": True}
    other = await socket.ask("edit", message_id="m1", content="y", run_id=run_id)
    assert other["code"] == "invalid_argument"
    assert len(await ids(served)) == 4


async def test_edit_drops_a_question(serve: Serve, provider: Provider) -> None:
    """Of a thread that waits for a person: the question is gone with its turn, its tool call closed."""
    served = await serve("asking_graphs:asking")
    socket = await served.attach("t1")
    await socket.turn("/tokens 2", message_id="m0")
    await socket.ask("send", content='/tool confirm {"what": "it"}', message_id="m1")
    await socket.until("run_finished", status="interrupted")
    ack = await socket.ask("edit", message_id="m1", content="/tokens 3")
    await socket.until("run_finished", run_id=ack["run_id"], status="completed")
    assert {f["id"] for f in socket.of("tool_call")} == {f["id"] for f in socket.of("tool_result")}
    assert [m["role"] for m in (await provider.requests())[-1]["messages"]] == ["user", "assistant", "user"]
    assert (await served.attach("t1")).frames[0]["interrupts"] == []


async def test_a_fork_can_go_back(serve: Serve, provider: Provider) -> None:
    """A copy of a thread knows where its turns began, and going back in it leaves the original as it is."""
    served = await serve("graphs:openai")
    await a_thread(served)
    before = await ids(served)
    async with served.session.post(f"{served.url}/threads/t1/copy") as response:
        copy = (await response.json())["thread_id"]
    socket = await served.attach(copy)
    ack = await socket.ask("edit", message_id="m1", content="in the copy /tokens 2")
    assert ack["from"] == "checkpoint"
    await socket.until("run_finished", run_id=ack["run_id"], status="completed")
    assert await ids(served) == before
    assert [m["id"] for m in await served.history(copy)][:3] == [*before[:2], ack["message_id"]]


async def test_history_in_the_middle_of_an_edit(serve: Serve) -> None:
    """Who attaches while the new answer is being written sees it, and nothing of the old one."""
    served = await serve()
    socket = await a_thread(served, 2)
    ack: dict[str, Any] = await socket.ask("edit", message_id="m0", content=ENDLESS)
    await socket.until("token", run_id=ack["run_id"])
    history = await served.history("t1")
    assert [m["role"] for m in history] == ["user", "assistant"]
    assert (history[0]["id"], history[1]["status"]) == (ack["message_id"], "running")
    await socket.ask("cancel")
    await socket.until("run_finished", run_id=ack["run_id"])
    assert await ids(served) == [ack["message_id"], history[1]["id"]]
