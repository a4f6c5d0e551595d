"""What is shown in the terminal: the live view, a line now and then where nobody watches, the table at the end."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from threadwire.load import figures
from threadwire.load.ledger import PERCENTILES, Ledger
from threadwire.load.violations import VIOLATIONS

#: A line for logs comes this often.
LINE_SECONDS = 10.0
LABELS = {
    "connect": "connect",
    "ack": "acknowledged",
    "first_token": "first token",
    "gap": "between tokens",
    "turn": "whole turn",
    "cancel": "cancel to end",
    "reconnect": "back to live",
}


class Screen:
    """A live view on a terminal, else a line each ten seconds; both on stderr, so that stdout is the result alone."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._console = Console(stderr=True)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        )
        self._said = 0.0

    def shown(self) -> AbstractContextManager[object]:
        """While the run goes on."""
        return self._live if self._live is not None else nullcontext()

    def update(self, row: dict[str, Any], ledger: Ledger) -> None:
        """Show one more second."""
        if self._live is not None:
            self._live.update(_live(self._what, row, ledger), refresh=True)
        elif row["at"] - self._said >= LINE_SECONDS:
            self._said = row["at"]
            sys.stderr.write(f"{_line(row, ledger)}\n")
            sys.stderr.flush()


def print_lines(lines: list[str], style: str) -> None:
    """Lines on stdout, as they are."""
    console = Console()
    for line in lines:
        console.print(Text(line, style=style))


def print_result(result: dict[str, Any]) -> None:
    """The table at the end, on stdout."""
    console = Console()
    console.print(latency_table(result["latency_seconds"]))
    for line in summary(result):
        console.print(line)


def latency_table(latencies: dict[str, dict[str, Any]]) -> Table:
    """Each latency with its percentiles."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in (*PERCENTILES, "max"):
        table.add_column("p99.9" if name == "p999" else name, justify="right")
    table.add_column("count", justify="right")
    for name, found in latencies.items():
        if found["count"]:
            cells = [figures.seconds(found[column]) for column in (*PERCENTILES, "max")]
            table.add_row(LABELS.get(name, name), *cells, figures.amount(found["count"]))
    return table


def summary(result: dict[str, Any]) -> list[Text]:
    """Everything that is no latency, a line each; what is wrong in red."""
    sessions, turns, server, generator = (result[name] for name in ("sessions", "turns", "server", "generator"))
    lines = [
        Text(
            f"{figures.amount(result['tokens'])} tokens in {figures.amount(result['frames'])} frames"
            f" ({figures.amount(result['tokens_per_second'])} tokens/s,"
            f" {figures.amount(result['frames_per_second'])} frames/s, {result['duration_seconds']:g} s)"
        ),
        Text("sessions: " + _counts(sessions)),
        Text("turns: " + _counts(turns)),
    ]
    if server["cpu"] is not None or server["memory_bytes_max"] is not None:
        cpu, top = figures.share(server["cpu"]), figures.share(server["cpu_max"])
        peak = figures.memory(server["memory_bytes_max"])
        lines.append(Text(f"server: {cpu} of a core, {top} at most; {peak} of memory at most"))
    cpu, top = figures.share(generator["cpu"]), figures.share(generator["cpu_max"])
    late = figures.seconds(generator["late_seconds_max"])
    lines.append(Text(f"generator: {cpu} of a core, {top} at most; late by {late} at most"))
    if result["errors"]:
        lines.append(Text("errors: " + _counts(result["errors"]), style="yellow"))
    if result["unverified"]:
        lines.append(Text(f"not verified: the text of {result['unverified']:,} session(s)", style="yellow"))
    lines += _findings(result)
    if generator["bottleneck"]:
        why = f"The generator was the bottleneck: {generator['bottleneck']}."
        lines.append(
            Text(
                f"{why} The latencies are partly its own: give it a core of its own, --processes, or fewer sessions.",
                "bold red",
            )
        )
    return lines


def _findings(result: dict[str, Any]) -> list[Text]:
    broken = {name: count for name, count in result["violations"].items() if count}
    if not broken:
        return [Text("violations: none", style="green")]
    lines = [Text(f"violations: {sum(broken.values())}", style="bold red")]
    for name, count in broken.items():
        lines.append(Text(f"  {count:,} {name}: {VIOLATIONS.get(name, '')}", style="red"))
        lines += [Text(f"    {explanation}") for explanation in result["explanations"].get(name, [])]
    return lines


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{figures.amount(count)} {name.replace('_', ' ')}" for name, count in counts.items()) or "none"


def _live(what: str, row: dict[str, Any], ledger: Ledger) -> RenderableType:
    now = Table.grid(padding=(0, 3))
    now.add_row(
        f"[bold]{row['connections']:,}[/] connections",
        f"[bold]{row['turns']:,}[/] turns under way",
        f"[bold]{row['tokens_per_second']:,.0f}[/] tokens/s",
        f"server {figures.share(row['server_cpu'])} {figures.memory(row['server_memory_bytes'])}",
        f"generator {figures.share(row['generator_cpu'])}",
    )
    rates = figures.spark([found["tokens_per_second"] for found in ledger.rows])
    violations = {name: count for name, count in ledger.violations.items() if count}
    wrong = [
        Text(f"errors: {_counts(dict(ledger.errors))}", style="yellow" if ledger.errors else "dim"),
        Text(f"violations: {_counts(violations)}", style="bold red" if violations else "green"),
    ]
    head = Text(f"{what} · {row['at']:.0f} s", style="bold")
    return Group(head, now, Text(f"tokens/s {rates}", style="cyan"), latency_table(ledger.latencies()), *wrong)


def _line(row: dict[str, Any], ledger: Ledger) -> str:
    first = figures.seconds(row["first_token_p99"])
    return (
        f"{row['at']:6.0f} s: {row['connections']:,} connections, {row['turns']:,} turns under way,"
        f" {row['tokens_per_second']:,.0f} tokens/s, first token p99 {first},"
        f" {sum(ledger.errors.values()):,} errors, {sum(ledger.violations.values()):,} violations"
    )
