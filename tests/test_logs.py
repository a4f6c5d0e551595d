"""The server's log: a line for each connection and each run, nothing that people said, no secrets."""

from __future__ import annotations

import io
import json
import logging
import signal
from typing import Any

import aiohttp
import pytest

from conftest import Serve, Servers
from harness import eventually
from threadwire import logs
from threadwire.masking import MASK, masker, secrets_in
from threadwire.settings import Settings

MARKER = "Xq7marker"
SECRET = "hunter2-hunter2"


class Lines:
    """What is logged; called, it gives what came since the last time."""

    def __init__(self) -> None:
        self._out = io.StringIO()
        self.configure()

    def configure(self, **options: Any) -> None:
        logs.configure(json=True, **options)
        [handler] = [found for found in logging.getLogger().handlers if found.get_name() == "threadwire"]
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(self._out)

    def __call__(self) -> list[dict[str, Any]]:
        text = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def lines() -> Lines:
    """What was logged since the last time, without content."""
    return Lines()


def of(found: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in found if line["event"] == event]


async def test_connections_and_runs(serve: Serve, lines: Lines) -> None:
    """Each has one line, with its ids, its user, how it ended, how long it took, and for a run its usage."""
    served = await serve()
    one, two = await served.attach("t"), await served.attach("t")
    first = (await one.turn(MARKER))[-1]
    second = (await two.turn(MARKER))[-1]
    await one.ws.close()
    await two.ws.close()
    found: list[dict[str, Any]] = []

    def closed() -> bool:
        found.extend(lines())
        return len(of(found, "connection")) == 2

    await eventually(closed)
    connections, runs = of(found, "connection"), of(found, "run")
    for line in connections:
        assert (line["thread_id"], line["user"], line["close_code"]) == ("t", "anonymous", 1000)
        assert line["duration_ms"] >= 0
    # On one thread, each run is its own connection's.
    ids = [line["connection_id"] for line in connections]
    assert len(set(ids)) == 2
    assert [line["connection_id"] for line in runs] == ids
    for line, finished in zip(runs, (first, second), strict=True):
        told = ("run_id", "status", "reason", "error", "usage", "duration_ms")
        assert {key: line[key] for key in told} == {key: finished[key] for key in told}
        assert (line["thread_id"], line["trigger"], line["user"]) == ("t", "send", "anonymous")
    assert MARKER not in json.dumps(found)


async def test_users(serve: Serve, lines: Lines) -> None:
    """With credentials the lines name who it was; neither they nor /metrics are for everybody."""
    tokens = {"alice": f"alice-{SECRET}", "bob": f"bob-{SECRET}"}
    served = await serve("graphs:echo", auth={"mode": "tokens", "tokens": tokens})
    for name, token in tokens.items():
        headers = {"Authorization": f"Bearer {token}"}
        async with served.session.ws_connect(f"{served.url}/ws", headers=headers) as ws:
            await ws.send_json({"type": "send", "content": MARKER})
            while (await ws.receive_json())["type"] != "run_finished":
                pass
        async with served.session.get(f"{served.url}/metrics", headers=headers) as response:
            assert (response.status, name in await response.text()) == (200, False)
    async with served.session.get(f"{served.url}/metrics") as response:
        assert response.status == 401
    found: list[dict[str, Any]] = []

    def told() -> bool:
        found.extend(lines())
        return len(of(found, "connection")) == 2

    await eventually(told)
    assert [line["user"] for line in of(found, "run")] == ["alice", "bob"]
    assert [line["user"] for line in of(found, "connection")] == ["alice", "bob"]
    assert SECRET not in json.dumps(found)


async def test_a_refused_connection(serve: Serve, lines: Lines) -> None:
    """It has its line, too, with the code that it was refused with."""
    served = await serve("graphs:echo", server={"max_connections": 1})
    await served.attach()
    refused = await served.connect()
    assert await refused.closed() == 1013
    found: list[dict[str, Any]] = []

    def told() -> bool:
        found.extend(lines())
        return bool(of(found, "connection"))

    await eventually(told)
    [line] = of(found, "connection")
    assert (line["close_code"], line["refused"]) == (1013, "too many connections")


