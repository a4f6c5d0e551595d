"""The lean stream is the stock one for less: the same chunks, the same errors, the same requests, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

import httpx2
import langchain_openai
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from openai._streaming import SSEDecoder
from pydantic import BaseModel, SecretStr

from harness import DEADLINE, eventually
from model_kit import Steady
from threadwire.models import lean, open_model, sse, telling
from threadwire.models.transport import AiohttpTransport
from threadwire.settings import Model as Settings

RUN_ID = UUID("0190d7c1-0000-7000-8000-000000000001")
DONE = b"data: [DONE]\n\n"
HEADERS = "content-type: text/event-stream"
#: An answer: bytes as they are written one after the other; None cuts the connection there.
Piece = bytes | None


class Raw(bytes):
    """Bytes that are no chunk of HTTP's."""


@dataclass
class Provider:
    """Speaks HTTP word for word, and keeps what it was asked."""

    #: Gives a status, header lines and the body, for the number of the request.
    answer: Callable[[int], tuple[int, list[str], list[Piece]]] = field(default=lambda _: (500, [], []))
    port: int = 0
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    open: int = 0
    connections: int = 0
    #: Seconds between two pieces.
    pause: float = 0.0

    def streams(self, *pieces: Piece, headers: list[str] | None = None) -> None:
        self.answer = lambda _: (200, [HEADERS, *(headers or [])], list(pieces))

    def says(self, status: int, body: Any, *headers: str) -> None:
        self.answer = lambda _: (status, ["content-type: application/json", *headers], [json.dumps(body).encode()])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.one(reader, writer):
                pass
        writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.paths.append(head[0])
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        self.headers.append(headers)
        self.bodies.append(json.loads(await reader.readexactly(int(headers["content-length"]))))
        status, lines, pieces = self.answer(len(self.bodies))
        self.open += 1
        try:
            writer.write("\r\n".join([f"HTTP/1.1 {status} X", *lines, "transfer-encoding: chunked", "", ""]).encode())
            for piece in pieces:
                if piece is None:
                    return False
                writer.write(piece if isinstance(piece, Raw) else b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(self.pause)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            self.open -= 1
        return True


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@asynccontextmanager
async def both(provider: Provider, share: float = 0.0) -> AsyncIterator[list[langchain_openai.ChatOpenAI]]:
    """The stock model and the lean one, as the settings open them, on a loop that is so busy."""
    settings = Settings(
        name="openai:gpt-4o", base_url=f"http://127.0.0.1:{provider.port}/v1", max_tokens=9, api_key=SecretStr("sk-x")
    )
    stock, slim = open_model(settings.model_copy(update={"stock_client": True})), open_model(settings)
    async with stock, slim:
        assert isinstance(stock.chat_model, langchain_openai.ChatOpenAI)
        assert isinstance(slim.chat_model, lean.ChatOpenAI)
        assert not isinstance(stock.chat_model, lean.ChatOpenAI)
        for model in (stock.chat_model, slim.chat_model):
            model.root_async_client.max_retries = 0
        _transport_of(slim.chat_model)._busy = Steady(share)
        yield [stock.chat_model, slim.chat_model]


def _transport_of(model: langchain_openai.ChatOpenAI) -> AiohttpTransport:
    transport = model.root_async_client._client._transport
    assert isinstance(transport, AiohttpTransport)
    return transport


class Heard(AsyncCallbackHandler):
    """All that callbacks hear of a stream."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    async def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        assert isinstance(chunk, ChatGenerationChunk)
        self.said.append((token, chunk.model_copy(deep=True), chunk.model_fields_set, kwargs.get("tags")))

    async def on_llm_end(self, response: Any, **_: Any) -> None:
        self.said.append(response)


async def heard(model: Any, said: Any = "hi", **kwargs: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """What a stream gives, what callbacks hear, and the error it ends with: its types, words and what it carries."""
    listener, chunks, error = Heard(), [], []
    try:
        async for chunk in model.astream(said, {"run_id": RUN_ID, "callbacks": [listener]}, **kwargs):
            chunks.append((chunk, type(chunk), chunk.model_fields_set, vars(chunk)))  # noqa: PERF401 -- it may raise
    except Exception as raised:
        cause = raised.__cause__
        error = [type(raised), str(raised), getattr(raised, "body", None), getattr(raised, "status_code", None)]
        error += [type(cause), str(cause)]
    return chunks, listener.said, error


def chunk(delta: Any = None, /, finish: str | None = None, **more: Any) -> bytes:
    """One event as OpenAI writes it."""
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
    common |= {"service_tier": "default", "system_fingerprint": "fp_1", "choices": [choice]} | more
    return b"data: " + json.dumps(common, ensure_ascii=False).encode() + b"\n\n"


def event(value: Any, end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(value).encode() + end


def call(index: Any = 0, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **more}]}


USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4, "accepted_prediction_tokens": 0},
}
FIRST = chunk({"role": "assistant", "content": "", "refusal": None})
HELLO = chunk({"content": "Hello"})
STOP = chunk({}, "stop")
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}]}
SNOW = chunk({"content": "☃ é 🙂"})
CALLS = [
    chunk({"role": "assistant", "content": None}),
    chunk(call(id="call_1", type="function", function={"name": "add", "arguments": ""})),
    chunk(call(function={"arguments": '{"a": 1'})),
    chunk(call(function={"arguments": ', "b": 2}'})),
    chunk(call(1, id="call_2", type="function", function={"name": "add", "arguments": '{"a"'})),
    chunk(call(1, function={"arguments": ': 3, "b": 4}'})),
    chunk({}, "tool_calls"),
]
CORPUS: dict[str, list[Piece]] = {
    "text": [FIRST, HELLO, chunk({"content": " world"}), STOP, chunk(choices=[], usage=USAGE), DONE],
    "all at once": [b"".join([FIRST, HELLO, chunk({"content": " world"}), STOP, DONE])],
    "tool calls in pieces": [*CALLS, chunk(choices=[], usage=USAGE), DONE],
    "tool calls without an index": [chunk({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]})],
    "tool calls with nulls": [chunk(call(id=None, function={"name": None, "arguments": None})), STOP, DONE],
    "a tool call without a function": [chunk(call(id="c")), DONE],
    "no tool calls": [chunk({"content": "x", "tool_calls": []}), chunk({"content": "y", "tool_calls": None}), DONE],
    "a tool call that is one": [chunk({"tool_calls": ["no"]}), DONE],
    "a function call": [chunk({"function_call": {"name": "f"}}), chunk({"function_call": {"arguments": "{}"}}), DONE],
    "reasoning": [
        chunk({"role": "assistant", "content": None, "reasoning_content": "hm"}),
        chunk({"content": None, "reasoning_content": " so"}),
        chunk({"content": "42", "reasoning_content": None}),
        STOP,
        chunk(choices=[], usage=USAGE),
        DONE,
    ],
    "a refusal": [FIRST, chunk({"refusal": "I can"}), chunk({"refusal": "not."}), STOP, DONE],
    "logprobs": [FIRST, chunk(choices=[{"index": 0, "delta": {"content": "Hi"}, "logprobs": LOGPROBS}]), STOP, DONE],
    "several choices": [
        chunk(choices=[{"index": i, "delta": {"content": text}, "finish_reason": None} for i, text in enumerate("ab")]),
        chunk(choices=[{"index": 1, "delta": {"content": "c"}, "finish_reason": "stop"}]),
        DONE,
    ],
    "usage in each chunk": [chunk({"content": "a"}, usage=USAGE), chunk({"content": "b"}, "length", usage=USAGE), DONE],
    "usage of a tier": [HELLO, chunk({}, "stop", usage=USAGE, service_tier="flex"), DONE],
    "usage with nulls": [HELLO, chunk(choices=[], usage=dict.fromkeys(USAGE)), DONE],
    "content of parts": [chunk({"content": [{"type": "text", "text": "a"}]}), DONE],
    "content that is a number": [chunk({"content": 7}), DONE],
    "an id in the delta": [chunk({"id": "msg_1", "content": "a"}), DONE],
    "another role": [chunk({"role": "user", "content": "a"}), chunk({"content": "b"}), DONE],
    "the role each time": [chunk({"role": "assistant", "content": "a"}), chunk({"role": "assistant", "content": "b"})],
    "an unknown role": [chunk({"role": "narrator", "content": "a"}), chunk({"content": "b"}), DONE],
    "little in a chunk": [event({"choices": [{"delta": {"content": "a"}}]}), event({"choices": [{"delta": {}}]}), DONE],
    "no delta": [HELLO, event({"choices": [{"index": 0, "content_filter_offsets": {}}]}), STOP, DONE],
    "a delta of null": [HELLO, chunk(choices=[{"index": 0, "delta": None, "finish_reason": None}]), STOP, DONE],
    "a filter before the answer": [event({"choices": [], "prompt_filter_results": [{"index": 0}]}), HELLO, STOP, DONE],
    "choices of null": [event({"id": "x", "choices": None}), HELLO, DONE],
    "no choices": [event({"id": "x"}), HELLO, DONE],
    "a choice that is none": [chunk(choices=["no"]), DONE],
    "comments": [b": OPENROUTER PROCESSING\n\n", HELLO, b": ping\n", b":\n\n", STOP, DONE],
    "crlf": [piece.replace(b"\n", b"\r\n") for piece in (FIRST, HELLO, SNOW, STOP, DONE)],
    "crlf in two": [FIRST[:-2] + b"\r", b"\n\r", b"\n" + HELLO[:-2] + b"\r\n\r", b"\n" + STOP, DONE],
    "cr": [piece.replace(b"\n", b"\r") for piece in (FIRST, HELLO, STOP, DONE)],
    "no space": [piece.replace(b"data: ", b"data:") for piece in (HELLO, STOP, DONE)],
    "many spaces": [HELLO.replace(b"data: ", b"data:   "), STOP, DONE],
    "bytes one by one": [bytes([byte]) for byte in FIRST + SNOW + STOP + DONE],
    "data in lines": [b'data: {"choices":\ndata: [{"index": 0, "delta": {"content":\ndata: "a"}}]}\n\n', STOP, DONE],
    "data alone in a line": [b"data\n\n"],
    "a name for each": [b"event: message\n" + HELLO, b"id: 7\nretry: 100\n" + SNOW, STOP, DONE],
    "an id": [HELLO, b"id: 7\n" + SNOW, STOP, DONE],
    "an event with no data": [HELLO, b"event: ping\n\n", STOP, DONE],
    "an unknown field": [HELLO, b"x: y\n" + SNOW, b"x\n\n", STOP, DONE],
    "empty lines": [b"\n\n\n", HELLO, b"\n\n\n", STOP, b"\n", DONE],
    "no done": [FIRST, HELLO, STOP],
    "no end": [FIRST, HELLO],
    "half an event": [FIRST, HELLO, b'data: {"choices'],
    "no blank line": [FIRST, HELLO, STOP[:-1]],
    "more behind the end": [HELLO, STOP, DONE, chunk({"content": "late"})],
    "done with more": [HELLO, STOP, b"data: [DONE] ok\n\n"],
    "nothing": [],
    "only the end": [DONE],
    "only comments": [b": hi\n\n"],
    "an error": [HELLO, event({"error": {"message": "It broke", "type": "server_error", "code": "oops"}}), DONE],
    "an error named so": [HELLO, b"event: error\n" + event({"error": {"message": "Overloaded", "code": 529}})],
    "an error in words": [HELLO, event({"error": "broken"})],
    "an error with no words": [HELLO, event({"error": {"code": 1}})],
    "an error beside a choice": [chunk({"content": "a"}, error={"message": "late", "code": "x"}), DONE],
    "no error": [chunk({"content": "a"}, error=None), chunk({"content": "b"}, error={}), STOP, DONE],
    "a context that is too long": [event({"error": {"message": "it exceeds the context window", "code": "x"}})],
    "an error of llama.cpp": [b"error: " + json.dumps({"code": 400, "message": "no"}).encode() + b"\n\n", DONE],
    "cut": [FIRST, HELLO, None],
    "cut in an event": [FIRST, HELLO, HELLO[:30], None],
    "cut at once": [None],
    "no chunk": [FIRST, HELLO, Raw(b"garbage\r\n"), None],
    "no chunk in the middle": [FIRST, Raw(b"20\r\ndata: {"), Raw(bytes(range(256)) * 4), None],
    "half a chunk": [FIRST, Raw(b"20\r\ndata: {"), None],
    "no json": [HELLO, b"data: {nope\n\n"],
    "html": [b"<html>502</html>\n\n"],
    "no utf-8": [HELLO, b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'],
    "no utf-8 behind texts": [FIRST, HELLO + HELLO + b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'],
    "a type": [HELLO, chunk({"content": "x"}, type="content.delta"), HELLO, STOP, DONE],
    "wrapped": [HELLO, event({"chunk": {"choices": [{"delta": {"role": "user", "content": "w"}}]}}), HELLO, STOP, DONE],
    "half a surrogate": [HELLO.replace(b"Hello", b"\\ud83d"), STOP, DONE],
    "no number": [chunk({"content": "a"}, x=float("nan")), STOP, DONE],
    "a list": [event([1, 2])],
    "a string": [event("hm")],
    "null": [event(None)],
    "nested deep": [HELLO.replace(b'"created": 1', b'"created": ' + b"[" * 1100 + b"]" * 1100), STOP, DONE],
    "a long event": [chunk({"content": "x" * 300_000}), STOP, DONE],
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_streams_are_the_same(provider: Provider) -> None:
    """Whatever a provider sends comes out as from the stock model: each chunk, each callback, each error."""
    errors = set()
    async with both(provider) as (stock, slim):
        for name, pieces in CORPUS.items():
            provider.streams(*pieces)
            expected = await heard(stock)
            assert await heard(slim) == expected, name
            errors |= set(expected[2][:1])
    # The corpus has more than answers: an APIError, a cut connection, no JSON, no UTF-8, no chunk.
    assert len(errors) > 6


class InPlace(BaseCallbackHandler, _StreamingCallbackHandler[Any]):
    """As the server listens to a run."""

    run_inline = raise_error = hears_in_place = True

    def __init__(self) -> None:
        self.said: list[Any] = []

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        return output

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        message = chunk.message
        whole = None if isinstance(chunk, telling.Piece) or is_text(message) else chunk.model_copy(deep=True)
        self.said.append((token, message.content, message.id, dict(message.additional_kwargs), whole))
        self.said.append((kwargs["run_id"], kwargs["tags"]))

    def on_llm_end(self, response: Any, **_: Any) -> None:
        self.said.append(response)


async def answered(model: Any) -> tuple[Any, list[Any], list[Any]]:
    """What a call gives whose tokens are heard in place, what is heard, and the error it ends with."""
    listener, answer, error = InPlace(), None, []
    try:
        answer = await model.ainvoke("hi", {"run_id": RUN_ID, "callbacks": [listener], "tags": ["t"]})
    except Exception as raised:
        error = [type(raised), str(raised), type(raised.__cause__), str(raised.__cause__)]
    return answer, listener.said, error


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_answers_heard_in_place_are_the_same(provider: Provider) -> None:
    """Past LangChain's manager and its list of chunks come the same tokens, the same answer and the same errors."""
    async with both(provider) as (stock, slim):
        for name, pieces in CORPUS.items():
            provider.streams(*pieces)
            assert await answered(slim) == await answered(stock), name


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_who_hears_in_place_may_end_it(provider: Provider, share: float) -> None:
    """What is raised where a token is heard ends the call as it is, and nothing more is told."""

    class Stops(InPlace):
        def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
            super().on_llm_new_token(token, chunk=chunk, **kwargs)
            if "Hello" in token:
                raise ValueError("no more")

    listener = Stops()
    provider.streams(FIRST, HELLO, HELLO, HELLO, STOP, DONE)
    async with both(provider, share) as (_, slim):
        with pytest.raises(ValueError, match="no more"):
            await slim.ainvoke("hi", {"callbacks": [listener]})
    assert sum("Hello" in said[0] for said in listener.said if isinstance(said[0], str)) == 1
    await eventually(lambda: provider.open == 0, "the request is closed")


async def test_calls_in_a_call_are_told_apart(provider: Provider) -> None:
    """What is asked of the same model while one of its calls is heard in place is another call."""
    inner: list[asyncio.Task[Any]] = []

    class Asks(InPlace):
        def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
            super().on_llm_new_token(token, chunk=chunk, **kwargs)
            if not inner:
                inner.extend(asyncio.create_task(each) for each in (heard(slim), answered(slim)))

    async with both(provider) as (stock, slim):
        provider.streams(FIRST, HELLO, HELLO, STOP, DONE)
        expected = await heard(stock), await answered(stock)
        outer = Asks()
        answer = await slim.ainvoke("hi", {"run_id": RUN_ID, "callbacks": [outer], "tags": ["t"]})
        assert (answer, outer.said) == expected[1][:2]
        assert tuple(await asyncio.gather(*inner)) == expected


async def test_a_long_answer_is_no_silence(provider: Provider) -> None:
    """The time that may pass between two chunks is not that of an answer, also where its text is heard in place."""
    provider.streams(*[HELLO] * 40, STOP, DONE)
    provider.pause = 0.04
    async with both(provider) as (_, slim):
        patient = slim.model_copy(update={"stream_chunk_timeout": 1.0})
        answer = await patient.ainvoke("hi", {"callbacks": [InPlace()]})
    assert answer.content == "Hello" * 40


async def test_no_piece_is_kept(provider: Provider) -> None:
    """What has been told of an answer is not held until the answer is whole, but for its text."""
    alive: list[int] = []

    class Counts(InPlace):
        def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
            if not token:  # the end
                kinds = telling.Piece, AIMessageChunk
                alive.append(sum(type(each) in kinds for each in gc.get_objects()))

    async with both(provider) as (_, slim):
        for count in (1, 50):
            provider.streams(*[HELLO] * count, STOP, DONE)
            answer = await slim.ainvoke("hi", {"callbacks": [Counts()]})
            assert answer.content == "Hello" * count
    # Two ends each: the provider's, and LangChain's.
    assert len(alive) == 4
    assert alive[2] <= alive[0] + 2


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_a_busy_loop_has_the_same(provider: Provider) -> None:
    """Who reads chunks has the stock model's, and so has the answer; who hears in place hears some texts in one."""
    fewer = 0
    async with both(provider, share=1.0) as (stock, slim):
        for name, pieces in CORPUS.items():
            provider.streams(*pieces)
            assert await heard(slim) == await heard(stock), name
            (expected, tokens, end), (got, tokens_got, end_got) = await answered(stock), await answered(slim)
            assert (got, end_got) == (expected, end), name
            assert joined(tokens_got) == joined(tokens), name
            fewer += len(tokens_got) < len(tokens)
    assert fewer > 3


def joined(told: list[Any]) -> list[Any]:
    """What was heard in place, with texts that follow each other in one."""
    found: list[Any] = []
    for each in told:
        if not isinstance(each, tuple) or len(each) == 2:
            found.append(each)
        elif len(found) > 1 and each[-1] is None and isinstance(found[-2], tuple) and found[-2][-1] is None:
            token, content, *rest = found[-2]
            found[-2:] = [(token + each[0], content + each[1], *rest)]
        else:
            found.append(each)
    return found


def is_text(chunk: Any) -> bool:
    """Whether it says no more than a text."""
    return isinstance(chunk, AIMessageChunk) and chunk == AIMessageChunk(
        content=str(chunk.content), id=chunk.id, response_metadata={"model_provider": "openai"}
    )


async def test_chunks_have_nothing_in_common(provider: Provider) -> None:
    """What somebody writes into one chunk is in no other."""
    provider.streams(HELLO, HELLO, DONE)
    async with both(provider) as (_, slim):
        one, other = [chunk async for chunk in slim.astream("hi")][:2]
    for name, value in vars(one).items():
        if isinstance(value, dict | list):
            assert value is not getattr(other, name), name
    assert one.__pydantic_extra__ is not other.__pydantic_extra__
    assert one.__pydantic_fields_set__ is not other.__pydantic_fields_set__


async def test_compressed(provider: Provider) -> None:
    """A provider that compresses its stream is understood."""
    provider.streams(gzip.compress(FIRST + HELLO + STOP + DONE), headers=["content-encoding: gzip"])
    async with both(provider) as (stock, slim):
        expected = await heard(stock)
        assert len(expected[0]) > 3
        assert await heard(slim) == expected


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


CONVERSATION = [
    ("system", "Be brief."),
    HumanMessage([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:x"}}]),
    AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1, "b": 2}, "id": "call_1"}]),
    ToolMessage("3", tool_call_id="call_1"),
    AIMessage("Three. ☃"),
    HumanMessage("And now?"),
]


