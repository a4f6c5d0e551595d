"""The real process: how it starts, what it refuses to start on, how it ends, and what it keeps when it is killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket as sockets
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conftest import Servers
from harness import Socket, eventually
from process import RemoteServed, ServerProcess
from threadwire.client import TurnFailed, connect

ENDLESS = "/tokens 100000\n/tokens-per-second 100"
ONE_SECOND = "/tokens 100\n/tokens-per-second 100"


async def refused(server: ServerProcess, *arguments: str, **environ: str) -> str:
    """The one line on stderr with which it does not start."""
    await server.launch(*arguments, **environ)
    assert await server.ended() == 2, server.stderr
    [line] = server.stderr.splitlines()
    assert line.startswith("threadwire: ")
    assert "Traceback" not in server.stdout
    return line


async def speaking(served: RemoteServed, content: str = ENDLESS, **query: Any) -> Socket:
    socket = await served.attach("t1", **query)
    await socket.command("send", content=content)
    await socket.until("token")
    return socket


async def closed(socket: Socket) -> int:
    """Read on to the server's close, answer it as a browser does, and return its code."""
    code = await socket.closed()
    await socket.ws.close()
    return code


# --- the start ----------------------------------------------------------------------------------------------------


async def test_it_says_where_it_serves(servers: Servers, session: aiohttp.ClientSession) -> None:
    """The first thing it says is its address, what it serves and on which model; and it is alive and ready then."""
    server = servers("server")
    await server.start()
    first = (server.stdout + server.stderr).splitlines()[0]
    assert server.url in first
    assert "simulated" in first
    served = server.served(session)
    assert (await served.ready())[0] == 200
    async with session.get(f"{server.url}/healthz") as response:
        assert response.status == 200
    socket = await served.attach()
    await socket.turn("hello")
    server.signal(signal.SIGTERM)
    assert await closed(socket) == 1012
    assert await server.ended() == 0


async def test_ctrl_c_ends_it(servers: Servers) -> None:
    """SIGINT ends it as SIGTERM does, without a traceback."""
    server = servers("server")
    await server.start()
    server.signal(signal.SIGINT)
    assert await server.ended() == 0
    assert "Traceback" not in server.stderr + server.stdout


QUITTER = """
import asyncio, sys
from langgraph.graph import START, MessagesState, StateGraph

async def node(state):
    text = state["messages"][-1].text
    if text == "node":
        sys.exit(3)
    if text == "task":
        await asyncio.create_task(asyncio.to_thread(sys.exit, 3))
    if text == "interrupt":
        raise KeyboardInterrupt

graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
"""


