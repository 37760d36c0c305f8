"""Whether the C that a checkout would load is the C of its sources.

Python's sources are live in a checkout, and C's are not: after `git pull` or a change, what is loaded was
compiled from other headers, until scripts/compile runs. An installed package has no link to a build, and
nothing to compare.
"""

from __future__ import annotations

import os

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PACKAGES = (
    "engine", "engine/uapi", "shm", "workers", "workers/control", "workers/datapath",
    "plait/bench", "plait/load",
)  # fmt: skip
MODULE = "engine/_engine.so"  # scripts/setup's link
NEXT_STEP = "run scripts/setup, which compiles what changed"


def why_stale(root: str = ROOT) -> str:
    """Why what is compiled must not be loaded; empty when nothing speaks against it."""
    if not os.path.islink(f"{root}/{MODULE}"):  # nor for whom the checkout is closed
        return ""
    try:
        compiled = os.stat(f"{root}/build/compiled").st_mtime_ns
    except FileNotFoundError:
        return "the C sources are not compiled"
    for package in PACKAGES:
        for entry in os.scandir(f"{root}/{package}"):
            if entry.name.endswith((".c", ".h")) and entry.stat().st_mtime_ns > compiled:
                return f"{package}/{entry.name} has changed since it was compiled"
    return ""
