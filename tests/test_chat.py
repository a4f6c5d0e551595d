"""What ``threadwire chat`` promises: the real program in a real pseudo-terminal, against real servers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import threadwire
from conftest import Serve
from fault_proxy import fault_proxy
from harness import DEADLINE, eventually
from process import ServerProcess
from threadwire.approvals import actions_of
from threadwire.client import connect
from threadwire.errors import StartupError
from threadwire.protocol import Interrupt
from threadwire.terminal import commands
from threadwire.terminal.address import server_url
from threadwire.terminal.decisions import decision_of
from threadwire.terminal.markdown import Blocks
from threadwire.terminal.questions import Questions, as_line, value_of
from threadwire.terminal.screen import PROMPT
from threadwire.terminal.texts import brief, clean

#: Slow enough to be seen on its way, long enough to never end within a test.
ENDLESS = "/tokens 100000\n/tokens-per-second 50"
READY = PROMPT.strip()
ENTER, NEW_LINE, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07|[()][0-9A-Z]|[=>78])")
#: Makes the pseudo-terminal on stdin the process's own, so that Ctrl-C in it is SIGINT, and becomes the command.
_BOOTSTRAP = (
    "import fcntl, termios, runpy; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "runpy.run_module('threadwire', run_name='__main__', alter_sys=True)"
)

pytestmark = pytest.mark.slow


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """The test's own environment, where a server that the client starts is a fast simulated one."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("THREADWIRE_", "XDG_"))}
    # Where the package is not installed, its processes find it too.
    own |= {"PYTHONPATH": str(Path(threadwire.__file__).parents[1])}
    own |= {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(folder / "state")}
    own |= {"THREADWIRE_MODEL__NAME": "simulated", "THREADWIRE_MODEL__SIMULATED__TOKENS_PER_SECOND": "0"}
    own |= {"THREADWIRE_MODEL__SIMULATED__FIRST_TOKEN_MS": "0", "COLUMNS": "80", "LINES": "40"}
    return own | {f"THREADWIRE_{key.upper()}": value for key, value in settings.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gone(pid: int) -> bool:
    """Whether that process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Terminal:
    """The program in a terminal of 80 by 40."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self._master = master
        self._written = b""
        self._from = 0
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            piece = os.read(self._master, 1 << 16)
        except OSError:  # EIO: nobody has the other end open
            piece = b""
        if not piece:
            asyncio.get_running_loop().remove_reader(self._master)
        self._written += piece

    @property
    def text(self) -> str:
        """What was written, without colours, in one line."""
        return " ".join(_ESCAPES.sub("", self._written.decode("utf-8", "replace")).split())

    async def sees(self, what: str) -> None:
        """Wait until something is written; the next search begins behind it."""
        try:
            await eventually(lambda: what in self.text[self._from :], what)
        except AssertionError:
            raise AssertionError(f"not seen: {what!r}, but: {self.text[self._from :][-1500:]!r}") from None
        self._from = self.text.index(what, self._from) + len(what)

    def type(self, text: str) -> None:
        os.write(self._master, text.replace("\n", NEW_LINE).encode())

    def say(self, text: str) -> None:
        self.type(text + ENTER)

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await self.process.wait()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


Open = Callable[..., Awaitable[Terminal]]


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens ``threadwire chat`` with the arguments that it is called with."""
    opened: list[Terminal] = []

    async def open_terminal(*arguments: str, **settings: str) -> Terminal:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _BOOTSTRAP,
            "chat",
            *arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(tmp_path, **settings),
            cwd=tmp_path,
            start_new_session=True,
        )
        os.close(slave)
        opened.append(Terminal(process, master))
        return opened[-1]

    yield open_terminal
    for one in opened:
        await one.close()


class Script:
    """One run of the program without a terminal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ended(self, said: str | None = None) -> tuple[int | None, str, str]:
        """Its exit code, stdout and stderr; ``said`` is its stdin."""
        async with asyncio.timeout(DEADLINE):
            out, err = await self.process.communicate(said.encode() if said is not None else None)
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
async def script(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Script]]]:
    """Starts ``threadwire chat`` with the arguments that it is called with, as a script does."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str, command: tuple[str, ...] = ("-m", "threadwire"), **settings: str) -> Script:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            "chat",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(tmp_path, **settings),
            cwd=tmp_path,
        )
        started.append(process)
        return Script(process)

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        # To the end of its pipes: what is left open would outlive its loop.
        await process.communicate()


Run = Callable[..., Awaitable[Script]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server process; not started yet."""
    folder = tmp_path / "server"
    folder.mkdir()
    process = ServerProcess(folder)
    yield process
    await process.kill()


