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


def test_what_control_loads_late_is_loaded_before_the_fork() -> None:
    """numpy loads some of its modules when they are first used."""
    code = "import sys, workers.entry_points; print('numpy.random' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
