"""What a whole run changes in the repository: its results, the pictures, and the tables of docs/performance.md.

python -m benchmarks.publish      # writes pictures and tables again from the results that are there
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyperf

from benchmarks import goals, picture, profiling, report

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
#: What others have built comes first: it has the tutorial's server as well.
SUITES = ("peers", "bench")


def save(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def text(results: dict[str, Any]) -> str:
    """All that a run has found, in Markdown."""
    rows = results["rows"]
    head = report.head(results["machine"], results["peers"])
    parts = (head, report.table(rows), report.details(rows), goals.table(rows), report.notes(rows))
    return "\n\n".join("\n".join(part) for part in parts if part)


def modules(path: Path) -> str:
    """The hot modules' times, in Markdown."""
    lines = ["| | mean | standard deviation |", "|---|---|---|"]
    for each in pyperf.BenchmarkSuite.load(str(path)).get_benchmarks():
        cells = (each.format_value(each.mean()), each.format_value(each.stdev()))
        lines.append(f"| {each.get_name()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def publish() -> None:
    """Write what the results have into the page and the pictures."""
    runs = {name: _read(name) for name in SUITES}
    found = {name: text(run) for name, run in runs.items() if run}
    if shares := _read("profile"):
        found["profile"] = profiling.table(shares)
    if (path := RESULTS / "modules.json").exists():
        found["modules"] = modules(path)
    page = PAGE.read_text(encoding="utf-8")
    for name, written in found.items():
        before, _, rest = page.partition(f"<!-- {name} -->\n")
        page = f"{before}<!-- {name} -->\n{written}\n<!-- /{name} -->" + rest.partition(f"<!-- /{name} -->")[2]
    PAGE.write_text(page, encoding="utf-8")
    if run := next(filter(None, runs.values()), None):
        picture.draw(run, IMAGES)


def _read(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    publish()
