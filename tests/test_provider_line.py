"""The server's own ChatOpenAI and the provider with a bad line between them: each turn ends as it must, and in time."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

import pytest

from conftest import Serve
from fault_proxy import Fault, FaultProxy, Kind, fault_proxy
from harness import Provider, Served, Socket, eventually
from shared_provider import provider, provider_url
from test_cancel import assert_paired, assert_whole, cancel, ended, start

__all__ = ["provider", "provider_url"]  # fixtures

#: Set it to a seed that was printed to have the same faults again.
SEED = int(os.environ.get("TORTURE_SEED") or secrets.randbits(32))
#: The provider's answer is many times that long, and its head is shorter.
MIDDLE = 2000
ANSWER = "/tokens 60\n/tokens-per-second 400"
#: What ChatOpenAI's SDK does when it is let: once, and twice more.
TRIES = 3

FAILED = ("failed", "error")


def answer(status: str, body: str, retry_after_ms: int = 1) -> bytes:
    """An HTTP answer that says when to ask again."""
    retry = f"retry-after-ms: {retry_after_ms}"
    # The line is closed behind it: a client that does not know sends its next try into it, now and then.
    kind = ("Content-Type: application/json", "Connection: close")
    head = (f"HTTP/1.1 {status}", *kind, retry, f"Content-Length: {len(body)}")
    return "\r\n".join((*head, "", body)).encode()


LIMITED = Fault("say", said=answer("429 Too Many Requests", "{}"))
BROKEN = Fault("say", said=answer("500 Internal Server Error", "<html>oops</html>"))
NOT_HTTP = Fault("say", said=b"\x00\x01\x02 SSH-2.0-what\r\n")
GARBAGE = bytes(range(256)) * 4


@pytest.fixture
async def proxy(provider: Provider) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(provider.url) as proxy:
        yield proxy


async def serve_agent(serve: Serve, proxy: FaultProxy, **sections: Any) -> Served:
    """The built-in agent with a model behind the proxy."""
    model = {"name": "openai:simulated", "base_url": f"{proxy.url}/v1", "api_key": "none"}
    return await serve(model=model, **sections)


async def assert_nothing_open(provider: Provider) -> None:
    """The provider has nobody who waits for it."""
    await eventually(provider.left, "no request is open at the provider")


async def assert_goes_on(socket: Socket, served: Served, provider: Provider, proxy: FaultProxy) -> None:
    """The next turn works, with all that is in the thread, as a provider takes it."""
    proxy.plan()
    before = await served.history(socket.frames[0]["thread_id"])
    assert (await socket.turn("/tokens 2"))[-1]["status"] == "completed"
    told = [m for m in (await provider.requests())[-1]["messages"] if m["role"] != "system"]
    assert_whole(told)
    assert [(m["role"], m["content"] or "") for m in told[:-1]] == [(m["role"], m["content"]) for m in before]
    assert told[-1]["content"] == "/tokens 2"


@pytest.mark.parametrize("do", ["reset", "close", "say"])
async def test_in_mid_token(serve: Serve, provider: Provider, proxy: FaultProxy, do: Kind) -> None:
    """Cut, or with garbage for a rest: what was said is kept and marked, and the next turn works."""
    served = await serve_agent(serve, proxy)
    socket = await served.attach("t")
    proxy.plan(Fault(do, after=MIDDLE, said=GARBAGE))
    finished = (await socket.turn(ANSWER))[-1]
    assert proxy.struck[do] == 1
    assert (ended(finished), finished["error"]["code"]) == (FAILED, "model_error")
    await assert_nothing_open(provider)
    user, said = await served.history("t")
    assert user["content"] == ANSWER
    assert (said["content"], said["status"]) == (socket.text(), "failed")
    assert 0 < len(said["content"].split()) < 60
    await assert_goes_on(socket, served, provider, proxy)


@pytest.mark.parametrize(
    ("fault", "code"),
    [(LIMITED, "model_rate_limited"), (BROKEN, "model_error")],
    ids=["429", "500"],
)
async def test_refused_each_time(serve: Serve, provider: Provider, proxy: FaultProxy, fault: Fault, code: str) -> None:
    """Refused as often as the SDK asks: the turn says so, leaves no empty message, and the next one works."""
    served = await serve_agent(serve, proxy)
    socket = await served.attach("t")
    proxy.plan(*[fault] * TRIES)
    finished = (await socket.turn(ANSWER))[-1]
    assert proxy.struck["say"] == TRIES
    assert (ended(finished), finished["error"]["code"]) == (FAILED, code)
    await assert_nothing_open(provider)
    assert [m["content"] for m in await served.history("t")] == [ANSWER]
    await assert_goes_on(socket, served, provider, proxy)


async def test_no_answer_each_time(serve: Serve, provider: Provider, proxy: FaultProxy) -> None:
    """Reset, closed, or answered with what is no HTTP, before the first byte, as often as the SDK asks."""
    served = await serve_agent(serve, proxy)
    sockets = [await served.attach(f"t{number}") for number in range(3)]
    proxy.plan(*[Fault("reset"), Fault("close"), NOT_HTTP] * TRIES)
    told = await asyncio.gather(*(socket.turn(ANSWER) for socket in sockets))
    assert proxy.struck == {"reset": TRIES, "close": TRIES, "say": TRIES}
    await assert_nothing_open(provider)
    for socket, frames in zip(sockets, told, strict=True):
        assert (ended(frames[-1]), frames[-1]["error"]["code"]) == (FAILED, "model_error")
        thread_id = socket.frames[0]["thread_id"]
        assert [m["content"] for m in await served.history(thread_id)] == [ANSWER]
        await assert_goes_on(socket, served, provider, proxy)


async def test_silence_is_a_timeout(serve: Serve, provider: Provider, proxy: FaultProxy) -> None:
    """A provider that stalls, or whose line is dead, is waited for until the run's time is over, and no longer."""
    served = await serve_agent(serve, proxy, runs={"timeout_seconds": 2})
    kinds: tuple[Kind, ...] = ("stall", "freeze")
    faults = [Fault(do, after=after, seconds=600) for do in kinds for after in (0, MIDDLE)]
    sockets: list[Socket] = []
    told: list[asyncio.Task[list[dict[str, Any]]]] = []
    for fault in faults:
        sockets.append(await served.attach(f"t{len(sockets)}"))
        proxy.plan(fault)
        told.append(asyncio.create_task(sockets[-1].turn(ANSWER)))
        await proxy.strikes(len(told))
    for finished in [frames[-1] for frames in await asyncio.gather(*told)]:
        assert (ended(finished), finished["error"]["code"]) == (("cancelled", "timeout"), "timeout")
    for line in proxy.frozen:
        # The provider at the end of a dead line hears nothing of it, but the server holds its end no longer.
        await eventually(line.client_left.is_set, "the server hangs up")
        line.end(hard=True)
    await assert_nothing_open(provider)
    for fault, socket in zip(faults, sockets, strict=True):
        user, *said = await served.history(socket.frames[0]["thread_id"])
        assert user["content"] == ANSWER
        assert [(m["content"], m["status"]) for m in said] == [(socket.text(), "cancelled")] * bool(fault.after)
        assert bool(socket.text()) is bool(fault.after)
        await assert_goes_on(socket, served, provider, proxy)


