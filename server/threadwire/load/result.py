"""What a run came to, as JSON: what ``--json`` writes, and all that the table, the report and ``--compare`` read."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from threadwire import __version__
from threadwire.errors import StartupError
from threadwire.load.ledger import Ledger
from threadwire.load.options import Options


def make_result(options: Options, ledger: Ledger, *, stopped: bool) -> dict[str, Any]:
    """The result of a run that has just ended."""
    seconds = max(ledger.seconds, 1e-3)
    now = datetime.now(UTC)
    return {
        "threadwire": __version__,
        "started_at": (now - timedelta(seconds=seconds)).isoformat(timespec="seconds"),
        "machine": {"system": platform.system(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "options": _told(options),
        "duration_seconds": round(seconds, 2),
        "stopped": stopped,
        "latency_seconds": ledger.latencies(),
        "tokens": ledger.tokens,
        "tokens_per_second": round(ledger.tokens / seconds, 1),
        "usage_tokens": ledger.usage_tokens,
        "frames": ledger.frames,
        "frames_per_second": round(ledger.frames / seconds, 1),
        "bytes": ledger.bytes,
        "sessions": _named(ledger, "sessions_") | {"peak_connections": ledger.peak_connections},
        "turns": _named(ledger, "turns_"),
        "unverified": ledger.counts["unverified"],
        "gaps": ledger.counts["gaps"],
        "errors": dict(ledger.errors),
        "violations": dict(ledger.violations),
        "explanations": ledger.explanations,
        "server": _server(ledger.rows),
        "generator": _generator(options, ledger),
        "rows": ledger.rows,
    }


def read_result(path: Path) -> dict[str, Any]:
    """Read what ``--json`` wrote; raises ``StartupError``."""
    try:
        found = orjson.loads(path.read_bytes())
        if "latency_seconds" in found and "rows" in found:
            return dict(found)
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError):
        pass
    raise StartupError(f"{path}: not the result of a load run (threadwire load --json FILE writes one)")


def _told(options: Options) -> dict[str, Any]:
    told = options.to_json()
    # Credentials are secrets, and a script may be long: its file says what was said.
    told["credentials"] = len(options.credentials)
    told["scenario"] = f"{len(options.scenario.conversations)} conversation(s)"
    if len(options.scenario.conversations) == 1:
        told["scenario"] = options.scenario.conversations[0].steps[0].say[:200]
    return told


def _named(ledger: Ledger, prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in ledger.counts.items() if name.startswith(prefix)}


def _server(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    memory = _values(rows, "server_memory_bytes")
    cpu = _values(rows, "server_cpu")
    return {
        "cpu": round(statistics.fmean(cpu), 3) if cpu else None,
        "cpu_max": max(cpu, default=None),
        "memory_bytes_first": memory[0] if memory else None,
        "memory_bytes_max": max(memory, default=None),
        "memory_bytes_last": memory[-1] if memory else None,
    }


def _generator(options: Options, ledger: Ledger) -> dict[str, Any]:
    cpu = _values(ledger.rows, "generator_cpu")
    return {
        "processes": options.processes,
        "cpu": round(statistics.fmean(cpu), 3) if cpu else None,
        "cpu_max": max(cpu, default=None),
        "late_seconds_max": max((row["lag"] for row in ledger.rows), default=0.0),
        "bottleneck": ledger.bottleneck(options.processes),
    }


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]
