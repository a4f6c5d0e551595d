"""``threadwire doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from conftest import Servers
from harness import Provider
from process import DEFAULTS
from threadwire import cli
from threadwire.storage.sqlite_schema import MIGRATIONS

PARTS = {"configuration", "access", "database", "disk", "open files", "port", "uvloop", "page", "model", "graph"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs, with a simulated model."""
    monkeypatch.chdir(tmp_path)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


class Said(NamedTuple):
    """What it has said: its exit code, and by part the worst level and all texts."""

    code: int
    levels: dict[str, str]
    texts: dict[str, str]


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str, port: str | None = None) -> Said:
    """Run it in this process, which must have no loop."""
    code = cli.main(["doctor", "--port", port or free_port(), *arguments])
    return said(code, capsys.readouterr().out)


def said(code: int, output: str) -> Said:
    levels: dict[str, str] = {}
    texts: dict[str, str] = {}
    for line in output.splitlines():
        level, _, rest = line.partition(" ")
        assert level in ("ok", "warning", "problem"), line
        part, _, text = rest.strip().partition(": ")
        levels[part] = max(level, levels.get(part, ""), key=["", "ok", "warning", "problem"].index)
        texts[part] = texts.get(part, "") + text + "\n"
    return Said(code, levels, texts)


async def run(folder: Path, *arguments: str) -> Said:
    """Run it as a process, beside a server or a provider of the test's."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "threadwire", "doctor", *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return said(process.returncode or 0, output.decode())


# --- well -----------------------------------------------------------------------------------------


def test_all_is_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each part has its line, nothing is made, and the exit code is 0, before a server has ever run."""
    found = doctor(capsys)
    assert found.levels.keys() == PARTS
    assert found.code == 0
    assert {part for part, level in found.levels.items() if level == "problem"} == set()
    for part in ("configuration", "access", "database", "port", "model", "graph"):
        assert found.levels[part] == "ok"
    assert list(folder.iterdir()) == []


async def test_beside_a_running_server(folder: Path, servers: Servers, session: aiohttp.ClientSession) -> None:
    """A server that runs as configured is well: its port and its database are its own."""
    server = servers("one")
    await server.start()
    socket_ = await server.served(session).attach("t")
    await socket_.turn()
    found = await run(folder, "--port", server.url.rpartition(":")[2])
    assert (found.code, found.levels["port"], found.levels["database"]) == (0, "ok", "ok")
    assert "whole" in found.texts["database"]
    # One that would need the same database at another port would not start.
    found = await run(folder, "--port", free_port())
    assert (found.code, found.levels["database"]) == (1, "problem")
    assert f"process {server.pid}" in found.texts["database"]


def test_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints the same as a list."""
    assert cli.main(["doctor", "--port", free_port(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["part"] for each in found} == PARTS
    assert all(each.keys() == {"level", "part", "text"} for each in found)


# --- not well -------------------------------------------------------------------------------------


def test_configuration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mistake in the configuration is a problem of its own."""
    (folder / "config.yaml").write_text("server: {prot: 1}\nruns: {max_queued: many}\n")
    found = doctor(capsys)
    assert (found.code, found.levels) == (1, {"configuration": "problem"})
    assert "server.port" in found.texts["configuration"]
    assert "runs.max_queued" in found.texts["configuration"]


def damaged(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE big (filler)")
        connection.execute("CREATE INDEX of_big ON big (filler)")
        connection.executemany("INSERT INTO big VALUES (?)", [(f"{n}" * 400,) for n in range(100)])
    connection.close()
    data = bytearray(path.read_bytes())
    data[8192:40960] = bytes(32768)
    path.write_bytes(data)


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (damaged, "restore it from a backup"),
        (newer, "upgrade threadwire"),
        (lambda path: path.write_text("no database at all"), "not a SQLite database"),
        (lambda path: path.mkdir(), "is a directory"),
    ],
    ids=["damaged", "newer", "another file", "a directory"],
)
def test_database(folder: Path, capsys: pytest.CaptureFixture[str], make: Any, says: str) -> None:
    """A database that no server could use is a problem, and the line says what to do."""
    make(folder / "threadwire.db")
    found = doctor(capsys)
    assert (found.code, found.levels["database"]) == (1, "problem")
    assert says in found.texts["database"]
    assert found.levels["graph"] == "ok"