async def test_requests_are_the_same(provider: Provider) -> None:
    """A conversation, tools and all options go out as from the stock model, with the same headers."""
    provider.streams(*CALLS, DONE)
    options: dict[str, Any] = {
        "stop": ["END"],
        "seed": 7,
        "logit_bias": {"50256": -100},
        "extra_headers": {"X-Mine": "yes", "OpenAI-Organization": "org-2"},
        "extra_query": {"api-version": "1"},
        "extra_body": {"top_k": 3},
        "timeout": 20,
    }
    async with both(provider) as models:
        for model in models:
            await heard(model.bind_tools([add], tool_choice="auto", strict=True), CONVERSATION, **options)
    assert len(provider.bodies) == 2
    assert provider.bodies[0] == provider.bodies[1]
    assert provider.bodies[0]["stream_options"] == {"include_usage": True}
    assert provider.paths[0] == provider.paths[1] == "POST /v1/chat/completions?api-version=1 HTTP/1.1"
    one, other = ({k: v for k, v in headers.items() if k != "x-stainless-async"} for headers in provider.headers)
    assert one == other
    assert one["authorization"] == "bearer sk-x"
    assert one["openai-organization"] == "org-2"
    assert one["x-mine"] == "yes"


async def test_what_the_sdk_does_not_know_is_refused(provider: Provider) -> None:
    """A misspelt option is the TypeError that it is with the SDK, and nothing is asked."""
    async with both(provider) as models:
        for model in models:
            with pytest.raises(TypeError, match="temprature"):
                await model.bind(temprature=1).ainvoke("hi")
    assert not provider.bodies


