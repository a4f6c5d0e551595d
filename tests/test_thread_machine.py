"""A thread's actor, whatever it is asked in whatever order: every promise of the protocol holds."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from thread_machine import ThreadMachine

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def _run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        ThreadMachine,
        settings=settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=_CHECKS),
    )


def test_any_order() -> None:
    """Sends, cancels, answers, edits, readers that come and go, restarts: each run ends once, and nothing is lost."""
    _run(10, 20)


@pytest.mark.torture
def test_any_order_for_long() -> None:
    """The same, for longer."""
    _run(300, 40)
