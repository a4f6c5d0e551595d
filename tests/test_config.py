"""What the configuration promises its operator."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from threadwire.config import MASK, Settings, dump_yaml, load, load_with_sources
from threadwire.errors import ConfigError
from threadwire.layers import env_name, known_keys

ROOT = Path(__file__).parents[1]
SECRET = "sk-very-secret-7781"
UNKNOWN = "unknown environment variable; the nearest known one is"


def leaves(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key, down to the keys there are."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and prefix + key not in known_keys():
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def read(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **overrides: Any) -> Settings:
    (tmp_path / "config.yaml").write_text(text, "utf-8")
    return load(None, overrides, environ or {}, tmp_path)


def refused(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environ, **overrides)
    return caught.value.message


# --- what is in force ---------------------------------------------------------------------------------------


def test_no_file_is_needed(tmp_path: Path) -> None:
    """Without file, environment and flags the defaults are in force."""
    assert load_with_sources(None, None, {}, tmp_path) == (Settings(), ["defaults"])


def test_config_yaml_holds_the_defaults() -> None:
    """config.yaml at the top has every key with its default, and no other key."""
    in_file = leaves(yaml.safe_load((ROOT / "config.yaml").read_text("utf-8")))
    assert in_file == leaves(Settings().model_dump())
    assert list(in_file) == list(known_keys())
    assert load(ROOT / "config.yaml", None, {}) == Settings()


def test_config_yaml_comments_each_key() -> None:
    """Each key of config.yaml has a comment right above it."""
    lines = (ROOT / "config.yaml").read_text("utf-8").splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line.strip() and not line.lstrip().startswith("#") and not above.lstrip().startswith("# ")
    ]
    assert bare == []


def test_docs_have_each_key() -> None:
    """docs/configuration.md has a row for each key, with its default and description, and no other."""
    defaults = leaves(Settings().model_dump())
    rows = {f"| `{key}` | `{json.dumps(defaults[key])}` | {info.description} |" for key, info in known_keys().items()}
    tables = (ROOT / "docs/configuration.md").read_text("utf-8").partition("## Every key")[2]
    assert {line for line in tables.splitlines() if line.startswith("| `")} == rows


def test_strongest_source_wins(tmp_path: Path) -> None:
    """Flags win over the environment, that over the file, that over the defaults, key by key."""
    settings = read(
        tmp_path,
        "server: {port: 1, host: localhost, drain_seconds: 2}\nruns: {max_queued: 3}",
        {"THREADWIRE_SERVER__PORT": "4", "THREADWIRE_SERVER__DRAIN_SECONDS": "5.5"},
        server={"port": 6},
    )
    assert (settings.server.port, settings.server.drain_seconds, settings.server.host) == (
        6,
        5.5,
        "localhost",
    )
    assert (settings.runs.max_queued, settings.runs.timeout_seconds) == (3, 600)


def test_sources_are_named(tmp_path: Path) -> None:
    """The sources that said something are told, the strongest first."""
    (tmp_path / "own.yaml").write_text("")
    environ = {"THREADWIRE_GRAPH": "a:b", "OPENAI_API_KEY": SECRET, "HOME": "/"}
    _, sources = load_with_sources(Path("own.yaml"), {"server": {"port": 1}}, environ, tmp_path)
    assert sources == [
        "command line",
        "environment (THREADWIRE_GRAPH)",
        "own.yaml",
        "environment (OPENAI_API_KEY)",
        "defaults",
    ]


def test_every_key_can_come_from_the_environment(tmp_path: Path) -> None:
    """Each key's variable is read, and takes the key's default as JSON, or plainly if it is text."""
    for key, value in leaves(Settings().model_dump()).items():
        text = value if isinstance(value, str) else json.dumps(value)
        assert load(None, None, {env_name(key): text}, tmp_path) == Settings(), key


def test_environment_lists_and_tables_are_json(tmp_path: Path) -> None:
    """Lists, tables and whole sections are JSON there; a key's own variable wins over its section's."""
    settings = load(
        None,
        None,
        {
            "THREADWIRE_EVENTS__INCLUDE_TAGS": '["a", "b"]',
            "THREADWIRE_AGENT__MCP_SERVERS": '{"x": {"command": "run"}}',
            "THREADWIRE_SERVER": '{"port": 1, "drain_seconds": 2}',
            "THREADWIRE_SERVER__PORT": "3",
        },
        tmp_path,
    )
    assert settings.events.include_tags == ["a", "b"]
    assert settings.agent.mcp_servers == {"x": {"command": "run"}}
    assert (settings.server.port, settings.server.drain_seconds) == (3, 2)


def test_names_are_replaced_from_the_environment(tmp_path: Path) -> None:
    """${NAME} in a string is replaced, also in lists and more than once, also where a number is expected."""
    text = 'graph: "${A}/${B}:graph"\nserver: {port: "${PORT}", allowed_origins: ["https://${A}"]}'
    settings = read(tmp_path, text, {"A": "x", "B": "y", "PORT": "81"})
    assert settings.graph == "x/y:graph"
    assert (settings.server.port, settings.server.allowed_origins) == (81, ["https://x"])


@pytest.mark.parametrize("text", ["", "model:", "model: {api_key: null}", "model: {name: auto}"])
def test_provider_key_comes_from_its_own_variable(tmp_path: Path, text: str) -> None:
    """OPENAI_API_KEY is the key where model.api_key is null, and only there."""
    settings = read(tmp_path, text, {"OPENAI_API_KEY": SECRET})
    assert settings.model.api_key is not None
    assert settings.model.api_key.get_secret_value() == SECRET
    other = read(tmp_path, "model: {api_key: other}", {"OPENAI_API_KEY": SECRET}).model.api_key
    assert other is not None
    assert other.get_secret_value() == "other"


def test_empty_sections_and_files_are_fine(tmp_path: Path) -> None:
    """A file or a section with everything commented out says nothing."""
    assert read(tmp_path, "# nothing") == Settings()
    assert read(tmp_path, "server:\n  # port: 1\nmodel:\n  simulated:\n") == Settings()


def test_limits_may_be_zero(tmp_path: Path) -> None:
    """0 is taken by each limit, in the words of the docs: no limit."""
    keys = (
        "server.max_message_bytes",
        "server.max_connections",
        "runs.max_queued",
        "runs.timeout_seconds",
        "runs.recursion_limit",
        "storage.keep_checkpoints",
        "limits.history_page",
    )
    for key in keys:
        load(None, None, {env_name(key): "0"}, tmp_path)


def test_settings_are_frozen() -> None:
    """Nobody changes a setting once it is read."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]


