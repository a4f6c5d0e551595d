"""The README's picture of a run: two rows of bars, as SVG, for a light and a dark page."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.contenders import CONTENDERS
from benchmarks.report import COLUMNS, figures

WIDTH, NAMES, GAP, FIGURES, ROW, BAR, TOP = 900, 192, 36, 98, 29, 16, 60


@dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    ink: str
    faint: str
    ours: str
    others: str


THEMES = {
    "light": Theme(ink="#1f2328", faint="#59636e", ours="#0f766e", others="#c8d1da"),
    "dark": Theme(ink="#f0f6fc", faint="#9198a1", ours="#3ecdbd", others="#3d4650"),
}
PANELS = {
    "crowd": ("CPU per token, in µs", "100 sessions at 50 tokens/s; less is better"),
    "single": ("CPU per token, in µs", "1 session as fast as it can; less is better"),
    "capacity": ("Sessions that one core keeps up with", "50 tokens/s each, added p99 < 100 ms; more is better"),
}
PAGE = Template("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $width $height" width="$width" height="$height" role="img">
<title>$title</title>
<style>
text { font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; font-size: 13px; fill: $ink }
.head { font-size: 15px; font-weight: 600 }
.faint { fill: $faint; font-size: 12px }
.figure { font-variant-numeric: tabular-nums }
.ours { font-weight: 600 }
rect { fill: $others }
rect.ours { fill: $ours }
</style>
$body
</svg>
""")


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw a run, once for each theme."""
    for name, theme in THEMES.items():
        (folder / f"performance-{name}.svg").write_text(svg(results, theme), encoding="utf-8")


def svg(results: dict[str, Any], theme: Theme) -> str:
    rows, machine = results["rows"], results["machine"]
    # Sessions take long to find out: where that was left out, what a token takes at full speed stands in for it.
    measured = any(figures(rows, "capacity", row["server"]) for row in rows)
    panels = ["crowd", "capacity" if measured else "single"]
    medians = {
        name: {scenario: statistics.median(figures(rows, scenario, name) or [0.0]) for scenario in panels}
        for name in dict.fromkeys(row["server"] for row in rows)
    }
    names = sorted(medians, key=lambda name: medians[name]["crowd"])
    height = TOP + ROW * len(names) + 32
    width = (WIDTH - NAMES - GAP) // 2
    body = [_names(names)]
    for number, scenario in enumerate(panels):
        values = {name: medians[name][scenario] for name in names}
        body.append(_panel(NAMES + number * (width + GAP), width, scenario, values))
    versions = machine["versions"]
    note = f"One core of a {machine['cpu']}; Python {versions['python']}, langgraph {versions['langgraph']}, "
    note += f"{machine['time'][:10]}. All of them store each turn, and ask the same provider."
    body.append(_text(0, height - 6, note, "faint"))
    title = "threadwire beside other servers: " + ", ".join(PANELS[scenario][0] for scenario in panels)
    return PAGE.substitute(vars(theme), width=WIDTH, height=height, title=title, body="\n".join(body))


def _names(names: list[str]) -> str:
    return "\n".join(
        _text(NAMES - 12, _middle(number), CONTENDERS[name].title, _kind(name), 'text-anchor="end"')
        for number, name in enumerate(names)
    )


def _panel(left: int, width: int, scenario: str, values: dict[str, float]) -> str:
    head, what = PANELS[scenario]
    parts = [_text(left, 22, head, "head"), _text(left, 42, what, "faint")]
    most, ours = max(values.values()) or 1, values.get("threadwire")
    for number, (name, value) in enumerate(values.items()):
        length = max(2.0, (width - FIGURES) * value / most)
        top = TOP + number * ROW + (ROW - BAR) / 2
        parts.append(f'<rect class="{_kind(name)}" x="{left}" y="{top}" width="{length:.1f}" height="{BAR}" rx="3"/>')
        figure = COLUMNS[scenario].write(value)
        kind = f"figure {_kind(name)}"
        parts.append(_text(left + length + 8, _middle(number), figure, kind))
        if scenario != "capacity" and ours and name != "threadwire":
            parts.append(_text(left + length + 14 + 8 * len(figure), _middle(number), _times(value / ours), "faint"))
    return "\n".join(parts)


def _times(ratio: float) -> str:
    return f"{ratio:.1f} \u00d7"


def _kind(name: str) -> str:
    return "ours" if name == "threadwire" else "other"


def _middle(number: int) -> float:
    return TOP + number * ROW + ROW / 2 + 4.5


def _text(x: float, y: float, text: str, kind: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" {more}>{escape(text)}</text>'
