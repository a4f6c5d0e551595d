"""``threadwire load`` and ``soak`` as people run them: a process of their own, and the result it writes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import DEADLINE


class Loaded:
    """What came of it."""

    def __init__(self, code: int, out: str, err: str, result: dict[str, Any] | None) -> None:
        self.code = code
        self.out = out
        self.err = err
        self._result = result

    @property
    def result(self) -> dict[str, Any]:
        assert self._result is not None, self.err
        return self._result

    @property
    def broken(self) -> set[str]:
        """The names of the violations that were found."""
        return {name for name, count in self.result["violations"].items() if count}


async def load(
    folder: Path,
    url: str | None,
    *arguments: str,
    command: str = "load",
    deadline: float = DEADLINE * 2,
    started: Callable[[asyncio.subprocess.Process], object] = id,
) -> Loaded:
    """Run it in ``folder``, against the server at ``url`` (of HTTP); ``started`` is given the process."""
    target = [] if url is None else [url.replace("http", "ws", 1) + "/ws", "--json", "result.json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "threadwire",
        command,
        *target,
        *arguments,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"COLUMNS": "200"},
    )
    started(process)
    try:
        async with asyncio.timeout(deadline):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    path = folder / "result.json"
    result = json.loads(path.read_text()) if path.exists() else None
    assert process.returncode is not None
    return Loaded(process.returncode, out.decode(), err.decode(), result)
