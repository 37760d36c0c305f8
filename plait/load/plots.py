"""The plots of a load run as SVG: all on one time axis, each phase marked where it begins.

Colours are the page's (CSS variables), so a dark page has dark plots; a dash pattern of each curve says the
same as its colour. Each plot has a title and a description in words for those who do not see it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

WIDE, NARROW = 720, 340  # of the two drawings of each plot, in CSS pixels: the page shows the one that fits
PLOT_HEIGHT = 170
LEFT, RIGHT, BELOW = 58, 12, 36
LETTER = 6.6  # pixels that a letter of a label takes at most, at 12 px
LABEL_ROW = 15
DASHES = ("none", "6 3", "2 3", "8 2 2 2")

Value = Callable[[dict[str, Any]], "float | None"]


@dataclass(frozen=True)
class Mark:
    """Where a phase begins: seconds since the first one did."""

    at: float
    name: str


@dataclass(frozen=True)
class Curve:
    """A curve's label, and its value in an entry of `series`; None: not measured then."""

    label: str
    value: Value


@dataclass(frozen=True)
class Plot:
    """A plot over time; unit: of the upright axis. On a logarithmic scale curves of one shape lie apart."""

    title: str
    unit: str
    curves: Sequence[Curve]
    is_logarithmic: bool = False


def _round_trip(name: str) -> Value:
    def value(entry: dict[str, Any]) -> float | None:
        found = entry["round_trip"].get(name)
        return None if found is None else float(found) * 1e3

    return value


PLOTS = (
    Plot(
        "Handshakes",
        "a second",
        (
            Curve("confirmed", lambda entry: entry["handshakes"]),
            Curve("cookies", lambda entry: entry["cookies"]),
        ),
    ),
    Plot(
        "Echoes",
        "a second",
        (Curve("asked", lambda entry: entry["asked"]), Curve("answered", lambda entry: entry["answered"])),
    ),
    Plot("One-way packets", "a second", (Curve("sent", lambda entry: entry.get("oneway")),)),
    Plot(
        "Round trip",
        "ms",
        tuple(Curve(name, _round_trip(name)) for name in ("p50", "p90", "p99", "max")),
        is_logarithmic=True,
    ),
)


def over_time(series: Sequence[dict[str, Any]], marks: Sequence[Mark], prefix: str) -> Iterator[str]:
    """A figure for each of PLOTS that has something to show. prefix: of ids, one for each run of a page."""
    if not series:
        return
    end = max(entry["at"] for entry in series)
    for number, plot in enumerate(PLOTS):
        if any((curve.value(entry) or 0) > 0 for curve in plot.curves for entry in series):
            yield _figure(
                f"{prefix}-{number}",
                f"{plot.title}, {plot.unit}",
                _words(plot, series),
                [curve.label for curve in plot.curves],
                lambda width, plot=plot: _time_plot(plot, series, marks, end, width),  # type: ignore[misc]
            )


def tails(phases: Sequence[tuple[str, Sequence[tuple[float, float]]]], prefix: str) -> Iterator[str]:
    """The share of round trips that took longer than so many ms, of each phase: (ms, share), longest last."""
    known = [(name, points) for name, points in phases if points]
    if known:
        words = "; ".join(f"{name}: {_tail_words(points)}" for name, points in known)
        yield _figure(
            f"{prefix}-tails",
            "Round trips that took longer, share of all",
            words,
            [name for name, _ in known],
            lambda width: _tail_plot(known, width),
        )


# --- words and frames ----------------------------------------------------------------------------


def _figure(
    name: str, title: str, words: str, labels: Sequence[str], draw: Callable[[int], tuple[int, str]]
) -> str:
    drawings = []
    for size, width in (("wide", WIDE), ("narrow", NARROW)):
        height, body = draw(width)
        drawings.append(
            f'<svg class="{size}" viewBox="0 0 {width} {height}" role="img" '
            f'aria-labelledby="{name}-{size}-t {name}-{size}-d"><title id="{name}-{size}-t">'
            f'{html.escape(title)}</title><desc id="{name}-{size}-d">{html.escape(words)}</desc>{body}</svg>'
        )
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 30 8" aria-hidden="true"><path class="curve c{at % 4}" '
        f'd="M0 4H30"/></svg>'
        f"{html.escape(label)}</li>"
        for at, label in enumerate(labels)
    )
    return f"<figure><figcaption>{html.escape(title)}</figcaption><ul>{keys}</ul>{''.join(drawings)}</figure>"