ERRORS = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (403, openai.PermissionDeniedError),
    (404, openai.NotFoundError),
    (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
]


@pytest.mark.parametrize(("status", "kind"), ERRORS)
async def test_refusals_are_the_same(provider: Provider, status: int, kind: type[Exception]) -> None:
    """A status is the SDK's exception for it, with the provider's words."""
    provider.says(status, {"error": {"message": "No, since", "code": "because", "type": "t", "param": None}})
    async with both(provider) as (stock, slim):
        expected = await heard(stock)
        assert issubclass(expected[2][0], kind)
        assert await heard(slim) == expected


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_it_is_asked_again(provider: Provider, status: int) -> None:
    """What passes is tried again, after the time that the provider names; the count of tries is told."""

    def answer(number: int) -> tuple[int, list[str], list[Piece]]:
        return (status, ["retry-after-ms: 1"], [b"{}"]) if number < 3 else (200, [HEADERS], [HELLO, STOP, DONE])

    provider.answer = answer
    async with both(provider) as (_, slim):
        slim.root_async_client.max_retries = 2
        assert [str(chunk.text) for chunk in [c async for c in slim.astream("hi")]][:1] == ["Hello"]
    assert [headers["x-stainless-retry-count"] for headers in provider.headers] == ["0", "1", "2"]


