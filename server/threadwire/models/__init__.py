"""Where the tokens come from: ``open_model(settings)`` gives the chat model that ``model.name`` names.

``openai.py`` is any OpenAI-compatible provider; ``simulated.py`` says what ``script.py`` plans, without one.
A model is imported when it is picked. Knows nothing of threads, runs or sockets.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
        """``auto``, ``simulated`` or ``openai:NAME``."""
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
    def simulated(self) -> SimulatedSettings:
        """How the simulated model behaves."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A chat model, and how it came to be this one."""

    chat_model: BaseChatModel
    #: As it would be written in ``model.name``; never ``auto``.
    name: str
    #: A clause that may be shown to anyone: no address, no key.
    why: str

    def description(self) -> dict[str, str]:
        """What ``ready.model`` tells: ``{"name": ..., "why": ...}``."""
        return {"name": self.name, "why": self.why}


def open_model(settings: ModelSettings) -> Model:
    """Build the model that ``settings.name`` names. Nothing is asked of a provider yet.

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
    raise ConfigError(_unknown(name))


def _open_auto(settings: ModelSettings) -> Model:
    if _api_key(settings) is not None:
        return _open_openai(settings, DEFAULT_OPENAI_MODEL, "auto: there is an OpenAI API key")
    why = "auto: OPENAI_API_KEY is not set"
    if settings.base_url:
        why += ", and model.base_url needs a model.name such as openai:NAME"
    return _open_simulated(settings, why)


def _open_openai(settings: ModelSettings, name: str, why: str) -> Model:
    key = _api_key(settings)
    if key is None and not settings.base_url:
        raise ConfigError(
            f"model.name: openai:{name} needs a key: set OPENAI_API_KEY, or model.base_url for a compatible "
            "server that needs none (Ollama, vLLM, LM Studio), or model.name to simulated"
        )
    from threadwire.models.openai import open_chat_openai

    return Model(open_chat_openai(settings, name, key), f"openai:{name}", why)


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
    kind, colon, _ = name.partition(":")
    if kind == "local" and colon:
        return (
            f"model.name: {name!r}: models on this machine come with a later version; until then, serve it "
            "with Ollama or llama.cpp, and set model.name to openai:NAME and model.base_url to its address"
        )
    known = "auto, simulated, openai:NAME"
    if near := difflib.get_close_matches(name, ["auto", "simulated"], n=1):
        return f"model.name: there is no model {name!r}; did you mean {near[0]}? Known are: {known}"
    if name and not colon:
        return f"model.name: there is no model {name!r}; did you mean openai:{name}? Known are: {known}"
    return f"model.name: there is no model {name!r}; known are: {known}"
