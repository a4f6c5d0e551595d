"""Where the tokens come from: which model a configuration opens, and what the simulated one says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from harness import eventually
from model_kit import Settings, Simulated, collect
from threadwire.errors import ConfigError, ContextTooLong, ModelAuth, ModelError, ModelRateLimited
from threadwire.models import DEFAULT_OPENAI_MODEL, Model, open_model
from threadwire.models.pace import Pace
from threadwire.models.script import MAX_QUOTE, MAX_TOKENS, Answer, CallPiece, Manner, Said, plan, words
from threadwire.models.simulated import SimulatedChatModel
from threadwire.simulate import start_simulator

FAST = Manner(tokens_per_second=0, first_token_ms=0)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def shout(text: str) -> str:
    """Say it loud."""
    return text.upper()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def fast(**options: Any) -> SimulatedChatModel:
    return SimulatedChatModel(**{"tokens_per_second": 0, "first_token_ms": 0} | options)


def ask(text: str, *, tools: tuple[str, ...] = (), manner: Manner = FAST) -> Answer:
    return plan([Said("user", text)], tools, manner)


class TestOpenModel:
    def test_auto_without_a_key_is_simulated(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """With no key at hand, auto picks the simulated model and says that the key is what is missing."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        model = open_model(Settings())
        assert isinstance(model.chat_model, SimulatedChatModel)
        assert model.name == "simulated"
        assert model.why.startswith("auto: OPENAI_API_KEY is not set")

    def test_auto_with_a_key_is_openai(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a key in the environment, auto picks OpenAI, and the key goes there and nowhere else."""
        monkeypatch.setenv("OPENAI_API_KEY", "sk-from-env")
        model = open_model(Settings())
        assert isinstance(model.chat_model, ChatOpenAI)
        assert key_of(model) == "sk-from-env"
        assert model.chat_model.model_name == DEFAULT_OPENAI_MODEL
        assert model.name == f"openai:{DEFAULT_OPENAI_MODEL}"
        assert "sk-from-env" not in repr(model) + str(model.description())

    def test_an_empty_key_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An environment variable that is set to nothing counts as not set."""
        monkeypatch.setenv("OPENAI_API_KEY", " ")
        assert not open_model(Settings()).name.startswith("openai:")

    def test_auto_with_an_address_and_no_key(self) -> None:
        """Who sets model.base_url alone is told why it is not used."""
        assert "model.base_url needs a model.name" in open_model(Settings(base_url="http://h/v1")).why

    def test_the_configured_key_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key in the settings wins over the one in the environment."""
        monkeypatch.setenv("OPENAI_API_KEY", "sk-from-env")
        assert key_of(open_model(Settings(name="openai:gpt-4o", api_key=SecretStr("sk-mine")))) == "sk-mine"

    def test_a_compatible_server_needs_no_key(self) -> None:
        """With a base_url and no key the model opens, streams, asks for usage; colons belong to the name."""
        model = open_model(Settings(name="openai:llama3.2:3b", base_url="http://127.0.0.1:11434/v1")).chat_model
        assert isinstance(model, ChatOpenAI)
        assert model.model_name == "llama3.2:3b"
        assert model.openai_api_base == "http://127.0.0.1:11434/v1"
        assert model.streaming is True
        assert model.stream_usage is True
        assert model.stream_chunk_timeout is None

    def test_max_tokens_go_as_each_server_knows_them(self) -> None:
        """OpenAI itself is sent max_completion_tokens, a compatible server max_tokens."""
        key = SecretStr("sk-x")
        own = open_model(Settings(name="openai:x", api_key=key, max_tokens=7, temperature=0.5)).chat_model
        other = open_model(Settings(name="openai:x", base_url="http://h/v1", max_tokens=7)).chat_model
        assert isinstance(own, ChatOpenAI)
        assert isinstance(other, ChatOpenAI)
        assert own._get_request_payload("hi")["max_completion_tokens"] == 7
        assert own._get_request_payload("hi")["temperature"] == 0.5
        assert other._get_request_payload("hi")["extra_body"] == {"max_tokens": 7}
        assert "max_completion_tokens" not in other._get_request_payload("hi")

    async def test_its_connections_end_with_it(self) -> None:
        """A model that is closed leaves no connection to its provider open, kept alive or not."""
        runner, port = await start_simulator(first_token_ms=0, tokens_per_second=0)
        provider = runner.server
        assert provider is not None
        try:
            async with open_model(Settings(name="openai:x", base_url=f"http://127.0.0.1:{port}/v1")) as model:
                await model.chat_model.ainvoke("hi")
                assert len(provider.connections) == 1
            await eventually(lambda: not provider.connections, "the connection is closed")
        finally:
            await runner.cleanup()

    def test_a_later_loop_asks_the_same_provider(self) -> None:
        """What a loop that has ended left behind does not fail the first turn of a later one."""

        async def once(port: int = 0) -> int:
            runner, port = await start_simulator(port=port, first_token_ms=0, tokens_per_second=0)
            async with open_model(Settings(name="openai:x", base_url=f"http://127.0.0.1:{port}/v1")) as model:
                assert (await model.chat_model.ainvoke("hi")).text
            await runner.cleanup()
            return port

        asyncio.run(once(asyncio.run(once())))

    def test_simulated_takes_its_settings(self) -> None:
        """The simulated section and max_tokens reach the model."""
        settings = Settings(name="simulated", max_tokens=3, simulated=Simulated(9.5, 10, 4))
        model = open_model(settings).chat_model
        assert isinstance(model, SimulatedChatModel)
        assert (model.tokens_per_second, model.first_token_ms, model.tokens) == (9.5, 10, 4)
        assert model.max_tokens == 3

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("openai:gpt-4o", "OPENAI_API_KEY"),
            ("openai:", "openai:NAME"),
            ("gpt-4o", "did you mean openai:gpt-4o?"),
            ("simualted", "did you mean simulated?"),
            ("anthropic:claude", "known are: auto, simulated, openai:NAME"),
            ("", "known are"),
        ],
    )
    def test_what_cannot_be_opened_says_what_to_do(self, name: str, said: str) -> None:
        """A name that names nothing, or lacks a key, is a ConfigError of one line that names the setting."""
        with pytest.raises(ConfigError) as caught:
            open_model(Settings(name=name))
        assert said in caught.value.message
        assert caught.value.message.startswith("model.name: ")
        assert "\n" not in caught.value.message


def key_of(model: Model) -> str:
    assert isinstance(model.chat_model, ChatOpenAI)
    assert isinstance(model.chat_model.openai_api_key, SecretStr)
    return model.chat_model.openai_api_key.get_secret_value()


class TestScript:
    @given(st.text(alphabet=st.characters(exclude_characters="/"), max_size=MAX_QUOTE))
    def test_any_message_is_answered_and_repeated(self, text: str) -> None:
        """Whatever is said, a plain answer quotes it to the letter, and is the same each time."""
        answer = ask(text)
        assert answer.text.endswith(text)
        assert answer == ask(text)

    @given(st.text(alphabet="/tolkens silrecua0123456789-\n{}\"'\t\r"))
    def test_no_slash_breaks_it(self, text: str) -> None:
        """Half-right directives never raise; usage counts the deltas of a whole answer."""
        answer = ask(text, tools=("lo",))
        if answer.ending == "whole":
            assert answer.usage.output_tokens == len(answer.deltas)

    def test_a_long_message_is_not_repeated_whole(self) -> None:
        """A plain answer quotes the beginning of a long message."""
        assert len(ask("x" * 100_000).text) < MAX_QUOTE + 200

    def test_exact_tokens(self) -> None:
        """/tokens N gives exactly N words that the asker can compute, others for another ask."""
        answer = ask("/tokens 100")
        assert answer.deltas == words(100, "/tokens 100")
        assert answer.usage.output_tokens == 100
        assert all(token.endswith(" ") and token.strip() for token in words(100, "x"))
        assert len({words(5, str(seed)) for seed in range(20)}) > 10
        assert ask("/tokens 0").deltas == ()

    def test_tokens_are_bounded(self) -> None:
        """Nobody makes the process hold an answer of a billion tokens."""
        assert len(ask("/tokens 999999999").deltas) == MAX_TOKENS

    def test_configured_tokens(self) -> None:
        """A configured number of tokens replaces the sentence, and a message that asks for another wins."""
        manner = Manner(0, 0, tokens=5)
        assert len(ask("hi", manner=manner).deltas) == 5
        assert len(ask("/tokens 7", manner=manner).deltas) == 7

    def test_max_tokens_cut_an_answer(self) -> None:
        """What is longer than max_tokens ends there, and says that its length is why."""
        answer = ask("/tokens 9", manner=Manner(0, 0, max_tokens=4))
        assert (len(answer.deltas), answer.finish_reason, answer.usage.output_tokens) == (4, "length", 4)
        assert ask("/tokens 4", manner=Manner(0, 0, max_tokens=4)).finish_reason == "stop"

    @pytest.mark.parametrize(
        "text",
        [
            " /tokens 3",
            "/tokens",
            "/tokens -1",
            "/tokens x",
            "/token 3",
            "/status 200",
            "/cut",
            "/error now",
            "/tool",
        ],
    )
    def test_what_is_no_directive_is_text(self, text: str) -> None:
        """A line that is not exactly a directive is answered as any other."""
        answer = ask(text)
        assert answer.text.startswith("I am a simulated model")
        assert (answer.ending, answer.failure) == ("whole", None)

    def test_only_the_last_user_message_directs(self) -> None:
        """A directive of an earlier turn does not come back."""
        said = [Said("user", "/error"), Said("assistant", "/error"), Said("user", "well?")]
        assert plan(said, (), FAST).failure is None

    def test_directives_may_stand_among_text(self) -> None:
        """Lines of text around directives, also with CRLF, do no harm."""
        answer = ask("please\r\n/tokens 2\r\n/first-token-ms 5\r\n/tokens-per-second 2.5\r\nthanks")
        assert (len(answer.deltas), answer.first_token_ms, answer.tokens_per_second) == (2, 5, 2.5)

    def test_calls_come_in_pieces_and_whole(self) -> None:
        """A call's arguments go over several deltas, which make up what was asked for."""
        answer = ask('/tool add {"a": 1, "b": 22222}', tools=("add",))
        pieces = [delta for delta in answer.deltas if isinstance(delta, CallPiece)]
        assert len(pieces) > 2
        assert (pieces[0].id, pieces[0].name) == (answer.calls[0].id, "add")
        assert "".join(piece.arguments for piece in pieces) == '{"a": 1, "b": 22222}'
        assert answer.finish_reason == "tool_calls"

    def test_the_same_call_in_a_later_turn_has_another_id(self) -> None:
        """Call ids do not repeat in a conversation that repeats itself, even where its memory is short."""
        seen: list[str] = []
        said: list[Said] = []
        for _ in range(50):
            said = [*said[-2:], Said("user", "/tool add")]
            call = plan(said, ("add",), FAST).calls[0]
            said += [Said("assistant", ""), Said("tool", "3", call.id)]
            seen.append(call.id)
        assert len(set(seen)) == 50

    def test_a_tool_that_is_not_on_offer_is_not_called(self) -> None:
        """Asked for a tool it does not have, it says which it has."""
        answer = ask("/tool fly", tools=("add", "shout"))
        assert answer.calls == ()
        assert answer.text == "I have no tool called fly. Tools that I have: add, shout."

    def test_the_end_comes_after_the_results(self) -> None:
        """With a tool call and a failure in one message, the call comes first."""
        said = [Said("user", "/tool add\n/error")]
        assert plan(said, ("add",), FAST).failure is None
        assert plan([*said, Said("assistant", ""), Said("tool", "3")], ("add",), FAST).failure is not None


class TestPace:
    def test_the_rate_is_kept_however_late_one_wakes(self) -> None:
        """However late it wakes, 1,000 tokens go out by their schedule, and none before its time."""
        pace = Pace(ask("/tokens-per-second 100\n/first-token-ms 500"), start=10.0)
        now, index = 10.0, 0
        while index < 1000:
            now += pace.wait(index, now) + 0.013
            index += pace.due(index, now)
            assert index <= (now - 10.5) * 100 + 1
        assert now < 10.5 + 10 + 0.1

    def test_no_token_is_due_before_the_first(self) -> None:
        """The first token waits for its delay, also at full speed."""
        pace = Pace(ask("/tokens-per-second 0\n/first-token-ms 250"), start=0.0)
        assert pace.wait(0, 0.0) == 0.25
        assert pace.wait(0, 0.3) == 0.0

    @given(st.floats(0, 1e6), st.integers(0, 10**6), st.floats(0, 1e9))
    def test_a_burst_is_bounded_and_never_empty(self, rate: float, index: int, now: float) -> None:
        """However far behind, there is something to send and a point to give way at."""
        answer = Answer((), ask("").usage, rate, 0)
        assert 1 <= Pace(answer, 0.0).due(index, now) <= Pace.BURST


class TestSimulatedChatModel:
    async def test_it_says_what_it_is(self) -> None:
        """Asked anything, it says that it is simulated and how to get a real model, and repeats it."""
        answer = await fast().ainvoke("What is 6 times 7?")
        assert "simulated" in answer.text
        assert "OPENAI_API_KEY" in answer.text
        assert answer.text.endswith("You said: What is 6 times 7?")

    async def test_it_streams_words(self) -> None:
        """Tokens come one a chunk; joined they are the text; the last has usage and the model's name."""
        chunks, whole = await collect(fast(), "/tokens 40")
        assert [chunk.text for chunk in chunks if chunk.text] == list(words(40, "/tokens 40"))
        assert chunks[-1].usage_metadata == {"input_tokens": 6, "output_tokens": 40, "total_tokens": 46}
        assert whole.response_metadata == {"model_name": "simulated", "finish_reason": "stop"}
        assert len({chunk.id for chunk in chunks}) == 1

    def test_it_works_without_a_loop(self) -> None:
        """The synchronous way gives the same as the other."""
        chunks = list(fast().stream("/tokens 40"))
        assert [chunk.text for chunk in chunks if chunk.text] == list(words(40, "/tokens 40"))
        assert fast().invoke("hello").text == asyncio.run(fast().ainvoke("hello")).text

    async def test_reasoning(self) -> None:
        """Reasoning comes before the answer, in the place where reasoning models have it."""
        chunks, whole = await collect(fast(), "/reasoning Let me think.\n/tokens 2")
        assert "reasoning_content" in chunks[0].additional_kwargs
        assert whole.additional_kwargs["reasoning_content"] == "Let me think."
        assert whole.usage_metadata is not None
        assert whole.usage_metadata["output_token_details"] == {"reasoning": 3}
        assert [block["type"] for block in whole.content_blocks] == ["reasoning", "text"]

    async def test_tools_in_an_agent(self) -> None:
        """In an agent, parallel calls asked for line by line are made, and the answer has their results."""
        agent: Any = create_agent(fast(), [add, shout])
        ask = 'Go:\n/tool add {"a": 40, "b": 2}\n/tool shout {"text": "hey"}'
        state = await agent.ainvoke({"messages": [HumanMessage(ask)]})
        _, called, *results, last = state["messages"]
        assert [(call["name"], call["args"]) for call in called.tool_calls] == [
            ("add", {"a": 40, "b": 2}),
            ("shout", {"text": "hey"}),
        ]
        assert called.response_metadata["finish_reason"] == "tool_calls"
        assert [type(result) for result in results] == [ToolMessage, ToolMessage]
        assert last.text == "The tool said: 42\nHEY"

    async def test_the_same_tool_in_the_next_turn(self) -> None:
        """A second turn with the same words calls the tool again."""
        agent: Any = create_agent(fast(), [add])
        ask = HumanMessage('/tool add {"a": 1, "b": 2}')
        state = await agent.ainvoke({"messages": [ask]})
        state = await agent.ainvoke({"messages": [*state["messages"], HumanMessage(ask.content)]})
        ids = [m.tool_calls[0]["id"] for m in state["messages"] if isinstance(m, AIMessage) and m.tool_calls]
        assert len(set(ids)) == 2

    async def test_arguments_that_are_no_json(self) -> None:
        """Broken arguments arrive as a provider's would: an invalid tool call."""
        _, whole = await collect(fast().bind_tools([add]), "/tool add not-json")
        assert whole.tool_calls == []
        assert whole.invalid_tool_calls[0]["args"] == "not-json"

    @pytest.mark.parametrize(
        ("line", "error"),
        [
            ("/error", ModelError),
            ("/status 503", ModelError),
            ("/status 401", ModelAuth),
            ("/status 429", ModelRateLimited),
            ("/status 400 context_length_exceeded", ContextTooLong),
            ("/status 400", ModelError),
        ],
    )
    async def test_failures(self, line: str, error: type[Exception]) -> None:
        """A failure that is asked for is raised, as what a provider's would become."""
        with pytest.raises(error) as caught:
            await fast().ainvoke(line)
        assert type(caught.value) is error
        with pytest.raises(error):
            fast().invoke(line)

    async def test_a_cut_comes_after_its_tokens(self) -> None:
        """/cut N gives N tokens and then fails."""
        got: list[str] = []

        async def read() -> None:
            async for chunk in fast().astream("/tokens 9\n/cut 3"):
                got.append(chunk.text)  # noqa: PERF401 -- what came before the error counts

        with pytest.raises(ModelError):
            await read()
        assert got == list(words(9, "/tokens 9\n/cut 3")[:3])

    async def test_silence_can_be_cancelled(self) -> None:
        """/silent N gives N tokens, then nothing, and ends at once when its task is cancelled."""
        got: list[str] = []
        third = asyncio.Event()

        async def read(model: BaseChatModel) -> None:
            async for chunk in model.astream("/tokens 9\n/silent 3"):
                got.append(chunk.text)
                if len(got) == 3:
                    third.set()

        task = asyncio.create_task(read(fast()))
        async with asyncio.timeout(10):
            await third.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(got) == 3

    def test_silence_without_a_loop_is_refused(self) -> None:
        """A thread that nothing could wake is not put to sleep."""
        with pytest.raises(ModelError):
            fast().invoke("/silent")

    async def test_full_speed_gives_way(self) -> None:
        """A stream as fast as possible lets other tasks run all the time."""
        turns = 0
        done = asyncio.Event()

        async def other() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await collect(fast(), "/tokens 3200")
        done.set()
        await task
        assert turns >= 3200 // Pace.BURST
