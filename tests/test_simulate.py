"""The stand-in provider, met by the real ``ChatOpenAI`` over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from model_kit import collect
from threadwire.errors import StartupError
from threadwire.models.script import words
from threadwire.simulate import KEPT_REQUESTS, start_simulator

DEADLINE = 60.0


class Provider:
    """A provider at a port, seen from outside: its counters, and models that ask it."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._http = http
        self._models: list[ChatOpenAI] = []

    def model(self, **options: Any) -> ChatOpenAI:
        defaults: dict[str, Any] = {
            "streaming": True,
            "stream_usage": True,
            "max_retries": 0,
            "stream_chunk_timeout": None,
        }
        # The one it would take is kept by its base_url, closed as it is, and found by a later test at the same port.
        defaults["http_async_client"] = openai.DefaultAsyncHttpxClient()
        model = ChatOpenAI(model="any", base_url=f"{self.url}/v1", api_key=SecretStr("none"), **(defaults | options))
        self._models.append(model)
        return model

    async def get(self, path: str) -> Any:
        async with self._http.get(self.url + path) as response:
            return await response.json()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        async with self._http.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def stats(self) -> dict[str, int]:
        stats: dict[str, int] = await self.get("/stats")
        return stats

    async def until(self, **expected: int) -> dict[str, int]:
        """Wait until the counters are as given."""

        async def reached() -> bool:
            return expected.items() <= (await self.stats()).items()

        await eventually(reached, lambda: f"{expected} of the provider")
        return await self.stats()

    async def close(self) -> None:
        for model in self._models:
            await model.root_async_client.close()
            model.root_client.close()


async def eventually(condition: Callable[[], Awaitable[bool]], what: Callable[[], str]) -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while not await condition():  # noqa: ASYNC110 -- another process's state sets no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"within {DEADLINE} s there was no {what()}")


@asynccontextmanager
async def provide(**options: Any) -> AsyncIterator[Provider]:
    runner, port = await start_simulator(**({"tokens_per_second": 0, "first_token_ms": 0} | options))
    try:
        async with aiohttp.ClientSession() as http:
            provider = Provider(port, http)
            yield provider
            await provider.close()
    finally:
        await runner.cleanup()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with provide() as provider:
        yield provider


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def test_tokens_come_one_by_one(provider: Provider) -> None:
    """A token is a chunk, joined they are the text, usage counts them, and the request is over."""
    chunks, whole = await collect(provider.model(), "/tokens 300")
    assert [chunk.text for chunk in chunks if chunk.text] == list(words(300, "/tokens 300"))
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 300
    assert whole.usage_metadata["input_tokens"] == 6
    assert whole.response_metadata["finish_reason"] == "stop"
    assert await provider.until(open=0) == {"open": 0, "finished": 1, "aborted": 0, "peak": 1, "total": 1}


@pytest.mark.parametrize("usage", [True, False])
async def test_the_events_of_an_answer(provider: Provider, usage: bool) -> None:
    """On the wire: the role once, each token, the finish reason, usage if it was asked for, and [DONE]."""
    asked = {"model": "any", "stream": True, "messages": [{"role": "user", "content": "/tokens 100"}]}
    async with aiohttp.ClientSession() as http:
        body = asked | ({"stream_options": {"include_usage": True}} if usage else {})
        async with http.post(f"{provider.url}/v1/chat/completions", json=body) as response:
            assert response.content_type == "text/event-stream"
            *events, done, nothing = (await response.text()).split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", "any")}
    counted = [chunk["usage"]["total_tokens"] for chunk in chunks if not chunk["choices"]]
    assert counted == ([106] if usage else [])
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        *({"content": word} for word in words(100, "/tokens 100")),
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 101 + ["stop"]


async def test_a_rate_and_a_delay() -> None:
    """With a rate and a first-token delay the same tokens come, one a chunk."""
    async with provide(tokens_per_second=2000, first_token_ms=5, tokens=60) as provider:
        chunks, _ = await collect(provider.model(), "hi")
        assert [chunk.text for chunk in chunks if chunk.text] == list(words(60, "hi"))


async def test_any_text_survives(provider: Provider) -> None:
    """Quotes, line breaks and every plane of Unicode come back as they were said."""
    text = 'He said: "no\\yes"\n\t\u2028 \x01 \N{GRINNING FACE}\N{COMBINING ACUTE ACCENT} </script>'
    _, whole = await collect(provider.model(), text)
    assert whole.text.endswith(text)


async def test_an_empty_answer(provider: Provider) -> None:
    """An answer of no tokens ends properly."""
    _, whole = await collect(provider.model(), "/tokens 0")
    assert whole.text == ""
    assert whole.response_metadata["finish_reason"] == "stop"


