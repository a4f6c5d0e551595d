"""The built-in agent asks a person before it calls given tools (``agent.ask_before``)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import ValidationError

from conftest import Serve
from harness import Provider, Served, Socket
from test_cancel import assert_paired, assert_whole, seen_by_provider
from threadwire.agent.approval import EDITED
from threadwire.approvals import actions_of, check_answer
from threadwire.client import CommandFailed, connect, connect_sync
from threadwire.errors import InvalidArgument, StartupError
from threadwire.graph import Graph
from threadwire.settings import Agent
from threadwire.storage import open_storage

SAVE = '/tool save_note {"title": "Plans", "text": "sail"}'
MCP_SERVER = Path(__file__).with_name("mcp_server.py")


async def asked(serve: Serve, *calls: str, **sections: Any) -> tuple[Served, Socket, dict[str, Any]]:
    """An agent that asks before ``save_note`` and ``delete_note`` is told to make these calls; gives its question."""
    agent = {"ask_before": ["save_note", "delete_note"], **sections.pop("agent", {})}
    served = await serve(agent=agent, **sections)
    socket = await served.attach("t")
    frames = await socket.turn("\n".join(calls))
    assert (frames[-1]["status"], frames[-1]["reason"]) == ("interrupted", "interrupt"), frames[-1]
    return served, socket, question(socket)


def question(socket: Socket) -> dict[str, Any]:
    """The latest, which is one."""
    [found] = socket.of("interrupt")[-1]["interrupts"]
    return dict(found)


async def decide(socket: Socket, *decisions: dict[str, Any]) -> list[dict[str, Any]]:
    """Answer the question; gives the frames of the run that goes on."""
    start = len(socket.frames)
    ack = await socket.ask("respond", responses={question(socket)["id"]: {"decisions": list(decisions)}})
    assert ack["type"] == "ack", ack
    await socket.until("run_finished", run_id=ack["run_id"])
    return socket.frames[start:]


def results(frames: list[dict[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Status and result by the tool's name."""
    return {frame["name"]: (frame["status"], frame["result"]) for frame in frames if frame["type"] == "tool_result"}


def edited(name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"type": "edit", "edited_action": {"name": name, "args": args}}


APPROVE = {"type": "approve"}
REJECT = {"type": "reject", "message": "keep it"}


async def test_the_question(serve: Serve) -> None:
    """It has the calls that wait, in their order, and what may be decided; none has run; who comes later is told."""
    served, socket, found = await asked(serve, SAVE, '/tool delete_note {"title": "Old"}')
    requests = [(request["name"], request["args"]) for request in found["value"]["action_requests"]]
    assert requests == [("save_note", {"title": "Plans", "text": "sail"}), ("delete_note", {"title": "Old"})]
    assert found["value"]["action_requests"][1]["description"] == "The assistant asks before it calls delete_note."
    assert found["node"] == "HumanInTheLoopMiddleware.after_model"
    every = ["approve", "edit", "reject", "respond"]
    assert found["value"]["review_configs"] == [
        {"action_name": "save_note", "allowed_decisions": every},
        {"action_name": "delete_note", "allowed_decisions": every},
    ]
    assert [frame["name"] for frame in socket.of("tool_call")] == ["save_note", "delete_note"]
    assert socket.of("tool_result") == []
    ready = await (await served.connect("t")).next()
    assert ready["interrupts"] == [found]
    assert ready["run"]["status"] == "interrupted"


async def test_approved_after_a_restart(serve: Serve) -> None:
    """A server that has started anew still has the question; approved, the tool runs as the model asked."""
    first, socket, found = await asked(serve, SAVE)
    await socket.ws.close()
    await first.server.close()
    served = await serve(agent={"ask_before": ["save_note"]}, database=first.database)
    socket = await served.connect("t")
    assert (await socket.next())["interrupts"] == [found]
    ack = await socket.ask("respond", responses={found["id"]: {"decisions": [APPROVE]}})
    assert (await socket.until("run_finished", run_id=ack["run_id"]))["status"] == "completed"
    assert results(socket.frames) == {"save_note": ("ok", "Saved the note 'Plans'.")}
    assert "Saved the note 'Plans'." in socket.text()


