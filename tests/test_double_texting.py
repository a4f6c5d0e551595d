"""A message while the thread is busy, or waits for a person: the four strategies, in LangGraph's words."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Serve
from harness import Provider, Served, Socket

#: Longer than any test.
ENDLESS = "/tokens 100000\n/tokens-per-second 200"


async def speaking(served: Served, thread_id: str = "t1", **fields: Any) -> tuple[Socket, str]:
    """A client whose run is in the middle of its answer."""
    socket = await served.attach(thread_id)
    ack = await socket.ask("send", content=ENDLESS, **fields)
    await socket.until("token")
    return socket, ack["run_id"]


async def texts(served: Served, thread_id: str = "t1") -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in await served.history(thread_id)]


def ends(socket: Socket) -> dict[str, tuple[str, str | None]]:
    """How each run ended, once."""
    found = socket.of("run_finished")
    assert len({f["run_id"] for f in found}) == len(found)
    return {f["run_id"]: (f["status"], f["reason"]) for f in found}


async def checkpoints(served: Served, thread_id: str = "t1") -> list[dict[str, Any]]:
    async with served.session.post(f"{served.url}/threads/{thread_id}/history", json={"limit": 1000}) as response:
        return list(await response.json())


async def test_reject(serve: Serve) -> None:
    """A thread that is busy is left alone: `busy`, and the run goes on."""
    served = await serve()
    socket, run_id = await speaking(served)
    error = await socket.ask("send", content="now", multitask_strategy="reject")
    assert (error["type"], error["code"], error["retry"]) == ("error", "busy", True)
    assert (await socket.ask("cancel"))["run_id"] == run_id
    await socket.until("run_finished")
    assert (await socket.turn("now", multitask_strategy="reject"))[-1]["status"] == "completed"


async def test_interrupt_keeps_what_was_said(serve: Serve) -> None:
    """The run is cancelled as superseded, its text stays, and the new turn sees it."""
    served = await serve()
    socket, first = await speaking(served)
    frames = await socket.turn("next", multitask_strategy="interrupt")
    assert ends(socket)[first] == ("cancelled", "superseded")
    assert frames[-1]["status"] == "completed"
    history = await served.history("t1")
    assert [m["role"] for m in history] == ["user", "assistant", "user", "assistant"]
    assert history[1]["content"] == socket.text(first)
    assert history[1]["status"] == "cancelled"


async def test_interrupt_supersedes_the_queue(serve: Serve) -> None:
    """What waits is superseded too, in order, and leaves its messages."""
    served = await serve()
    socket, first = await speaking(served)
    waiting = [(await socket.ask("send", content=text))["run_id"] for text in ("second", "third")]
    frames = await socket.turn("last", multitask_strategy="interrupt")
    assert [f["run_id"] for f in socket.of("run_finished")] == [first, *waiting, frames[-1]["run_id"]]
    assert all(ends(socket)[run_id] == ("cancelled", "superseded") for run_id in (first, *waiting))
    assert [text for role, text in await texts(served) if role == "user"] == [ENDLESS, "second", "third", "last"]


@pytest.mark.parametrize("turns_before", [0, 2])
async def test_rollback_removes_the_turn(serve: Serve, turns_before: int) -> None:
    """Nothing of the turn is left, the thread's first one's neither: not in history, not in any state."""
    served = await serve()
    before = await served.attach("t1")
    for number in range(turns_before):
        await before.turn(f"hi {number}")
    states = await checkpoints(served) if turns_before else []
    socket, first = await speaking(served, message_id="m-gone")
    said = socket.of("token")[0]["message_id"]
    frames = await socket.turn("next", multitask_strategy="rollback", message_id="m-next")
    assert ends(socket)[first] == ("cancelled", "superseded")
    removed = next(f for f in socket.frames if f["type"] == "messages_removed")
    assert removed["run_id"] == first
    assert set(removed["message_ids"]) == {"m-gone", said}
    ended = next(f for f in socket.of("run_finished") if f["run_id"] == first)
    started = next(f for f in socket.of("run_started") if f["run_id"] == frames[-1]["run_id"])
    assert removed["seq"] < ended["seq"] < started["seq"]
    history = await served.history("t1")
    assert [m["id"] for m in history].count("m-gone") == 0
    assert [m["content"] for m in history if m["role"] == "user"][turns_before:] == ["next"]
    now = await checkpoints(served)
    assert now[len(now) - len(states) :] == states
    assert "m-gone" not in str(now[: len(now) - len(states)])


async def test_rollback_forgets_the_words(serve: Serve) -> None:
    """A thread is neither found by what was rolled back, nor named by it."""
    served = await serve()
    socket = await served.attach("t1")
    await socket.ask("send", content=f"secretword\n{ENDLESS}")
    await socket.until("token")
    await socket.turn("another name", multitask_strategy="rollback")

    async def found(text: str) -> list[Any]:
        async with served.session.post(f"{served.url}/threads/search", json={"query": text}) as response:
            return list(await response.json())

    [thread] = await found("another")
    assert thread["metadata"]["title"] == "another name"
    assert await found("secretword") == []


async def test_rollback_removes_tool_messages(serve: Serve, provider: Provider) -> None:
    """A turn in the middle of its tools goes with their calls and results; the provider sees none of it again."""
    served = await serve("graphs:agent")
    socket = await served.attach("t1")
    ack = await socket.ask("send", content='/tool add {"a": 1, "b": 2}\n/tool hang {}')
    await socket.until("tool_call", name="hang")
    frames = await socket.turn("/tokens 3", multitask_strategy="rollback")
    assert ends(socket)[ack["run_id"]] == ("cancelled", "superseded")
    assert {f["id"] for f in socket.of("tool_call")} == {f["id"] for f in socket.of("tool_result")}
    assert frames[-1]["status"] == "completed"
    sent = (await provider.requests())[-1]["messages"]
    assert [m["content"] for m in sent] == ["/tokens 3"]
    assert [role for role, _ in await texts(served)] == ["user", "assistant"]


async def test_rollback_supersedes_the_queue(serve: Serve) -> None:
    """Only the turn that ran is rolled back; what waited ends as any superseded turn, its message kept."""
    served = await serve()
    socket, first = await speaking(served)
    second = (await socket.ask("send", content="second"))["run_id"]
    await socket.turn("last", multitask_strategy="rollback")
    assert ends(socket)[second] == ends(socket)[first] == ("cancelled", "superseded")
    assert [text for role, text in await texts(served) if role == "user"] == ["second", "last"]


async def test_the_default_is_the_configs(serve: Serve) -> None:
    """`runs.multitask_strategy` is what a send that says nothing does."""
    served = await serve(runs={"multitask_strategy": "reject"})
    socket, _ = await speaking(served)
    assert (await socket.ask("send", content="now"))["code"] == "busy"
    assert (await socket.ask("send", content="now", multitask_strategy="enqueue"))["type"] == "ack"


async def test_a_superseding_turn_can_be_superseded(serve: Serve) -> None:
    """Several in a row: the last one runs, each of the others ends once."""
    served = await serve()
    socket, first = await speaking(served)
    runs = [first]
    for number in range(5):
        strategy = "interrupt" if number % 2 else "rollback"
        runs.append((await socket.ask("send", content=ENDLESS, multitask_strategy=strategy))["run_id"])
    frames = await socket.turn("last", multitask_strategy="interrupt")
    assert frames[-1]["status"] == "completed"
    assert set(ends(socket)) == {*runs, frames[-1]["run_id"]}
    assert all(end == ("cancelled", "superseded") for run_id, end in ends(socket).items() if run_id in runs)


# --- a thread that waits for a person ---------------------------------------------------------------------------------


async def asking(served: Served, thread_id: str = "t1") -> tuple[Socket, str]:
    """A client whose thread waits for an answer, with an open tool call."""
    socket = await served.attach(thread_id)
    await socket.turn("/tokens 2")
    ack = await socket.ask("send", content='/tool confirm {"what": "it"}', message_id="m-asks")
    await socket.until("run_finished", status="interrupted")
    return socket, ack["run_id"]


async def test_enqueue_waits_for_the_answer(serve: Serve, provider: Provider) -> None:
    """A message to a waiting thread runs when the question is answered."""
    served = await serve("asking_graphs:asking")
    socket, _ = await asking(served)
    ack = await socket.ask("send", content="/tokens 2")
    await socket.until("run_queued")
    question = socket.of("interrupt")[-1]["interrupts"][0]
    assert (await socket.ask("send", content="x", multitask_strategy="reject"))["code"] == "busy"
    answer = await socket.ask("respond", responses={question["id"]: "yes"})
    assert (await socket.until("run_finished"))["run_id"] == answer["run_id"]
    assert (await socket.until("run_finished", run_id=ack["run_id"]))["status"] == "completed"
    assert socket.of("tool_result")[-1]["result"] == "it: yes"


async def test_interrupt_drops_the_question(serve: Serve, provider: Provider) -> None:
    """Its tool call is closed with an error, and the provider takes what follows."""
    served = await serve("asking_graphs:asking")
    socket, _ = await asking(served)
    frames = await socket.turn("/tokens 2", multitask_strategy="interrupt")
    assert frames[-1]["status"] == "completed"
    [result] = [f for f in frames if f["type"] == "tool_result"]
    assert (result["status"], result["id"]) == ("error", socket.of("tool_call")[-1]["id"])
    sent = (await provider.requests())[-1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "user", "assistant", "tool", "user"]
    welcome = (await served.attach("t1")).frames[0]
    assert (welcome["interrupts"], welcome["run"]) == ([], None)


async def test_rollback_removes_the_question(serve: Serve, provider: Provider) -> None:
    """The whole turn that asked is gone, its tool call closed."""
    served = await serve("asking_graphs:asking")
    socket, asked = await asking(served)
    frames = await socket.turn("/tokens 2", multitask_strategy="rollback")
    assert frames[-1]["status"] == "completed"
    [removed] = [f for f in frames if f["type"] == "messages_removed"]
    assert removed["run_id"] == asked
    assert "m-asks" in removed["message_ids"]
    assert {f["id"] for f in socket.of("tool_call")} == {f["id"] for f in socket.of("tool_result")}
    sent = (await provider.requests())[-1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "user"]
    assert [m["id"] for m in await served.history("t1")].count("m-asks") == 0


async def test_rollback_removes_the_question_of_a_subgraph(serve: Serve, provider: Provider) -> None:
    """Its call, which the thread's own messages do not have, is closed too, by the run that asked."""
    served = await serve("asking_graphs:nested")
    socket, asked = await asking(served)
    frames = await socket.turn("/tokens 2", multitask_strategy="rollback")
    assert frames[-1]["status"] == "completed"
    assert [f["run_id"] for f in frames if f["type"] == "tool_result"] == [asked]
    assert {f["id"] for f in socket.of("tool_call")} == {f["id"] for f in socket.of("tool_result")}


async def test_what_waits_behind_a_question_waits_when_its_client_goes(serve: Serve, provider: Provider) -> None:
    """A queued turn that is cancelled for want of a reader does not take the question with it."""
    served = await serve("asking_graphs:asking")
    socket, _ = await asking(served)
    queued = await socket.ask("send", content="/tokens 2")
    await socket.ws.close()
    back = await served.attach("t1")
    [question] = back.frames[0]["interrupts"]
    answer = await back.ask("respond", responses={question["id"]: "yes"})
    assert (await back.until("run_finished", run_id=answer["run_id"]))["status"] == "completed"
    ended = await back.until("run_finished", run_id=queued["run_id"])
    assert (ended["status"], ended["reason"]) == ("cancelled", "disconnect")
