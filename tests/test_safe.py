"""What a client says is data, wherever it goes: into SQL, beside files, and back out of the database."""

from __future__ import annotations

import asyncio
import os
import pickle
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import ormsgpack
import pytest
from aiohttp import web
from langgraph.checkpoint.serde.jsonplus import EXT_CONSTRUCTOR_SINGLE_ARG
from yarl import URL

from attack import eof
from conftest import Serve, Servers
from harness import Served
from threadwire.page import PageRoutes

INJECTIONS = (
    "'; DROP TABLE runs; --",
    '" OR 1=1 --',
    "' UNION SELECT value FROM secrets --",
    "%",
    "_",
    "\\",
    "$.title')) OR 1=1 --",
    "?1",
    ":a",
    "x' || (SELECT 1) || '",
)

# --- SQL ------------------------------------------------------------------------------------------------------------


async def post(served: Served, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with served.session.post(f"{served.url}{path}", json=body) as response:
        return response.status, await response.json()


async def test_sql_is_never_a_clients(serve: Serve) -> None:
    """Statements in the place of ids, texts and metadata find what is so called, and change nothing else."""
    served = await serve("graphs:echo")
    for number, text in enumerate(INJECTIONS):
        socket = await served.attach(f"t{number}")
        await socket.turn(f"I say {text}", message_id=text)
        answer = await socket.ask("send", content="x", checkpoint_id=text)
        assert answer["code"] == "no_such_checkpoint"
        assert (await socket.ask("history", before=f"{text} no"))["code"] == "no_such_message"
        assert (await socket.ask("edit", message_id=f"{text} no", content="x"))["code"] == "no_such_message"
        assert [m["id"] for m in await served.history(f"t{number}") if m["role"] == "user"] == [text]
        async with served.session.patch(f"{served.url}/threads/t{number}", json={"metadata": {text: text}}) as response:
            assert response.status == 200
        await socket.ws.close()
    for number, text in enumerate(INJECTIONS):
        for body in ({"query": f"I say {text}"}, {"metadata": {text: text}}, {"ids": [f"t{number}", text]}):
            status, found = await post(served, "/threads/search", body)
            assert (status, [thread["thread_id"] for thread in found]) == (200, [f"t{number}"]), body
        for body in ({"sort_by": text}, {"sort_order": text}, {"status": text}, {"select": [text]}):
            assert (await post(served, "/threads/search", body))[0] == 400
        status, _ = await post(served, f"/threads/t{number}/history", {"before": text})
        assert status == 200
        # The saver has a say too: it takes only plain names for keys.
        status, found = await post(served, f"/threads/t{number}/history", {"metadata": {text: text}})
        assert status == 400 or found == []
    assert await post(served, "/threads/count", {}) == (200, len(INJECTIONS))
    with sqlite3.connect(served.database) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM runs").fetchall() == [(len(INJECTIONS),)]
    database.close()


# --- files ----------------------------------------------------------------------------------------------------------


_OF_FILES = ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "sqlite3.connect")


class Opened(list[str]):
    """The paths that this process opens or makes while ``on``."""

    on = hooked = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in _OF_FILES:
            self.append(f"{event} {arguments!r}")


OPENED = Opened()


@contextmanager
def opened() -> Iterator[Opened]:
    """What is opened meanwhile; a hook for audits stays for the process's life."""
    OPENED.clear()
    if not OPENED.hooked:
        OPENED.hooked = True
        sys.addaudithook(OPENED)
    OPENED.on = True
    try:
        yield OPENED
    finally:
        OPENED.on = False


async def test_thread_ids_reach_no_file_name(serve: Serve, tmp_path: Path) -> None:
    """Whatever a thread is called, no file is opened or made by that name; there is only the database."""
    served = await serve("graphs:echo")
    names = ["canary", "canary..canary", "canary~1", "canary.db-wal", "0canary.exe", "canary-" + "x" * 121]
    with opened() as paths:
        for name in names:
            socket = await served.attach(name)
            await socket.turn("hello")
            await socket.ws.close()
            async with served.session.get(f"{served.url}/threads/{name}/export") as response:
                assert response.status == 200
            async with served.session.delete(f"{served.url}/threads/{name}") as response:
                assert response.status == 204
        (tmp_path / "seen").write_text("")
    assert any("seen" in path for path in paths), "the hook hears"
    assert [path for path in paths if "canary" in path] == []
    left = {name.removeprefix("threadwire.db") for name in os.listdir(tmp_path)}  # noqa: PTH208
    assert left <= {"", "-wal", "-shm", ".lock", "seen"}


