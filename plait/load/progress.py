"""What is known of a run while it goes on and at its end, and who is told."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plait.failure import Failure
from plait.load.profile import Profile
from plait.load.result import PhaseResult
from plait.load.series import Series


@dataclass(frozen=True)
class Look:
    """The counters at one moment, of the phase that runs."""

    at: float  # seconds since the run's first phase began
    phase: int
    elapsed: float  # seconds of the phase
    counters: dict[str, int]
    round_trip: np.ndarray[Any, Any]
    sessions: int
    outstanding: int


@dataclass
class Run:
    """Everything that a run found."""

    profile: Profile
    cores: list[int]
    span: range  # numbers of the peers that are simulated here
    phases: list[PhaseResult] = field(default_factory=list)
    series: Series = field(default_factory=Series)
    began: float = field(default_factory=time.time)  # seconds since 1970
    prepared_seconds: float = 0.0
    static_static: int = 0  # secrets computed before the clock started
    ephemerals: int = 0
    bytes_per_peer: int = 0
    under_way: int | None = None  # the phase that has begun and is not among `phases`
    phase_begin: float = 0.0  # when the latest phase began: seconds since the first did
    stopped: bool = False  # before its end
    gave_up: bool = False  # so, because the gateway said nothing for profile.give_up seconds
    aborted: str | None = None  # so, because of an --abort-on: which, and what was found
    failure: Failure | None = None  # so, because a load process ended
    signal: str | None = None  # so, by it

    @property
    def end(self) -> str:
        """How it ended: finished, stopped, gave_up, aborted or failed; running before that."""
        if self.signal is not None:
            return "stopped"
        if self.stopped:
            return "gave_up" if self.gave_up else "aborted" if self.aborted is not None else "failed"
        return "finished" if len(self.phases) == len(self.profile.phase) else "running"


class Screen:
    """Who is told what goes on; each method may be overridden."""

    def preparing(self, done: int, total: int) -> None:
        """Secrets computed before the clock starts."""

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        """Every TICK while a phase runs; before: the last look at the same phase."""

    def finished(self, run: Run, phase: PhaseResult) -> None:
        """A phase is over, or was ended early; it is the last of run.phases."""

    def say(self, text: str) -> None:
        """Something that one should know at once."""
