"""The charts are what scripts/charts.py draws of the figures that the pages have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["memory", "speed"])
def test_a_chart_is_what_the_script_prints(name: str) -> None:
    printed = subprocess.check_output([sys.executable, "scripts/charts.py", name], cwd=ROOT, text=True)
    page = (ROOT / f"docs/{name}.svg").read_text()
    assert printed == page, f"run: python scripts/charts.py {name} > docs/{name}.svg"
    assert page.count("<rect") > 4
