"""Imports point down only, and the floor is pure."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "server" / "threadwire"

#: Who may import whom, bottom up: each may import only what stands above it here. A folder is one part; inside it,
#: its modules are siblings. ``threadwire`` is the package itself, for its version.
TABLE: dict[str, set[str]] = {
    "errors": set(),
    "arguments": set(),
    "dashboard": set(),
    "masking": set(),
    "logs": {"masking"},
    "tally": set(),
    "tracing": set(),
    "mcp_settings": set(),
    "threadwire": set(),
    "filters": set(),
    "jsonsafe": set(),
    "limits": set(),
    "line": set(),
    "attachments": set(),
    "page": set(),
    "websocket": {"tally"},
    "process": set(),
    "export": set(),
    "title": set(),
    "approvals": {"errors"},
    "loading": {"errors"},
    "tls": {"errors"},
    "failures": {"errors"},
    "arrivals": {"limits"},
    "uploads": {"arrivals", "errors"},
    "listening": {"arrivals", "errors"},
    "allowance": {"attachments", "errors", "limits", "line"},
    "models": {"errors", "logs"},
    "settings": {"mcp_settings"},
    "agent": {"errors", "logs", "mcp_settings", "threadwire"},
    "history": {"jsonsafe"},
    "protocol": {"errors", "jsonsafe"},
    "storage": {"errors", "title"},
    "auth": {"errors", "loading", "logs", "protocol", "settings", "storage"},
    "ownership": {"auth", "errors", "storage"},
    "credential": {"auth", "errors", "logs", "protocol"},
    "simulate_options": {"arguments", "errors"},
    "simulate": {"errors", "models", "simulate_options"},
    "layers": {"errors", "settings"},
    "context": {"errors", "protocol"},
    "graph": {"agent", "approvals", "context", "errors", "loading"},
    "toolcalls": {"filters", "history", "jsonsafe"},
    "answers": {"errors", "protocol"},
    "client": {"errors", "protocol"},
    "log": {"errors", "filters", "protocol"},
    "readers": {"storage"},
    "snapshots": {"history", "jsonsafe", "storage"},
    "upgrade": {"errors", "filters", "protocol", "storage"},
    "config": {"errors", "layers", "masking", "settings"},
    "repair": {"graph", "history", "logs", "storage"},
    "modelcalls": {"filters", "history", "jsonsafe", "toolcalls"},
    "events": {"filters", "history", "jsonsafe", "modelcalls", "toolcalls"},
    "stopping": {"tally"},
    "marker": {"tally", "toolcalls"},
    "raw": {"events", "filters", "jsonsafe", "protocol"},
    "listener": {"marker"},
    "streams": {"events", "filters", "listener", "marker", "toolcalls"},
    "bodies": {"errors", "jsonsafe", "protocol", "snapshots", "storage"},
    "openapi": {"bodies", "protocol", "snapshots", "storage", "threadwire"},
    "load": {"arguments", "client", "errors", "protocol", "threadwire"},
    "terminal": {"approvals", "client", "config", "errors", "protocol", "settings"},
    "run": {
        "errors",
        "events",
        "failures",
        "filters",
        "graph",
        "history",
        "jsonsafe",
        "logs",
        "marker",
        "raw",
        "repair",
        "stopping",
        "storage",
        "streams",
        "tally",
        "toolcalls",
        "tracing",
    },
    "fresh": {
        "allowance",
        "errors",
        "failures",
        "graph",
        "history",
        "logs",
        "marker",
        "protocol",
        "stopping",
        "storage",
        "tally",
        "toolcalls",
        "tracing",
    },
    "batch": {"allowance", "errors", "fresh", "marker", "protocol", "storage"},
    "batches": {"allowance", "answers", "batch", "errors", "fresh", "logs", "protocol"},
    "runlog": {"filters", "fresh", "jsonsafe", "logs", "protocol"},
    "progress": set(),
    "batch_file": {
        "batch",
        "errors",
        "fresh",
        "graph",
        "models",
        "progress",
        "protocol",
        "settings",
        "tally",
        "tracing",
    },
    "conversation": {"errors", "graph", "history", "run", "storage"},
    "rewind": {"conversation", "errors", "graph", "history", "repair", "storage"},
    "journal": {"errors", "failures", "filters", "log", "logs", "storage", "tally"},
    "attachment": {"log"},
    "remains": {"filters", "history"},
    "question": {"conversation", "graph", "history", "journal", "logs", "remains", "repair", "rewind", "storage"},
    "intake": {"conversation", "errors", "graph", "journal", "protocol", "rewind", "storage"},
    "turn": {
        "conversation",
        "errors",
        "failures",
        "filters",
        "graph",
        "history",
        "journal",
        "logs",
        "raw",
        "repair",
        "rewind",
        "run",
        "storage",
        "tally",
        "tracing",
    },
    "turns": {"conversation", "line", "question", "turn"},
    "recovery": {
        "conversation",
        "graph",
        "history",
        "journal",
        "jsonsafe",
        "logs",
        "remains",
        "repair",
        "rewind",
        "run",
        "storage",
        "turn",
    },
    "inbox": {"errors", "failures", "logs"},
    "admission": {
        "allowance",
        "conversation",
        "errors",
        "history",
        "inbox",
        "intake",
        "journal",
        "protocol",
        "question",
        "readers",
        "run",
        "storage",
        "turn",
        "turns",
    },
    "thread": {
        "admission",
        "allowance",
        "attachment",
        "conversation",
        "errors",
        "filters",
        "history",
        "inbox",
        "intake",
        "journal",
        "log",
        "logs",
        "protocol",
        "question",
        "raw",
        "readers",
        "recovery",
        "rewind",
        "run",
        "storage",
        "turn",
        "turns",
    },
    "seat": {"attachment", "filters", "inbox", "log", "protocol", "raw", "readers", "storage", "thread"},
    "pages": {"answers", "errors", "logs", "protocol", "seat"},
    "lines": {"errors", "protocol"},
    "connection": {
        "allowance",
        "answers",
        "attachment",
        "auth",
        "batches",
        "credential",
        "errors",
        "filters",
        "limits",
        "log",
        "logs",
        "pages",
        "protocol",
        "raw",
        "storage",
        "seat",
        "tally",
        "upgrade",
        "websocket",
    },
    "hub": {"errors", "logs", "protocol", "seat", "thread"},
    "metrics": {"hub", "journal", "tally", "threadwire"},
    "otel": {"jsonsafe", "threadwire", "websocket"},
    "stateless": {
        "allowance",
        "auth",
        "batches",
        "errors",
        "filters",
        "fresh",
        "lines",
        "protocol",
        "runlog",
        "settings",
    },
    "http": {"auth", "errors", "hub", "lines", "log", "logs", "ownership", "protocol", "storage", "thread", "upgrade"},
    "gate": {"allowance", "auth", "errors", "http", "protocol", "settings"},
    "resources": {
        "auth",
        "bodies",
        "errors",
        "graph",
        "http",
        "ownership",
        "protocol",
        "repair",
        "snapshots",
        "storage",
    },
    "states": {"bodies", "errors", "export", "graph", "history", "http", "resources", "snapshots", "title"},
    "observed": {
        "arrivals",
        "auth",
        "errors",
        "gate",
        "http",
        "hub",
        "journal",
        "listening",
        "logs",
        "metrics",
        "otel",
        "settings",
        "storage",
        "tally",
        "tracing",
    },
    "connector": {
        "allowance",
        "auth",
        "connection",
        "errors",
        "gate",
        "http",
        "observed",
        "protocol",
        "seat",
        "settings",
        "stateless",
        "threadwire",
        "upgrade",
    },
    "app": {
        "allowance",
        "arrivals",
        "auth",
        "connector",
        "errors",
        "filters",
        "fresh",
        "gate",
        "graph",
        "http",
        "hub",
        "journal",
        "logs",
        "models",
        "observed",
        "openapi",
        "ownership",
        "page",
        "protocol",
        "resources",
        "run",
        "settings",
        "stateless",
        "states",
        "storage",
        "thread",
        "turn",
        "uploads",
    },
    "serving": {
        "app",
        "connector",
        "http",
        "listening",
        "logs",
        "masking",
        "process",
        "settings",
        "tls",
    },
    "doctor": {"config", "errors", "failures", "graph", "logs", "models", "page", "settings", "storage"},
    "upkeep": {"arguments", "auth", "config", "models", "storage"},
    "cli": {
        "arguments",
        "batch_file",
        "config",
        "dashboard",
        "doctor",
        "errors",
        "load",
        "logs",
        "masking",
        "serving",
        "simulate",
        "simulate_options",
        "terminal",
        "threadwire",
        "upkeep",
    },
    "testing": {"app", "client", "settings"},
    "__main__": {"cli"},
}
#: A program of its own may stand anywhere: it is run, not imported.
PROGRAMS = {"terminal/child.py": {"cli"}}
#: What decides by its arguments alone.
PURE = (
    "errors",
    "protocol",
    "filters",
    "events",
    "modelcalls",
    "toolcalls",
    "limits",
    "line",
    "history",
    "jsonsafe",
    "remains",
)
IMPURE = {"asyncio", "aiohttp", "time", "datetime", "random", "threading", "socket", "os", "sqlite3"}


def part_of(path: Path) -> str:
    """The table's name for a file."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "threadwire" if first == "__init__" else first


