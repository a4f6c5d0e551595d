"""``threadwire soak``: whether a server grows, said of a server that does and of one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Serve
from load_process import load
from process import ServerProcess
from threadwire.load.soak import Soak

#: What a soak may do to the machine it shares with other tests.
MIXED = ["--sessions", "30", "--turns", "4", "--think", "3s", "--ramp", "20s", "--message", "/tokens 60"]


def test_what_grows_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory that rises is told with its rate, what is flat as flat; the database is told by turn."""
    rows = [
        {"at": float(at), "server_memory_bytes": 1e8 + at * 1e6, "server_descriptors": 50, "database_bytes": 1000 * at}
        for at in range(1, 101)
    ]
    soak = Soak(None)
    found = soak.findings({"rows": rows, "turns": {"completed": 90, "cancelled": 9}})
    assert found["memory"]["grows"]
    assert found["memory"]["per_hour"] == pytest.approx(3.6e9)
    assert not found["descriptors"]["grows"]
    assert found["database"]["bytes_per_turn"] == 1000
    assert soak.print_findings(found) is True
    said = capsys.readouterr().out
    assert "memory: grows by 3.4 GiB an hour" in said
    assert "descriptors: flat (50 at first, 50 in the end)" in said
    assert "tasks: not known" in said
    del found["memory"]
    assert soak.print_findings(found) is False


async def test_a_short_soak(serve: Serve, tmp_path: Path) -> None:
    """It mixes every behaviour by itself; a few seconds of it say nothing of growth."""
    served = await serve()
    arguments = ["--duration", "8s", "--sessions", "20", "--database", str(served.database), "--report", "soak.html"]
    loaded = await load(tmp_path, served.url, *arguments, command="soak")
    assert loaded.code == 0, loaded.out + loaded.err
    assert loaded.result["turns"]["cancelled"] > 0
    assert "memory: not known" in loaded.out
    assert "for each turn" in loaded.out
    assert "Soak test" in (tmp_path / "soak.html").read_text()


@pytest.mark.torture
async def test_ten_minutes(tmp_path: Path) -> None:
    """Ten minutes of mixed behaviour leave the server as it was: no promise broken, nothing that grows."""
    server = ServerProcess(tmp_path)
    await server.start(
        log__keep_seconds="20",
        model__simulated__tokens_per_second="50",
        model__simulated__first_token_ms="100",
        runs__disconnect_grace_seconds="3",
    )
    try:
        # A machine that is shared may keep a cancel waiting for longer than the server's own deadline.
        arguments = [
            "--cancel-deadline",
            "15s",
            "--duration",
            "10m",
            "--pid",
            str(server.pid),
            "--database",
            "threadwire.db",
            *MIXED,
        ]
        loaded = await load(tmp_path, server.url, *arguments, command="soak", deadline=900)
    finally:
        await server.kill()
    assert loaded.broken == set(), loaded.result["explanations"]
    assert loaded.result["errors"] == {}
    assert loaded.code == 0, loaded.out
    assert {name for name, found in loaded.result["growth"].items() if found.get("grows")} == set()
