"""A worker with real-time priority that never comes back to its loop, on the one core that everybody shares.

    one core:  plaitd, control, receiver 0, consumer 0    a program of ordinary priority, always busy

The kernel leaves ordinary processes a part of a core that a real-time one does not let go
(sched(7), sched_rt_runtime_us): with that the watchdog finds the worker, and the program goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from plait.lab.namespaces import PLAIT, Engine, Lab, Process, read_proc
from plait.watch.processes import is_realtime, process_stat
from tests.support.waiting import until
from workers.promises import Promise
from workers.supervisor.watchdog import process_state

pytestmark = pytest.mark.network

SETTINGS = "receivers = 1\nconsumers = 1\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"
JUMP_TO_ITSELF = {"x86_64": b"\xeb\xfe", "aarch64": b"\x00\x00\x00\x14"}[os.uname().machine]


class Core(NamedTuple):
    """What runs there."""

    engine: Engine
    program: Process  # of ordinary priority, always busy


@pytest.fixture(scope="module")
def core() -> Iterator[Core]:
    if Path("/proc/sys/kernel/sched_rt_runtime_us").read_text().strip() == "-1":
        pytest.skip("the kernel leaves ordinary processes nothing of a core here")
    here = ("taskset", "-c", str(min(os.sched_getaffinity(0))))
    with Lab() as lab:
        host = lab.host("a")
        engine = host.engine("wg0", [*here, *PLAIT], settings=SETTINGS)
        until(lambda: "wg0 is ready" in engine.process.output(), "an engine")
        if any(promise["name"] == Promise.WAKES for promise in engine.report()["broken_promises"]):
            pytest.skip("the kernel refuses real-time priority here")
        yield Core(engine, host.popen([*here, sys.executable, "-c", "while True: pass"]))
        assert engine.stop() == 0


@pytest.mark.parametrize("title", ["receiver 0", "consumer 0"])
def test_a_realtime_worker_that_never_comes_back_is_replaced_beside_others_that_run(
    core: Core, title: str
) -> None:
    worker = core.engine.host.titles()[title]
    until(lambda: is_realtime(process_stat(worker)[1]), f"{title} that runs before others")
    never_return(worker)
    until(lambda: process_state(worker)[0] == "R", f"{title} that runs in circles")
    begun = cpu_of(core.program)
    words = f"{title} is stuck: it has run for"
    until(lambda: words in core.engine.process.output(), words)
    assert cpu_of(core.program) > begun
    until(lambda: core.engine.host.titles().get(title, worker) != worker, f"another {title}")
    again = core.engine.host.titles()[title]
    until(lambda: is_realtime(process_stat(again)[1]), f"another {title} that runs before others")


def never_return(pid: int) -> None:
    """The system call that this process sleeps in returns to a jump to itself, in this process alone: a page
    of a library is written to, as by a debugger, and becomes its own."""

    def where() -> int:
        words = (read_proc(pid, "syscall") or "").split()  # number, six arguments, stack, instruction
        return int(words[8], 16) if len(words) == 9 else 0

    instruction = until(where, "a process that sleeps")
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(instruction)
        memory.write(JUMP_TO_ITSELF)


def cpu_of(program: Process) -> int:
    """Nanoseconds."""
    return process_state(program.pid)[1]
