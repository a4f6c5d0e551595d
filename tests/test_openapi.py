"""``/openapi.json`` says all and only what the server does: held to the router, and tried by schemathesis."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
from aiohttp import web

from conftest import Serve, Servers
from threadwire.app import make_app
from threadwire.openapi import OpenApiRoutes, document, served
from threadwire.openapi.operations import OPERATIONS
from threadwire.settings import Settings

TESTS = Path(__file__).parent
#: What does not hold here, with good reason.
CONFIG = """
[checks]
# A thread may be called "search", so that GET is allowed of that path too; OpenAPI has no way to say so.
allow_header_conformance.enabled = false

[[operations]]
# Schemathesis cannot upgrade to a WebSocket.
include-path = "/ws"
checks.positive_data_acceptance.enabled = false
"""


def described(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}


def test_every_route_is_described() -> None:
    """The document has each route of the application's router, and no other."""
    routes = served(make_app(Settings()).router)
    assert ("GET", "/openapi.json") in routes
    assert described(document(routes)) == set(routes)


def test_a_route_that_nobody_described_is_missing() -> None:
    """What is held to the router is made from the table: a new route is not there by itself."""

    async def new(_request: web.Request) -> web.Response:
        return web.Response()

    app = make_app(Settings())
    app.router.add_get("/new", new)
    routes = served(app.router)
    assert set(routes) - described(document(routes)) == {("GET", "/new")}


def test_what_is_not_served_is_not_described() -> None:
    """A route that the table has and the router has not (metrics with a listener of their own) is left out."""
    router = web.UrlDispatcher()
    OpenApiRoutes().add_to(router)
    assert described(document(served(router))) == {("GET", "/openapi.json")}


def test_names_are_unique() -> None:
    """Each operation has a name of its own."""
    names = [operation.name for operation in OPERATIONS.values()]
    assert len(names) == len(set(names))


def test_references_lead_somewhere() -> None:
    """Each reference of the document leads to a shape of it, and each shape is JSON Schema."""
    found = document(served(make_app(Settings()).router))
    shapes = found["components"]["schemas"]
    text = json.dumps(found)
    wanted = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert wanted <= set(shapes)
    for shape in shapes.values():
        jsonschema.Draft202012Validator.check_schema(shape)


async def test_the_server_gives_it(serve: Serve, session: aiohttp.ClientSession) -> None:
    """GET /openapi.json is the document of what this server serves."""
    running = await serve("graphs:echo")
    async with session.get(f"{running.url}/openapi.json") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert await response.json() == document(served(running.server.app.router))


async def fuzz(servers: Servers, seed: int, *arguments: str) -> None:
    """Let schemathesis at a server; fails with its report."""
    server = servers("fuzzed")
    await server.start(graph=f"{TESTS}/graphs.py:echo", events__allow_raw="true")
    (server.folder / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--seed", str(seed), "--no-color", "--continue-on-failure", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=server.folder,
        env={**os.environ, "PYTHONPATH": str(TESTS), "SCHEMATHESIS_HOOKS": "fuzz_hooks"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


@pytest.mark.slow
async def test_schemathesis_finds_nothing(servers: Servers) -> None:
    """No 5xx, answers as described, bad input refused, good input taken: over every route of a real server."""
    await fuzz(servers, 1, "--max-examples", "3", "--phases", "coverage,fuzzing")


@pytest.mark.torture
async def test_schemathesis_finds_nothing_for_long(servers: Servers) -> None:
    """The same, with other data each time, and with requests that follow from each other."""
    seed = int(os.environ.get("TORTURE_SEED") or secrets.randbits(32))
    await fuzz(servers, seed, "--max-examples", "100", "--phases", "coverage,fuzzing,stateful")
