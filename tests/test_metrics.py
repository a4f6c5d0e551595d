"""``GET /metrics``: each number moves for the reason it should, and no other."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

import cut_graphs
from conftest import Serve, Servers
from gated_graphs import GATE
from harness import Served, eventually
from metrics_graphs import BUSY_SECONDS
from threadwire import cli, dashboard
from threadwire.connector import OBSERVED
from threadwire.load.watch import Watch
from threadwire.tally import MAX_MODELS, OTHER_MODELS, Histogram, Probe, Tally

ROOT = Path(__file__).parent.parent
Numbers = dict[str, float]


async def scrape(served: Served, url: str | None = None, **headers: str) -> Numbers:
    """All samples, as ``name{label="value",...}``, labels in the order of their names."""
    async with served.session.get(url or f"{served.url}/metrics", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        text = await response.text()
    found: Numbers = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def of_runs(found: Numbers) -> dict[tuple[str, str], float]:
    """The runs that have ended, by status and reason."""
    pattern = re.compile(r'threadwire_runs_total\{reason="(\w*)",status="(\w+)"\}')
    return {(match[2], match[1]): found[name] for name in found if (match := pattern.fullmatch(name)) and found[name]}


def risen(before: Numbers, after: Numbers) -> set[str]:
    """The names of what is more than before."""
    return {name.partition("{")[0] for name, value in after.items() if value > before.get(name, 0)}


async def test_a_whole_turn(serve: Serve) -> None:
    """One turn is one run, one first token, the tokens that the model counted, and nothing that did not happen."""
    served = await serve()
    socket = await served.attach("t")
    before = await scrape(served)
    turn = await socket.turn("/tokens 12")
    after = await scrape(served)
    assert of_runs(after) == {("completed", ""): 1}
    assert after["threadwire_first_token_seconds_count"] == 1
    usage = turn[-1]["usage"]
    tokens = {
        "input": after['threadwire_tokens_total{direction="input",model="simulated"}'],
        "output": after['threadwire_tokens_total{direction="output",model="simulated"}'],
    }
    assert tokens == {"input": usage["input_tokens"], "output": usage["output_tokens"]}
    moved = risen(before, after)
    assert moved >= {
        "threadwire_sent_bytes_total",
        "threadwire_received_bytes_total",
        "threadwire_journal_bytes_total",
        "threadwire_journal_write_seconds_count",
        "threadwire_checkpoint_write_seconds_count",
        "threadwire_log_bytes",
        "threadwire_storage_bytes",
    }
    for name in ("gaps_total", "abandoned_runs_total", "abandoned_runs_alive", "time_to_stopped_seconds_count"):
        assert after[f"threadwire_{name}"] == 0
    sent = sum(len(raw) for raw in socket.raw)
    assert after["threadwire_sent_bytes_total"] == sent


async def test_connections_and_threads(serve: Serve) -> None:
    """Open sockets and live threads (from their first command on) are told as they are now; ends by their code."""
    served = await serve("graphs:echo")
    one, two = await served.attach("t"), await served.attach("t")
    await served.attach("u")
    found = await scrape(served)
    assert (found["threadwire_connections"], found["threadwire_threads_live"]) == (3, 0)
    await one.turn("hello")
    assert (await scrape(served))["threadwire_threads_live"] == 1
    await one.ws.close()
    await two.vanish()

    async def both_gone() -> bool:
        return (await scrape(served))["threadwire_connections"] == 1

    await eventually(both_gone)
    found = await scrape(served)
    closed = {name: value for name, value in found.items() if name.startswith("threadwire_connections_closed")}
    assert closed == {
        'threadwire_connections_closed_total{code="1000"}': 1,
        'threadwire_connections_closed_total{code="1006"}': 1,
    }


async def test_a_cancelled_run(serve: Serve) -> None:
    """A run that is cancelled counts as that, once, with its reason and how long it took to stop."""
    served = await serve(model={"simulated": {"tokens_per_second": 20, "tokens": 10_000}})
    socket = await served.attach("t")
    await socket.ask("send", content="go on")
    await socket.until("token")
    assert (await scrape(served))["threadwire_runs_active"] == 1
    await socket.ask("cancel")
    await socket.until("run_finished")
    found = await scrape(served)
    assert of_runs(found) == {("cancelled", "client"): 1}
    assert found["threadwire_time_to_stopped_seconds_count"] == 1
    assert found["threadwire_runs_active"] == 0


async def test_a_failed_run(serve: Serve) -> None:
    """A run that fails counts as that; one without a thread, too."""
    served = await serve("metrics_graphs:quoting")
    socket = await served.attach("t")
    assert (await socket.turn("x"))[-1]["status"] == "failed"
    await socket.ask("batch", inputs=["a", "b"], max_concurrency=1)
    await socket.until("run_finished")
    assert of_runs(await scrape(served)) == {("failed", "error"): 1, ("completed", ""): 1}


async def test_a_queue(serve: Serve) -> None:
    """Turns that wait for another are told as long as they wait."""
    GATE.close()
    served = await serve("gated_graphs:gated")
    socket = await served.attach("t")
    await socket.ask("send", content="say")
    await eventually(lambda: GATE.waiting)
    await socket.ask("send", content="say")
    await socket.ask("send", content="say")
    name = 'threadwire_queue_length{queue="turns"}'
    assert (await scrape(served))[name] == 2
    GATE.open()
    for _ in range(3):
        await socket.until("run_finished")
    found = await scrape(served)
    assert (found[name], of_runs(found)) == (0, {("completed", ""): 3})
    GATE.close()


async def test_an_abandoned_run(serve: Serve) -> None:
    """A run that would not stop is counted, and told as alive until its task has ended."""
    cut_graphs.gates.reset()
    served = await serve("cut_graphs:stubborn", runs={"cancel_deadline_seconds": 0.2})
    socket = await served.attach("t")
    await socket.ask("send", content="stay")
    await eventually(lambda: "never" in cut_graphs.gates.reached)
    await socket.ask("cancel")
    await socket.until("run_finished")
    found = await scrape(served)
    assert of_runs(found) == {("cancelled", "abandoned"): 1}
    assert (found["threadwire_abandoned_runs_total"], found["threadwire_abandoned_runs_alive"]) == (1, 1)
    assert found["threadwire_time_to_stopped_seconds_count"] == 0
    cut_graphs.gates.open("stubborn")

    async def gone() -> bool:
        return (await scrape(served))["threadwire_abandoned_runs_alive"] == 0

    await eventually(gone)
    assert (await scrape(served))["threadwire_abandoned_runs_total"] == 1


async def test_a_gap(serve: Serve) -> None:
    """A reader that is told of a gap is counted, once."""
    served = await serve("graphs:echo")
    first = await served.attach("t")
    await first.turn()
    assert (await scrape(served))["threadwire_gaps_total"] == 0
    second = await served.connect("t", after=1, epoch="another")
    await second.until("gap")
    assert (await scrape(served))["threadwire_gaps_total"] == 1


async def test_token_delay(serve: Serve) -> None:
    """Some tokens are timed on their way through the server; where there is no reader, none is."""
    served = await serve(model={"simulated": {"tokens_per_second": 100, "tokens": 100_000}})
    socket = await served.attach("t", on_disconnect="continue")
    await socket.ask("send", content="go on")

    async def timed() -> bool:
        return (await scrape(served))["threadwire_token_delay_seconds_count"] >= 3

    async def read_on() -> bool:
        for _ in range(20):
            await socket.next()
        return await timed()

    await eventually(read_on)
    found = await scrape(served)
    # Far from what a person would see: it is the server's own share.
    assert found["threadwire_token_delay_seconds_sum"] < 30 * found["threadwire_token_delay_seconds_count"]
    await socket.ask("cancel")
    await socket.until("run_finished")


def test_the_probe_times_one_token_to_the_socket_that_took_it() -> None:
    """The token that was armed for, up to the reader that has passed its frame; hidden ones are dropped."""
    probe, chunk = Probe(), object()
    assert not probe.armed
    probe.arm()
    probe.came(chunk)
    assert (probe.armed, probe.chunk) == (False, chunk)
    probe.told("t", 7)
    probe.passed("u", 9)
    probe.passed("t", 6)
    assert probe.delays.buckets()[-1][1] == 0
    probe.passed("t", 7)
    probe.passed("t", 8)
    assert probe.delays.buckets()[-1][1] == 1
    probe.arm()
    probe.came(chunk)
    probe.told("t", 0)
    assert not probe.under_way
    # One that is still under way when the next is armed is timed all the same.
    probe.arm()
    probe.came(chunk)
    probe.told("t", 10)
    probe.arm()
    probe.passed("t", 10)
    assert probe.delays.buckets()[-1][1] == 2


async def test_loop_lag(serve: Serve) -> None:
    """A node that keeps the loop to itself is seen."""
    served = await serve("metrics_graphs:busy")
    socket = await served.attach("t")
    await socket.turn()

    async def seen() -> bool:
        # A beat comes at most a tenth of a second into the node.
        return (await scrape(served))["threadwire_loop_lag_seconds_sum"] >= BUSY_SECONDS / 2

    await eventually(seen)


async def test_a_lost_run_and_the_process(servers: Servers, session: aiohttp.ClientSession) -> None:
    """The run of a server that was killed is counted as lost by the next; cpu and memory are the process's."""
    slow = {"model__simulated__tokens_per_second": "50", "model__simulated__tokens": "10000"}
    first = servers("first")
    await first.start(**slow)
    socket = await first.served(session).attach("t")
    await socket.ask("send", content="go on")
    await socket.until("token")
    first.signal(signal.SIGKILL)
    await first.ended()
    second = servers("second")
    await second.start(**slow)
    served = second.served(session)

    async def lost() -> bool:
        return of_runs(await scrape(served)) == {("lost", "crash"): 1}

    await eventually(lost)
    found = await scrape(served)
    assert found["process_resident_memory_bytes"] > 1e7
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_open_fds"] > 3
    watch = Watch(served.url.replace("http", "ws") + "/ws", None)
    await watch.open()
    row = await watch.look()
    await watch.close()
    assert row["server_memory_bytes"] > 1e7
    assert row["server_descriptors"] > 3
    assert row["server_tasks"] >= 1