def test_locked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that another program writes to is a problem."""
    with sqlite3.connect(folder / "threadwire.db", isolation_level=None) as other:
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN IMMEDIATE")
        found = doctor(capsys)
        other.execute("ROLLBACK")
    other.close()
    assert (found.code, found.levels["database"]) == (1, "problem")
    assert "locked by another program" in found.texts["database"]


def test_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there is a problem, told once."""
    monkeypatch.setenv("THREADWIRE_STORAGE__URL", "sqlite:///nowhere/threadwire.db")
    found = doctor(capsys)
    assert (found.code, found.levels["database"]) == (1, "problem")
    assert "does not exist" in found.texts["database"]
    assert "disk" not in found.levels


@pytest.mark.parametrize(("free", "level"), [(50_000_000, "problem"), (500_000_000, "warning")])
def test_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free: int, level: str
) -> None:
    """Little room is a warning, next to none a problem."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**12, 10**12 - free, free))
    found = doctor(capsys)
    assert found.levels["disk"] == level
    assert found.code == (1 if level == "problem" else 0)
    assert "make room" in found.texts["disk"]


def test_port(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that something else has is a problem."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = doctor(capsys, port=str(other.getsockname()[1]))
    assert (found.code, found.levels["port"]) == (1, "problem")
    assert "is taken" in found.texts["port"]


def test_metrics_port(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The metrics' own port is looked at like the other."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("THREADWIRE_SERVER__METRICS_PORT", str(other.getsockname()[1]))
        found = doctor(capsys)
    assert (found.levels["port"], found.levels["metrics port"]) == ("ok", "problem")
    assert "server.metrics_port" in found.texts["metrics port"]


def test_open_files(folder: Path) -> None:
    """A limit of open files below the connections is a warning, with what to set."""
    command = [sys.executable, "-m", "threadwire", "doctor", "--port", free_port()]
    line = f"ulimit -n 256; exec {' '.join(command)}"
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
    found = said(done.returncode, done.stdout)
    assert (found.code, found.levels["open files"]) == (0, "warning")
    assert "LimitNOFILE" in found.texts["open files"]
    assert "10100" in found.texts["open files"]


def test_access(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that anybody may use is a warning."""
    monkeypatch.setenv("THREADWIRE_AUTH__INSECURE", "true")
    found = doctor(capsys)
    assert (found.code, found.levels["access"]) == (0, "warning")


def test_simulated_by_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where nobody chose a model and there is none, the answers are made up: a warning that says how to get one."""
    monkeypatch.setenv("THREADWIRE_MODEL__NAME", "auto")
    monkeypatch.delenv("THREADWIRE_MODEL__API_KEY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = doctor(capsys)
    assert (found.code, found.levels["model"]) == (0, "warning")
    assert "threadwire models fetch" in found.texts["model"]


@pytest.mark.parametrize("target", ["nowhere:graph", "broken.py:graph", "empty.py:graph"])
def test_graph(folder: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    """A graph that does not load is a problem in one line."""
    (folder / "broken.py").write_text("raise RuntimeError('no\\nluck')\n")
    (folder / "empty.py").write_text("graph = 3\n")
    found = doctor(capsys, target)
    assert (found.code, found.levels["graph"]) == (1, "problem")
    assert found.texts["graph"].count("\n") == 1


async def test_provider(folder: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is asked once, and left at its first token."""
    monkeypatch.setenv("THREADWIRE_MODEL__NAME", "openai:simulated")
    monkeypatch.setenv("THREADWIRE_MODEL__BASE_URL", provider.base_url)
    found = await run(folder, "--port", free_port())
    assert (found.code, found.levels["model"]) == (0, "ok")
    assert len(await provider.requests()) == 1
    assert (await provider.stats())["open"] == 0


def test_no_provider(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A provider that is not there is a problem."""
    monkeypatch.setenv("THREADWIRE_MODEL__NAME", "openai:simulated")
    monkeypatch.setenv("THREADWIRE_MODEL__BASE_URL", f"http://127.0.0.1:{free_port()}/v1")
    found = doctor(capsys)
    assert (found.code, found.levels["model"]) == (1, "problem")
    assert "model.base_url" in found.texts["model"]
