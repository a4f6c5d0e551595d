"""``threadwire storage``: looking at, pruning and copying a database, with and without a server on it."""

# ruff: noqa: ASYNC240 -- a test has its loop for itself, and may block it

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from contracts.storage import a_line, a_run, accept, finish
from databases import rows
from harness import eventually
from process import RemoteServed, ServerProcess
from threadwire.cli import main
from threadwire.storage import RunStart, sqlite_file
from threadwire.storage.sqlite import SqliteStorage


@dataclass(frozen=True)
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Awaitable[Done]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``threadwire storage …`` in the test's folder; keywords are settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("THREADWIRE_")]:
        monkeypatch.delenv(name)

    async def run(*arguments: str, **environ: str) -> Done:
        for name, value in environ.items():
            monkeypatch.setenv(f"THREADWIRE_{name.upper()}", value)
        capsys.readouterr()
        # A thread, since the command has a loop of its own.
        code = await asyncio.to_thread(main, ["storage", *arguments])
        return Done(code, *capsys.readouterr())

    return run


async def refusal(command: Command, *arguments: str) -> str:
    """The line on stderr with which a command refuses; its exit code is 2, and it says nothing else."""
    done = await command(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("threadwire: ")
    return line


async def fill(folder: Path) -> Path:
    """A database with a thread of many checkpoints, one of few, and something in each kind of table."""
    path = folder / "threadwire.db"
    async with SqliteStorage.open(str(path)) as storage:
        for name, count in (("long", 80), ("short", 3)):
            await accept(storage, a_run(f"r-{name}", name))
            await finish(storage, f"r-{name}")
            await a_line(storage.saver(), count, thread_id=name)
        await storage.store.aput(("a",), "k", {"n": 1})
    return path


def cells(text: str) -> dict[str, list[str]]:
    """A line's words after its first, by that."""
    return {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}


# --- stats ------------------------------------------------------------------------------------------------------


async def test_stats(command: Command, tmp_path: Path) -> None:
    """It counts threads, checkpoints and rows, and says which tables and threads are large, the largest first."""
    path = await fill(tmp_path)
    before = path.read_bytes()
    done = await command("stats")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 threads, 83 checkpoints" in done.stdout
    said = cells(done.stdout)
    assert (said["writes"][0], said["runs"][0], said["store"][0]) == ("83", "2", "1")
    size = rows(path, "SELECT sum(length(checkpoint) + length(metadata)) FROM checkpoints")[0][0] / 1000
    assert size < float(said["checkpoints"][1]) < 2 * size
    named = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("long", "short"))]
    assert named == ["long", "short"]
    assert said["long"][0] == "80"
    assert path.read_bytes() == before


async def test_stats_of_many_threads(command: Command, tmp_path: Path) -> None:
    """It names the largest ten and counts the others."""
    async with SqliteStorage.open(str(tmp_path / "threadwire.db")) as storage:
        for number in range(13):
            await storage.create_thread(f"t{number}", {"filler": "x" * 100 * number}, 1.0)
    done = await command("stats")
    assert done.stdout.splitlines()[-11].startswith("t12 ")
    assert done.stdout.splitlines()[-1] == "and 3 smaller ones"


# --- prune ------------------------------------------------------------------------------------------------------


