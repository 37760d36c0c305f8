"""A mutant: one place of one file, with other text in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """Characters [start, end) of the file become `new`."""

    path: str  # from the root of the project
    start: int
    end: int
    old: str
    new: str
    kind: str  # the operator, or the name in the kept list
    line: int  # of the first character that differs
    area: str = ""
    equivalent: str = ""  # why no test can see it; empty for all others

    def of(self, area: str) -> Mutant:
        return replace(self, area=area)

    def applied(self, text: str) -> str:
        assert text[self.start : self.end] == self.old, f"{self.path}:{self.line} is another text now"
        return text[: self.start] + self.new + text[self.end :]

    def lines(self, text: str) -> tuple[str, str]:
        """The whole lines that it changes, before and after it, with single blanks."""
        begin, end = text.rfind("\n", 0, self.start) + 1, text.find("\n", self.end)
        after = text[begin : self.start] + self.new + text[self.end : end]
        return " ".join(text[begin:end].split()), " ".join(after.split())

    def change(self) -> str:
        """In one short line."""
        old, new = (" ".join(each.split()) for each in (self.old, self.new))
        return f"{old[:60] or '(nothing)'} -> {new[:60] or '(nothing)'}"


def place(path: str, text: str, start: int, end: int, new: str, kind: str) -> Mutant:
    same = next((n for n, (a, b) in enumerate(zip(text[start:end], new, strict=False)) if a != b), 0)
    line = text.count("\n", 0, start + same) + 1
    return Mutant(path, start, end, text[start:end], new, kind, line)


@dataclass(frozen=True)
class Kept:
    """A mutant by hand. `old` stands once in the file."""

    area: str
    path: str
    name: str
    old: str
    new: str
    equivalent: str = ""

    def mutant(self, root: Path) -> Mutant:
        """ValueError when the source has moved on."""
        text = (root / self.path).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.path} has {text.count(self.old)} times: {self.old}")
        at = text.index(self.old)
        made = place(self.path, text, at, at + len(self.old), self.new, self.name)
        return replace(made, area=self.area, equivalent=self.equivalent)
