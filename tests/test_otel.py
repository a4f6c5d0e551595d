"""Traces: a span for each connection, run, model call and tool call, on the trace that the client named."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from conftest import Serve, Servers
from harness import Provider, Served, Socket, eventually

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
MARKER = "Xq7marker"

_EXPORTER = InMemorySpanExporter()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What servers of this process have told; the provider is the process's, as with ``opentelemetry-instrument``."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(_EXPORTER))
        trace.set_tracer_provider(provider)
    _EXPORTER.clear()
    yield _EXPORTER
    _EXPORTER.clear()


async def attach(served: Served, **headers: str) -> Socket:
    ws = await served.session.ws_connect(f"{served.url}/ws", headers=headers, autoclose=False)
    socket = Socket(ws)
    served.sockets.append(socket)
    assert (await socket.next())["type"] == "ready"
    return socket


async def named(spans: InMemorySpanExporter, *names: str) -> list[ReadableSpan]:
    """The spans in the order they ended, once there is one of each of these names."""

    def there() -> list[ReadableSpan] | None:
        found = list(spans.get_finished_spans())
        return found if set(names) <= {span.name for span in found} else None

    found: list[ReadableSpan] = await eventually(there, f"spans {names}")
    return found


def only(found: list[ReadableSpan], name: str) -> ReadableSpan:
    [span] = [span for span in found if span.name == name]
    return span


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def identity(span: ReadableSpan) -> int:
    return int(span.get_span_context().span_id)  # type: ignore[union-attr]


async def test_a_turn(serve: Serve, provider: Provider, spans: InMemorySpanExporter) -> None:
    """The client's trace goes on in its connection, that in its run, and that in the model and tool calls."""
    served = await serve("graphs:agent", otel={"enabled": True})
    socket = await attach(served, traceparent=TRACEPARENT)
    turn = await socket.turn(f'{MARKER}\n/tool add {{"a": 1, "b": 2}}')
    await socket.ws.close()
    found = await named(spans, "connection", "run", "execute_tool add")
    connection, run, tool = (only(found, name) for name in ("connection", "run", "execute_tool add"))
    models = [span for span in found if span.name.startswith("chat")]
    assert len(models) == 2
    assert len(found) == 5
    assert {format(span.get_span_context().trace_id, "032x") for span in found} == {TRACE}  # type: ignore[union-attr]
    assert format(parent(connection), "016x") == PARENT
    assert connection.kind is SpanKind.SERVER
    assert parent(run) == identity(connection)
    assert {parent(span) for span in (*models, tool)} == {identity(run)}
    told = about(connection)
    assert told["threadwire.close_code"] == 1000
    assert told["user.id"] == "anonymous"
    assert told["http.route"] == "/ws"
    finished = turn[-1]
    assert about(run)["threadwire.run_id"] == finished["run_id"]
    assert about(run)["threadwire.status"] == "completed"
    assert about(run)["gen_ai.usage.output_tokens"] == finished["usage"]["output_tokens"]
    assert sum(about(span)["gen_ai.usage.output_tokens"] for span in models) == finished["usage"]["output_tokens"]
    assert about(models[0])["gen_ai.request.model"] == "simulated"
    [call] = [frame for frame in turn if frame["type"] == "tool_call"]
    assert about(tool)["gen_ai.tool.call.id"] == call["id"]
    assert about(tool)["gen_ai.tool.name"] == "add"
    assert MARKER not in json.dumps([about(span) for span in found])


async def test_content_where_it_is_asked_for(serve: Serve, provider: Provider, spans: InMemorySpanExporter) -> None:
    """With logs.include_content spans have what models and tools were given, and gave."""
    served = await serve("graphs:agent", otel={"enabled": True}, logs={"include_content": True})
    socket = await attach(served)
    await socket.turn(f'/tool add {{"a": 1, "b": 2}}\n{MARKER}')
    found = await named(spans, "run", "execute_tool add")
    first = next(span for span in found if span.name.startswith("chat"))
    assert MARKER in about(first)["gen_ai.input.messages"]
    tool = about(only(found, "execute_tool add"))
    assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"a": 1, "b": 2}
    assert tool["gen_ai.tool.call.result"] == "3"


