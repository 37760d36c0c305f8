"""Waiting for what other processes do: never for a time, always for the thing itself.

The limit says when to give up. It is reached only where the thing never comes, so that a busy machine does
not fail a test; a test that means a promised time counts turns, looks or CPU time instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 60.0
Value = TypeVar("Value")


def until(condition: Callable[[], Value], what: str, seconds: float = PATIENCE) -> Value:
    """The first true value of condition. AssertionError, with what was waited for, after so many seconds."""
    deadline, pause = time.monotonic() + seconds, 0.0005
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return value
