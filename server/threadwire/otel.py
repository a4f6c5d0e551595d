"""Traces by OpenTelemetry: a span for each connection, run, model call and tool call. Imported where it is enabled.

A connection goes on the trace that its request names (W3C ``traceparent``), a run is part of its connection's, and
what its graph calls is part of the run. All that OpenTelemetry's own ``OTEL_`` variables say holds: where spans go,
which are kept, what the service is called. Where a tracer provider is set for the whole process already (as
``opentelemetry-instrument`` does), spans go there.

Attributes are ids, names, statuses and counts, under OpenTelemetry's names where it has one; what people and models say
is among them only with ``logs.include_content``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from uuid import UUID

import orjson
from aiohttp import web
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

import threadwire
from threadwire.jsonsafe import json_safe
from threadwire.websocket import CLOSE_CODE

#: How long a server that stops waits for its last spans to be taken.
_FLUSH_SECONDS = 5.0
#: Of a text in an attribute.
_MAX_CHARS = 16_384

Attributes = dict[str, Any]
T = TypeVar("T")


@asynccontextmanager
async def open_traces(*, include_content: bool) -> AsyncIterator[OtelTraces]:
    """What a server traces with, until left; spans that are still here are sent then, for some seconds at most."""
    found = trace.get_tracer_provider()
    if isinstance(found, TracerProvider):
        yield OtelTraces(_tracer(found), include_content=include_content)
        return
    provider = TracerProvider(resource=_resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield OtelTraces(_tracer(provider), include_content=include_content)
    finally:
        await _shut_down(provider)


def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("threadwire", threadwire.__version__)


def _resource() -> Resource:
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    version = {"service.version": threadwire.__version__}
    return Resource.create(version if named else {"service.name": "threadwire", **version})


async def _shut_down(provider: TracerProvider) -> None:
    """In a thread that nobody waits for longer: a collector that cannot be reached must not keep the process."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        provider.shutdown()
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="otel shutdown", daemon=True).start()
    try:
        async with asyncio.timeout(_FLUSH_SECONDS):
            await done.wait()
    except TimeoutError:
        pass


