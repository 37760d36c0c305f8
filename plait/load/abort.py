"""--abort-on: a condition, as --require writes them, that ends the run as soon as it holds.

It is judged while a phase runs, over its last SPAN seconds: what went well before must not hide that nothing
goes well now. An echo has LATER seconds to be answered before it can count as lost. While a phase
drains nothing more is asked, and nothing is judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from plait.failure import Failure
from plait.load import result as load_result
from plait.load import thresholds as load_thresholds
from plait.load.result import PhaseResult
from plait.load.thresholds import Threshold

OPTION = "--abort-on"
SPAN = 5.0  # seconds
LATER = 1.0
# Known only when a phase is over; and of gap_, so are all times.
AT_THE_END = ("sessions", "unrecovered", "there_loss", "not_sent", "generator_not_sent")
ASKED = ("asked", "unsent", "echoes_not_sent", "echoes_refused", "initiations")


class AbortedError(Exception):
    """A condition holds: which, and what was found."""


def parse(text: str) -> Threshold:
    """One --abort-on. Failure that says what is wrong with it."""
    condition = load_thresholds.parse(text, OPTION)
    if condition.metric in AT_THE_END or condition.metric.startswith("gap_"):
        raise Failure(
            f"cannot use {OPTION} '{text}'",
            f"{condition.metric} is known only when a phase is over",
            "Write it with --require, or name another metric: 'loss>50%', 'answers/s<100'.",
        )
    return condition


def check(conditions: Sequence[str], phases: Sequence[str]) -> None:
    """Failure when one cannot be judged, or is about a phase that there is not."""
    load_thresholds.check_phases([parse(text) for text in conditions], phases, OPTION)


class AbortWatch:
    """Looks of the last seconds, and the conditions."""

    def __init__(self, conditions: Sequence[str]) -> None:
        self.conditions = [parse(text) for text in conditions]
        self.looks: deque[tuple[float, PhaseResult]] = deque()

    def check(self, elapsed: float, result: Callable[[], PhaseResult]) -> None:
        """AbortedError when a condition holds. result: the phase as it is after so many seconds."""
        if not self.conditions:
            return
        now = result()
        if now.counters["wall_ns"]:  # a process counts it when it begins to drain
            return
        if self.looks and (self.looks[-1][0] >= elapsed or self.looks[-1][1].name != now.name):
            self.looks.clear()
        self.looks.append((elapsed, now))
        while self.looks[0][0] < elapsed - SPAN - LATER - 1:
            self.looks.popleft()
        if elapsed < 2 * LATER:
            return
        measured = self._measured(elapsed)
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

    def _measured(self, elapsed: float) -> dict[str, float | None]:
        """The metrics of the last seconds."""
        span = self._span(elapsed)
        measured = load_result.metrics([span])
        if self.looks[-1][1].counters["initiations"]:
            # Not until 95 % or the last were confirmed, which counts from the phase's beginning.
            for name in ("handshakes/s", "handshakes_last/s"):
                measured[name] = span.rate("handshakes")
        return measured

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
