"""What a server asks of its process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from threadwire.process import SPARE_FILES, THRESHOLDS


def run(code: str) -> str:
    """What a process of its own prints."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return ran.stdout.strip()


def test_what_start_up_made_is_collected_no_more() -> None:
    """It is frozen, and young objects are looked at less often."""
    code = (
        "import gc\n"
        "from threadwire import process\n"
        "process.calm_garbage_collector()\n"
        "print(gc.get_freeze_count() > 1000, gc.get_threshold())"
    )
    assert run(code) == f"True {THRESHOLDS}"


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
@pytest.mark.parametrize(
    ("soft", "hard", "sockets", "then", "files_for"),
    [
        (256, 4096, 1000, 1000 + SPARE_FILES, 1000),
        (256, 1024, 10_000, 1024, 1024 - SPARE_FILES),
        (256, 2048, 0, 2048, 2048 - SPARE_FILES),
        (2048, 4096, 100, 2048, 2048 - SPARE_FILES),
    ],
)
def test_files_for_all_connections(soft: int, hard: int, sockets: int, then: int, files_for: int) -> None:
    """The soft limit is raised as far as is needed, and may be; what it comes to is said."""
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from threadwire import process\n"
        f"print(process.allow_files({sockets}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    assert run(code) == f"{files_for} {then}"


def test_langsmith_asks_no_other_thread() -> None:
    """What it does for each call that might be traced it does where it is called."""
    code = (
        "import asyncio, threading\n"
        "from langsmith import traceable\n"
        "from threadwire import process\n"
        "seen = []\n"
        "@traceable(enabled=True, process_inputs=lambda found: seen.append(threading.get_ident()) or found)\n"
        "async def call(value):\n"
        "    return value\n"
        "process.trace_in_place()\n"
        "print(asyncio.run(call(value=3)), seen == [threading.get_ident()])"
    )
    assert run(code).endswith("3 True")
