"""Whether the C that a checkout would load is the C of its sources.

Python's sources are live in a checkout, and C's are not: after `git pull` or a change, what is loaded was
compiled from other headers, until scripts/compile runs. An installed package has no link to a build, and
nothing to compare.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "shm", "workers", "plait/bench")
MODULE = "engine/_engine.so"  # scripts/setup's link
NEXT_STEP = "run scripts/setup, which compiles what changed"


def why_stale(root: Path = ROOT) -> str:
    """Why what is compiled must not be loaded; empty when nothing speaks against it."""
    if not (root / MODULE).is_symlink():
        return ""
    try:
        compiled = (root / "build/compiled").stat().st_mtime_ns
    except FileNotFoundError:
        return "the C sources are not compiled"
    for package in PACKAGES:
        for entry in os.scandir(root / package):
            if entry.name.endswith((".c", ".h")) and entry.stat().st_mtime_ns > compiled:
                return f"{package}/{entry.name} has changed since it was compiled"
    return ""
