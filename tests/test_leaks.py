"""Nothing stays behind: tasks, descriptors, threads, live conversations, requests at the provider."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from conftest import Serve
from harness import Provider, Served, Socket, eventually
from threadwire.http import HUB

ROUNDS = 50


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    tasks: int
    descriptors: int
    threads: int
    conversations: int
    open_requests: int

    @classmethod
    async def now(cls, served: Served, provider: Provider) -> Held:
        gc.collect()
        stats = await provider.stats()
        return cls(
            tasks=len(asyncio.all_tasks()),
            descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
            threads=threading.active_count(),
            conversations=len(served.server.app[HUB]),
            open_requests=stats["open"],
        )


async def _back(served: Served, provider: Provider, before: Held) -> Held:
    """Wait until no more is held than ``before``, or for the deadline; what is held then."""
    after = before

    async def same() -> bool:
        nonlocal after
        after = await Held.now(served, provider)
        return all(getattr(after, name) <= getattr(before, name) for name in Held.__dataclass_fields__)

    try:
        await eventually(same, "all is given back")
    except AssertionError:
        assert after == before
    return after


async def _speaking(served: Served, **query: Any) -> Socket:
    socket = await served.attach(**query)
    await socket.command("send", content="/tokens 5000")
    await socket.until("token")
    return socket


async def cancel(served: Served) -> None:
    socket = await _speaking(served)
    await socket.command("cancel")
    await socket.until("run_finished")
    await socket.ws.close()


async def close_in_mid_run(served: Served) -> None:
    socket = await _speaking(served)
    await socket.ask("send", content="waits")
    await socket.ws.close()


async def vanish(served: Served) -> None:
    await (await _speaking(served)).vanish()


async def delete(served: Served) -> None:
    socket = await _speaking(served)
    thread_id = socket.frames[0]["thread_id"]
    async with served.session.delete(f"{served.url}/threads/{thread_id}") as response:
        assert response.status == 204
    assert await socket.closed() == 4404
    await socket.ws.close()


async def be_refused(served: Served) -> None:
    socket = await served.attach()
    await socket.ws.send_str("no JSON")
    await socket.until("error")
    await socket.ask("cancel")
    await socket.ws.close()
    async with served.session.get(f"{served.url}/ws?thread_id=..") as response:
        assert response.status == 400


async def connect_and_leave(served: Served) -> None:
    socket = await served.connect(history="5")
    await socket.vanish()


async def stream_and_hang_up(served: Served) -> None:
    url = f"{served.url}/threads/lines/runs/stream"
    response = await served.session.post(url, json={"content": "/tokens 5000"})
    assert response.status == 200
    await response.content.readline()
    response.close()


async def batch_with_raw_events_and_vanish(served: Served) -> None:
    socket = await _speaking(served, raw="1")
    await socket.ask("batch", inputs=["/tokens 1", *["/tokens 5000"] * 5], max_concurrency=3)
    await socket.until("batch_result")
    await socket.vanish()


async def batch_and_hang_up(served: Served) -> None:
    response = await served.session.post(f"{served.url}/runs/batch", json={"inputs": ["/tokens 5000"] * 5})
    await response.content.readline()
    response.close()


async def follow_a_log_and_hang_up(served: Served) -> None:
    body = {"content": "/tokens 5000", "stream": "log"}
    response = await served.session.post(f"{served.url}/runs/stream", json=body)
    assert response.status == 200
    for _ in range(3):
        await response.content.readline()
    response.close()


WAYS = (
    cancel,
    close_in_mid_run,
    vanish,
    delete,
    be_refused,
    connect_and_leave,
    stream_and_hang_up,
    batch_with_raw_events_and_vanish,
    batch_and_hang_up,
    follow_a_log_and_hang_up,
)


@pytest.mark.slow
async def test_nothing_leaks(serve: Serve, provider: Provider) -> None:
    """After 50 rounds of every way to come, go and fail, the process holds what it held before them."""
    served = await serve(
        "graphs:openai",
        runs={"disconnect_grace_seconds": 0.05},
        log={"keep_seconds": 0},
        events={"allow_raw": True, "include_types": []},
    )
    for way in WAYS:
        await way(served)
    await eventually(lambda: len(served.server.app[HUB]) == 0, "the first round is forgotten")
    # A batch is in no conversation, and the provider sees that it was hung up on in its own time.
    await eventually(provider.left, "the provider is left by all")
    before = await Held.now(served, provider)
    for number in range(ROUNDS):
        await WAYS[number % len(WAYS)](served)
        # What is kept of sockets that are closed is the harness's.
        served.sockets.clear()
    after = await _back(served, provider, before)
    assert after.conversations == 0


async def test_stopping_leaves_nothing(serve: Serve, provider: Provider) -> None:
    """A server that is stopped in mid-run, with readers, ends every task, thread and file of its own."""
    gc.collect()
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()
    served = await serve("graphs:openai")
    socket = await _speaking(served)
    closing = asyncio.create_task(served.server.close())
    finished = await socket.until("run_finished")
    assert (finished["status"], finished["reason"]) == ("cancelled", "shutdown")
    assert await socket.closed() == 1012
    await socket.ws.close()
    await closing
    assert (await provider.stats())["open"] == 0

    def ended() -> bool:
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]  # noqa: PTH115, PTH208
        no_files = not [name for name in names if str(served.database) in name]
        return no_files and len(asyncio.all_tasks()) <= tasks and threading.active_count() <= threads

    await eventually(ended, "all is ended")


def _is_link(descriptor: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{descriptor}")  # noqa: PTH114
