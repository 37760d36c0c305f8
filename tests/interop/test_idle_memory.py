"""What processes of an idle engine have mapped: no code of the start alone, no library that came late."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Engine, Lab, read_proc
from tests.support.waiting import until

pytestmark = pytest.mark.network

SETTINGS = "receivers = 1\nconsumers = 1\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"
TITLES = {"supervisor", "control", "receiver 0", "consumer 0"}
CODE = re.compile(r"^\S+ r-xp .*/_multiarray_umath\S*\nSize: .*\n(?:\w+: .*\n)*?Rss: +(\d+) kB", re.M)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Lab() as lab:
        made = lab.host("idle").engine("wg0", settings=SETTINGS)
        until(lambda: "wg0 is ready" in made.process.output(), "an engine")
        yield made
        assert made.stop() == 0


def resident_code_of_numpy(pid: int) -> list[int]:
    """KiB of numpy's compiled code that this process has mapped: one number."""
    return [int(kib) for kib in CODE.findall(read_proc(pid, "smaps") or "")]


def libraries(pid: int) -> set[str]:
    return set(re.findall(r" (/\S+\.so\S*)$", read_proc(pid, "maps") or "", re.M))


def test_the_supervisor_lets_go_of_code_that_only_its_start_runs(engine: Engine) -> None:
    """It loads numpy, for control, and never calls it. Control lets go as well, and calls it each second."""
    pids = engine.host.titles()
    until(lambda: resident_code_of_numpy(pids["control"]) > [0], "numpy's code in control")
    until(lambda: resident_code_of_numpy(pids["supervisor"]) == [0], "a supervisor without the code of numpy")


def test_no_worker_has_a_library_that_the_supervisor_had_not_loaded_before_the_fork(engine: Engine) -> None:
    """What is loaded later comes from whatever stands on disk by then."""
    pids = until(lambda: (found := engine.host.titles()).keys() == TITLES and found, "every process")
    loaded = libraries(pids["supervisor"])
    assert loaded
    for title, pid in pids.items():
        assert libraries(pid) <= loaded, title


def test_so_does_a_supervisor_that_took_over(engine: Engine) -> None:
    supervisor = engine.host.titles()["supervisor"]
    os.kill(supervisor, signal.SIGUSR2)
    words = "upgraded: every process runs"
    until(lambda: words in engine.process.output(), words)
    until(lambda: resident_code_of_numpy(supervisor) == [0], "a supervisor without the code of numpy")
