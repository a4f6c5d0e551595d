"""Turns that were cut off are whole: the thread keeps what was said, and its next turn works."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from conftest import Serve
from cut_graphs import gates
from harness import DEADLINE, Provider
from test_cancel import assert_paired, assert_whole, cancel, ended, fresh_gates, reached, seen_by_provider, start

__all__ = ["fresh_gates"]  # an autouse fixture


# --- shapes of graphs -----------------------------------------------------------------------------


async def test_routers_that_raise_are_not_run(serve: Serve, provider: Provider) -> None:
    """No router of the graph, at START neither, is asked about a cut-off state."""
    served = await serve("cut_graphs:routed")
    socket = await served.attach("t")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token")
    assert ended(await cancel(socket, run_id)) == ("cancelled", "client")
    history = await served.history("t")
    assert [m["role"] for m in history] == ["user", "assistant"]
    told = await seen_by_provider(served, provider, "t")
    assert [m["role"] for m in told] == ["user", "assistant", "user"]


async def test_a_join_waits_for_both_again(serve: Serve) -> None:
    """After a turn that was cut with one side of a join done, the next turn's join waits for both sides."""
    served = await serve("cut_graphs:join")
    socket = await served.attach("t")
    run_id = await start(socket, "hang")
    await reached("b")
    await cancel(socket, run_id)
    assert [m["content"] for m in await served.history("t")] == ["hang", "a"]
    await socket.turn("go")
    contents = [m["content"] for m in await served.history("t")]
    assert contents == ["hang", "a", "go", "b", "a", "c after b a"]


async def test_a_draft_is_not_put_into_the_thread(serve: Serve, provider: Provider) -> None:
    """What a finished node's model said and the node did not store stays out when a later node is cut."""
    served = await serve("cut_graphs:drafts")
    socket = await served.attach("t")
    run_id = await start(socket, "hi")
    await reached("answer")
    await cancel(socket, run_id)
    assert len(socket.of("token")) > 0
    assert [m["content"] for m in await served.history("t")] == ["hi"]


async def test_a_model_inside_a_tool(serve: Serve, provider: Provider) -> None:
    """Its tokens are sent; its text is no message of the thread when the turn is cut, its call is closed."""
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t")
    run_id = await start(socket, '/tool think {"text": "/tokens 5000"}')
    await socket.until("token")
    await cancel(socket, run_id)
    assert (await provider.stats())["open"] == 0
    assert_paired(socket.frames)
    history = await served.history("t")
    assert [m["role"] for m in history] == ["user", "assistant", "tool"]
    assert history[1]["content"] == ""
    assert_whole(await seen_by_provider(served, provider, "t"))


async def test_structured_output_as_a_call_is_never_kept(serve: Serve, provider: Provider) -> None:
    """Neither told as a tool call nor kept: it is the graph's own business."""
    served = await serve("cut_graphs:structured_by_call")
    socket = await served.attach("t")
    content = '/tool Verdict {"text": "yes"}'
    run_id = await start(socket, content)
    await reached("structured")
    await cancel(socket, run_id)
    assert socket.of("tool_call") == []
    assert [m["content"] for m in await served.history("t")] == [content]
    gates.open("structured")
    await socket.turn(content)
    assert socket.of("tool_call") == []
    assert (await served.history("t"))[-1]["content"] == "verdict: yes"


async def test_structured_output_as_text_is_never_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in mid-stream, its half of a JSON object is no message of the thread."""
    closed = asyncio.Event()

    async def complete(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in ("", '{"text": "', "one ", "two "):
            choice = {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    async with TestServer(app) as provider:
        monkeypatch.setenv("PROVIDER_URL", str(provider.make_url("/v1")))
        served = await serve("cut_graphs:structured_by_schema")
        socket = await served.attach("t")
        run_id = await start(socket, "hi")
        await socket.until("token")
        await cancel(socket, run_id)
        async with asyncio.timeout(DEADLINE):
            await closed.wait()
        assert [m["content"] for m in await served.history("t")] == ["hi"]


@pytest.mark.parametrize("durability", ["async", "exit"])
async def test_under_any_durability(serve: Serve, provider: Provider, durability: str) -> None:
    """However late the graph's work is stored: what was said is kept and the next turn works."""
    served = await serve("cut_graphs:fan_out", storage={"durability": durability})
    socket = await served.attach("t")
    await socket.turn("/tokens 2")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token", run_id=run_id)
    await cancel(socket, run_id)
    history = await served.history("t")
    assert [m["role"] for m in history[:4]] == ["user", "assistant", "assistant", "assistant"]
    contents = [m["content"] for m in history[4:]]
    assert contents[0] == "/tokens 5000"
    assert sorted(contents[1:]) == sorted(["a is done", socket.text(run_id)])
    told = await seen_by_provider(served, provider, "t")
    assert [m["role"] for m in told][-1] == "user"