async def test_a_connection_that_fails_is_tried_again(provider: Provider) -> None:
    """One that closes before it has said anything is tried again too."""
    provider.answer = lambda number: (200, [HEADERS], [HELLO, STOP, DONE] if number > 1 else [])
    serve = provider.one

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if not provider.bodies:
            head = await reader.readuntil(b"\r\n\r\n")
            provider.bodies.append(head)
            return False
        return await serve(reader, writer)

    provider.one = once  # type: ignore[method-assign]
    async with both(provider) as (_, slim):
        slim.root_async_client.max_retries = 1
        assert (await slim.ainvoke("hi")).text == "Hello"


async def test_nobody_there() -> None:
    """A refused connection, and a name that nobody has, are connection errors and no timeouts."""
    async with both(Provider(port=9)) as (stock, slim):
        expected = await heard(stock)
        assert issubclass(expected[2][0], openai.APIConnectionError)
        assert not issubclass(expected[2][0], openai.APITimeoutError)
        assert await heard(slim) == expected


@pytest.mark.parametrize("pieces", [[], [HELLO]], ids=["before the answer", "in it"])
async def test_silence_is_a_timeout(provider: Provider, pieces: list[Piece]) -> None:
    """A provider that says nothing for longer than the timeout is one that timed out."""
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readuntil(b"\r\n\r\n")
        if pieces:
            writer.write(f"HTTP/1.1 200 OK\r\n{HEADERS}\r\n\r\n".encode() + HELLO)
        await reader.read()
        gone.set()
        return False

    provider.one = silent  # type: ignore[method-assign]
    async with both(provider) as (_, slim):
        told = await heard(slim, timeout=0.2)
        assert issubclass(told[2][0], openai.APITimeoutError)
        assert len(told[0]) == len(pieces)
        async with asyncio.timeout(30):
            await gone.wait()


