"""Where the tokens come from: ``open_model(settings)`` gives the chat model that ``model.name`` names.

``openai.py`` is any OpenAI-compatible provider, through ``lean.py`` with its ``sse.py`` and ``transport.py``;
``local.py`` a small model on this machine, with ``weights.py``; ``simulated.py`` says what ``script.py`` plans, without
any. A model is imported when it is picked. Knows nothing of threads, runs or sockets.
"""

from __future__ import annotations

import difflib
import os
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import SecretStr

from threadwire.errors import ConfigError

if TYPE_CHECKING:  # langchain_core takes most of a second to import; the simulator process does without
    from langchain_core.language_models import BaseChatModel

#: What ``auto`` asks OpenAI for.
DEFAULT_OPENAI_MODEL = "gpt-4o-mini"


class SimulatedSettings(Protocol):
    """The section ``model.simulated``."""

    @property
    def tokens_per_second(self) -> float:
        """How fast; 0 is as fast as possible."""
        ...

    @property
    def first_token_ms(self) -> int:
        """Milliseconds before the first token."""
        ...

    @property
    def tokens(self) -> int | None:
        """Answer with exactly that many tokens; None for a sentence."""
        ...


class ModelSettings(Protocol):
    """The section ``model``."""

    @property
    def name(self) -> str:
        """``auto``, ``simulated``, ``openai:NAME``, ``local:NAME`` or ``local:FILE.gguf``."""
        ...

    @property
    def base_url(self) -> str | None:
        """The root of an OpenAI-compatible API, as ``http://127.0.0.1:11434/v1``; None is OpenAI's own."""
        ...

    @property
    def temperature(self) -> float | None:
        """None leaves it to the provider."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """The longest answer; None leaves it to the provider."""
        ...

    @property
    def api_key(self) -> SecretStr | None:
        """The provider's key; None looks for ``OPENAI_API_KEY`` in the environment."""
        ...

    @property
    def stock_client(self) -> bool:
        """Whether an OpenAI-compatible model is langchain-openai's as it comes, instead of ``lean.py``'s."""
        ...

    @property
    def simulated(self) -> SimulatedSettings:
        """How the simulated model behaves."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A chat model, and how it came to be this one; an async context manager.

    What it needs is opened on entering and closed on leaving: a local model's process, the connections to a provider.
    """

    chat_model: BaseChatModel
    #: As it would be written in ``model.name``, without the folders of a file; never ``auto``.
    name: str
    #: A clause that may be shown to anyone: no address, no key.
    why: str
    #: Whether it may be offered tools.
    calls_tools: bool = True
    #: Types of content blocks it takes, beside text: those that LangChain can put into OpenAI's words.
    takes: frozenset[str] = frozenset({"image", "audio", "file"})
    #: What it stands on and is ours to close, if anything.
    needs: AbstractAsyncContextManager[Any] | None = field(default=None, repr=False)

    def description(self) -> dict[str, str]:
        """What ``ready.model`` tells: ``{"name": ..., "why": ...}``."""
        return {"name": self.name, "why": self.why}

    async def __aenter__(self) -> Self:
        """Start what it needs; does not wait until that is ready."""
        if self.needs is not None:
            await self.needs.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self.needs is not None:
            await self.needs.__aexit__(kind, error, trace)


def open_model(settings: ModelSettings) -> Model:
    """Build the model that ``settings.name`` names; enter it before use. Nothing is asked of a provider yet.

    Raises:
        ConfigError: there is no such model, or it cannot work as configured.
    """
    name = settings.name.strip()
    if name == "auto":
        return _open_auto(settings)
    if name == "simulated":
        return _open_simulated(settings, "model.name asks for it")
    kind, _, rest = name.partition(":")
    if kind == "openai" and rest:
        return _open_openai(settings, rest, "model.name asks for it")
    if kind == "local" and rest:
        return _open_local(settings, rest, "model.name asks for it")
    raise ConfigError(_unknown(name))


