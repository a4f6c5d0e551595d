"""What a process costs: the server's, by its id or by its ``/metrics``, and our own.

From ``/proc`` on Linux: cpu, memory, descriptors, threads. Elsewhere there is only what ``/metrics`` tells.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from threadwire.errors import StartupError

#: ``/metrics`` is asked this often at most, and may take this long.
METRICS_SECONDS = 2.0
#: What of it is read: Prometheus's own names for a process, and the server's gauge of its asyncio tasks.
_METRICS = {
    "process_cpu_seconds_total": "cpu_seconds",
    "process_resident_memory_bytes": "memory_bytes",
    "process_open_fds": "descriptors",
    "threadwire_tasks": "tasks",
}
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process had used, or held, at one time; None is not known."""

    cpu_seconds: float | None = None
    memory_bytes: float | None = None
    descriptors: float | None = None
    threads: float | None = None
    tasks: float | None = None


def of_process(pid: int) -> Sample | None:
    """Read ``/proc``; None where the process is gone, or there is no ``/proc``."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        status = (folder / "status").read_text()
        descriptors: float | None = len(os.listdir(folder / "fd"))  # noqa: PTH208 -- only how many
    except PermissionError:
        descriptors = None
    except (OSError, IndexError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    memory = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return Sample(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / ticks,
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        descriptors=descriptors,
        threads=int(fields[17]),
    )


def of_metrics(text: str) -> Sample:
    """Read the text of a ``/metrics``."""
    found = {_METRICS[name]: float(value) for name, value in _SAMPLE.findall(text) if name in _METRICS}
    return Sample(**found)


class Watch:
    """The server under load, looked at once a second; ``also`` gives what else goes into the row.

    ``metrics`` is where its ``/metrics`` is, if not at ``url``, which is asked with ``token``.
    """

    def __init__(
        self,
        url: str,
        pid: int | None,
        also: Callable[[], dict[str, Any]] = dict,
        *,
        metrics: str | None = None,
        token: str | None = None,
    ) -> None:
        self._url = metrics or _metrics_url(url)
        self._headers = {"Authorization": f"Bearer {token}"} if token and metrics is None else {}
        self._pid = pid
        self._also = also
        self._session: aiohttp.ClientSession | None = None
        self._asked = 0.0
        self._metrics = Sample()
        self._before: tuple[float, float] | None = None
        if pid is not None and of_process(pid) is None:
            raise StartupError(f"--pid {pid}: there is no such process, or no /proc to read it from")

    async def open(self) -> None:
        """Find out whether there is a ``/metrics``; without one, and without a pid, nothing is known."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=METRICS_SECONDS))
        if not await self._read_metrics():
            await self.close()

    async def close(self) -> None:
        """Let go of the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def look(self) -> dict[str, Any]:
        """What is known now, as a row has it; ``/proc`` wins over ``/metrics``, which alone knows the tasks."""
        if self._session is not None and time.monotonic() > self._asked + METRICS_SECONDS:
            await self._read_metrics()
        sample = self._metrics
        if self._pid is not None:
            found = of_process(self._pid) or Sample()
            sample = replace(found, tasks=sample.tasks)
        return {
            "server_cpu": self._share(sample.cpu_seconds),
            "server_memory_bytes": sample.memory_bytes,
            "server_descriptors": sample.descriptors,
            "server_threads": sample.threads,
            "server_tasks": sample.tasks,
            **self._also(),
        }

    def _share(self, cpu_seconds: float | None) -> float | None:
        """The share of a core that was used since the last time."""
        if cpu_seconds is None:
            return None
        now, before = time.monotonic(), self._before
        if before is not None and cpu_seconds == before[1] and self._pid is None:
            return None  # /metrics was not asked again yet
        self._before = now, cpu_seconds
        if before is None:
            return None
        return round(max(0.0, cpu_seconds - before[1]) / max(now - before[0], 1e-3), 3)

    async def _read_metrics(self) -> bool:
        assert self._session is not None  # noqa: S101 -- asked by who knows
        self._asked = time.monotonic()
        try:
            async with self._session.get(self._url, headers=self._headers, ssl=False) as response:
                if response.status != 200:
                    return False
                self._metrics = of_metrics(await response.text())
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        return self._metrics != Sample()


def _metrics_url(url: str) -> str:
    base = url.split("?", maxsplit=1)[0].removesuffix("/ws").replace("ws", "http", 1)
    return f"{base}/metrics"
