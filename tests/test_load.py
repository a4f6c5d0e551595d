"""``threadwire load`` as people run it: a process of its own against a real server, and what it writes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import ssl
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from conftest import Serve
from harness import Served, eventually
from load_process import load
from process import ServerProcess
from scripted_server import Fault, ScriptedServer, scripted_server
from threadwire.cli import main
from threadwire.connector import CONNECTIONS
from threadwire.load.recorder import LATENCIES
from threadwire.load.violations import VIOLATIONS


@pytest.fixture
async def served(serve: Serve) -> Served:
    return await serve(model={"simulated": {"tokens_per_second": 400, "first_token_ms": 10}})


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as server:
        yield server


async def test_a_closed_loop(served: Served, tmp_path: Path) -> None:
    """So many sessions take so many turns, each in its way; the result has every figure, and no promise is broken."""
    shares = ["--cancel", "10%", "--vanish", "20%", "--slow-reader", "5%", "--second-tab", "10%", "--idle", "10%"]
    loaded = await load(
        tmp_path, served.url, "--sessions", "20", "--turns", "2", "--ramp", "1s", "--message", "/tokens 80", *shares
    )
    result = loaded.result
    assert loaded.broken == set(), result["explanations"]
    assert (loaded.code, result["errors"]) == (0, {})
    assert result["sessions"]["started"] == result["sessions"]["finished"] == 20
    assert sum(result["turns"].values()) == 36
    assert result["turns"]["cancelled"] in (2, 3, 4)
    assert set(result["latency_seconds"]) == set(LATENCIES)
    for found in result["latency_seconds"].values():
        assert found["count"] > 0
        assert 0 < found["p50"] <= found["p90"] <= found["p99"] <= found["p999"] <= found["max"] * 1.001
    assert result["tokens"] >= result["usage_tokens"] >= 30 * 80
    assert set(result["violations"]) == set(VIOLATIONS)
    assert result["rows"][-1]["connections"] == 0
    assert "between tokens" in loaded.out


async def test_an_open_loop(served: Served, tmp_path: Path) -> None:
    """Sessions arrive at a rate by chance; the same seed gives the same arrivals, over any number of processes."""
    arguments = ["--arrivals-per-second", "15", "--duration", "2s", "--message", "/tokens 5", "--seed", "3"]
    one = await load(tmp_path, served.url, *arguments)
    two = await load(tmp_path, served.url, *arguments, "--processes", "2")
    assert one.result["sessions"]["finished"] == two.result["sessions"]["finished"]
    assert 15 <= one.result["sessions"]["started"] <= 45
    assert two.result["generator"]["processes"] == 2
    assert two.result["latency_seconds"]["first_token"]["count"] == two.result["turns"]["completed"]


async def test_a_script(served: Served, tmp_path: Path) -> None:
    """A script's conversations are had by weight, with its own cancels; what is wrong in it is told in a line."""
    (tmp_path / "talk.yaml").write_text(
        "conversations:\n"
        "  - name: long\n"
        "    weight: 3\n"
        "    turns: [{say: '/tokens 9 \\n{session}'}, {say: 'again', think_seconds: 0.1}]\n"
        "  - turns: [{say: '/tokens 300', cancel_after_tokens: 2}]\n"
    )
    loaded = await load(tmp_path, served.url, "--script", "talk.yaml", "--sessions", "12")
    assert (loaded.code, loaded.broken) == (0, set())
    assert loaded.result["turns"]["cancelled"] + loaded.result["turns"]["completed"] // 2 == 12
    (tmp_path / "talk.yaml").write_text("conversations: [{turns: [{shout: hi}]}]")
    wrong = await load(tmp_path, served.url, "--script", "talk.yaml")
    assert wrong.code == 2
    assert "talk.yaml: not a script of conversations: a turn has say or respond" in wrong.err


async def test_a_recording(served: Served, tmp_path: Path) -> None:
    """Recorded messages are said again at their times, by a session each, whether or not the answer before has come."""
    said = [
        {"session": "a", "at": "2026-01-01T10:00:00", "content": "/tokens 200"},
        {"session": "b", "at": "2026-01-01T10:00:02", "content": "two"},
        {"session": "a", "at": "2026-01-01T10:00:01", "content": "three"},
    ]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, said)))
    loaded = await load(tmp_path, served.url, "--replay", "said.jsonl", "--replay-speed", "10")
    assert (loaded.code, loaded.broken) == (0, set())
    assert loaded.result["sessions"]["finished"] == 2
    assert loaded.result["turns"] == {"completed": 3}


