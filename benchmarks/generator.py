"""What ``threadwire load`` itself costs: CPU per frame, with a server that does nothing but send tokens.

    python benchmarks/generator.py [--sessions 1000] [--rate 50] [--tokens 500]

The server is a process of its own that speaks just enough threadwire.v1 and gives every session ``--rate`` tokens a
second. CPU is the load process's own; on Linux each of the two is pinned to a core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
#: Sessions are served in so many groups within each interval, so that tokens do not come all at once.
GROUPS = 20


def pin(core: int) -> None:
    """Keep this process to one core, where that can be done."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[core]})


class Hose(WSListener):
    """One session: its turn's words, one by one."""

    active: list[set[Hose]] = [set() for _ in range(GROUPS)]  # noqa: RUF012
    made = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        Hose.made += 1
        self.transport = transport
        self.group = Hose.active[Hose.made % GROUPS]
        self.seq = self.left = self.said = 0
        ready = {"type": "ready", "protocol": "threadwire.v1", "server": "hose", "thread_id": f"t{Hose.made}"}
        ready |= {
            "created": True,
            "epoch": "e",
            "seq": 0,
            "resume": "fresh",
            "run": None,
            "queue": [],
            "interrupts": [],
        }
        self.put(ready | {"model": {}, "heartbeat_seconds": 25, "limits": {}})

    def on_ws_disconnected(self, _: WSTransport) -> None:
        self.group.discard(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()
            return
        command = orjson.loads(frame.get_payload_as_bytes())
        if command["type"] == "send":
            self.run, self.left = command["run_id"], int(command["content"])
            self.group.add(self)
            self.put({"type": "ack", "id": command["id"], "run_id": self.run, "message_id": command["message_id"]})
        else:
            messages = [{"id": "a", "role": "assistant", "content": "word " * self.said}]
            self.put({"type": "history", "id": command["id"], "messages": messages, "before": None, "seq": self.seq})

    def put(self, frame: dict) -> None:
        self.transport.send(WSMsgType.TEXT, orjson.dumps(frame))

    def tick(self) -> None:
        self.seq += 1
        if self.left:
            self.left -= 1
            self.said += 1
            token = {"type": "token", "seq": self.seq, "run_id": self.run, "message_id": "a", "node": "model"}
            self.put(token | {"content": "word "})
        else:
            self.group.discard(self)
            end = {"status": "completed", "reason": None, "error": None, "usage": None, "duration_ms": 1}
            self.put({"type": "run_finished", "seq": self.seq, "run_id": self.run} | end)


def pour(port: multiprocessing.Queue, rate: int) -> None:
    """The server process."""

    async def run() -> None:
        server = await ws_create_server(lambda _: Hose(), "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        due, group = time.monotonic(), 0
        while True:
            for hose in tuple(Hose.active[group]):
                hose.tick()
            group = (group + 1) % GROUPS
            due = max(due + 1 / rate / GROUPS, time.monotonic() - 0.1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    pin(0)
    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=50, help="tokens per second and session")
    parser.add_argument("--tokens", type=int, default=500, help="in each session's answer")
    options = parser.parse_args()
    port: multiprocessing.Queue = multiprocessing.Queue()
    server = multiprocessing.Process(target=pour, args=(port, options.rate), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "threadwire", "load", f"ws://127.0.0.1:{port.get()}/ws", "--ramp", "3s"]
        command += ["--sessions", str(options.sessions), "--message", str(options.tokens), "--json", str(result)]
        subprocess.run(command, check=True, preexec_fn=lambda: pin(1), stdout=subprocess.DEVNULL)
        found = json.loads(result.read_text())
    server.kill()
    # The seconds in which everybody talks.
    full = [row for row in found["rows"] if row["turns"] == options.sessions] or found["rows"]
    cpu = sum(row["generator_cpu"] for row in full) / len(full)
    frames = sum(row["frames_per_second"] for row in full) / len(full)
    print(
        f"{options.sessions} sessions, {frames:,.0f} frames/s: {cpu:.0%} of a core, {cpu / frames * 1e6:.1f} us a frame"
    )


if __name__ == "__main__":
    main()