async def test_sys_exit_in_a_graph_fails_its_run(
    servers: Servers, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A node that calls ``sys.exit()``, itself or in a task or thread of its own, ends its run and not the server.

    So does one that raises what Ctrl-C raises in a program of its own.
    """
    (tmp_path / "quitter.py").write_text(QUITTER)
    server = servers("server")
    await server.start("quitter.py:graph")
    socket = await server.served(session).attach("t1")
    for content, status in (("node", "failed"), ("task", "failed"), ("interrupt", "failed"), ("hi", "completed")):
        assert (await socket.turn(content))[-1]["status"] == status
    server.signal(signal.SIGTERM)
    assert await server.ended() == 0


# --- what it does not start on ------------------------------------------------------------------------------------


async def test_a_port_in_use(servers: Servers) -> None:
    """It names the port, and how to take another."""
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = await refused(servers("server"), "--port", str(port))
    assert line.count(str(port)) == 1
    assert "--port" in line


async def test_a_corrupt_database(servers: Servers, tmp_path: Path) -> None:
    """A file that is no database, and one that is damaged, are named and left as they are."""
    (tmp_path / "threadwire.db").write_bytes(b"not a database, but long enough to be read " * 200)
    before = (tmp_path / "threadwire.db").read_bytes()
    assert "threadwire.db" in await refused(servers("one"))
    assert (tmp_path / "threadwire.db").read_bytes() == before
    damaged = tmp_path / "damaged.db"
    with sqlite3.connect(damaged) as connection:
        connection.execute("CREATE TABLE t (x TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 200)
    connection.close()
    data = bytearray(damaged.read_bytes())
    data[4096:8192] = os.urandom(4096)
    damaged.write_bytes(data)
    line = await refused(servers("two"), STORAGE__URL="sqlite:///damaged.db")
    assert "damaged.db" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_an_unwritable_folder(servers: Servers, tmp_path: Path) -> None:
    """A folder it may not write to is named."""
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "locked" in await refused(servers("server"), STORAGE__URL="sqlite:///locked/x.db")


async def test_a_database_that_cannot_be_made(servers: Servers, tmp_path: Path) -> None:
    """A folder that is not there, a folder in the file's place, a place where nobody can write."""
    (tmp_path / "folder.db").mkdir()
    for number, path in enumerate(("nowhere/x.db", "folder.db", "/proc/x.db")):
        line = await refused(servers(f"server{number}"), STORAGE__URL=f"sqlite:///{path}")
        assert path in line


async def test_a_second_server_on_one_file(servers: Servers, session: aiohttp.ClientSession) -> None:
    """The second does not start and says who has the file; the first does not notice."""
    first = servers("first")
    await first.start()
    line = await refused(servers("second"), "--port", "0")
    assert "threadwire.db" in line
    assert str(first.pid) in line
    await (await first.served(session).attach()).turn("still there")
    # Also by another name of the same file.
    (first.folder / "link.db").symlink_to(first.folder / "threadwire.db")
    assert "in use" in await refused(servers("third"), "--port", "0", STORAGE__URL="sqlite:///link.db")


async def test_the_file_is_free_after_a_kill(servers: Servers) -> None:
    """What a killed server leaves beside its file does not stop the next one."""
    first = servers("first")
    await first.start()
    first.signal(signal.SIGKILL)
    await first.ended()
    await servers("second").start()


async def test_an_unknown_key(servers: Servers, tmp_path: Path) -> None:
    """A key it does not know is named with the nearest that it does."""
    line = await refused(servers("one"), SERVER__PROT="8000")
    assert "server.port" in line.lower() or "SERVER__PORT" in line
    (tmp_path / "config.yaml").write_text("runs: {max_queud: 3}\n")
    line = await refused(servers("two"))
    assert "runs.max_queud" in line
    assert "runs.max_queued" in line


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("def broken(:", "SyntaxError"),
        ("other = 1", "graph"),
        ("graph = 'text'", "str"),
    ],
)
async def test_a_bad_graph(servers: Servers, tmp_path: Path, text: str, names: str) -> None:
    """A graph that does not import, or is none, is named with what is wrong."""
    (tmp_path / "bad.py").write_text(text)
    line = await refused(servers("server"), "bad.py:graph", "--port", "0")
    assert "bad.py" in line
    assert names in line


async def test_debug_shows_the_traceback(servers: Servers, tmp_path: Path) -> None:
    """With `--debug` the same line comes after the traceback."""
    (tmp_path / "bad.py").write_text("import nowhere_to_be_found")
    server = servers("server")
    await server.launch("bad.py:graph", "--port", "0", "--debug")
    assert await server.ended() == 2
    assert "Traceback" in server.stderr
    assert "ModuleNotFoundError" in server.stderr
    assert server.stderr.splitlines()[-1].startswith("threadwire: ")


# --- the end ------------------------------------------------------------------------------------------------------


async def test_sigterm_lets_the_run_finish(servers: Servers, session: aiohttp.ClientSession) -> None:
    """goaway, the run to its end, 1012, exit 0; meanwhile not ready, new connections 1013, sends `shutting_down`."""
    server = servers("server")
    await server.start()
    served = server.served(session)
    socket = await speaking(served, ONE_SECOND)
    idle = await served.attach("t2")
    server.signal(signal.SIGTERM)
    goaway = await socket.until("goaway")
    assert goaway["reason"] == "shutdown"
    assert goaway["reconnect_after_seconds"] > 0
    assert (await served.ready())[0] == 503
    late = await served.connect("t3")
    assert await closed(late) == 1013
    assert (await socket.ask("send", content="too late"))["code"] == "shutting_down"
    # Whose thread has nothing in hand need not wait for the others.
    assert await closed(idle) == 1012
    assert [frame["type"] for frame in idle.frames[-1:]] == ["goaway"]
    finished = await socket.until("run_finished")
    assert finished["status"] == "completed"
    assert socket.text().count(" ") == 100
    assert await closed(socket) == 1012
    assert await server.ended() == 0
    assert "Traceback" not in server.stderr + server.stdout


