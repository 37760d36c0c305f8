"""The timeline of `plait fleet demo` as SVG: three plots on one axis of seconds since the kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from plait.drawing import INK, Drawing
from plait.fleet.demo_result import Result

WIDTH, HEIGHT = 860, 570
LEFT, RIGHT, TOP = 64, 130, 100  # pixels beside the plots, and above the first
PLOT, GAP = 110, 46  # pixels of each plot, and between two
COLOURS: Final = ("#2f6fb0", "#2e8b57", "#b8860b")
ASKED, KILL = "#c3ccd5", "#c0392b"
TICKS: Final = (1, 2, 5, 10, 20, 60)  # seconds
MOST_TICKS: Final = 12
STEPS: Final = (1, 1.2, 1.5, 2, 3, 5, 10)

Points = Sequence[tuple[float, float]]


def picture(result: Result) -> str:
    """The whole file."""
    timeline = result.timeline
    title = f"{result.clients} clients at {len(result.gateways)} gateways, one of which is killed"
    drawing = Drawing(WIDTH, HEIGHT, title)
    drawing.text(20, 28, title, "head")
    drawing.text(20, 48, f"Seconds since the kill. Peers are in a store ({result.store}).")
    at = [each.at for each in timeline.echoes] + [each.at for each in timeline.lags] or [0.0]
    first, last = min(*at, -1.0), max(*at, 1.0)

    def across(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (min(max(seconds, first), last) - first) / (last - first)

    _echoes(Plot(drawing, 0, "Echoes a second", _top(each.asked for each in timeline.echoes), across), result)
    _clients(Plot(drawing, 1, "Clients, by the router's routes", result.clients, across), result)
    lags = (each.seconds for each in timeline.lags)
    _lags(Plot(drawing, 2, "A row of the store until it is in force, s", _top(lags), across), result)
    bottom = TOP + 3 * PLOT + 2 * GAP
    step = next((each for each in TICKS if (last - first) / each <= MOST_TICKS), TICKS[-1])
    for tick in range(math.ceil(first / step) * step, math.floor(last) + 1, step):
        drawing.text(across(tick), bottom + 20, str(tick), anchor="middle")
    drawing.line([(across(0), TOP - 42), (across(0), TOP - 26)], KILL)
    drawing.text(across(0) + 6, TOP - 30, f"kill -9 of gateway {result.killed}")
    return str(drawing)


class Plot:
    """One plot: a frame, its title, and its upright axis from 0 to the most."""

    def __init__(
        self, drawing: Drawing, number: int, title: str, most: float, across: Callable[[float], float]
    ) -> None:
        self.drawing, self.most, self.across = drawing, most or 1.0, across
        self.top = TOP + number * (PLOT + GAP)
        self.right = WIDTH - RIGHT
        drawing.text(LEFT, self.top - 10, title, "head")
        drawing.line([(across(0), self.top), (across(0), self.top + PLOT)], KILL)
        for value in (0.0, self.most):
            y = self.up(value)
            drawing.parts.append(f'<path d="M{LEFT} {y:.1f} H{self.right}" stroke="{INK}" opacity="0.3"/>')
            drawing.text(LEFT - 8, y + 4, f"{value:g}", anchor="end")

    def up(self, value: float) -> float:
        """Where a value stands."""
        return self.top + PLOT * (1 - value / self.most)

    def curve(self, points: Points, colour: str, label: str, row: int) -> None:
        """A line, named at the right."""
        if points:
            self.drawing.line([(self.across(at), self.up(value)) for at, value in points], colour)
        self.name(colour, label, row)

    def name(self, colour: str, label: str, row: int) -> None:
        """What a colour means, at the right."""
        y = self.top + 14 + 20 * row
        self.drawing.line([(self.right + 10, y - 4), (self.right + 30, y - 4)], colour)
        self.drawing.text(self.right + 36, y, label)


def _echoes(plot: Plot, result: Result) -> None:
    told = result.timeline.echoes
    plot.curve([(each.at, each.asked) for each in told], ASKED, "asked", 0)
    plot.curve([(each.at, each.answered) for each in told], COLOURS[0], "answered", 1)


def _clients(plot: Plot, result: Result) -> None:
    """Counts stay until the next entry: steps."""
    told = result.timeline.clients
    last = max([each.at for each in told] + [each.at for each in result.timeline.echoes], default=0.0)
    for row, gateway in enumerate(result.gateways):
        points: list[tuple[float, float]] = []
        for each in told:
            if points:
                points.append((each.at, points[-1][1]))
            points.append((each.at, each.gateways[gateway.number]))
        if points:
            points.append((last, points[-1][1]))
        plot.curve(points, COLOURS[row % len(COLOURS)], f"gateway {gateway.number}", row)


def _lags(plot: Plot, result: Result) -> None:
    for row, gateway in enumerate(result.gateways):
        colour = COLOURS[row % len(COLOURS)]
        for each in result.timeline.lags:
            if each.gateway == gateway.number:
                plot.drawing.dot(plot.across(each.at), plot.up(each.seconds), colour)
        plot.name(colour, f"gateway {gateway.number}", row)


def _top(values: Iterable[float]) -> float:
    """The end of an axis: the next of STEPS times a power of ten."""
    most = max(values, default=0.0)
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return float(next(step * power for step in STEPS if step * power >= most))
