"""What the hot modules take, each alone: the codec, the log with its cursors, the translation of events.

    python benchmarks/modules.py [--fast] [-o FILE]      # pyperf's options; compare two files with pyperf compare_to

Times are for one frame (one command, one event). A log's is to append a token and have each of its cursors take it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pyperf
from langchain_core.messages import AIMessageChunk

from threadwire.events import Translator
from threadwire.filters import Filter, Origin
from threadwire.log import Log
from threadwire.protocol import decode, decode_frame, encode
from threadwire.settings import Settings
from threadwire.toolcalls import Marks

#: Frames of one round, and the most that a turn's log has of them.
FRAMES = 200
RUN = "01a218c2-4abd-76b9-9bdf-b6e2b4eee400"
TOKEN = {"type": "token", "seq": 1, "run_id": RUN, "message_id": f"lc_run--{RUN}", "node": "model", "content": " word"}
SEND = orjson.dumps({"type": "send", "id": "7", "content": "How are you?", "message_id": RUN, "run_id": RUN})
MESSAGES = [
    {"id": str(n), "role": ("user", "assistant")[n % 2], "content": "Some words of it. " * 20} for n in range(100)
]
HISTORY = {"type": "history", "messages": MESSAGES, "before": None, "seq": 1000}
ORIGIN = Origin("chat_model", "ChatOpenAI", ("seq:step:1",))


def log(cursors: int) -> Callable[[int], float]:
    """Append tokens, each taken by so many cursors before the next."""

    def rounds(loops: int) -> float:
        spent = 0.0
        for _ in range(loops):
            thread = Log("epoch", 4 * 2**20)
            readers = [thread.cursor(0) for _ in range(cursors)]
            began = pyperf.perf_counter()
            for _ in range(FRAMES):
                thread.append(dict(TOKEN), ORIGIN)
                for reader in readers:
                    reader.take()
            spent += pyperf.perf_counter() - began
        return spent

    return rounds


def merged(loops: int) -> float:
    """Append tokens that nobody reads yet; one cursor takes them all together."""
    spent = 0.0
    for _ in range(loops):
        thread = Log("epoch", 4 * 2**20)
        reader = thread.cursor(0)
        began = pyperf.perf_counter()
        for _ in range(FRAMES):
            thread.append(dict(TOKEN), ORIGIN)
        reader.take()
        spent += pyperf.perf_counter() - began
    return spent


def stream_event(chunk: AIMessageChunk) -> dict[str, Any]:
    return {
        "event": "on_chat_model_stream",
        "name": "ChatOpenAI",
        "run_id": RUN,
        "parent_ids": ["root", "model"],
        "tags": ["seq:step:1"],
        "metadata": {"langgraph_node": "model", "langgraph_checkpoint_ns": f"model:{RUN}"},
        "data": {"chunk": chunk},
    }


def events(loops: int) -> float:
    """A model's chunks, as token frames."""
    chunks = [stream_event(AIMessageChunk(content=" word", id=f"lc_run--{RUN}")) for _ in range(FRAMES)]
    policy, spent = Filter.of(Settings().events), 0.0
    for _ in range(loops):
        translator = Translator(RUN, policy, Marks())
        began = pyperf.perf_counter()
        for chunk in chunks:
            for _ in translator.feed(chunk, 0.0):
                pass
        spent += pyperf.perf_counter() - began
    return spent


def main() -> None:
    # Each process imports LangChain anew, which takes longer than it measures.
    runner = pyperf.Runner(processes=4, values=3, warmups=1)
    runner.bench_func("codec: decode a send", decode, SEND)
    runner.bench_func("codec: encode a token", encode, TOKEN)
    runner.bench_func("codec: encode a history of 100 messages", encode, HISTORY)
    runner.bench_func("codec: decode a token, as a client", decode_frame, orjson.dumps(TOKEN))
    for cursors in (1, 10, 1000):
        runner.bench_time_func(f"log: append and read, {cursors} cursors", log(cursors), inner_loops=FRAMES)
    runner.bench_time_func("log: append unread, and read merged", merged, inner_loops=FRAMES)
    runner.bench_time_func("events: a chunk to a frame", events, inner_loops=FRAMES)


if __name__ == "__main__":
    main()
