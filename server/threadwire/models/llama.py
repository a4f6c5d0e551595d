"""llama.cpp's own HTTP server in a process of its own: ``python llama.py``; imports nothing of threadwire.

It reads one JSON object, a line on stdin (see ``Orders``), loads the model, prints one JSON line on stdout,
``{"ready": PORT}`` or ``{"failed": "why"}``, and serves until its stdin ends. All else on stdout and stderr
is llama.cpp's. It is loaded into no server: a crash in C++ must not take the conversations along.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any, TypedDict

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
#: Host memory for the prompts of conversations that have lost their slot; llama.cpp's default is 8192.
_PROMPT_CACHE_MIB = 256
_LOG_ERRORS, _LOG_ALL = 1, 3


class Orders(TypedDict):
    """What the parent sends."""

    #: Of the GGUF file.
    path: str
    #: What the model is called in answers; a file name says too much.
    alias: str
    #: Who does not send it is refused.
    api_key: str
    #: Requests that are answered at the same time, and the context of each, in tokens.
    slots: int
    context_tokens: int
    #: Who started this; it must still be alive.
    parent: int
    debug: bool


def main() -> None:
    """Obey the orders on stdin until it ends. Does not return."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group: the server drains, and needs us until its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    orders: Orders = json.loads(sys.stdin.readline() or "null")
    if orders is None:
        os._exit(0)
    _die_with(orders["parent"])
    try:
        server = _open_server(orders)
    except Exception as error:
        _tell({"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _tell({"ready": int(server.listening_address.rpartition(":")[2])})
    sys.stdin.read()
    # Without the destructors: they wait for requests that nobody reads any more.
    os._exit(0)


def _die_with(parent: int) -> None:
    """End when the parent does, also while loading, when nobody reads stdin (xllamacpp keeps the GIL)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)


def _open_server(orders: Orders) -> Any:
    # By name: it has no types, and the type check must be the same whether it is installed or not.
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = orders["path"]
    params.model_alias = {orders["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [orders["api_key"]]
    params.ui = False
    params.n_parallel = orders["slots"]
    params.n_ctx = orders["slots"] * orders["context_tokens"]
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.verbosity = _LOG_ALL if orders["debug"] else _LOG_ERRORS
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = _threads()
        # llama.cpp's threads wait for each other by spinning. On idle cores that gains nothing, and where others
        # want the same cores it costs most of the speed (measured on two busy ones: 2 instead of 10 tokens/s).
        cpu.poll = 0
    return xllamacpp.Server(params)


def _threads() -> int:
    """How many compute: half of the cores. Hyperthreads do not help, and the server needs its own.

    All wait for the slowest after each step. SmolLM2-135M on two cores, in tokens/s with one thread and with two:
    37 and 60 if they are idle, 31 and 2 if another process keeps one of them busy.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)  # noqa: T201 -- the parent reads it


if __name__ == "__main__":
    main()
