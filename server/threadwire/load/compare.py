"""``--compare A.json B.json``: two runs side by side, and what became better or worse."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from threadwire.load import figures

#: Below this much of a difference, two runs are the same: machines are not that steady.
NOISE = 0.05
_LATENCIES = (("p50", "p50"), ("p99", "p99"))


def print_comparison(before: dict[str, Any], after: dict[str, Any], names: tuple[str, str]) -> None:
    """Both on stdout, with the change of each figure."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in (*names, "change"):
        table.add_column(name, justify="right")
    for label, one, other, shown, more_is_worse in _rows(before, after):
        table.add_row(label, shown(one), shown(other), change(one, other, more_is_worse=more_is_worse))
    console = Console()
    console.print(table)
    if differences := _different(before, after):
        console.print(f"[yellow]not the same load: {', '.join(differences)}")


def change(before: float | None, after: float | None, *, more_is_worse: bool) -> str:
    """By how much, coloured where it is more than noise."""
    if before is None or after is None:
        return ""
    if not before:
        return "" if not after else "[red]new" if more_is_worse else "new"
    ratio = after / before - 1
    text = f"{ratio:+.0%}"
    if abs(ratio) < NOISE:
        return f"[dim]{text}"
    return f"[red]{text}" if (ratio > 0) is more_is_worse else f"[green]{text}"


def _rows(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any, Any, bool]]:
    rows: list[tuple[str, Any, Any, Any, bool]] = []
    for name, one in before["latency_seconds"].items():
        other = after["latency_seconds"][name]
        if one["count"] and other["count"]:
            rows += [
                (f"{name} {label}", one[column], other[column], figures.seconds, True) for label, column in _LATENCIES
            ]
    rows.append(("tokens/s", before["tokens_per_second"], after["tokens_per_second"], figures.amount, False))
    for label, section, key, shown in (
        ("server cpu", "server", "cpu", figures.share),
        ("server memory", "server", "memory_bytes_max", figures.memory),
        ("generator cpu", "generator", "cpu", figures.share),
    ):
        rows.append((label, before[section][key], after[section][key], shown, True))
    for label in ("errors", "violations"):
        rows.append((label, sum(before[label].values()), sum(after[label].values()), figures.amount, True))
    return rows


def _different(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    ours, theirs = before["options"], after["options"]
    shown = sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name] and name != "url")
    return [f"{name} {ours[name]} / {theirs[name]}" for name in shown]
