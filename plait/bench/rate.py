"""The highest rate that something bears: a search by short trials, and a longer one that confirms it.

Upwards by steps until a rate is not borne, then bisection between the last that was and the first that was
not. On a shared machine a short trial can fail for a reason of its own, so a rate is refused only when
two trials in a row failed; and the rate found must pass a longer trial, else it is lowered a little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BORNE = 0.01  # share of packets that may be lost
FULL = 0.98  # of the wanted rate must have been sent, else the trial says nothing of what it was sent to
STEP = 1.6
CLOSE = 1.06  # bisection ends when the two rates are that close
# Of the rate found: what the longer trial is tried with, until it passes.
CONFIRMATIONS = (1, 1, 0.94, 0.94, 0.88, 0.8, 0.7, 0.6, 0.5, 0.4)


@dataclass(frozen=True)
class Trial:
    """What one trial came to. rate: datagrams a second that were really sent. cpu_seconds: of the engines."""

    rate: float
    sent: int
    received: int
    seconds: float
    cpu_seconds: float

    @property
    def loss(self) -> float:
        """The share of what was sent that did not arrive."""
        return 1 - self.received / self.sent if self.sent else 1.0

    @property
    def cpu_us(self) -> float:
        """Microseconds of the engines' CPU for each datagram that arrived."""
        return self.cpu_seconds * 1e6 / self.received if self.received else float("nan")


@dataclass(frozen=True)
class Found:
    """The rate borne, in the trial that confirmed it. at_sender: it ended where the sender could no more."""

    trial: Trial
    trials: int
    at_sender: bool


Try = Callable[[float, bool], Trial]  # (datagrams a second, whether it is the longer trial)


def highest_rate(attempt: Try, start: float, ceiling: float) -> Found | None:
    """Search from start up to ceiling; None when not even a thirtieth of start is borne."""
    search = _Search(attempt)
    low, high = 0.0, 0.0
    rate = start
    while rate >= start / 30:
        if search.bears(rate):
            low = rate
            if high or rate >= ceiling:
                break
            rate = min(rate * STEP, ceiling)
        else:
            high = rate
            if low:
                break
            rate /= STEP
    if not low:
        return None
    while high and high / low > CLOSE:
        middle = (low * high) ** 0.5
        if search.bears(middle):
            low = middle
        else:
            high = middle
    return search.confirm(low)


class _Search:
    """The trials of one search."""

    def __init__(self, attempt: Try) -> None:
        self._attempt = attempt
        self.trials = 0
        self.at_sender = False

    def bears(self, rate: float) -> bool:
        """Whether one of two short trials lost next to nothing."""
        return any(self._passes(self._run(rate, False), rate) for _ in range(2))

    def confirm(self, rate: float) -> Found | None:
        """The longer trial at this rate, or at a lower one."""
        for share in CONFIRMATIONS:
            trial = self._run(share * rate, True)
            if self._passes(trial, share * rate):
                return Found(trial, self.trials, self.at_sender)
        return None

    def _run(self, rate: float, longer: bool) -> Trial:
        self.trials += 1
        return self._attempt(rate, longer)

    def _passes(self, trial: Trial, rate: float) -> bool:
        full = trial.rate >= rate * FULL
        # Whose fault the last refusal was: the rate found stands just below it.
        if not full or trial.loss > BORNE:
            self.at_sender = not full and trial.loss <= BORNE
        return full and trial.loss <= BORNE
