"""What a load run is made of, part by part: shares, scripts, percentiles, thresholds, growth."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from threadwire.arguments import share
from threadwire.errors import StartupError
from threadwire.load import figures
from threadwire.load.arguments import duration
from threadwire.load.compare import change
from threadwire.load.connection import PORTS_PER_ADDRESS, source_address
from threadwire.load.growth import fit
from threadwire.load.ledger import Ledger
from threadwire.load.options import Options, behaviour_of
from threadwire.load.plots import MAX_POINTS, join_rows
from threadwire.load.recorder import Recorder
from threadwire.load.scenario import of_message, read_script
from threadwire.load.thresholds import read_threshold
from threadwire.load.violations import KEPT_EXPLANATIONS
from threadwire.load.watch import of_metrics, of_process


@pytest.mark.parametrize("seed", [1, 2, 99])
def test_shares_are_dealt_evenly(seed: int) -> None:
    """Of any hundred sessions in a row, each behaviour has its share, give or take one; the rest are plain."""
    shares = {"cancel": 0.1, "vanish": 0.25, "idle": 0.05}
    for start in (0, 7, 1000):
        dealt = Counter(behaviour_of(number, shares, seed) for number in range(start, start + 100))
        for name, wanted in {**shares, "plain": 0.6}.items():
            assert abs(dealt[name] - wanted * 100) <= 2, dealt
    assert {behaviour_of(number, {"idle": 1.0}, seed) for number in range(50)} == {"idle"}
    assert {behaviour_of(number, {}, seed) for number in range(50)} == {"plain"}


def test_options_survive_json(tmp_path: Path) -> None:
    """What a worker is told is what was meant, scripts and all."""
    script = tmp_path / "script.yaml"
    script.write_text("conversations: [{weight: 2, turns: [{say: hi}, {respond: {ok: true}, think_seconds: 0}]}]")
    options = Options(
        "ws://x/ws", read_script(script), shares={"idle": 0.5}, credentials=("a",), sources=("127.0.0.2",)
    )
    assert Options.from_json(options.to_json()) == options


def test_a_script_is_picked_by_weight(tmp_path: Path) -> None:
    """A conversation of weight 3 is had three times as often as one of weight 1."""
    script = tmp_path / "script.yaml"
    script.write_text("conversations: [{name: a, weight: 3, turns: [{say: x}]}, {name: b, turns: [{say: y}]}]")
    scenario, chance = read_script(script), random.Random(1)
    picked = Counter(scenario.pick(chance).name for _ in range(2000))
    assert picked["a"] / 2000 == pytest.approx(0.75, abs=0.04)


def test_sessions_beyond_an_addresss_ports() -> None:
    """On loopback, more sessions than one address has ports take further addresses; elsewhere the system chooses."""
    assert source_address(0, (), loopback=True) is None
    assert source_address(PORTS_PER_ADDRESS, (), loopback=True) == "127.0.0.2"
    assert source_address(3 * PORTS_PER_ADDRESS + 5, (), loopback=True) == "127.0.0.4"
    assert source_address(PORTS_PER_ADDRESS, (), loopback=False) is None
    assert [source_address(n, ("a", "b"), loopback=False) for n in range(3)] == ["a", "b", "a"]


def test_percentiles_are_of_all_workers() -> None:
    """What several workers counted is one distribution, to three digits; a row has what its second saw."""
    ledger, fast, slow = Ledger(), Recorder(), Recorder()
    for number in range(1000):
        (fast if number % 2 else slow).latency("turn", (number + 1) / 1000)
    fast.gaps[400] += 3
    ledger.add(fast.take(), 0)
    ledger.add(slow.take(), 1)
    found = ledger.latencies()
    assert found["turn"]["count"] == 1000
    for name, value in {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}.items():
        assert found["turn"][name] == pytest.approx(value, rel=0.002)
    assert found["gap"]["p50"] == pytest.approx(0.02, rel=0.001)
    assert found["cancel"] == {"p50": None, "p90": None, "p99": None, "p999": None, "max": None, "count": 0}
    assert ledger.close_second({})["turn_p50"] == pytest.approx(0.5, rel=0.002)
    assert ledger.close_second({})["turn_p50"] is None
    assert fast.take()["latencies"] == {}


def test_explanations_are_few() -> None:
    """Of a violation that comes a thousand times, the count is whole and a handful is explained."""
    ledger, recorder = Ledger(), Recorder(ignored=("seq_repeated",))
    for number in range(1000):
        recorder.violation("foreign_frame", f"{number}")
        recorder.violation("seq_repeated", "")
    ledger.add(recorder.take())
    assert ledger.violations["foreign_frame"] == 1000
    assert ledger.violations["seq_repeated"] == 0
    assert ledger.explanations == {"foreign_frame": [str(number) for number in range(KEPT_EXPLANATIONS)]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"generator_cpu": 0.5}] * 20, None),
        ([{"generator_cpu": 0.95}] * 2 + [{"generator_cpu": 0.1}] * 18, "it used more than 90% of its core in 2 of 20"),
        ([{"generator_cpu": 0.95}] + [{"generator_cpu": 0.1}] * 19, None),
    ],
)
def test_a_busy_generator_is_told(rows: list[dict[str, float]], said: str | None) -> None:
    """A generator that is busy in a tenth of the seconds says that the figures are partly its own."""
    ledger = Ledger()
    for row in rows:
        ledger.close_second(row)
    why = ledger.bottleneck(processes=1)
    assert why is None if said is None else (why or "").startswith(said)
    assert ledger.bottleneck(processes=2) is None


def test_the_peak_is_between_two_looks() -> None:
    """Connections that came and went within a second count for the most there were; those that stay count on."""
    ledger, recorder = Ledger(), Recorder()
    for _ in range(3):
        recorder.connected()
    recorder.connections -= 2
    ledger.add(recorder.take())
    row = ledger.close_second({})
    assert (row["connections"], ledger.peak_connections) == (1, 3)
    recorder.connected()
    ledger.add(recorder.take())
    ledger.close_second({})
    assert ledger.peak_connections == 3


def test_a_late_generator_is_told() -> None:
    """So does one that comes late to its own appointments."""
    ledger, recorder = Ledger(), Recorder()
    recorder.lag = 0.3
    ledger.add(recorder.take())
    ledger.close_second({})
    assert "more than 100 ms late in 1 of 1" in (ledger.bottleneck(1) or "")


RESULT = {
    "latency_seconds": {"first_token": {"p99": 1.6}, "gap": {"p50": None}},
    "errors": {"busy": 2, "timeout": 1},
    "violations": {},
    "gaps": 0,
    "turns": {"failed": 1, "refused": 2},
    "sessions": {},
    "tokens_per_second": 900.0,
    "server": {"cpu": 0.7, "memory_bytes_max": 5e8},
}


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("first_token_p99>1.5s", True),
        ("first_token_p99 > 1700ms", False),
        ("gap_p50>1s", True),  # not measured is not fine
        ("errors>2", True),
        ("errors>=4", False),
        ("violations>0", False),
        ("turns_failed>2", True),
        ("tokens_per_second<1000", True),
        ("server_cpu>80%", False),
        ("server_memory>400MB", True),
    ],
)
def test_thresholds(text: str, broken: bool) -> None:
    """A condition is read with its unit, and is broken or not; what was not measured breaks it."""
    assert bool(read_threshold(text).broken_by(RESULT)) is broken


@pytest.mark.parametrize("text", ["", "errors", "errors=1", "errors>many", "first_token>1s", "errors>1parsec"])
def test_what_is_no_threshold(text: str) -> None:
    """A condition that cannot be read is refused, with what is expected."""
    with pytest.raises(StartupError, match=r"expected|nothing is called"):
        read_threshold(text)


def points(per_second: float, noise: float, seconds: int = 600) -> list[tuple[float, float]]:
    chance = random.Random(1)
    return [(at, 100e6 + per_second * at + chance.uniform(-noise, noise)) for at in range(seconds)]


@pytest.mark.parametrize(
    ("per_second", "noise", "grows"),
    [(0, 0, False), (0, 5e6, False), (1_000, 1e6, False), (100_000, 1e6, True), (-100_000, 1e6, False)],
)
def test_growth(per_second: float, noise: float, grows: bool) -> None:
    """A quantity that rises beyond its scatter grows, by so much an hour; noise, and a little, is flat."""
    found = fit(points(per_second, noise), least=1e6)
    assert found is not None
    assert found.grows is grows
    assert found.per_hour == pytest.approx(per_second * 3600, abs=max(1.0, noise * 0.5) * 3600 / 100)


def test_growth_that_settles_is_none() -> None:
    """What fills up at first and then stays is flat; a few points say nothing."""
    filled = [(float(at), 100e6 + min(at, 150) * 1e6) for at in range(600)]
    found = fit(filled, least=1e6)
    assert found is not None
    assert not found.grows
    assert fit(filled[:10], least=1e6) is None
    assert fit([], least=1e6) is None


def test_a_process_is_seen() -> None:
    """``/proc`` tells what this process holds; one that is not there is none. ``/metrics`` is read by its names."""
    found = of_process(os.getpid())
    assert found is not None
    assert (found.cpu_seconds or 0) > 0
    assert (found.memory_bytes or 0) > 1e7
    assert (found.descriptors or 0) >= 3
    assert (found.threads or 0) >= 1
    assert of_process(2**22 + 1) is None
    text = "# HELP x y\nprocess_resident_memory_bytes 1.5e+08\nprocess_open_fds 12.0\nthreadwire_tasks 7\nother 1\n"
    metrics = of_metrics(text)
    assert (metrics.memory_bytes, metrics.descriptors, metrics.tasks, metrics.cpu_seconds) == (1.5e8, 12, 7, None)


def test_rows_are_joined() -> None:
    """A day has no more points than a plot can show; the worst of each stretch is kept, and errors are added up."""
    rows = [{"at": float(n), "gap_p99": float(n % 10), "errors": 1, "server_cpu": 0.5} for n in range(5000)]
    joined = join_rows(rows)
    assert len(joined) <= MAX_POINTS
    assert joined[-1]["at"] == 4999
    assert {row["gap_p99"] for row in joined} == {9.0}
    assert sum(row["errors"] for row in joined) == 5000
    assert join_rows(rows[:3]) == rows[:3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.000042, "42 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1.00 s"),
        (1.5, "1.5 s"),
        (240, "240 s"),
    ],
)
def test_seconds_as_people_read_them(value: float | None, text: str) -> None:
    """Three digits and a unit."""
    assert figures.seconds(value) == text


def test_other_figures() -> None:
    """Times and shares of the command line, bytes, bars and changes."""
    assert [duration(text) for text in ("90", "90s", "1.5m", "1h", "500ms")] == [90, 90, 90, 3600, 0.5]
    assert [share(text) for text in ("10%", "0.1", "100%", "0")] == [0.1, 0.1, 1, 0]
    assert figures.memory(3 * 2**20) == "3.0 MiB"
    assert figures.spark([0, 1, 2, 4]) == "▁▂▄█"
    assert change(1.0, 1.01, more_is_worse=True) == "[dim]+1%"
    assert change(1.0, 2.0, more_is_worse=True) == "[red]+100%"
    assert change(1.0, 2.0, more_is_worse=False) == "[green]+100%"
    assert of_message("{session}/{turn}").conversations[0].steps[0].text(3, 1) == "3/1"