def test_callers_tables_stay_as_they_are(tmp_path: Path) -> None:
    """Reading changes neither the flags nor the environment it was given."""
    overrides: dict[str, Any] = {"model": {"name": "simulated"}}
    load(None, overrides, {"OPENAI_API_KEY": SECRET}, tmp_path)
    assert overrides == {"model": {"name": "simulated"}}


# --- what is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server:\n  prot: 1",
            "server.prot: unknown key (config.yaml line 2); the nearest known one is server.port",
        ),
        ("servr: {port: 1}", "servr: unknown key (config.yaml line 1); the nearest known one is server"),
        ("\nport: 1", "port: unknown key (config.yaml line 2); the nearest known one is server.port"),
        (
            "model: {simulated: {token: 1}}",
            (
                "model.simulated.token: unknown key (config.yaml line 1);"
                " the nearest known one is model.simulated.tokens"
            ),
        ),
        ("server:\n  port: many", 'server.port: expected a whole number, got "many" (config.yaml line 2)'),
        ("server: {port: yes}", "server.port: expected a number, got true (config.yaml line 1)"),
        ("server: {port: null}", "server.port: expected a whole number, got null (config.yaml line 1)"),
        ("server: {port: [1]}", "server.port: expected a whole number, got a list (config.yaml line 1)"),
        ("server: {port: 70000}", "server.port: expected at most 65535, got 70000 (config.yaml line 1)"),
        ("runs: {max_queued: -1}", "runs.max_queued: expected at least 0, got -1 (config.yaml line 1)"),
        (
            "runs: {timeout_seconds: .inf}",
            "runs.timeout_seconds: expected a finite number, got Infinity (config.yaml line 1)",
        ),
        (
            "runs: {cancel_deadline_seconds: 0}",
            "runs.cancel_deadline_seconds: expected more than 0, got 0 (config.yaml line 1)",
        ),
        (
            "model: {temperature: hot}",
            'model.temperature: expected a number or null, got "hot" (config.yaml line 1)',
        ),
        (
            "storage: {durability: often}",
            "storage.durability: expected 'sync', 'async' or 'exit', got \"often\" (config.yaml line 1)",
        ),
        ("server: 5", "server: expected a table, got 5 (config.yaml line 1)"),
        (
            "events:\n  exclude_tags: nostream",
            'events.exclude_tags: expected a list, got "nostream" (config.yaml line 2)',
        ),
        (
            "events:\n  exclude_tags:\n    - a\n    - 5",
            "events.exclude_tags.1: expected text, got 5 (config.yaml line 4)",
        ),
        (
            "events: {allow_raw: maybe}",
            'events.allow_raw: expected true or false, got "maybe" (config.yaml line 1)',
        ),
        (
            "auth: {mode: jwt}",
            "auth: jwt: mode jwt needs one of jwks_url, public_key and secret (config.yaml line 1)",
        ),
        (
            "auth: {mode: custom}",
            "auth: handler: mode custom needs one, as module:attribute (config.yaml line 1)",
        ),
        (
            "auth: {mode: jwt, jwt: {secret: s, algorithms: [RS256]}}",
            (
                "auth.jwt: algorithms: RS256 does not go with this key; expected of HS256, HS384, HS512"
                " (config.yaml line 1)"
            ),
        ),
        (
            "auth: {jwt: {secret: s, jwks_url: 'https://x/keys'}}",
            "auth.jwt: expected one of jwks_url, public_key and secret (config.yaml line 1)",
        ),
        (
            "auth: {tokens: {a: same, b: same}}",
            "auth.tokens: two names have the same token (config.yaml line 1)",
        ),
        (
            "server: {allowed_origins: ['https://a.example/path']}",
            (
                "server.allowed_origins: expected scheme://host or scheme://host:port, and no more, got"
                " 'https://a.example/path' (config.yaml line 1)"
            ),
        ),
        (
            "server: {trusted_proxies: [proxy.local]}",
            (
                "server.trusted_proxies: expected IP addresses and networks: 'proxy.local' does not appear to be"
                " an IPv4 or IPv6 network (config.yaml line 1)"
            ),
        ),
        (
            "server: {tls: {key: k.pem}}",
            "server.tls: a key without a certificate: set cert too (config.yaml line 1)",
        ),
        (
            "server: {allowed_origins: ['*']}",
            (
                "server.allowed_origins: * lets every page in its visitors' browsers use this server, so each has to"
                " bring a token: set auth.mode, or name the origins"
            ),
        ),
        ("server:\n  port: 1\n  port: 2", "server.port: stands twice (config.yaml line 3)"),
        ("graph: ${NOWHERE}:g", "graph: NOWHERE is not set in the environment (config.yaml line 1)"),
        (
            "server:\n  port: ${NOWHERE}",
            "server.port: NOWHERE is not set in the environment (config.yaml line 2)",
        ),
        ("- server", "config.yaml: expected a table of sections, got list"),
        ("server: {port: 1", "config.yaml line 1: expected ',' or '}', but got '<stream end>'"),
        ("server:\n\tport: 1", "config.yaml line 2: found character '\\t' that cannot start any token"),
        ("graph: 2024-13-45", "config.yaml: month must be in 1..12"),
    ],
)
def test_mistake_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    """A mistake in the file is told in one line with the key, what was expected, what came, and the line."""
    assert refused(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("graph: nothing", "expected package.module:attribute or path/to/file.py:attribute or null"),
        ("model: {name: gpt-5}", "expected openai:NAME, local:NAME"),
        (
            "model: {base_url: localhost}",
            "expected http:// or https:// URL of an OpenAI-compatible endpoint or null",
        ),
    ],
)
def test_value_of_the_wrong_form(tmp_path: Path, text: str, expected: str) -> None:
    """A text of the wrong form is told with the right one, in words."""
    assert expected in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "THREADWIRE_SERVER__PROT",
            "1",
            f"{UNKNOWN} THREADWIRE_SERVER__PORT",
        ),
        (
            "THREADWIRE_PORT",
            "1",
            f"{UNKNOWN} THREADWIRE_SERVER__PORT",
        ),
        ("THREADWIRE_GRAPHS", "1", f"{UNKNOWN} THREADWIRE_GRAPH"),
        ("THREADWIRE_EVENTS__EXCLUDE_TAGS", "a,b", "expected JSON, a list or a table (environment)"),
    ],
)
def test_mistake_in_the_environment(tmp_path: Path, name: str, value: str, message: str) -> None:
    """A THREADWIRE_ name that is unknown, or no JSON where there must be, is told with the variable."""
    assert refused(tmp_path, "", {name: value}) == f"{name}: {message}"


