"""Timers of many sessions against plain lists."""

from __future__ import annotations

from .day import run


def test_a_few_hours_of_sessions_against_plain_lists() -> None:
    """`python -m tests.robustness.simulator.day` has a whole day of 100,000."""
    lived = run(60, 2.5)
    assert lived.is_clean, lived
    assert min(lived.fired.values()) > 0