async def test_edited(serve: Serve) -> None:
    """The tool runs with a person's arguments; the message keeps the model's call, its stored result says what ran.

    Clients are told both.
    """
    served, socket, _ = await asked(serve, SAVE)
    frames = await decide(socket, edited("save_note", {"title": "Trips", "text": "sail"}))
    assert results(frames) == {"save_note": ("ok", "Saved the note 'Trips'.")}
    [call] = socket.of("tool_call")
    _, answer, tool, _ = await served.history("t")
    assert answer["tool_calls"] == [{"id": call["id"], "name": "save_note", "args": call["args"]}]
    assert call["args"]["title"] == "Plans"
    ran = 'Executed instead: save_note with arguments {"title": "Trips", "text": "sail"}.'
    assert tool["content"] == f"{EDITED} {ran}\n\nTool response:\nSaved the note 'Trips'."
    [told] = [frame["message"] for frame in frames if frame["type"] == "message"]
    assert told == tool
    assert_paired(socket.frames)
    assert_whole(await served.history("t"))
    assert results(await socket.turn("/tool list_notes {}")) == {"list_notes": ("ok", "Notes: Trips")}


async def test_edited_arguments_that_the_tool_does_not_take(serve: Serve) -> None:
    """They are the tool's to refuse: the model reads an error, as of wrong arguments of its own."""
    _, socket, _ = await asked(serve, SAVE)
    frames = await decide(socket, edited("save_note", {"heading": "Trips"}))
    assert results(frames) == {"save_note": ("error", "The tool save_note failed.")}
    assert frames[-1]["status"] == "completed"
    assert "title" in socket.text()


async def test_rejected(serve: Serve) -> None:
    """The tool does not run; its call gets an error result with the person's words, which the model reads."""
    served, socket, _ = await asked(serve, SAVE)
    frames = await decide(socket, {"type": "reject", "message": "not today"})
    status, result = results(frames)["save_note"]
    assert status == "error"
    assert result.endswith("with reason: not today")
    assert_paired(socket.frames)
    [_, _, tool, _] = await served.history("t")
    assert (tool["status"], tool["content"]) == ("failed", result)
    assert results(await socket.turn("/tool list_notes {}")) == {"list_notes": ("ok", "The notebook is empty.")}


async def test_answered_for_the_tool(serve: Serve) -> None:
    """The tool does not run; what the person says is its result."""
    _, socket, _ = await asked(serve, SAVE)
    frames = await decide(socket, {"type": "respond", "message": "I wrote it down myself."})
    assert results(frames) == {"save_note": ("ok", "I wrote it down myself.")}
    assert_paired(socket.frames)


async def test_mixed_decisions(serve: Serve, provider: Provider) -> None:
    """Each of several calls gets its own decision, by its place; one that needs none runs without being asked about."""
    model = {"name": "openai:simulated", "base_url": provider.base_url}
    _, socket, found = await asked(
        serve,
        '/tool save_note {"title": "A", "text": "1"}',
        '/tool calculate {"expression": "6*7"}',
        '/tool save_note {"title": "B", "text": "2"}',
        '/tool delete_note {"title": "C"}',
        '/tool save_note {"title": "D", "text": "4"}',
        model=model,
    )
    assert [request["args"]["title"] for request in found["value"]["action_requests"]] == ["A", "B", "C", "D"]
    frames = await decide(
        socket,
        REJECT,
        edited("save_note", {"title": "BB", "text": "2"}),
        {"type": "respond", "message": "done"},
        APPROVE,
    )
    assert frames[-1]["status"] == "completed"
    by_id = {frame["id"]: frame for frame in frames if frame["type"] == "tool_result"}
    got = [by_id[frame["id"]] for frame in socket.of("tool_call")]
    assert [frame["status"] for frame in got] == ["error", "ok", "ok", "ok", "ok"]
    assert [frame["result"] for frame in got] == [
        "User rejected the tool call for `save_note` with reason: keep it",
        "42",
        "Saved the note 'BB'.",
        "done",
        "Saved the note 'D'.",
    ]
    assert_paired(socket.frames)
    assert_whole((await provider.requests())[-1]["messages"])


