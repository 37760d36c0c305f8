"""--abort-on: a condition, as --require writes them, that ends the run as soon as it holds.

It is judged while a phase runs, over its last SPAN seconds: what went well before must not hide that nothing
goes well now. An echo has LATER seconds to be answered before it can count as lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from plait.load import result as load_result
from plait.load import thresholds as load_thresholds
from plait.load.result import PhaseResult

SPAN = 5.0  # seconds
LATER = 1.0
ASKED = ("asked", "unsent", "echoes_not_sent", "echoes_refused", "initiations")


class AbortedError(Exception):
    """A condition holds: which, and what was found."""


class AbortWatch:
    """Looks of the last seconds, and the conditions."""

    def __init__(self, conditions: Sequence[str]) -> None:
        self.conditions = [load_thresholds.parse(text, "--abort-on") for text in conditions]
        self.looks: deque[tuple[float, PhaseResult]] = deque()

    def check(self, elapsed: float, result: Callable[[], PhaseResult]) -> None:
        """AbortedError when a condition holds. result: the phase as it is after so many seconds."""
        if not self.conditions:
            return
        now = result()
        if self.looks and (self.looks[-1][0] >= elapsed or self.looks[-1][1].name != now.name):
            self.looks.clear()
        self.looks.append((elapsed, now))
        while self.looks[0][0] < elapsed - SPAN - LATER - 1:
            self.looks.popleft()
        if elapsed < 2 * LATER:
            return
        measured = load_result.metrics([self._span(elapsed)])
        for condition in self.conditions:
            if condition.phase in (None, now.name) and condition.holds(measured):
                found = load_thresholds.in_its_unit(condition.text, measured[condition.metric])
                raise AbortedError(f"{condition.text} held over the last {min(SPAN, elapsed):.0f} s: {found}")

    def _at(self, elapsed: float) -> tuple[float, PhaseResult | None]:
        """The latest look not after that time; None: the phase's beginning."""
        found: tuple[float, PhaseResult | None] = (0.0, None)
        for at, look in self.looks:
            if at <= elapsed:
                found = at, look
        return found

    def _span(self, elapsed: float) -> PhaseResult:
        """The last seconds as a result of their own."""
        now = self.looks[-1][1]
        begin, before = self._at(elapsed - SPAN)
        asked, asked_before = self._at(elapsed - LATER)[1], self._at(begin - LATER)[1]
        counters = {
            name: value - (before.counters[name] if before else 0) for name, value in now.counters.items()
        }
        for name in ASKED:
            counters[name] = (asked.counters[name] if asked else 0) - (
                asked_before.counters[name] if asked_before else 0
            )
        rows = now.histograms - before.histograms if before else now.histograms
        return replace(now, counters=counters, histograms=rows, seconds=elapsed - begin)