async def test_without_streaming(provider: Provider) -> None:
    """Asked for it in one piece, it gives the same answer, with the same usage and calls."""
    model = provider.model(streaming=False, disable_streaming=True)
    answer = await model.ainvoke("/tokens 20")
    assert answer.text == "".join(words(20, "/tokens 20"))
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 20
    called = await model.bind_tools([add]).ainvoke('/tool add {"a": 1, "b": 2}')
    assert called.tool_calls[0]["args"] == {"a": 1, "b": 2}
    assert (await provider.get("/requests"))[0]["stream"] is not True


async def test_a_limit_cuts_the_answer(provider: Provider) -> None:
    """The request's max_completion_tokens is kept, and the finish reason says so."""
    _, whole = await collect(provider.model(max_completion_tokens=3), "/tokens 20")
    assert whole.text == "".join(words(3, "/tokens 20"))
    assert whole.response_metadata["finish_reason"] == "length"


async def test_tool_calls(provider: Provider) -> None:
    """Parallel calls arrive whole through bind_tools, and their results are in the answer after them."""
    model = provider.model().bind_tools([add])
    asked = HumanMessage('/tool add {"a": 1, "b": 2}\n/tool add {"a": 1, "b": 2}')
    chunks, called = await collect(model, [asked])
    assert len([chunk for chunk in chunks if chunk.tool_call_chunks]) > 4
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("add", {"a": 1, "b": 2})] * 2
    first, second = (call["id"] for call in called.tool_calls)
    assert first
    assert second
    assert first != second
    assert called.response_metadata["finish_reason"] == "tool_calls"
    results = [ToolMessage("three", tool_call_id=first), ToolMessage("drei", tool_call_id=second)]
    _, answer = await collect(model, [asked, called, *results])
    assert answer.text == "The tool said: three\ndrei"


async def test_arguments_that_are_no_json(provider: Provider) -> None:
    """Broken arguments go through as they are."""
    _, called = await collect(provider.model().bind_tools([add]), "/tool add not-json")
    assert called.invalid_tool_calls[0]["args"] == "not-json"


async def test_reasoning(provider: Provider) -> None:
    """Reasoning is streamed in reasoning_content, and counted."""
    client = provider.model().root_async_client
    stream = await client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "/reasoning Let me think.\n/tokens 2"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = [getattr(delta, "reasoning_content", None) for delta in deltas]
    assert "".join(thought for thought in thoughts if thought) == "Let me think."
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"first_token_ms": 3_600_000}, "hi"),
        ({}, "/silent"),
        ({}, "/tokens 9\n/silent 3"),
        ({"tokens_per_second": 0.001}, "/tokens 9"),
        ({}, "/tokens 1000000"),
    ],
    ids=["before the first token", "silent", "silent in the middle", "between tokens", "at full speed"],
)
async def test_who_leaves_is_noticed(options: dict[str, Any], text: str) -> None:
    """A client that cancels is counted as aborted at once, whatever the answer was waiting for."""
    async with provide(**options) as provider:
        begun = asyncio.create_task(collect(provider.model(), text))
        await provider.until(open=1)
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        stats = await provider.until(open=0)
        assert stats == {"open": 0, "finished": 0, "aborted": 1, "peak": 1, "total": 1}


async def test_who_breaks_off_reading_is_noticed(provider: Provider) -> None:
    """Closing the stream after a few tokens ends the request."""
    stream = provider.model().astream("/tokens 9\n/silent 3")
    seen = [(await anext(stream)).text for _ in range(4)]
    assert "".join(seen) == "".join(words(3, "/tokens 9\n/silent 3"))
    await stream.aclose()  # type: ignore[attr-defined]
    assert (await provider.until(open=0))["aborted"] == 1


async def test_a_vanished_socket_is_noticed(provider: Provider) -> None:
    """A reset of the connection without a word is an abort as well."""
    body = b'{"model":"any","messages":[{"role":"user","content":"/silent"}]}'
    host, port = "127.0.0.1", int(provider.url.rsplit(":", 1)[1])
    _, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await provider.until(open=1)
    writer.transport.abort()
    assert (await provider.until(open=0))["aborted"] == 1


