"""Looks at every byte that the tests' servers send, for what must never leave one.

Below everything that could forget it: each connection's transport, in the tests' process and in server processes
alike. What the tests plant is told by its mark; paths and traces are their own. Frames are neither masked nor
compressed, so bytes are text. A find is written to the folder in ``WIRETAP``, and fails the test that runs
(``conftest.py``). A test whose client says a mark itself, or that lets one out on purpose, takes its finds.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import web, web_fileresponse
from aiohttp.web_protocol import RequestHandler

#: What is planted: in exceptions, system prompts, keys, and in what tagged runs say.
EXCEPTION = "secret-in-exception"
PROMPT = "secret-in-prompt"
KEY = "sk-secret-of-the-operator"
TAGGED = "secret-in-tagged-run"
_ROOT = Path(__file__).parent.parent.parent
_MARKS = (
    *(mark.encode() for mark in (EXCEPTION, PROMPT, KEY, TAGGED)),
    b"Traceback (most recent call last)",
    # Where databases are, and code.
    b"/pytest-of-",
    str(_ROOT / "server" / "threadwire").encode() + b"/",
    b"/site-packages/",
)
_PATTERN = re.compile(b"|".join(map(re.escape, _MARKS)))
#: A mark may come in two writes.
_TAIL = max(map(len, _MARKS)) - 1
_CONTEXT = 200

#: Bytes that were looked at in this process.
seen = 0


#: Where finds go to, of this process and of those it starts; made by ``start``.
_folder: tempfile.TemporaryDirectory[str] | None = None


def start() -> None:
    """Tap this process, and let those it starts tap themselves; a second time does nothing."""
    global _folder  # noqa: PLW0603 -- once for the process, whoever imports what
    if _folder is None:
        _folder = tempfile.TemporaryDirectory(prefix="wiretap-")
        os.environ["WIRETAP"] = _folder.name
        own, there = str(Path(__file__).parent), os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([own, *(path for path in there if path not in ("", own))])
        install()


def install() -> None:
    """Tap every connection that this process's servers take from now on; a second time does nothing."""
    real = RequestHandler.connection_made
    if getattr(real, "tapped", False):
        return

    def connection_made(self: Any, transport: Any) -> None:
        app = getattr(self._manager.request_handler, "__self__", None)
        tapped: Any = _Tapped(transport) if _is_ours(app) else transport
        real(self, tapped)

    connection_made.tapped = True  # type: ignore[attr-defined]
    RequestHandler.connection_made = connection_made  # type: ignore[method-assign]
    # Files go out as everything else does.
    web_fileresponse.NOSENDFILE = True  # type: ignore[misc]


def finds() -> list[str]:
    """What was found since the last call, by this process and those it started."""
    found = []
    for path in sorted(Path(os.environ["WIRETAP"]).glob("*.found")):
        found.append(path.read_text(encoding="utf-8"))
        path.unlink()
    return found


def _is_ours(app: Any) -> bool:
    """Whether threadwire answers there, its metrics too: a provider that a test makes up may send what it likes."""
    modules = {route.handler.__module__ for route in app.router.routes()} if isinstance(app, web.Application) else set()
    return any(name.startswith("threadwire.") and name != "threadwire.simulate" for name in modules)


class _Tapped:
    """A transport that looks at what it is given before it is sent."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._tail = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        self._look(bytes(data))
        self._transport.write(data)

    def writelines(self, parts: Iterable[Any]) -> None:
        parts = list(parts)
        self._look(b"".join(map(bytes, parts)))
        self._transport.writelines(parts)

    def _look(self, data: bytes) -> None:
        global seen  # noqa: PLW0603 -- how much of a process was looked at, for the test of the tap
        seen += len(data)
        data = self._tail + data
        end = 0
        for found in _PATTERN.finditer(data):
            end = found.end()
            around = data[max(0, found.start() - _CONTEXT) : end + _CONTEXT]
            name = f"{time.monotonic_ns()}-{os.getpid()}"
            path = Path(os.environ["WIRETAP"]) / name
            path.write_text(f"{found[0].decode()} was sent in {around!r}", encoding="utf-8")
            # Whole before it is seen.
            path.rename(path.with_suffix(".found"))
        self._tail = data[max(end, len(data) - _TAIL) :]
