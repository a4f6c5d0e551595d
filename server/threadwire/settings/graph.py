"""The built-in graph: its model, and its agent."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from threadwire.mcp_settings import read_servers
from threadwire.settings.section import Count, Duration, Positive, Section, Temperature


class Simulated(Section):
    """How the simulated model talks."""

    tokens_per_second: Annotated[Duration, Field(description="Its speed; 0: as fast as it can.")] = 50
    first_token_ms: Annotated[Count, Field(description="How long it is silent before its first token.")] = 200
    tokens: Annotated[Positive | None, Field(description="The length of its answers; null: as the input asks.")] = None


class Model(Section):
    """The model behind the built-in graph."""

    name: Annotated[
        str,
        Field(
            pattern=r"^(auto|simulated|openai:.+|local:.+)$",
            description="openai:NAME, local:NAME, local:/path/to/model.gguf, simulated, or auto: OpenAI if there is a"
            " key, else the local model if it is installed, else simulated.",
        ),
    ] = "auto"
    base_url: Annotated[
        str | None,
        Field(
            pattern=r"^https?://.",
            description="http:// or https:// URL of an OpenAI-compatible endpoint; null: OpenAI's.",
        ),
    ] = None
    api_key: Annotated[
        SecretStr | None,
        Field(
            min_length=1,
            description="The provider's key; null: OPENAI_API_KEY of the environment, if it is there.",
        ),
    ] = None
    temperature: Annotated[
        Temperature | None, Field(description="Sampling temperature; null: the provider's default.")
    ] = None
    max_tokens: Annotated[Positive | None, Field(description="Tokens in one answer; null: as many as it takes.")] = None
    stock_client: Annotated[
        bool,
        Field(description="Stream through langchain-openai and openai as they come, at three times the CPU per token."),
    ] = False
    simulated: Simulated = Simulated()


#: The built-in agent's own tools.
AGENT_TOOLS = ("current_time", "calculate", "convert_units", "save_note", "read_note", "list_notes", "delete_note")


class Agent(Section):
    """The built-in graph, served where graph is null."""

    system_prompt: Annotated[str, Field(description="What the model is told before each conversation.")] = (
        "You are a helpful assistant. Answer briefly and to the point; say so when you do not know."
    )
    tools: Annotated[list[str], Field(description="Tools of its own that it may call; empty: none.")] = list(
        AGENT_TOOLS
    )
    mcp_servers: Annotated[
        dict[str, dict[str, Any]],
        Field(description="MCP servers whose tools it may call, by name: command or url, and more (docs/agent.md)."),
    ] = {}
    ask_before: Annotated[
        list[str],
        Field(description="Tools that a person is asked about before each call, MCP servers' too; empty: none."),
    ] = []
    max_context_tokens: Annotated[
        Count | None,
        Field(description="What is sent to the model is kept below this; null: by the model; 0: all of it."),
    ] = None

    @field_validator("mcp_servers")
    @classmethod
    def _servers(cls, tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        read_servers(tables)
        return tables

    @field_validator("tools", "ask_before")
    @classmethod
    def _known(cls, names: list[str], info: ValidationInfo) -> list[str]:
        if info.field_name == "ask_before" and info.data.get("mcp_servers", True):
            # The tools of MCP servers are known when these have been started.
            return names
        for name in names:
            if name not in AGENT_TOOLS:
                nearest = get_close_matches(name, AGENT_TOOLS, n=1, cutoff=0)[0]
                raise ValueError(f"there is no tool {name[:60]!r}; the nearest is {nearest}")
        return names
