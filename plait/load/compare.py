"""`plait load compare`: two runs, or two labs, side by side, phase by phase."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from plait.failure import Failure
from plait.load import document as load_json
from plait.load import thresholds as load_thresholds
from plait.load.thresholds import SHARE, TIME, UNITS

Finder = Callable[[dict[str, Any]], "float | None"]
COSTS = ("cpu_share", "us_per_handshake", "us_per_datagram")


def _metric(name: str) -> Finder:
    return lambda phase: phase["metrics"].get(name)


def _cost(name: str) -> Finder:
    return lambda phase: phase["generator"].get(name)


# Every figure of a phase of a run's JSON: its name, and where it is found; None is "not measured".
FIGURES: dict[str, Finder] = {
    **{name: _metric(name) for name in load_thresholds.METRICS},
    **{f"generator {name}": _cost(name) for name in COSTS},
}


def shown(requirements: Sequence[dict[str, Any]] = (), asked: Sequence[str] = ()) -> list[str]:
    """The figures of tables: those that are shown always, and those that a requirement or `asked` names."""
    wanted = {load_thresholds.parse(each["text"]).metric for each in requirements} | set(asked)
    always = {*load_thresholds.SHOWN, *(f"generator {name}" for name in COSTS)}
    return [name for name in FIGURES if name in always or name in wanted]


@dataclass(frozen=True)
class Line:
    """One figure of one phase on both sides, of each round; engine: empty where there is but one."""

    engine: str
    phase: str
    metric: str
    before: Sequence[float]
    after: Sequence[float]

    @property
    def ratio(self) -> float | None:
        """The median after, divided by the median before; None where it has no meaning."""
        before, after = middle(self.before), middle(self.after)
        return after / before if before and after is not None else None

    @property
    def place(self) -> str:
        """Engine and phase."""
        return f"{self.engine}: {self.phase}" if self.engine else self.phase

    def as_json(self) -> dict[str, Any]:
        """before and after: medians; the rounds stand beside them."""
        return {
            "engine": self.engine or None,
            "phase": self.phase,
            "metric": self.metric,
            "before": middle(self.before),
            "after": middle(self.after),
            "ratio": self.ratio,
            "rounds_before": list(self.before),
            "rounds_after": list(self.after),
        }


def middle(values: Sequence[float]) -> float | None:
    """Their median, None of none."""
    return median(values) if values else None


def of_phase(run: dict[str, Any], name: str, find: Finder) -> float | None:
    """A figure of a phase; of one that was not finished none: it would be compared with whole ones."""
    place = load_json.places(run).get(name)
    return find(place) if place is not None and place["finished"] else None


def lines(engine: str, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Iterator[Line]:
    """Every figure that either side measured, 0 as well, of the phases that either has, in order."""
    for name in dict.fromkeys(name for run in (*before, *after) for name in load_json.places(run)):
        for metric, find in FIGURES.items():
            sides = [[of_phase(run, name, find) for run in runs] for runs in (before, after)]
            known = [[value for value in side if value is not None] for side in sides]
            if any(known):
                yield Line(engine, name, metric, *known)


def text(metric: str, value: float | None) -> str:
    """A value as a table shows it, with its unit; `-` is not measured."""
    if value is None:
        return "-"
    kind = load_thresholds.METRICS.get(metric)
    if kind == TIME:
        return f"{value * 1e3:,.3f} ms"
    if kind == SHARE:
        return f"{value * 100:.3f} %"
    if metric.endswith("bytes idle") or metric.endswith("bytes after"):
        return f"{value / 2**20:,.1f} MiB"
    if float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) < 0.1:
        return f"{value:.3g}"
    return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"


def spread_text(metric: str, values: Sequence[float]) -> str:
    """The median, and of rounds that differ the least and the greatest."""
    shown = text(metric, middle(values))
    ends = [text(metric, end) for end in (min(values), max(values))] if values else [shown, shown]
    return shown if ends == [shown, shown] else f"{shown} ({ends[0]} to {ends[1]})"


# --- the two sides ------------------------------------------------------------------------------


def sides(path: str) -> dict[str, list[dict[str, Any]]]:
    """The runs of `FILE` by engine, or of `FILE#NAME` of one engine of a lab. A single run has no name."""
    file, _, name = path.partition("#")
    found = load_json.read_any(file)
    if "plait_load" in found:
        if name:
            raise Failure(
                f"cannot read {path}", "it is a run, not a lab: it has no engines", f"Write {file}."
            )
        return {"": [found]}
    names = [engine["name"] for engine in found["engines"]]
    if name and name not in names:
        raise Failure(f"cannot read {path}", f"this lab has no {name}", f"Engines: {', '.join(names)}.")
    made = {
        each: [turn["run"] for turn in found["turns"] if turn["name"] == each and turn["run"] is not None]
        for each in names
        if each == (name or each)
    }
    return {each: runs for each, runs in made.items() if runs}


def pairs(
    before: Mapping[str, list[dict[str, Any]]], after: Mapping[str, list[dict[str, Any]]]
) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Whom to hold against whom: engines of one name, or the only one of either side."""
    both = {name: (before[name], after[name]) for name in before if name in after}
    if not both and len(before) == len(after) == 1:
        both = {"": (*before.values(), *after.values())}  # type: ignore[dict-item]
    if not both:
        had = " and ".join(
            ", ".join(name or "one run" for name in side) or "no run" for side in (before, after)
        )
        mend = "Name an engine of each: plait load compare lab.json#plaitd other.json#plaitd"
        raise Failure("cannot compare them", f"no engine is in both: {had}", mend)
    return both


