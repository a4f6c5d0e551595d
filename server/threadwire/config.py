"""Reading the settings: command line over environment over file over defaults; and showing them, masked.

``settings`` has the keys, ``layers.py`` the sources.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from threadwire.errors import ConfigError
from threadwire.layers import (
    KeyPath,
    Layer,
    known_keys,
    merge,
    nearest_key,
    place_of,
    read_environment,
    read_file,
    says,
    takes,
)
from threadwire.masking import MASK, hides, mask_url
from threadwire.settings import Settings

__all__ = ["MASK", "Settings", "dump_yaml", "load", "load_with_sources"]

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "a table",
    "model_type": "a table",
    "number_type": "a number",
    "string_type": "text",
}
_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_too_short": "at least {min_length} characters",
    "too_short": "at least {min_length} characters",
}


def load(
    path: Path | None = None,
    overrides: dict[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Read the settings: ``overrides`` (nested, as the file) over ``environ`` over file over defaults.

    Without ``path``, ``config.yaml`` in ``cwd`` is read where there is one. ``environ`` and ``cwd`` are the
    process's own by default.

    Raises:
        ConfigError: a line for each thing that is wrong: the key, what was expected, and where it stands.
    """
    return load_with_sources(path, overrides, environ, cwd)[0]


def load_with_sources(
    path: Path | None = None,
    overrides: dict[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[Settings, list[str]]:
    """As ``load``, with the names of the sources that said something, the strongest first.

    Raises:
        ConfigError: as ``load``.
    """
    environ = os.environ if environ is None else environ
    layers = [
        Layer("command line" if overrides else "", overrides or {}),
        read_environment(environ),
        read_file(path, environ, cwd or Path.cwd()),
    ]
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = merge(merged, layer.values)
    sources = [layer.name for layer in layers if layer.name]
    key, model = environ.get("OPENAI_API_KEY", "").strip(), merged.get("model", {})
    if key and isinstance(model, dict) and model.get("api_key") is None:
        merged["model"] = {**model, "api_key": key}
        sources.append("environment (OPENAI_API_KEY)")
    problems = [problem for layer in layers for problem in layer.problems]
    told = {problem.partition(":")[0] for problem in problems}
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as invalid:
        found = [_explain(error, layers) for error in invalid.errors()]
        problems += [problem for problem in found if problem.partition(":")[0] not in told]
    if problems:
        raise ConfigError("\n".join(problems))
    return settings, [*sources, "defaults"]


# --- what is wrong -------------------------------------------------------------------------------


def _explain(error: ErrorDetails, layers: list[Layer]) -> str:
    path = tuple(str(part) for part in error["loc"])
    key, known = ".".join(path), known_keys(sections=True)
    if not path:
        return _cause(error)
    layer = next((layer for layer in layers if says(layer, path)), layers[-1])
    place = place_of(path, layer)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key ({place}); the nearest known one is {nearest_key(key, known)}"
    if error["type"] == "value_error":
        return f"{key}: {_cause(error)} ({place})"
    of = known.get(key)
    in_secrets = path[:2] in {("agent", "mcp_servers"), ("auth", "tokens")}
    hidden = path in layer.secret or in_secrets or (of and takes(of, SecretStr))
    came = MASK if hidden else _shown(error["input"])
    or_null = " or null" if of and takes(of, type(None)) else ""
    return f"{key}: expected {_expected(error, of)}{or_null}, got {came} ({place})"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return mask_url(json.dumps(value, ensure_ascii=False, default=str))[:80]


def _cause(error: ErrorDetails) -> str:
    return error["msg"].removeprefix("Value error, ")


def _expected(error: ErrorDetails, of: FieldInfo | None) -> str:
    kind = error["type"]
    if kind == "string_pattern_mismatch" and of and of.description:
        return of.description.partition("; null")[0].removesuffix(".")
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**error.get("ctx", {}))
    return _EXPECTED.get(kind) or error["msg"].removeprefix("Input should be ")


# --- showing -------------------------------------------------------------------------------------


def dump_yaml(settings: Settings) -> str:
    """The settings as YAML, every key; secrets, and credentials in URLs, are masked."""
    return yaml.safe_dump(_masked(settings.model_dump(), ()), sort_keys=False, allow_unicode=True, width=100)


def _masked(value: Any, at: KeyPath) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item, (*at, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, at) for item in value]
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, str):
        return MASK if hides(at) else mask_url(value)
    return value
