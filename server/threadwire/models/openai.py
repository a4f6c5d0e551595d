"""Any OpenAI-compatible provider, through ``langchain-openai``'s ``ChatOpenAI``.

Importing this module imports langchain_openai; ``open_model`` does so when the config picks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import langchain_openai
import openai
from pydantic import SecretStr

from threadwire.models import lean
from threadwire.models.transport import open_http_client

if TYPE_CHECKING:
    from threadwire.models import ModelSettings

#: Ollama, vLLM and the like ask for no key, but the SDK sends one always.
NO_KEY = SecretStr("no-key")
#: How a model streams.
STREAMING: dict[str, Any] = {
    "streaming": True,
    "stream_usage": True,  # it is off by default with a base_url
    # It costs an asyncio.wait_for a chunk; runs.timeout_seconds bounds a silent provider.
    "stream_chunk_timeout": None,
}


def open_chat_openai(
    settings: ModelSettings, name: str, key: SecretStr | None
) -> tuple[langchain_openai.ChatOpenAI, openai.DefaultAsyncHttpxClient]:
    """A streaming ``ChatOpenAI`` for the model ``name``, and its HTTP client, to be closed by the caller.

    Without a ``key``, a dummy one is sent.
    """
    # ChatOpenAI's own client is shared by all of the process with the same base_url and closed by nobody; one of an
    # event loop that has ended fails the first request in the next loop (langchain-openai 1.7, _client_utils.py).
    client = openai.DefaultAsyncHttpxClient() if settings.stock_client else open_http_client()
    options: dict[str, Any] = {"http_async_client": client}
    if settings.base_url:
        options["base_url"] = settings.base_url
    if settings.temperature is not None:
        options["temperature"] = settings.temperature
    if settings.max_tokens is not None:
        # ChatOpenAI sends max_completion_tokens, as OpenAI wants it. Ollama's ChatCompletionRequest
        # (openai/openai.go) has only max_tokens and ignores the other; every such server takes max_tokens.
        compatible = {"extra_body": {"max_tokens": settings.max_tokens}}
        options |= compatible if settings.base_url else {"max_tokens": settings.max_tokens}
    return chat_class(settings)(model=name, api_key=key or NO_KEY, **STREAMING, **options), client


def chat_class(settings: ModelSettings) -> type[langchain_openai.ChatOpenAI]:
    """The stock class where ``stock_client`` asks for it, else the lean one."""
    return langchain_openai.ChatOpenAI if settings.stock_client else lean.ChatOpenAI
