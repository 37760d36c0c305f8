"""docs/settings.md is what scripts/settings_page.py prints; the words that it quotes are the code's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import tables
from workers.settings import KEYS

ROOT = tables.DOCS.parent
SOURCES = "".join(path.read_text() for path in sorted((ROOT / "workers").rglob("*.py")))
SAID = re.sub(r'"\s+f?"', "", SOURCES)  # a sentence that is written in parts
ROWS = tables.rows("settings.md")
LIMITS = ROWS[ROWS.index(["limit", "who is refused", "what he reads"]) + 1:]


def test_the_page_is_what_the_script_prints() -> None:
    printed = subprocess.check_output([sys.executable, Path("scripts/settings_page.py")], cwd=ROOT, text=True)
    page = (tables.DOCS / "settings.md").read_text()
    assert printed == page, "run: python scripts/settings_page.py > docs/settings.md"


def test_limits_are_of_settings_that_there_are() -> None:
    named = {key for row in LIMITS for key in re.findall(r"`(\w+)`", row[0])}
    numbers = {key for key, takes in KEYS.items() if takes.startswith("a number")}
    assert numbers <= named <= KEYS.keys()


@pytest.mark.parametrize("row", LIMITS, ids=[row[0] for row in LIMITS])
def test_the_words_of_a_limit_are_said(row: list[str]) -> None:
    for quoted in re.findall(r"`([^`]+)`", row[2]):
        if " " not in quoted or quoted.startswith(("Unable to modify", "plait ")):  # wg's, or a command
            continue
        parts = re.split(r"\bN\b(?: receivers and N consumers)?|/dev/shm|; ", quoted)
        for part in (each.strip(" ,") for each in parts):
            assert part in SAID, part