async def test_a_run_that_takes_too_long_is_cut_off(servers: Servers, session: aiohttp.ClientSession) -> None:
    """After `drain_seconds` the run is cancelled with reason shutdown; its text is there after the restart."""
    server = servers("server")
    await server.start(SERVER__DRAIN_SECONDS="0.3")
    socket = await speaking(server.served(session))
    server.signal(signal.SIGTERM)
    finished = await socket.until("run_finished")
    assert (finished["status"], finished["reason"]) == ("cancelled", "shutdown")
    assert await closed(socket) == 1012
    assert await server.ended() == 0
    again = servers("again")
    await again.start()
    served = again.served(session)
    [user, answer] = await served.history("t1")
    assert (user["content"], answer["content"], answer["status"]) == (ENDLESS, socket.text(), "cancelled")
    await (await served.attach("t1")).turn("and now?")


async def test_a_second_sigterm_hurries(servers: Servers, session: aiohttp.ClientSession) -> None:
    """Long before `drain_seconds` are over: the run is cancelled and told, its text kept, the exit still clean."""
    server = servers("server")
    await server.start(SERVER__DRAIN_SECONDS="600")
    socket = await speaking(server.served(session))
    queued = await socket.ask("send", content="waits")
    server.signal(signal.SIGTERM)
    await socket.until("goaway")
    await socket.until("token")
    server.signal(signal.SIGTERM)
    finished = await socket.until("run_finished")
    assert (finished["status"], finished["reason"]) == ("cancelled", "shutdown")
    assert await closed(socket) == 1012
    assert await server.ended() == 0
    again = servers("again")
    await again.start()
    # What had been acknowledged and had not started runs there, without anybody who waits for it.
    after = {"after": finished["seq"], "epoch": socket.frames[0]["epoch"]}
    back = await again.served(session).attach("t1", **after)
    assert back.frames[0]["resume"] == "replayed"
    assert (await back.until("run_finished"))["run_id"] == queued["run_id"]
    history = (await back.ask("history"))["messages"]
    assert [m["role"] for m in history] == ["user", "assistant", "user", "assistant"]
    assert (history[1]["content"], history[1]["status"]) == (socket.text(), "cancelled")
    assert history[2]["content"] == "waits"


async def test_a_client_that_does_not_read_does_not_hold_up_the_end(
    servers: Servers, session: aiohttp.ClientSession
) -> None:
    """A socket whose client answers no close is cut off after a few seconds."""
    server = servers("server")
    await server.start()
    socket = await server.served(session).attach()
    socket.ws._response.connection.transport.pause_reading()  # type: ignore[union-attr]
    server.signal(signal.SIGTERM)
    assert await server.ended(15) == 0


# --- the sudden end -----------------------------------------------------------------------------------------------


async def test_kill_9_keeps_what_was_acknowledged(servers: Servers, session: aiohttp.ClientSession) -> None:
    """After `kill -9`: the message is there, the run marked lost, a repeat known, and the next turn works."""
    server = servers("server")
    await server.start()
    run_id = "0190a000-0000-7000-8000-00000000000a"
    socket = await server.served(session).attach("t1")
    await socket.turn("before")
    ack = await socket.ask("send", content=ENDLESS, run_id=run_id, message_id="m1")
    assert ack["type"] == "ack"
    await socket.until("token")
    server.signal(signal.SIGKILL)
    await server.ended()
    again = servers("again")
    await again.start()
    served = again.served(session)
    history = await served.history("t1")
    assert [m["role"] for m in history[:3]] == ["user", "assistant", "user"]
    assert history[2]["content"] == ENDLESS
    assert all(m.get("status") == "lost" for m in history[3:])
    assert _status(server.folder, run_id) == "lost"
    socket = await served.attach("t1")
    assert socket.frames[0]["run"] is None
    repeat = await socket.ask("send", content=ENDLESS, run_id=run_id, message_id="m1")
    assert repeat["duplicate"] is True
    await socket.turn("and now?")
    assert (await served.history("t1"))[-1]["role"] == "assistant"