async def test_thresholds(served: Served, tmp_path: Path) -> None:
    """``--fail-if`` makes the exit code 1 and says by which figure; one that is kept does not."""
    arguments = ["--sessions", "2", "--fail-if", "errors>0", "--fail-if"]
    kept = await load(tmp_path, served.url, *arguments, "first_token_p99>1min")
    assert (kept.code, kept.result["failed"]) == (0, [])
    broken = await load(tmp_path, served.url, *arguments, "first_token_p50>=10us")
    assert broken.code == 1
    assert broken.result["failed"][0].startswith("first_token_p50>=10us: first_token_p50 is ")
    assert "failed: first_token_p50>=10us" in broken.out


async def test_the_servers_process_is_watched(tmp_path: Path) -> None:
    """With ``--pid`` the result has the server's cpu and memory; the report is one page that loads nothing."""
    server = ServerProcess(tmp_path)
    await server.start()
    try:
        arguments = ["--sessions", "5", "--duration", "3s", "--pid", str(server.pid), "--report", "report.html"]
        loaded = await load(tmp_path, server.url, *arguments, "--message", "/tokens 50")
    finally:
        await server.kill()
    assert loaded.result["server"]["cpu"] > 0
    assert 20e6 < loaded.result["server"]["memory_bytes_max"] < 1e9
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") >= 7
    assert "passed" in page
    assert not re.search(r"<link|<img|<script[^>]* src|url\(|@import", page)


async def test_two_runs_are_compared(served: Served, tmp_path: Path) -> None:
    """``--compare`` puts two results side by side and says where they were not the same load."""
    for name, tokens in (("before", "5"), ("after", "50")):
        loaded = await load(tmp_path, served.url, "--sessions", "2", "--message", f"/tokens {tokens}")
        (tmp_path / f"{name}.json").write_text(json.dumps(loaded.result))
    compared = await load(tmp_path, None, "--compare", "before.json", "after.json")
    assert compared.code == 0, compared.err
    assert "before" in compared.out
    assert "turn p50" in compared.out
    assert "not the same load: scenario /tokens 5 / /tokens 50" in compared.out


def peers(server: ScriptedServer) -> set[str]:
    return {request.remote or "" for request in server.requests}


async def test_credentials_and_sources(scripted: ScriptedServer, tmp_path: Path) -> None:
    """Each session has its own token, and its own address to come from."""
    (tmp_path / "tokens").write_text("one\ntwo\n")
    arguments = ["--sessions", "4", "--ramp", "1s", "--ignore", "foreign_frame", "--ignore", "token_mismatch"]
    sources = ["--source", "127.0.0.2", "--source", "127.0.0.3"]
    loaded = await load(tmp_path, scripted.url, "--tokens", "tokens", *sources, *arguments)
    tokens = [request.headers["Authorization"] for request in scripted.requests]
    assert sorted(tokens) == ["Bearer one", "Bearer one", "Bearer two", "Bearer two"], loaded.err
    assert peers(scripted) == {"127.0.0.2", "127.0.0.3"}
    assert all(request.headers["Sec-WebSocket-Protocol"] == "threadwire.v1" for request in scripted.requests)
    assert "one" not in json.dumps(loaded.result["options"]["credentials"])


