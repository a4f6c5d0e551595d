"""Settings of models, how busy they are, and what they say, for the tests of several kinds of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessageChunk
from pydantic import SecretStr

from threadwire.models.busy import Busy


@dataclass
class Simulated:
    tokens_per_second: float = 0
    first_token_ms: int = 0
    tokens: int | None = None


@dataclass
class Settings:
    name: str = "auto"
    base_url: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    api_key: SecretStr | None = None
    stock_client: bool = False
    simulated: Simulated = field(default_factory=Simulated)


class Steady(Busy):
    """Always as busy, whatever the machine does beside."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def is_so(self, share: float) -> None:
        self._share = share

    def share(self) -> float:
        return self._share


async def collect(model: Any, messages: Any) -> tuple[list[AIMessageChunk], AIMessageChunk]:
    """Every chunk, and all of them added up."""
    chunks = [chunk async for chunk in model.astream(messages)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return chunks, whole
