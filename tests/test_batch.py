"""Batches: so many inputs at once and no more, results as they finish, an end that stops everything."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from conftest import Serve
from cut_graphs import gates
from harness import Provider, Socket, eventually
from process import ServerProcess
from rawsocket import connect_raw, shrink_send_buffers
from shared_provider import provider, provider_url
from test_cancel import fresh_gates
from test_ndjson import Lines
from threadwire.batch import Batch
from threadwire.client import BatchFailed, CommandFailed, Disconnected, connect, connect_sync
from threadwire.fresh import FreshParts
from threadwire.graph import Graph, open_graph
from threadwire.stateless import FRESH

__all__ = ["fresh_gates", "provider", "provider_url"]  # fixtures

RUN = "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f"
Frames = list[dict[str, Any]]


async def batch(socket: Socket, inputs: list[Any], **fields: Any) -> Frames:
    """Run one to its end; its frames after the ack."""
    ack = await socket.ask("batch", inputs=inputs, **fields)
    assert ack["type"] == "ack", ack
    before = len(socket.frames)
    await socket.until("run_finished", run_id=ack["run_id"])
    return socket.frames[before:]


def results(frames: Frames) -> dict[int, Any]:
    """By index: the text, or the error's code."""
    return {
        frame["index"]: frame["error"]["code"] if frame.get("error") else frame["message"]["content"]
        for frame in frames
        if frame["type"] == "batch_result"
    }


async def open_is(provider: Provider, count: int) -> None:
    async def asked() -> bool:
        return bool((await provider.stats())["open"] == count)

    await eventually(asked, f"{count} requests are open")


# --- what it gives --------------------------------------------------------------------------------


async def test_each_input_is_a_run(serve: Serve) -> None:
    """A result for each input under its index, without ``seq``; then the end. Nothing is kept of them."""
    served = await serve("graphs:echo")
    socket = await served.attach("t1")
    blocks = [{"type": "text", "text": "blocks"}]
    frames = await batch(socket, ["one", "two", blocks], run_id=RUN.upper())
    assert results(frames) == {0: "echo: one", 1: "echo: two", 2: "echo: blocks"}
    assert {frame["run_id"] for frame in frames} == {RUN}
    assert all("seq" not in frame for frame in frames)
    assert (frames[-1]["status"], frames[-1]["reason"], frames[-1]["error"]) == ("completed", None, None)
    assert await served.history("t1") == []
    await socket.ws.close()
    await served.server.close()
    with sqlite3.connect(served.database) as database:
        for table in ("threads", "runs", "checkpoints", "writes"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


async def test_results_come_as_they_finish(serve: Serve, provider: Provider) -> None:
    """A slow input does not hold back the others; what they cost is added up."""
    served = await serve("graphs:openai")
    socket = await served.attach()
    frames = await batch(socket, ["/tokens 100", "/tokens 2", "/tokens 3"], max_concurrency=3)
    order = [frame["index"] for frame in frames if frame["type"] == "batch_result"]
    assert order[-1] == 0
    assert frames[-1]["usage"]["output_tokens"] == 105


async def test_an_error_is_its_inputs_alone(serve: Serve, provider: Provider) -> None:
    """One that fails says why in a sentence of ours; the others have their answers."""
    served = await serve("cut_graphs:fails")
    frames = await batch(await served.attach(), ["hello", "a secret", "/error"])
    found = results(frames)
    assert (found[1], found[2]) == ("graph_error", "model_error")
    assert found[0] not in ("graph_error", "model_error")
    assert frames[-1]["status"] == "completed"
    assert "secret-in-exception" not in repr(frames)


async def test_nobody_can_be_asked(serve: Serve) -> None:
    """A graph that waits for a person fails, and one that gives no answer says so."""
    served = await serve("thread_graphs:asking")
    assert results(await batch(await served.attach(), ["hi"])) == {0: "graph_error"}


async def test_an_input_over_its_time(serve: Serve) -> None:
    """``runs.timeout_seconds`` holds for each input by itself."""
    served = await serve("cut_graphs:gated", runs={"timeout_seconds": 0.2})
    frames = await batch(await served.attach(), ["hi"])
    assert results(frames) == {0: "timeout"}
    assert frames[-1]["status"] == "completed"


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "cap", "width"), [(3, 8, 3), (50, 4, 4), (None, 5, 5), (2, 0, 2)])
async def test_so_many_at_once(serve: Serve, provider: Provider, wanted: int | None, cap: int, width: int) -> None:
    """As many requests are open at the provider as asked for, capped by the server, and never one more."""
    served = await serve("graphs:openai", limits={"max_batch_concurrency": cap})
    frames = await batch(await served.attach(), ["/tokens 8"] * 20, max_concurrency=wanted)
    assert len(results(frames)) == 20
    stats = await provider.stats()
    assert (stats["peak"], stats["total"], stats["finished"]) == (width, 20, 20)


