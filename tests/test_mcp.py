"""MCP servers of the built-in agent: a real stdio server, and a real one over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from langchain_core.language_models import FakeListChatModel

from conftest import Serve
from harness import DEADLINE, Provider, Served, Socket, eventually
from threadwire.agent import open_agent
from threadwire.config import load
from threadwire.errors import ConfigError
from threadwire.settings import Agent

SERVER = Path(__file__).with_name("mcp_server.py")


class Journal:
    """What the MCP server says has happened to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    @property
    def processes(self) -> list[int]:
        return [int(line.removeprefix("start ")) for line in self.lines if line.startswith("start ")]

    def stdio(self, **more: Any) -> dict[str, Any]:
        """The config's table for it."""
        return {"command": sys.executable, "args": [str(SERVER), str(self.path)], **more}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    for process in journal.processes:
        if is_alive(process):
            os.kill(process, signal.SIGKILL)


def is_alive(process: int) -> bool:
    """A zombie counts as alive: nobody has waited for it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def call(socket: Socket, *tools: str) -> list[dict[str, Any]]:
    """One turn in which the model calls these tools; the results in the order of the calls."""
    frames = await socket.turn("\n".join(f"/tool {tool}" for tool in tools))
    assert frames[-1]["status"] == "completed", frames[-1]
    results = {frame["id"]: frame for frame in frames if frame["type"] == "tool_result"}
    return [results[frame["id"]] for frame in frames if frame["type"] == "tool_call"]


async def result_of(socket: Socket, tool: str) -> str:
    """The result of a call that must have gone well."""
    [result] = await call(socket, tool)
    assert result["status"] == "ok", result
    return str(result["result"])


async def attach(serve: Serve, **servers: Any) -> tuple[Served, Socket]:
    served = await serve(agent={"mcp_servers": servers})
    return served, await served.attach("t1")


async def test_its_tools_are_called(serve: Serve, journal: Journal) -> None:
    """A server's tools are called beside the agent's own, and their text is text, for readers and in the thread."""
    served, socket = await attach(serve, files=journal.stdio())
    add, own = await call(socket, 'add {"a": 1, "b": 2}', 'calculate {"expression": "2*3"}')
    assert (add["status"], add["result"]) == ("ok", "3")
    assert (own["status"], own["result"]) == ("ok", "6")
    tools = [message for message in await served.history("t1") if message["role"] == "tool"]
    assert {tool["content"] for tool in tools} == {"3", "6"}


async def test_names_that_collide_or_cannot_be_sent(serve: Serve, journal: Journal, tmp_path: Path) -> None:
    """A taken name gets the server's name before it; a character that providers refuse is replaced."""
    other = Journal(tmp_path / "other")
    _, socket = await attach(serve, one=journal.stdio(), two=other.stdio())
    found = await call(
        socket,
        'one_calculate {"expression": "x"}',
        'two_calculate {"expression": "x"}',
        "process {}",
        "two_process {}",
        "dotted_name {}",
    )
    pids = [str(journal.processes[0]), str(other.processes[0])]
    assert [result["result"] for result in found] == ["mcp: x", "mcp: x", *pids, "dotted"]


async def test_what_goes_wrong_in_a_tool_is_a_result(serve: Serve, journal: Journal) -> None:
    """A tool that refuses, is called wrongly or answers in a form nobody knows gives an error result."""
    _, socket = await attach(serve, files=journal.stdio())
    refused, wrong, sound = await call(socket, "refuse {}", 'add {"a": "x"}', "sound {}")
    assert [refused["status"], wrong["status"], sound["status"]] == ["error"] * 3
    assert "not today" in refused["result"]
    assert "valid integer" in wrong["result"]
    assert "cannot be shown" in sound["result"]


async def test_one_process_for_all_calls(serve: Serve, journal: Journal) -> None:
    """Turns on several threads are served by one process of the server."""
    served, first = await attach(serve, files=journal.stdio())
    second = await served.attach("t2")
    pids = [await result_of(socket, "process {}") for socket in (first, second, first)]
    assert pids == [str(pid) for pid in journal.processes * 3]