def thread_of(told: str) -> str:
    """The thread's id in what the program said."""
    found = re.search(r"thread ([0-9a-f-]{36})", told)
    assert found, told
    return found[1]


# --- a conversation -----------------------------------------------------------------------------------------


async def test_a_conversation(serve: Serve, terminal: Open) -> None:
    """Tokens are seen as they come, Ctrl-C cancels the turn and not the program, and Ctrl-D leaves with 0."""
    served = await serve()
    one = await terminal(served.url, "--thread", "t")
    await one.sees("simulated · thread t")
    one.say(ENDLESS)
    await one.sees("river")
    await one.sees("answering")
    one.type(CTRL_C)
    await one.sees("! cancelled")
    one.say("Are you still there?")
    await one.sees("You said: Are you still there?")
    await one.sees("tokens in")
    one.type(CTRL_D)
    assert await one.ended() == 0
    said = await served.history("t")
    assert [m["role"] for m in said] == ["user", "assistant"] * 2
    assert [m.get("status", "complete") for m in said][1::2] == ["cancelled", "complete"]
    assert said[0]["content"] == ENDLESS


async def test_ctrl_c_at_the_prompt(serve: Serve, terminal: Open) -> None:
    """Ctrl-C clears what is typed; where nothing is, it leaves with 0."""
    served = await serve()
    one = await terminal(served.url)
    await one.sees(f"Ctrl-D leaves {READY}")
    one.type("half a sen" + CTRL_C + "whole" + ENTER)
    await one.sees("You said: whole")
    await one.sees(READY)
    one.type(CTRL_C)
    assert await one.ended() == 0


async def test_told_to_leave(serve: Serve, terminal: Open) -> None:
    """When the window is closed at the prompt, it ends at once and without a complaint."""
    served = await serve()
    one = await terminal(served.url)
    await one.sees(READY)
    one.process.send_signal(signal.SIGHUP)
    assert await one.ended() == 128 + signal.SIGHUP
    assert "exception" not in one.text


async def test_history_on_attach(serve: Serve, terminal: Open) -> None:
    """A thread that is gone on with shows its last messages, formatted, with its tool calls and what was cut off."""
    served = await serve()
    async with connect(served.url, thread_id="t") as chat:
        for number in range(12):
            await chat.send(f"message {number} of **many**").finished()
        await chat.send('/tool calculate {"expression": "6 * 7"}').finished()
        cut = chat.send(ENDLESS)
        async for frame in cut:
            if frame.type == "token":
                await cut.cancel()
                break
        await cut.finished()
    one = await terminal(served.url, "--thread", "t")
    await one.sees("earlier messages: /history")
    await one.sees("You said: message 11 of many")
    await one.sees('✓ calculate(expression="6 * 7") 42 The tool said: 42')
    await one.sees(f"! cut off {READY}")
    assert "message 0 of" not in one.text
    one.say("/history")
    await one.sees("message 0 of")


async def test_a_tool_call(serve: Serve, terminal: Open) -> None:
    """A tool call is shown with its result, shortened, and then the answer and what it cost."""
    served = await serve()
    one = await terminal(served.url)
    await one.sees(READY)
    one.say('/tool calculate {"expression": "2 ** 100 * 3"}')
    await one.sees('✓ calculate(expression="2 ** 100 * 3") 3802951800684688204490109616128')
    await one.sees("The tool said:")


