"""What a whole run changes in the repository: its results, the pictures, and the tables of docs/performance.md.

python -m benchmarks.publish      # writes pictures and tables again from the results that are there
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import goals, picture, report

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
    parts = (head, report.table(rows), goals.table(rows), report.notes(rows))
    return "\n\n".join("\n".join(part) for part in parts if part)


def publish() -> None:
    """Write what the results have into the page and the pictures."""
    found = {suite: RESULTS / f"{suite}.json" for suite in SUITES}
    results = {suite: json.loads(path.read_text()) for suite, path in found.items() if path.exists()}
    page = PAGE.read_text(encoding="utf-8")
    for suite, each in results.items():
        begin, end = f"<!-- {suite} -->", f"<!-- /{suite} -->"
        page = re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{text(each)}\n{end}", page, flags=re.DOTALL)  # noqa: B023
    PAGE.write_text(page, encoding="utf-8")
    if results:
        picture.draw(next(iter(results.values())), IMAGES)


if __name__ == "__main__":
    publish()