async def test_a_batch_that_is_too_large(serve: Serve) -> None:
    """More inputs than ``limits.batch_inputs`` are refused before any runs; ``ready`` tells the limits."""
    served = await serve("graphs:echo", limits={"batch_inputs": 2})
    socket = await served.connect()
    ready = await socket.next()
    assert (ready["limits"]["batch_inputs"], ready["limits"]["max_batch_concurrency"]) == (2, 8)
    refused = await socket.ask("batch", inputs=["a", "b", "c"])
    assert (refused["type"], refused["code"]) == ("error", "too_large")
    assert len(results(await batch(socket, ["a", "b"]))) == 2


async def test_one_at_a_time(serve: Serve) -> None:
    """A second batch on a connection is ``busy``; a repeat of one, running or ended, is not run again."""
    served = await serve("cut_graphs:gated")
    socket = await served.attach()
    await socket.ask("batch", inputs=["a"], run_id=RUN)
    assert (await socket.ask("batch", inputs=["b"]))["code"] == "busy"
    assert (await socket.ask("batch", inputs=["a"], run_id=RUN)).items() >= {"run_id": RUN, "duplicate": True}.items()
    gates.open("gated")
    await socket.until("run_finished", run_id=RUN)
    assert (await socket.ask("batch", inputs=["a"], run_id=RUN))["duplicate"] is True
    assert (await socket.ask("cancel", run_id=RUN))["code"] == "no_active_run"
    assert gates.reached == ["gated"]
    assert len(results(await batch(socket, ["a"]))) == 1


async def test_a_thread_goes_on_beside_it(serve: Serve) -> None:
    """A batch is no run of the thread: a turn runs beside it, and a ``cancel`` without an id is the turn's."""
    served = await serve("cut_graphs:gated")
    socket, other = await served.attach("t1"), await served.attach("t1")
    await socket.ask("batch", inputs=["a"], run_id=RUN)
    turn = (await socket.ask("send", content="hi"))["run_id"]
    await socket.until("run_started", run_id=turn)
    await socket.command("cancel")
    assert (await socket.until("run_finished"))["run_id"] == turn
    gates.open("gated")
    await socket.until("run_finished", run_id=RUN)
    await other.ask("ping")
    assert {frame["type"] for frame in other.frames} <= {"ready", "run_started", "message", "run_finished", "pong"}
    assert len(other.of("run_finished")) == 1, "its frames are its connection's alone"


# --- stopping -------------------------------------------------------------------------------------


async def test_cancelling_stops_all_at_once(serve: Serve, provider: Provider) -> None:
    """All open requests are closed, no new one is made, and nothing is left running."""
    served = await serve("graphs:openai")
    socket = await served.attach()
    await socket.ask("batch", inputs=["/tokens 5000"] * 40, run_id=RUN, max_concurrency=6)
    await open_is(provider, 6)
    assert (await socket.ask("cancel", run_id=RUN))["type"] == "ack"
    end = await socket.until("run_finished")
    assert (end["status"], end["reason"]) == ("cancelled", "client")
    stats = await provider.stats()
    assert (stats["open"], stats["aborted"], stats["total"]) == (0, 6, 6)
    assert socket.of("batch_result") == []
    assert not [task for task in asyncio.all_tasks() if (task.get_name() or "").startswith("batch")]


@pytest.mark.parametrize("how", ["close", "vanish"])
async def test_it_ends_with_its_connection(serve: Serve, provider: Provider, how: str) -> None:
    """A closed or lost connection stops its batch, whatever ``on_disconnect`` says of the thread's runs."""
    served = await serve("graphs:openai", runs={"disconnect_grace_seconds": 600})
    socket = await served.attach(on_disconnect="continue")
    await socket.ask("batch", inputs=["/tokens 5000"] * 10, max_concurrency=3)
    await open_is(provider, 3)
    await (socket.ws.close() if how == "close" else socket.vanish())
    await open_is(provider, 0)
    assert (await provider.stats())["total"] == 3