async def test_a_server_that_dies_comes_back(serve: Serve, journal: Journal) -> None:
    """The call it dies in and calls while it is away have error results, the runs go on; then it is back."""
    _, socket = await attach(serve, files=journal.stdio())
    [died] = await call(socket, "die {}")
    assert (died["status"], died["result"].split(" during")[0]) == ("error", "The MCP server 'files' went away")
    [away] = await call(socket, "process {}")
    assert (away["status"], "not connected" in away["result"]) == ("error", True)

    async def back() -> bool:
        [result] = await call(socket, "process {}")
        return bool(result["status"] == "ok" and result["result"] == str(journal.processes[-1]))

    await eventually(back)
    assert len(journal.processes) == 2
    assert not is_alive(journal.processes[0])


async def test_a_server_that_cannot_be_started_is_started_later(serve: Serve, journal: Journal, tmp_path: Path) -> None:
    """The agent is served without it, with one warning; its tools appear once it can be started."""
    script = tmp_path / "later"
    with structlog.testing.capture_logs() as logged:
        _, socket = await attach(serve, later={"command": str(script)})
        frames = await socket.turn("/tool process {}")
    assert [frame for frame in frames if frame["type"] == "tool_call"] == []
    [warning] = [entry for entry in logged if entry["log_level"] == "warning"]
    assert warning["reason"] == f"No such file or directory: {script}"
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{SERVER}' '{journal.path}'\n")
    script.chmod(0o755)

    async def there() -> bool:
        frames = await socket.turn("/tool process {}")
        return any(frame["type"] == "tool_result" for frame in frames)

    await eventually(there)


async def test_a_call_has_a_deadline(serve: Serve, journal: Journal) -> None:
    """A tool that does not answer in time gives an error result, and the server is told to stop it."""
    _, socket = await attach(serve, files=journal.stdio(timeout_seconds=1.5))
    [late] = await call(socket, "wait {}")
    assert (late["status"], late["result"]) == ("error", "The tool 'wait' did not answer within 1.5 s.")
    await eventually(lambda: journal.lines[-1] == "cancelled")
    assert await result_of(socket, "process {}") == str(journal.processes[0])


async def test_cancelling_the_run_cancels_the_call(serve: Serve, journal: Journal) -> None:
    """A cancelled run tells the server to stop the call; the call has its result, and the next turn works."""
    served, socket = await attach(serve, files=journal.stdio())
    await socket.command("send", content="/tool wait {}")
    await socket.until("tool_call")
    await eventually(lambda: journal.lines[-1] == "waiting")
    await socket.command("cancel")
    finished = await socket.until("run_finished")
    assert (finished["status"], finished["reason"]) == ("cancelled", "client")
    [result] = socket.of("tool_result")
    assert result["status"] == "error"
    await eventually(lambda: journal.lines[-1] == "cancelled")
    assert await result_of(socket, "process {}") == str(journal.processes[0])
    assert (await served.history("t1"))[2]["status"] == "failed"


async def test_tools_that_come_later(serve: Serve, journal: Journal) -> None:
    """A server that says its tools have changed has them listed again."""
    _, socket = await attach(serve, files=journal.stdio())
    await result_of(socket, "grow {}")

    async def grown() -> bool:
        frames = await socket.turn("/tool grown {}")
        return any(frame["type"] == "tool_result" and frame["result"] == "I am new" for frame in frames)

    await eventually(grown)


async def test_nothing_is_left_when_the_server_stops(serve: Serve, journal: Journal) -> None:
    """Stopping closes the server's input and waits for its process, so that it ends as it likes."""
    served, socket = await attach(serve, files=journal.stdio())
    await result_of(socket, "process {}")
    await socket.ws.close()
    await served.server.close()
    assert journal.lines[-1] == "end"
    assert not is_alive(journal.processes[0])


async def test_kill_leaves_no_server_behind(journal: Journal, tmp_path: Path) -> None:
    """Where we are killed, the server's input ends and so does the server."""
    config = tmp_path / "config.yaml"
    tables = {
        "server": {"port": 0},
        "model": {"name": "simulated"},
        "storage": {"url": f"sqlite:///{tmp_path / 'killed.db'}"},
        "agent": {"mcp_servers": {"files": journal.stdio()}},
    }
    config.write_text(yaml.safe_dump(tables))
    us = await asyncio.create_subprocess_exec(sys.executable, "-m", "threadwire", "serve", "--config", str(config))
    try:
        await eventually(lambda: journal.processes or us.returncode is not None)
    finally:
        with suppress(ProcessLookupError):
            us.kill()
        await us.wait()
    await eventually(lambda: not is_alive(journal.processes[0]))