async def test_commands(serve: Serve, terminal: Open) -> None:
    """/thread tells the thread, /new begins another, /thread ID goes back, /help lists them, /quit leaves."""
    served = await serve()
    one = await terminal(served.url, "--thread", "t")
    await one.sees(READY)
    one.say("first words")
    await one.sees("You said: first words")
    await one.sees(READY)
    one.say("/new")
    await eventually(lambda: re.search(rf"simulated · thread [0-9a-f-]{{36}} {READY}", one.text), "another thread")
    one.say("/thread t")
    await one.sees(f"simulated · thread t {READY} first words")
    one.say("//help me")
    await one.sees("You said: /help me")
    await one.sees(READY)
    one.say("/help")
    await one.sees("/quit leave")
    one.say("/quit")
    assert await one.ended() == 0
    assert [m["content"] for m in await served.history("t") if m["role"] == "user"] == ["first words", "/help me"]


async def test_another_window(serve: Serve, terminal: Open) -> None:
    """What another window of the thread says is shown as it comes, and what was half typed here is kept."""
    served = await serve()
    one = await terminal(served.url, "--thread", "t")
    await one.sees(READY)
    one.type("half typed")
    await one.sees("half typed")
    async with connect(served.url, thread_id="t") as chat:
        await chat.send("from elsewhere").finished()
    await one.sees(f"{READY} from elsewhere")
    await one.sees("half typed")
    one.type(", now whole" + ENTER)
    await one.sees("You said: half typed, now whole")


async def test_a_running_answer_goes_on(serve: Serve, terminal: Open) -> None:
    """Attached in mid-answer, it shows what was said, goes on with it, and Ctrl-C cancels it."""
    served = await serve()
    async with connect(served.url, thread_id="t") as chat:
        turn = chat.send(ENDLESS)
        async for frame in turn:
            if frame.type == "token":
                break
        one = await terminal(served.url, "--thread", "t")
        await one.sees("answering")
        one.type(CTRL_C)
        assert (await turn.finished()).status == "cancelled"
        await one.sees("! cancelled")


ASKING = """
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

def ask(state: MessagesState):
    first = interrupt("Shall I **really**?")
    second = interrupt({"how": "many"})
    return {"messages": [AIMessage(f"so {first!r} and {second!r}")]}

graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask")
"""


async def test_questions(serve: Serve, terminal: Open, tmp_path: Path) -> None:
    """An interrupt is shown as a question, also to who comes later, and is answered with text or a JSON value."""
    (tmp_path / "asking.py").write_text(ASKING)
    served = await serve(f"{tmp_path / 'asking.py'}:graph")
    one = await terminal(served.url, "--thread", "t")
    await one.sees(READY)
    one.say("do it")
    await one.sees("Shall I really?")
    one.type(CTRL_D)
    assert await one.ended() == 0
    one = await terminal(served.url, "--thread", "t")
    await one.sees("? a question to you Shall I really?")
    one.say("yes, do")
    await one.sees('"how": "many"')
    one.say('{"n": 3}')
    await one.sees("so 'yes, do' and {'n': 3}")


async def test_decisions(serve: Serve, terminal: Open) -> None:
    """Calls that the agent asks about are decided one by one; results have titles, also for who comes later."""
    served = await serve(agent={"ask_before": ["save_note", "delete_note"]})
    one = await terminal(served.url, "--thread", "t")
    await one.sees(READY)
    one.say('/tool save_note {"title": "Plans", "text": "sail"}\n/tool delete_note {"title": "Old"}')
    await one.sees("Call save_note? (1 of 2)")
    await one.sees('"title": "Plans"')
    one.say("perhaps")
    await one.sees("! that is no decision: y calls it;")
    one.type("\x15")
    one.say('edit {"title": "Trips"}')
    await one.sees("Call delete_note? (2 of 2)")
    one.type(CTRL_D)
    assert await one.ended() == 0
    one = await terminal(served.url, "--thread", "t")
    await one.sees("Call save_note? (1 of 2)")
    one.say('edit {"title": "Trips"}')
    await one.sees("Call delete_note? (2 of 2)")
    one.say("no, it is dear to me")
    await one.sees('✗ delete_note(title="Old")')
    await one.sees("with reason: it is dear to me")
    await one.sees('✓ save_note(title="Plans", text="sail")')
    await one.sees("Saved the note 'Trips'.")


