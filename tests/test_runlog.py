"""A run's log as JSON patches: ``POST /runs/stream`` with ``stream: "log"``."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import jsonpatch
import pytest

from conftest import Serve
from harness import Provider, Served, eventually
from shared_provider import provider, provider_url
from test_ndjson import Lines
from threadwire.filters import Filter
from threadwire.runlog import _escaped, _in_langchains_terms

__all__ = ["provider", "provider_url"]  # fixtures

RUN = "0190a6f2-7c1e-7b3a-9d2f-1a2b3c4d5e6f"
OPEN = {"allow_raw": True, "include_types": [], "exclude_tags": []}


async def log(served: Served, **body: Any) -> list[dict[str, Any]]:
    async with served.session.post(f"{served.url}/runs/stream", json={"stream": "log", **body}) as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson"), await response.text()
        return await Lines(response).all()


def state(frames: list[dict[str, Any]]) -> Any:
    """The RunState that the patches make."""
    made: Any = {}
    for frame in frames:
        if frame["type"] == "log":
            made = jsonpatch.apply_patch(made, frame["ops"])
    return made


async def test_the_patches_make_the_state(serve: Serve, provider: Provider) -> None:
    """Applied one after the other they give the RunState: what the graph gave, and a log of each runnable in it."""
    served = await serve("stream_graphs:everything", events=OPEN)
    frames = await log(served, content="/tokens 3", run_id=RUN, id="x")
    assert frames[0] == {"type": "ack", "id": "x", "run_id": RUN}
    assert {frame["type"] for frame in frames[1:-1]} == {"log"}
    end = frames[-1]
    assert (end["type"], end["run_id"], end["status"]) == ("run_finished", RUN, "completed")
    assert end["usage"]["output_tokens"] == 40
    made = state(frames)
    assert (made["id"], made["name"], made["type"]) == (RUN, "LangGraph", "chain")
    [update] = made["streamed_output"]
    answer = update["work"]["messages"][0]["content"]
    assert made["final_output"] == update
    assert {"work", "pipe", "ChatOpenAI", "Shelf", "PromptTemplate", "StrOutputParser", "Words"} <= set(made["logs"])
    model = made["logs"]["ChatOpenAI"]
    said = "".join(model["streamed_output_str"])
    assert said in answer
    assert len(model["streamed_output"]) >= 3
    assert model["end_time"] is not None
    assert made["logs"]["RunnableParallel<a,b>"]["final_output"]["a"] == said
    await served.server.close()
    with sqlite3.connect(served.database) as database:
        for table in ("threads", "runs", "checkpoints", "writes"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


async def test_a_name_with_a_slash(serve: Serve) -> None:
    """LangChain does not escape names in its paths; the patches can be applied all the same."""
    served = await serve("stream_graphs:slashed", events=OPEN)
    made = state(await log(served, content="hi"))
    assert made["logs"]["a/b~c"]["final_output"] == {"output": "HI"} or made["logs"]["a/b~c"]["final_output"] == "HI"


def test_paths() -> None:
    """Only the name is escaped."""
    assert _escaped("/logs/a~1/b:2/streamed_output/-") == "/logs/a~01~1b:2/streamed_output/-"
    assert _escaped("/logs/x/final_output") == "/logs/x/final_output"
    assert _escaped("/logs/x/y") == "/logs/x~1y"
    assert (_escaped(""), _escaped("/streamed_output/-")) == ("", "/streamed_output/-")


async def test_not_where_raw_is_not_allowed(serve: Serve) -> None:
    """403 without ``events.allow_raw``; other modes and fields of threads are 400; a bad context too."""
    served = await serve("graphs:echo")
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"stream": "log", "content": "hi"}, 403, "forbidden"),
        ({"stream": "events", "content": "hi"}, 400, "invalid_argument"),
        ({"content": "hi"}, 400, "invalid_argument"),
    ]
    await assert_refused(served, wrong)
    await served.server.close()
    served = await serve("graphs:echo", events=OPEN)
    await assert_refused(
        served,
        [
            ({"stream": "log", "content": ""}, 400, "invalid_argument"),
            ({"stream": "log", "content": "hi", "message_id": "m"}, 400, "invalid_argument"),
            ({"stream": "log", "content": "hi", "type": "cancel"}, 400, "invalid_argument"),
            ({"stream": "log", "content": "hi", "context": {"a": 1}}, 400, "invalid_argument"),
        ],
    )


async def assert_refused(served: Served, wrong: list[tuple[dict[str, Any], int, str]]) -> None:
    for body, status, code in wrong:
        async with served.session.post(f"{served.url}/runs/stream", json=body) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (status, code), body


async def test_the_policy_holds(serve: Serve, provider: Provider) -> None:
    """What the server hides is in no log; the graph's own output always is."""
    policy = {"allow_raw": True, "include_types": [], "exclude_types": ["chain"], "exclude_tags": ["one"]}
    served = await serve("stream_graphs:everything", events=policy)
    made = state(await log(served, content="/tokens 3"))
    assert set(made["logs"]) == {"StrOutputParser", "PromptTemplate", "Words"}
    assert made["final_output"]["work"]["messages"]


def test_langchains_terms() -> None:
    """To its log chat models and plain ones are one kind, so that neither is shown where one is to be hidden."""
    both = Filter(include_types=frozenset({"chat_model", "llm", "tool"}))
    assert _in_langchains_terms(both)["include_types"] == ["chat_model", "llm", "tool"]
    one = Filter(include_types=frozenset({"chat_model", "tool"}), exclude_types=frozenset({"llm"}))
    terms = _in_langchains_terms(one)
    assert (terms["include_types"], terms["exclude_types"]) == (["tool"], ["chat_model", "llm"])
    assert set(_in_langchains_terms(Filter()).values()) == {None}


async def test_how_it_ends(serve: Serve, provider: Provider) -> None:
    """A failure and a timeout are told in ``run_finished``."""
    served = await serve("cut_graphs:fails", events=OPEN, runs={"timeout_seconds": 1.5})
    end = (await log(served, content="a secret\n/tokens 1"))[-1]
    assert (end["status"], end["error"]["code"]) == ("failed", "graph_error")
    assert "secret-in-exception" not in repr(end)
    end = (await log(served, content="/tokens 5000"))[-1]
    assert (end["status"], end["reason"], end["error"]["code"]) == ("cancelled", "timeout", "timeout")
    assert (await provider.stats())["open"] == 0


@pytest.mark.parametrize("silent", [False, True], ids=["streaming", "silent"])
async def test_a_client_that_leaves_stops_it(serve: Serve, provider: Provider, *, silent: bool) -> None:
    """Its provider request is closed at once."""
    served = await serve("graphs:openai", events=OPEN)
    body = {"stream": "log", "content": "/silent" if silent else "/tokens 5000"}
    async with served.session.post(f"{served.url}/runs/stream", json=body) as response:
        await Lines(response).next()

        async def open_is(count: int) -> bool:
            return bool((await provider.stats())["open"] == count)

        await eventually(lambda: open_is(1))
        response.close()
    await eventually(lambda: open_is(0))
    await eventually(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("run ")])
