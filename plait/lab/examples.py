"""The examples of configs/, used as operators use them: in a checkout, or where a package put them."""

from __future__ import annotations

import sys
from pathlib import Path

from plait.failure import Failure

PLACES = (
    Path(__file__).resolve().parents[2] / "configs",
    Path(sys.prefix) / "share/plait",
    Path("/usr/share/plait"),
)


def example(name: str) -> str:
    """The text of one of them, by its path below configs/. Failure where it is not installed."""
    for place in PLACES:
        if (file := place / name).is_file():
            return file.read_text()
    raise Failure(f"no {name}", "the examples are not where Plait put them", "Install Plait whole.")