def imports(path: Path) -> set[str]:
    """The full names of all that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name: str) -> None:
    """A module imports only what the table lets its part import."""
    part = part_of(FILES[name])
    assert part in TABLE, f"{part} has no place in the table yet"
    wanted: set[str] = set()
    for found in imports(FILES[name]):
        package, _, rest = found.partition(".")
        if package == "threadwire":
            first = rest.split(".")[0]
            wanted.add(first if first in TABLE else "threadwire")
    assert wanted - {part} <= TABLE[part] | PROGRAMS.get(name, set())


def test_the_table_points_down() -> None:
    """Each part stands below whatever it may import, so there are no cycles; and no part is gone."""
    above: set[str] = set()
    for part, allowed in TABLE.items():
        assert allowed <= above, part
        above.add(part)
    assert above == {part_of(path) for path in FILES.values()}


@pytest.mark.parametrize("part", PURE)
def test_the_floor_is_pure(part: str) -> None:
    """What is at the bottom knows no loop, no socket, no clock and no chance."""
    files = [path for path in FILES.values() if part_of(path) == part]
    assert files
    for path in files:
        assert not {found.split(".")[0] for found in imports(path)} & IMPURE, path


def loaded_by(statement: str) -> set[str]:
    """The modules a fresh interpreter has loaded after a statement and had not before."""
    script = (
        "import json, sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(json.loads(output.stdout))


@pytest.mark.parametrize("module", ["protocol", "client"])
def test_clients_load_no_server(module: str) -> None:
    """Who only speaks the protocol loads neither langgraph nor langchain nor any of the server."""
    loaded = loaded_by(f"import threadwire.{module}")
    tops = {name.split(".")[0] for name in loaded}
    assert not {name for name in tops if name.startswith(("langgraph", "langchain", "openai", "structlog"))}
    ours = {name.split(".")[1] for name in loaded if name.startswith("threadwire.")}
    assert ours <= {"client", "errors", "jsonsafe", "protocol"}


def test_the_package_loads_nothing() -> None:
    """``import threadwire`` is free."""
    assert loaded_by("import threadwire") <= {"threadwire", "__future__"}
