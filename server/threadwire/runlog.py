"""A run's log as JSON patches: LangChain's ``astream_log``, for tools that were written for it.

It carries what raw events carry, so the server must let those out. The policy is laid on it in LangChain's own terms;
what the graph itself gives (``streamed_output``, ``final_output``) is always part of it.
"""

from __future__ import annotations

import asyncio
import re
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from threadwire.filters import Filter
from threadwire.fresh import FreshParts, FreshRun
from threadwire.jsonsafe import json_safe
from threadwire.logs import get_logger
from threadwire.protocol import Send

logger = get_logger(__name__)

Write = Callable[[dict[str, Any]], Awaitable[None]]

_ENTRY = re.compile(
    r"/logs/(?P<name>.+?)(?P<rest>(/streamed_output/-|/streamed_output_str/-|/final_output|/end_time)?)\Z"
)


class RunLog:
    """One run without a thread, told as its log. Raises ``InvalidArgument`` for a context the graph does not take."""

    def __init__(self, parts: FreshParts, policy: Filter, send: Send, user: dict[str, Any] | None = None) -> None:
        """``user`` is what the graph is told of who asks."""
        run_id = send.run_id.lower() if send.run_id is not None else None
        self._run = FreshRun(parts, send.content, context=send.context, run_id=run_id, user=user)
        self._tally = parts.tally
        self._filters = _in_langchains_terms(policy)
        self.run_id = self._run.run_id

    def cancel(self, reason: str) -> None:
        """Stop it."""
        self._run.cancel(reason)

    async def settled(self) -> None:
        """Wait until nothing of it is at work."""
        await self._run.settled()

    async def run(self, write: Write) -> dict[str, Any]:
        """Run it, a ``log`` frame after the other; returns its ``run_finished``."""
        started = time.monotonic()

        async def drive(graph: Any, given: dict[str, Any], config: dict[str, Any], context: Any) -> None:
            # Deprecated since langchain-core 1.0, and here for those who have it: the operator is not to be bothered.
            warnings.filterwarnings("ignore", message="astream_log is deprecated")
            root = _RootTask()
            config["callbacks"].add_handler(root)
            stream = graph.astream_log(given, config, context=context, **self._filters)
            following = asyncio.create_task(self._follow(stream, write))
            try:
                await asyncio.shield(following)
            except asyncio.CancelledError:
                # Cancelled itself, or closed, astream_log would wait for the graph to end by itself.
                root.cancel()
                await asyncio.wait({following})
                raise

        ended = await self._run.execute(drive)
        self._tally.ended(ended.status, ended.reason)
        told = {
            "run_id": self.run_id,
            "status": ended.status,
            "reason": ended.reason,
            "error": ended.error,
            "usage": ended.usage,
            "duration_ms": round((time.monotonic() - started) * 1000),
        }
        logger.info("run", trigger="log", **told)
        return {"type": "run_finished", **told}

    async def _follow(self, stream: Any, write: Write) -> None:
        try:
            async for patch in stream:
                await write({"type": "log", "ops": [_sendable(op) for op in patch.ops]})
        except ConnectionError:
            # Nobody is there: the rest of it, as the graph is stopped, is for nobody.
            self.cancel("disconnect")
            async for _ in stream:
                pass


class _RootTask(BaseCallbackHandler):
    """The task that runs the graph, so that it can be cancelled: ``astream_log`` keeps it to itself."""

    run_inline = True

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def on_chain_start(self, *_args: Any, parent_run_id: UUID | None = None, **_kwargs: Any) -> None:
        """The first is the graph's own, called in that task."""
        if parent_run_id is None:
            self._task = asyncio.current_task()
            if self._cancelled and self._task is not None:
                self._task.cancel()

    def cancel(self) -> None:
        """Cancel it, as soon as it is there."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()


def _sendable(op: dict[str, Any]) -> dict[str, Any]:
    sendable = {"op": op["op"], "path": _escaped(op["path"])}
    return {**sendable, "value": json_safe(op["value"])} if "value" in op else sendable


def _escaped(path: str) -> str:
    """The path with a runnable's name as JSON Pointer (RFC 6901) wants it: LangChain leaves ``~`` and ``/`` in it."""
    found = _ENTRY.match(path)
    if found is None:
        return path
    return f"/logs/{found['name'].replace('~', '~0').replace('/', '~1')}{found['rest']}"


def _in_langchains_terms(policy: Filter) -> dict[str, list[str] | None]:
    """The policy as arguments of ``astream_log``, to which chat models and plain ones are both ``llm``.

    Where only one of the two may be seen, neither is.
    """
    models = {"chat_model", "llm"}
    includes, excludes = set(policy.include_types), set(policy.exclude_types)
    if not models <= includes:
        includes -= models
    if models & excludes:
        excludes |= models
    none = not (policy.include_types or policy.include_names or policy.include_tags)
    return {
        "include_types": None if none else sorted(includes),
        "include_names": sorted(policy.include_names) or None,
        "include_tags": sorted(policy.include_tags) or None,
        "exclude_types": sorted(excludes) or None,
        "exclude_names": sorted(policy.exclude_names) or None,
        "exclude_tags": sorted(policy.exclude_tags) or None,
    }
