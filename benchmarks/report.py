"""The rows as a table: what each server takes, and in how many times threadwire's."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.scenarios import LEVELS

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """A scenario in the table: its figure in a row, and how that is written."""

    head: str
    figure: Callable[[dict[str, Any]], float]
    write: Callable[[float], str] = "{:.0f}".format


def _cost(head: str) -> Column:
    return Column(f"{head}: us of CPU per token", lambda row: row["cpu_us_per_token"])


COLUMNS = {
    "single": _cost("1 x 2,000 tokens, no delay"),
    "burst": _cost("50 x 200, no delay"),
    "turn": Column("a turn of 1 token: ms of CPU", lambda row: row["cpu_us_per_token"] / 1000, "{:.1f}".format),
    "crowd": _cost("100 sessions at 50 tokens/s"),
    "capacity": Column(
        "sessions a core keeps up with",
        lambda row: row["sessions"],
        lambda value: f"{value:.0f}" if value else f"under {LEVELS[0]}",
    ),
    "idle": Column("KiB per idle connection", lambda row: row["bytes_per_connection"] / 1024, "{:.1f}".format),
}
#: What is told of a row that is not about tokens.
SHOWN = ("sessions", "bytes_per_connection", "connect_ms", "ages", "growth", "seconds", "ratio")

#: Doubts about more rows than that are one about the machine.
MANY = 12


def line(row: dict[str, Any]) -> str:
    """What one row says, for who watches."""
    if "cpu_us_per_token" in row:
        told = (
            f"{row['cpu_us_per_token']} us a token, server {row['server_busy']:.0%} busy, load {row['load_busy']:.0%}, "
        )
        told += f"added p99 {row['delay_ms']['p99']} ms, first token p99 {row['first_ms']['p99']} ms"
    else:
        told = ", ".join(f"{name} {row[name]}" for name in SHOWN if name in row)
    return "; ".join([f"  {row['scenario']} {row['server']}: {told}", *row["notes"]])


def found(rows: Rows, scenario: str, server: str) -> Rows:
    """The rows of a scenario on a server that could be had."""
    return [row for row in rows if (row["scenario"], row["server"]) == (scenario, server) and "failed" not in row]


def figures(rows: Rows, scenario: str, server: str) -> list[float]:
    """What the rounds have found."""
    return [COLUMNS[scenario].figure(row) for row in found(rows, scenario, server)]


def head(machine: dict[str, Any], peers: dict[str, dict[str, str]]) -> list[str]:
    """Where it was found, and with which versions."""
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mib'] / 1024:.0f} GiB"
    versions = _versions(machine["versions"])
    own = machine["versions"].items()
    others = [f"{CONTENDERS[name].title}: {_versions(dict(found.items() - own))}." for name, found in peers.items()]
    return [f"{where}, Linux {machine['kernel']}; {machine['time']}, commit {machine['commit']}. {versions}.", *others]


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def table(rows: Rows) -> list[str]:
    """In Markdown: the median, in how many times threadwire's, least and most of the rounds."""
    columns = {name: column for name, column in COLUMNS.items() if any(row["scenario"] == name for row in rows)}
    if not columns:
        return []
    lines = ["| | " + " | ".join(column.head for column in columns.values()) + " |", "|---|" + "---|" * len(columns)]
    for server in dict.fromkeys(row["server"] for row in rows):
        cells = [_cell(rows, name, server) for name in columns]
        lines.append(f"| {CONTENDERS[server].title} | " + " | ".join(cells) + " |")
    return lines


def _cell(rows: Rows, scenario: str, server: str) -> str:
    mine, ours = figures(rows, scenario, server), figures(rows, scenario, "threadwire")
    if not mine:
        return ""
    median = statistics.median(mine)
    write = COLUMNS[scenario].write
    cell = write(median)
    if server != "threadwire" and ours and statistics.median(ours):
        cell += f" ({median / statistics.median(ours):.2f} x)"
    return cell + (f" [{write(min(mine))}..{write(max(mine))}]" if len(mine) > 1 else "")


def details(rows: Rows) -> list[str]:
    """What the table has no room for: 200 sessions, connecting, a thread's age, the start."""
    lines = []
    for row in rows:
        name, write = CONTENDERS[row["server"]].title, _DETAILS.get(row["scenario"])
        if write and "failed" not in row:
            lines.append(f"- {name}, {write(row)}")
    return lines


def _two_hundred(row: dict[str, Any]) -> str:
    late, first = row["delay_ms"], row["first_ms"]
    told = f"200 sessions: added delay p50 {late['p50']} ms, p99 {late['p99']} ms, most {late['max']} ms; "
    return (
        told
        + f"first token p50 {first['p50']} ms, p99 {first['p99']} ms; {row['cpu_us_per_token']} us of CPU per token"
    )


def _idle(row: dict[str, Any]) -> str:
    took = row["connect_ms"]
    told = f"{row['connections']} idle connections: {row['rss_mib']} MiB in all; the first took {took['first']} ms, "
    return told + f"the last {took['last']} ms to connect, {row['cpu_us_per_connection']} us of CPU each"


def _age(row: dict[str, Any]) -> str:
    ages = (f"turn {each['turn']}: {each['cpu_ms']} ms, {each['database_bytes'] / 1e6:.2f} MB" for each in row["ages"])
    return f"a thread's age, CPU of a turn and the database: {'; '.join(ages)}"


def _start(row: dict[str, Any]) -> str:
    seconds = row["seconds"]
    told = f"start: {seconds['serve']} s to the first answered request, {seconds['imports']} s for the imports of "
    return told + f"langgraph and langchain-openai alone, {seconds['help']} s for --help"


_DETAILS = {"two_hundred": _two_hundred, "idle": _idle, "age": _age, "start": _start}


def notes(rows: Rows) -> list[str]:
    """What else may have been the limit of a figure."""
    doubtful = [row for row in rows if row["notes"]]
    if len(doubtful) > MANY:
        share = f"In {len(doubtful)} of {len(rows)} rows neighbours, or the load, may have been the limit"
        return [f"**A noisy machine.** {share} (the results say how): not to be trusted."]
    told = [f"- {row['scenario']}, {CONTENDERS[row['server']].title}: {'; '.join(row['notes'])}" for row in doubtful]
    return ["Not to be trusted without a second look:", "", *told] if told else []