class OtelTraces:
    """``tracing.Traces`` of a tracer."""

    def __init__(self, tracer: Tracer, *, include_content: bool) -> None:
        self._tracer = tracer
        self._include_content = include_content

    async def connection(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[T]], about: dict[str, str | None]
    ) -> T:
        """Handle a request inside a span, which goes on what its headers name."""
        context = propagate.extract(request.headers)
        known = {"threadwire.connection_id": "connection_id", "user.id": "user", "http.route": "route"}
        attributes = _given({name: about[key] for name, key in known.items()})
        attributes["http.request.method"] = request.method
        with self._tracer.start_as_current_span(
            "connection",
            context=context,
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            response = await handler(request)
            if isinstance(response, web.StreamResponse):
                code = response.get(CLOSE_CODE)
                about_it = {"http.response.status_code": response.status, "threadwire.close_code": code}
                span.set_attributes(_given(about_it))
            return response

    @contextmanager
    def run(self, run_id: str, **about: str | None) -> Iterator[_RunTrace]:
        """A run; what it calls is traced by its ``callbacks``."""
        attributes = {f"threadwire.{key}": value for key, value in about.items()}
        with self._tracer.start_as_current_span(
            "run",
            attributes=_given({"threadwire.run_id": run_id, **attributes}),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            calls = _Calls(self._tracer, span, include_content=self._include_content)
            try:
                yield _RunTrace(span, calls)
            finally:
                calls.close()


class _RunTrace:
    def __init__(self, span: Span, calls: _Calls) -> None:
        self._span = span
        self.callbacks = (calls,)

    def ended(self, status: str, reason: str | None, error: str | None, usage: dict[str, int] | None) -> None:
        self._span.set_attributes(
            _given({"threadwire.status": status, "threadwire.reason": reason, "error.type": error, **_usage(usage)})
        )
        if status in ("failed", "lost"):
            self._span.set_status(Status(StatusCode.ERROR))


class _Calls(BaseCallbackHandler):
    """Spans of what one run calls; a model that a tool calls is part of that tool's."""

    run_inline = True

    def __init__(self, tracer: Tracer, run: Span, *, include_content: bool) -> None:
        self._tracer = tracer
        self._run = run
        self._include_content = include_content
        self._spans: dict[UUID, Span] = {}
        self._parents: dict[UUID, UUID | None] = {}

    def close(self) -> None:
        """End what has not ended: its run was cut off."""
        while self._spans:
            _, span = self._spans.popitem()
            span.set_attribute("error.type", "cancelled")
            span.end()

    def on_chain_start(self, *_args: Any, run_id: UUID, parent_run_id: UUID | None = None, **_kwargs: Any) -> None:
        self._parents[run_id] = parent_run_id

    def on_chat_model_start(self, serialized: Any, messages: list[list[BaseMessage]], **told: Any) -> None:  # noqa: ARG002
        said = [{"role": found.type, "content": found.content} for found in messages[0]] if messages else []
        self._model_starts(said, told)

    def on_llm_start(self, serialized: Any, prompts: list[str], **told: Any) -> None:  # noqa: ARG002
        self._model_starts(prompts, told)

    def _model_starts(self, said: Any, told: dict[str, Any]) -> None:
        metadata = told.get("metadata") or {}
        model = metadata.get("ls_model_name")
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": model,
            "gen_ai.provider.name": metadata.get("ls_provider"),
        }
        span = self._start(f"chat {model}" if model else "chat", SpanKind.CLIENT, attributes, told)
        self._say(span, "gen_ai.input.messages", said)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_kwargs: Any) -> None:
        generation: Any = response.generations[0][0] if response.generations and response.generations[0] else None
        message = getattr(generation, "message", None)
        if (span := self._spans.get(run_id)) is not None:
            if isinstance(message, AIMessage):
                span.set_attributes(_given({"gen_ai.response.model": message.response_metadata.get("model_name")}))
                span.set_attributes(_usage(dict(message.usage_metadata or {})))
            self._say(span, "gen_ai.output.messages", getattr(message, "content", getattr(generation, "text", None)))
        self._end(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        self._end(run_id, error)

    def on_tool_start(self, serialized: Any, input_str: str, **told: Any) -> None:
        name = told.get("name") or (serialized or {}).get("name") or "tool"
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": told.get("tool_call_id"),
        }
        span = self._start(f"execute_tool {name}", SpanKind.INTERNAL, attributes, told)
        self._say(span, "gen_ai.tool.call.arguments", told.get("inputs") or input_str)

    def on_tool_end(self, output: Any, *, run_id: UUID, **_kwargs: Any) -> None:
        if (span := self._spans.get(run_id)) is not None:
            self._say(span, "gen_ai.tool.call.result", getattr(output, "content", output))
            if getattr(output, "status", None) == "error":
                span.set_status(Status(StatusCode.ERROR))
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        self._end(run_id, error)

    # --- spans ------------------------------------------------------------------------------------

    def _start(self, name: str, kind: SpanKind, attributes: Attributes, told: dict[str, Any]) -> Span:
        run_id, above = told["run_id"], told.get("parent_run_id")
        self._parents[run_id] = above
        while above is not None and above not in self._spans:
            above = self._parents.get(above)
        parent = self._run if above is None else self._spans[above]
        context = trace.set_span_in_context(parent)
        span = self._tracer.start_span(name, context=context, kind=kind, attributes=_given(attributes))
        self._spans[run_id] = span
        return span

    def _say(self, span: Span, name: str, said: Any) -> None:
        if self._include_content and said is not None:
            text = said if isinstance(said, str) else orjson.dumps(json_safe(said)).decode()
            span.set_attribute(name, text[:_MAX_CHARS])

    def _end(self, run_id: UUID, error: BaseException | None = None) -> None:
        span = self._spans.pop(run_id, None)
        if span is not None:
            if error is not None:
                # Its class alone: what it says may quote what was said to the model.
                span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__qualname__}")
                span.set_status(Status(StatusCode.ERROR))
            span.end()


def _given(attributes: Attributes) -> Attributes:
    """Those that have a value: OpenTelemetry takes no None."""
    return {key: value for key, value in attributes.items() if value is not None}


def _usage(usage: dict[str, Any] | None) -> Attributes:
    usage = usage or {}
    return _given({f"gen_ai.usage.{key}": usage.get(key) for key in ("input_tokens", "output_tokens")})
