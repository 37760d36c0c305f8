"""What a Python that a test starts has to find: what the test found, in the same order.

A program of `python -c` looks in the current directory first. The sources there lack the modules of an
installed Plait, and must not come before its packages (docs/packages.md, "As a distribution").
"""

from __future__ import annotations

import os
import sys


def environment() -> dict[str, str]:
    """This process's, with its path."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
