"""``threadwire batch``: a file of inputs, in a process of its own, that goes on where it was interrupted."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import Provider, eventually
from threadwire.cli import main
from threadwire.progress import Progress

TESTS = Path(__file__).parent


async def launch(folder: Path, *arguments: str, graph: str = "graphs:echo", stderr: Any = None) -> Any:
    """Start it in ``folder``, on a graph of the tests."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("THREADWIRE_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "threadwire",
        "batch",
        *arguments,
        "--graph",
        graph,
        cwd=folder,
        env=environment | {"PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr or asyncio.subprocess.PIPE,
    )


def write_inputs(folder: Path, *contents: Any) -> None:
    (folder / "in.jsonl").write_text("".join(json.dumps({"content": content}) + "\n" for content in contents))


def read_results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in this process find no settings of the machine's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result for each line under its number, messages and errors; nothing else is left in the folder."""
    lines = [
        '{"content": "one"}',
        '{"content": [{"type": "text", "text": "two"}], "id": "a field of your own"}',
        "",
        "not JSON",
        '{"contents": "five"}',
        '{"content": "six"}',
    ]
    (folder / "in.jsonl").write_text("\n".join(lines))
    arguments = ["batch", "in.jsonl", "--out", "out.jsonl", "--graph", "graphs:echo"]
    assert main([*arguments, "--max-concurrency", "2"]) == 1, "some failed"
    results = {result["index"]: result for result in read_results(folder)}
    assert set(results) == {0, 1, 3, 4, 5}
    assert [results[n]["message"]["content"] for n in (0, 1, 5)] == ["echo: one", "echo: two", "echo: six"]
    assert results[0]["message"]["role"] == "assistant"
    assert [results[n]["error"]["code"] for n in (3, 4)] == ["bad_frame", "invalid_argument"]
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("5/5, ")
    assert said.endswith(", 2 failed")
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]
    # Again, there is nothing to do, and what failed has still failed.
    before = (folder / "out.jsonl").read_bytes()
    assert main(arguments) == 1
    assert (folder / "out.jsonl").read_bytes() == before
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("5/5, ")
    assert said.endswith(", 2 failed")


def test_failed_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that failed in an earlier process count, whatever this one does; taken out and answered, no more."""
    write_inputs(folder, "one", "two", "three")
    failed = '{"index": 1, "error": {"code": "model_error", "message": "it failed"}}\n'
    (folder / "out.jsonl").write_text('{"index": 0, "message": {}}\n' + failed)
    arguments = ["batch", "in.jsonl", "--out", "out.jsonl", "--graph", "graphs:echo"]
    assert main(arguments) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("3/3, ")
    assert said.endswith(", 1 failed")
    assert [result["index"] for result in read_results(folder)] == [0, 1, 2]
    (folder / "out.jsonl").write_text((folder / "out.jsonl").read_text().replace(failed, ""))
    assert main(arguments) == 0
    assert "failed" not in capsys.readouterr().err.splitlines()[-1]


def test_the_built_in_agent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a graph it is the configured model's."""
    write_inputs(folder, "hi")
    (folder / "config.yaml").write_text("model: {name: simulated, simulated: {first_token_ms: 0}}\n")
    assert main(["batch", "in.jsonl", "--out", "out.jsonl"]) == 0
    assert "model: simulated (model.name asks for it)" in capsys.readouterr().err
    assert "simulated" in read_results(folder)[0]["message"]["content"]


async def test_killed_and_gone_on(tmp_path: Path, provider: Provider) -> None:
    """Killed in the middle, it goes on with what has no result; in the end each line has one."""
    write_inputs(tmp_path, *(f"/tokens 20\nline {n}" for n in range(40)))
    arguments = ("in.jsonl", "--out", "out.jsonl", "--max-concurrency", "4")
    process = await launch(tmp_path, *arguments, graph="graphs:openai")
    out = tmp_path / "out.jsonl"
    await eventually(lambda: out.exists() and out.read_bytes().count(b"\n") >= 10, "some lines are done")
    process.kill()
    await process.communicate()
    # As if it had been killed while it wrote.
    with out.open("a") as results:
        results.write('{"index": 39, "mess')
    process = await launch(tmp_path, *arguments, graph="graphs:openai")
    _, err = await process.communicate()
    assert process.returncode == 0, err
    assert sorted(result["index"] for result in read_results(tmp_path)) == list(range(40))
    stats = await provider.stats()
    assert stats["peak"] <= 4
    # What was under way when it was killed was asked for twice.
    assert stats["total"] <= 40 + 4
    assert b"40/40, " in err.splitlines()[-1]


