"""What a run did over time, in a memory that does not grow: of too many points, each two become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from plait.load import result as load_result

POINTS_MOST = 1024
COUNTERS = (
    "initiations",
    "handshakes",
    "cookies",
    "asked",
    "answered",
    "datagrams_out",
    "datagrams_in",
    "inner_out",
    "inner_in",
    "oneway",
    "oneway_out",
    "strangers_begun",
)


class Counted(Protocol):
    """What a look at the counters has (run.Look): those of the phase that runs, as they are then."""

    @property
    def at(self) -> float: ...
    @property
    def phase(self) -> int: ...
    @property
    def elapsed(self) -> float: ...
    @property
    def counters(self) -> dict[str, int]: ...
    @property
    def round_trip(self) -> np.ndarray[Any, Any]: ...
    @property
    def sessions(self) -> int: ...
    @property
    def outstanding(self) -> int: ...


@dataclass
class Point:
    """What happened between two moments of a phase. Times are seconds since the run's first phase began."""

    begin: float
    end: float
    phase: int
    ticks: int  # looks that are in it
    sessions: int  # at its end
    outstanding: int
    counts: np.ndarray[Any, Any]  # of COUNTERS
    buckets: np.ndarray[Any, Any]  # of the round trips: which are not empty,
    filled: np.ndarray[Any, Any]  # and with how many

    def grow(self, other: Point) -> None:
        """Take in the one that follows, of the same phase."""
        self.end, self.ticks = other.end, self.ticks + other.ticks
        self.sessions, self.outstanding = other.sessions, other.outstanding
        self.counts = self.counts + other.counts
        self.buckets, places = np.unique(np.concatenate([self.buckets, other.buckets]), return_inverse=True)
        self.filled = np.bincount(
            places, weights=np.concatenate([self.filled, other.filled]), minlength=len(self.buckets)
        ).astype(np.uint32)

    def as_json(self, phase: str) -> dict[str, Any]:
        """An entry of `series`: rates a second, percentiles of the interval in seconds."""
        span = max(self.end - self.begin, 1e-9)
        rows = np.zeros(load_result.bucket_middles().shape, dtype=np.uint64)
        rows[self.buckets] = self.filled
        rates = (round(int(count) / span, 3) for count in self.counts)
        return {
            "from": round(self.begin, 3),
            "at": round(self.end, 3),
            "phase": phase,
            "sessions": self.sessions,
            "outstanding": self.outstanding,
            **dict(zip(COUNTERS, rates, strict=True)),
            "round_trip": load_result.times(rows),
        }


def between(before: Counted | None, look: Counted) -> Point:
    """What happened between two looks at one phase; before: None at its first."""
    past = before.counters if before is not None else dict.fromkeys(COUNTERS, 0)
    rows = look.round_trip - before.round_trip if before is not None else look.round_trip
    buckets = np.flatnonzero(rows)
    return Point(
        begin=before.at if before is not None else look.at - look.elapsed,
        end=look.at,
        phase=look.phase,
        ticks=1,
        sessions=look.sessions,
        outstanding=look.outstanding,
        counts=np.array([look.counters[name] - past[name] for name in COUNTERS], dtype=np.int64),
        buckets=buckets.astype(np.uint16),
        filled=rows[buckets].astype(np.uint32),
    )


class Series:
    """The points of a run, at most POINTS_MOST and one for each phase more."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._ticks = 1  # looks in a point: doubled when there are too many points

    def add(self, point: Point) -> None:
        """The point of one look more."""
        last = self.points[-1] if self.points else None
        if last is not None and last.phase == point.phase and last.ticks < self._ticks:
            last.grow(point)
            return
        self.points.append(point)
        if len(self.points) > POINTS_MOST:
            self._ticks *= 2
            self._thin()

    def _thin(self) -> None:
        kept: list[Point] = []
        for point in self.points:
            if kept and kept[-1].phase == point.phase and kept[-1].ticks + point.ticks <= self._ticks:
                kept[-1].grow(point)
            else:
                kept.append(point)
        self.points = kept