async def test_a_port_of_its_own(serve: Serve) -> None:
    """With server.metrics_port it is there and not at the server's own port; the load kit is told where."""
    served = await serve("graphs:echo", server={"metrics_port": 0})
    url = served.server.app[OBSERVED].metrics_url
    assert url is not None
    assert (await scrape(served, url))["threadwire_connections"] == 0
    watch = Watch(f"{served.url}/ws", None, metrics=url)
    await watch.open()
    assert (await watch.look())["server_memory_bytes"] > 1e7
    await watch.close()
    async with served.session.get(f"{served.url}/metrics") as response:
        assert response.status == 404
    async with served.session.get(url.replace("/metrics", "/ws")) as response:
        assert response.status == 404


async def test_its_own_port_is_a_door_as_the_other(serve: Serve) -> None:
    """Who is silent is cut, the Host must be this machine's, and the answers' headers are those of any other."""
    served = await serve("graphs:echo", server={"metrics_port": 0, "handshake_timeout_seconds": 0.5})
    url = served.server.app[OBSERVED].metrics_url
    assert url is not None
    for path, status in (("/metrics", 200), ("/nothing", 404)):
        async with served.session.get(url.replace("/metrics", path)) as response:
            assert response.status == status
            names = ("Server", "X-Content-Type-Options", "Cache-Control")
            assert [response.headers.get(name) for name in names] == ["threadwire", "nosniff", "no-store"]
    async with served.session.get(url, headers={"Host": "evil.example"}) as response:
        assert response.status == 403
    parts = urlsplit(url)
    for said in (b"", b"GET /metrics HTTP/1.1\r\nHost: 127"):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(said)
        async with asyncio.timeout(30):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


