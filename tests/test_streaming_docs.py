"""docs/streaming.md: each example is run against the server it names, and prints what stands below it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import Serve

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "streaming.md"
ADDRESS = "http://127.0.0.1:8000"


class Block(NamedTuple):
    """An example."""

    line: int
    serve: str
    language: str
    code: str
    printed: str | None


def blocks() -> list[Block]:
    text = PAGE.read_text(encoding="utf-8")
    found = re.finditer(
        r"<!-- serve: (?P<serve>.+?) -->\n```(?P<language>\w+)\n(?P<code>.*?)```\n(\n```text\n(?P<printed>.*?)```\n)?",
        text,
        re.DOTALL,
    )
    return [
        Block(text.count("\n", 0, m.start()) + 1, m["serve"], m["language"], m["code"], m["printed"]) for m in found
    ]


def run_python(code: str) -> str:
    """Run a script in this thread, which has no loop of its own; what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})
    return out.getvalue()


async def run_shell(code: str, folder: Path) -> str:
    shutil.copytree(ROOT / "examples", folder / "examples")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("THREADWIRE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", code), cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"line {block.line}")
async def test_an_example(serve: Serve, tmp_path: Path, block: Block) -> None:
    """It runs as it stands there, but for the address."""
    graph, _, extra = block.serve.partition(", ")
    target = None if graph == "the built-in agent" else f"{ROOT / graph.partition(':')[0]}:graph"
    # Raw events have the prompt, which is let out here.
    raw = {"events": {"allow_raw": True, "include_types": []}, "agent": {"system_prompt": "Be kind."}}
    sections: dict[str, Any] = raw if extra else {}
    served = await serve(target, **sections)
    code = block.code.replace(ADDRESS, served.url)
    if block.language == "python":
        printed = await asyncio.to_thread(run_python, code)
    else:
        printed = await run_shell(code, tmp_path)
    assert printed
    if block.printed is not None:
        assert printed == block.printed


def test_every_example_is_run() -> None:
    """No code block of the page but for what is printed stands without its server."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"^```(python|sh)$", text, re.MULTILINE)) == len(blocks()) >= 9


def test_links_lead_somewhere() -> None:
    """Each link leads to a file that is there, or to a heading of the page."""
    text = PAGE.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (PAGE.parent / target).exists(), target
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in headings, anchor