def _status(folder: Path, run_id: str) -> str:
    with sqlite3.connect(f"file:{folder}/threadwire.db?mode=ro", uri=True) as connection:
        [(status,)] = connection.execute("SELECT status FROM runs WHERE run_id = ?", (run_id,)).fetchall()
    connection.close()
    return str(status)


async def test_kill_9_right_after_the_ack(servers: Servers, session: aiohttp.ClientSession) -> None:
    """An acknowledged send survives a kill in the same moment, run or queued, each message once."""
    for number in range(3):
        server = servers(f"server{number}")
        await server.start()
        socket = await server.served(session).attach("t1")
        acks = [await socket.ask("send", content=f"{ENDLESS}\n{number}", message_id=f"m{number}")]
        acks.append(await socket.ask("send", content="queued", message_id=f"q{number}"))
        server.signal(signal.SIGKILL)
        await server.ended()
        assert [ack["type"] for ack in acks] == ["ack", "ack"]
    again = servers("again")
    await again.start()
    socket = await again.served(session).attach("t1")

    # They are where they were: in hand, or in the queue, and nobody needs to be there for them to run.
    while (await socket.ask("cancel"))["type"] == "ack":
        await socket.until("run_finished")
    ids = [m["id"] for m in (await socket.ask("history"))["messages"] if m["role"] == "user"]
    assert ids == ["m0", "q0", "m1", "q1", "m2", "q2"]


# --- the Python client, across servers --------------------------------------------------------------------------------


async def successor(servers: Servers, server: ServerProcess) -> ServerProcess:
    """Another server in the place of one that has ended."""
    again = servers("again")
    await again.launch("--port", server.url.rsplit(":", 1)[1])
    await eventually(lambda: "serving" in again.stdout + again.stderr, "the next server serves")
    again.url = server.url
    return again


async def test_a_conversation_goes_on_over_a_deploy(servers: Servers) -> None:
    """The client finishes its turn, comes back to the next server by itself, and misses nothing."""
    server = servers("server")
    await server.start()
    async with connect(server.url.replace("http", "ws") + "/ws", thread_id="t1") as chat:
        turn = chat.send(ONE_SECOND)
        async for frame in turn:
            if frame.type == "token":
                break
        server.signal(signal.SIGTERM)
        text = await turn.text()
        assert (await turn.finished()).status == "completed"
        assert await server.ended() == 0
        await successor(servers, server)
        async with asyncio.timeout(60):
            assert await chat.send("and on").text()
            history = await chat.history()
    assert [message.role for message in history.messages] == ["user", "assistant"] * 2
    assert history.messages[1].content == text


async def test_a_conversation_goes_on_over_a_crash(servers: Servers) -> None:
    """A kill in the middle of an answer: the client hears that it is lost, with all that is left of it, and goes on."""
    server = servers("server")
    await server.start()
    async with connect(server.url.replace("http", "ws") + "/ws", thread_id="t1") as chat:
        turn = chat.send(ENDLESS)
        async for frame in turn:
            if frame.type == "token":
                break
        server.signal(signal.SIGKILL)
        await server.ended()
        again = await successor(servers, server)
        async with asyncio.timeout(60):
            with pytest.raises(TurnFailed):
                await turn.text()
            finished = await turn.finished()
            assert finished.status == "lost"
            assert await chat.send("and on").text()
            history = await chat.history()
        assert finished.messages == history.messages[: len(finished.messages or ())]
        again.signal(signal.SIGTERM)
        assert await again.ended() == 0


# --- a disk that fills up -----------------------------------------------------------------------------------------


