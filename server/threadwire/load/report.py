"""``--report``: a result as one self-contained page, to be put into an incident review."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import orjson

from threadwire.load import figures
from threadwire.load.ledger import PERCENTILES
from threadwire.load.plots import PLOTS, Plot, drawn, join_rows
from threadwire.load.screen import LABELS
from threadwire.load.violations import VIOLATIONS


def render(result: dict[str, Any]) -> str:
    """The page."""
    rows = join_rows(result["rows"])
    shown = [(plot, svg) for plot in PLOTS if rows and (svg := drawn(plot, rows)) is not None]
    broken = sum(result["violations"].values())
    failed = bool(broken or result.get("failed") or _growing(result))
    options, machine = result["options"], result["machine"]
    template = Template(files("threadwire.load").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Load on {options['url']}, {result['started_at']}"),
        heading="Soak test" if "growth" in result else "Load test",
        verdict="failed" if failed else "passed",
        verdict_class=" bad" if failed else "",
        about=escape(
            f"{options['url']} · {result['started_at'].replace('T', ' ').replace('+00:00', ' UTC')}"
            f" · {result['duration_seconds']:,.0f} s · {_load(options)}"
        ),
        notes=_notes(result),
        cards=_cards(result, broken),
        latencies=_latencies(result["latency_seconds"]),
        plots="".join(_figure(plot, svg) for plot, svg in shown),
        promises=_promises(result),
        ends=_ends(result),
        footer=escape(
            f"threadwire {result['threadwire']} · {machine['system']}, {machine['cpus']} cores, Python"
            f" {machine['python']} · {result['generator']['processes']} generating process(es), seed {options['seed']}"
        ),
        rows=_rows([plot for plot, _ in shown], rows),
    )


def _load(options: dict[str, Any]) -> str:
    how = (
        f"{options['arrivals_per_second']:g} sessions a second, by chance"
        if options["arrivals_per_second"]
        else f"{options['sessions']:,} sessions"
    )
    shares = [f"{share:.0%} {name.replace('_', ' ')}" for name, share in options["shares"].items() if share]
    return ", ".join([f"{how} of {options['turns']} turn(s)", *shares])


def _notes(result: dict[str, Any]) -> str:
    notes = [f'<p class="note">{escape(why)}</p>' for why in result.get("failed", [])]
    notes += [
        f'<p class="note">{escape(label)} grows by {_grown(label, found)} an hour</p>'
        for label, found in _growing(result).items()
    ]
    if why := result["generator"]["bottleneck"]:
        text = f"The generator was the bottleneck: {why}. The latencies are partly its own."
        notes.append(f'<p class="note warn">{escape(text)}</p>')
    if unverified := result["unverified"]:
        notes.append(f'<p class="note warn">The text of {unverified:,} session(s) could not be verified.</p>')
    if result["stopped"]:
        notes.append('<p class="note warn">It was stopped before its end.</p>')
    return "".join(notes)


def _growing(result: dict[str, Any]) -> dict[str, Any]:
    return {label: found for label, found in result.get("growth", {}).items() if found.get("grows")}


def _grown(label: str, found: dict[str, Any]) -> str:
    return figures.memory(found["per_hour"]) if label == "memory" else figures.amount(found["per_hour"])


def _cards(result: dict[str, Any], broken: int) -> str:
    latency, server = result["latency_seconds"], result["server"]
    errors = sum(result["errors"].values())
    cards = [
        ("tokens per second", figures.amount(result["tokens_per_second"]), ""),
        ("first token, p50", figures.seconds(latency["first_token"]["p50"]), ""),
        ("first token, p99", figures.seconds(latency["first_token"]["p99"]), ""),
        ("between tokens, p99", figures.seconds(latency["gap"]["p99"]), ""),
        ("connections at most", figures.amount(result["sessions"]["peak_connections"]), ""),
        ("turns completed", figures.amount(result["turns"].get("completed", 0)), ""),
        ("errors", figures.amount(errors), " bad" if errors else ""),
        ("violations", figures.amount(broken), " bad" if broken else " good"),
    ]
    if server["cpu"] is not None:
        cards.append(("server, of a core", figures.share(server["cpu"]), ""))
    if server["memory_bytes_max"] is not None:
        cards.append(("server memory at most", figures.memory(server["memory_bytes_max"]), ""))
    return "".join(f'<div class="card{kind}"><b>{text}</b><span>{label}</span></div>' for label, text, kind in cards)


def _latencies(latencies: dict[str, dict[str, Any]]) -> str:
    columns = (*PERCENTILES, "max")
    head = ["", *("p99.9" if name == "p999" else name for name in columns), "count"]
    body = [
        [
            LABELS.get(name, name),
            *(figures.seconds(found[column]) for column in columns),
            figures.amount(found["count"]),
        ]
        for name, found in latencies.items()
        if found["count"]
    ]
    return _table(head, body)


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table><tr>{first}</tr>{rows}</table>"


def _figure(plot: Plot, svg: str) -> str:
    keys = "".join(
        f'<span class="key" data-name="{line.name}">'
        f'<i style="background:var(--s{number})"></i>{line.label} <b></b></span>'
        for number, line in enumerate(plot.lines, 1)
    )
    return f'<figure><figcaption>{plot.title}{keys}</figcaption>{svg}<div class="hair"></div></figure>'


def _promises(result: dict[str, Any]) -> str:
    rows = []
    for name, count in result["violations"].items():
        kind = "bad" if count else "good"
        examples = "".join(f"<br>{escape(found)}" for found in result["explanations"].get(name, []))
        meaning = escape(VIOLATIONS.get(name, ""))
        rows.append(
            f'<tr><td>{name}</td><td class="{kind}">{count:,}</td><td class="text">{meaning}{examples}</td></tr>'
        )
    return f"<table><tr><th></th><th>broken</th><th></th></tr>{''.join(rows)}</table>"


def _ends(result: dict[str, Any]) -> str:
    body = [
        (f"{what}: {name.replace('_', ' ')}", figures.amount(count))
        for what, counts in (("error", result["errors"]), ("turn", result["turns"]), ("session", result["sessions"]))
        for name, count in counts.items()
    ]
    return _table(["", "count"], body)


def _rows(plots: Sequence[Plot], rows: Sequence[dict[str, Any]]) -> str:
    """What the page's script shows at the pointer: every value as it is written."""
    found: dict[str, list[Any]] = {"at": [row["at"] for row in rows]}
    for plot in plots:
        for line in plot.lines:
            values = (row.get(line.name) for row in rows)
            found[line.name] = [None if value is None else plot.shown(value) for value in values]
    return orjson.dumps(found).decode().replace("<", "\\u003c")