async def test_a_node_that_will_not_stop(serve: Serve) -> None:
    """Is given up; the batch ends all the same, and what the node writes later goes nowhere."""
    served = await serve("cut_graphs:stubborn", runs={"cancel_deadline_seconds": 0.1})
    socket = await served.attach()
    await socket.ask("batch", inputs=["stay"], run_id=RUN)
    await eventually(lambda: "never" in gates.reached)
    await socket.ask("cancel", run_id=RUN)
    assert (await socket.until("run_finished"))["status"] == "cancelled"
    gates.open_all()
    await eventually(lambda: "back" in gates.reached)
    assert len(gates.said) == 1, "its write was refused"


async def test_a_server_that_stops(serve: Serve) -> None:
    """It starts no batch while it drains, and one that does not end in time is told ``shutdown``."""
    served = await serve("cut_graphs:gated")
    socket = await served.attach()
    await socket.ask("batch", inputs=["a"], run_id=RUN)
    other = await served.attach()
    runs = served.server.app[FRESH]
    runs.drain()
    assert (await other.ask("batch", inputs=["a"]))["code"] == "shutting_down"
    closing = asyncio.create_task(served.server.close())
    end = await socket.until("run_finished")
    assert (end["run_id"], end["status"], end["reason"]) == (RUN, "cancelled", "shutdown")
    assert await socket.closed() == 1012
    await other.closed()
    await closing


