"""What standard output may be given: colours or none, and no control characters."""

from __future__ import annotations

import os
import sys

from workers.environment import choice


def is_coloured() -> bool:
    """Whether standard output gets colours: a terminal, and nobody forbade them."""
    known = ("always", "never", "auto")
    given = os.environ.get("WG_COLOR_MODE", "")
    mode = choice("plait", "WG_COLOR_MODE", given, known, "auto", "colours are for terminals")
    if mode in ("always", "never"):
        return mode == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def printable(text: str) -> str:
    """Text of others, such as a peer's name, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