async def test_cancelled_is_closed(provider: Provider) -> None:
    """A stream that is cancelled, or left, closes the provider's request; one read to its end keeps the connection."""
    serve = provider.one

    async def forever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        provider.streams(HELLO)
        provider.open += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\n{HEADERS}\r\n\r\n".encode() + HELLO)
            while await reader.read(1 << 16):
                pass
        finally:
            provider.open -= 1
        return False

    provider.one = forever  # type: ignore[method-assign]
    async with both(provider) as (_, slim):
        began = asyncio.Event()

        class Begun(InPlace):
            def on_llm_new_token(self, token: Any, **_: Any) -> None:
                began.set()

        async def listen() -> None:
            async for _ in slim.astream("hi"):
                began.set()

        async def answer() -> None:
            await slim.ainvoke("hi", {"callbacks": [Begun()]})

        for say in (listen, answer):
            began.clear()
            task = asyncio.create_task(say())
            await began.wait()
            assert provider.open == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: provider.open == 0, "the request is closed")
        stream = slim.astream("hi")
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await eventually(lambda: provider.open == 0, "the request is closed")
        provider.one = serve  # type: ignore[method-assign]
        provider.streams(HELLO, STOP, DONE)
        before = provider.connections
        for _ in range(5):
            await slim.ainvoke("hi")
        assert provider.connections == before + 1


