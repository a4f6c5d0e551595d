"""A turn without a socket: ``POST /threads/{thread_id}/runs/stream``."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from conftest import Serve
from harness import DEADLINE, Provider, Served, eventually, start_provider
from rawsocket import shrink_send_buffers
from threadwire.protocol import decode_frame

RUN = "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f"


class Lines:
    """The lines of a response, as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.raw: list[bytes] = []

    async def next(self) -> dict[str, Any] | None:
        """The next frame, checked against the protocol; None at the end."""
        async with asyncio.timeout(DEADLINE):
            line = await self.response.content.readline()
        if not line:
            return None
        assert line.endswith(b"\n")
        self.raw.append(line[:-1])
        decode_frame(self.raw[-1])
        return dict(json.loads(line))

    async def until(self, kind: str) -> dict[str, Any]:
        while (frame := await self.next()) is not None:
            if frame["type"] == kind:
                return frame
        raise AssertionError(f"the stream ended without {kind}")

    async def all(self) -> list[dict[str, Any]]:
        """Read to the end; returns everything that was ever read."""
        while await self.next() is not None:
            pass
        return [json.loads(line) for line in self.raw]


@asynccontextmanager
async def stream(served: Served, thread_id: str = "t1", query: str = "", **body: Any) -> AsyncIterator[Lines]:
    url = f"{served.url}/threads/{thread_id}/runs/stream{query}"
    async with served.session.post(url, json=body, headers={"Accept": "application/x-ndjson"}) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/x-ndjson"
        yield Lines(response)


async def refused(served: Served, thread_id: str = "t1", **body: Any) -> tuple[int, str]:
    async with served.session.post(f"{served.url}/threads/{thread_id}/runs/stream", json=body) as response:
        return response.status, (await response.json())["error"]["code"]


async def test_a_turn_is_what_a_socket_sees(serve: Serve) -> None:
    """After the ack, the lines are byte for byte the frames of a socket on the thread, and end with the run."""
    served = await serve()
    watching = await served.attach("t1")
    async with stream(served, content="hello", id="c1", message_id="m1", run_id=RUN) as lines:
        [ack, *frames] = await lines.all()
    assert ack == {"type": "ack", "id": "c1", "run_id": RUN, "message_id": "m1"}
    assert [frame["type"] for frame in frames[:2]] == ["run_started", "message"]
    assert frames[-1]["type"] == "run_finished"
    await watching.until("run_finished", run_id=RUN)
    told = [frame for frame in watching.frames if frame["type"] != "ready"]
    assert "".join(frame["content"] for frame in frames if frame["type"] == "token") == watching.text(RUN)
    assert [frame for frame in frames if frame["type"] != "token"] == [f for f in told if f["type"] != "token"]
    assert set(lines.raw[1:]) == set(watching.raw[1:]), "tokens are cut the same for every reader"


async def test_it_makes_the_thread(serve: Serve) -> None:
    """A thread that was never there exists after its first turn, and the next turn knows of it."""
    served = await serve("graphs:echo")
    for text in ("one", "two"):
        async with stream(served, "new", content=text) as lines:
            frames = await lines.all()
        assert frames[0]["id"] is None
        assert (frames[-1]["type"], frames[-1]["status"]) == ("run_finished", "completed")
    assert [message["content"] for message in await served.history("new")] == ["one", "echo: one", "two", "echo: two"]


async def test_it_stands_in_line(serve: Serve, provider: Provider) -> None:
    """Behind another run it waits for its turn; every frame of the thread passes meanwhile."""
    served = await serve("graphs:openai")
    first = await served.attach("t1")
    running = (await first.ask("send", content="/tokens 20"))["run_id"]
    async with stream(served, content="/tokens 3") as lines:
        frames = await lines.all()
    own = frames[0]["run_id"]
    kinds = [(frame["type"], frame.get("run_id")) for frame in frames]
    assert kinds.index(("run_queued", own)) < kinds.index(("run_finished", running)) < kinds.index(("run_started", own))
    assert kinds[-1] == ("run_finished", own)


async def test_a_refusal_is_no_stream(serve: Serve, provider: Provider) -> None:
    """A full queue is 429 with the error body, and what is not there yet 400; what runs goes on, also unattended."""
    served = await serve("graphs:openai", runs={"max_queued": 1, "disconnect_grace_seconds": 15})
    first = await served.attach("t1")
    await first.command("send", content="/tokens 5000")
    await first.until("token")
    await first.command("send", content="/tokens 5000")
    await first.until("run_queued")
    # Whoever was here may come back within the grace: somebody who is turned away at the door ends nothing.
    await first.vanish()
    assert await refused(served, content="a") == (429, "queue_full")
    assert await refused(served, content="a", multitask_strategy="reject") == (409, "busy")
    assert (await provider.stats())["open"] == 1
    again = await served.connect("t1")
    ready = await again.next()
    assert ready["run"]["status"] == "running"
    assert len(ready["queue"]) == 1