async def test_input_history_is_kept(serve: Serve, terminal: Open, tmp_path: Path) -> None:
    """What was typed is there with arrow-up in the next run, in a file that only the user can read."""
    served = await serve()
    one = await terminal(served.url)
    await one.sees(READY)
    one.say("to be said again")
    await one.sees("You said: to be said again")
    one.type(CTRL_D)
    assert await one.ended() == 0
    one = await terminal(served.url)
    await one.sees(READY)
    one.type("\x1b[A")
    await one.sees("to be said again")
    one.type(ENTER)
    await one.sees("You said: to be said again")
    assert (tmp_path / "state/threadwire/chat-history").stat().st_mode & 0o077 == 0


# --- servers that come and go -------------------------------------------------------------------------------


async def test_server_dies_in_mid_answer(server: ServerProcess, terminal: Open) -> None:
    """A server that is killed and comes back: that is said, the turn gets an end, and the next one works."""
    await server.start()
    port = server.url.rpartition(":")[2]
    one = await terminal(f"127.0.0.1:{port}", "--thread", "t")
    await one.sees(READY)
    one.say(ENDLESS)
    await one.sees("answering")
    await server.kill()
    await one.sees("connection lost: reconnecting…")
    await server.launch("--port", port)
    await one.sees("back")
    await one.sees(READY)
    one.say("and now?")
    await one.sees("You said: and now?")


async def test_lost_connection_misses_nothing(serve: Serve, terminal: Open) -> None:
    """A connection that is cut in mid-answer comes back, and says that nothing was missed."""
    served = await serve()
    async with fault_proxy(served.url) as proxy:
        one = await terminal(proxy.url, "--thread", "t")
        await one.sees(READY)
        one.say("/tokens 150\n/tokens-per-second 50")
        await one.sees("answering")
        proxy.cut()
        await one.sees("back, nothing was missed")
        await one.sees("150 out")
    [_, answer] = await served.history("t")
    assert len(answer["content"].split()) == 150


async def test_uses_the_server_that_runs(serve: Serve, terminal: Open, script: Run) -> None:
    """Without a URL, a server where the configuration says is used, and none is started."""
    served = await serve()
    port = served.url.rpartition(":")[2]
    code, out, err = await (await script("--message", "hi", server__port=port)).ended()
    assert (code, out.endswith("You said: hi\n")) == (0, True)
    assert "starting" not in err
    assert [m["role"] for m in await served.history(thread_of(err))] == ["user", "assistant"]