async def test_the_peak_counts_who_was_there_at_once(provider: Provider) -> None:
    """Ten open requests are a peak of ten, which stays when they are gone and until the reset."""
    tasks = [asyncio.create_task(provider.model().ainvoke("/silent")) for _ in range(10)]
    await provider.until(open=10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await provider.until(open=0, aborted=10, peak=10, total=10)
    await provider.post("/reset", {})
    assert await provider.stats() == {"open": 0, "finished": 0, "aborted": 0, "peak": 0, "total": 0}
    assert await provider.get("/requests") == []


@pytest.mark.parametrize(
    ("line", "error", "code"),
    [
        ("/error", openai.InternalServerError, None),
        ("/status 429", openai.RateLimitError, "rate_limit_exceeded"),
        ("/status 401", openai.AuthenticationError, "invalid_api_key"),
        ("/status 403", openai.PermissionDeniedError, None),
        ("/status 404", openai.NotFoundError, None),
        ("/status 400 context_length_exceeded", openai.BadRequestError, "context_length_exceeded"),
    ],
)
async def test_failures_are_the_sdks_own(
    provider: Provider, line: str, error: type[openai.APIStatusError], code: str | None
) -> None:
    """A failure arrives as the SDK's exception for it, with OpenAI's code; the request counts as finished."""
    with pytest.raises(error) as caught:
        await provider.model().ainvoke(line)
    assert caught.value.code == code
    assert caught.value.response.headers.get("Retry-After") == ("1" if line == "/status 429" else None)
    assert await provider.until(open=0) == {"open": 0, "finished": 1, "aborted": 0, "peak": 1, "total": 1}


@pytest.mark.parametrize("after", [0, 3])
async def test_a_cut_connection(provider: Provider, after: int) -> None:
    """/cut N breaks the connection after exactly N tokens: an error for the client, no proper end."""
    got: list[str] = []

    async def read() -> None:
        async for chunk in provider.model().astream(f"/tokens 9\n/cut {after}"):
            got.append(chunk.text)  # noqa: PERF401 -- what came before the error counts

    with pytest.raises(Exception, match=r"(?i)connection|incomplete|disconnected"):
        await read()
    assert [text for text in got if text] == list(words(after, f"/tokens 9\n/cut {after}"))
    assert await provider.until(open=0) == {"open": 0, "finished": 1, "aborted": 0, "peak": 1, "total": 1}


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"model": "any"},
        {"model": 5, "messages": []},
        {"model": "any", "messages": ["hi"]},
        {"model": "any", "messages": [{"role": "user", "content": 5}]},
        {"model": "any", "messages": [], "tools": [5]},
    ],
)
async def test_a_bad_request_is_refused(provider: Provider, body: Any) -> None:
    """What is no chat completion request is answered with 400 in OpenAI's error shape."""
    status, answer = await provider.post("/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert (await provider.until(open=0))["finished"] == 1


async def test_requests_are_kept(provider: Provider) -> None:
    """What a provider was told can be read afterwards, whole and in order; of many requests, the last 100."""
    model = provider.model()
    await model.ainvoke([HumanMessage("one"), AIMessage("two"), HumanMessage([{"type": "text", "text": "3"}])])
    (body,) = await provider.get("/requests")
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["stream_options"] == {"include_usage": True}
    for number in range(KEPT_REQUESTS):
        await provider.post("/v1/chat/completions", {"model": "any", "messages": [], "n": number})
    assert [body["n"] for body in await provider.get("/requests")] == list(range(KEPT_REQUESTS))


async def test_a_long_conversation(provider: Provider) -> None:
    """A request of several megabytes is taken."""
    answer = await provider.model().ainvoke([HumanMessage("x" * 4_000_000), HumanMessage("/tokens 1")])
    assert answer.text == words(1, "/tokens 1")[0]


async def test_models_are_listed(provider: Provider) -> None:
    """The SDK can list what there is."""
    models = await provider.model().root_async_client.models.list()
    assert [model.id for model in models.data] == ["simulated"]


async def test_a_port_in_use(provider: Provider) -> None:
    """An address that is taken is a StartupError that names it."""
    port = int(provider.url.rsplit(":", 1)[1])
    with pytest.raises(StartupError, match=f"127.0.0.1:{port}"):
        await start_simulator(port=port)


@asynccontextmanager
async def spawn(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The real process, and the first line it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "threadwire.simulate", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            line = await process.stdout.readline()
        yield process, line.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_the_process(signum: signal.Signals) -> None:
    """It prints where it is once it listens, serves, and stops cleanly on a signal, with requests open."""
    arguments = ["--port", "0", "--tokens-per-second", "0", "--first-token-ms", "0", "--tokens", "25"]
    async with spawn(*arguments) as (process, line), aiohttp.ClientSession() as http:
        assert line.startswith("simulated provider on http://127.0.0.1:")
        provider = Provider(int(line.rsplit(":", 1)[1].removesuffix("/v1\n")), http)
        assert (await provider.model().ainvoke("hi")).text == "".join(words(25, "hi"))
        silent = asyncio.create_task(provider.model().ainvoke("/silent"))
        await provider.until(open=1)
        process.send_signal(signum)
        async with asyncio.timeout(DEADLINE):
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        with pytest.raises(openai.APIConnectionError):
            await silent
        await provider.close()


async def test_the_process_without_its_port() -> None:
    """With its port in use, it says so in one line and exits with 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with spawn("--port", str(port)) as (process, line):
            _, errors = await process.communicate()
            assert (process.returncode, line) == (2, "")
            assert errors.decode().count("\n") == 1
            assert f"127.0.0.1:{port}" in errors.decode()


async def test_it_is_light() -> None:
    """The stand-in loads neither LangChain nor the OpenAI SDK: it starts fast and has the core to itself."""
    check = "import sys, threadwire.simulate; print([m for m in sys.modules if m.startswith(('lang', 'openai'))])"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", check, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert output.decode().strip() == "[]"
