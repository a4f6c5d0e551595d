"""What the kernel knows: CPU and memory of processes, who else was on a core; what machine and versions these are."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
#: The server has this one to itself; the provider and the load share the other.
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
#: As ``nice`` counts. Of all that is measured alike; it takes a privilege.
PRIORITY = -10
PACKAGES = (
    "threadwire",
    "ag-ui-langgraph",
    "aiohttp",
    "chainlit",
    "fastapi",
    "langchain-core",
    "langchain-openai",
    "langgraph",
    "langgraph-api",
    "openai",
    "uvicorn",
    "uvloop",
)


def pin(core: int) -> None:
    """Keep this process, and those it starts, to one core, and let neighbours have less of it where that is allowed."""
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        if os.getsid(0) == os.getpid():
            # Where the kernel shares time between sessions first, nice counts only within one (man 7 sched).
            Path("/proc/self/autogroup").write_text(str(PRIORITY))


def family(pid: int) -> list[int]:
    """The process and those it started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_seconds(*pids: int) -> float:
    """User and system time of the processes, in seconds.

    What ``/proc/PID/stat`` counts in ticks of 10 ms, a process's own clock has in nanoseconds (clock_getcpuclockid(3)).
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def rss_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def busy_seconds(core: int) -> float:
    """How long a core has been busy since the machine started, whoever it was; stolen time is busy."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) / TICK
    raise LookupError(core)


@dataclass(frozen=True)
class Moment:
    """The counters at one time; ``since`` gives what happened in between."""

    at: float
    server: float
    load: float
    cores: tuple[float, float]

    @classmethod
    def now(cls, server: int, load: list[int]) -> Moment:
        cores = (busy_seconds(SERVER_CORE), busy_seconds(LOAD_CORE))
        return cls(time.monotonic(), cpu_seconds(*family(server)), cpu_seconds(*load), cores)

    def since(self, before: Moment) -> Spent:
        seconds = self.at - before.at
        server, load = self.server - before.server, self.load - before.load
        others = self.cores[0] - before.cores[0] - server
        others_there = self.cores[1] - before.cores[1] - load
        return Spent(seconds, server, load, max(0.0, others), max(0.0, others_there))


@dataclass(frozen=True)
class Spent:
    """CPU seconds in a stretch of ``seconds``: the server's, the load's and provider's, all others' on each core."""

    seconds: float
    server: float
    load: float
    neighbours: float
    neighbours_of_load: float

    def notes(self, kept_up: bool) -> list[str]:
        """What else may have limited the figure, in words."""
        found = []
        if (share := self.neighbours / self.seconds) > 0.05:
            found.append(f"neighbours took {share:.0%} of the server's core")
        if (share := self.neighbours_of_load / self.seconds) > 0.1:
            found.append(f"neighbours took {share:.0%} of the load's core")
        if (share := self.load / self.seconds) > 0.85:
            found.append(f"the generator was the limit: with the provider it took {share:.0%} of its core")
        elif not kept_up and (share := (self.load + self.neighbours_of_load) / self.seconds) > 0.95:
            found.append(f"the load's core was {share:.0%} busy")
        return found


def versions(site: Path | None = None) -> dict[str, str]:
    """Of what matters, in an environment's folder of packages; this one's where none is given."""
    where = {"path": [str(site)]} if site else {}
    found = {each.name.lower(): each.version for each in importlib.metadata.distributions(**where)}
    return {"python": platform.python_version()} | {name: found[name] for name in PACKAGES if name in found}


def description() -> dict[str, Any]:
    """The machine, for the results."""
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) // 1024
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(cpu),
        "memory_mib": memory,
        "kernel": platform.release(),
        "commit": commit.stdout.strip(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
    }