async def test_a_failing_graph(serve: Serve, spans: InMemorySpanExporter) -> None:
    """A run that fails is an error by its code; what the exception says is not told."""
    served = await serve("metrics_graphs:quoting", otel={"enabled": True})
    socket = await attach(served)
    await socket.turn(MARKER)
    run = only(await named(spans, "run"), "run")
    assert (about(run)["threadwire.status"], about(run)["error.type"]) == ("failed", "graph_error")
    assert run.status.status_code is StatusCode.ERROR
    assert MARKER not in run.to_json()


async def test_a_cancelled_run(serve: Serve, provider: Provider, spans: InMemorySpanExporter) -> None:
    """What was cut off has ended, too, and is no error of the server's."""
    served = await serve("graphs:openai", otel={"enabled": True})
    socket = await attach(served)
    await socket.ask("send", content="/tokens 100000")
    await socket.until("token")
    await socket.ask("cancel")
    await socket.until("run_finished")
    found = await named(spans, "run")
    run, model = only(found, "run"), next(span for span in found if span.name.startswith("chat"))
    assert (about(run)["threadwire.status"], about(run)["threadwire.reason"]) == ("cancelled", "client")
    assert run.status.status_code is StatusCode.UNSET
    assert parent(model) == identity(run)


async def test_runs_without_a_thread(serve: Serve, spans: InMemorySpanExporter) -> None:
    """Each input of a batch is a run on the trace of its request; a stream over HTTP goes on one as well."""
    served = await serve("graphs:echo", otel={"enabled": True})
    headers = {"traceparent": TRACEPARENT}
    for path, body in (("/runs/batch", {"inputs": ["a", "b"]}), ("/threads/t/runs/stream", {"content": "c"})):
        async with served.session.post(f"{served.url}{path}", json=body, headers=headers) as response:
            await response.read()
    found = await named(spans, "connection", "run")
    await eventually(lambda: len(spans.get_finished_spans()) == 5)
    found = list(spans.get_finished_spans())
    assert {format(span.get_span_context().trace_id, "032x") for span in found} == {TRACE}  # type: ignore[union-attr]
    assert sorted(span.name for span in found) == ["connection", "connection", "run", "run", "run"]


async def test_other_requests_have_none(serve: Serve, spans: InMemorySpanExporter) -> None:
    """Health checks and the page are no connections."""
    served = await serve("graphs:echo", otel={"enabled": True})
    for path in ("/healthz", "/metrics", "/", "/nowhere"):
        async with served.session.get(f"{served.url}{path}") as response:
            await response.read()
    assert not spans.get_finished_spans()


async def test_turned_off(serve: Serve, spans: InMemorySpanExporter) -> None:
    """Where it is not enabled, nothing is traced, whatever the process has set up."""
    served = await serve("graphs:echo")
    socket = await attach(served, traceparent=TRACEPARENT)
    await socket.turn()
    await socket.ws.close()
    assert not spans.get_finished_spans()


def test_nothing_is_imported_where_it_is_off() -> None:
    """The server loads nothing that sends traces unless it is enabled (LangSmith loads a part of the SDK)."""
    script = "import sys; import threadwire.app; print([m for m in sys.modules if 'otel' in m or 'otlp' in m])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {name for name in ast.literal_eval(done.stdout) if name.startswith(("threadwire", "opentelemetry.exp"))}


class Collector:
    """A collector of traces that speaks OTLP over HTTP, in the test's loop."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.headers: list[str | None] = []

    async def take(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers.get("x-team"))
        found = ExportTraceServiceRequest.FromString(await request.read())
        for resource in found.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return web.Response(content_type="application/x-protobuf")


async def test_a_process_sends_them(
    servers: Servers, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans go where OpenTelemetry's own variables say, the last of them when the server stops."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=chat")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-chat")
    try:
        server = servers("one")
        await server.start(otel__enabled="true")
        served = server.served(session)
        socket = await attach(served, traceparent=TRACEPARENT)
        await socket.turn()
        await socket.ws.close()
        assert server.process is not None
        server.process.terminate()
        await server.ended()
    finally:
        await runner.cleanup()
    assert {"connection", "run"} <= {span.name for span in collector.spans}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert (collector.services, set(collector.headers)) == ({"our-chat"}, {"chat"})


async def test_a_collector_that_is_not_there(
    servers: Servers, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs a server that stops some seconds and no more, and its clients nothing."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    server = servers("one")
    await server.start(otel__enabled="true")
    socket = await server.served(session).attach("t")
    assert (await socket.turn())[-1]["status"] == "completed"
    await socket.ws.close()
    assert server.process is not None
    server.process.terminate()
    async with asyncio.timeout(60):
        assert await server.ended(60) == 0