async def test_starts_its_own_server(terminal: Open, tmp_path: Path) -> None:
    """Where none runs, it starts one on the configured database, which ends with it."""
    one = await terminal(server__port=str(free_port()))
    await one.sees("starting one for this conversation")
    await one.sees(READY)
    pid = int((tmp_path / "threadwire.db.lock").read_text())
    assert not gone(pid)
    one.say("hello")
    await one.sees("You said: hello")
    one.type(CTRL_D)
    assert await one.ended() == 0
    assert gone(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
async def test_own_server_ends_however_the_program_does(number: signal.Signals, terminal: Open, tmp_path: Path) -> None:
    """However the program is ended, in mid-answer too, its server ends."""
    one = await terminal(server__port=str(free_port()))
    await one.sees(READY)
    pid = int((tmp_path / "threadwire.db.lock").read_text())
    one.say(ENDLESS)
    await one.sees("answering")
    one.process.send_signal(number)
    assert await one.ended() in (-number, 128 + number)
    await eventually(lambda: gone(pid), "its server ends")


async def test_database_of_another_server(server: ServerProcess, script: Run) -> None:
    """Where another server has the database, that is one clear line with the way out, and 2."""
    await server.start()
    database = f"sqlite:///{server.folder / 'threadwire.db'}"
    code, out, err = await (
        await script("--message", "hi", server__port=str(free_port()), storage__url=database)
    ).ended()
    assert (code, out) == (2, "")
    assert "in use by another threadwire server" in err
    assert "threadwire chat http://HOST:PORT" in err
    assert "Traceback" not in err


async def test_mistake_in_the_configuration(script: Run) -> None:
    """A mistake in the configuration is told as any command tells it, and is 2."""
    code, out, err = await (await script("--message", "hi", runs__max_queued="many")).ended()
    assert (code, out) == (2, "")
    assert err.startswith("threadwire: runs.max_queued: expected a whole number")


# --- in scripts ---------------------------------------------------------------------------------------------


async def test_message(serve: Serve, script: Run) -> None:
    """--message prints the answer's text alone on stdout, tells the new thread on stderr, and is 0."""
    served = await serve()
    code, out, err = await (await script(served.url, "--message", "/tokens 30")).ended()
    thread = thread_of(err)
    assert (code, err) == (0, f"threadwire: thread {thread}\n")
    [_, answer] = await served.history(thread)
    assert out == answer["content"].rstrip("\n") + "\n"
    code, out, err = await (await script(served.url, "--message", "again", "--thread", thread)).ended()
    assert (code, out.endswith("You said: again\n"), err) == (0, True, "")
    assert len(await served.history(thread)) == 4


async def test_pipe(serve: Serve, script: Run) -> None:
    """A message on stdin is answered the same way, several lines and slashes included."""
    served = await serve()
    code, out, _ = await (await script(served.url)).ended("/help\nwith two lines\n")
    assert (code, out.endswith("You said: /help\nwith two lines\n")) == (0, True)


async def test_stdout_is_streamed(serve: Serve, script: Run) -> None:
    """Text is on stdout as soon as it comes; Ctrl-C cancels the run first, and is 130."""
    served = await serve()
    one = await script(served.url, "--thread", "t", "--message", ENDLESS)
    assert one.process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        first = await one.process.stdout.read(1)
    assert first
    one.process.send_signal(signal.SIGINT)
    code, _, err = await one.ended()
    assert (code, err) == (130, "threadwire: cancelled\n")
    assert [m.get("status") for m in await served.history("t")][1] == "cancelled"


async def test_a_tool_call_is_told_on_stderr(serve: Serve, script: Run) -> None:
    """Tool calls and their results stand on stderr, and the answer's text alone on stdout."""
    served = await serve()
    message = '/tool calculate {"expression": "6 * 7"}'
    code, out, err = await (await script(served.url, "--thread", "t", "--message", message)).ended()
    assert (code, out) == (0, "The tool said: 42\n")
    assert err == 'threadwire: calculate(expression="6 * 7")\nthreadwire: calculate: 42\n'


async def test_failed_is_1(serve: Serve, script: Run) -> None:
    """A turn that fails, or that another client cancels, is 1, with the reason on stderr."""
    served = await serve()
    code, out, err = await (await script(served.url, "--thread", "t", "--message", "/error")).ended()
    assert (code, out) == (1, "")
    assert "(model_error)" in err
    one = await script(served.url, "--thread", "t", "--message", ENDLESS)
    assert one.process.stdout is not None
    await one.process.stdout.read(1)
    async with connect(served.url, thread_id="t") as chat:
        await chat.cancel()
    code, _, err = await one.ended()
    assert (code, err) == (1, "threadwire: cancelled\n")


async def test_nobody_reads_on(serve: Serve, script: Run) -> None:
    """Where the reader of stdout goes away (``| head``) it ends at once, with 1 and no complaint."""
    served = await serve()
    one = await script(served.url, "--thread", "t", "--message", ENDLESS)
    assert one.process.stdout is not None
    await one.process.stdout.read(1)
    one.process.stdout._transport.close()  # type: ignore[attr-defined]
    assert one.process.stderr is not None
    async with asyncio.timeout(DEADLINE):
        assert (await one.process.wait(), await one.process.stderr.read()) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("127.0.0.1:1", "--message", "hi"), "cannot connect: "),
        (("ftp://127.0.0.1", "--message", "hi"), "ftp://127.0.0.1: not the URL of a server"),
        (("127.0.0.1:1", "--message", "hi", "--thread", "no good"), "--thread: thread_id: expected 1-128"),
        (("127.0.0.1:1", "--message", ""), "there is nothing to say"),
        (("127.0.0.1:1",), "there is nothing to say"),
    ],
)
async def test_startup_errors_are_2(arguments: tuple[str, ...], said: str, script: Run) -> None:
    """What keeps it from starting is a line on stderr, nothing on stdout, and 2."""
    code, out, err = await (await script(*arguments)).ended("")
    assert (code, out) == (2, "")
    assert err.startswith(f"threadwire: {said}")
    assert err.count("\n") == 1