def _open_auto(settings: ModelSettings) -> Model:
    """OpenAI if there is a key, else the local model if it is there, else the simulated one."""
    if _api_key(settings) is not None:
        return _open_openai(settings, DEFAULT_OPENAI_MODEL, "auto: there is an OpenAI API key")
    why = "auto: OPENAI_API_KEY is not set"
    if settings.base_url:
        why += ", and model.base_url needs a model.name such as openai:NAME"
    missing = _missing_for_local()
    if not missing:
        from threadwire.models import weights

        return _open_local(settings, weights.DEFAULT, f"{why}; the local model is installed")
    return _open_simulated(settings, f"{why}; for a model on this machine: {', then '.join(missing)}")


def _missing_for_local() -> list[str]:
    """The commands that are still to be run before ``auto`` takes the local model."""
    from threadwire.models import weights

    missing = [] if weights.is_runnable() else [weights.INSTALL_HINT]
    if not weights.is_fetched(weights.KNOWN[weights.DEFAULT]):
        missing.append("threadwire models fetch")
    return missing


def _open_local(settings: ModelSettings, name: str, why: str) -> Model:
    """A model that is known by name, or a file: what ends in ``.gguf`` or has a slash is one."""
    from threadwire.models import weights

    is_file = name.endswith(".gguf") or "/" in name or os.sep in name
    known = None if is_file else weights.find(name)
    path = weights.path_of(known) if known else Path(name).expanduser()
    if known and not weights.is_fetched(known):
        raise ConfigError(f"model.name: local:{name} is not here yet; run: threadwire models fetch {name}")
    if problem := _problem_of(path):
        raise ConfigError(f"model.name: local:{name}: {problem}")
    if not weights.is_runnable():
        raise ConfigError(f"model.name: local:{name} needs xllamacpp; run: {weights.INSTALL_HINT}")
    from threadwire.models.local import LocalServer, open_chat_local

    server = LocalServer(path.absolute(), known.name if known else path.stem)
    return Model(
        open_chat_local(settings, server, known),
        f"local:{path.name if is_file else name}",
        why,
        calls_tools=known is None,  # none of the known ones can; of a file it is not known
        takes=frozenset(),
        needs=server,
    )


def _problem_of(path: Path) -> str:
    """What keeps the file from being a model's, in words; empty if nothing is seen."""
    try:
        with path.open("rb") as file:
            return "" if file.read(4) == b"GGUF" else "it is not a GGUF file, which is what llama.cpp reads"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _open_openai(settings: ModelSettings, name: str, why: str) -> Model:
    key = _api_key(settings)
    if key is None and not settings.base_url:
        raise ConfigError(
            f"model.name: openai:{name} needs a key: set OPENAI_API_KEY, or model.base_url for a compatible "
            "server that needs none (Ollama, vLLM, LM Studio), or model.name to simulated"
        )
    from threadwire.models.openai import open_chat_openai

    chat_model, client = open_chat_openai(settings, name, key)
    return Model(chat_model, f"openai:{name}", why, needs=aclosing(client))


def _open_simulated(settings: ModelSettings, why: str) -> Model:
    from threadwire.models.simulated import SimulatedChatModel

    chat_model = SimulatedChatModel(
        tokens_per_second=settings.simulated.tokens_per_second,
        first_token_ms=settings.simulated.first_token_ms,
        tokens=settings.simulated.tokens,
        max_tokens=settings.max_tokens,
    )
    return Model(chat_model, "simulated", why)


def _api_key(settings: ModelSettings) -> SecretStr | None:
    key = settings.api_key.get_secret_value() if settings.api_key else os.environ.get("OPENAI_API_KEY", "")
    return SecretStr(key.strip()) if key.strip() else None


def _unknown(name: str) -> str:
    known = "auto, simulated, openai:NAME, local:NAME, local:FILE.gguf"
    if near := difflib.get_close_matches(name, ["auto", "simulated"], n=1):
        return f"model.name: there is no model {name!r}; did you mean {near[0]}? Known are: {known}"
    if name and ":" not in name:
        return f"model.name: there is no model {name!r}; did you mean openai:{name}? Known are: {known}"
    return f"model.name: there is no model {name!r}; known are: {known}"
