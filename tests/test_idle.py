"""What a connection costs that says nothing, and that its silence costs it nothing of what others say."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from typing import Any

import pytest

from conftest import Serve
from harness import Socket, eventually
from threadwire.connector import CONNECTIONS
from threadwire.http import HUB
from threadwire.journal import Record
from threadwire.log import Log
from threadwire.protocol import CloseCode
from threadwire.thread import Thread


def made() -> dict[str, int]:
    """How many actors, logs and records there are."""
    gc.collect()
    kinds = (Thread, Log, Record)
    return {kind.__name__: sum(type(found) is kind for found in gc.get_objects()) for kind in kinds}


async def test_silence_makes_nothing(serve: Serve) -> None:
    """A connection to a thread that does not exist makes no actor, log, record, nor a task beside its handler."""
    served = await serve("graphs:echo")
    before, tasks = made(), asyncio.all_tasks()
    sockets = [await served.attach(f"t{number}" if number % 2 else None) for number in range(20)]
    for socket in sockets:
        assert socket.frames[0]["created"]
        assert socket.frames[0]["seq"] == 0
    connections = served.server.app[CONNECTIONS]
    assert len(connections) == 20

    def beside() -> list[str]:
        names = [task.get_name() for task in asyncio.all_tasks() - tasks]
        return [name for name in names if name.startswith(("writer", "thread", "turn", "journal"))]

    await eventually(lambda: beside() == [], "what was said is written")
    assert made() == before
    assert len(served.server.app[HUB]) == 0
    for socket in sockets:
        await socket.ws.close()
    await eventually(lambda: not connections, "all are gone")
    assert not served.server.app[HUB]._waiting


@pytest.mark.parametrize("history", [None, 10])
async def test_two_idle_tabs_see_the_same(serve: Serve, history: int | None) -> None:
    """Tabs that wait for a thread nobody has used are told one epoch, and get the same bytes once one of them sends."""
    served = await serve("graphs:echo")
    query: dict[str, Any] = {} if history is None else {"history": history}
    tabs = [await served.attach("new", **query) for _ in range(3)]
    assert len({tab.frames[0]["epoch"] for tab in tabs}) == 1
    if history is not None:
        for tab in tabs:
            found = await tab.until("history")
            assert (found["messages"], found["seq"]) == ([], 0)
    await tabs[0].turn("hello")
    for tab in tabs[1:]:
        await tab.until("run_finished")
    told = [numbered(tab) for tab in tabs]
    assert json.loads(told[0][0])["seq"] == 1
    assert told[0] == told[1] == told[2]
    late = await served.attach("new", after=0, epoch=tabs[0].frames[0]["epoch"])
    assert late.frames[0]["resume"] == "replayed"
    await late.until("run_finished")
    assert numbered(late) == told[0]


def numbered(tab: Socket) -> list[bytes]:
    """The frames of the thread that a tab has got."""
    own = ("ready", "history", "ack")
    return [raw for raw, frame in zip(tab.raw, tab.frames, strict=True) if frame["type"] not in own]


async def test_a_stored_thread_is_no_new_one(serve: Serve) -> None:
    """Who attaches to a thread that has a row gets that thread, also when its actor has been let go."""
    served = await serve("graphs:echo", log={"keep_seconds": 0.2})
    socket = await served.attach("old")
    await socket.turn("hello")
    await socket.ws.close()
    await eventually(lambda: len(served.server.app[HUB]) == 0, "the thread is let go")
    again = await served.attach("old", history=10)
    assert not again.frames[0]["created"]
    assert again.frames[0]["seq"] > 0
    assert len((await again.until("history"))["messages"]) == 2


async def test_a_thread_made_beside_it(serve: Serve) -> None:
    """A row that is made over HTTP while somebody waits for that thread is that thread's."""
    served = await serve("graphs:echo")
    tab = await served.attach("made")
    async with served.session.post(f"{served.url}/threads", json={"thread_id": "made"}) as response:
        assert response.ok
    second = await served.attach("made")
    assert not second.frames[0]["created"]
    assert second.frames[0]["epoch"] == tab.frames[0]["epoch"]
    assert (await tab.turn("hi"))[-1]["status"] == "completed"


async def test_deleted_while_somebody_waits(serve: Serve) -> None:
    """Who waits for a thread that is then deleted is told so, as every reader of it is."""
    served = await serve("graphs:echo")
    tab = await served.attach("gone")
    async with served.session.delete(f"{served.url}/threads/gone") as response:
        assert response.status == 404
    assert await tab.closed() == CloseCode.THREAD_DELETED


def test_help_loads_nothing_heavy() -> None:
    """``threadwire --help`` imports no graph, no server and no model."""
    code = (
        "import json, sys\n"
        "from threadwire.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(ran.stdout.splitlines()[-1]))
    heavy = {"langgraph", "langchain_core", "langchain", "langchain_openai", "openai", "aiohttp", "pydantic", "sqlite3"}
    assert not loaded & {*heavy, "asyncio", "structlog", "yaml", "orjson"}
