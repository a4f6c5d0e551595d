"""Numbers as people read them; pure."""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def seconds(value: float | None) -> str:
    """Three digits, in µs, ms or s."""
    if not value:
        return "-" if value is None else "0"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1000:.3g} ms" if value < 0.9995 else "1.00 s"
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def amount(value: float | None) -> str:
    """A count or a rate, with its thousands apart."""
    return "-" if value is None else f"{value:,.0f}"


def memory(value: float | None) -> str:
    """Bytes, in KiB, MiB or GiB."""
    if not value:
        return "-" if value is None else "0"
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if abs(value) >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1024:,.1f} KiB"


def share(value: float | None) -> str:
    """A share of a core, in per cent."""
    return "-" if value is None else f"{value:.0%}"


def spark(values: Sequence[float], width: int = 60) -> str:
    """The last ``width`` values as a line of little bars, from zero up to the highest."""
    shown = [max(0.0, value) for value in values[-width:]]
    top = max(shown, default=0.0)
    if not top:
        return _BARS[0] * len(shown)
    return "".join(_BARS[min(7, int(value / top * 7.999))] for value in shown)