class Sum(BaseModel):
    """A sum."""

    total: int


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_structured_output(provider: Provider) -> None:
    """A json_schema is asked for and read, streamed and not, as with the stock model."""
    provider.streams(FIRST, chunk({"content": '{"total"'}), chunk({"content": ": 3}"}), STOP, DONE)
    for method in ("json_schema", "function_calling", "json_mode"):
        async with both(provider) as models:
            found = []
            for model in models:
                asked = model.with_structured_output(Sum, method=method, include_raw=True)
                found.append([part async for part in asked.astream("json", {"run_id": RUN_ID})])
                found[-1].append(await asked.ainvoke("json"))
        assert provider.bodies[0] == provider.bodies[2]
        assert provider.bodies[1] == provider.bodies[3]
        assert provider.bodies[0]["stream"] is True
        assert json_of(found[0]) == json_of(found[1])
        if method != "function_calling":
            assert found[1][-1]["parsed"] == Sum(total=3)
        provider.bodies.clear()


def json_of(parts: list[Any]) -> list[Any]:
    """Parts without the ids of runs."""
    said = []
    for part in parts:
        values = {key: value for key, value in part.items() if key != "raw"}
        if "raw" in part:
            values["raw"] = part["raw"].model_dump(exclude={"id"})
        said.append(values)
    return said