async def test_a_finished_branch_is_told(serve: Serve, provider: Provider) -> None:
    """What a finished branch adds to a cut-off turn comes as a message frame, before run_finished."""
    served = await serve("cut_graphs:fan_out")
    socket = await served.attach("t")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token")
    await cancel(socket, run_id)
    told = [f["message"]["content"] for f in socket.of("message")]
    assert told == ["/tokens 5000", "a is done"]


async def test_a_conversation_that_is_replaced(serve: Serve, provider: Provider) -> None:
    """A state whose messages have no reducer keeps the turn's message beside the cut-off answer."""
    served = await serve("cut_graphs:replaced")
    socket = await served.attach("t")
    run_id = await start(socket, "/tokens 5000")
    await socket.until("token")
    await cancel(socket, run_id)
    assert [m["content"] for m in await served.history("t")] == ["/tokens 5000", socket.text()]
    assert (await socket.turn("/tokens 2"))[-1]["status"] == "completed"


# --- failures -------------------------------------------------------------------------------------


async def test_a_node_that_raises(serve: Serve, provider: Provider, capfd: Any) -> None:
    """graph_error; what was said is kept as failed; what the exception says stays in the server's log."""
    served = await serve("cut_graphs:fails")
    socket = await served.attach("t")
    finished = (await socket.turn("/tokens 5 secret\n/tokens 5"))[-1]
    assert ended(finished) == ("failed", "error")
    assert finished["error"]["code"] == "graph_error"
    assert not any(b"secret-in-exception" in data for data in socket.raw)
    history = await served.history("t")
    assert [m["role"] for m in history] == ["user", "assistant"]
    assert history[1]["content"] == socket.text()
    assert_whole(await seen_by_provider(served, provider, "t"))


@pytest.mark.parametrize(
    ("directive", "code"),
    [
        ("/status 401", "model_auth"),
        ("/status 403", "model_auth"),
        ("/status 429", "model_rate_limited"),
        ("/status 500", "model_error"),
        ("/status 400", "model_error"),
        ("/status 400 context_length_exceeded", "context_too_long"),
    ],
)
async def test_a_provider_that_refuses(serve: Serve, provider: Provider, directive: str, code: str) -> None:
    """Its status becomes the error's code; the user's message stays, and the next turn works."""
    served = await serve("graphs:openai")
    socket = await served.attach("t")
    finished = (await socket.turn(directive))[-1]
    assert ended(finished) == ("failed", "error")
    assert finished["error"]["code"] == code
    assert [m["content"] for m in await served.history("t")] == [directive]
    assert_whole(await seen_by_provider(served, provider, "t"))


async def test_a_provider_that_breaks_off(serve: Serve, provider: Provider) -> None:
    """model_error; the text so far is kept with status failed."""
    served = await serve("graphs:openai")
    socket = await served.attach("t")
    finished = (await socket.turn("/tokens 50\n/cut 5"))[-1]
    assert ended(finished) == ("failed", "error")
    assert finished["error"]["code"] == "model_error"
    answer = (await served.history("t"))[-1]
    assert (answer["role"], answer["status"], answer["content"]) == ("assistant", "failed", socket.text())
    assert len(answer["content"].split()) == 5
    told = await seen_by_provider(served, provider, "t")
    assert [m["role"] for m in told] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/html", "<html>Bad gateway</html>"), ("text/event-stream", "data: {oops\n\n")],
    ids=["a proxy's page", "half a JSON"],
)
async def test_a_provider_that_talks_nonsense(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, content_type: str, body: str
) -> None:
    """An answer with status 200 that cannot be read is the provider's failure, not the graph's."""

    async def complete(_request: web.Request) -> web.Response:
        return web.Response(text=body, content_type=content_type)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    async with TestServer(app) as provider:
        monkeypatch.setenv("PROVIDER_URL", str(provider.make_url("/v1")))
        served = await serve("graphs:openai")
        finished = (await (await served.attach("t")).turn("hi"))[-1]
    assert ended(finished) == ("failed", "error")
    assert finished["error"]["code"] == "model_error"


async def test_a_graph_without_end(serve: Serve) -> None:
    """recursion_limit; the steps it took are kept and the next turn works."""
    served = await serve("cut_graphs:forever", runs={"recursion_limit": 5})
    socket = await served.attach("t")
    finished = (await socket.turn("go"))[-1]
    assert ended(finished) == ("failed", "error")
    assert finished["error"]["code"] == "recursion_limit"
    assert (await socket.turn("stop"))[-1]["status"] == "completed"


async def test_a_graph_that_cancels_itself(serve: Serve) -> None:
    """Nobody cancelled: it failed."""
    served = await serve("cut_graphs:cancels_itself")
    socket = await served.attach("t")
    finished = (await socket.turn("hi"))[-1]
    assert ended(finished) == ("failed", "error")
    assert finished["error"]["code"] == "graph_error"
    assert (await socket.turn("fine"))[-1]["status"] == "completed"