@pytest.mark.parametrize("silent", [False, True], ids=["streaming", "silent"])
async def test_a_client_that_leaves_stops_its_run(
    serve: Serve, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, *, silent: bool
) -> None:
    """A closed response stops the run and its provider request at once, also while the model is silent."""
    delay = "600000" if silent else "0"
    provider = await start_provider(session, "--first-token-ms", delay, "--tokens-per-second", "200")
    monkeypatch.setenv("PROVIDER_URL", provider.base_url)
    try:
        # The grace is for connections that are lost; a response that is closed was closed.
        served = await serve("graphs:openai", runs={"disconnect_grace_seconds": 600})
        async with stream(served, content="/tokens 5000") as lines:
            await lines.until("message" if silent else "token")

            async def asked() -> bool:
                return bool((await provider.stats())["open"] == 1)

            await eventually(asked, "the provider is asked")
            lines.response.close()

        async def stopped() -> bool:
            stats = await provider.stats()
            return bool(stats["open"] == 0 and stats["aborted"] == 1)

        await eventually(stopped, "the provider's request is closed")

        async def told() -> bool:
            return bool((await served.history("t1"))[-1]["role"] == ("user" if silent else "assistant"))

        await eventually(told, "what was said is kept")
    finally:
        await provider.stop()


async def test_a_run_may_go_on_alone(serve: Serve, provider: Provider) -> None:
    """With ``on_disconnect=continue`` the run ends by itself and is there on the next visit."""
    served = await serve("graphs:openai")
    async with stream(served, query="?on_disconnect=continue", content="/tokens 30") as lines:
        await lines.until("token")
        lines.response.close()

    async def finished() -> bool:
        messages = await served.history("t1")
        return len(messages) == 2 and "status" not in messages[1]

    await eventually(finished)
    assert (await provider.stats())["aborted"] == 0


async def test_a_repeat_is_answered_with_its_end(serve: Serve) -> None:
    """The same run again is not run again: the first answer, marked, and how it ended."""
    served = await serve("graphs:echo")
    async with stream(served, content="hi", run_id=RUN, message_id="m1") as lines:
        frames = await lines.all()
    for _ in range(2):
        async with stream(served, content="hi", run_id=RUN, message_id="m1") as lines:
            [ack, end] = await lines.all()
        assert ack == {**frames[0], "duplicate": True}
        same = ("type", "run_id", "status", "reason", "error", "usage")
        assert {key: end[key] for key in same} == {key: frames[-1][key] for key in same}
    assert await refused(served, content="something else", run_id=RUN, message_id="m1") == (400, "invalid_argument")
    assert len(await served.history("t1")) == 2


async def test_a_repeat_joins_a_run_that_goes_on(serve: Serve, provider: Provider) -> None:
    """The same run again while it runs: marked, then its frames from here on, to the same end."""
    served = await serve("graphs:openai")
    async with stream(served, content="/tokens 40", run_id=RUN) as lines:
        await lines.until("token")
        async with stream(served, content="/tokens 40", run_id=RUN) as again:
            repeated = await again.all()
        assert repeated[0]["duplicate"] is True
        assert repeated[-1] == (await lines.all())[-1]
    assert (await provider.stats())["finished"] == 1


async def test_a_stalled_reader_gets_its_end(serve: Serve, provider: Provider) -> None:
    """A client that reads after its run's end has left the log is told what it lost, and the end all the same."""
    served = await serve("graphs:openai", log={"max_bytes_per_thread": 65536})
    shrink_send_buffers(served)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (served.server.host, served.server.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    watching = await served.attach("t1")
    try:
        body = json.dumps({"content": "x" * 150_000, "run_id": RUN}).encode()
        head = f"POST /threads/t1/runs/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await watching.until("run_finished", run_id=RUN)
        for n in range(3):
            await watching.turn(f"/tokens 1 {n}" + "y" * 60_000)
        async with asyncio.timeout(DEADLINE):
            data = await _read_to_end(reader)
    finally:
        writer.transport.abort()
    assert b'"type":"gap"' in data
    assert data.count(b'"type":"run_finished"') == 1
    assert RUN.encode() in data[data.index(b'"type":"run_finished"') :]


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    """A chunked response to its last chunk."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += await reader.read(65536)
    return data