async def test_not_streamed(provider: Provider) -> None:
    """Without a stream the SDK does it all; the answer is the same."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    provider.says(200, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
    async with both(provider) as models:
        said = []
        for model in models:
            model.streaming = False
            said.append((await model.ainvoke("hi", {"run_id": RUN_ID}, logprobs=True)).model_dump())
    assert said[0] == said[1]
    assert said[1]["content"] == "Hello"
    assert "stream" not in provider.bodies[1] or not provider.bodies[1]["stream"]


async def test_the_responses_api(provider: Provider) -> None:
    """The Responses API goes its own way, and arrives."""
    response = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [], "tools": []}
    response |= {"parallel_tool_calls": True, "tool_choice": "auto", "status": "in_progress"}
    delta = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
    said = [
        {"type": "response.created", "response": response, "sequence_number": 0},
        {"type": "response.output_text.delta", "delta": "Hel", **delta},
        {"type": "response.output_text.delta", "delta": "lo", **delta},
        {"type": "response.completed", "response": response | {"status": "completed"}, "sequence_number": 4},
    ]
    provider.streams(*(f"event: {part['type']}\n".encode() + event(part) for part in said))
    async with both(provider) as models:
        for model in models:
            model.use_responses_api = True
        stock, slim = models
        expected = await heard(stock)
        assert not expected[2]
        assert "".join(chunk[0].text for chunk in expected[0]) == "Hello"
        assert await heard(slim) == expected
    assert provider.paths == ["POST /v1/responses HTTP/1.1"] * 2


async def test_logprobs_are_asked_for(provider: Provider) -> None:
    """Log probabilities come with the chunks, and add up, as with the stock model."""
    provider.streams(*CORPUS["logprobs"])
    async with both(provider) as models:
        found = [(await model.bind(logprobs=True).ainvoke("hi")).response_metadata["logprobs"] for model in models]
    assert found[0] == found[1]
    assert found[0]["content"][0]["token"] == "Hi"


async def test_headers_of_the_response(provider: Provider) -> None:
    """Who asks for the response's headers gets them."""
    provider.streams(HELLO, STOP, DONE, headers=["x-request-id: req_1"])
    async with both(provider) as models:
        for model in models:
            model.include_response_headers = True
        stock, slim = models
        [first, *_], _, error = await heard(slim)
        assert not error
        assert first[0].response_metadata["headers"]["x-request-id"] == "req_1"
        assert (await heard(stock))[0][0][0] == first[0]