async def test_a_tool_that_raises(serve: Serve, provider: Provider) -> None:
    """Where the graph does not handle a tool's error, its run fails, the call is closed, the secret is kept."""
    served = await serve("cut_graphs:fragile_agent")
    socket = await served.attach("t")
    finished = (await socket.turn("/tool fail {}"))[-1]
    assert finished["error"]["code"] == "graph_error"
    assert_paired(socket.frames)
    assert socket.of("tool_result")[0]["status"] == "error"
    assert not any(b"secret-in-exception" in data for data in socket.raw)
    assert [m["role"] for m in await served.history("t")] == ["user", "assistant", "tool"]
    assert_whole(await seen_by_provider(served, provider, "t"))


# --- questions ------------------------------------------------------------------------------------


async def test_a_question_stays_open(serve: Serve, provider: Provider) -> None:
    """An interrupted run's tool call waits for the answer; respond resumes it and it gets its result."""
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t")
    frames = await socket.turn('/tool ask {"question": "sure?"}')
    assert ended(frames[-1]) == ("interrupted", "interrupt")
    [asked] = socket.of("interrupt")
    [question] = asked["interrupts"]
    assert (question["value"], question["node"]) == ({"question": "sure?"}, "tools")
    assert socket.of("tool_result") == []
    ack = await socket.ask("respond", responses={question["id"]: "yes"})
    assert (await socket.until("run_finished", run_id=ack["run_id"]))["status"] == "completed"
    [result] = socket.of("tool_result")
    assert (result["result"], result["status"]) == ("answer: yes", "ok")
    assert len(socket.of("tool_call")) == 1
    assert_whole(await seen_by_provider(served, provider, "t"))


async def test_a_dropped_question_is_closed(serve: Serve, provider: Provider) -> None:
    """Cancelling a waiting thread drops the question and closes its call with an error."""
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t")
    frames = await socket.turn('/tool ask {"question": "sure?"}')
    assert frames[-1]["status"] == "interrupted"
    assert (await socket.ask("cancel"))["type"] == "ack"
    told = await seen_by_provider(served, provider, "t")
    assert_whole(told)
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "user"]
    ready = await (await served.connect("t")).next()
    assert (ready["run"], ready["interrupts"]) == (None, [])


async def test_an_answer_that_is_cancelled_at_once(serve: Serve, provider: Provider) -> None:
    """A response whose run is cancelled before its first step drops the question."""
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t")
    await socket.turn('/tool ask {"question": "sure?"}')
    [question] = socket.of("interrupt")[0]["interrupts"]
    run_id = str(uuid.uuid4())
    await socket.command("respond", responses={question["id"]: "yes"}, run_id=run_id)
    assert ended(await cancel(socket, run_id)) == ("cancelled", "client")
    told = await seen_by_provider(served, provider, "t")
    assert_whole(told)
    assert [m["role"] for m in told][:3] == ["user", "assistant", "tool"]
    assert_paired(socket.frames)


async def test_a_cut_answer_to_a_question(serve: Serve, provider: Provider) -> None:
    """A resumed run that is cut closes the call that asked."""
    served = await serve("cut_graphs:agent")
    socket = await served.attach("t")
    await socket.turn('/tool ask {"question": "sure?"}\n/tokens 5000')
    [question] = socket.of("interrupt")[0]["interrupts"]
    ack = await socket.ask("respond", responses={question["id"]: "yes"})
    await socket.until("token")
    assert ended(await cancel(socket, ack["run_id"])) == ("cancelled", "client")
    history = await served.history("t")
    assert [m["role"] for m in history] == ["user", "assistant", "tool", "assistant"]
    assert history[3]["content"] == socket.text()
    assert_whole(await seen_by_provider(served, provider, "t"))


async def test_a_model_that_uses_its_ids_again(serve: Serve) -> None:
    """A call that is cut off is closed behind itself, though an earlier one of the same id has its result."""
    served = await serve("asking_graphs:same_ids")
    socket = await served.attach("t")
    await socket.turn("add")
    for _ in range(2):
        ack = await socket.ask("send", content="hang")
        await socket.until("tool_call", run_id=ack["run_id"])
        assert ended(await cancel(socket, ack["run_id"])) == ("cancelled", "client")
    assert (await socket.turn("add"))[-1]["status"] == "completed"
    roles = [(m["role"], m.get("status")) for m in await served.history("t")]
    answered = [("user", None), ("assistant", None), ("tool", None), ("assistant", None)]
    closed = [("user", None), ("assistant", None), ("tool", "failed")]
    assert roles == [*answered, *closed, *closed, *answered]
