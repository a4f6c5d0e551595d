"""docs/protocol.md is complete: whatever the code can say is in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from threadwire import cli
from threadwire.app import make_app
from threadwire.errors import every_error
from threadwire.load.recorder import LATENCIES
from threadwire.load.violations import VIOLATIONS
from threadwire.protocol import (
    COMMANDS,
    FRAMES,
    INPUT_BLOCKS,
    LOG_FRAMES,
    MAX_BAD_FRAMES_PER_MINUTE,
    MAX_DEPTH,
    MAX_WAITING_ANSWERS,
    MAX_WAITING_EVENTS,
    SUBPROTOCOL,
    CloseCode,
)
from threadwire.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading, up to the next of its level."""
    level = title.split(" ", maxsplit=1)[0]
    start = TEXT.index(f"\n{title}\n")
    end = TEXT.find(f"\n{level} ", start + 1)
    return TEXT[start : end if end > 0 else None]


def rows(text: str) -> dict[str, str]:
    """The rows of the tables in a text, by what stands in backticks (or is a number) in the first cell."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        first = line.split("|")[1] if line.startswith("|") else ""
        for name in re.findall(r"`([^`]+)`|^ *(\d+) *$", first):
            found[name[0] or name[1]] = line
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_described(name: str) -> None:
    """Each command has its row, with each of its fields."""
    row = rows(section("## Commands"))[name]
    missing = {field for field in COMMANDS[name].model_fields if f"`{field}`" not in row}
    assert missing <= {"id", "type"}


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_is_described(name: str) -> None:
    """Each frame has its row, with each of its fields, and a mark if it is in the log."""
    row = rows(section("## Frames"))[name]
    described = section("### `ready`") if name == "ready" else row
    fields = {info.alias or field for field, info in FRAMES[name].model_fields.items()}
    missing = {field for field in fields if f"`{field}`" not in described}
    assert missing <= {"type", "seq"} if name in LOG_FRAMES else missing <= {"type"}
    assert ("•" in row.split("|")[1]) is (name in LOG_FRAMES)


def test_every_close_code_is_described() -> None:
    """Each close code has its row, which says rightly whether to connect again; and no other has one."""
    found = rows(section("## Close codes"))
    # 1002 is the socket library's own.
    assert {int(code) for code in found} == {*CloseCode, 1002}
    for code in CloseCode:
        again = found[str(code.value)].split("|")[3].strip()
        assert again.startswith("yes" if code.reconnect else "no"), code


def test_every_error_code_is_described() -> None:
    """Each error code has its row, with the status it has over HTTP; and no other has one."""
    found = rows(section("## Error codes"))
    kinds = {kind.code: kind for kind in every_error()}
    assert set(found) == set(kinds)
    for code, row in found.items():
        status = row.split("|")[3].strip()
        assert status in {"", str(kinds[code].http_status)}, code


def test_every_route_is_described() -> None:
    """Each route of the server has its row; and no other has one."""
    app = make_app(Settings())
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert set(rows(section("## HTTP"))) == routes


def test_every_parameter_is_described() -> None:
    """Each query parameter of the upgrade has its row."""
    names = {name for cell in rows(section("## Connecting")) for name in [cell]}
    filters = {f"{way}_{what}" for way in ("include", "exclude") for what in ("types", "names", "tags")}
    assert names == {"thread_id", "after", "epoch", "history", "on_disconnect", "raw"} | filters


def test_numbers_and_words_are_the_codes() -> None:
    """The limits and lists in the text are those of the code."""
    assert SUBPROTOCOL in TEXT
    assert f"more than {MAX_WAITING_ANSWERS} answers" in TEXT
    assert f"more than {MAX_BAD_FRAMES_PER_MINUTE} bad frames" in TEXT
    assert f"nest {MAX_DEPTH} levels" in TEXT
    assert f"At most {MAX_WAITING_EVENTS} of them" in TEXT
    send = section("### `send`")
    assert all(f"`{kind}`" in send for kind in INPUT_BLOCKS)


def test_links_lead_somewhere() -> None:
    """Each link within the page leads to a heading of it, each other to a file."""
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (Path(__file__).parent.parent / "docs" / target).exists(), target


def flags_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The flags that ``--help`` tells of."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}


@pytest.mark.parametrize(
    ("command", "page"), [("load", "load-testing.md"), ("soak", "load-testing.md"), ("simulate", "models.md")]
)
def test_every_flag_is_described(command: str, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each flag of the commands that load and simulate is on their page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    flags = flags_of(command, capsys)
    assert len(flags) > 8
    assert {flag for flag in flags if not re.search(rf"{flag}(?![a-z-])", text)} == set()


def test_what_a_load_run_finds_is_described() -> None:
    """Each violation and each latency of a result has its row."""
    found = rows((DOCS / "load-testing.md").read_text(encoding="utf-8"))
    assert found.keys() >= VIOLATIONS.keys()
    cells = (DOCS / "load-testing.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in cells for name in LATENCIES)
    assert all(meaning.split(":")[0] in cells for meaning in VIOLATIONS.values() if ":" in meaning)


def test_the_test_kits_page_runs(tmp_path: Path) -> None:
    """The examples of docs/testing.md pass as they stand."""
    text = (DOCS / "testing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (conftest,) = (block for block in blocks if block.startswith("# conftest.py"))
    (tmp_path / "conftest.py").write_text(conftest)
    others = [block for block in blocks if block is not conftest]
    (tmp_path / "test_page.py").write_text("import asyncio\nfrom threadwire.testing import *\n" + "\n".join(others))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert f"{len(others)} passed" in done.stdout, done.stdout + done.stderr
