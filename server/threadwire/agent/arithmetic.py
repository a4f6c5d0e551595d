"""Arithmetic by Python's own parser and an evaluator of ours: numbers, operators, a fixed set of functions.

Bounded in every step, so that no expression costs more than a moment: its length, the size of each whole number, the
arguments of functions that grow. Pure; nothing of an expression is ever run as code.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Number: TypeAlias = int | float

#: Characters of an expression.
MAX_LENGTH = 300
#: Bits of a whole number: about 1,200 digits.
MAX_BITS = 4096

_FORBIDDEN = re.compile(r"[^0-9A-Za-z_.,+\-*/%^() ]")
_LARGE = "the result is too large"

CONSTANTS: Mapping[str, float] = {"pi": math.pi, "e": math.e, "tau": math.tau}


def evaluate(expression: str) -> Number:
    """The value of an expression; ``^`` is a power, as ``**`` is.

    Raises:
        ValueError: it is no arithmetic, has no finite real value, or is too large. One sentence for its author.
    """
    text = " ".join(expression.split())
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the expression is longer than {MAX_LENGTH} characters")
    if unknown := _FORBIDDEN.search(text):
        raise ValueError(f"unexpected {unknown[0]!r}")
    try:
        value = _value(ast.parse(text.replace("^", "**"), mode="eval").body)
    except SyntaxError:
        raise ValueError("this is not an arithmetic expression") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except OverflowError:
        raise ValueError(_LARGE) from None
    except (RecursionError, MemoryError):
        raise ValueError("the expression is nested too deep") from None
    return _checked(value)


def show(value: Number) -> str:
    """A number for people: whole ones with all digits, others with 15 significant ones."""
    return str(value) if isinstance(value, int) else format(value or 0.0, ".15g")


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            return _checked(value)
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if operate := OPERATORS.get(type(op)):
            return _checked(operate(_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if call := FUNCTIONS.get(name):
            return _call(name, call, [_value(argument) for argument in arguments])
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            known = ", ".join([*CONSTANTS, *FUNCTIONS])
            raise ValueError(f"there is no {name!r}; known are {known}")
        case ast.Tuple():
            raise ValueError("unexpected ','; write numbers without thousands separators")
    raise ValueError("this is not an arithmetic expression")


def _call(name: str, function: Callable[..., Any], arguments: list[Number]) -> Number:
    try:
        return _checked(function(*arguments))
    except TypeError:
        raise ValueError(f"{name} does not take these arguments") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _checked(value: Any) -> Number:
    if isinstance(value, complex):
        raise ValueError("the result is not a real number")  # noqa: TRY004 -- the author's mistake, not a type's
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise ValueError(_LARGE)
    elif not math.isfinite(value):
        raise ValueError(_LARGE if math.isinf(value) else "the result is not a number")
    return value  # type: ignore[no-any-return]


def _divide(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int) and right and left % right == 0:
        return left // right
    return left / right


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and (abs(base).bit_length() - 1) * exponent > MAX_BITS:
        raise ValueError(_LARGE)  # before it is computed
    return base**exponent


def _round(value: Number, digits: int = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > 20:
        raise ValueError("from -20 to 20 digits")
    return round(value, digits) if digits > 0 else int(round(value, digits))


def _factorial(value: Number) -> int:
    if not isinstance(value, int) or not 0 <= value <= 500:
        raise ValueError("of a whole number from 0 to 500")
    return math.factorial(value)


OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: _divide,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Mod: lambda left, right: left % right,
    ast.Pow: _power,
}

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "round": _round,
    "floor": math.floor,
    "ceil": math.ceil,
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "degrees": math.degrees,
    "radians": math.radians,
    "hypot": math.hypot,
    "gcd": math.gcd,
    "factorial": _factorial,
}