def _words(plot: Plot, series: Sequence[dict[str, Any]]) -> str:
    said = []
    for phase in dict.fromkeys(entry["phase"] for entry in series):
        meant = [entry for entry in series if entry["phase"] == phase]
        for curve in plot.curves:
            values = [value for entry in meant if (value := curve.value(entry)) is not None]
            if values and max(values) > 0:
                low, high = _number(min(values)), _number(max(values))
                said.append(f"{phase}: {curve.label} {low} to {high}")
    return f"{plot.unit}. " + "; ".join(said)


def _tail_words(points: Sequence[tuple[float, float]]) -> str:
    found = [f"{_number(ms)} ms for {_percent(share)}" for ms, share in points[:: max(1, len(points) // 5)]]
    return ", ".join(found)


def _number(value: float) -> str:
    """Three digits, or all of a whole number."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".")


def _percent(share: float) -> str:
    return f"{share * 100:.6g} %"


# --- scales --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """Values to pixels, in a straight line or by powers of ten."""

    low: float
    high: float
    begin: float
    end: float
    is_logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return round(self.begin + (self.end - self.begin) * (value - low) / (high - low), 1)


def _linear(most: float, begin: float, end: float) -> tuple[_Scale, list[float]]:
    step = _step(most / 4)
    steps = max(1, math.ceil(most / step - 1e-9))
    return _Scale(0, steps * step, begin, end), [step * at for at in range(steps + 1)]


def _step(least: float) -> float:
    """1, 2 or 5 times a power of ten, the next above."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= least * (1 - 1e-9))


def _powers(least: float, most: float, begin: float, end: float) -> tuple[_Scale, list[float]]:
    low = math.floor(math.log10(least))
    high = max(math.ceil(math.log10(most) - 1e-9), low + 1)
    return _Scale(10.0**low, 10.0**high, begin, end, True), [10.0**power for power in range(low, high + 1)]


# --- drawings ------------------------------------------------------------------------------------


def _time_plot(
    plot: Plot, series: Sequence[dict[str, Any]], marks: Sequence[Mark], end: float, width: int
) -> tuple[int, str]:
    labels, rows = _placed(marks, end, width)
    top = 6 + LABEL_ROW * rows
    bottom = top + PLOT_HEIGHT
    across, seconds = _time_axis(end, width)
    values = [value for curve in plot.curves for entry in series if (value := curve.value(entry)) is not None]
    if plot.is_logarithmic:
        above_zero = [value for value in values if value > 0]
        up, ticks = _powers(min(above_zero), max(above_zero), bottom, top)
    else:
        up, ticks = _linear(max(values), bottom, top)
    parts = [_grid(up, ticks, across, seconds, "s", top, bottom, width)]
    for mark, (x, row, anchor) in zip(marks, labels, strict=True):
        y = 6 + LABEL_ROW * row
        parts.append(f'<path class="mark" d="M{across(mark.at)} {y}V{bottom}"/>')
        label = html.escape(_short(mark.name, width))
        parts.append(f'<text x="{x}" y="{y + 10}" text-anchor="{anchor}">{label}</text>')
    for at, curve in enumerate(plot.curves):
        path = _steps(curve.value, series, across, up)
        if at == 0 and len(plot.curves) == 2:  # the other lies on it where all goes well
            parts.append(f'<path class="area c{at % 4}" d="{_areas(path, bottom)}"/>')
        parts.append(f'<path class="curve c{at % 4}" d="{path}"/>')
    return bottom + BELOW, "".join(parts)


def _steps(value: Value, series: Sequence[dict[str, Any]], across: _Scale, up: _Scale) -> str:
    """A level for each interval; nothing where nothing was measured."""
    path, reached = [], None
    for entry in series:
        found = value(entry)
        if found is None:
            reached = None
            continue
        begin, end, y = across(entry["from"]), across(entry["at"]), up(found)
        path.append(f"V{y}" if reached is not None and abs(begin - reached) < 0.6 else f"M{begin} {y}")
        path.append(f"H{end}")
        reached = end
    return "".join(path)


def _areas(path: str, bottom: float) -> str:
    """Between steps and the axis."""
    made = []
    for part in path.split("M")[1:]:
        x, rest = part.split(" ", 1)
        made.append(f"M{x} {bottom}V{rest}V{bottom}Z")
    return "".join(made)


def _time_axis(end: float, width: int) -> tuple[_Scale, list[float]]:
    step = _step(end / (8 if width == WIDE else 4))
    scale = _Scale(0, max(end, 1e-3), LEFT, width - RIGHT)
    return scale, [step * at for at in range(math.floor(end / step + 1e-9) + 1)]


def _short(name: str, width: int) -> str:
    most = int((width - LEFT - RIGHT) / LETTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _placed(marks: Sequence[Mark], end: float, width: int) -> tuple[list[tuple[float, int, str]], int]:
    """Of each mark's label: x, row and anchor, so that none stands over another; and how many rows."""
    across, _ = _time_axis(end, width)
    taken: list[float] = []  # how far each row is filled
    placed = []
    for mark in marks:
        space = len(_short(mark.name, width)) * LETTER + 8
        x = across(mark.at) + 3
        anchor, begin = "start", x
        if x + space > width - RIGHT:
            anchor, begin = "end", min(x - 6, width - RIGHT) - space
            x -= 6
            if begin < LEFT:
                anchor, x, begin = "end", width - RIGHT, width - RIGHT - space
        row = next((at for at, until in enumerate(taken) if until <= begin), len(taken))
        taken += [0.0] * (row + 1 - len(taken))
        taken[row] = begin + space
        placed.append((round(x, 1), row, anchor))
    return placed, len(taken)


def _grid(
    up: _Scale,
    ticks: Sequence[float],
    across: _Scale,
    seconds: Sequence[float],
    unit: str,
    top: float,
    bottom: float,
    width: int,
) -> str:
    lines = "".join(f"M{LEFT} {up(tick)}H{width - RIGHT}" for tick in ticks)
    parts = [f'<path class="grid" d="{lines}"/>']
    parts += [
        f'<text x="{LEFT - 6}" y="{up(tick) + 4}" text-anchor="end">{_number(tick)}</text>' for tick in ticks
    ]
    small = "".join(f"M{across(tick)} {bottom}v4" for tick in seconds)
    parts.append(f'<path class="axis" d="M{LEFT} {top}V{bottom}H{width - RIGHT}{small}"/>')
    last = width - RIGHT - 3 * LETTER
    parts += [
        f'<text x="{across(tick)}" y="{bottom + 17}" text-anchor="middle">{_number(tick)}</text>'
        for tick in seconds
        if across(tick) < last
    ]
    parts.append(f'<text x="{width - RIGHT}" y="{bottom + 17}" text-anchor="end">{unit}</text>')
    return "".join(parts)


def _tail_plot(phases: Sequence[tuple[str, Sequence[tuple[float, float]]]], width: int) -> tuple[int, str]:
    top, bottom = 8, 8 + PLOT_HEIGHT
    times = [ms for _, points in phases for ms, _ in points if ms > 0]
    shares = [share for _, points in phases for _, share in points if share > 0]
    across, ticks = _powers(min(times), max(times), LEFT, width - RIGHT)
    up, levels = _powers(min(shares), 1.0, bottom, top)
    lines = "".join(f"M{LEFT} {up(level)}H{width - RIGHT}" for level in levels)
    lines += "".join(f"M{across(tick)} {top}V{bottom}" for tick in ticks)
    parts = [f'<path class="grid" d="{lines}"/>']
    parts += [
        f'<text x="{LEFT - 6}" y="{up(level) + 4}" text-anchor="end">{_percent(level)}</text>'
        for level in levels
    ]
    last = width - RIGHT - 4 * LETTER
    parts += [
        f'<text x="{across(tick)}" y="{bottom + 17}" text-anchor="middle">{_number(tick)}</text>'
        for tick in ticks
        if across(tick) < last
    ]
    parts.append(f'<text x="{width - RIGHT}" y="{bottom + 17}" text-anchor="end">ms</text>')
    for at, (_, points) in enumerate(phases):
        path = "L".join(f"{across(ms)} {up(share)}" for ms, share in points if share > 0)
        parts.append(f'<path class="curve c{at % 4}" d="M{path}"/>')
    return bottom + BELOW, "".join(parts)
