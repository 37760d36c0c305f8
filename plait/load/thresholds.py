"""What --require says: `[PHASE:]METRIC OPERATOR VALUE`, for example `loss<0.1%` or `steady:p99<5ms`.

Without a phase it is about the whole run. A metric that nothing was measured for fails. A requirement
that fails only because events left late or never is the generator's failure, and no word about the gateway.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plait.failure import Failure
from plait.load import result as load_result

EXIT_CODE = 99  # a requirement failed, or --abort-on was met
EXIT_GENERATOR = 98  # the generator was the limit
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
SHARE, TIME, NUMBER = "share", "time", "number"
# The names of load_result.metrics, and what their values are.
METRICS = {
    "loss": SHARE,
    "sent_loss": SHARE,
    "handshake_loss": SHARE,
    "sent_handshake_loss": SHARE,
    "there_loss": SHARE,
    "back_loss": SHARE,
    **{
        f"{load_result.PREFIXES[histogram]}{name}": TIME
        for histogram in ("round_trip", "round_trip_departed", "handshake", "handshake_departed",
                          "response", "response_departed", "recovery", "gap")
        for name in load_result.TIMES
    },
    "longest_gap": TIME,
    "recovered": NUMBER,
    "unrecovered": NUMBER,
    "sessions": NUMBER,
    "retries": NUMBER,
    "not_sent": NUMBER,
    "late": NUMBER,
    "generator_not_sent": NUMBER,
    "generator_late": NUMBER,
    "generator_lag": TIME,
    "handshakes": NUMBER,
    "handshakes/s": NUMBER,
    "handshakes_last/s": NUMBER,
    "answers/s": NUMBER,
    "gbit/s": NUMBER,
    "oneway": NUMBER,
    "oneway/s": NUMBER,
    "strangers": NUMBER,
    "cookies": NUMBER,
    "garbage_answers": NUMBER,
    "wrong": NUMBER,
}
# What tables show of them when nobody asked for more.
SHOWN = tuple(
    name
    for name in METRICS
    if not name.endswith(("p75", "p95", "p99.99", "min", "mean"))
    and not name.startswith(("response_departed_", "handshake_departed_", "sent_handshake"))
)
UNITS: dict[str, dict[str, float]] = {
    SHARE: {"": 1.0, "%": 0.01},
    TIME: {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0},
    NUMBER: {"": 1.0, "k": 1e3, "M": 1e6},
}
_PATTERN = re.compile(
    r"\s*(?:(?P<phase>.+):)?\s*(?P<metric>[A-Za-z_][\w./]*)\s*"
    r"(?P<operator><=|>=|==|!=|<|>)\s*(?P<value>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"
    r"(?P<unit>[A-Za-z%]*)\s*"
)


@dataclass(frozen=True)
class Threshold:
    """One requirement; value in seconds, as a share of 1, or as a number."""

    text: str
    phase: str | None
    metric: str
    operator: str
    value: float

    def holds(self, measured: Mapping[str, float | None]) -> bool:
        """Whether metrics (load_result.metrics) meet it. What was not measured does not."""
        found = measured.get(self.metric)
        return found is not None and OPERATORS[self.operator](found, self.value)

    def blame(self, measured: Mapping[str, float | None]) -> str | None:
        """Of one that does not hold: "generator" when it would, had all left that was due, in time."""
        if self.holds(measured) or not measured:
            return None
        is_short = self.metric.endswith("/s") and bool(measured["generator_not_sent"])
        return "generator" if is_short or self.holds(load_result.as_sent(measured)) else None


def parse(text: str, option: str = "--require") -> Threshold:
    """One --require, or another option of the same form. Failure that says what is wrong with it."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise _refused(text, "it is not METRIC OPERATOR VALUE", option=option)
    metric, unit = match["metric"], match["unit"]
    if metric not in METRICS:
        raise _refused(text, f"there is no metric {metric}", f"Metrics: {', '.join(METRICS)}.", option)
    units = UNITS[METRICS[metric]]
    if unit not in units:
        wanted = ", ".join(name or "no unit" for name in units)
        why = f"{metric} is not given in {unit or 'a bare number'}"
        raise _refused(text, why, f"It takes: {wanted}.", option)
    phase = match["phase"].strip() if match["phase"] else None
    return Threshold(text, phase, metric, match["operator"], float(match["value"]) * units[unit])


def exit_code(blames: Sequence[str | None], *, has_limit: bool) -> int:
    """Of a run that came to its end. blames: whose each requirement's failure was, where it failed;
    has_limit: as load_result.is_limit."""
    if any(blame != "generator" for blame in blames):
        return EXIT_CODE
    return EXIT_GENERATOR if blames or has_limit else 0


def in_its_unit(text: str, found: object) -> str:
    """What was found, in the unit in which the requirement `text` is written."""
    match = _PATTERN.fullmatch(text)
    if match is None or not isinstance(found, int | float):
        return "nothing measured"
    unit = UNITS[METRICS[match["metric"]]][match["unit"]]
    return f"{round(found / unit, 3):.15g}{match['unit']}"


def check_phases(
    thresholds: Sequence[Threshold], phases: Sequence[str], option: str = "--require"
) -> None:
    """Failure when one is about a phase that there is not. phases: and PHASE/POPULATION, where it may be."""
    for threshold in thresholds:
        if threshold.phase is not None and threshold.phase not in phases:
            why = f"there is no phase {threshold.phase}"
            raise _refused(threshold.text, why, f"Phases: {', '.join(phases)}.", option)


def _refused(
    text: str,
    why: str,
    mend: str = "Write for example `loss<0.1%` or `steady:p99<5ms`.",
    option: str = "--require",
) -> Failure:
    return Failure(f"cannot use {option} '{text}'", why, mend)