async def test_openmetrics(serve: Serve) -> None:
    """Who asks for OpenMetrics gets it."""
    served = await serve("graphs:echo")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with served.session.get(f"{served.url}/metrics", headers=accept) as response:
        assert response.content_type == "application/openmetrics-text"
        assert (await response.text()).endswith("# EOF\n")


async def test_nothing_that_a_user_said(serve: Serve) -> None:
    """Neither texts nor names of users' making are in it, whatever becomes of the run."""
    marker = "Xq7marker"
    served = await serve("metrics_graphs:quoting")
    socket = await served.attach(f"thread-{marker}")
    await socket.turn(marker, message_id=f"message-{marker}")
    await socket.ask(f"kind-{marker}", field=marker)
    async with served.session.get(f"{served.url}/metrics") as response:
        text = await response.text()
    assert "failed" in text
    assert marker not in text


async def test_each_server_has_its_own(serve: Serve, tmp_path: Path) -> None:
    """Two servers in one process count apart."""
    one, two = await serve("graphs:echo"), await serve("graphs:echo", database=tmp_path / "two.db")
    await (await one.attach("t")).turn()
    assert of_runs(await scrape(one)) == {("completed", ""): 1}
    assert of_runs(await scrape(two)) == {}


def test_models_are_bounded() -> None:
    """A graph that names its models freely makes no metric for each."""
    tally = Tally()
    for number in range(MAX_MODELS + 10):
        tally.used({f"model-{number}": (1, 2)})
    tally.used({"model-0": (1, 2)})
    assert len(tally.tokens) == 2 * (MAX_MODELS + 1)
    assert (tally.tokens[OTHER_MODELS, "input"], tally.tokens[OTHER_MODELS, "output"]) == (10, 20)
    assert tally.tokens["model-0", "input"] == 2


