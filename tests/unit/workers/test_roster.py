"""Pauses before a worker starts again grow while it dies in a row; a steady run makes them short again."""

from __future__ import annotations

import errno
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.lab.namespaces import descriptors, no_descriptors
from shm.segment import SegmentError
from tests.support.waiting import until
from tests.unit.workers.fake_workers import FakeWorkers
from workers._workers import lib
from workers.channel import ChannelClosed, DescriptorsLost
from workers.handoffs import HANDOFFS
from workers.supervisor.patience import Patience
from workers.supervisor.roster import Roster, _how
from workers.supervisor.worker import Life, Told, Worker

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


class Listens:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def emit(self, event: str, **details: Any) -> None:
        self.told.append({"event": event, **details})


def alone(**patience: Any) -> tuple[Roster, Listens]:
    """A roster without processes."""
    listener, resources = Listens(), SimpleNamespace(segment=None, away=set(), away_consumers=set())
    nothing: Any = SimpleNamespace()
    made: Any = resources
    return Roster(made, nothing, nothing, cast(Any, listener), {}, Patience(**patience)), listener


@given(st.lists(st.sampled_from(["steady", "short", "never ready"]), max_size=12),
       st.lists(st.floats(0, 9), min_size=1, max_size=4), st.booleans())  # fmt: skip
def test_pauses_grow_up_to_the_longest_until_a_steady_run(lives: list[str], pauses: list[float],
                                                          tells: bool) -> None:
    roster, listener = alone(pauses=tuple(pauses), steady=100.0)
    worker = Worker("control", 0, 1, ())
    deaths = 0
    for life in lives:
        ran = {"steady": 100, "short": 50}.get(life)
        worker.ready_at = None if ran is None else time.monotonic() - ran
        deaths = 0 if life == "steady" else deaths
        pause = pauses[min(deaths, len(pauses) - 1)]
        before = time.monotonic()
        roster._schedule_restart(worker, "a reason" * tells)
        assert before + pause <= worker.start_at <= time.monotonic() + pause
        assert worker.life is Life.WAITING and worker.ready_at is None
        expected = {"event": "worker_not_replaced", "worker": "control", "reason": "a reason", "pause": pause}
        assert listener.told == [expected] * tells
        listener.told.clear()
        deaths += 1


@pytest.mark.parametrize("pause", [0.0, 5.0])
@pytest.mark.parametrize("kind", ["control", "receiver", "consumer"])
def test_others_stand_in_for_who_starts_after_a_pause(kind: str, pause: float) -> None:
    """And no longer when it is back."""
    roster, _ = alone(pauses=(pause,))
    worker = Worker(kind, 3, 5, (), was_ready=True)
    roster.workers = [worker]
    roster._schedule_restart(worker)
    away = {"receiver": roster.resources.away, "consumer": roster.resources.away_consumers, "control": set()}
    assert away[kind] == ({3} if pause and kind != "control" else set())
    assert sum(map(len, away.values())) == len(away[kind])
    roster._give_back(worker)
    assert not any(away.values())


class Killed(Worker):
    """Has no process."""

    def kill(self, why: str = "") -> None:
        self.why_killed = why


@pytest.mark.parametrize(("life", "told", "late", "is_killed"), [
    (Life.RUNNING, Told.NOTHING_YET, -1.0, True),
    (Life.RUNNING, Told.LEAVE, 0.0, True),
    (Life.RUNNING, Told.NOTHING_YET, 1.0, False),
])  # fmt: skip
def test_who_is_late_is_killed_when_its_time_has_come(life: Life, told: Told, late: float,
                                                      is_killed: bool) -> None:
    roster, _ = alone()
    worker = Killed("receiver", 0, 2, (), life=life, told=told, kill_at=50.0 + late)
    roster.workers = [worker]
    roster.keep_time(50.0)
    assert worker.why_killed == ("it closed its channel" if is_killed else "")


@pytest.mark.parametrize(("status", "words"), [
    (0, "ended with code 0"), (9, "ended with code 9"), (-9, "was killed by SIGKILL"),
    (-31, "was killed by SIGSYS, since it made a system call that no worker makes: an attack, or a library's "
          "fault"),
    (-40, "was killed by signal 40"),
])  # fmt: skip
def test_an_end_in_words(status: int, words: str) -> None:
    assert _how(status) == words


class Sent:
    """A channel that notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], fds: list[int]) -> None:
        assert fds == []
        self.sent.append(message)


class Fails:
    """A channel of which nothing can be read."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.is_closed = False

    def receive(self) -> None:
        raise self.error

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(("error", "has_process", "is_closed", "is_late", "why"), [
    (OSError(errno.ENOBUFS, "no room"), True, False, False, ""),  # it is read again
    (OSError(errno.ENOBUFS, "no room"), False, True, False, ""),
    (DescriptorsLost("no room for them"), True, False, False, ""),
    (ChannelClosed("it closed"), True, True, True, ""),
    (ValueError("no JSON"), True, True, False, "it sent what the supervisor does not understand"),
])  # fmt: skip
def test_a_channel_that_fails_costs_what_its_reason_says(error: Exception, has_process: bool, is_closed: bool,
                                                         is_late: bool, why: str) -> None:
    roster, _ = alone()
    unwatched: list[object] = []
    roster.selector = cast(Any, SimpleNamespace(unregister=unwatched.append))
    channel, process = Fails(error), SimpleNamespace()
    worker = Killed("control", 0, 1, (), process=cast(Any, process if has_process else None))
    worker.channel = cast(Any, channel)
    roster._receive(worker)
    assert channel.is_closed is (worker.channel is None) is is_closed
    assert unwatched == [channel] * is_closed
    assert (worker.kill_at is not None, worker.why_killed) == (is_late, why)


