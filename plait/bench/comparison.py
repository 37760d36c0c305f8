"""What samples come to: medians, spreads, ratios between implementations, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

PINGS_OF_A_VERDICT = 5  # runs that a bar on ping times needs


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
    """A ratio that is required beside wireguard-go 0.0.20220316: in the default mode, and in pipeline."""

    title: str
    key: str
    default: float
    pipeline: float
    at_least: bool
    least_runs: int = 1

    def passes(self, found: float, default: bool) -> bool:
        """Whether a ratio clears it."""
        bar = self.default if default else self.pipeline
        return found >= bar if self.at_least else found <= bar

    def wanted(self, default: bool) -> str:
        """The bar in words."""
        bar = self.default if default else self.pipeline
        return f"{'>=' if self.at_least else '<='} {bar:.3g} x"


BARS = (
    Bar("TCP, 1 stream, a -> b, Gbit/s", "tcp1.ab.gbit", 13, 9, True),
    Bar("TCP, 1 stream, b -> a, Gbit/s", "tcp1.ba.gbit", 13, 9, True),
    Bar("TCP, 4 streams, a -> b, Gbit/s", "tcp4.ab.gbit", 13, 9, True),
    Bar("TCP, 4 streams, b -> a, Gbit/s", "tcp4.ba.gbit", 13, 9, True),
    Bar("TCP, 1 stream, a -> b, CPU s/GB", "tcp1.ab.cpu", 1 / 13, 1 / 9, False),
    Bar("TCP, 1 stream, b -> a, CPU s/GB", "tcp1.ba.cpu", 1 / 13, 1 / 9, False),
    Bar("UDP, 64 bytes, packets/s", "udp64.rate", 5, 3, True),
    Bar("UDP, 64 bytes, CPU us a packet at that rate", "udp64.cpu", 1 / 4, 1 / 4, False),
    Bar("ping, idle, average", "ping.avg", 0.4, 0.8, False, PINGS_OF_A_VERDICT),
    Bar("ping under one TCP stream, average", "pingtcp.avg", 0.25, 0.4, False),
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


def verdicts(samples: Samples, plaits: Mapping[str, bool], other: str) -> list[Verdict]:
    """Every bar whose figure was measured. plaits: title -> whether the default mode's bars hold."""
    found = []
    for title, default in plaits.items():
        for bar in BARS:
            value = ratio(samples, bar.key, title, other)
            if value is not None:
                runs = min(len(samples[bar.key][name]) for name in (title, other))
                why = "" if runs >= bar.least_runs else f"{runs} of {bar.least_runs} runs"
                passed = None if why else bar.passes(value, default)
            elif samples.get(bar.key):
                why, passed = "not measured in both", None
            else:
                continue
            found.append(Verdict(bar.title, title, bar.wanted(default), value, passed, why))
    return found
