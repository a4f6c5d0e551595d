"""What is shipped for deploying agrees with the server: its settings, its times, its pages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from threadwire.config import load
from threadwire.settings import Settings

ROOT = Path(__file__).parent.parent
DEFAULTS = Settings().server
UNIT = (ROOT / "deploy" / "threadwire.service").read_text(encoding="utf-8")
NGINX = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
CADDY = (ROOT / "deploy" / "Caddyfile").read_text(encoding="utf-8")
DOCKER = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, pattern
    return int(found[1])


@pytest.mark.parametrize("text", [UNIT, DOCKER], ids=["unit", "docker"])
def test_variables_are_settings(text: str, tmp_path: Path) -> None:
    """Each THREADWIRE_ variable that is set is a key of the settings: an unknown one would be an error."""
    environ = dict(re.findall(r"(THREADWIRE_[A-Z_]+)=(\S+)", re.sub(r"(?m)^#.*$", "", text)))
    assert environ
    # The Dockerfile's host asks for a mode of auth; here it is only about the names.
    load(environ=environ | {"THREADWIRE_AUTH__INSECURE": "true"}, cwd=tmp_path)


def test_what_is_installed_has_what_may_be_configured() -> None:
    """Neither the image nor the unit's installation fails on auth.mode jwt, otel.enabled or agent.mcp_servers."""
    for text in (DOCKER, PAGE):
        found = re.search(r"install .*'(?:\.|threadwire)\[([a-z,]+)\]'", text)
        assert found is not None
        assert set(found[1].split(",")) >= {"speed", "jwt", "otel", "mcp"}


def test_who_stops_it_waits_for_the_drain() -> None:
    """systemd, Docker and Kubernetes wait longer than runs may take to end, and closing after that."""
    least = DEFAULTS.drain_seconds + 10
    assert number(UNIT, r"TimeoutStopSec=(\d+)") >= least
    assert number(PAGE, r"--stop-timeout (\d+)") >= least
    assert number(PAGE, r"terminationGracePeriodSeconds: (\d+)") >= least + 3


def test_a_proxy_waits_for_the_heartbeat() -> None:
    """Nginx lets a socket be idle for longer than the server's heartbeat lets it; Caddy has no such timeout."""
    assert number(NGINX, r"proxy_read_timeout (\d+)s") > 2 * DEFAULTS.heartbeat_seconds
    assert not re.search(r"^\s*read_timeout", CADDY, re.MULTILINE)


def test_a_proxy_takes_what_the_server_takes() -> None:
    """Bodies are bounded alike."""
    assert number(NGINX, r"client_max_body_size (\d+)m;") * 2**20 == DEFAULTS.max_message_bytes
    assert number(CADDY, r"max_size (\d+)MiB") * 2**20 == DEFAULTS.max_message_bytes


def test_the_unit_is_one(tmp_path: Path) -> None:
    """Systemd itself finds nothing wrong with the unit."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze")
    unit = tmp_path / "threadwire.service"
    unit.write_text(UNIT.replace("/opt/threadwire/bin/threadwire", sys.executable), encoding="utf-8")
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=120)
    told = [line for line in (done.stdout + done.stderr).splitlines() if "threadwire" in line]
    assert told == []


def test_the_container_is_not_root() -> None:
    """The image's process is a user of its own, and the first process."""
    assert re.findall(r"(?m)^USER (.+)$", DOCKER) == ["10001"]
    assert 'ENTRYPOINT ["threadwire"]' in DOCKER


def test_kubernetes_example_is_yaml() -> None:
    """The manifest parses; one pod, not root, probed as the page says."""
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    found = yaml.safe_load(block)
    assert found["spec"]["replicas"] == 1
    pod = found["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("name", ["deploy.md", "security.md"])
def test_links_lead_somewhere(name: str) -> None:
    """Each link of the pages leads to a file, and to a heading of it."""
    folder = ROOT / "docs"
    for target in re.findall(r"\]\(([^)]+)\)", (folder / name).read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        assert (folder / path).exists(), target
        if heading:
            lines = (folder / path).read_text(encoding="utf-8").splitlines()
            anchors = {
                re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in lines if line[:1] == "#"
            }
            assert heading in anchors, target
