"""A table that fits its console: one that is too wide is printed in parts, one below the other.

Each part repeats the first columns, so that every row keeps its name, and no figure is cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

_WIDEST = 100_000


class PartedTable(Table):
    """Rows of text: `left` columns flush left, which name the row, then `right` columns flush right."""

    def __init__(self, title: str, left: Sequence[str], right: Sequence[str]) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, min_width=len(title))
        self.title, self.title_justify, self.title_style = title, "left", "bold"
        self._left, self._right = left, right
        for name in left:
            self.add_column(name, no_wrap=True)
        for name in right:
            self.add_column(name, justify="right", no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or its parts."""
        every = range(len(self._right))
        if self._needs(console, options, every) <= options.max_width:
            self.min_width = min(self.min_width or 0, options.max_width)
            yield from super().__rich_console__(console, options)
            return
        groups: list[list[int]] = [[]]
        for number in every:
            if groups[-1] and self._needs(console, options, [*groups[-1], number]) > options.max_width:
                groups.append([])
            groups[-1].append(number)
        for group in groups:
            part = self._part(group, title=self.title if group is groups[0] else None)
            part.min_width = min(part.min_width or 0, options.max_width)
            for column in part.columns:
                column.no_wrap, column.overflow = False, "fold"  # only where even one column is too wide
            if group is groups[-1]:
                part.caption, part.caption_justify = self.caption, self.caption_justify
            yield from Table.__rich_console__(part, console, options)

    def _needs(self, console: Console, options: ConsoleOptions, right: Sequence[int]) -> int:
        """Columns of the terminal for these of the right columns, beside the left ones."""
        part = self._part(right, title=None)
        part.min_width = 0
        return Measurement.get(console, options.update(max_width=_WIDEST), part).maximum

    def _part(self, right: Sequence[int], title: object) -> PartedTable:
        part = PartedTable("", self._left, [self._right[number] for number in right])
        part.title = title  # type: ignore[assignment]
        part.min_width = len(str(title)) if title else 0
        first = len(self._left)
        kept = [*range(first), *(first + number for number in right)]
        rows = zip(*(self.columns[number].cells for number in kept), strict=True)
        for row in rows:
            part.add_row(*row)
        return part
