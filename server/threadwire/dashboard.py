"""A Grafana dashboard of the metrics: ``threadwire dashboard`` prints it, ``docs/grafana.json`` is its copy.

Made here, so that a test can hold each expression to the names of ``metrics.py``. Knows nothing of the server.
"""

from __future__ import annotations

from typing import Any

#: The two variables at its top: which Prometheus, and which servers.
_SELECTED = '{job=~"$job",instance=~"$instance"}'
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3

#: Title, unit (Grafana's name for it), and expressions with their legends; ``%`` takes the selection of servers.
_PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Connections, threads, runs",
        "short",
        (
            ("sum(threadwire_connections%)", "connections"),
            ("sum(threadwire_threads_live%)", "threads in memory"),
            ("sum(threadwire_runs_active%)", "runs going on"),
        ),
    ),
    (
        "Runs that ended",
        "ops",
        (("sum by (status, reason) (rate(threadwire_runs_total%[$__rate_interval]))", "{{status}} {{reason}}"),),
    ),
    ("What waits", "short", (("sum by (queue) (threadwire_queue_length%)", "{{queue}}"),)),
    ("First token", "s", (("p", "threadwire_first_token_seconds"),)),
    ("What a token takes through the server", "s", (("p", "threadwire_token_delay_seconds"),)),
    ("Time to stopped", "s", (("p", "threadwire_time_to_stopped_seconds"),)),
    (
        "Tokens",
        "ops",
        (("sum by (model, direction) (rate(threadwire_tokens_total%[$__rate_interval]))", "{{model}} {{direction}}"),),
    ),
    (
        "Traffic",
        "Bps",
        (
            ("sum(rate(threadwire_sent_bytes_total%[$__rate_interval]))", "sent"),
            ("sum(rate(threadwire_received_bytes_total%[$__rate_interval]))", "received"),
        ),
    ),
    ("Closes", "ops", (("sum by (code) (rate(threadwire_connections_closed_total%[$__rate_interval]))", "{{code}}"),)),
    ("Event loop lag", "s", (("p", "threadwire_loop_lag_seconds"),)),
    ("Checkpoint writes", "s", (("p", "threadwire_checkpoint_write_seconds"),)),
    ("Journal writes", "s", (("p", "threadwire_journal_write_seconds"),)),
    (
        "Should be flat: gaps, abandoned runs",
        "short",
        (
            ("sum(increase(threadwire_gaps_total%[$__rate_interval]))", "gaps"),
            ("sum(increase(threadwire_abandoned_runs_total%[$__rate_interval]))", "abandoned"),
            ("sum(threadwire_abandoned_runs_alive%)", "abandoned, still alive"),
        ),
    ),
    (
        "Memory and disk",
        "bytes",
        (
            ("sum by (instance) (process_resident_memory_bytes%)", "memory {{instance}}"),
            ("sum(threadwire_log_bytes%)", "logs in memory"),
            ("sum(threadwire_storage_bytes%)", "database"),
        ),
    ),
    (
        "Process",
        "short",
        (
            ("rate(process_cpu_seconds_total%[$__rate_interval])", "cores {{instance}}"),
            ("process_open_fds% / process_max_fds%", "descriptors, share of the limit {{instance}}"),
            ("threadwire_tasks% / 1000", "thousands of tasks {{instance}}"),
        ),
    ),
    ("Journal written", "Bps", (("sum(rate(threadwire_journal_bytes_total%[$__rate_interval]))", "bytes"),)),
)


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    return {
        "title": "threadwire",
        "uid": "threadwire",
        "tags": ["threadwire"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _variable("job"), _variable("instance")]},
        "panels": [_panel(index, *panel) for index, panel in enumerate(_PANELS)],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str) -> dict[str, Any]:
    chosen = '{job=~"$job"}' if name == "instance" else ""
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": f"label_values(threadwire_info{chosen}, {name})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(index: int, title: str, unit: str, asked: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    targets = [found for expression, legend in asked for found in _targets(expression, legend)]
    row, column = divmod(index, _COLUMNS)
    return {
        "id": index + 1,
        "title": title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": chr(ord("A") + place), **target} for place, target in enumerate(targets)],
    }


def _targets(expression: str, legend: str) -> list[dict[str, str]]:
    if expression == "p":
        # ``legend`` is a histogram's name.
        buckets = f"sum by (le) (rate({legend}_bucket{_SELECTED}[$__rate_interval]))"
        return [
            {"expr": f"histogram_quantile({share}, {buckets})", "legendFormat": f"p{round(share * 100)}"}
            for share in (0.5, 0.9, 0.99)
        ]
    return [{"expr": expression.replace("%", _SELECTED), "legendFormat": legend}]