async def test_interrupted(tmp_path: Path, provider: Provider) -> None:
    """Ctrl-C closes the requests, keeps what has finished, says how to go on, and is 130."""
    write_inputs(tmp_path, "/tokens 2", *["/tokens 5000"] * 20)
    process = await launch(tmp_path, "in.jsonl", "--out", "out.jsonl", "--max-concurrency", "3", graph="graphs:openai")

    async def under_way() -> bool:
        out = tmp_path / "out.jsonl"
        return bool(out.exists() and out.read_bytes() and (await provider.stats())["open"] == 3)

    await eventually(under_way)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"the same command goes on from here" in err
    assert [result["index"] for result in read_results(tmp_path)] == [0]
    assert (await provider.stats())["open"] == 0


def test_what_it_will_not_take(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are not there, or are something else, and a graph that is none: a line, and 2."""
    write_inputs(folder, "one")
    (folder / "other.jsonl").write_text('{"hello": 1}\n')
    (folder / "longer.jsonl").write_text('{"index": 7, "message": {}}\n')
    (folder / "below.jsonl").write_text('{"index": -3, "message": {}}\n')
    cases = [
        ("graphs:echo", "in.jsonl", "below.jsonl", "below.jsonl line 1: not a result"),
        ("graphs:echo", "gone.jsonl", "out.jsonl", "gone.jsonl: No such file"),
        ("graphs:echo", "in.jsonl", "other.jsonl", "other.jsonl line 1: not a result"),
        ("graphs:echo", "in.jsonl", "longer.jsonl", "results of more lines"),
        ("graphs:echo", "in.jsonl", "nowhere/out.jsonl", "No such file"),
        ("graphs:nothing", "in.jsonl", "out.jsonl", "has no attribute"),
    ]
    for graph, source, target, expected in cases:
        assert main(["batch", source, "--out", target, "--graph", graph]) == 2
        assert expected in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["batch", "in.jsonl", "--out", "out.jsonl", "--max-concurrency", "0"])
    assert "expected a whole number from 1" in capsys.readouterr().err
    assert (folder / "other.jsonl").read_text() == '{"hello": 1}\n'


async def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal it draws one line over and over, and leaves the last one standing."""
    write_inputs(tmp_path, *(f"{n}" for n in range(30)))
    ours, theirs = pty.openpty()
    process = await launch(tmp_path, "in.jsonl", "--out", "out.jsonl", stderr=theirs)
    os.close(theirs)
    said = b""
    loop = asyncio.get_running_loop()
    while b"30/30" not in said:
        said += await loop.run_in_executor(None, os.read, ours, 4096)
    await process.communicate()
    os.close(ours)
    text = said.decode()
    assert re.search(r"\r\x1b\[K\[·{30}\] 0/30", text)
    assert re.search(r"\r\x1b\[K\[█{30}\] 30/30, [\d.]+/s", text)
    assert text.count("\n") <= 1


def test_what_the_bar_says() -> None:
    """How many of how many, how fast, how many failed; what was done before counts as done and not as speed."""
    out = io.StringIO()
    progress = Progress(out, 10, 4)
    progress.step()
    progress.step(error=True)
    progress.close()
    assert re.fullmatch(r"6/10, [\d.]+/s, 1 failed, \d+:\d\d left\n", out.getvalue())


@pytest.mark.torture
async def test_a_hundred_thousand_lines(tmp_path: Path) -> None:
    """A backfill costs no more memory at its end than near its beginning."""
    count = 100_000
    with (tmp_path / "in.jsonl").open("w") as inputs:
        for n in range(count):
            inputs.write(json.dumps({"content": f"line {n} " + "." * 200}) + "\n")
    process = await launch(tmp_path, "in.jsonl", "--out", "out.jsonl", stderr=asyncio.subprocess.DEVNULL)
    out = tmp_path / "out.jsonl"

    def resident() -> int:
        [kilobytes] = re.findall(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        return int(kilobytes) * 1024

    async def lines() -> int:
        return await asyncio.to_thread(lambda: out.stat().st_size // 250 if out.exists() else 0)

    async def past(part: float) -> bool:
        return await lines() > count * part

    await eventually(lambda: past(0.05), deadline=600)
    early = resident()
    await eventually(lambda: past(0.9), deadline=3600)
    late = resident()
    await process.communicate()
    assert process.returncode == 0
    assert out.read_bytes().count(b"\n") == count
    assert late - early < 32 * 2**20