async def test_a_full_disk_fails_the_turn_and_no_more(servers: Servers, session: aiohttp.ClientSession) -> None:
    """storage_error while there is no room; the server lives, forgets nothing, and works again when there is room."""
    server = servers("server")
    await server.start()
    served = server.served(session)
    socket = await served.attach("t1")
    await socket.turn("before")
    committed = await served.history("t1")
    # As a full disk: files may not grow beyond what they are (the log file of SQLite is at most a few pages).
    _limit_files(server.pid, (server.folder / "threadwire.db-wal").stat().st_size + 8192)
    codes = [await _try(socket, f"{number} {'x' * 20_000}") for number in range(3)]
    assert set(codes) == {"storage_error"}
    status, body = await served.ready()
    assert status in (200, 503), body
    other = await served.attach("t2")
    assert (await other.ask("ping"))["type"] == "pong"
    assert await served.history("t1") == committed or len(await served.history("t1")) >= len(committed)
    _limit_files(server.pid, -1)

    async def works() -> bool:
        return await _try(socket, "room again") is None

    await eventually(works, "a turn works again")
    history = await served.history("t1")
    assert history[: len(committed)] == committed
    assert history[-2]["content"] == "room again"
    assert (await served.ready())[0] == 200
    server.signal(signal.SIGTERM)
    assert await server.ended() == 0
    again = servers("again")
    await again.start()
    assert await again.served(session).history("t1") == history


async def test_what_a_full_disk_owes_is_written(servers: Servers, session: aiohttp.ClientSession) -> None:
    """Wherever the room ran out, an acknowledged message is in its thread once there is room, and its run has ended."""
    server = servers("server")
    await server.start()
    served = server.served(session)
    socket = await served.attach("t1")
    await socket.turn("before")
    acknowledged = []
    for pages in range(2, 40, 4):
        _limit_files(server.pid, (server.folder / "threadwire.db-wal").stat().st_size + pages * 4096)
        answer = await socket.ask("send", content="x" * 20_000, message_id=f"m{pages}")
        if answer["type"] == "ack":
            acknowledged.append(f"m{pages}")
            await socket.until("run_finished", run_id=answer["run_id"])
        _limit_files(server.pid, -1)
    assert {f["error"]["code"] for f in socket.of("run_finished") if f["error"]} == {"storage_error"}
    assert len(acknowledged) < 10, "the room never ran out"

    def ended() -> bool:
        with sqlite3.connect(f"file:{server.folder}/threadwire.db?mode=ro", uri=True) as connection:
            rows = connection.execute("SELECT count(*) FROM runs WHERE status IN ('queued', 'running')").fetchall()
        connection.close()
        return bool(rows == [(0,)])

    await eventually(ended, "every run has ended on disk")
    stored = [m["id"] for m in await served.history("t1") if m["role"] == "user"]
    assert sorted(identity for identity in stored if identity.startswith("m")) == sorted(acknowledged)
    assert (await socket.turn("room again"))[-1]["status"] == "completed"
    assert len({f["run_id"] for f in socket.of("run_finished")}) == len(socket.of("run_finished"))


async def _try(socket: Socket, content: str) -> str | None:
    """The code of the error a turn meets at its send or at its end; None where it completes."""
    answer = await socket.ask("send", content=content)
    if answer["type"] == "error":
        return str(answer["code"])
    finished = await socket.until("run_finished", run_id=answer["run_id"])
    return None if finished["error"] is None else str(finished["error"]["code"])


def _limit_files(pid: int, size: int) -> None:
    import resource

    # The soft limit alone, so that it can be raised again.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# --- what it writes -----------------------------------------------------------------------------------------------


async def test_the_log_is_one_json_object_a_line(servers: Servers, session: aiohttp.ClientSession) -> None:
    """Away from a terminal: a JSON line per connection and per run on stderr, and no text of conversations."""
    server = servers("server")
    await server.start()
    socket = await server.served(session).attach("t1")
    await socket.turn("a very secret question")
    await socket.turn("/error")
    await socket.ws.close()
    server.signal(signal.SIGTERM)
    assert await server.ended() == 0
    import json

    lines = [json.loads(line) for line in server.stderr.splitlines()]
    assert len([line for line in lines if line["event"] == "run"]) == 2
    assert len([line for line in lines if line["event"] == "connection"]) == 1
    assert server.stdout == "" or re.fullmatch(r"\S.*http://\S+.*\n", server.stdout)
    assert "secret" not in server.stderr
