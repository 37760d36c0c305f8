"""Pages whose tables name a test in each row, `[file::function]`, and below where it is: `[…]: path`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
LINK = re.compile(r"\[(\w+)::(\w+)\](?!:)")
PLACE = re.compile(r"^\[(\w+)::(\w+)\]: (\S+)$", re.M)

Link = tuple[str, str, str]  # file without .py, function, path from docs/


def links(page: str) -> list[Link]:
    """Each test that a page says the place of, sorted."""
    return sorted(PLACE.findall((DOCS / page).read_text()))


def check_names(page: str) -> None:
    """Every test that is named has one place, and every place a name."""
    named = set(LINK.findall((DOCS / page).read_text()))
    placed = [(file, function) for file, function, _ in links(page)]
    assert named == set(placed) and len(placed) == len(set(placed))


def rows(page: str) -> list[list[str]]:
    """The cells of each row of each table, heads included, lines below them not."""
    lines = (DOCS / page).read_text().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def check_link(link: Link) -> None:
    """The file has the test."""
    file, function, target = link
    path = (DOCS / target).resolve()
    assert path.name == f"{file}.py"
    found = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert function.startswith("test_") and function in found
