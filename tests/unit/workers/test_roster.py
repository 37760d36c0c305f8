"""Pauses before a worker starts again grow while it dies in a row; a steady run makes them short again."""

from __future__ import annotations

import os
import signal

import pytest

from plait.lab.namespaces import descriptors, no_descriptors
from tests.support.waiting import until
from tests.unit.workers.fake_workers import Stage

pytestmark = pytest.mark.network


def die_twice(stage: Stage, title: str) -> list[str]:
    """The pauses that the supervisor's log names."""
    for _ in range(2):
        stage.expect_replacement(title, lambda: os.kill(stage.pids()[title], signal.SIGKILL))
        until(lambda: title in stage.pids(), "its title")
    stage.expect_words(f"{title} starts again")
    marks = [line.partition(f"{title} starts again in ")[2] for line in stage.words().splitlines()]
    return [mark.partition(" s")[0] for mark in marks if mark]


@pytest.mark.parametrize(("steady", "pauses"), [(0, ["0.0", "0.0"]), (3600, ["0.0", "0.3"])])
def test_a_steady_run_forgives_the_deaths_before_it(stage: Stage, steady: float, pauses: list[str]) -> None:
    stage.play(steady=steady, pauses=[0.0, 0.3, 600.0])
    for title in ("receiver 0", "consumer 0"):
        assert die_twice(stage, title) == pauses


def test_a_worker_that_takes_the_last_descriptor_is_watched_by_a_pidfd(stage: Stage) -> None:
    stage.play(pauses=[0.0])
    assert stage.process is not None
    supervisor = stage.process.pid

    def pidfds() -> int:
        return sum(name == "anon_inode:[pidfd]" for name in descriptors(supervisor).values())

    assert pidfds() == 3
    with no_descriptors(supervisor):
        stage.expect_replacement("receiver 0", lambda: stage.kill("receiver 0"))
        assert pidfds() == 3