async def test_a_stream_of_lines(serve: Serve, lines: Lines) -> None:
    """The run of a request has the request's id."""
    served = await serve("graphs:echo")
    async with served.session.post(f"{served.url}/threads/t/runs/stream", json={"content": MARKER}) as response:
        await response.read()
    found: list[dict[str, Any]] = []

    def told() -> bool:
        found.extend(lines())
        return bool(of(found, "connection"))

    await eventually(told)
    [line] = of(found, "run")
    assert (line["user"], line["status"]) == ("anonymous", "completed")
    [connection] = of(found, "connection")
    assert connection["connection_id"] == line["connection_id"]
    expected = {"route": "/threads/{thread_id}/runs/stream", "thread_id": "t", "http_status": 200, "user": "anonymous"}
    assert {key: connection[key] for key in expected} == expected
    assert connection["duration_ms"] >= 0
    assert MARKER not in json.dumps(found)


async def test_runs_without_a_thread(serve: Serve, lines: Lines) -> None:
    """A batch and a run's log have one line each, as turns have, and over HTTP so has the connection."""
    served = await serve("graphs:echo", events={"allow_raw": True})
    inputs = [MARKER, MARKER, MARKER]
    socket = await served.attach()
    ack = await socket.ask("batch", inputs=inputs)
    ended = [await socket.until("run_finished", run_id=ack["run_id"])]
    for path, body in (("batch", {"inputs": inputs}), ("stream", {"stream": "log", "content": MARKER})):
        async with served.session.post(f"{served.url}/runs/{path}", json=body) as response:
            assert response.status == 200
            ended.append(json.loads((await response.text()).splitlines()[-1]))
    async with served.session.post(f"{served.url}/runs/batch", json={"inputs": []}) as response:
        assert response.status == 400
    await socket.ws.close()
    found: list[dict[str, Any]] = []

    def told() -> bool:
        found.extend(lines())
        return len(of(found, "connection")) == 4

    await eventually(told)
    runs = of(found, "run")
    assert [(line["trigger"], line.get("inputs")) for line in runs] == [("batch", 3), ("batch", 3), ("log", None)]
    for line, finished in zip(runs, ended, strict=True):
        told_of = ("run_id", "status", "reason", "error", "usage", "duration_ms")
        assert {key: line[key] for key in told_of} == {key: finished[key] for key in told_of}
        assert line["user"] == "anonymous"
    connections = {line["connection_id"]: line for line in of(found, "connection")}
    routes = [connections[line["connection_id"]].get("route") for line in runs]
    assert routes == [None, "/runs/batch", "/runs/stream"]
    [refused] = [line for line in connections.values() if line.get("refused")]
    assert (refused["route"], refused["http_status"], refused["refused"]) == ("/runs/batch", 400, "invalid_argument")
    assert MARKER not in json.dumps(found)


async def test_a_batch_whose_client_leaves(serve: Serve, lines: Lines) -> None:
    """Its line says so, once, with how many of its inputs were begun."""
    served = await serve("gated_graphs:gated", limits={"max_batch_concurrency": 2})
    socket = await served.attach()
    ack = await socket.ask("batch", inputs=["a", "b", "c", "d"])
    await socket.ws.close()
    found: list[dict[str, Any]] = []

    def told() -> bool:
        found.extend(lines())
        return bool(of(found, "connection")) and bool(of(found, "run"))

    await eventually(told)
    [line] = of(found, "run")
    assert (line["run_id"], line["status"], line["reason"]) == (ack["run_id"], "cancelled", "disconnect")
    assert line["inputs"] <= 2


async def test_content_where_it_is_asked_for(serve: Serve, lines: Lines) -> None:
    """With logs.include_content a run's line has what was said."""
    lines.configure(include_content=True)
    served = await serve("graphs:echo")
    await (await served.attach("t")).turn(MARKER)
    [line] = of(lines(), "run")
    assert (line["content"], line["answer"]) == (MARKER, f"echo: {MARKER}")