def differences(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, Any, Any]]:
    """What differs in how both were made: key, before, after; None where one has no such key."""
    both = [dict(_conditions(side[0])) for side in (before, after)]
    for key in dict.fromkeys([*both[0], *both[1]]):
        # What an earlier Plait did not know of was off then.
        values = [side.get(key) or None for side in both]
        if values[0] != values[1]:
            yield key, values[0], values[1]
    if len(before) != len(after):
        yield "rounds", len(before), len(after)


def _conditions(run: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    profile = {
        key: value for key, value in run["profile"].items() if key not in ("phase", "require", "target")
    }
    yield from profile.items()
    for phase in run["profile"]["phase"]:
        yield f"phase {phase['name']}", "in it"
        for key, value in phase.items():
            if isinstance(value, dict):
                yield from ((f"phase {phase['name']}: {key}.{name}", each) for name, each in value.items())
            elif key != "name":
                yield f"phase {phase['name']}: {key}", value
    for key in ("kernel", "cpu"):
        yield key, sorted({each[key] for each in run["machines"]})
    for key, name in (("cores", "cores"), ("peers", "peers of each machine")):
        yield name, [each[key] for each in run["machines"]]
    yield "plait", sorted({" ".join(each["plait"].values()) for each in run["machines"]})
    yield "gateway version", run["gateway"]["version"]
    yield "end", run["end"]


# --- what must not be ----------------------------------------------------------------------------

_PATTERN = re.compile(
    r"\s*(?:(?P<phase>.+):)?\s*(?P<metric>[A-Za-z_][\w./]*)\s*(?P<operator><=|>=|==|<|>)\s*"
    r"(?P<more>\+)?\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z%]*)\s*"
)


@dataclass(frozen=True)
class Limit:
    """One --fail-if: `p99>1.1x` (after is more than 1.1 times before), `loss>+0.1%` (after is more by that),
    or `p99>5ms` (after is more than that). A phase is named as in --require; without, each phase is meant."""

    text: str
    phase: str | None
    metric: str
    operator: str
    value: float
    kind: str  # ratio, difference, value

    def why(self, line: Line) -> str | None:
        """In words, when the line is so; None when it is not. What one side did not measure is so."""
        before, after = middle(line.before), middle(line.after)
        place = f"{self.text}: {line.place}"
        if after is None or (before is None and self.kind != "value"):
            return f"{place}: nothing measured {'after' if after is None else 'before'}"
        known = before or 0.0
        found = {
            "ratio": after / known if known else float("inf") if after else 1.0,
            "difference": after - known,
            "value": after,
        }[self.kind]
        if not load_thresholds.OPERATORS[self.operator](found, self.value):
            return None
        ratio = f", {found:.3f} times" if self.kind == "ratio" else ""
        return f"{place}: {text(self.metric, before)} before, {text(self.metric, after)} after{ratio}"


def limit(words: str) -> Limit:
    """One --fail-if. Failure that says what is wrong with it."""
    match, example = _PATTERN.fullmatch(words), "Write for example p99>1.1x, loss>+0.1% or steady:p99>5ms."
    what = f"cannot use --fail-if '{words}'"
    if match is None:
        raise Failure(what, "it is not METRIC OPERATOR VALUE", example)
    metric, unit = match["metric"], match["unit"]
    if metric not in load_thresholds.METRICS:
        mend = f"Metrics: {', '.join(load_thresholds.METRICS)}."
        raise Failure(what, f"there is no metric {metric}", mend)
    units = UNITS[load_thresholds.METRICS[metric]]
    if unit == "x" and not match["more"]:
        kind, scale = "ratio", 1.0
    elif unit in units:
        kind, scale = "difference" if match["more"] else "value", units[unit]
    else:
        raise Failure(what, f"{metric} is not given in {unit or 'a bare number'}", example)
    phase = match["phase"].strip() if match["phase"] else None
    return Limit(words, phase, metric, match["operator"], float(match["value"]) * scale, kind)


def broken(limits: Sequence[Limit], found: Sequence[Line]) -> list[str]:
    """What of --fail-if is so, in words."""
    words = []
    for each in limits:
        meant = [
            line
            for line in found
            if line.metric == each.metric and (each.phase is None or line.phase == each.phase)
        ]
        if not meant:
            words.append(f"{each.text}: nothing measured on either side")
        words += [why for line in meant if (why := each.why(line)) is not None]
    return words


# --- the command ---------------------------------------------------------------------------------


def run(before: str, after: str, *, as_json: bool, fail_if: Sequence[str] = ()) -> int:
    """Print two runs side by side; what differs in how they were made is said first. The exit code."""
    limits = [limit(words) for words in fail_if]
    both = pairs(sides(before), sides(after))
    found = [line for name, runs in both.items() for line in lines(name, *runs)]
    phases = list(dict.fromkeys(line.phase for line in found))
    for each in limits:
        if each.phase is not None and each.phase not in phases:
            what, why = f"cannot use --fail-if '{each.text}'", f"there is no phase {each.phase}"
            mend = f"Phases: {', '.join(phases)}." if phases else "Neither run has a phase that was finished."
            raise Failure(what, why, mend)
    differs = [
        {"engine": name or None, "key": key, "before": values[0], "after": values[1]}
        for name, runs in both.items()
        for key, *values in differences(*runs)
    ]
    wrong = broken(limits, found)
    for words in unfinished((before, after), both):
        print(f"load: {words}", file=sys.stderr)
    if as_json:
        made = {"differs": differs, "lines": [line.as_json() for line in found], "failed": wrong}
        json.dump(made, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        asked = [
            name for runs in both.values() for run in runs[0] + runs[1] for name in shown(run["requirements"])
        ]
        asked += [each.metric for each in limits]
        _show(before, after, [line for line in found if line.metric in shown(asked=asked)], differs)
    for words in wrong:
        print(f"plait: load: {words}", file=sys.stderr)
    return load_thresholds.EXIT_CODE if wrong else 0


def unfinished(
    files: Sequence[str], both: Mapping[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]
) -> Iterator[str]:
    """Which phases were ended early, so that no figure of theirs is compared."""
    for name, runs in both.items():
        for file, side in zip(files, runs, strict=True):
            places = [item for run in side for item in load_json.places(run).items()]
            for place in dict.fromkeys(each for each, phase in places if not phase["finished"]):
                whose = f"{name}: " if name else ""
                yield f"{file}: {whose}{place} was ended early: its figures are not compared"


def _show(before: str, after: str, found: Sequence[Line], differs: Sequence[dict[str, Any]]) -> None:
    from plait.watch.engine import console, table

    for each in differs:
        place = f"{each['engine']}: " if each["engine"] else ""
        words = " and ".join(
            "none" if each[side] is None else str(each[side]) for side in ("before", "after")
        )
        print(f"{place}{each['key']} differs: {words}", file=sys.stderr)
    title = f"{before} and {after}{', of different runs' if differs else ''}"
    made = table(title, ("phase", "figure"), ("before", "after", "after : before"))
    last = None
    for line in found:
        ratio = "-" if line.ratio is None else f"{line.ratio:.2f}"
        cells = (spread_text(line.metric, line.before), spread_text(line.metric, line.after))
        made.add_row(line.place if line.place != last else "", line.metric, *cells, ratio)
        last = line.place
    console().print(made)
