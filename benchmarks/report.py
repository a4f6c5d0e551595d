"""The rows as a table: what each server takes, and how often that is threadwire's."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.contenders import CONTENDERS

HEADS = {
    "single": "1 x 2,000 tokens, no delay",
    "burst": "50 x 200, no delay",
    "crowd": "100 sessions at 50 tokens/s",
}


def line(row: dict[str, Any]) -> str:
    """What one run saw, for who watches."""
    text = f"  {row['scenario']} {row['server']}: {row['cpu_us_per_token']} us a token, "
    text += f"server {row['server_busy']:.0%} busy, added p99 {row['delay_ms']['p99']} ms, "
    return "; ".join([text + f"first token p99 {row['first_ms']['p99']} ms", *row["notes"]])


def medians(rows: list[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By scenario and server: median, least and most of the microseconds a token."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(row["scenario"], {}).setdefault(row["server"], []).append(row["cpu_us_per_token"])
    return {
        scenario: {name: (statistics.median(all_), min(all_), max(all_)) for name, all_ in servers.items()}
        for scenario, servers in found.items()
    }


def table(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Server CPU per token, in Markdown: the median, in how many times threadwire's, and the spread."""
    found = medians(rows)
    servers = list(dict.fromkeys(row["server"] for row in rows))
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['time']}, {machine['commit']}",
        ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "",
        "| us of server CPU per token | " + " | ".join(HEADS[scenario] for scenario in found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for name in servers:
        cells = [_cell(each.get(name), each.get("threadwire")) for each in found.values()]
        lines.append(f"| {CONTENDERS[name].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(mine: tuple[float, float, float] | None, ours: tuple[float, float, float] | None) -> str:
    if mine is None:
        return "-"
    median, least, most = mine
    times = f" ({median / ours[0]:.2f} x)" if ours else ""
    return f"{median:.0f}{times} [{least:.0f}-{most:.0f}]"
