"""The clients of a server that wants to know who is there: tokens that are renewed, in Python."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from conftest import Serve
from harness import eventually
from threadwire.client import Disconnected, connect
from threadwire.protocol import Frame
from who import ALICE, JWT, TOKENS, signed

HANDLER = {"mode": "custom", "handler": "auth_handlers:by_token"}


async def test_a_token_lets_in(serve: Serve) -> None:
    """A client with a token talks, and comes back to its thread; one without is told so at once."""
    served = await serve("graphs:echo", auth=TOKENS)
    async with connect(served.url, token=ALICE) as chat:
        assert await chat.send("hi").text() == "echo: hi"
        thread_id = chat.thread_id
    async with connect(served.url, token=lambda: ALICE, thread_id=thread_id, history=10) as chat:
        assert chat.first_history is not None
        assert len(chat.first_history.messages) == 2
    for token, wanted, code in ((None, None, 4401), ("wrong", None, 4401), (ALICE, "of-my-own", 4403)):
        with pytest.raises(Disconnected) as refused:
            async with connect(served.url, token=token, thread_id=wanted):
                pass
        assert refused.value.code == code


async def test_a_token_is_renewed(serve: Serve) -> None:
    """A client that is given a function brings a fresh token in time, and its one connection goes on."""
    served = await serve("graphs:echo", auth=HANDLER)
    given: list[str] = []

    async def token() -> str:
        given.append("alice" if given else "alice ends in 6")
        return given[-1]

    async with connect(served.url, token=token) as chat:
        ends = time.time() + 6
        await eventually(lambda: time.time() > ends, "the first token has ended")
        assert await chat.send("still there?").text() == "echo: still there?"
        assert chat.state == "live"
        assert len(given) == 2


async def test_a_token_that_is_fixed_ends(serve: Serve) -> None:
    """A client that has one token is told by the close code that this has ended."""
    served = await serve("graphs:echo", auth=HANDLER)
    async with connect(served.url, token="alice ends in 6") as chat:
        frames = chat.frames()
        kinds: list[str] = []
        with pytest.raises(Disconnected) as ended:
            await _until_over(frames, kinds)
    assert ended.value.code == 4401
    assert "credential_expiring" in kinds


async def _until_over(frames: AsyncIterator[Frame], kinds: list[str]) -> None:
    async for frame in frames:
        kinds.append(frame.type)  # noqa: PERF401 -- it ends with an error, and what came before it counts


async def test_who_gives_tokens_may_be_away(serve: Serve) -> None:
    """A function that fails is asked again, as a server that is away is: the chat goes on when it is back."""
    served = await serve("graphs:echo", auth=JWT)
    state: dict[str, Any] = {"away": False, "asked": 0}

    def token() -> str:
        state["asked"] += 1
        if state["away"]:
            raise OSError("the directory is away")
        return signed()

    async with connect(served.url, token=token) as chat:
        await chat.send("one").text()
        state["away"] = True
        asked = state["asked"]
        await chat._link.reattach()
        await eventually(lambda: state["asked"] >= asked + 2, "it is asked again")
        state["away"] = False
        assert await chat.send("two").text() == "echo: two"
