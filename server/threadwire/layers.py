"""The sources of settings: a file and the environment, each read into a ``Layer``.

A layer has values in the shape of the file, and where each of them stands, so that a mistake is told with its
file and line, or its variable. pydantic-settings is not used: its sources forget where a value stood, pass
over unknown ``THREADWIRE_`` names and know only the process's own environment. Of the settings only the names
and types of the keys are used here; ``config.py`` checks the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from threadwire.errors import ConfigError
from threadwire.settings import Settings

ENV_PREFIX = "THREADWIRE_"
#: Variables of ours that are no settings of the server: the credential that ``threadwire chat`` sends.
NOT_SETTINGS = frozenset({"THREADWIRE_TOKEN"})

KeyPath = tuple[str, ...]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(slots=True)
class Layer:
    """What one source says."""

    #: For people; empty where the source is not there.
    name: str
    #: Nested, in the shape of the file.
    values: dict[str, Any] = field(default_factory=dict)
    #: Where a value stands, in words: ``config.yaml line 3``.
    places: dict[KeyPath, str] = field(default_factory=dict)
    #: Values that came through ``${NAME}``: never shown.
    secret: set[KeyPath] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one nested table over another; neither is changed."""
    merged = dict(under)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both_tables else value
    return merged


def says(layer: Layer, path: KeyPath) -> bool:
    """Whether the layer has a value there."""
    values: Any = layer.values
    for part in path:
        if isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, dict) and part in values:
            values = values[part]
        else:
            return False
    return True


def place_of(path: KeyPath, layer: Layer) -> str:
    """Where a value stands, in words; what is not in the layer stands where its table does."""
    for end in range(len(path), -1, -1):
        if path[:end] in layer.places:
            return layer.places[path[:end]]
    return layer.name


# --- the file ------------------------------------------------------------------------------------


def read_file(path: Path | None, environ: Mapping[str, str], cwd: Path) -> Layer:
    """Read a YAML file, by default ``config.yaml`` in ``cwd`` where there is one.

    ``${NAME}`` in a string is replaced from ``environ``.

    Raises:
        ConfigError: it cannot be read, or is not a table in YAML.
    """
    name = str(path or "config.yaml")
    file = cwd / name
    if path is None and not file.exists():
        return Layer("")
    try:
        loader = yaml.SafeLoader(file.read_text("utf-8"))
        node = loader.get_single_node()
        value = {} if node is None else loader.construct_document(node)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8: byte {error.start}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}{_yaml_problem(error)}") from None
    except ValueError as error:  # a date that is none
        raise ConfigError(f"{name}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: expected a table of sections, got {type(value).__name__}")
    layer = Layer(name)
    for key_path, line in _lines(node, (), layer, name):
        layer.places[key_path] = f"{name} line {line}"
    layer.values = _expand(value, (), layer, environ)
    return layer


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    return f" line {mark.line + 1}: {problem}" if mark else f": {problem}"


def _lines(node: yaml.Node | None, at: KeyPath, layer: Layer, name: str) -> Iterator[tuple[KeyPath, int]]:
    """Give the path and line of each value; a key that stands twice in one table is a problem."""
    if isinstance(node, yaml.SequenceNode):
        children = [(str(index), item, item) for index, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, item) for key, item in node.value]
    else:
        return
    seen: set[str] = set()
    for key, start, item in children:
        path, line = (*at, key), start.start_mark.line + 1
        if key in seen:
            layer.problems.append(f"{'.'.join(path)}: stands twice ({name} line {line})")
        seen.add(key)
        yield path, line
        yield from _lines(item, path, layer, name)


def _expand(value: Any, at: KeyPath, layer: Layer, environ: Mapping[str, str]) -> Any:
    """Replace each ``${NAME}`` in strings; keys become strings, and empty sections go."""
    if isinstance(value, dict):
        items = {(*at, str(key)): item for key, item in value.items()}
        return {
            path[-1]: _expand(item, path, layer, environ)
            for path, item in items.items()
            if not (item is None and _is_section_key(path))
        }
    if isinstance(value, list):
        return [_expand(item, (*at, str(index)), layer, environ) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        layer.secret.add(at)
        if found[1] not in environ:
            layer.problems.append(f"{'.'.join(at)}: {found[1]} is not set in the environment ({place_of(at, layer)})")
        return environ.get(found[1], "")

    return _VARIABLE.sub(replace, value)


def _is_section_key(path: KeyPath) -> bool:
    # A section whose keys are all commented out is null to YAML.
    found = known_keys(sections=True).get(".".join(path))
    return found is not None and _is_section(found)


# --- the environment -----------------------------------------------------------------------------


def read_environment(environ: Mapping[str, str]) -> Layer:
    """Read every ``THREADWIRE_SECTION__KEY``; lists, tables and whole sections are JSON."""
    names = sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in NOT_SETTINGS)
    layer = Layer(f"environment ({', '.join(names)})" if names else "")
    known = known_keys(sections=True)
    for name in names:
        path = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
        found = known.get(".".join(path))
        if found is None:
            nearest = env_name(nearest_key(".".join(path), known))
            layer.problems.append(f"{name}: unknown environment variable; the nearest known one is {nearest}")
            continue
        try:
            value = _parse(environ[name], found)
        except ValueError:
            layer.problems.append(f"{name}: expected JSON, a list or a table (environment)")
            continue
        layer.places[path] = f"environment {name}"
        for key in reversed(path):
            value = {key: value}
        # Sorted, a section's own variable comes before those of its keys, which win over it.
        layer.values = merge(layer.values, value)
    return layer


def _parse(text: str, of: FieldInfo) -> Any:
    if text in {"", "null"} and takes(of, type(None)):
        return None
    return json.loads(text) if _is_section(of) or get_origin(of.annotation) in {list, dict} else text


# --- the keys ------------------------------------------------------------------------------------


def known_keys(*, sections: bool = False) -> dict[str, FieldInfo]:
    """Every key as ``section.key``, in the order of the file; with ``sections`` the tables themselves too."""

    def walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
        for name, info in model.model_fields.items():
            if sections or not _is_section(info):
                yield prefix + name, info
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                yield from walk(info.annotation, f"{prefix}{name}.")

    return dict(walk(Settings, ""))


def env_name(key: str) -> str:
    """The variable of a key: ``server.port`` is ``THREADWIRE_SERVER__PORT``."""
    return ENV_PREFIX + key.upper().replace(".", "__")


def _is_section(of: FieldInfo) -> bool:
    return isinstance(of.annotation, type) and issubclass(of.annotation, BaseModel)


def takes(of: FieldInfo, kind: type) -> bool:
    """Whether a key of a union type takes that kind of value."""
    return kind in get_args(of.annotation)


def nearest_key(key: str, known: Mapping[str, object]) -> str:
    """The known key that is most like this one, as a whole and in its last part."""

    def likeness(candidate: str) -> float:
        pairs = ((key, candidate), (key.rpartition(".")[2], candidate.rpartition(".")[2]))
        return sum(SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max(known, key=likeness)