async def test_what_a_failing_graph_says(serve: Serve, lines: Lines) -> None:
    """Its exceptions are logged by class and place; what they say only with logs.include_content."""
    served = await serve("metrics_graphs:quoting")
    socket = await served.attach("t")
    await socket.turn(MARKER)
    [line] = of(lines(), "run failed")
    told = line["exception"]
    assert "metrics_graphs.py" in told
    assert "KeyError: (" in told
    assert "ValueError: (" in told
    assert told.index("KeyError") < told.index("ValueError")
    assert MARKER not in json.dumps(line)
    lines.configure(include_content=True)
    await socket.turn(MARKER)
    [line] = of(lines(), "run failed")
    assert f"ValueError: cannot read {MARKER}" in line["exception"]


async def test_what_a_failing_auth_handler_says(serve: Serve, lines: Lines) -> None:
    """It is other people's code too."""
    served = await serve("graphs:echo", auth={"mode": "custom", "handler": "auth_handlers:by_token"})
    for shown in (False, True):
        lines.configure(include_content=shown)
        headers = {"Authorization": "Bearer broken"}
        async with served.session.post(f"{served.url}/threads/search", json={}, headers=headers) as response:
            assert response.status == 503
        [line] = of(lines(), "auth.handler failed")
        assert "auth_handlers.py" in line["exception"]
        assert ("RuntimeError: the directory is away" in line["exception"]) is shown


async def test_a_lost_run(servers: Servers, session: aiohttp.ClientSession) -> None:
    """The line of a run that was lost has none of the messages that its run_finished carries; no run has no user."""
    slow = {"model__simulated__tokens_per_second": "50", "model__simulated__tokens": "10000"}
    first = servers("first")
    await first.start(**slow)
    socket = await first.served(session).attach("t")
    await socket.ask("send", content=f"/tokens 10000 {MARKER}")
    await socket.until("token")
    first.signal(signal.SIGKILL)
    await first.ended()
    second = servers("second")
    await second.start(**slow)
    await eventually(lambda: '"event": "run"' in second.stderr)
    [line] = of([json.loads(line) for line in second.stderr.splitlines()], "run")
    assert (line["status"], line["reason"], line["thread_id"]) == ("lost", "crash", "t")
    assert MARKER not in first.stderr + second.stderr


async def test_secrets_of_a_process(servers: Servers, session: aiohttp.ClientSession) -> None:
    """A configured secret is in no line, wherever it comes from."""
    server = servers("one")
    await server.start(model__api_key=SECRET, storage__url=f"sqlite:///{SECRET}.db", logs__include_content="true")
    await (await server.served(session).attach("t")).turn(f"what is {SECRET}?")
    await eventually(lambda: '"event": "run"' in server.stderr)
    assert SECRET not in server.stderr
    assert f"what is {MASK}?" in server.stderr


@pytest.mark.parametrize(
    "text",
    [
        f"key {SECRET}",
        f'{{"authorization": "Bearer {SECRET}"}}',
        f"Authorization: Basic {SECRET}",
        f"{{'Authorization': '{SECRET}'}}",
        f"bearer.{SECRET}, threadwire.v1",
        f"GET /ws?thread_id=t&ticket={SECRET} HTTP/1.1",
        f"wss://example.org/ws?token={SECRET}&x=1",
        f"postgres://user:{SECRET}@db/threads",
        f"sk-{SECRET}-and-more",
        f"tw_abcdef_{SECRET}",
    ],
)
def test_what_looks_like_a_secret(text: str) -> None:
    """Credentials are masked wherever they stand, though nobody configured them."""
    masked = masker([SECRET] if text.startswith("key") else [])(text)
    assert SECRET not in masked
    assert MASK in masked


def test_what_does_not() -> None:
    """Lines that hold none stay as they are."""
    text = '{"run_id": "0190", "tokens": 12, "why": "auto: there is a key", "url": "http://127.0.0.1:8000/ws?after=3"}'
    assert masker([""])(text) == text


def test_secrets_in_settings() -> None:
    """Keys, what MCP servers are given, and passwords in URLs are secrets; what only says where something is is not."""
    settings = Settings.model_validate(
        {
            "model": {"api_key": "one-secret", "base_url": "http://user:two-secret@host/v1"},
            "agent": {
                "mcp_servers": {"a": {"command": "run", "args": ["three-secret"], "env": {"KEY": "four-secret"}}}
            },
        }
    )
    assert set(secrets_in(settings.model_dump())) == {f"{n}-secret" for n in ("one", "two", "three", "four")}
