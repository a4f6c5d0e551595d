"""What makes the simulated provider uneven: distributions, failures by chance, rate limits, scripts of tool calls."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from harness import start_provider
from threadwire.models.pace import Pace
from threadwire.models.script import Answer, Manner, Said, plan
from threadwire.models.variety import RequestLimit, Saying, Variety

MANNER = Manner(tokens_per_second=50, first_token_ms=200, tokens=100)


def answer(variety: Variety, text: str = "hi") -> Answer:
    return variety.vary(plan(variety.direct([Said("user", text)], ["add"]), ["add"], MANNER))


def test_without_variety_nothing_varies() -> None:
    """The default changes neither times nor answers."""
    assert answer(Variety()) == plan([Said("user", "hi")], ["add"], MANNER)


def test_first_tokens_are_log_normal() -> None:
    """The set time is the median; the logarithms scatter by sigma; the same seed gives the same times."""
    variety, again = (Variety(first_token_sigma=0.5, seed=7) for _ in range(2))
    times = [answer(variety).first_token_ms for _ in range(2000)]
    assert times == [answer(again).first_token_ms for _ in range(2000)]
    assert statistics.median(times) == pytest.approx(200, rel=0.05)
    assert max(times) > 600
    assert sum(time > 200 * 2.718**0.5 for time in times) / 2000 == pytest.approx(0.159, abs=0.03)


def test_bursts_keep_the_rate() -> None:
    """Tokens come in bursts of varying size; the answer as a whole takes as long as without."""
    variety = Variety(burst=8)
    sizes = {answer(variety).burst for _ in range(500)}
    assert sizes == set(range(1, 16))
    found = next(found for found in iter(lambda: answer(variety), None) if found.burst == 10)
    pace = Pace(found, start=0.0)
    assert [pace.wait(index, 0.2) for index in (0, 9, 10, 19, 90)] == pytest.approx([0, 0, 0.2, 0.2, 1.8])
    assert pace.due(0, 0.2) == 10
    assert pace.due(10, 0.41) == 10
    assert pace.due(10, 0.61) == 20
    assert pace.due(90, 60) <= Pace.BURST


def test_failures_and_silences_by_chance() -> None:
    """The rates are shares of the answers; what a message asks for by itself is left as it is."""
    variety = Variety(error_rate=0.2, stall_rate=0.25)
    kinds = Counter("error" if found.failure else found.ending for found in (answer(variety) for _ in range(2000)))
    assert kinds["error"] / 2000 == pytest.approx(0.2, abs=0.03)
    assert kinds["silent"] / 2000 == pytest.approx(0.2, abs=0.03)  # a quarter of the rest
    always = Variety(error_rate=1)
    assert answer(always, "/cut 3").ending == "cut"
    assert answer(always, "/status 429").failure == plan([Said("user", "/status 429")], [], MANNER).failure


def test_a_rate_limit_says_when() -> None:
    """More than so many requests in a minute are refused, with the seconds until the next is taken."""
    limit = RequestLimit(2)
    assert limit.refusal(0.0) is None
    assert limit.refusal(10.0) is None
    refused = limit.refusal(20.5)
    assert refused is not None
    assert (refused.status, refused.retry_after_seconds) == (429, 40)
    assert limit.refusal(59.9) is not None
    assert limit.refusal(60.0) is None
    assert RequestLimit(0).refusal(0.0) is None


def test_sayings_answer_by_weight() -> None:
    """What is not directed is answered as a saying has it, by weight; what is directed, as it says."""
    variety = Variety(sayings=[Saying("/tokens 3", 3), Saying("/tokens 5")])
    counts = Counter(len(answer(variety).deltas) for _ in range(2000))
    assert counts[3] / 2000 == pytest.approx(0.75, abs=0.04)
    assert counts[3] + counts[5] == 2000
    assert len(answer(variety, "/tokens 9").deltas) == 9


def test_a_saying_holds_for_its_turn() -> None:
    """After the tools of a saying have run, the rest of the same saying answers."""
    sayings = [Saying('/tool add {"a": 1, "b": 2}\n/tokens 7'), Saying("/tool add {}\n/tokens 9")]
    variety = Variety(sayings=sayings)
    seen = set()
    for _ in range(20):
        first = answer(variety)
        [call] = first.calls
        conversation = [Said("user", "hi"), Said("assistant", ""), Said("tool", "3", call.id)]
        second = plan(variety.direct(conversation, ["add"]), ["add"], MANNER)
        seen.add((call.arguments, len(second.deltas)))
    assert seen == {('{"a": 1, "b": 2}', 7), ("{}", 9)}


async def test_the_command_has_it_all(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """``threadwire simulate`` takes a script and a rate limit: 429 comes with Retry-After."""
    script = tmp_path / "script.yaml"
    script.write_text("- say: /tokens 4\n  weight: 2\n")
    arguments = ["--script", str(script), "--rate-limit", "1", "--first-token-ms", "0", "--tokens-per-second", "0"]
    provider = await start_provider(session, *arguments)
    try:
        body = {"model": "any", "messages": [{"role": "user", "content": "hi"}]}
        async with session.post(f"{provider.base_url}/chat/completions", json=body) as response:
            found = await response.json()
            assert len(found["choices"][0]["message"]["content"].split()) == 4
        async with session.post(f"{provider.base_url}/chat/completions", json=body) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= 60
    finally:
        provider.process.terminate()
        await provider.process.wait()


@pytest.mark.parametrize("text", ["", "- tokens: 3", "- {say: hi, weight: 0}", "say: hi", "- [1]"])
async def test_a_wrong_script_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script that is none ends with a line that names the file, and exit code 2."""
    from threadwire.cli import main

    script = tmp_path / "script.yaml"
    script.write_text(text)
    assert main(["simulate", "--script", str(script)]) == 2
    assert capsys.readouterr().err.startswith(f"threadwire: {script}: expected ")
