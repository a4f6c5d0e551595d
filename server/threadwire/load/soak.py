"""``threadwire soak``: what a server holds over hours, and whether it is still the same at their end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from threadwire.errors import StartupError
from threadwire.load import figures
from threadwire.load.growth import Growth, fit

#: What is watched: the row's name → its label, and a rise that is nothing in any case. Memory rises in steps for a
#: while, since an allocator keeps what the busiest moments took.
_WATCHED = {
    "server_memory_bytes": ("memory", 16 << 20),
    "server_descriptors": ("descriptors", 8),
    "server_threads": ("threads", 2),
    "server_tasks": ("tasks", 16),
}
_DATABASE = "database_bytes"


class Soak:
    """Looks at the database each second, beside what a load run watches anyway."""

    def __init__(self, database: Path | None) -> None:
        self._database = database
        if database is not None and not database.exists():
            raise StartupError(f"--database {database}: there is no such file")

    def look(self) -> dict[str, Any]:
        """What goes into the second's row."""
        if self._database is None:
            return {}
        files = [self._database, self._database.with_name(self._database.name + "-wal")]
        return {_DATABASE: sum(path.stat().st_size for path in files if path.exists())}

    def findings(self, result: dict[str, Any]) -> dict[str, Any]:
        """How each quantity went, by its label; the database by turn, since every turn is kept."""
        rows = result["rows"]
        found: dict[str, Any] = {}
        for name, (label, least) in _WATCHED.items():
            growth = fit(_points(rows, name), least)
            if growth is not None:
                found[label] = asdict(growth)
        sizes = _points(rows, _DATABASE)
        turns = sum(result["turns"].values())
        if sizes and turns:
            found["database"] = {
                "first": sizes[0][1],
                "last": sizes[-1][1],
                "bytes_per_turn": round((sizes[-1][1] - sizes[0][1]) / turns),
            }
        return found

    def print_findings(self, found: dict[str, Any]) -> bool:
        """Say it, a line each; whether something grows that should not."""
        from threadwire.load.screen import print_lines

        grows = False
        for label, _ in _WATCHED.values():
            if label not in found:
                print_lines([f"{label}: not known (too short, or neither --pid nor /metrics)"], style="dim")
                continue
            growth = Growth(**found[label])
            grows = grows or growth.grows
            print_lines([f"{label}: {_said(label, growth)}"], style="bold red" if growth.grows else "green")
        if "database" in found:
            each = figures.memory(found["database"]["bytes_per_turn"])
            print_lines([f"database: {figures.memory(found['database']['last'])}, {each} for each turn"], style="")
        return grows


def _said(label: str, growth: Growth) -> str:
    shown = figures.memory if label == "memory" else figures.amount
    went = f"{shown(growth.first)} at first, {shown(growth.last)} in the end"
    if not growth.grows:
        return f"flat ({went})"
    return f"grows by {shown(growth.per_hour)} an hour ({went})"


def _points(rows: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["at"], row[name]) for row in rows if row.get(name) is not None]
