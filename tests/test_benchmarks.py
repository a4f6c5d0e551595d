"""What threadwire is compared with still works: who measures finds the servers ready."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVERS = {"threadwire", "aiohttp", "fastapi", "floor"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")
def test_every_server_of_the_benchmark_delivers_and_remembers() -> None:
    """Each starts, delivers a turn's whole text, and has the turn when it is started again."""
    command = [sys.executable, "-m", "benchmarks", "--rounds", "0", "--servers", *sorted(SERVERS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    found = re.findall(r"^(\w+): delivers all, and remembers$", done.stderr, re.MULTILINE)
    assert set(found) == SERVERS, done.stdout + done.stderr
    assert done.returncode == 0
