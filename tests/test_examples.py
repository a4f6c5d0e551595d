"""The examples, each served and talked to."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from conftest import Serve
from threadwire.config import load

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


async def test_support_bot(serve: Serve) -> None:
    """It tells where an order is, remembers which, and pays back once a person has agreed."""
    served = await serve(f"{EXAMPLES / 'support_bot.py'}:graph")
    socket = await served.attach("t1")
    await socket.turn("Hello?")
    await socket.turn("Where is order a1002?")
    [progress] = socket.of("custom")
    assert progress["data"] == {"progress": "looking up A1002"}
    frames = await socket.turn("Then I want my money back.")
    assert frames[-1]["status"] == "interrupted"
    [waiting] = socket.of("interrupt")[-1]["interrupts"]
    assert waiting["value"]["question"] == "Pay back 89.00 for order A1002?"
    await socket.ask("respond", responses={waiting["id"]: True})
    assert (await socket.until("run_finished"))["status"] == "completed"
    said = [message["content"] for message in await served.history("t1") if message["role"] == "assistant"]
    assert said == [
        "Which order is it about? It looks like A1002.",
        "Order A1002, a pair of boots, is on its way and comes tomorrow.",
        "89.00 for order A1002 will be in your account within three days.",
    ]


async def test_retrieval(serve: Serve) -> None:
    """What the retriever found is told in a frame and is what the answer is made of."""
    served = await serve(f"{EXAMPLES / 'retrieval.py'}:graph")
    socket = await served.attach("t1")
    await socket.turn("How are MCP servers started again when they die?")
    [retrieval] = socket.of("retrieval")
    assert retrieval["status"] == "ok"
    assert "MCP" in str(retrieval["documents"][0])
    answer = (await served.history("t1"))[-1]["content"]
    assert answer.startswith("From agent.md:")
    await socket.turn("xylophone")
    assert (await served.history("t1"))[-1]["content"] == "The documentation says nothing about that."


async def test_approval(serve: Serve) -> None:
    """The agent of the example's config asks before it writes to the notebook, and not before it reads."""
    settings = load(EXAMPLES / "approval.yaml", None, {})
    served = await serve(agent={"ask_before": settings.agent.ask_before})
    socket = await served.attach("t1")
    assert (await socket.turn("/tool list_notes {}"))[-1]["status"] == "completed"
    assert (await socket.turn('/tool save_note {"title": "Plans", "text": "sail"}'))[-1]["status"] == "interrupted"
    [waiting] = socket.of("interrupt")[-1]["interrupts"]
    await socket.ask("respond", responses={waiting["id"]: {"decisions": [{"type": "approve"}]}})
    assert (await socket.until("run_finished"))["status"] == "completed"
    assert socket.of("tool_result")[-1]["result"] == "Saved the note 'Plans'."


async def test_agent_with_mcp(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent starts the server of the example's config and calls its tools."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    settings = load(EXAMPLES / "mcp" / "config.yaml", None, {})
    served = await serve(agent={"mcp_servers": settings.agent.mcp_servers})
    socket = await served.attach("t1")
    await socket.turn('/tool find_books {"text": "le guin"}\n/tool lend_book {"title": "Moby-Dick"}')
    await socket.turn('/tool lend_book {"title": "Moby-Dick"}')
    results = [(frame["status"], frame["result"]) for frame in socket.of("tool_result")]
    assert sorted(results[:2]) == [
        ("ok", "Lent Moby-Dick; 0 left."),
        ("ok", "The Left Hand of Darkness by Ursula K. Le Guin, 3 to lend"),
    ]
    assert results[2][0] == "error"
    assert "all copies of 'Moby-Dick' are lent" in results[2][1]
