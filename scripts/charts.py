"""Print a chart of the documents as SVG. Its figures are those that a page has, read from there.

usage: charts.py speed|memory > docs/NAME.svg
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

from plait.drawing import INK, PALE, STRONG, Drawing

DOCS = Path(__file__).resolve().parents[1] / "docs"
OURS, THEIRS = STRONG, "#d9dee4"


def table(page: str, head: str) -> list[list[str]]:
    """The rows of the table of that page whose head begins so."""
    lines = (DOCS / page).read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(head))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def one(page: str, pattern: str) -> list[float]:
    """The numbers of the only place of a page that is so."""
    (found,) = re.findall(pattern, re.sub(r"\s+", " ", (DOCS / page).read_text()))
    return [float(each.replace(",", "")) for each in found]


def speed() -> Drawing:
    """Each figure of performance.md as how many times better than the newest wireguard-go, and its bar."""
    rows = []
    for figure, bar, beside, *_ in table("performance.md", "| figure | bar | wireguard-go@latest"):
        is_most = bar.startswith("at most")
        numbers = [float(each) for each in re.findall(r"[\d.]+(?=[ ,;])", beside)]
        goal = float(re.findall(r"[\d.]+", bar)[0])
        better = [1 / each if is_most else each for each in numbers]
        label = figure.replace(", at most 1 % lost", "").removesuffix(", average")
        rows.append((label, beside, better, 1 / goal if is_most else goal))
    left, width, high, top, least = 390, 330, 34, 62, 0.7
    size = left + width + 210, top + high * len(rows) + 30
    drawing = Drawing(*size, "Plait beside the newest wireguard-go")
    drawing.text(20, 26, "How many times better Plait is than the newest wireguard-go", "head")
    drawing.text(20, 45, "Bars: a row's worst and best figure. Mark: what Plait wants. Log scale.")

    def place(value: float) -> float:
        return left + width * math.log(value / least) / math.log(16 / least)

    bottom = top + high * len(rows)
    for value in (1, 2, 4, 8, 16):
        drawing.lane(place(value), top, bottom)
        drawing.text(place(value), bottom + 18, f"{value} x" if value > 1 else "as good", anchor="middle")
    for row, (label, beside, better, goal) in enumerate(rows):
        y = top + high * row + 6
        drawing.text(left - 12, y + 15, label, anchor="end")
        drawing.box(place(1), y, place(max(better)) - place(1), 20, PALE)
        drawing.box(place(1), y, place(min(better)) - place(1), 20, OURS)
        drawing.parts.append(f'<path d="M{place(goal):g} {y - 3:g} v26" stroke="{INK}" stroke-width="3"/>')
        drawing.text(left + width + 14, y + 15, beside, "file")
    return drawing


def memory() -> Drawing:
    """What an idle engine takes, and each further peer, beside wireguard-go."""
    idle = r"Both ends together had (\d+\.\d+) MiB \(PSS\), wireguard-go's (\d+\.\d+)"
    ours, theirs = one("performance.md", idle)
    peer, other = one("scale.md", r"bytes an idle peer \(PSS, all processes\) (\d+) ([\d,]+)")
    groups = (("both ends with one peer, MiB", ours, theirs), ("each further idle peer, bytes", peer, other))
    drawing = Drawing(820, 222, "Memory of Plait and of wireguard-go")
    drawing.text(20, 26, "Memory: much for the first peer, little for each other one", "head")
    for number, (title, plait, go) in enumerate(groups):
        y = 50 + 86 * number
        drawing.text(20, y + 12, title)
        for row, (name, value, fill) in enumerate((("Plait", plait, OURS), ("wireguard-go", go, THEIRS))):
            at = y + 20 + 26 * row
            drawing.text(110, at + 15, name, anchor="end")
            drawing.box(120, at, max(4, 580 * value / max(plait, go)), 20, fill)
            drawing.text(132 + 580 * value / max(plait, go), at + 15, f"{value:,g}")
    return drawing


CHARTS = {"speed": speed, "memory": memory}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in CHARTS:
        raise SystemExit(f"usage: charts.py {'|'.join(CHARTS)} > docs/NAME.svg")
    print(CHARTS[sys.argv[1]](), end="")