async def test_what_passes_is_borne(serve: Serve, provider: Provider, proxy: FaultProxy) -> None:
    """A provider that answers when it is asked again, or goes on in time, has done nothing wrong."""
    served = await serve_agent(serve, proxy)
    socket = await served.attach("t")
    proxy.plan(LIMITED, BROKEN, None, Fault("reset"), None, Fault("stall", after=MIDDLE, seconds=0.3))
    for _ in range(3):
        frames = await socket.turn(ANSWER)
        assert frames[-1]["status"] == "completed"
        assert len(socket.text(frames[-1]["run_id"]).split()) == 60
    assert proxy.struck == {"say": 2, "reset": 1, "stall": 1}
    assert len(await served.history("t")) == 6


async def test_cancelled_before_it_asks_again(serve: Serve, provider: Provider, proxy: FaultProxy) -> None:
    """A turn that waits for the time that the provider named is cancelled at once, and asks nobody any more."""
    served = await serve_agent(serve, proxy)
    socket = await served.attach("t")
    proxy.plan(Fault("say", said=answer("429 Too Many Requests", "{}", retry_after_ms=30_000)))
    run_id = await start(socket, ANSWER)
    await proxy.strikes(1)
    assert ended(await cancel(socket, run_id)) == ("cancelled", "client")
    await assert_nothing_open(provider)
    assert (await provider.stats())["total"] == 1
    await assert_goes_on(socket, served, provider, proxy)


