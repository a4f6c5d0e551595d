"""The nginx configuration that is shipped, run: streams, idle sockets and a deploy go through it unharmed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conftest import Serve, Servers
from harness import DEADLINE, Served, Socket, eventually
from nginx import Nginx, free_port, nginx, site
from process import ServerProcess

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent


async def through(proxy: Nginx, session: aiohttp.ClientSession, thread_id: str = "t1", **query: Any) -> Socket:
    """A socket through the proxy, as a page's: with its Origin; its ``ready`` is not read yet."""
    ws = await session.ws_connect(
        f"{proxy.url}/ws",
        params={"thread_id": thread_id, **{key: str(value) for key, value in query.items()}},
        protocols=("threadwire.v1",),
        origin=proxy.url,
        ssl=proxy.ssl,
        autoclose=False,
        max_msg_size=0,
    )
    return Socket(ws)


def port_of(served: Served) -> int:
    return int(served.url.rsplit(":", 1)[1])


def behind(port: int, **more: Any) -> dict[str, Any]:
    """What docs/deploy.md says of a server behind a proxy that ends TLS."""
    return {"allowed_origins": [f"https://localhost:{port}"], **more}


def test_only_ports_paths_and_times_are_changed(tmp_path: Path) -> None:
    """What runs here is the file that is shipped, line by line."""
    from nginx import SHIPPED

    ours, shipped = site(tmp_path, 1, 2, 3).splitlines(), SHIPPED.read_text(encoding="utf-8").splitlines()
    assert len(ours) == len(shipped)
    for mine, theirs in zip(ours, shipped, strict=True):
        if mine != theirs:
            assert re.match(
                r"\s*(server|listen|ssl_certificate|ssl_certificate_key|access_log|proxy_\w+_timeout) ", mine
            )


async def test_what_is_said_comes_at_once(serve: Serve, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """Frames and lines arrive while their turn goes on and says nothing more: nothing is held back."""
    port = free_port()
    served = await serve("graphs:waits", server=behind(port))
    async with nginx(tmp_path, port, port_of(served)) as proxy:
        socket = await through(proxy, session)
        await socket.until("ready")
        await socket.command("send", content="hi")
        await socket.until("custom", data="before the wait")
        await socket.command("cancel")
        await socket.until("run_finished")
        await socket.ws.close()
        url = f"{proxy.url}/threads/t2/runs/stream"
        async with session.post(url, json={"content": "hi"}, ssl=proxy.ssl, headers={"Origin": proxy.url}) as response:
            assert response.content_type == "application/x-ndjson"
            async with asyncio.timeout(DEADLINE):
                async for line in response.content:
                    if json.loads(line)["type"] == "custom":
                        break
            assert response.connection is not None
            assert response.connection.transport is not None
            response.connection.transport.abort()
        # The client has gone, and the proxy passes it on.

        async def idle() -> bool:
            async with session.get(f"{served.url}/threads/t2") as response:
                return bool((await response.json())["status"] != "busy")

        await eventually(idle, "the run has ended with its client")


async def test_metrics_are_not_for_everybody(serve: Serve, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """The page and the health come through; the metrics do not."""
    port = free_port()
    served = await serve("graphs:echo", server=behind(port))
    async with nginx(tmp_path, port, port_of(served)) as proxy:
        for path, status in (("/", 200), ("/healthz", 200), ("/readyz", 200), ("/metrics", 404)):
            async with session.get(proxy.url + path, ssl=proxy.ssl) as response:
                assert response.status == status, path
        assert "ticket" not in (tmp_path / "threadwire.log").read_text()


async def test_an_idle_socket_outlives_the_proxys_timeout(
    serve: Serve, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Heartbeats keep a socket on which nothing is said, for longer than the proxy lets a silent one live."""
    timeout, beats = 5, 7
    port = free_port()
    served = await serve("graphs:echo", server=behind(port, heartbeat_seconds=1))
    async with nginx(tmp_path, port, port_of(served), timeout_seconds=timeout) as proxy:
        ws = await session.ws_connect(
            f"{proxy.url}/ws", origin=proxy.url, ssl=proxy.ssl, autoping=False, autoclose=False
        )
        began = asyncio.get_running_loop().time()
        assert (await ws.receive()).type is aiohttp.WSMsgType.TEXT
        for _ in range(beats):
            async with asyncio.timeout(DEADLINE):
                message = await ws.receive()
            assert message.type is aiohttp.WSMsgType.PING, message
            await ws.pong(message.data)
        # Each comes a heartbeat after the one before, never sooner.
        assert asyncio.get_running_loop().time() - began > timeout
        await ws.send_str('{"type": "ping", "id": "p"}')
        async with asyncio.timeout(DEADLINE):
            while (message := await ws.receive()).type is aiohttp.WSMsgType.PING:
                await ws.pong(message.data)
        assert json.loads(message.data)["type"] == "pong"
        await ws.close()


async def test_without_heartbeats_it_would_not(serve: Serve, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """The proxy does cut what is silent for its timeout: the test above has something to show."""
    port = free_port()
    served = await serve("graphs:echo", server=behind(port, heartbeat_seconds=600))
    async with nginx(tmp_path, port, port_of(served), timeout_seconds=1) as proxy:
        socket = await through(proxy, session)
        await socket.until("ready")
        async with asyncio.timeout(DEADLINE):
            message = await socket.ws.receive()
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR)
        assert socket.ws.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE


async def start(server: ServerProcess, port: int, proxy_port: int, **environ: str) -> None:
    """Start a server at a port that the proxy knows."""
    origins = json.dumps([f"https://localhost:{proxy_port}"])
    graph = f"{TESTS}/graphs.py:waits"
    await server.launch("--port", str(port), server__allowed_origins=origins, graph=graph, **environ)
    await eventually(lambda: f":{port}" in server.stdout + server.stderr, "the server serves", 2 * DEADLINE)
    server.url = f"http://127.0.0.1:{port}"


async def test_a_deploy_goes_through_it(servers: Servers, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """Drain: all are told goaway, idle ones let go with 1012, the run is ended; then all come back and miss nothing."""
    port, server_port = free_port(), free_port()
    old, new = servers("old"), servers("new")
    await start(old, server_port, port, server__drain_seconds="1")
    (tmp_path / "nginx").mkdir()
    async with nginx(tmp_path / "nginx", port, server_port) as proxy:
        idle, busy = await through(proxy, session, "idle"), await through(proxy, session, "busy")
        await idle.until("ready")
        ready = await busy.until("ready")
        ack = await busy.ask("send", content="hi", run_id="0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f")
        seen = await busy.until("custom", data="before the wait")
        old.signal(signal.SIGTERM)
        for socket in (idle, busy):
            goaway = await socket.until("goaway")
            assert goaway["reconnect_after_seconds"] > 0
        assert await idle.closed() == 1012
        assert await busy.closed() == 1012
        [end] = [frame for frame in busy.of("run_finished") if frame["run_id"] == ack["run_id"]]
        assert (end["status"], end["reason"]) == ("cancelled", "shutdown")
        assert await old.ended() == 0
        # Nobody is there: the proxy says so, and a client tries again.
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await through(proxy, session)
        assert refused.value.status == 502
        await start(new, server_port, port)
        again = await through(proxy, session, "busy", after=seen["seq"], epoch=ready["epoch"])
        assert (await again.until("ready"))["resume"] == "replayed"
        told = await again.until("run_finished", run_id=ack["run_id"])
        assert told == end
        await again.ws.close()
