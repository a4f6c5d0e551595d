"""What an operator's Prometheus reads: ``GET /metrics``.

Most numbers are there already (``Tally``, the hub, the journal) and are collected when they are asked for. Labels are
statuses, codes and names of models: never anything that a user said. Knows no sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from math import inf
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import threadwire
from threadwire.hub import Hub
from threadwire.journal import Journal
from threadwire.tally import Histogram, Tally

#: How often the loop is looked at, and a token timed.
PULSE_SECONDS = 0.1
#: Ends that are counted from 0 on, so that the first of each is seen as a rise.
_KNOWN_ENDS = (
    ("completed", ""),
    ("interrupted", "interrupt"),
    ("cancelled", "client"),
    ("cancelled", "disconnect"),
    ("cancelled", "superseded"),
    ("cancelled", "timeout"),
    ("cancelled", "shutdown"),
    ("cancelled", "abandoned"),
    ("failed", "error"),
    ("lost", "crash"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a server's numbers are."""

    tally: Tally
    connections: Sized
    hub: Hub
    journal: Journal
    #: What the database takes on disk.
    storage_bytes: Callable[[], int]


class ServerCollector(Collector):
    """Reads a ``Source`` when it is asked."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is does not depend on the moment, and asking for it all would only cost."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        source, tally = self._source, self._source.tally
        yield InfoMetricFamily("threadwire", "The server.", {"version": threadwire.__version__})
        yield _gauge("threadwire_connections", "WebSockets that are open.", len(source.connections))
        yield _counter(
            "threadwire_connections_closed",
            "WebSockets that have ended, by close code; 1006: cut off without one.",
            ("code",),
            {(str(code),): count for code, count in tally.closed.items()},
        )
        yield from self._threads()
        yield _counter(
            "threadwire_runs",
            "Runs that have ended.",
            ("status", "reason"),
            {**dict.fromkeys(_KNOWN_ENDS, 0), **dict(tally.runs)},
        )
        yield _counter("threadwire_tokens", "Tokens, as models count them.", ("model", "direction"), dict(tally.tokens))
        yield from self._sums()
        yield from self._times()
        yield _gauge("threadwire_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))

    def _threads(self) -> Iterator[Metric]:
        threads = list(self._source.hub)
        depths = [thread.depth for thread in threads]
        active, queued, commands = (sum(column) for column in zip(*depths, strict=True)) if depths else (0, 0, 0)
        yield _gauge("threadwire_threads_live", "Threads in memory.", len(threads))
        yield _gauge("threadwire_runs_active", "Runs on threads that are going on.", active)
        queues = GaugeMetricFamily(
            "threadwire_queue_length",
            "What waits: turns behind others on their thread, commands to be taken in, threads to be journaled.",
            labels=("queue",),
        )
        waiting = {"turns": queued, "commands": commands, "journal": self._source.journal.waiting}
        for name, length in waiting.items():
            queues.add_metric((name,), length)
        yield queues
        held = sum(thread.log.bytes for thread in threads)
        yield _gauge("threadwire_log_bytes", "What the logs of live threads hold in memory.", held)

    def _sums(self) -> Iterator[Metric]:
        tally = self._source.tally
        for name, about, value in (
            ("threadwire_sent_bytes", "Sent to WebSockets, without their framing.", tally.sent_bytes),
            ("threadwire_received_bytes", "Received from WebSockets, without their framing.", tally.received_bytes),
            ("threadwire_gaps", "Times that frames were lost to a reader, and it was told.", tally.gaps),
            ("threadwire_journal_bytes", "Frames written to the journal.", tally.journal_bytes),
            ("threadwire_abandoned_runs", "Runs that would not stop and were given up.", tally.abandoned),
        ):
            yield CounterMetricFamily(name, about, value=value)
        yield _gauge("threadwire_abandoned_runs_alive", "Of these, the ones that still go on.", tally.haunting)
        yield _gauge("threadwire_storage_bytes", "The database's files on disk.", self._source.storage_bytes())

    def _times(self) -> Iterator[Metric]:
        tally = self._source.tally
        for name, about, found in (
            ("first_token", "From a run's start to its first token.", tally.first_token),
            ("token_delay", "What a token takes from the model to a socket, of some.", tally.probe.delays),
            ("time_to_stopped", "From a run's cancellation to when all of it has ended.", tally.stopped),
            ("checkpoint_write", "Writes of a checkpoint, or of what a step wrote.", tally.checkpoint_write),
            ("journal_write", "Writes of the journal, all threads together.", tally.journal_write),
            ("loop_lag", "How late the event loop is, ten times a second.", tally.loop_lag),
        ):
            yield _histogram(f"threadwire_{name}_seconds", about, found)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _counter(name: str, about: str, labels: tuple[str, ...], values: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, about: str, found: Histogram) -> Metric:
    buckets = [("+Inf" if bound == inf else str(bound), count) for bound, count in found.buckets()]
    return HistogramMetricFamily(name, about, buckets=buckets, sum_value=found.sum)


class Pulse:
    """Sees how late the loop is, ten times a second, and has one more token timed; ``start`` and ``stop`` it."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """From now on."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + PULSE_SECONDS
        self._handle = loop.call_at(self._due, self._beat)

    def stop(self) -> None:
        """No more."""
        if self._handle is not None:
            self._handle.cancel()

    def _beat(self) -> None:
        self._tally.loop_lag.add(max(0.0, asyncio.get_running_loop().time() - self._due))
        self._tally.probe.arm()
        self.start()


class MetricsRoutes:
    """The handler; ``collect_from`` when there is something to collect from."""

    def __init__(self) -> None:
        # Not the library's global one: a process may have several servers, as tests do.
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def collect_from(self, source: Source) -> None:
        """Tell of this server."""
        self._registry.register(ServerCollector(source))

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register it."""
        router.add_get("/metrics", self.metrics)

    async def metrics(self, request: web.Request) -> web.Response:
        """The numbers, as Prometheus's text or as OpenMetrics."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})
