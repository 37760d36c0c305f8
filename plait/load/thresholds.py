"""What --require says: `[PHASE:]METRIC OPERATOR VALUE`, for example `loss<0.1%` or `steady:p99<5ms`.

Without a phase it is about the whole run. A metric that nothing was measured for fails.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plait.failure import Failure

EXIT_CODE = 99
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
SHARE, TIME, NUMBER = "share", "time", "number"
PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")
# The names of load_result.metrics, and what their values are.
METRICS = {
    "loss": SHARE,
    "handshake_loss": SHARE,
    **dict.fromkeys(PERCENTILES, TIME),
    **{f"handshake_{name}": TIME for name in PERCENTILES},
    **{f"response_{name}": TIME for name in PERCENTILES},
    "handshakes": NUMBER,
    "handshakes/s": NUMBER,
    "answers/s": NUMBER,
    "gbit/s": NUMBER,
    "cookies": NUMBER,
    "garbage_answers": NUMBER,
    "wrong": NUMBER,
}
UNITS: dict[str, dict[str, float]] = {
    SHARE: {"": 1.0, "%": 0.01},
    TIME: {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0},
    NUMBER: {"": 1.0, "k": 1e3, "M": 1e6},
}
_PATTERN = re.compile(
    r"\s*(?:(?P<phase>[^:]+):)?\s*(?P<metric>[A-Za-z_][\w./]*)\s*"
    r"(?P<operator><=|>=|==|<|>)\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z%]*)\s*"
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


def parse(text: str) -> Threshold:
    """One --require. Failure that says what is wrong with it."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise _refused(text, "it is not METRIC OPERATOR VALUE")
    metric, unit = match["metric"], match["unit"]
    if metric not in METRICS:
        raise _refused(text, f"there is no metric {metric}", f"Metrics: {', '.join(METRICS)}.")
    units = UNITS[METRICS[metric]]
    if unit not in units:
        wanted = ", ".join(name or "no unit" for name in units)
        raise _refused(text, f"{metric} is not given in {unit or 'a bare number'}", f"It takes: {wanted}.")
    phase = match["phase"].strip() if match["phase"] else None
    return Threshold(text, phase, metric, match["operator"], float(match["value"]) * units[unit])


def in_its_unit(text: str, found: object) -> str:
    """What was found, in the unit in which the requirement `text` is written."""
    match = _PATTERN.fullmatch(text)
    if match is None or not isinstance(found, int | float):
        return "nothing measured"
    unit = UNITS[METRICS[match["metric"]]][match["unit"]]
    return f"{round(found / unit, 3):.15g}{match['unit']}"


def check_phases(thresholds: Sequence[Threshold], phases: Sequence[str]) -> None:
    """Failure when one is about a phase that there is not."""
    for threshold in thresholds:
        if threshold.phase is not None and threshold.phase not in phases:
            why = f"there is no phase {threshold.phase}"
            raise _refused(threshold.text, why, f"Phases: {', '.join(phases)}.")


def _refused(
    text: str, why: str, mend: str = "Write for example `loss<0.1%` or `steady:p99<5ms`."
) -> Failure:
    return Failure(f"cannot use --require '{text}'", why, mend)
