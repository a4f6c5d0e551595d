"""What a table of ``agent.mcp_servers`` may hold: a program to start, or an address."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    #: How long one call of a tool may take.
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60


class StdioServer(_Table):
    """A program that speaks MCP over its standard input and output."""

    command: Annotated[str, Field(min_length=1)]
    args: list[str] = []
    #: On top of a few harmless variables (PATH, HOME, ...): the server's own secrets are not handed on.
    env: dict[str, str] = {}
    cwd: str | None = None
    transport: Literal["stdio"] = "stdio"


class HttpServer(_Table):
    """A server that is reached over HTTP; ``http`` is MCP's streamable HTTP."""

    url: Annotated[str, Field(pattern=r"^https?://.")]
    headers: dict[str, str] = {}
    transport: Literal["http", "streamable_http", "sse"] = "http"


ServerSettings: TypeAlias = StdioServer | HttpServer


def read_servers(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, ServerSettings]:
    """Check the tables of ``agent.mcp_servers``.

    Raises:
        ValueError: what is wrong, of all tables; it shows no value, since these may be secrets.
    """
    servers: dict[str, ServerSettings] = {}
    problems: list[str] = []
    for name, table in tables.items():
        if ("command" in table) == ("url" in table):
            problems.append(f"{name}: expected either command or url")
            continue
        kind = StdioServer if "command" in table else HttpServer
        try:
            servers[name] = kind.model_validate(table)
        except ValidationError as invalid:
            problems += [_problem(name, kind, error) for error in invalid.errors()]
    if problems:
        raise ValueError("; ".join(problems))
    return servers


def _problem(name: str, kind: type[BaseModel], error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, kind.model_fields, n=1, cutoff=0)
        return f"{name}.{key}: unknown key; the nearest known one is {near[0]}"
    return f"{name}.{key}: {error['msg'][:1].lower()}{error['msg'][1:]}"
