"""What samples come to: medians, spreads, ratios between implementations, verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

RUNS_OF_A_VERDICT = 5
SECONDS_OF_A_VERDICT = 5  # shorter streams flatter
SAME = 0.02  # by how much two floods may differ and be the same


@dataclass(frozen=True)
class Metric:
    """One number that a run yields. decimals: how many are worth printing. better: "more", "less" or ""."""

    key: str
    title: str
    unit: str
    decimals: int
    better: str = ""


@dataclass(frozen=True)
class Spread:
    """Median, least and most of the runs."""

    median: float
    least: float
    most: float
    runs: int


# metric key -> implementation title -> one value a run
Samples = dict[str, dict[str, list[float]]]


def spread(values: Sequence[float]) -> Spread | None:
    """None of nothing."""
    if not values:
        return None
    return Spread(median(values), min(values), max(values), len(values))


def ratio(samples: Samples, key: str, one: str, other: str) -> float | None:
    """One implementation's median over another's; None where either is missing or the other is 0."""
    first, second = (spread(samples.get(key, {}).get(title, [])) for title in (one, other))
    if first is None or second is None or not second.median:
        return None
    return first.median / second.median


@dataclass(frozen=True)
class Bar:
    """A ratio to the newest wireguard-go that Plait's default mode must clear. same: a figure that both
    must have met alike, else the ratio says nothing."""

    title: str
    key: str
    ratio: float
    at_least: bool
    same: str = ""

    def passes(self, found: float) -> bool:
        """Whether a ratio clears it."""
        return found >= self.ratio if self.at_least else found <= self.ratio

    @property
    def wanted(self) -> str:
        """The bar in words."""
        return f"{'>=' if self.at_least else '<='} {self.ratio:.3g} x"


def _tcp_bars() -> Iterator[Bar]:
    for unit, key, limit, at_least in (("Gbit/s", "gbit", 2.1, True), ("CPU s/GB", "cpu", 0.42, False)):
        for streams, count in ((1, "1 stream"), (4, "4 streams")):
            for way in ("ab", "ba"):
                title = f"TCP, {count}, {way[0]} -> {way[1]}, {unit}"
                yield Bar(title, f"tcp{streams}.{way}.{key}", limit, at_least)


BARS = (
    *_tcp_bars(),
    Bar("UDP, 64 bytes, packets/s", "udp64.rate", 7, True),
    Bar("UDP, 64 bytes, CPU us a packet at that rate", "udp64.cpu", 0.12, False),
    Bar("ping, idle, average", "ping.avg", 0.42, False),
    Bar("ping under one TCP stream, average", "pingtcp.avg", 0.10, False),
    Bar("ping of a second peer beside one with a TCP stream, average", "pingpeer.avg", 0.10, False),
    Bar("a program beside a flood of small packets, what it keeps", "flood.kept", 0.8, True, "flood.rate"),
)


@dataclass(frozen=True)
class Verdict:
    """What one bar came to; passed is None when it cannot be told, and why then says it."""

    title: str
    implementation: str
    wanted: str
    found: float | None
    passed: bool | None
    why: str = ""


def verdicts(samples: Samples, plaits: Sequence[str], other: str, seconds: int) -> list[Verdict]:
    """Every bar whose figure was measured. plaits: titles. seconds: of each stream."""
    found = []
    for title in plaits:
        for bar in BARS:
            value = ratio(samples, bar.key, title, other)
            if value is not None:
                why = _open(samples, bar, title, other, seconds)
                passed = None if why else bar.passes(value)
            elif samples.get(bar.key):
                why, passed = "not measured in both", None
            else:
                continue
            found.append(Verdict(bar.title, title, bar.wanted, value, passed, why))
    return found


def _open(samples: Samples, bar: Bar, title: str, other: str, seconds: int) -> str:
    """Why a ratio is no verdict; empty when it is one."""
    runs = min(len(samples[bar.key][name]) for name in (title, other))
    if runs < RUNS_OF_A_VERDICT:
        return f"{runs} of {RUNS_OF_A_VERDICT} runs"
    if seconds < SECONDS_OF_A_VERDICT:
        return f"{seconds} of {SECONDS_OF_A_VERDICT} s"
    alike = ratio(samples, bar.same, title, other) if bar.same else 1.0
    if alike is None or abs(alike - 1) > SAME:
        return "not beside the same"
    return ""
