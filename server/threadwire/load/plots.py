"""The plots of a report: rows of seconds as lines in SVG, drawn by pygal; colours are the page's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pygal
from pygal.style import Style

from threadwire.load import figures

# pygal leaves an import hook of Python 2's kind behind, which Python warns of at every later import; nothing needs it.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "PluginImportFixer"]

#: More points than a plot has pixels tell nothing: rows are joined until no more than this are left.
MAX_POINTS = 500
#: pygal's axes are black, and its lines as thin as its guides.
_CSS = (
    "inline:.axis .line { stroke: var(--line) !important }"
    " .series .line { stroke-width: 2px !important; stroke-linejoin: round }"
)
#: How the rows of several seconds become one, by the end of their name; what is not named is averaged.
_JOINED: dict[str, Callable[[Sequence[float]], float]] = {"_p99": max, "lag": max, "errors": sum, "violations": sum}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot: the row's name of it, and its legend."""

    name: str
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot; ``shown`` writes its values for people."""

    title: str
    lines: tuple[Line, ...]
    shown: Callable[[float], str]
    filled: bool = False


PLOTS = (
    Plot(
        "Time to first token",
        (Line("first_token_p50", "p50"), Line("first_token_p99", "p99")),
        figures.seconds,
    ),
    Plot("Between tokens", (Line("gap_p50", "p50"), Line("gap_p99", "p99")), figures.seconds),
    Plot("Tokens per second", (Line("tokens_per_second", "to all readers"),), figures.amount, filled=True),
    Plot("Sessions", (Line("connections", "connections"), Line("turns", "turns under way")), figures.amount),
    Plot("Acknowledged", (Line("ack_p99", "p99"),), figures.seconds),
    Plot("Errors and violations", (Line("errors", "errors"), Line("violations", "violations")), figures.amount),
    Plot("CPU, of a core", (Line("server_cpu", "server"), Line("generator_cpu", "generator")), figures.share),
    Plot("Server memory", (Line("server_memory_bytes", "resident"),), figures.memory, filled=True),
    Plot("How late the generator was", (Line("lag", "worst of the second"),), figures.seconds),
    Plot("Database", (Line("database_bytes", "size"),), figures.memory, filled=True),
)


def join_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, or fewer that each stand for several."""
    step = -(-len(rows) // MAX_POINTS)
    if step <= 1:
        return list(rows)
    return [_joined(rows[start : start + step]) for start in range(0, len(rows), step)]


def drawn(plot: Plot, rows: Sequence[dict[str, Any]]) -> str | None:
    """The plot as SVG; None where nothing of it was measured."""
    points = {line.name: _points(rows, line.name) for line in plot.lines}
    if not any(points.values()):
        return None
    ticks = _ticks(max(value for found in points.values() for _, value in found), plot)
    chart = pygal.XY(
        style=_style(),
        width=620,
        height=250,
        margin=8,
        show_legend=False,
        show_dots=False,
        show_y_guides=True,
        fill=plot.filled,
        css=("file://style.css", "file://graph.css", _CSS),
        js=[],
        disable_xml_declaration=True,
        include_x_axis=True,
        xrange=(0, rows[-1]["at"] or 1),
        x_labels=_times(rows[-1]["at"]),
        x_value_formatter=_time(rows[-1]["at"]),
        value_formatter=plot.shown,
        y_labels=ticks,
        range=(0, ticks[-1]),
    )
    for line in plot.lines:
        chart.add(line.label, points[line.name])
    return str(chart.render(is_unicode=True))


def _points(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["at"], row[name]) for row in rows if row.get(name) is not None]


def _joined(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row.get(name) is not None]
        how = next((join for end, join in _JOINED.items() if name.endswith(end)), None)
        joined[name] = None if not values else how(values) if how else sum(values) / len(values)
    return joined | {"at": rows[-1]["at"]}


def _ticks(top: float, plot: Plot) -> list[float]:
    """From 0 in four or five round steps beyond the highest value; counts have no halves."""
    unit = float(1 << 20) if plot.shown is figures.memory else 1.0
    least = 1.0 if plot.shown is figures.amount else 0.0
    raw = max(top / unit / 4, 1e-6)
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(least, next(power * round_ for round_ in (1, 2, 2.5, 5, 10) if power * round_ >= raw * 0.999)) * unit
    return [index * step for index in range(math.ceil(max(top, 1e-9) / step * 0.999) + 1)]


def _times(end: float) -> list[float]:
    """About six round times from 0 to the end."""
    steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
    step = next((step for step in steps if end / step <= 7), end / 6)
    return [index * step for index in range(int(end / step) + 1)]


def _time(end: float) -> Callable[[float], str]:
    """How times are written where the last is ``end``: all in one unit."""
    if end <= 120:
        return lambda at: f"{at:.0f} s"
    return (lambda at: f"{at / 60:g} min") if end <= 7200 else (lambda at: f"{at / 3600:g} h")


def _style() -> Style:
    return Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--soft)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--grid)",
        guide_stroke_color="var(--grid)",
        major_guide_stroke_color="var(--grid)",
        guide_stroke_dasharray="0",
        major_guide_stroke_dasharray="0",
        colors=("var(--s1)", "var(--s2)", "var(--s3)", "var(--s4)"),
        font_family="system-ui, 'DejaVu Sans', sans-serif",
        label_font_size=12,
        major_label_font_size=12,
        opacity=".13",
        opacity_hover=".13",
        stroke_opacity="1",
        stroke_opacity_hover="1",
        transition="0s",
    )