async def test_tls(tmp_path: Path) -> None:
    """``wss://`` works with a certificate that is trusted, and says why with one that is not."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with scripted_server(context) as server:
        trusted = await load(tmp_path, server.url, "--sessions", "1", "--ca", "ca.pem")
        assert (trusted.code, trusted.result["turns"]) == (0, {"completed": 1}), trusted.out
        server.messages.clear()
        anyhow = await load(tmp_path, server.url, "--sessions", "1", "--insecure")
        assert anyhow.result["turns"] == {"completed": 1}


async def test_a_server_that_refuses(scripted: ScriptedServer, tmp_path: Path) -> None:
    """What a server refuses, or closes, is counted by its code; sessions that cannot go on are failed ones."""
    scripted.refusals.extend([401])
    scripted.errors["send"] = deque([{"code": "busy", "message": "m", "retry": True, "retry_after_seconds": 0.1}])
    loaded = await load(tmp_path, scripted.url, "--sessions", "2", "--ramp", "1s", "--ignore", "foreign_frame")
    assert loaded.result["errors"] == {"http_401": 1, "busy": 1}
    assert loaded.result["sessions"]["failed"] == 1
    assert loaded.result["turns"] == {"refused": 1}
    assert loaded.code == 1
    assert "failed: nothing worked: no turn completed" in loaded.out


async def test_nobody_is_there(tmp_path: Path) -> None:
    """Where nothing listens, the sessions fail after some attempts, and the errors say why."""
    loaded = await load(tmp_path, "http://127.0.0.1:9", "--sessions", "1", "--duration", "1s")
    assert loaded.code == 1
    assert "failed: nothing worked: there was no connection" in loaded.out
    assert set(loaded.result["errors"]) == {"connection_refused"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--cancel", "60%", "--idle", "50%"], "the shares of the behaviours are 110% together"),
        (["--ignore", "bugs"], "--ignore bugs: expected one of token_mismatch"),
        (["--fail-if", "speed>1"], "--fail-if 'speed>1': nothing is called speed"),
        (["--fail-if", "errors"], "expected NAME>NUMBER"),
        (["--tokens", "nowhere"], "nowhere: No such file or directory"),
        (["--replay", "nowhere"], "nowhere: No such file or directory"),
        (["--ca", "ca.pem"], "--ca ca.pem: there are no certificates on ws://"),
        (["--pid", "999999999"], "--pid 999999999: there is no such process"),
        (["--json", "nowhere/result.json"], "nowhere/result.json: No such file or directory"),
        (["--report", "."], ".: Is a directory"),
        (["--source", "192.0.2.1"], "--source 192.0.2.1: "),
        (["--source", "nobody's"], "--source nobody's: "),
    ],
)
def test_a_wrong_command_line(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake ends with a line that says what is wrong, and exit code 2."""
    assert main(["load", "ws://127.0.0.1:9/ws", *arguments]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "number", "expected"),
    [
        *(("--sessions", number, "a whole number from 1") for number in ("x", "0", "1.5")),
        *(("--arrivals-per-second", number, "a number above 0") for number in ("x", "0", "-1", "nan", "inf")),
        *(("--replay-speed", number, "a number above 0") for number in ("0", "nan")),
        *(("--turn-timeout", number, "a time like 90s, 10m or 1h, above 0") for number in ("x", "0s", "0")),
    ],
)
def test_a_number_that_is_none(flag: str, number: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says what was expected and what came."""
    with pytest.raises(SystemExit):
        main(["load", "ws://127.0.0.1:9/ws", f"{flag}={number}"])
    assert f"{flag}: expected {expected}; got '{number}'" in capsys.readouterr().err


async def test_a_thread_that_is_not_read_back(scripted: ScriptedServer, tmp_path: Path) -> None:
    """A server that does not answer ``history`` is an error within the turn's timeout, and the text is not verified."""
    scripted.faults.append(Fault("silence", on="history"))
    loaded = await load(tmp_path, scripted.url, "--sessions", "1", "--turn-timeout", "1s", "--report", "report.html")
    assert loaded.result["errors"] == {"read_back_timeout": 1}
    assert loaded.result["unverified"] == 1
    assert "not verified: the text of 1 session(s)" in loaded.out
    assert "The text of 1 session(s) could not be verified" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("state", ["a turn does not end", "it waits to connect again", "the thread is not read back"])
async def test_a_signal_ends_it_in_every_state(
    state: str, number: signal.Signals, scripted: ScriptedServer, tmp_path: Path
) -> None:
    """One signal is enough, whatever the sessions wait for, and the result is written."""
    reached: Callable[[], object] = lambda: scripted.log  # noqa: E731
    if state == "a turn does not end":
        scripted.script.pause_after = 1
    elif state == "it waits to connect again":
        scripted.faults.append(Fault("close", on="send", code=1012, goaway=600))
        reached = lambda: scripted.connections and scripted.connections[0].close_code  # noqa: E731
    else:
        scripted.faults.append(Fault("silence", on="history"))
        reached = lambda: scripted.received and scripted.received[-1]["type"] == "history"  # noqa: E731
    started: list[asyncio.subprocess.Process] = []
    running = asyncio.create_task(
        load(tmp_path, scripted.url, "--sessions", "1", "--turn-timeout", "1h", started=started.append)
    )
    await eventually(reached, state)
    started[0].send_signal(number)
    loaded = await running
    assert loaded.result["stopped"] is True
    assert loaded.code in (1, 130)


async def test_ctrl_c_ends_it_well(served: Served, tmp_path: Path) -> None:
    """The first Ctrl-C starts nothing more, lets turns finish, and still writes the result."""
    target = served.url.replace("http", "ws", 1) + "/ws"
    arguments: list[Any] = ["load", target, "--duration", "1h", "--sessions", "3", "--json", "result.json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "threadwire", *arguments, "--processes", "2", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    await eventually(lambda: len(served.server.app[CONNECTIONS]) >= 2, "it is under way")
    process.send_signal(signal.SIGINT)
    out, _ = await process.communicate()
    assert process.returncode == 130
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["stopped"] is True
    assert not any(result["violations"].values()), result["explanations"]
    assert b"violations: none" in out