async def test_a_restart_waits_for_it(
    tmp_path: Path, session: aiohttp.ClientSession, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SIGTERM a batch may finish within ``drain_seconds``: all its results come, and then the close."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    process = ServerProcess(tmp_path)
    try:
        await process.start("graphs:openai")
        socket = await process.served(session).attach()
        await socket.ask("batch", inputs=["/tokens 40"] * 3, run_id=RUN, max_concurrency=2)
        process.signal(signal.SIGTERM)
        await socket.until("goaway")
        assert (await socket.ask("batch", inputs=["late"]))["code"] in ("shutting_down", "busy")
        end = await socket.until("run_finished")
        assert (end["run_id"], end["status"]) == (RUN, "completed")
        assert len(socket.of("batch_result")) == 3
        assert await socket.closed() == 1012
        assert await process.ended() == 0
    finally:
        await process.kill()


async def test_a_client_that_does_not_read(serve: Serve) -> None:
    """Inputs wait for results to be read: what has been run is what the window and the socket hold."""
    served = await serve("stream_graphs:counted")
    shrink_send_buffers(served)
    slow = await connect_raw(served, receive_buffer=4096)
    await slow.next()
    slow.command("batch", inputs=["x"] * 500, max_concurrency=2)
    await eventually(lambda: len(gates.reached) > 5)
    # Time enough for the rest of them, if nothing held them back.
    other = await served.attach()
    for _ in range(20):
        await other.turn("hi")
    assert len(gates.reached) < 200
    count = 0
    while (await slow.next())["type"] != "run_finished":
        count += 1
    assert count == 501, "the ack and all results"
    slow.vanish()


# --- the window -----------------------------------------------------------------------------------


def parts_of(graph: Graph) -> FreshParts:
    return FreshParts(graph, lambda _fence: InMemoryStore(), 0, 5, 50)


async def test_inputs_are_taken_one_by_one() -> None:
    """An iterator of a million inputs costs the window: no more are taken than run or wait to be read."""
    taken = 0

    def inputs() -> Iterator[tuple[int, str]]:
        nonlocal taken
        for index in range(1_000_000):
            taken += 1
            yield index, f"{index}"

    async with open_graph("graphs:echo", saver=InMemorySaver()) as graph:
        work = Batch(RUN, inputs(), 4, parts_of(graph))
        async with aclosing(work.frames()) as frames:
            got = 0
            async for _ in frames:
                got += 1
                assert taken <= got + 2 * 4
                if got == 50:
                    break
        assert taken < 60


# --- over HTTP ------------------------------------------------------------------------------------


async def test_over_http(serve: Serve, provider: Provider) -> None:
    """The same, a frame a line; refusals have their status."""
    served = await serve("graphs:openai", limits={"batch_inputs": 5})
    body = {"inputs": ["/tokens 2", "/error", "/tokens 3"], "id": "b", "run_id": RUN}
    async with served.session.post(f"{served.url}/runs/batch", json=body) as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        frames = await Lines(response).all()
    assert frames[0] == {"type": "ack", "id": "b", "run_id": RUN}
    assert set(results(frames)) == {0, 1, 2}
    assert results(frames)[1] == "model_error"
    assert (frames[-1]["type"], frames[-1]["status"]) == ("run_finished", "completed")
    refusals: list[tuple[dict[str, Any], int, str]] = [
        ({"inputs": []}, 400, "invalid_argument"),
        ({"inputs": ["a"] * 6}, 413, "too_large"),
        ({"inputs": ["a"], "type": "ping"}, 400, "invalid_argument"),
        ({"inputs": ["a"], "context": {}}, 400, "invalid_argument"),
    ]
    for refused, status, code in refusals:
        async with served.session.post(f"{served.url}/runs/batch", json=refused) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (status, code), refused


@pytest.mark.parametrize("silent", [False, True], ids=["streaming", "silent"])
async def test_an_http_client_that_leaves(serve: Serve, provider: Provider, *, silent: bool) -> None:
    """Closing the response stops everything, also while there is nothing to send."""
    served = await serve("graphs:openai")
    inputs = ["/silent" if silent else "/tokens 5000", *(["/tokens 1"] * (0 if silent else 5)), "/silent", "/silent"]
    async with served.session.post(f"{served.url}/runs/batch", json={"inputs": inputs}) as response:
        await Lines(response).next()
        await open_is(provider, 3)
        response.close()
    await open_is(provider, 0)


# --- by the client --------------------------------------------------------------------------------


async def test_by_the_client(serve: Serve, provider: Provider) -> None:
    """Results as they finish, and in the order of the inputs; an error stands in its place."""
    served = await serve("graphs:openai")
    async with connect(served.url) as chat:
        work = chat.batch(["/tokens 60", "/error", "/tokens 3"], max_concurrency=3)
        assert (await work.ack()).run_id == work.run_id
        came = [result.index async for result in work]
        assert sorted(came) == [0, 1, 2]
        assert came[-1] == 0
        ordered = await work.results()
        assert [result.index for result in ordered] == [0, 1, 2]
        assert [result.error.code if result.error else None for result in ordered] == [None, "model_error", None]
        assert ordered[0].message is not None
        assert (await work.finished()).status == "completed"
        assert "echo" not in (await chat.send("/tokens 2").text())


async def test_a_cancelled_batch_by_the_client(serve: Serve) -> None:
    """``results()`` raises, with what there is; cancelling what has ended is an error."""
    served = await serve("stream_graphs:gate_named")
    async with connect(served.url) as chat:
        work = chat.batch(["through", "gated", "gated"], max_concurrency=2)
        first = await anext(aiter(work))
        assert first.index == 0
        await work.cancel()
        with pytest.raises(BatchFailed) as failed:
            await work.results()
        assert [result.index for result in failed.value.results] == [0]
        assert failed.value.finished.reason == "client"
        with pytest.raises(CommandFailed, match="no_active_run"):
            await work.cancel()
        with pytest.raises(CommandFailed, match="invalid_argument"):
            await chat.batch([]).results()


async def test_a_lost_connection_by_the_client(serve: Serve) -> None:
    """The batch is over for everybody who waits; the chat goes on."""
    served = await serve("cut_graphs:gated")
    async with connect(served.url) as chat:
        work = chat.batch(["a"])
        await work.ack()
        socket = chat._link._socket
        assert socket is not None
        transport = socket._response.connection and socket._response.connection.transport
        assert transport is not None
        transport.abort()
        with pytest.raises(Disconnected):
            await work.results()
        with pytest.raises(Disconnected):
            async for _ in work:
                pass
        gates.open("gated")
        assert await chat.send("hi").text() == "through"


async def test_without_async(serve: Serve) -> None:
    """The synchronous face has all of it."""
    served = await serve("graphs:echo")

    def use() -> tuple[list[str], list[int], str]:
        with connect_sync(served.url) as chat:
            work = chat.batch([f"{n}" for n in range(5)], max_concurrency=2)
            assert work.ack().run_id == work.run_id
            came = [result.index for result in work]
            texts = [str(result.message.content) for result in work.results() if result.message]
            return texts, sorted(came), work.finished().status

    texts, came, status = await asyncio.to_thread(use)
    assert texts == [f"echo: {n}" for n in range(5)]
    assert (came, status) == ([0, 1, 2, 3, 4], "completed")
