"""A message's content, in commands and frames alike."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Field

# fail_fast: a megabyte of wrong items is one mistake, not half a million.
Blocks: TypeAlias = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
#: A message's content: text, or LangChain's standard content blocks.
Content: TypeAlias = str | Blocks