async def test_not_a_threadwire_server(script: Run, session: aiohttp.ClientSession) -> None:
    """A server that is none of ours is named as that, and is 2."""
    app = aiohttp.web.Application()
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    try:
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        code, _, err = await (await script(f"127.0.0.1:{runner.addresses[0][1]}", "--message", "hi")).ended()
    finally:
        await runner.cleanup()
    assert code == 2
    assert "there is no threadwire server" in err


WITHOUT_EXTRA = (
    "import sys; sys.modules['rich'] = sys.modules['prompt_toolkit'] = None;"
    "from threadwire.cli import main; sys.exit(main())"
)


async def test_without_the_extra(serve: Serve, script: Run) -> None:
    """Without rich and prompt_toolkit, scripts get their answers."""
    served = await serve()
    command = ("-c", WITHOUT_EXTRA)
    code, out, _ = await (await script(served.url, "--message", "hi", command=command)).ended()
    assert (code, out.endswith("You said: hi\n")) == (0, True)


# --- the parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/ws"),
        ("http://h:1/", "http://h:1/ws"),
        ("https://h/chat", "https://h/chat/ws"),
        ("ws://h:1/ws", "ws://h:1/ws"),
        ("wss://h/ws/", "wss://h/ws"),
        ("[::1]:8000", "http://[::1]:8000/ws"),
        ("h:1?key=a", "http://h:1/ws?key=a"),
    ],
)
def test_server_url(written: str, url: str) -> None:
    """Each way to write an address leads to the socket's URL."""
    assert server_url(written) == url


@pytest.mark.parametrize("written", ["", "http://", "h:99999", "file:///x", "h:port"])
def test_server_url_refuses(written: str) -> None:
    """What is no address is refused with a sentence."""
    with pytest.raises(StartupError, match="not the URL of a server"):
        server_url(written)


def test_blocks_come_out_whole() -> None:
    """Piece by piece, each Markdown block comes out once, when nothing can change it; in all, no character is lost."""
    text = "One.\n\n- a\n\n- b\n  more\n\n```\nx\n\ny\n```\n\n| a |\n|---|\n| 1 |\n\nEnd\n"
    blocks, out = Blocks(), []
    for character in text:
        blocks.add(character)
        if whole := blocks.whole():
            out.append(whole)
    assert [part.strip() for part in out] == ["One.", "- a\n\n- b\n  more", "```\nx\n\ny\n```", "| a |\n|---|\n| 1 |"]
    assert "".join(out) + blocks.all() == text


def test_commands_are_few() -> None:
    """Only a line that is exactly a command is one; all else goes to the model."""
    assert commands.read(" /help ") == commands.Command("/help", "")
    assert commands.read("/thread abc") == commands.Command("/thread", "abc")
    for text in ("/tool x {}", "/help me", "/new\nline", "//help", "help", "/", ""):
        assert commands.read(text) is None
    assert (commands.unescaped("//help"), commands.unescaped("/tool")) == ("/help", "/tool")


