"""The provider that all servers ask: OpenAI's streamed chat completions, and next to nothing else, as cheap as can be.

    python -m benchmarks.provider PORT

The last user message says what is wanted: ``tokens=200 rate=50`` (tokens per second; 0: all at once). A token is the
time at which it was written, in microseconds of the machine's monotonic clock, eight digits and a space: whoever reads
the text in the end knows how long it was on its way, also where tokens were merged. ``GET /last`` tells the last
request's messages and the answer's text, so that it can be proven that a server delivered all of it, and remembered it;
``GET /stats`` how many requests are open.

A plain asyncio protocol, since the provider shares its core with the load.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Any

import orjson

WANTED = re.compile(r"tokens=(\d+) rate=(\d+)")
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"x-request-id: req_0123456789abcdef\r\nTransfer-Encoding: chunked\r\n\r\n"
)
#: Of the shape and size that OpenAI's have; the only thing that changes is the text.
CHUNK = {
    "id": "chatcmpl-CdTx0bGDkzQpLr2MbkV1kPcQeYwZr",
    "object": "chat.completion.chunk",
    "created": 1765432109,
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "system_fingerprint": "fp_50906f2aac",
}


def encode(choices: list[Any], usage: Any = None) -> bytes:
    data = b"data: " + orjson.dumps({**CHUNK, "choices": choices, "usage": usage}) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(content: dict[str, Any], finish: str | None = None) -> list[Any]:
    return [{"index": 0, "delta": content, "logprobs": None, "finish_reason": finish}]


FIRST = encode(delta({"role": "assistant", "content": "", "refusal": None}))
BEFORE, AFTER = encode(delta({"content": "00000000 "})).split(b"00000000")
STOP = encode(delta({}, "stop"))
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def stamp() -> bytes:
    """Now, as a token has it."""
    return b"%08d" % (time.monotonic_ns() // 1000 % 100_000_000)


class Connection(asyncio.Protocol):
    """One of a server's connections: requests one after another."""

    stats: dict[str, int] = {"open": 0, "finished": 0, "aborted": 0}  # noqa: RUF012 -- of all of them
    last: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None
        self.left = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()
        if self.left:
            self.left = 0
            self.stats["open"] -= 1
            self.stats["aborted"] += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if len(rest) < (size := int(length[1]) if length else 0):
            return
        self.buffer = rest[size:]
        if head.startswith(b"POST"):
            self.complete(orjson.loads(rest[:size]))
        else:
            self.answer(self.last if b" /last " in head else self.stats)

    def answer(self, value: Any) -> None:
        body = orjson.dumps(value)
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    def complete(self, request: dict[str, Any]) -> None:
        asked = [message for message in request["messages"] if message["role"] == "user"][-1]["content"]
        content = asked if isinstance(asked, str) else "".join(block.get("text", "") for block in asked)
        wanted = WANTED.search(content)
        assert wanted, "the load asks in a way of its own"
        assert request.get("stream"), "only streams are compared"
        self.left = self.count = int(wanted[1])
        self.pause = 1 / int(wanted[2]) if int(wanted[2]) else 0.0
        self.usage = (request.get("stream_options") or {}).get("include_usage", False)
        self.words: list[bytes] = []
        self.stats["open"] += 1
        Connection.last = {"messages": request["messages"], "said": ""}
        self.transport.write(HEAD + FIRST)
        self.due = self.loop.time()
        self.say()

    def say(self) -> None:
        """Write what is due, and come back for the next."""
        due, now = 0, self.loop.time()
        while due < self.left and self.due <= now + 0.0005:
            due += 1
            self.due += self.pause
        word = stamp()
        self.transport.write((BEFORE + word + AFTER) * due)
        self.words += [word] * due
        self.left -= due
        if self.left:
            self.timer = self.loop.call_at(self.due, self.say)
        else:
            self.end()

    def end(self) -> None:
        usage = {"prompt_tokens": 9, "completion_tokens": self.count, "total_tokens": 9 + self.count}
        self.transport.write(STOP + (encode([], usage) if self.usage else b"") + DONE)
        self.stats["open"] -= 1
        self.stats["finished"] += 1
        Connection.last["said"] = b"".join(word + b" " for word in self.words).decode()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(main())
