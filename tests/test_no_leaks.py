"""The wire leaks nothing: whatever fails, what is planted stays inside; and the tap that looks for it finds it.

Every test of the suite is looked at (``conftest.wiretapped``); here are the ways in which a secret could get out, one
after another, and the proof that the tap would see it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from conftest import Serve, Servers
from harness import Provider, Served
from threadwire.app import make_app
from threadwire.testing.server import Server, settings_for
from wiretap import tap

Finds = Callable[[], list[str]]
TESTS = Path(__file__).parent


async def get(served: Served, path: str, body: Any = None) -> str:
    """A route's whole answer, by GET, or by POST where there is a body."""
    method = "GET" if body is None else "POST"
    async with served.session.request(method, served.url + path, json=body) as response:
        return await response.text()


async def everything(served: Served, thread_id: str) -> str:
    """All that can be read of a thread, by every way there is."""
    parts = [
        await get(served, f"/threads/{thread_id}"),
        await get(served, f"/threads/{thread_id}/state?subgraphs=true"),
        await get(served, f"/threads/{thread_id}/history?limit=100"),
        await get(served, f"/threads/{thread_id}/export"),
        await get(served, f"/threads/{thread_id}/export?format=json"),
        await get(served, "/threads/search", {"select": ["values", "interrupts", "metadata"]}),
        json.dumps(await served.history(thread_id)),
    ]
    return "".join(parts)


# --- the tap --------------------------------------------------------------------------------------


async def test_the_tap_sees_every_way_out(serve: Serve, wiretapped: Finds) -> None:
    """A mark in a frame, in a line and in a body is found: here the client itself has said it."""
    served = await serve("graphs:echo")
    await (await served.attach("t1")).turn(f"I say {tap.EXCEPTION}")
    [first, *_] = wiretapped()
    assert tap.EXCEPTION in first
    assert "token" in first or "message" in first
    await get(served, "/threads/t2/runs/stream", {"content": tap.PROMPT})
    assert any(tap.PROMPT in found for found in wiretapped())
    await get(served, "/threads/t1/state")
    assert any(tap.EXCEPTION in found for found in wiretapped())


async def test_the_tap_sees_other_processes(servers: Servers, session: Any, wiretapped: Finds) -> None:
    """The same of a server process."""
    server = servers("tapped")
    await server.start(graph=f"{TESTS}/graphs.py:echo")
    served = server.served(session)
    await (await served.attach("t1")).turn(f"I say {tap.TAGGED}")
    assert any(tap.TAGGED in found for found in wiretapped())


async def test_the_tap_sees_files(serve: Serve, wiretapped: Finds) -> None:
    """What is sent from a file passes it as well."""
    served = await serve("graphs:echo")
    before = tap.seen
    page = await get(served, "/")
    assert tap.seen - before > len(page) > 500
    assert wiretapped() == []


