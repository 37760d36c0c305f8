"""A worker keeps nothing of the supervisor's descriptors, also those above a limit that was lowered since."""

from __future__ import annotations

import subprocess
import sys

LET_GO = """
import os, resource
from workers.launch import let_go
channel, _ = os.pipe()
os.dup2(channel, 200)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
let_go(channel)
os.fstat(channel)
try:
    os.fstat(200)
except OSError:
    print("closed")
"""


def test_descriptors_above_a_lowered_limit_are_closed() -> None:
    done = subprocess.run([sys.executable, "-c", LET_GO], capture_output=True, text=True, check=False)
    assert done.stdout == "closed\n", done.stderr


def test_control_loads_nothing_of_numpy_when_it_draws() -> None:
    """numpy.random is loaded when it is first used: from whatever stands on disk by then."""
    code = (
        "import os, sys, workers.entry_points; from engine import timers; before = set(sys.modules); "
        "timers.draw_jitter(3, os.urandom); print(set(sys.modules) - before, 'numpy.random' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set() False\n", done.stderr
