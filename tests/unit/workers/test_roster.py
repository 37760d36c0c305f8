"""Pauses before a worker starts again grow while it dies in a row; a steady run makes them short again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from plait.lab.namespaces import descriptors, no_descriptors
from tests.support.waiting import until
from tests.unit.workers.fake_workers import FakeWorkers
from workers.supervisor.patience import Patience
from workers.supervisor.roster import Roster
from workers.supervisor.worker import Life, Worker

pytestmark = pytest.mark.network


def die_twice(fakes: FakeWorkers, title: str) -> list[str]:
    """The pauses that the supervisor's log names. Each life counts, for the supervisor heard of it."""

    def replacements() -> int:
        return [news["event"] for news in fakes.news(title)].count("worker_replaced")

    for deaths in (1, 2):
        until(lambda: title in fakes.pids(), "its title")
        fakes.kill(title)
        until(lambda deaths=deaths: replacements() == deaths, "a successor that is ready")
    fakes.expect_words(f"{title} starts again")
    marks = [line.partition(f"{title} starts again in ")[2] for line in fakes.words().splitlines()]
    return [mark.partition(" s")[0] for mark in marks if mark]


@pytest.mark.parametrize(("steady", "pauses"), [(0, ["0.0", "0.0"]), (3600, ["0.0", "0.3"])])
def test_a_steady_run_forgives_the_deaths_before_it(fakes: FakeWorkers, steady: float,
                                                    pauses: list[str]) -> None:
    fakes.start(steady=steady, pauses=[0.0, 0.3, 600.0])
    for title in ("receiver 0", "consumer 0"):
        assert die_twice(fakes, title) == pauses


def test_a_worker_that_takes_the_last_descriptor_is_watched_by_a_pidfd(fakes: FakeWorkers) -> None:
    fakes.start(pauses=[0.0])
    assert fakes.process is not None
    supervisor = fakes.process.pid

    def pidfds() -> int:
        return sum(name == "anon_inode:[pidfd]" for name in descriptors(supervisor).values())

    assert pidfds() == 3
    with no_descriptors(supervisor):
        fakes.expect_replacement("receiver 0", lambda: fakes.kill("receiver 0"))
        assert pidfds() == 3


def test_only_times_that_somebody_waits_for_wake_the_supervisor() -> None:
    """A time that is over, and of nobody, would never let it sleep."""
    nothing: Any = SimpleNamespace(segment=None)
    roster = Roster(nothing, nothing, nothing, nothing, {}, Patience())
    roster.workers = [
        Worker("receiver", 0, 1, (), life=Life.WAITING, start_at=7.0),
        Worker("consumer", 0, 2, (), life=Life.RUNNING, start_at=5.0),
        Worker("consumer", 1, 3, (), life=Life.RUNNING, start_at=5.0, kill_at=9.0, stand_in_at=8.0),
    ]
    assert list(roster.due()) == [7.0, 8.0, 9.0]
    roster.stopping = True
    assert list(roster.due()) == [8.0, 9.0]