async def test_other_tools_are_not_asked_about(serve: Serve) -> None:
    """A call of a tool that is not named runs at once."""
    served = await serve(agent={"ask_before": ["save_note"]})
    socket = await served.attach("t")
    frames = await socket.turn('/tool calculate {"expression": "6*7"}')
    assert (frames[-1]["status"], results(frames)) == ("completed", {"calculate": ("ok", "42")})
    assert socket.of("interrupt") == []


# --- answers that are none ------------------------------------------------------------------------

TWO = (SAVE, '/tool delete_note {"title": "Old"}')


@pytest.mark.parametrize(
    ("answer", "field", "expected"),
    [
        ("yes", "", '{"decisions": […]}, one for each of 2 calls in their order (save_note, delete_note)'),
        (None, "", '{"decisions": […]}'),
        ({"decision": []}, "", '{"decisions": […]}'),
        ({"decisions": APPROVE}, "", '{"decisions": […]}'),
        ({"decisions": [APPROVE]}, ".decisions", "one for each of 2 calls"),
        ({"decisions": [APPROVE] * 3}, ".decisions", "got 3"),
        (
            {"decisions": [APPROVE, "reject"]},
            ".decisions.1.type",
            "one of approve, edit, reject, respond, for delete_note",
        ),
        ({"decisions": [{}, APPROVE]}, ".decisions.0.type", "one of approve"),
        ({"decisions": [{"type": "accept"}, APPROVE]}, ".decisions.0.type", "for save_note"),
        ({"decisions": [{"type": ["approve"]}, APPROVE]}, ".decisions.0.type", "for save_note"),
        ({"decisions": [{"type": "edit"}, APPROVE]}, ".decisions.0.edited_action", '"name": "save_note"'),
        ({"decisions": [edited("save_note", None), APPROVE]}, ".decisions.0.edited_action", "args"),  # type: ignore[arg-type]
        ({"decisions": [edited("delete_note", {}), APPROVE]}, ".decisions.0.edited_action.name", "'save_note'"),
        ({"decisions": [APPROVE, {"type": "respond"}]}, ".decisions.1.message", "text"),
        ({"decisions": [APPROVE, {"type": "reject", "message": 1}]}, ".decisions.1.message", "text"),
    ],
)
def test_wrong_answers_are_named(answer: Any, field: str, expected: str) -> None:
    """An answer that does not fit says where and what was expected."""
    asked = {
        "action_requests": [{"name": "save_note", "args": {}}, {"name": "delete_note", "args": {}}],
        "review_configs": [
            {"action_name": name, "allowed_decisions": ["approve", "edit", "reject", "respond"]}
            for name in ("save_note", "delete_note")
        ],
    }
    with pytest.raises(InvalidArgument) as wrong:
        check_answer("responses.i1", asked, answer, {"save_note", "delete_note"})
    assert wrong.value.field == f"responses.i1{field}"
    assert expected in wrong.value.message


def test_decisions_that_are_not_allowed() -> None:
    """What a graph's own middleware does not allow is no answer; an edit may name another tool there."""
    value = {
        "action_requests": [{"name": "pay", "args": {"amount": 1}, "description": "…"}],
        "review_configs": [{"action_name": "pay", "allowed_decisions": ["approve", "edit"]}],
    }
    with pytest.raises(InvalidArgument, match="expected one of approve, edit, for pay"):
        check_answer("f", value, {"decisions": [{"type": "reject"}]})
    check_answer("f", value, {"decisions": [edited("refund", {})]})
    with pytest.raises(InvalidArgument, match=r"f\.decisions\.0\.edited_action\.name"):
        check_answer("f", value, {"decisions": [edited("refund", {})]}, {"pay"})


