"""`plait load compare`: two runs side by side, phase by phase."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from plait.load import document as load_json
from plait.load import thresholds as load_thresholds
from plait.load.thresholds import SHARE, TIME


@dataclass(frozen=True)
class Line:
    """One figure of one phase in both runs; ratio: after divided by before, None where it has no meaning."""

    phase: str
    metric: str
    before: float | None
    after: float | None

    @property
    def ratio(self) -> float | None:
        return self.after / self.before if self.before and self.after is not None else None


def lines(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Line]:
    """Every metric that either run has, of the phases that either has, in order."""
    phases = [{phase["name"]: phase for phase in run["phases"]} for run in (before, after)]
    for name in dict.fromkeys([*phases[0], *phases[1]]):
        sides = [phase.get(name, {"metrics": {}, "generator": {}}) for phase in phases]
        for metric in load_thresholds.METRICS:
            found = [side["metrics"].get(metric) for side in sides]
            if any(found):
                yield Line(name, metric, *found)
        for cost in ("cpu_share", "us_per_handshake", "us_per_datagram"):
            found = [side["generator"].get(cost) for side in sides]
            if any(found):
                yield Line(name, f"generator {cost}", *found)


def text(metric: str, value: float | None) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    kind = load_thresholds.METRICS.get(metric)
    if kind == TIME:
        return f"{value * 1e3:,.3f} ms"
    if kind == SHARE:
        return f"{value * 100:.3f} %"
    return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"


def run(before: str, after: str, *, as_json: bool) -> None:
    """Print two runs side by side; what differs in how they were made is said first."""
    runs = load_json.read(before), load_json.read(after)
    found = list(lines(*runs))
    if as_json:
        json.dump([{**asdict(line), "ratio": line.ratio} for line in found], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    from plait.watch.engine import console, table

    profiles = [{**run["profile"], "cores": run["cores"], "kernel": run["kernel"]} for run in runs]
    for key in profiles[0]:
        if key != "phase" and profiles[0][key] != profiles[1].get(key):
            print(f"{key} differs: {profiles[0][key]} and {profiles[1].get(key)}", file=sys.stderr)
    made = table(f"{before} and {after}", ("phase", "figure"), ("before", "after", "after : before"))
    last = None
    for line in found:
        ratio = "-" if line.ratio is None else f"{line.ratio:.2f}"
        shown = line.phase if line.phase != last else ""
        made.add_row(shown, line.metric, text(line.metric, line.before), text(line.metric, line.after), ratio)
        last = line.phase
    console().print(made)