async def test_an_export_names_no_path(serve: Serve) -> None:
    """What a browser saves an export as is a plain name, whatever the thread's title is."""
    served = await serve("graphs:echo")
    socket = await served.attach("t1")
    await socket.turn('../../etc/passwd\r\nX-Evil: 1 "; filename=evil')
    async with served.session.get(f"{served.url}/threads/t1/export") as response:
        assert response.status == 200
        assert "X-Evil" not in response.headers
        name = response.headers.get("Content-Disposition", "")
    assert "/" not in name
    assert ".." not in name


TARGETS = [
    "/client/../config.yaml",
    "/client/../../etc/passwd",
    "/client/%2e%2e/config.yaml",
    "/client/..%2fconfig.yaml",
    "/client/..%5cconfig.yaml",
    "/client/....//config.yaml",
    "/client//etc/passwd",
    "/client/%2fetc%2fpasswd",
    "/client/page/../../config.yaml",
    "/client/index.html%00.css",
    "/client/./",
    "/client/",
    "/../config.yaml",
    "//etc/passwd",
]


async def test_no_way_out_of_the_page(serve: Serve) -> None:
    """Request targets that no client library would send lead out of the client's folder as little as others."""
    served = await serve("graphs:echo")
    for path in TARGETS:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = await eof(reader)
        writer.close()
        assert answer.split(b" ")[1] in (b"404", b"400"), (path, answer[:200])
        assert b"root:" not in answer
        assert b"max_connections" not in answer


async def test_links_are_not_followed(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """A link in the client's folder is no file of it, neither one of a file nor one of a folder."""
    outside, folder = tmp_path / "outside", tmp_path / "client"
    outside.mkdir()
    folder.mkdir()
    (outside / "secret.txt").write_text("secret")
    (folder / "index.html").write_text("<!doctype html>")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "out").symlink_to(outside)
    app = web.Application()
    PageRoutes(folder).add_to(app.router)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        for path, status in (("/", 200), ("/client/index.html", 200), ("/client/link.txt", 404)):
            async with session.get(URL(url + path)) as response:
                assert response.status == status, path
        async with session.get(f"{url}/client/out/secret.txt") as response:
            assert response.status == 404
    finally:
        await runner.cleanup()


# --- the database ---------------------------------------------------------------------------------------------------


class Evil:
    """What a pickle runs when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (str(self._path), "w"))


@pytest.mark.parametrize("how", ["msgpack", "pickle"])
async def test_a_tampered_database_runs_nothing(
    servers: Servers, session: aiohttp.ClientSession, tmp_path: Path, how: str
) -> None:
    """A checkpoint that names code, in whatever format, runs none of it in the real server, which goes on."""
    server, made = servers("server"), tmp_path / "made"
    await server.start()
    socket = await server.served(session).attach("t1")
    await socket.turn("hello")
    await socket.ws.close()
    await server.kill()
    if how == "msgpack":
        call = ormsgpack.Ext(EXT_CONSTRUCTOR_SINGLE_ARG, ormsgpack.packb(("os", "system", f"touch {made}")))
        blob = ormsgpack.packb({"v": 4, "id": "1", "channel_values": {"messages": call}})
    else:
        blob = pickle.dumps(Evil(made))
    database = sqlite3.connect(tmp_path / "threadwire.db")
    database.execute("UPDATE checkpoints SET type = ?, checkpoint = ?", (how, blob))
    database.execute("UPDATE writes SET type = ?, value = ?", (how, blob))
    database.commit()
    database.close()
    await server.start()
    served = server.served(session)
    socket = await served.connect("t1", history="10")
    # Whatever it makes of that thread, it does not do what is in it, and everybody else is served.
    await socket.ws.receive()
    await socket.ws.close()
    for path in ("/threads/t1", "/threads/t1/state", "/threads/t1/export"):
        async with session.get(f"{server.url}{path}"):
            pass
    other = await served.attach("t2")
    assert (await other.turn("hello"))[-1]["status"] == "completed"
    assert not made.exists()