@pytest.mark.parametrize(
    "value",
    [
        "sure?",
        {"question": "sure?"},
        {"action_requests": [], "review_configs": []},
        {"action_requests": [{"name": "a"}], "review_configs": []},
        {"action_requests": [{"name": "a", "args": {}}], "review_configs": [{"action_name": "b"}]},
        {"action_requests": ["a"], "review_configs": [{"action_name": "a", "allowed_decisions": ["approve"]}]},
        {"truncated": True, "bytes": 70_000, "preview": '{"action_requests"'},
    ],
)
def test_other_questions_take_any_answer(value: Any) -> None:
    """What is no approval request of LangChain's is the graph's own matter."""
    assert actions_of(value) is None
    check_answer("f", value, "whatever", set())


async def test_a_wrong_answer_resumes_nothing(serve: Serve) -> None:
    """It is refused with what was expected; the question stays, and a right answer is taken, under the same run_id."""
    served, socket, found = await asked(serve, *TWO)
    run_id = "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f"
    wrong = {found["id"]: {"decisions": [APPROVE]}}
    refused = await socket.ask("respond", responses=wrong, run_id=run_id)
    assert (refused["type"], refused["code"]) == ("error", "invalid_argument")
    assert refused["message"].startswith(f"responses.{found['id']}.decisions: expected one for each of 2 calls")
    ready = await (await served.connect("t")).next()
    assert ready["interrupts"] == [found]
    right = {found["id"]: {"decisions": [APPROVE, REJECT]}}
    ack = await socket.ask("respond", responses=right, run_id=run_id)
    assert (ack["type"], ack["run_id"]) == ("ack", run_id)
    assert (await socket.until("run_finished"))["status"] == "completed"
    assert [frame["trigger"] for frame in socket.of("run_started")] == ["send", "respond"]
    again = await socket.ask("respond", responses=right, run_id=run_id)
    assert (again["type"], again["duplicate"]) == ("ack", True)


async def test_an_answer_said_again_while_it_asks_again(serve: Serve) -> None:
    """The answer to a former question, repeated while a new one waits, gets the answer that it got."""
    _, socket, found = await asked(serve, SAVE)
    responses = {found["id"]: {"decisions": [APPROVE]}}
    ack = await socket.ask("respond", responses=responses)
    await socket.until("run_finished", run_id=ack["run_id"])
    await socket.turn("\n".join(TWO))
    again = await socket.ask("respond", responses=responses, run_id=ack["run_id"])
    assert (again["type"], again.get("duplicate")) == ("ack", True)
    assert (await decide(socket, APPROVE, REJECT))[-1]["status"] == "completed"


async def test_a_question_too_large_to_look_at(serve: Serve) -> None:
    """Where only the middleware can tell that an answer is wrong, the run fails and the thread is whole."""
    served = await serve("approval_graphs:strict")
    socket = await served.attach("t")
    await socket.turn()
    assert question(socket)["value"]["truncated"] is True
    frames = await decide(socket, APPROVE, APPROVE)
    assert (frames[-1]["status"], frames[-1]["error"]["code"]) == ("failed", "graph_error")
    assert_paired(socket.frames)
    history = await served.history("t")
    assert [message["role"] for message in history] == ["user", "assistant", "tool"]
    assert_whole(history)
    assert (await socket.turn())[-1]["status"] == "completed"


async def test_dropped(serve: Serve, provider: Provider) -> None:
    """Cancelling the waiting thread closes its calls with errors; nothing has run; the next turn works."""
    model = {"name": "openai:simulated", "base_url": provider.base_url}
    served, socket, _ = await asked(serve, *TWO, '/tool calculate {"expression": "1"}', model=model)
    assert (await socket.ask("cancel"))["type"] == "ack"
    told = await seen_by_provider(served, provider, "t")
    assert_whole(told)
    assert [message["role"] for message in told][-5:] == ["assistant", "tool", "tool", "tool", "user"]
    ready = await (await served.connect("t")).next()
    assert (ready["run"], ready["interrupts"]) == (None, [])
    assert results(await socket.turn("/tool list_notes {}"))["list_notes"] == ("ok", "The notebook is empty.")


