"""What a server asks of its process: a garbage collector that stalls nobody, files enough for its sockets, no detours.

All are the process's and not a server's, so ``serving`` asks for them, and nobody who runs the app inside a program
of his own.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

#: Of the three generations. Python's own are (700, 10, 10): with a hundred runs at once that is a young collection
#: every few milliseconds and a full one, in which nothing else runs, every few seconds. The middle one is what stops
#: the loop: with 100 sessions at 50 tokens/s a hundred thousand objects had gathered for it at (5000, 20, 50), and it
#: took 100 ms each time; a quarter of a second's objects take less than ten.
THRESHOLDS = (3_000, 3, 400)
#: Files beside the sockets: the database, libraries, the provider's connections.
SPARE_FILES = 512


def calm_garbage_collector() -> None:
    """Take what start-up has made (half a million objects, of LangChain for the most part) out of all collections.

    For when everything is imported and opened: none of it goes before the process does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def trace_in_place() -> None:
    """Let LangSmith's ``traceable`` do in place what it has to do.

    ``create_agent`` (langchain 1.4) wraps each middleware in one, which asks another thread twice a call what is to be
    traced, and makes a task: 216 us of CPU where nothing is traced, and 48 in place. What is traced goes into a queue.
    """
    import langsmith

    async def in_place(
        _default: Callable[..., Awaitable[Any]],
        context: Context,
        work: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        return context.run(work, *args, **kwargs)

    langsmith.set_runtime_overrides(aio_to_thread=in_place)


def allow_files(sockets: int) -> int | None:
    """Let the process open files for so many sockets (0: as many as may be), as far as the system lets it.

    Returns how many sockets there are files for; None where the system does not say.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if not sockets else sockets + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or soft < wanted):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has another limit above this one
            wanted = soft
        soft = wanted
    return None if soft == resource.RLIM_INFINITY else max(0, soft - SPARE_FILES)
