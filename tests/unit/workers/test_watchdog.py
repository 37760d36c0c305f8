"""The watchdog, look by look: how many it takes is counted, so that no clock has a say in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import read_proc, state
from shm import segment
from tests.support.waiting import until
from workers._workers import lib
from workers.settings import Settings, geometry
from workers.supervisor.patience import Patience
from workers.supervisor.watchdog import Watchdog

SMALL = Settings(receivers=1, consumers=1, cores=(0,), max_peers=64, small_slots=64, train_slots=1)
PATIENCE = Patience(busy=0.05, busy_control=3600.0)
SLEEPER = "import signal; signal.pause()"
RUNNER = "while True: pass"
PAUSE = {"x86_64": "34 ", "aarch64": "73 "}[os.uname().machine]  # pause, ppoll
LINE = int(lib.WORKER_RECEIVER)


class Watched:
    """A process as a worker, with a bell, and the watchdog that looks at it."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", code])
        self.pid = self.process.pid
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        self.data = segment.create(geometry(SMALL), "test")
        self.line = self.data.segment.workers[LINE]
        self.watchdog = Watchdog(self.data.segment, {LINE: self.bell}, PATIENCE)

    def look(self, kind: str = "receiver", is_starting: bool = False) -> str | None:
        return self.watchdog.look(kind, LINE, self.pid, is_starting)

    def looks(self, count: int, is_starting: bool = False) -> list[str | None]:
        return [self.look(is_starting=is_starting) for _ in range(count)]

    def await_state(self, letter: str) -> None:
        until(lambda: state(self.pid) == letter, f"state {letter}")

    def is_rung(self) -> bool:
        try:
            return os.eventfd_read(self.bell) > 0
        except BlockingIOError:
            return False

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.bell)


@pytest.fixture
def sleeper() -> Iterator[Watched]:
    watched = Watched(SLEEPER)
    until(lambda: (read_proc(watched.pid, "syscall") or "").startswith(PAUSE), "a process asleep for good")
    yield watched
    watched.end()


@pytest.fixture
def runner() -> Iterator[Watched]:
    watched = Watched(RUNNER)
    yield watched
    watched.end()


def test_a_stopped_worker_is_found_at_the_third_look_that_finds_it_still(sleeper: Watched) -> None:
    os.kill(sleeper.pid, signal.SIGSTOP)
    sleeper.await_state("T")
    assert sleeper.looks(4) == [None, None, None, "it is stopped"]


def test_a_sleeper_is_rung_before_it_is_stuck(sleeper: Watched) -> None:
    assert sleeper.looks(2) == [None, None] and not sleeper.is_rung()
    assert sleeper.looks(1) == [None] and sleeper.is_rung()
    assert sleeper.looks(1) == ["it does not wake up"]


def test_a_sleeper_that_moves_is_none(sleeper: Watched) -> None:
    for _ in range(5):
        assert sleeper.looks(3) == [None, None, None]
        assert sleeper.is_rung()
        sleeper.line.epoch += 1


def test_who_starts_may_sleep_but_not_be_stopped(sleeper: Watched) -> None:
    assert set(sleeper.looks(10, is_starting=True)) == {None}
    os.kill(sleeper.pid, signal.SIGSTOP)
    sleeper.await_state("T")
    assert "it is stopped" in sleeper.looks(3, is_starting=True)


def test_who_runs_in_circles_has_its_share_of_cpu_first(runner: Watched) -> None:
    """Control has long turns: it may run for longer."""
    words = until(runner.look, "that it is stuck")
    assert words is not None and words.startswith("it has run for 0.")
    assert runner.look("control") is None


def test_the_next_process_and_one_that_has_gone_are_seen_anew(sleeper: Watched) -> None:
    assert sleeper.looks(3) == [None, None, None]
    sleeper.process.kill()
    sleeper.process.wait()
    assert sleeper.looks(3) == [None, None, None]


def test_a_stuck_worker_is_found_within_two_seconds() -> None:
    """docs/reliability.md; what the machine adds of itself is not the watchdog's."""
    usual = Patience()
    assert (usual.still_looks + 1) * usual.look <= 2.0
    assert (usual.busy, usual.busy_control) == (1.5, 10.0)


def test_a_bell_that_somebody_rang_for_ever_is_rung(sleeper: Watched) -> None:
    """A worker holds the bells of others, and may write what leaves no room for one more."""
    os.eventfd_write(sleeper.bell, 2**64 - 2)
    assert sleeper.looks(3) == [None, None, None] and sleeper.is_rung()
