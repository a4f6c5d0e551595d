"""What the command line promises; the server itself is tested where it is served."""

import json
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import threadwire
from threadwire import __version__, logs
from threadwire.cli import main

HEAVY = ("pydantic", "aiohttp", "structlog", "langgraph", "langchain_core", "yaml", "orjson")
CONVERSATION = "my grandmother's secret recipe"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder, without settings of the machine's own."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("THREADWIRE_") or name == "OPENAI_API_KEY":
            monkeypatch.delenv(name)
    # Where the package is not installed, its own processes find it too.
    monkeypatch.setenv("PYTHONPATH", str(Path(threadwire.__file__).parents[1]))
    return tmp_path


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "threadwire", *args], capture_output=True, text=True, timeout=30, check=False
    )


# --- the command itself -------------------------------------------------------------------------------------


def test_version_from_the_module() -> None:
    """As ``python -m threadwire`` too, --version prints name and version, and is 0."""
    done = command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"threadwire {__version__}\n", "")


def test_help_loads_nothing_heavy() -> None:
    """--help names each command and imports none of what a server needs, so that it is quick."""
    code = (
        "import sys\nfrom threadwire.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.endswith("loaded: []\n")
    for name in ("serve", "chat", "models", "config", "simulate"):
        assert f"    {name} " in done.stdout


@pytest.mark.parametrize("args", [[], ["bake"], ["serve", "--prot", "1"], ["serve", "--port", "x"], ["config"]])
def test_wrong_arguments(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that makes no sense gets its usage, and is 2."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert "usage: threadwire" in capsys.readouterr().err


# --- config -------------------------------------------------------------------------------------------------


def test_config_check_says_ok(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Config check prints one line with the sources that were read, and is 0."""
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "ok: defaults\n"
    (empty_folder / "config.yaml").write_text("server: {port: 1}")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "ok: config.yaml, defaults\n"


def test_mistake_is_one_line(empty_folder: Path) -> None:
    """A mistake in the configuration is one line on stderr, no traceback, and 2."""
    (empty_folder / "own.yaml").write_text("server:\n  prot: 1")
    done = command("config", "check", "--config", "own.yaml")
    line = "server.prot: unknown key (own.yaml line 2); the nearest known one is server.port"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"threadwire: {line}\n")


def test_every_mistake_has_its_line(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several mistakes are told together, each in a line that says who speaks."""
    (empty_folder / "config.yaml").write_text("server: {port: x, host: 5}")
    assert main(["config", "check"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": expected")[0] for line in lines] == [
        "threadwire: server.host",
        "threadwire: server.port",
    ]


def test_config_show(empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Config show prints YAML that says where it came from and shows no secret."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    (empty_folder / "own.yaml").write_text("server: {port: 1234}")
    assert main(["config", "show", "--config", "own.yaml"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# from: own.yaml, environment (OPENAI_API_KEY), defaults\nserver:\n")
    assert "port: 1234\n" in shown
    assert "sk-very-secret" not in shown


# --- serve --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "none.yaml"], "none.yaml: cannot be read: No such file or directory"),
        (["--port", "70000"], "server.port: expected at most 65535, got 70000 (command line)"),
        (["nothing"], "graph: expected package.module:attribute"),
    ],
)
def test_serve_refuses(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Serve with a wrong flag is one line that names the thing, and 2."""
    assert main(["serve", *args]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"threadwire: {message}")
    assert told.count("\n") == 1


def test_serve_refuses_an_open_address() -> None:
    """Serve without auth on an address that others reach is one clear line, and 2."""
    done = command("serve", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert done.stderr.startswith("threadwire: server.host: 0.0.0.0 is not a loopback address")
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    """With --debug a mistake comes with its traceback, and is 2 as well."""
    done = command("serve", "--debug", "--config", "none.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert "\nthreadwire: none.yaml: cannot be read" in done.stderr


# --- simulate -----------------------------------------------------------------------------------------------


@pytest.fixture
def simulator() -> Iterator[subprocess.Popen[str]]:
    args = [sys.executable, "-m", "threadwire", "simulate", "--port", "0", "--tokens-per-second", "0"]
    with subprocess.Popen(
        [*args, "--tokens", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--port", "70000"], "argument --port: expected a whole number from 0 to 65535; got '70000'"),
        (["--tokens", "-1"], "argument --tokens: expected a whole number from 1; got '-1'"),
        (["--rate-limit", "-2"], "argument --rate-limit: expected a whole number from 0; got '-2'"),
        (["--first-token-ms", "nan"], "argument --first-token-ms: expected a number from 0; got 'nan'"),
        (["--burst", "half"], "argument --burst: expected a whole number from 1; got 'half'"),
        (["--error-rate", "200%"], "argument --error-rate: expected a share like 10% or 0.1; got '200%'"),
    ],
)
def test_simulate_refuses(flags: list[str], complaint: str) -> None:
    """A flag that cannot be is refused with 2, and with what was expected and what came."""
    done = command("simulate", *flags)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{complaint}\n")


def test_simulate_serves_until_ctrl_c(simulator: subprocess.Popen[str]) -> None:
    """Simulate says where it listens, answers there, and ends quietly on Ctrl-C."""
    assert simulator.stdout
    url = simulator.stdout.readline().split()[-1]
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats", timeout=10) as answer:
        assert json.load(answer)["open"] == 0
    simulator.send_signal(signal.SIGINT)
    _, complaints = simulator.communicate(timeout=10)
    assert (simulator.returncode, complaints) == (0, "")


# --- logs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("threadwire")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level, own.level = before
    structlog.reset_defaults()


def fail(text: str) -> None:
    """Raise with a conversation's text in a local variable."""
    assert text
    raise RuntimeError("failed")


@pytest.mark.usefixtures("_restored_logging")
def test_log_is_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal, each entry is a JSON object in a line, exceptions and libraries' too."""
    logs.configure()
    logs.configure()
    log = logs.get_logger("threadwire.run")
    log.info("run finished", run_id="r", duration_ms=3)
    log.debug("unseen")
    logging.getLogger("aiohttp.server").warning("took %s s", 3)
    logging.getLogger("aiohttp.access").info("unseen")
    try:
        fail(CONVERSATION)
    except RuntimeError:
        log.exception("run failed")
    told = capsys.readouterr()
    assert told.out == ""
    entries = [json.loads(line) for line in told.err.splitlines()]
    assert [entry["event"] for entry in entries] == ["run finished", "took 3 s", "run failed"]
    of_run = {"run_id": "r", "duration_ms": 3, "level": "info", "logger": "threadwire.run"}
    assert of_run.items() <= entries[0].items()
    assert "RuntimeError: failed" in entries[2]["exception"]


@pytest.mark.usefixtures("_restored_logging")
@pytest.mark.parametrize("json_lines", [True, False])
def test_log_shows_no_local_variables(json_lines: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback names lines and errors, never the values of variables: these are people's conversations."""
    logs.configure(json=json_lines)
    try:
        fail(CONVERSATION)
    except RuntimeError:
        logs.get_logger("threadwire.run").exception("run failed")
    told = capsys.readouterr().err
    assert "RuntimeError: failed" in told
    assert CONVERSATION not in told


@pytest.mark.usefixtures("_restored_logging")
def test_log_level_is_threadwires_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Debug shows more of threadwire and not of the libraries, whose debug lines hold requests."""
    logs.configure(json=False, level="debug")
    logs.get_logger("threadwire.run").debug("seen", n=1)
    logging.getLogger("openai").debug("unseen")
    told = capsys.readouterr().err
    assert "seen" in told
    assert "n=1" in told
    assert "unseen" not in told