async def test_a_question_of_another_configuration(serve: Serve) -> None:
    """Where the agent no longer asks about a call, its rejection is refused, and does not run it; the rest works."""
    first, socket, found = await asked(serve, *TWO)
    await socket.ws.close()
    await first.server.close()
    served = await serve(agent={"ask_before": ["delete_note"]}, database=first.database)
    socket = await served.attach("t")
    refused = await socket.ask("respond", responses={found["id"]: {"decisions": [REJECT, REJECT]}})
    assert refused["code"] == "invalid_argument"
    assert "the agent no longer asks before it calls save_note; cancel drops the question" in refused["message"]
    assert (await socket.ask("cancel"))["type"] == "ack"
    assert results(await socket.turn("/tool list_notes {}"))["list_notes"] == ("ok", "The notebook is empty.")
    assert_whole(await served.history("t"))


async def test_a_question_of_a_graph_that_is_gone(serve: Serve) -> None:
    """Where nothing asks any more, the question is dropped, its calls are closed, and the thread goes on."""
    first, socket, _ = await asked(serve, *TWO)
    await socket.ws.close()
    await first.server.close()
    served = await serve(agent={"ask_before": []}, database=first.database)
    socket = await served.attach("t")
    assert (socket.frames[0]["interrupts"], socket.frames[0]["run"]) == ([], None)
    assert_whole(await served.history("t"))
    assert results(await socket.turn("/tool list_notes {}"))["list_notes"] == ("ok", "The notebook is empty.")
    assert_whole(await served.history("t"))


# --- which tools ----------------------------------------------------------------------------------


def test_unknown_names_are_refused() -> None:
    """Without MCP servers, a tool that nobody has is a mistake in the config; one that is not on offer is none."""
    with pytest.raises(ValidationError, match="there is no tool 'delete_notes'; the nearest is delete_note"):
        Agent(ask_before=["delete_notes"])
    Agent(tools=["calculate"], ask_before=["delete_note"])


async def test_unknown_names_beside_mcp_servers(tmp_path: Path) -> None:
    """With MCP servers, the names are looked at once these have told their tools."""
    agent = Agent(mcp_servers={"tests": mcp_server(tmp_path)}, ask_before=["add", "refus"])
    with pytest.raises(StartupError, match=r"agent\.ask_before: there is no tool 'refus'; the nearest is refuse"):
        await opened(agent, tmp_path)


async def test_a_server_that_is_away_may_have_it(tmp_path: Path) -> None:
    """A name that a server might bring which has not come yet is told in the log, and does not stop the start."""
    away = {"command": sys.executable, "args": ["-c", "raise SystemExit(1)"]}
    with structlog.testing.capture_logs() as logs:
        await opened(Agent(mcp_servers={"away": away}, ask_before=["add"]), tmp_path)
    [line] = [line for line in logs if "ask_before" in line["event"]]
    assert (line["log_level"], line["names"]) == ("warning", ["add"])


async def opened(agent: Agent, folder: Path) -> None:
    from threadwire.graph import open_agent_graph
    from threadwire.models.simulated import SimulatedChatModel

    async with (
        open_storage(f"sqlite:///{folder / 'opened.db'}") as storage,
        open_agent_graph(SimulatedChatModel(), agent, calls_tools=True, takes=(), saver=storage.saver()) as graph,
    ):
        assert isinstance(graph, Graph)


def mcp_server(folder: Path) -> dict[str, Any]:
    return {"command": sys.executable, "args": [str(MCP_SERVER), str(folder / "journal")]}


async def test_mcp_tools(serve: Serve, tmp_path: Path) -> None:
    """A server's tool is asked about and edited as the agent's own, also where it is offered under another name."""
    agent = {"mcp_servers": {"tests": mcp_server(tmp_path)}, "ask_before": ["add", "calculate"]}
    _, socket, found = await asked(
        serve, '/tool add {"a": 1, "b": 2}', '/tool tests_calculate {"expression": "1"}', agent=agent
    )
    assert [action["name"] for action in found["value"]["action_requests"]] == ["add", "tests_calculate"]
    frames = await decide(socket, edited("add", {"a": 40, "b": 2}), APPROVE)
    assert frames[-1]["status"] == "completed"
    assert results(frames) == {"add": ("ok", "42"), "tests_calculate": ("ok", "mcp: 1")}