async def test_behind_a_tool(serve: Serve, provider: Provider, proxy: FaultProxy) -> None:
    """Cut in the answer behind a tool's result: the call keeps its result."""
    served = await serve_agent(serve, proxy)
    socket = await served.attach("t")
    proxy.plan(None, Fault("reset", after=MIDDLE))
    finished = (await socket.turn(f'/tool calculate {{"expression": "6 * 7"}}\n{ANSWER}'))[-1]
    assert (ended(finished), finished["error"]["code"]) == (FAILED, "model_error")
    assert_paired(socket.frames)
    history = await served.history("t")
    assert [m["role"] for m in history] == ["user", "assistant", "tool", "assistant"]
    assert "42" in str(history[2]["content"])
    assert (history[3]["content"], history[3]["status"]) == (socket.text(), "failed")
    await assert_nothing_open(provider)
    await assert_goes_on(socket, served, provider, proxy)


async def test_in_the_middle_of_a_call(serve: Serve, provider: Provider, proxy: FaultProxy) -> None:
    """Cut in a tool call's arguments: half a call is none."""
    served = await serve_agent(serve, proxy)
    socket = await served.attach("t")
    proxy.plan(Fault("reset", after=MIDDLE))
    content = f'/tool calculate {{"expression": "{" + ".join(map(str, range(40)))}"}}'
    finished = (await socket.turn(content))[-1]
    assert proxy.struck["reset"] == 1
    assert (ended(finished), finished["error"]["code"]) == (FAILED, "model_error")
    assert_paired(socket.frames)
    assert [m["role"] for m in await served.history("t")] == ["user"]
    await assert_goes_on(socket, served, provider, proxy)


# --- at random ------------------------------------------------------------------------------------

KINDS: tuple[Kind, ...] = ("reset", "close", "stall", "freeze", "trickle", "say")


def faults(random: Random) -> Iterator[Fault | None]:
    while True:
        after = 0 if random.random() < 0.3 else random.randint(1, 16_000)
        do = random.choice(KINDS)
        said = random.choice((LIMITED.said, BROKEN.said, GARBAGE, NOT_HTTP.said))
        seconds = random.choice((0.1, 600)) if do == "stall" else 0.001
        yield random.choice((None, Fault(do, after=after, seconds=seconds, piece=random.randint(5, 200), said=said)))


async def say(socket: Socket, random: Random, turns: int) -> None:
    """Turns with and without tools, whatever becomes of them; each ends in one of the ways that there are."""
    for _ in range(turns):
        tool = random.choice(("", '/tool calculate {"expression": "1 + 2"}\n'))
        frames = await socket.turn(f"{tool}/tokens {random.randint(1, 60)}\n/tokens-per-second 400")
        finished = frames[-1]
        code = (finished["error"] or {}).get("code")
        assert (*ended(finished), code) in {
            ("completed", None, None),
            (*FAILED, "model_error"),
            (*FAILED, "model_rate_limited"),
            ("cancelled", "timeout", "timeout"),
        }


@pytest.mark.torture
async def test_a_bad_line_for_long(serve: Serve, provider: Provider, proxy: FaultProxy) -> None:
    """After hundreds of faults, each thread is sound, nothing is open, and the provider takes the next turn."""
    print(f"TORTURE_SEED={SEED}")
    random = Random(SEED)
    served = await serve_agent(serve, proxy, runs={"timeout_seconds": 3}, limits={"history_page": 1000})
    sockets = [await served.attach(f"t{number}") for number in range(8)]
    proxy.faults = faults(random)
    await asyncio.gather(*(say(socket, Random(random.random()), 50) for socket in sockets))
    print(dict(proxy.struck))
    proxy.cut()
    await assert_nothing_open(provider)
    for socket in sockets:
        assert_paired(socket.frames)
        history = await served.history(socket.frames[0]["thread_id"])
        told = {f["message_id"]: "" for f in socket.of("token")}
        for frame in socket.of("token"):
            told[frame["message_id"]] += frame["content"]
        kept = {m["id"]: m["content"] for m in history if m["role"] == "assistant" and m["content"]}
        assert kept == told
        await assert_goes_on(socket, served, provider, proxy)
