"""Drawings as SVG: shapes on a white ground, without a library, the same bytes for the same calls."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

INK, PALE, STRONG, WEAK = "#1f2a36", "#f4f6f8", "#b9d4ee", "#e3eef8"
STYLE = (
    f"text {{ font-family: sans-serif; font-size: 13px; fill: {INK}; }}"
    " .head { font-weight: bold; font-size: 14px; }"
    " .file { font-family: monospace; font-size: 11px; fill: #4a5a6a; }"
    f" .line {{ stroke: {INK}; fill: none; }} .lane {{ stroke: #9aa7b4; stroke-dasharray: 3 4; }}"
)


class Drawing:
    """Shapes on a white ground, in the order in which they were added."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        name = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{name}>{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, fill: str = PALE) -> None:
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect {place} rx="5" fill="{fill}" stroke="{INK}"/>')

    def arrow(self, x1: float, y1: float, x2: float, y2: float, both: bool = False) -> None:
        start = ' marker-start="url(#tip)"' if both else ""
        self.parts.append(
            f'<path class="line" d="M{x1:g} {y1:g} L{x2:g} {y2:g}" marker-end="url(#tip)"{start}/>')

    def lane(self, x: float, y1: float, y2: float) -> None:
        self.parts.append(f'<path class="lane" d="M{x:g} {y1:g} L{x:g} {y2:g}"/>')

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """A curve through these points."""
        path = " ".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(points))
        self.parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"
