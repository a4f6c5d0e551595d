"""The JavaScript client's own tests, in Node: against ``tests/frames.json`` and against the real server."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path.name for path in (ROOT / "tests" / "js").glob("*.test.js"))


@pytest.mark.parametrize("name", FILES)
async def test_in_node(name: str) -> None:
    """All tests of the file pass."""
    node = shutil.which("node")
    if node is None or not (ROOT / "node_modules" / "ws").is_dir():
        how = "no node, or nothing installed by npm: install Node 20 or newer and run `make install`"
        if os.environ.get("CI"):
            pytest.fail(how)
        pytest.skip(how)
    process = await asyncio.create_subprocess_exec(
        node,
        "--test",
        "--test-reporter=spec",
        f"tests/js/{name}",
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = bytearray()
    try:
        async with asyncio.timeout(480):
            while data := await process.stdout.read(65536):
                output += data
            await process.wait()
    except TimeoutError:
        pytest.fail(f"not done in time; so far:\n{output.decode()}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
