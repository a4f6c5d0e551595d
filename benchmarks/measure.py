"""What the server costs: first-token time it adds, CPU per token, memory per idle connection.

    python benchmarks/measure.py [--sessions 50] [--rate 50] [--tokens 200] [--idle 1000] [--rounds 3]

The server and the provider (``threadwire simulate``, behind the real ``ChatOpenAI``) are processes of their own; on
Linux the server is pinned to one core, the provider and this script to another. CPU is the server process's own, from
``/proc``. Figures of one machine at one time: compare ratios of one run, not absolute values of two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(pid: int, core: int) -> None:
    """Keep a process to one core, where that can be done."""
    if len(CORES) > 1:
        os.sched_setaffinity(pid, {CORES[core]})


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


@dataclass
class Process:
    process: asyncio.subprocess.Process
    url: str

    @classmethod
    async def start(cls, arguments: list[str], folder: str, environment: dict[str, str], core: int) -> Process:
        errors = "serve" in arguments
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "threadwire",
            *arguments,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if errors else None,
        )
        pin(process.pid, core)
        stream = process.stderr if errors else process.stdout
        assert stream is not None
        while "http://" not in (line := (await stream.readline()).decode()):
            if not line:
                raise SystemExit(f"{arguments}: ended before it served")
        if errors:
            asyncio.get_running_loop().create_task(_drain(stream))
        url = "http://" + line.split("http://")[1].split(chr(34))[0].split()[0].rstrip("/").removesuffix("/v1")
        return cls(process, url)

    async def stop(self) -> None:
        self.process.terminate()
        await self.process.wait()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


async def turn(session: aiohttp.ClientSession, url: str, content: str) -> tuple[int, float]:
    """One session, one turn: how many tokens came, and seconds to the first."""
    async with session.ws_connect(f"{url}/ws", max_msg_size=0) as ws:
        await ws.receive()
        began = time.perf_counter()
        await ws.send_str(json.dumps({"type": "send", "content": content}))
        tokens, first = 0, 0.0
        async for message in ws:
            if message.data.startswith('{"type":"token"'):
                first = first or time.perf_counter() - began
                tokens += json.loads(message.data)["content"].count(" ") or 1
            elif message.data.startswith('{"type":"run_finished"'):
                if '"status":"completed"' not in message.data:
                    raise SystemExit(message.data)
                return tokens, first
    raise SystemExit("the socket closed in mid-turn")


async def direct(session: aiohttp.ClientSession, url: str, content: str) -> float:
    """Seconds to the provider's own first token, asked directly."""
    body = {"model": "x", "stream": True, "messages": [{"role": "user", "content": content}]}
    began = time.perf_counter()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        async for line in response.content:
            if b'"content":"' in line and b'"content":""' not in line:
                return time.perf_counter() - began
    raise SystemExit("the provider said nothing")


async def idle(session: aiohttp.ClientSession, server: Process, count: int) -> float:
    """KiB of the server's memory for each of so many connections that do nothing."""
    await turn(session, server.url, "/tokens 1")
    before = rss_kib(server.process.pid)
    sockets = []
    for start in range(0, count, 50):
        batch = range(start, min(count, start + 50))
        sockets += await asyncio.gather(*(session.ws_connect(f"{server.url}/ws") for _ in batch))
    await asyncio.gather(*(socket.receive() for socket in sockets))
    after = rss_kib(server.process.pid)
    await asyncio.gather(*(socket.close() for socket in sockets))
    return (after - before) / count


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--rate", type=int, default=50, help="tokens per second and session")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["simulate", "--port", "0", "--first-token-ms", "0", "--tokens-per-second", str(options.rate)]
        provider = await Process.start(arguments, folder, {}, 1)
        pin(os.getpid(), 1)
        environment = {
            "THREADWIRE_MODEL__NAME": "openai:simulated",
            "THREADWIRE_MODEL__BASE_URL": f"{provider.url}/v1",
            "THREADWIRE_STORAGE__URL": f"sqlite:///{folder}/bench.db",
        }
        server = await Process.start(["serve", "--port", "0"], folder, environment, 0)
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                await measure(session, provider, server, options)
        finally:
            await server.stop()
            await provider.stop()


async def measure(
    session: aiohttp.ClientSession, provider: Process, server: Process, options: argparse.Namespace
) -> None:
    # First of all: later the server has memory at hand that earlier turns have left.
    each = await idle(session, server, options.idle)
    for _ in range(3):
        await turn(session, server.url, "/tokens 20")
    added = []
    for _ in range(20):
        alone = await direct(session, provider.url, "/tokens 1")
        added.append((await turn(session, server.url, "/tokens 1"))[1] - alone)
    print(f"first token added by the server: median {statistics.median(added) * 1000:.1f} ms of {len(added)}")
    costs = []
    for _ in range(options.rounds):
        before = cpu_seconds(server.process.pid)
        content = f"/tokens {options.tokens}"
        found = await asyncio.gather(*(turn(session, server.url, content) for _ in range(options.sessions)))
        spent = cpu_seconds(server.process.pid) - before
        costs.append(spent / (options.sessions * options.tokens) * 1e6)
        firsts = sorted(first for _, first in found)
        print(
            f"  {options.sessions} sessions x {options.tokens} tokens at {options.rate}/s: "
            f"{costs[-1]:.0f} us CPU a token, first token p50 {firsts[len(firsts) // 2] * 1000:.0f} ms"
        )
    print(f"CPU per token: median {statistics.median(costs):.0f} us of {options.rounds} rounds")
    print(f"idle connection: {each:.1f} KiB each at {options.idle}")


if __name__ == "__main__":
    asyncio.run(main())