async def test_the_servers_environment(serve: Serve, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server gets the variables its table names, and none of our own secrets."""
    monkeypatch.setenv("A_SECRET_OF_OURS", "secret")
    _, socket = await attach(serve, files=journal.stdio(env={"GIVEN": "yes"}))
    found = await call(socket, 'environment {"name": "GIVEN"}', 'environment {"name": "A_SECRET_OF_OURS"}')
    assert [result["result"] for result in found] == ["yes", "not set"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_over_http(serve: Serve, journal: Journal) -> None:
    """A server over HTTP is reached, and reached again after it has been restarted."""
    port = free_port()

    async def start() -> asyncio.subprocess.Process:
        count = len(journal.processes)
        arguments = (str(SERVER), str(journal.path), "http", str(port))
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        await eventually(lambda: len(journal.processes) > count)
        return process

    process = await start()
    try:
        _, socket = await attach(serve, web={"url": f"http://127.0.0.1:{port}/mcp", "timeout_seconds": 5})

        async def answers() -> bool:
            frames = await socket.turn("/tool process {}")
            pid = str(journal.processes[-1])
            return any(frame["type"] == "tool_result" and frame["result"] == pid for frame in frames)

        await eventually(answers)
        process.kill()
        await process.wait()
        [gone] = await call(socket, "process {}")
        assert gone["status"] == "error"
        process = await start()
        await eventually(answers)
    finally:
        process.kill()
        await process.wait()


async def test_through_a_real_provider(serve: Serve, provider: Provider, journal: Journal) -> None:
    """ChatOpenAI is offered the server's tools, and is sent the results as strings."""
    model = {"name": "openai:simulated", "base_url": provider.base_url}
    served = await serve(model=model, agent={"mcp_servers": {"files": journal.stdio()}})
    socket = await served.attach("t1")
    [result] = await call(socket, 'add {"a": 20, "b": 22}')
    assert (result["status"], result["result"]) == ("ok", "42")
    first, second = (await provider.requests())[-2:]
    offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in first["tools"]}
    assert offered["add"]["required"] == ["a", "b"]
    assert "process" in offered
    assert [message["content"] for message in second["messages"] if message["role"] == "tool"] == ["42"]


async def test_a_model_without_tools_starts_no_server(journal: Journal) -> None:
    """For a model that cannot call tools no server is started."""
    settings = Agent(mcp_servers={"files": journal.stdio()})
    async with open_agent(FakeListChatModel(responses=["hi"]), settings, calls_tools=False, takes=()) as agent:
        assert "tools" not in agent.graph.nodes
    assert journal.lines == []


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "x: expected either command or url"),
        ({"command": "a", "url": "http://b"}, "x: expected either command or url"),
        ({"command": "a", "arg": ["secret"]}, "x.arg: unknown key; the nearest known one is args"),
        ({"command": "a", "args": "secret"}, "x.args: input should be a valid list"),
        ({"command": ""}, "x.command: string should have at least 1 character"),
        ({"url": "ftp://secret"}, "x.url: string should match pattern '^https?://.'"),
        ({"url": "http://b", "transport": "websocket"}, "x.transport: input should be 'http', "),
        ({"command": "a", "timeout_seconds": 0}, "x.timeout_seconds: input should be greater than 0"),
    ],
)
def test_mistakes_in_the_config(table: dict[str, Any], told: str, tmp_path: Path) -> None:
    """A table that is not as it should be is a mistake in the config, told with its key and without any value."""
    with pytest.raises(ConfigError) as raised:
        load(None, {"agent": {"mcp_servers": {"x": table}}}, {}, tmp_path)
    assert str(raised.value).startswith(f"agent.mcp_servers: {told}")
    assert "secret" not in str(raised.value)


async def test_without_the_extra() -> None:
    """Where the extra is not installed, the start says what to install, and nothing else needs it."""
    program = """
import asyncio, sys
sys.modules["langchain_mcp_adapters"] = sys.modules["mcp"] = None
from langchain_core.language_models import FakeListChatModel
from threadwire.agent import open_agent
from threadwire.settings import Agent
async def main(servers):
    async with open_agent(FakeListChatModel(responses=[]), Agent(mcp_servers=servers), calls_tools=True, takes=()):
        print("open")
asyncio.run(main({}))
asyncio.run(main({"x": {"command": "y"}}))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert out.decode() == "open\n"
    assert "StartupError: agent.mcp_servers needs the extra mcp" in err.decode()
    assert 'pip install "threadwire[mcp]"' in err.decode()