def test_histogram() -> None:
    """A bound counts what is at most that; the last counts all."""
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 9.0):
        histogram.add(seconds)
    assert histogram.buckets() == [(1.0, 2), (2.0, 3), (float("inf"), 4)]
    assert histogram.sum == 12


# --- what is said of them -------------------------------------------------------------------------


def base(sample: str) -> str:
    """The metric of a sample."""
    return re.sub(r"_(bucket|sum|count)$", "", sample.partition("{")[0])


@pytest.fixture
async def names(serve: Serve) -> set[str]:
    """Our own metrics, as a server that has had a turn and a close tells them."""
    served = await serve()
    socket = await served.attach("t")
    await socket.turn("hi")
    await socket.ws.close()

    async def closed() -> bool:
        return any(name.startswith("threadwire_connections_closed") for name in await scrape(served))

    await eventually(closed)
    return {base(name) for name in await scrape(served) if name.startswith("threadwire_")}


def test_every_metric_is_described(names: set[str]) -> None:
    """docs/operations.md has a row for each, and no other; and each name says its unit, or what it counts."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(threadwire_\w+)`", text, re.MULTILINE))
    assert rows == names


def test_the_dashboard_asks_for_what_there_is(names: set[str]) -> None:
    """Each metric that a panel asks for is in a real scrape, and each of ours is in a panel."""
    panels = [panel for panel in dashboard.dashboard()["panels"] if "targets" in panel]
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    used = {base(name) for name in re.findall(r"threadwire_\w+", asked)}
    assert used <= names
    assert names - used <= {"threadwire_info"}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_dashboard_in_the_docs_is_the_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/grafana.json is what `threadwire dashboard` prints."""
    kept = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    assert kept == dashboard.dashboard()
    assert cli.main(["dashboard"]) == 0
    assert json.loads(capsys.readouterr().out) == kept
