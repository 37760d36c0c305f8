"""Progress of a bench on stderr: one moving line on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PRIOR = 20.0  # seconds that went as estimated, before any did


class Progress:
    """What is being measured, and about how long the rest takes: the estimate learns from what was done."""

    def __init__(self, seconds: float, show: Callable[[str], None]) -> None:
        self._begun = time.monotonic()
        self._all = seconds
        self._done = 0.0
        self._show = show

    def step(self, text: str, seconds: float) -> None:
        """Something begins that was estimated to take some seconds."""
        spent = time.monotonic() - self._begun
        pace = (spent + PRIOR) / (self._done + PRIOR)
        self._show(f"bench: {text} (about {duration((self._all - self._done) * pace)} left)")
        self._done += seconds


def duration(seconds: float) -> str:
    """Seconds in words, rounded up: estimates are no better."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 100 else f"{-(-whole // 60)} min"


@contextmanager
def progress(seconds: float) -> Iterator[Progress]:
    """Progress over steps that were estimated to take so many seconds in all."""
    if not sys.stderr.isatty():
        yield Progress(seconds, lambda line: print(line, file=sys.stderr, flush=True))
        return
    from rich.console import Console

    with Console(stderr=True).status("bench: starting") as status:
        yield Progress(seconds, status.update)
