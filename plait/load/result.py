"""What a run found: counters and histograms of all processes put together, rates, times and limits.

Histograms arrive as bucket counts of plait/load/generator.h and are kept as HdrHistogram, so that other
tools can read what `--json` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

LONGEST_NS = 1 << 40
DIGITS = 3
HISTOGRAMS = ("response", "handshake", "round_trip")  # enum load_histogram
PERCENTILES = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0))
# Messages that an honest gateway never causes.
WRONG = (
    "bad_message",
    "bad_index",
    "bad_response",
    "bad_cookie",
    "bad_tag",
    "repeated",
    "wrong_peer",
    "strange",
)
GARBAGE = ("mac1", "stranger", "short", "random", "tag", "replayed_data", "replayed_initiation")

Counts = Mapping[str, int]


@cache
def counter_names() -> tuple[str, ...]:
    """The counters of enum load_counter, in order, in small letters without their prefix."""
    from plait.load._generator import ffi

    elements = ffi.typeof("enum load_counter").elements
    return tuple(elements[i].removeprefix("LOAD_").lower() for i in range(len(elements) - 1))


@cache
def bucket_middles() -> np.ndarray[Any, np.dtype[np.int64]]:
    """The middle of each bucket in ns."""
    from plait.load._generator import lib

    return np.array([lib.load_bucket_middle(i) for i in range(lib.LOAD_BUCKETS)], dtype=np.int64)


def quantile(buckets: np.ndarray[Any, Any], share: float) -> float | None:
    """Seconds that a share of what was measured did not exceed; None when nothing was."""
    total = int(buckets.sum())
    if not total:
        return None
    at = int(np.searchsorted(np.cumsum(buckets), max(1, np.ceil(share * total))))
    return float(bucket_middles()[at]) / 1e9


def times(buckets: np.ndarray[Any, Any]) -> dict[str, float]:
    """Percentiles in seconds, empty when nothing was measured."""
    shares = {name: quantile(buckets, percent / 100) for name, percent in PERCENTILES}
    return {name: value for name, value in shares.items() if value is not None}


def encoded(buckets: np.ndarray[Any, Any]) -> str:
    """The histogram in HdrHistogram's own interchange format (base64), values in ns."""
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, LONGEST_NS, DIGITS)
    for at in np.flatnonzero(buckets):
        histogram.record_value(max(1, int(bucket_middles()[at])), int(buckets[at]))
    return str(histogram.encode().decode())


@dataclass
class PhaseResult:
    """One phase, of all processes. seconds: the longest that any of them took, drain left out."""

    name: str
    counters: dict[str, int]
    histograms: np.ndarray[Any, Any]  # one row of buckets for each of HISTOGRAMS
    lag_most: float = 0.0  # seconds
    seconds: float = 0.0
    cpu_shares: Sequence[float] = field(default_factory=list)  # of each process's core
    handshakes_planned: bool = False
    began: float = 0.0  # seconds since 1970
    is_finished: bool = True  # False: the run ended in it

    def rate(self, counter: str) -> float:
        """Of a counter, a second."""
        return self.counters[counter] / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """The phase for --json."""
        return {
            "name": self.name,
            "began": self.began,
            "finished": self.is_finished,
            "seconds": self.seconds,
            "counters": self.counters,
            "times": {
                name: {**times(row), "hdr": encoded(row)}
                for name, row in zip(HISTOGRAMS, self.histograms, strict=True)
                if row.any()
            },
            "metrics": metrics([self]),
            "generator": {**cost(self), "lag_most": self.lag_most, "limits": limits(self)},
        }


def lost(counters: Counts) -> float | None:
    """Share of the echoes asked that were not answered."""
    return 1 - counters["answered"] / counters["asked"] if counters["asked"] else None


def handshake_loss(counters: Counts) -> float | None:
    """Share of the handshakes begun that were not confirmed."""
    return 1 - counters["handshakes"] / counters["initiations"] if counters["initiations"] else None


def metrics(phases: Sequence[PhaseResult]) -> dict[str, float | None]:
    """Everything that --require can ask, of one phase or of several together."""
    counters = {name: sum(phase.counters[name] for phase in phases) for name in counter_names()}
    rows = np.sum([phase.histograms for phase in phases], axis=0)
    found: dict[str, float | None] = {"loss": lost(counters), "handshake_loss": handshake_loss(counters)}
    for prefix, row in zip(("response_", "handshake_", ""), rows, strict=True):
        found |= {prefix + name: value for name, value in times(row).items()}

    def per_second(amount: float, busy: list[PhaseResult]) -> float | None:
        seconds = sum(phase.seconds for phase in busy)
        return amount / seconds if seconds else None

    shaking = [phase for phase in phases if phase.counters["initiations"]]
    talking = [phase for phase in phases if phase.counters["asked"]]
    found["handshakes"] = counters["handshakes"]
    found["handshakes/s"] = per_second(counters["handshakes"], shaking)
    found["answers/s"] = per_second(counters["answered"], talking)
    found["gbit/s"] = per_second((counters["inner_out"] + counters["inner_in"]) * 8e-9, talking)
    found["cookies"] = counters["cookies"]
    found["garbage_answers"] = counters["garbage_answers"]
    found["wrong"] = sum(counters[name] for name in WRONG)
    return found


def cost(phase: PhaseResult) -> dict[str, float]:
    """The generator's own CPU: in all, of a handshake's cryptography, of a datagram's everything else."""
    counters = phase.counters
    datagrams = counters["datagrams_out"] + counters["datagrams_in"]
    if not phase.cpu_shares:
        return {}  # no process has told
    found = {"cpu_seconds": counters["cpu_ns"] / 1e9, "cpu_share": max(phase.cpu_shares)}
    if counters["responses"]:
        found["us_per_handshake"] = counters["handshake_ns"] / counters["responses"] / 1e3
    if datagrams:
        # Two clocks: of next to nothing the difference may be below it.
        found["us_per_datagram"] = max(counters["cpu_ns"] - counters["handshake_ns"], 0) / datagrams / 1e3
    return found


def limits(phase: PhaseResult) -> list[str]:
    """Where the generator itself, and not the gateway, bounded what was measured."""
    counters, found = phase.counters, []
    if max(phase.cpu_shares, default=0.0) > 0.95:
        found.append("a process used its whole core: the generator is the limit, give it more --cores")
    if counters["behind"]:
        found.append(
            f"{counters['behind']:,} events left more than 10 ms late, the latest "
            f"{phase.lag_most * 1e3:.0f} ms (their times count from when they were due)"
        )
    if counters["own_drops"]:
        found.append(f"{counters['own_drops']:,} datagrams were lost in the generator's own sockets")
    if counters["unprepared"]:
        found.append(f"{counters['unprepared']:,} ephemerals were made while the clock ran")
    if counters["send_refused"]:
        found.append(f"the kernel refused to send {counters['send_refused']:,} datagrams")
    return found
