"""docs/protocol.md: each linked test exists, and no row of its tables is without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
TEXT = PAGE.read_text()
LINKS = re.findall(r"\[(\w+)::(\w+)\]\(([^)]*)\)", TEXT)
ROWS = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize(("file", "function", "target"), sorted(set(LINKS)), ids=lambda part: part)
def test_a_linked_test_exists(file: str, function: str, target: str) -> None:
    path = (PAGE.parent / target).resolve()
    assert path.name == f"{file}.py"
    found = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert function.startswith("test_") and function in found


def test_every_row_has_a_test_and_all_its_columns() -> None:
    assert len(ROWS) > 100
    for row in ROWS:
        if row[0] in ("| behaviour", "| set"):
            continue
        assert re.search(r"\[\w+::test_\w+\]", row[1]), row[0]
        assert len(row) in (2, 5) and all(cell.strip(" |") for cell in row), row[0]
