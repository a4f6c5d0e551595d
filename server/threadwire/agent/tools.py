"""The built-in agent's own tools: useful without a network, safe whoever asks for what.

What a tool cannot do it says in a result with status ``error``, for the model to read; it never ends the run.
"""

from __future__ import annotations

import asyncio
import difflib
import re
import zoneinfo
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel

from threadwire.agent import arithmetic
from threadwire.agent.notebook import delete_note, list_notes, read_note, save_note

if TYPE_CHECKING:
    from pint import UnitRegistry

# Products and quotients of named units with small exponents: what pint would compute beyond that is nobody's unit.
_FACTOR = r"[^\W\d_][\w°]*(?: ?(?:\^|\*\*) ?-?[1-9])?|[°µΩ%][A-Za-z]*"
_UNIT = re.compile(rf"(?:1 ?/ ?)?(?:{_FACTOR})(?:(?: ?[*/·] ?| per | )(?:{_FACTOR}))*")
_MAX_UNIT = 60


async def current_time(zone: str = "UTC") -> str:
    """Tell the date and time now in a time zone of the IANA database, such as Europe/Berlin or UTC."""
    try:
        now = datetime.now(zoneinfo.ZoneInfo(zone.strip()))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = await asyncio.to_thread(_nearest_zones, zone)
        hint = f" Did you mean {' or '.join(near)}?" if near else " Expected a name such as Europe/Berlin or UTC."
        raise ToolException(f"There is no time zone {zone[:60]!r}.{hint}") from None
    return f"{now:%A}, {now.isoformat(timespec='seconds')} ({now.tzname()})"


async def calculate(expression: str) -> str:
    """Compute an arithmetic expression, such as (12.5 + 3) * 2^8 or sqrt(2) * pi.

    It may have + - * / // % ^, parentheses, pi, e, and functions: abs, round, floor, ceil, min, max, sqrt, exp, log,
    log2, log10, sin, cos, tan, asin, acos, atan, degrees, radians, hypot, gcd, factorial. Angles are in radians.
    """
    try:
        return arithmetic.show(arithmetic.evaluate(expression))
    except ValueError as error:
        raise ToolException(f"Cannot compute this: {error}.") from None


async def convert_units(value: float, from_unit: str, to_unit: str) -> str:
    """Convert a quantity between units, such as 5 miles to km, 20 degC to degF, 3 GiB to MB, 90 km/h to m/s."""
    for unit in (from_unit, to_unit):
        if len(unit) > _MAX_UNIT or not _UNIT.fullmatch(" ".join(unit.split())):
            raise ToolException(f"Not a unit: {unit[:_MAX_UNIT]!r}. Expected such as km, degC, m/s^2.")
    # In a thread: to read pint's definitions for the first time takes about half a second.
    result, unit = await asyncio.to_thread(_convert, value, from_unit, to_unit)
    return f"{arithmetic.show(value)} {from_unit.strip()} = {result:.10g} {unit}"


def _convert(value: float, from_unit: str, to_unit: str) -> tuple[float, str]:
    import pint

    try:
        converted = _units().Quantity(value, from_unit).to(to_unit)
    except pint.UndefinedUnitError as error:
        raise ToolException(f"Unknown unit: {', '.join(sorted(_names(error)))}.") from None
    except pint.DimensionalityError as error:
        raise ToolException(f"Cannot convert: {error}.") from None
    except (pint.errors.PintError, ArithmeticError, ValueError, TypeError):
        raise ToolException(f"Cannot convert {from_unit!r} to {to_unit!r}.") from None
    return float(converted.magnitude), f"{converted.units}"


@cache
def _units() -> UnitRegistry[Any]:
    import pint

    return pint.UnitRegistry()


def _names(error: Any) -> list[str]:
    names = error.unit_names
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _nearest_zones(zone: str) -> list[str]:
    zones = sorted(zoneinfo.available_timezones())
    wanted = zone.strip().replace(" ", "_").lower()
    city = [name for name in zones if name.lower().rpartition("/")[2] == wanted.rpartition("/")[2]]
    return city[:3] or difflib.get_close_matches(zone[:60], zones, n=2)


_FUNCTIONS: tuple[Callable[..., Coroutine[Any, Any, str]], ...] = (
    current_time,
    calculate,
    convert_units,
    save_note,
    read_note,
    list_notes,
    delete_note,
)
#: All there are.
TOOL_NAMES = tuple(function.__name__ for function in _FUNCTIONS)


def make_tools(names: Iterable[str]) -> list[BaseTool]:
    """The tools of these names, in their own order; a name that is none of ours is passed over."""
    wanted = set(names)
    return [_make(function) for function in _FUNCTIONS if function.__name__ in wanted]


def _make(function: Callable[..., Coroutine[Any, Any, str]]) -> BaseTool:
    tool = StructuredTool.from_function(coroutine=function, handle_tool_error=True)
    schema = tool.args_schema
    assert isinstance(schema, type)  # noqa: S101 -- made from the function
    assert issubclass(schema, BaseModel)  # noqa: S101
    # LangChain drops what a tool does not know, and a misnamed argument would be answered with the default's result.
    schema.model_config["extra"] = "forbid"
    schema.model_rebuild(force=True)
    return tool