async def test_the_tap_sees_a_mark_in_two_writes(tmp_path: Path, session: Any, wiretapped: Finds) -> None:
    """A server that leaks half a secret at a time is seen too: here one with a leak built in."""
    server = Server(settings_for(tmp_path / "threadwire.db", "graphs:echo", {}))

    async def leak(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(tap.KEY)
        await response.prepare(request)
        for at in range(0, len(tap.KEY), 5):
            await response.write(tap.KEY[at : at + 5].encode())
        return response

    server.app.router.add_get("/leak", leak)
    await server.start()
    try:
        async with session.get(f"{server.url}/leak") as response:
            assert await response.text() == tap.KEY
    finally:
        await server.close()
    [found] = wiretapped()
    assert found.startswith(tap.KEY)


def test_our_servers_are_known(tmp_path: Path) -> None:
    """Tapped is what ``make_app`` makes, and no provider that a test makes up."""
    assert tap._is_ours(make_app(settings_for(tmp_path / "threadwire.db", "graphs:echo", {})))
    assert not tap._is_ours(web.Application())


# --- what could leak ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["events", "messages"])
@pytest.mark.parametrize("graph", ["graphs:agent", "graphs:forgiving"])
async def test_a_tools_exception(serve: Serve, provider: Provider, graph: str, stream: str) -> None:
    """What a tool raised is told as that it failed, also where the graph's tool node tells its model all of it."""
    served = await serve(graph)
    socket = await served.attach("t1")
    frames = await socket.turn("/tool fail {}", stream=stream)
    [result] = [frame for frame in frames if frame["type"] == "tool_result"]
    assert result["status"] == "error"
    status = frames[-1]["status"]
    assert status == ("completed" if graph == "graphs:forgiving" else "failed")
    found = await everything(served, "t1")
    assert tap.EXCEPTION not in found + json.dumps(socket.frames)
    if graph == "graphs:forgiving":
        assert result["result"] == "The tool fail failed."
        assert "The tool fail failed." in found
        # The model itself is told: it is in the graph's own state.
        files = served.database.parent.glob(f"{served.database.name}*")
        assert any(tap.EXCEPTION.encode() in file.read_bytes() for file in files)


async def test_a_graphs_exception(serve: Serve, provider: Provider) -> None:
    """What a node raised is told by a code and a sentence, over every way of running it."""
    served = await serve("cut_graphs:fails")
    socket = await served.attach("t1")
    end = (await socket.turn("a secret"))[-1]
    assert (end["status"], end["error"]["code"]) == ("failed", "graph_error")
    lines = await get(served, "/threads/t2/runs/stream", {"content": "a secret"})
    batch = await get(served, "/runs/batch", {"inputs": ["a secret"]})
    assert all('"graph_error"' in found for found in (lines, batch))
    assert tap.EXCEPTION not in lines + batch + await everything(served, "t1") + json.dumps(socket.frames)


async def test_the_system_prompt(serve: Serve, provider: Provider) -> None:
    """The model gets the system prompt, readers get none of it: not by a turn, a batch, the state or an export."""
    model = {"name": "openai:simulated", "base_url": provider.base_url, "api_key": tap.KEY}
    served = await serve(model=model)
    socket = await served.attach("t1")
    await socket.turn('/tool calculate {"expression": "1 / 0"}')
    await get(served, "/runs/batch", {"inputs": ["hello"]})
    found = await everything(served, "t1")
    assert tap.PROMPT not in found + json.dumps(socket.frames)
    assert any(tap.PROMPT in json.dumps(request) for request in await provider.requests())


async def test_the_providers_error(serve: Serve, wiretapped: Finds) -> None:
    """A provider that fails and says our key in doing so: told as ``model_auth``, without its words."""

    async def refuse(request: web.Request) -> web.Response:
        said = f"Incorrect API key: {request.headers['Authorization']} {tap.EXCEPTION}"
        return web.json_response({"error": {"message": said, "code": "invalid_api_key"}}, status=401)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        served = await serve(model={"name": "openai:x", "base_url": url, "api_key": tap.KEY})
        end = (await (await served.attach("t1")).turn("hello"))[-1]
        assert (end["status"], end["error"]["code"]) == ("failed", "model_auth")
        await everything(served, "t1")
    finally:
        await runner.cleanup()
    assert wiretapped() == []


async def test_a_tool_and_a_model_that_are_hidden(serve: Serve, provider: Provider) -> None:
    """Runs that are tagged ``nostream`` are not told: nothing of a hidden tool's answer."""
    served = await serve("stream_graphs:hidden_tool")
    socket = await served.attach("t1")
    await socket.turn("/tool secret {}")
    assert all(frame.get("result") is None for frame in socket.of("tool_result"))


async def test_a_database_that_fails(serve: Serve, session: Any) -> None:
    """A database that takes nothing is told as that, without where it is."""
    served = await serve("graphs:echo")
    socket = await served.attach("t1")
    await socket.turn("hello")
    with closing(sqlite3.connect(served.database)) as database, database:
        database.execute("DROP TABLE threads")
    refused = [await get(served, path) for path in ("/threads/t1", "/threads/t1/state", "/threads/t1/export")]
    assert all("error" in json.loads(found) for found in refused), refused