def test_source_of_a_wrong_value_is_the_one_in_force(tmp_path: Path) -> None:
    """A wrong value is told with where it came from, also where a weaker source has a right one."""
    environ = {"THREADWIRE_SERVER__PORT": "x"}
    assert refused(tmp_path, "server: {port: 1}", environ).endswith('got "x" (environment THREADWIRE_SERVER__PORT)')
    assert refused(tmp_path, "server: {port: 1}", environ, server={"port": -1}).endswith("got -1 (command line)")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Each mistake has a line of its own, whatever source it is in."""
    message = refused(tmp_path, "server: {port: x}\nlog: {keep: 1}", {"THREADWIRE_FOO": "1"})
    assert [line.partition(":")[0] for line in message.splitlines()] == [
        "THREADWIRE_FOO",
        "server.port",
        "log.keep",
    ]


def test_named_file_must_be_there(tmp_path: Path) -> None:
    """A file that is asked for and cannot be read is an error: missing, a directory, not UTF-8."""
    (tmp_path / "latin").write_bytes(b"graph: \xe4:b")
    for name, why in (
        ("none.yaml", "No such file"),
        (str(tmp_path), "Is a directory"),
        ("latin", "not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            load(Path(name), None, {}, tmp_path)
        assert caught.value.message.startswith(f"{name}: ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "chat.example.org"])
def test_open_address_without_auth_is_refused(tmp_path: Path, host: str) -> None:
    """Without auth the server binds to loopback only, unless the operator says auth.insecure."""
    message = refused(tmp_path, server={"host": host})
    assert message.startswith(f"server.host: {host} is not a loopback address")
    assert "\n" not in message
    assert read(tmp_path, "auth: {insecure: true}", server={"host": host}).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_auth(tmp_path: Path, host: str) -> None:
    """Every name of this machine to itself is fine without auth."""
    assert read(tmp_path, "", server={"host": host}).server.host == host


# --- secrets ------------------------------------------------------------------------------------------------

SECRETS = {
    "model": {"api_key": SECRET, "base_url": f"https://user:{SECRET}@host/v1?api_key={SECRET}&x=1"},
    "storage": {"url": f"postgres://u:{SECRET}@db/x"},
    "auth": {"tokens": {"alice": SECRET}, "jwt": {"secret": SECRET}},
    "agent": {
        "mcp_servers": {
            "a": {"command": "run", "args": ["--token", SECRET], "env": {"X": SECRET, "url": SECRET}},
            "b": {"url": f"https://{SECRET}@host/mcp?token={SECRET}", "headers": {"Authorization": SECRET}},
        }
    },
}


def test_shown_settings_hold_no_secret(tmp_path: Path) -> None:
    """What is shown is YAML with every key; secrets and credentials in URLs are masked, the rest is not."""
    shown = dump_yaml(load(None, SECRETS, {}, tmp_path))
    assert SECRET not in shown
    table = yaml.safe_load(shown)
    assert list(leaves(table)) == list(known_keys())
    assert table["model"]["api_key"] == MASK
    assert table["model"]["base_url"] == f"https://{MASK}@host/v1?api_key={MASK}&x=1"
    assert table["agent"]["mcp_servers"]["a"]["command"] == "run"
    assert table["server"] == Settings().server.model_dump()


def test_shown_defaults_are_the_defaults() -> None:
    """Nothing of the defaults is masked, and what is shown can be read again."""
    assert leaves(yaml.safe_load(dump_yaml(Settings()))) == leaves(Settings().model_dump())


@pytest.mark.parametrize(
    "text",
    [
        f"model: {{api_key: [{SECRET}]}}",
        f"model: {{openai_key: {SECRET}}}",
        f"model: {{base_url: 'ftp://u:{SECRET}@host'}}",
        f"agent: {{mcp_servers: {{a: {SECRET}}}}}",
        "server: {port: '${S}'}",
        "events: {include_types: ['${S}']}",
    ],
)
def test_mistakes_hold_no_secret(tmp_path: Path, text: str) -> None:
    """A secret in the wrong place, or one that came through ${NAME}, is not in the error about it."""
    assert SECRET not in refused(tmp_path, text, {"S": SECRET})


def test_repr_holds_no_secret(tmp_path: Path) -> None:
    """Settings that end up in a log or a traceback do not show the provider's key."""
    assert SECRET not in repr(load(None, {"model": {"api_key": SECRET}}, {}, tmp_path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(known_keys(sections=True))), json_values)
def test_any_value_is_taken_or_refused(key: str, value: Any) -> None:
    """Whatever stands at a key is either taken or told as a ConfigError that names the key."""
    overrides: Any = value
    for part in reversed(key.split(".")):
        overrides = {part: overrides}
    told = ""
    try:
        load(None, overrides, {}, Path("/nonexistent"))
    except ConfigError as error:
        told = error.message
    assert not told or key in told


def test_the_clients_token_is_no_setting(tmp_path: Path) -> None:
    """THREADWIRE_TOKEN, which ``threadwire chat`` sends, does not keep a server from starting."""
    assert load(environ={"THREADWIRE_TOKEN": "secret"}, cwd=tmp_path) == load(environ={}, cwd=tmp_path)
