"""The question that a thread waits with, when nobody is going to answer it.

Its tool calls are closed, or all of its turn is taken out; the run that asked has ended before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.messages import ToolMessage

from threadwire.conversation import Conversation
from threadwire.graph import Graph
from threadwire.history import content_of, message_id, open_tool_calls
from threadwire.journal import Record
from threadwire.logs import get_logger
from threadwire.remains import Remains
from threadwire.repair import make_whole
from threadwire.rewind import Rewind
from threadwire.storage import Mark, Storage, ThreadMark, Truncation

logger = get_logger(__name__)


class Question:
    """One thread's."""

    def __init__(
        self, conversation: Conversation, rewind: Rewind, record: Record, *, graph: Graph, storage: Storage
    ) -> None:
        self._conversation = conversation
        self._rewind = rewind
        self._record = record
        self._graph = graph
        self._storage = storage

    async def give_up(self, *, removing: bool) -> None:
        """Drop it, for a turn that takes its place; ``removing``: with all of the turn that asked. Raises nothing."""
        try:
            await (self.take_out() if removing else self.drop())
        except Exception:
            # The turn that follows meets the same, and says so.
            logger.exception("question not dropped", thread_id=self._conversation.thread_id)

    async def drop(self, settled: Callable[[], None] = lambda: None) -> None:
        """Stop waiting: the tool calls that asked are closed. ``settled`` is called once no crash undoes that.

        Can be repeated: a process that died in the middle of it had not told the calls' results.
        """
        run_id = self._conversation.waiting[0]["run_id"]
        known = await self._conversation.known()
        remains = await self._remains(run_id)
        messages = await make_whole(
            self._graph,
            self._storage,
            self._conversation.thread_id,
            user=None,
            said=lambda _unfinished: [],
            status="cancelled",
            # What had its answer beside the one that asked keeps it.
            results=remains.results,
        )
        # From here on the state has no question: a thread that is loaded again sees that, whatever its row says.
        settled()
        untold, results = dict(remains.open), {}
        for index, message in enumerate(messages):
            if isinstance(message, ToolMessage):
                call_id, identity = message.tool_call_id, message_id(message, index)
                results[call_id] = content_of(message)
                if identity not in known and call_id not in remains.results:
                    untold[call_id] = message.name or ""
                known.add(identity)
        await self._commit(
            [_closed(run_id, one, name, results.get(one, "The tool was not run.")) for one, name in untold.items()]
        )

    async def take_out(self) -> None:
        """Take the turn that asked out of the thread."""
        run_id = self._conversation.waiting[0]["run_id"]
        base, ids = await self._rewind.undone(await self._rewind.asking())
        if base is None:
            await self.drop()
            await self._rewind.take_out(ids)
            frames: list[dict[str, Any]] = []
            marks: tuple[Mark, ...] = ()
        else:
            # Also those of a subgraph, which the thread's own messages do not tell of.
            calls = {call["id"]: call["name"] for call in open_tool_calls(await self._conversation.stored())}
            calls |= (await self._remains(run_id)).open
            frames = [_closed(run_id, call_id, name, "The tool was not run.") for call_id, name in calls.items()]
            marks = (Truncation(self._conversation.thread_id, base[0], tuple(ids)),)
        (await self._conversation.known()).difference_update(ids)
        frames.append({"type": "messages_removed", "run_id": run_id, "message_ids": ids})
        await self._commit(frames, *marks)

    async def _remains(self, run_id: str) -> Remains:
        return Remains(run_id, await self._record.read())

    async def _commit(self, frames: list[dict[str, Any]], *marks: Mark) -> None:
        for frame in frames:
            self._record.tell(frame)
        try:
            await self._record.commit(*marks, ThreadMark(self._conversation.thread_id, "idle"))
        except Exception:
            self._record.let_out(ThreadMark(self._conversation.thread_id, "idle"))
            raise
        finally:
            self._conversation.waiting = []
            self._conversation.moved(None)


def _closed(run_id: str, call_id: str, name: str, result: Any) -> dict[str, Any]:
    """The result of a call that asked."""
    return {
        "type": "tool_result",
        "run_id": run_id,
        "id": call_id,
        "name": name,
        "result": result,
        "status": "error",
        "duration_ms": None,
    }
