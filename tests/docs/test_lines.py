"""Lines of documents end at 100 columns, so that they can be read and compared as text."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPT = runpy.run_path(str(ROOT / "scripts/wrap.py"))
LONG = "word " * 30


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_lines_end_at_100_columns(page: Path) -> None:
    text = page.read_text()
    assert SCRIPT["wrapped"](text) == text, "run: scripts/pages"
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize("text", [
    "| a | " + LONG + "|\n",
    "- an item\n\n  | a | b |\n  |---|---|\n  | a | " + LONG + "|\n",
    "```\n" + LONG + "\n```\n",
    "    " + LONG + "\n",
    "# " + LONG + "\n",
    "- short\n- items\n",
    "[one::two]: " + "x" * 60 + "\n[three::four]: " + "y" * 60 + "\n",
])  # fmt: skip
def test_tables_code_and_what_fits_are_left(text: str) -> None:
    assert SCRIPT["wrapped"](text) == text


@pytest.mark.parametrize(("text", "lead"), [
    (LONG, ""),
    ("- " + LONG, "  "),
    ("12. " + LONG + "\n    " + LONG, "    "),
    ("word " * 19 + "- `code that has spaces` " + LONG, ""),
])  # fmt: skip
def test_prose_is_wrapped_once_and_keeps_its_words(text: str, lead: str) -> None:
    once = SCRIPT["wrapped"](text)
    assert SCRIPT["wrapped"](once) == once and once.split() == text.split()
    lines = once.splitlines()
    assert len(lines) > 1 and all(len(line) <= 100 for line in lines)
    assert all(re.match(rf"{lead}[^\s-]", line) for line in lines[1:])