def test_answers_are_text_or_json() -> None:
    """What is JSON is sent as that, all else as the text it is."""
    assert [value_of(text) for text in ("yes", "42", '"42"', "true", '{"a": [1]}', "{no")] == [
        "yes",
        42,
        "42",
        True,
        {"a": [1]},
        "{no",
    ]


def test_questions_are_answered_together() -> None:
    """Several questions are asked one by one, and answered in one response."""
    questions = Questions()
    questions.put([Interrupt(id="a", value=1, node=None), Interrupt(id="b", value=2, node=None)])
    assert questions.answer("yes") is None
    assert questions.next is not None
    assert questions.next.id == "b"
    assert questions.answer("2") == {"a": "yes", "b": 2}


def approval(*names: str, allowed: tuple[str, ...] = ("approve", "edit", "reject", "respond")) -> dict[str, Any]:
    """LangChain's question about calls of these tools."""
    return {
        "action_requests": [{"name": name, "args": {"a": 1, "b": 2}} for name in names],
        "review_configs": [{"action_name": name, "allowed_decisions": list(allowed)} for name in names],
    }


def test_decisions_are_asked_for_one_by_one() -> None:
    """Each call of an approval request is a question; the decisions go together, in order, beside other answers."""
    questions = Questions()
    asked = [Interrupt(id="i", value=approval("add", "add"), node=None), Interrupt(id="j", value="and?", node=None)]
    questions.put(asked)
    assert questions.next is not None
    assert questions.next.text.startswith("Call `add`? (1 of 2)")
    assert questions.answer("no, not these") is None
    with pytest.raises(ValueError, match="that is no decision"):
        questions.answer("maybe")
    assert questions.answer("y") is None
    decisions = [{"type": "reject", "message": "not these"}, {"type": "approve"}]
    assert questions.answer("y") == {"i": {"decisions": decisions}, "j": "y"}
    assert as_line(asked[0].value) == "may it call add(a=1, b=2), add(a=1, b=2)?"


@pytest.mark.parametrize(
    ("typed", "decision"),
    [
        ("y", {"type": "approve"}),
        ("Yes!", {"type": "approve"}),
        ("approve", {"type": "approve"}),
        ("n", {"type": "reject"}),
        ("no, it is too early", {"type": "reject", "message": "it is too early"}),
        ("reject", {"type": "reject"}),
        ('edit {"b": 3}', {"type": "edit", "edited_action": {"name": "add", "args": {"a": 1, "b": 3}}}),
        ("respond it is 3", {"type": "respond", "message": "it is 3"}),
    ],
)
def test_decisions_as_they_are_typed(typed: str, decision: dict[str, Any]) -> None:
    """A word or its first letter decides; what follows is why, the arguments to change, or the result."""
    [action] = actions_of(approval("add")) or []
    assert decision_of(action, typed) == decision


@pytest.mark.parametrize("typed", ["", "yes but later", "ok", "3", "edit", "edit b=3", "edit [1]", "respond", "{}"])
def test_what_is_no_decision(typed: str) -> None:
    """Nothing is taken for a decision that may be meant otherwise."""
    [action] = actions_of(approval("add")) or []
    with pytest.raises(ValueError, match=r"that is no decision|edit needs|respond needs"):
        decision_of(action, typed)


def test_decisions_that_a_call_does_not_take() -> None:
    """Only what the question allows is offered and taken."""
    [action] = actions_of(approval("add", allowed=("approve", "reject"))) or []
    with pytest.raises(ValueError, match=r"no decision: y calls it; n does not, n WHY says why$"):
        decision_of(action, "respond 3")


def test_texts_do_not_steer_the_terminal() -> None:
    """Escape sequences of a model or a tool lose what makes them work."""
    assert clean("a\x1b]52;c;aGk=\x07b\x9b31mc\td\r\n") == "a]52;c;aGk=b31mc    d\n"
    assert brief("x" * 1000, characters=10) == "xxxxxxxxxx …"
    assert brief({"a": "ü"}) == '{"a": "ü"}'