async def test_it_is_known_under_the_same_name(provider: Provider) -> None:
    """Traces, filters and serialization see the stock class's name and place."""
    async with both(provider) as (stock, slim):
        assert slim.get_name() == stock.get_name() == "ChatOpenAI"
        assert slim.lc_id() == stock.lc_id()
        assert slim._get_ls_params() == stock._get_ls_params()
        assert slim._llm_type == stock._llm_type


async def test_one_made_by_hand() -> None:
    """A graph of one's own makes the lean model as it makes the stock one, and copies of it are lean."""
    model = lean.ChatOpenAI(model="x", api_key=SecretStr("k"))
    for made in (model, model.model_copy(), model.bind(stop=["x"]).bound):
        assert isinstance(made, lean.ChatOpenAI)
        assert isinstance(made.async_client, lean.LeanCompletions)
        assert made.root_async_client is model.root_async_client


async def test_one_that_nobody_closes(provider: Provider) -> None:
    """A graph's own model may be left as it is when the process ends, as with the SDK's client."""
    provider.streams(HELLO, STOP, DONE)
    code = f"""
import asyncio
from threadwire.models.lean import ChatOpenAI
from threadwire.models.transport import open_http_client
model = ChatOpenAI(
    model="x", api_key="x", base_url="http://127.0.0.1:{provider.port}/v1", http_async_client=open_http_client()
)
async def main():
    print("".join([chunk.content async for chunk in model.astream("hi")]))
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE):
        assert await process.communicate() == (b"Hello\n", b"")


@pytest.mark.parametrize(
    ("name", "ours"), [("", True), ("https_proxy", False), ("all_proxy", False), ("no_proxy", True)]
)
def test_proxies_are_the_sdks_business(monkeypatch: pytest.MonkeyPatch, name: str, ours: bool) -> None:
    """Where the environment names a proxy, the SDK's own transport goes through it."""
    for each in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(each, raising=False)
        monkeypatch.delenv(each.upper(), raising=False)
    if name:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    model = open_model(Settings(name="openai:x", base_url="http://provider/v1")).chat_model
    assert isinstance(model, langchain_openai.ChatOpenAI)
    client = model.root_async_client._client
    assert isinstance(client, httpx2.AsyncClient)
    assert isinstance(client._transport, AiohttpTransport) is ours


LINES = st.sampled_from(
    [b"data: 1", b"data:2", b"data", b"data: \xc3\xa9", b": c", b"", b"", b"id: 3", b"id", b"event: e", b"retry: 1"]
)


@given(st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))), st.lists(st.integers(0, 60)))
async def test_any_stream_in_any_pieces(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    """However the lines end and wherever the bytes are cut, events are those of the SDK's decoder."""
    whole = b"".join(line + end for line, end in lines)
    marks = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]

    async def pieces() -> AsyncIterator[bytes]:
        for begin, end in pairwise(marks):
            if begin < end:
                yield whole[begin:end]

    decoder = sse._Decoder(SSEDecoder(), None)
    got = [(event.event, event.data) async for event in decoder.aiter_bytes(pieces())]
    assert got == [(event.event, event.data) async for event in SSEDecoder().aiter_bytes(pieces())]