async def test_prune(command: Command, tmp_path: Path) -> None:
    """It prunes every thread to what the configuration keeps and gives the room back, and says so."""
    path = await fill(tmp_path)
    size = path.stat().st_size
    done = await command("prune", storage__keep_checkpoints="2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("79 checkpoints of 2 threads pruned; the newest 2 of each thread are kept\nVACUUM: ")
    assert rows(path, "SELECT thread_id, count(*) FROM checkpoints GROUP BY 1") == [("long", 2), ("short", 2)]
    assert rows(path, "SELECT count(*) FROM writes") == [(4,)]
    assert path.stat().st_size < size
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    done = await command("prune", storage__keep_checkpoints="0")
    assert done.stdout.startswith("0 checkpoints of 0 threads pruned; storage.keep_checkpoints is 0: all are kept\n")


async def test_prune_leaves_what_a_crash_left(command: Command, tmp_path: Path) -> None:
    """A thread with a run that has not ended is the next server's: it needs where that run went on from."""
    path = await fill(tmp_path)
    async with SqliteStorage.open(str(path)) as storage:
        await accept(storage, a_run("cut-off", "long"))
        await storage.write([], [RunStart("cut-off", None, 1.0)])
    await command("prune", storage__keep_checkpoints="2")
    assert rows(path, "SELECT thread_id, count(*) FROM checkpoints GROUP BY 1") == [("long", 80), ("short", 2)]


# --- backup -----------------------------------------------------------------------------------------------------


async def test_backup(command: Command, tmp_path: Path) -> None:
    """The copy is one file for nobody else to read, has all of it, and is marked; the original is as it was."""
    path = await fill(tmp_path)
    before = path.read_bytes()
    done = await command("backup", "copies & all.db")
    assert (done.returncode, done.stderr) == (0, "")
    copy = tmp_path / "copies & all.db"
    assert done.stdout.startswith("copies & all.db: ")
    assert not {file.name for file in tmp_path.iterdir()} & {".copies", f"{copy.name}-wal", f"{copy.name}-journal"}
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    for table in ("checkpoints", "writes", "threads", "runs", "texts", "store"):
        assert rows(copy, f"SELECT * FROM {table}") == rows(path, f"SELECT * FROM {table}")
    assert rows(copy, "PRAGMA application_id") == [(sqlite_file.COPIED,)]
    assert rows(path, "PRAGMA application_id") == [(0,)]
    assert path.read_bytes() == before


async def test_backup_of_damage(command: Command, tmp_path: Path) -> None:
    """Of a damaged database no copy is kept."""
    path = await fill(tmp_path)
    content = bytearray(path.read_bytes())
    start = rows(path, "SELECT rootpage FROM sqlite_master WHERE name = 'writes'")[0][0] * 4096 - 4096
    content[start : start + 4096] = b"\xff" * 4096
    path.write_bytes(content)
    assert "damaged" in await refusal(command, "backup", "copy.db")
    assert not [file for file in tmp_path.iterdir() if "copy" in file.name]


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("stats",), ("prune",), ("backup", "copy.db")])
async def test_nothing_there(command: Command, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Without a database, with an empty one, with somebody else's or with no database: a line, and nothing is made."""
    assert "there is no such file" in await refusal(command, *arguments)
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "threadwire.db"
    path.touch()
    assert "has no threads" in await refusal(command, *arguments)
    rows(path, "CREATE TABLE threads (thread_id TEXT)")
    assert "has no threads" in await refusal(command, *arguments)
    path.write_bytes(b"garbage " * 1000)
    assert "not a SQLite database" in await refusal(command, *arguments)
    assert not (tmp_path / "copy.db").exists()


async def test_backup_overwrites_nothing(command: Command, tmp_path: Path) -> None:
    """A file that is there stays, also where it is the database itself; a folder that is not there is named."""
    path = await fill(tmp_path)
    before = path.read_bytes()
    assert "is there already" in await refusal(command, "backup", "threadwire.db")
    assert "none/copy.db" in await refusal(command, "backup", "none/copy.db")
    assert path.read_bytes() == before


# --- beside a server --------------------------------------------------------------------------------------------


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A real server on a database in the test's folder."""
    server = ServerProcess(tmp_path)
    await server.start(model__simulated__tokens_per_second="200")
    yield server
    await server.kill()


async def test_beside_a_server(
    server: ServerProcess, session: aiohttp.ClientSession, command: Command, tmp_path: Path
) -> None:
    """While a server writes, stats and backup work, prune refuses; a server starts on the copy, with what was said."""
    served = server.served(session)
    socket = await served.attach("t1")
    await socket.turn("/tokens 2")
    await socket.command("send", content="/tokens 100000")
    said = (await socket.until("token"))["seq"]
    frames = "SELECT count(*) FROM frames WHERE last >= "
    await eventually(lambda: rows(tmp_path / "threadwire.db", f"{frames}{said}") != [(0,)], "it is in the journal")
    assert "in use by another threadwire server" in await refusal(command, "prune")
    done = await command("stats")
    assert "1 threads, " in done.stdout
    done = await command("backup", "copy.db")
    assert (done.returncode, done.stderr) == (0, "")
    await socket.until("token")
    await socket.ask("cancel")
    await socket.until("run_finished", status="cancelled")
    told = await served.history("t1")
    second = ServerProcess(tmp_path, "second")
    await second.start(storage__url="sqlite:///copy.db")
    try:
        copied = RemoteServed(second.url, session, tmp_path / "copy.db")
        ready = socket.frames[0]
        again = await copied.attach("t1", after=ready["seq"] + 1, epoch=ready["epoch"])
        assert again.frames[0]["resume"] == "gap"
        assert again.frames[0]["epoch"] != ready["epoch"]
        found = await copied.history("t1")
        assert [message["content"] for message in found[:3]] == [message["content"] for message in told[:3]]
        assert found[3]["status"] == "lost"
        assert found[3]["content"]
        assert told[3]["content"].startswith(found[3]["content"])
        assert (await again.turn("/tokens 2"))[-1]["status"] == "completed"
    finally:
        await second.kill()
