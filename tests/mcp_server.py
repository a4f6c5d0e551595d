"""A real MCP server for the tests, ``python mcp_server.py JOURNAL [http PORT]``; JOURNAL says what happens to it."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.server.fastmcp import Audio, Context, FastMCP

JOURNAL = Path(sys.argv[1])
server = FastMCP("tests", port=int(sys.argv[3]) if len(sys.argv) > 3 else 8000, log_level="WARNING")


def note(what: str) -> None:
    with JOURNAL.open("a") as journal:
        journal.write(what + "\n")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def calculate(expression: str) -> str:
    """Has the name of one of the agent's own tools."""
    return f"mcp: {expression}"


@server.tool()
def process() -> str:
    """Tell who is serving."""
    return str(os.getpid())


@server.tool()
def environment(name: str) -> str:
    """Tell a variable."""
    return os.environ.get(name, "not set")


@server.tool()
def refuse() -> str:
    """Always fail."""
    raise ValueError("not today")


@server.tool()
def die() -> str:
    """Exit without an answer."""
    os._exit(1)


@server.tool()
async def wait() -> str:
    """Answer never."""
    note("waiting")
    try:
        await anyio.sleep_forever()
    finally:
        note("cancelled")
    return "never"


@server.tool()
def sound() -> Audio:
    """Something LangChain has no form for."""
    return Audio(data=base64.b64decode("AAAA"), format="wav")


@server.tool(name="dotted.name")
def dotted() -> str:
    """A name that providers do not take."""
    return "dotted"


@server.tool()
async def grow(context: Context[Any, Any, Any]) -> str:
    """Have one tool more, and say so."""
    server.add_tool(grown)
    await context.session.send_tool_list_changed()
    return "grown"


def grown() -> str:
    """The tool that came later."""
    return "I am new"


if __name__ == "__main__":
    note(f"start {os.getpid()}")
    if len(sys.argv) > 3:
        server.run("streamable-http")
    else:
        server.run()
        note("end")
