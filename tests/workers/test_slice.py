"""workers/slice: what the scheduler was asked for, as it tells itself (sched_getattr(2))."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = """
import ctypes, os, struct
from workers._workers import lib
{before}
code = lib.slice_ask({ns})
got = ctypes.create_string_buffer(48)
number = {{"x86_64": 315, "aarch64": 275}}[os.uname().machine]
assert ctypes.CDLL(None).syscall(number, 0, got, 48, 0) == 0
fields = struct.unpack("=IIQiIQQQ", got.raw)
print(code, fields[1], fields[3], fields[5])
"""


def ask(ns: int, before: str = "") -> tuple[int, ...]:
    """slice_ask in a process of its own: its answer, then policy, nice value and slice in ns."""
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(ns=ns, before=before)], capture_output=True, text=True, check=True
    )
    return tuple(map(int, done.stdout.split()[-4:]))


def kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


@pytest.mark.skipif(kernel() < (6, 12), reason="slices can be asked for since Linux 6.12")
def test_a_slice_is_granted_and_nothing_else_changes() -> None:
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    assert ask(500_000) == (0, os.SCHED_OTHER, nice, 500_000)
    raised = min(nice + 3, 19)
    renice = f"os.setpriority(os.PRIO_PROCESS, 0, {raised})"
    assert ask(700_000, renice) == (0, os.SCHED_OTHER, raised, 700_000)


def test_what_the_user_chose_stays() -> None:
    choose = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))"
    assert ask(500_000, choose)[:2] == (-1, os.SCHED_IDLE)
