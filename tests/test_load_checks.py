"""Every promise that ``threadwire load`` checks, broken by a server that does just that wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import eventually
from load_process import load
from scripted_server import Script, ScriptedServer, scripted_server
from threadwire.load.violations import VIOLATIONS

WORDS = [f"w{number} " for number in range(60)]
Frames = Callable[[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as server:
        server.script = Script(words=list(WORDS))
        yield server


def on(kind: str, change: Frames, number: int = 5) -> Frames:
    """Change the ``number``-th frame of a kind, and no other."""
    seen = 0

    def mutate(frame: dict[str, Any]) -> list[dict[str, Any]]:
        nonlocal seen
        seen += frame["type"] == kind
        return change(frame) if frame["type"] == kind and seen == number else [frame]

    return mutate


def swapped() -> Frames:
    """Two tokens in the wrong order."""
    held: Iterator[dict[str, Any]] | None = None

    def mutate(frame: dict[str, Any]) -> list[dict[str, Any]]:
        nonlocal held
        if held is None and frame["type"] == "token":
            held = iter([frame])
            return []
        return [frame, *(held or ())] if frame["type"] == "token" else [frame]

    return mutate


def doubled_end(frame: dict[str, Any]) -> list[dict[str, Any]]:
    return [frame, {**frame, "seq": frame["seq"] + 1}]


STRANGE = {"id": "strange", "role": "user", "content": "not yours"}
MUTANTS: dict[str, tuple[str, Frames, list[str]]] = {
    "a token is lost": ("token_mismatch", on("token", lambda _: []), []),
    "a token is changed": ("token_mismatch", on("token", lambda frame: [{**frame, "content": "x"}]), []),
    "a token comes twice": ("seq_repeated", on("token", lambda frame: [frame, frame]), []),
    "a run ends twice": ("run_finished_twice", on("run_finished", doubled_end, 1), []),
    "a run does not end": ("run_never_finished", on("run_finished", lambda _: [], 1), ["--turn-timeout", "1s"]),
    "the end of a run is another's": (
        "foreign_frame",
        on("token", lambda frame: [frame, {**frame, "run_id": "x", "seq": frame["seq"] + 0.5}]),
        [],
    ),
    "a message is another's": (
        "foreign_frame",
        on("message", lambda frame: [frame, {**frame, "message": STRANGE, "seq": frame["seq"] + 0.5}], 1),
        [],
    ),
    "a message of the thread is another's": (
        "foreign_frame",
        on("history", lambda frame: [{**frame, "messages": [STRANGE, *frame["messages"]]}], 1),
        [],
    ),
    "the thread is another": (
        "foreign_frame",
        on("ready", lambda frame: [{**frame, "thread_id": "another"}], 2),
        ["--vanish", "100%"],
    ),
}


@pytest.mark.parametrize("what", MUTANTS)
async def test_a_broken_promise_is_found(what: str, server: ScriptedServer, tmp_path: Path) -> None:
    """A server that breaks one promise is found out, by the promise's name, with an explanation and exit code 1."""
    name, server.mutate, arguments = MUTANTS[what]
    loaded = await load(tmp_path, server.url, "--sessions", "1", *arguments)
    assert loaded.broken == {name}
    assert loaded.result["explanations"][name][0].startswith("session 0: ")
    assert loaded.code == 1
    assert name in loaded.out
    assert VIOLATIONS[name] in loaded.out


async def test_frames_in_the_wrong_order_are_found(server: ScriptedServer, tmp_path: Path) -> None:
    """A server whose frames change places is found out by their numbers, and by the text that a client then has."""
    server.mutate = swapped()
    loaded = await load(tmp_path, server.url, "--sessions", "1")
    assert loaded.broken == {"seq_went_back", "token_mismatch"}


async def test_a_silent_hole_is_found(server: ScriptedServer, tmp_path: Path) -> None:
    """A server that leaves out frames after resuming, and says that it did not, is found out by the text."""
    server.skips = 3
    server.script.pause_after = 25
    # By this seed the session is away for most of a second: what it misses is said meanwhile.
    running = asyncio.create_task(load(tmp_path, server.url, "--sessions", "1", "--vanish", "100%", "--seed", "7"))
    await eventually(lambda: server.connections and server.connections[0].close_code, "the session vanishes")
    server.go.set()
    loaded = await running
    assert loaded.broken == {"resume_gap"}
    assert "characters came" in loaded.result["explanations"]["resume_gap"][0]


async def test_a_log_that_is_lost_too_early_is_found(server: ScriptedServer, tmp_path: Path) -> None:
    """A server that tells a session which was away for a moment of a gap is found out."""
    server.script.pause_after = 25
    running = asyncio.create_task(load(tmp_path, server.url, "--sessions", "1", "--vanish", "100%", "--seed", "7"))
    await eventually(lambda: server.connections and server.connections[0].close_code, "the session vanishes")
    server.go.set()
    await eventually(lambda: server.running is None, "the run has ended")
    server.trim()
    loaded = await running
    assert loaded.broken == {"resume_gap"}
    assert "ready says gap" in loaded.result["explanations"]["resume_gap"][0]
    assert loaded.result["turns"] == {"unheard": 1}


async def test_a_late_cancel_is_found(server: ScriptedServer, tmp_path: Path) -> None:
    """A server that acknowledges a cancel and goes on is found out."""
    server.deaf = True
    server.script.pause_after = 40
    loaded = await load(
        tmp_path,
        server.url,
        "--sessions",
        "1",
        "--cancel",
        "100%",
        "--cancel-deadline",
        "100ms",
        "--turn-timeout",
        "2s",
    )
    assert loaded.broken == {"cancel_late", "run_never_finished"}


async def test_mixed_up_threads_are_found(server: ScriptedServer, tmp_path: Path) -> None:
    """A server that gives two sessions one thread is found out by both."""
    server.script.pause_after = 1
    server.go.set()
    loaded = await load(tmp_path, server.url, "--sessions", "2")
    assert "foreign_frame" in loaded.broken


async def test_a_good_server_is_left_in_peace(server: ScriptedServer, tmp_path: Path) -> None:
    """With nothing wrong, every behaviour ends with no violation and exit code 0."""
    for behaviour in ("cancel", "vanish", "slow-reader", "second-tab"):
        loaded = await load(tmp_path, server.url, "--sessions", "1", f"--{behaviour}", "100%")
        server.messages.clear()  # the next session's thread is a new one
        assert loaded.broken == set(), loaded.result["explanations"]
        assert loaded.result["errors"] == {}
        assert loaded.code == 0
        assert "violations: none" in loaded.out


async def test_what_is_ignored_is_not_counted(server: ScriptedServer, tmp_path: Path) -> None:
    """``--ignore`` is for graphs that store another text than their model said."""
    server.mutate = on("token", lambda _: [])
    loaded = await load(tmp_path, server.url, "--sessions", "1", "--ignore", "token_mismatch")
    assert loaded.broken == set()
    assert loaded.code == 0