promises = st.dictionaries(st.text("ab", min_size=35, max_size=45), st.text("x", max_size=210), max_size=9)


@given(st.lists(promises, max_size=9), st.sampled_from(Life))
def test_broken_promises_are_told_once_and_of_no_more_than_fit(notes: list[dict[str, str]],
                                                               life: Life) -> None:
    roster, _ = alone()
    control, channel = Worker("control", 0, 1, (), life=life), Sent()
    control.channel = cast(Any, channel)
    roster.workers = [Worker("receiver", 0, 2, ()), control]
    known: dict[str, str] = {}
    for broken in notes:
        before, sent = dict(known), len(channel.sent)
        for promise, why in broken.items():
            if promise[:40] not in before and (promise[:40] in known or len(known) < 32):
                known[promise[:40]] = why[:200]
        roster.note_broken(broken)
        assert roster.broken == known
        told = [{"kind": "broken", "broken": known}] * (known != before and life is Life.RUNNING)
        assert channel.sent[sent:] == told


def test_who_there_is() -> None:
    cores: Any = SimpleNamespace(cores_of=lambda number: (number + 4,))
    roster, _ = alone()
    roster.settings = cores
    control, receiver, first, second = (
        roster.hire(kind, number, is_extra=number == 1)
        for kind, number in (("control", 0), ("receiver", 2), ("consumer", 0), ("consumer", 1))
    )
    lines = [lib.WORKER_CONTROL, lib.WORKER_RECEIVER + 2, lib.WORKER_CONSUMER, lib.WORKER_CONSUMER + 1]
    assert [worker.line for worker in roster.workers] == lines
    assert [worker.cpus for worker in roster.workers] == [(), (6,), (4,), (5,)]
    assert [worker.is_extra for worker in roster.workers] == [False, False, False, True]
    assert (roster.find("control"), roster.find("consumer", 1)) == (control, second)
    assert roster.of_kind("receiver", "control") == [control, receiver]
    assert not roster.have_ended
    for worker in roster.workers:
        worker.life = Life.ENDED
    assert roster.have_ended
    first.life = Life.STARTING
    assert not roster.have_ended


def test_in_the_end_nobody_starts_again() -> None:
    roster, _ = alone()
    worker = Worker("receiver", 0, 2, (), life=Life.WAITING, start_at=0.0)
    roster.workers, roster.stopping = [worker], True
    roster.keep_time(1.0)
    assert worker.life is Life.ENDED
    roster._give_away(worker)
    assert not roster.resources.away


CORES = [("control", None), ("receiver", "3 of wg0"), ("consumer", "3 of wg0")]


@pytest.mark.parametrize(("kind", "core"), CORES)
def test_control_has_no_core_that_is_kept_quiet(kind: str, core: str | None) -> None:
    roster, _ = alone()
    settings: Any = SimpleNamespace(quiet_core_of=lambda number, interface: f"{number} of {interface}")
    resources: Any = SimpleNamespace(interface="wg0")
    roster.settings, roster.resources = settings, resources
    assert roster._quiet_core_of(Worker(kind, 3, 9, ())) == core


class Parts:
    """A data segment that has memory for the parts of some lines."""

    def __init__(self, has_room: bool) -> None:
        self.has_room = has_room
        self.asked: list[int] = []

    def ensure_parts(self, line: int) -> None:
        self.asked.append(line)
        if not self.has_room:
            raise SegmentError("no parts", "no room", "make some")


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("share", ["never", "auto", "always"])
@pytest.mark.parametrize("handoff", HANDOFFS)
@pytest.mark.parametrize("kind", ["control", "receiver", "consumer"])
def test_parts_are_for_holders_that_share_where_there_is_memory(
    kind: str, handoff: str, share: str, has_room: bool
) -> None:
    line, data = SimpleNamespace(lends=0), Parts(has_room)
    roster, _ = alone()
    roster.settings = cast(Any, SimpleNamespace(handoff=handoff, share=share))
    roster.segment = cast(Any, SimpleNamespace(workers={5: line}))
    roster.resources.data = cast(Any, data)
    shares = share != "never" and (kind == "consumer" or (kind == "receiver" and handoff == "inline"))
    told = roster._share_of(Worker(kind, 0, 5, ()))
    assert told == (share if shares and has_room else "never")
    assert (data.asked, line.lends) == ([5] * shares, int(shares and has_room))