# --- graphs of a user's own -----------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
async def test_a_call_that_the_graph_writes_again(serve: Serve, in_place: bool) -> None:
    """A message written again under its id with another call is told again, whole; its result has the new name."""
    served = await serve("approval_graphs:corrected")
    socket = await served.attach("t")
    await socket.turn()
    said = {"name": "multiply", "args": {"a": 6, "b": 7}, "in_place": in_place}
    ack = await socket.ask("respond", responses={question(socket)["id"]: said})
    await socket.until("run_finished", run_id=ack["run_id"])
    assert [f["message"].get("tool_calls") for f in socket.of("message") if f["message"]["id"] == "a1"] == [
        [{"id": "c1", "name": "add", "args": {"a": 1, "b": 2}}],
        [{"id": "c1", "name": "multiply", "args": {"a": 6, "b": 7}}],
    ]
    assert results(socket.frames) == {"multiply": ("ok", "42")}
    history = await served.history("t")
    assert history[1] == [frame["message"] for frame in socket.of("message")][-1]


async def test_a_text_that_the_graph_writes_again(serve: Serve) -> None:
    """So is an answer whose text a later step changes, in the same run."""
    served = await serve("approval_graphs:rephrased")
    socket = await served.attach("t")
    frames = await socket.turn()
    told = [frame["message"]["content"] for frame in frames if frame["type"] == "message"]
    assert told == ["hi", "no", "no, politely"]


async def test_a_hidden_result_is_not_told(serve: Serve) -> None:
    """Where the policy hides what a tool gave, an edited call's stored result is hidden from the frames too."""
    served = await serve("approval_graphs:private")
    socket = await served.attach("t")
    await socket.turn()
    frames = await decide(socket, edited("whisper", {"text": "b"}))
    assert results(frames) == {"whisper": ("ok", None)}
    assert not any(b"psst" in data for data in socket.raw)


# --- the Python client ----------------------------------------------------------------------------


def documented() -> dict[str, Any]:
    """What the section "Questions" of docs/python-client.md defines."""
    text = (Path(__file__).parent.parent / "docs" / "python-client.md").read_text(encoding="utf-8")
    code = text.partition("\n## Questions\n")[2].partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    return names


async def test_the_python_client_decides(serve: Serve) -> None:
    """As the documentation shows it: each call is decided, and the turn that goes on gives the answer."""
    served = await serve(agent={"ask_before": ["save_note", "delete_note"]})
    names = documented()
    async with connect(served.url, thread_id="t") as chat:
        answer = await names["say"](chat, "\n".join(TWO), names["decide"])
    assert "Saved the note 'Plans'." in answer
    assert "Nothing may be deleted today." in answer


async def test_a_refused_answer_raises_and_may_be_given_again(serve: Serve) -> None:
    """The client is told what was expected; the question is in ``ready`` for another that comes, who answers it."""
    served = await serve(agent={"ask_before": ["save_note"]})
    async with connect(served.url, thread_id="t") as chat:
        turn = chat.send(SAVE)
        assert (await turn.finished()).status == "interrupted"
        [waits] = turn.interrupts
        with pytest.raises(CommandFailed, match="expected one, for save_note; got 0") as refused:
            await chat.respond({waits.id: {"decisions": []}}).text()
        assert refused.value.code == "invalid_argument"

    def other() -> str:
        with connect_sync(served.url, thread_id="t") as chat:
            [waits] = chat.ready.interrupts
            turn = chat.respond({waits.id: {"decisions": [APPROVE]}})
            text = turn.text()
            assert turn.interrupts == []
            return text

    assert "Saved the note 'Plans'." in await asyncio.to_thread(other)
