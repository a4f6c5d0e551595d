"""The examples, each served and talked to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

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


async def test_several_agents(serve: Serve) -> None:
    """Researchers work at once in their own subgraphs; the writer's tokens can be asked for alone."""
    served = await serve(f"{EXAMPLES / 'multi_agent.py'}:graph")
    everything = await served.attach("t1")
    written = await served.attach("t1", include_tags="writer")
    for question, topics in (("tides, moons and harbours?", 3), ("boats", 1)):
        start = len(everything.frames)
        frames = await everything.turn(question)
        assert frames[-1]["status"] == "completed"
        tokens = [frame for frame in everything.frames[start:] if frame["type"] == "token"]
        assert len({frame["message_id"] for frame in tokens if frame["node"] == "look"}) == topics
        assert len({frame["message_id"] for frame in tokens if frame["node"] == "write"}) == 1
        await written.until("run_finished")
    assert {frame["node"] for frame in written.of("token")} == {"write"}
    messages = await served.history("t1")
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert [message.get("name") for message in messages] == [None, "writer"] * 2
    assert written.text() == messages[1]["content"] + messages[3]["content"]
    assert "boats" in messages[3]["content"]
    assert "tides" not in messages[3]["content"]


async def test_human_approval(serve: Serve) -> None:
    """Nothing is sent before a person agrees; they may change it, or say no."""
    served = await serve(f"{EXAMPLES / 'approval.py'}:graph")
    outbox = sys.modules["approval"].OUTBOX
    answers: list[tuple[dict[str, Any], str]] = [
        ({"decision": "approve"}, "Sent to ada@example.org: Hello"),
        ({"decision": "edit", "args": {"text": "Dear Ada"}}, "Sent to ada@example.org: Dear Ada"),
        ({"decision": "reject", "reason": "too short"}, "Not sent: too short."),
    ]
    for number, (answer, expected) in enumerate(answers):
        sent = len(outbox)
        socket = await served.attach(f"t{number}")
        frames = await socket.turn('/tool send_email {"to": "ada@example.org", "text": "Hello"}')
        assert frames[-1]["status"] == "interrupted"
        assert len(outbox) == sent
        [waiting] = socket.of("interrupt")[-1]["interrupts"]
        assert waiting["value"]["args"] == {"to": "ada@example.org", "text": "Hello"}
        await socket.ask("respond", responses={waiting["id"]: answer})
        assert (await socket.until("run_finished"))["status"] == "completed"
        [result] = socket.of("tool_result")
        assert result["result"] == expected
    assert [mail["text"] for mail in outbox] == ["Hello", "Dear Ada"]


async def test_progress(serve: Serve) -> None:
    """Progress comes while the node works, under two names, and leaves nothing in the conversation."""
    served = await serve(f"{EXAMPLES / 'progress.py'}:graph")
    socket, files = await served.attach("t1"), await served.attach("t1", include_names="files_read")
    await socket.turn("index 25 files")
    await files.until("run_finished")
    written = [frame["data"] for frame in socket.of("custom") if frame["name"] == "custom"]
    assert [data.get("done") for data in written] == [None, 10, 20, 25]
    assert [frame["data"]["last"] for frame in files.of("custom")] == [10, 20, 25]
    assert {frame["name"] for frame in files.of("custom")} == {"files_read"}
    assert len(await served.history("t1")) == 2


async def test_a_chain(serve: Serve) -> None:
    """Its LLM's tokens stream, its parser's result is the answer; in a batch each input is a run of its own."""
    served = await serve(f"{EXAMPLES / 'chain.py'}:graph")
    socket = await served.attach("t1")
    await socket.turn("The lighthouse keeper paints a boat.")
    assert socket.text() == "lighthouse, keeper, paints "
    assert (await served.history("t1"))[-1]["content"] == "lighthouse · keeper · paints"
    await socket.ask("batch", inputs=["One elephant", "Two rhinoceroses"])
    await socket.until("run_finished", seq=None)
    found = {frame["index"]: frame["message"]["content"] for frame in socket.of("batch_result")}
    assert found == {0: "elephant · one", 1: "rhinoceroses · two"}


async def test_memory(serve: Serve, tmp_path: Path) -> None:
    """What one thread learnt of a user, their other threads know, also after a restart; and nobody else's do."""
    graph = f"{EXAMPLES / 'memory.py'}:graph"
    served = await serve(graph)
    ada: dict[str, Any] = {"context": {"user": "ada"}}
    await (await served.attach("t1")).turn("Remember that I am allergic to nuts.", **ada)
    await (await served.attach("t1")).turn("Remember I like tea!", **ada)
    await served.server.close()
    served = await serve(graph)

    async def known(thread_id: str, **context: Any) -> str:
        await (await served.attach(thread_id)).turn("What do you know of me?", **context)
        return str((await served.history(thread_id))[-1]["content"])

    assert await known("t2", **ada) == "I know that I am allergic to nuts; I like tea."
    assert await known("t3", context={"user": "bob"}) == "I know nothing of you yet, bob."
    assert await known("t4") == "I know nothing of you yet, anonymous."
