"""What the supervisor decides by the time and by who is there, without processes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from workers._workers import ffi, lib
from workers.supervisor.patience import Patience
from workers.supervisor.process import Supervisor
from workers.supervisor.worker import Life, Worker

NOW = 100.0


class Manager:
    """A service manager that notes what it is told."""

    def __init__(self) -> None:
        self.due: float | None = None
        self.environment: dict[str, str] = {}
        self.states: list[str] = []
        self.ages: list[float | None] = []

    def status(self, words: str, now: float) -> None:
        assert now == NOW
        self.states.append(words)

    def watch(self, now: float, beat_age: float | None) -> None:
        assert now == NOW
        self.ages.append(beat_age)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    segment = SimpleNamespace(workers={lib.WORKER_CONTROL: SimpleNamespace(beat=lib.clock_now())})
    resources: Any = SimpleNamespace(segment=segment, receivers=2, consumers=3, port=9, bells={})
    nothing: Any = SimpleNamespace()
    manager: Any = Manager()
    made = Supervisor(resources, nothing, nothing, lambda: None, {}, manager, patience=Patience())
    yield made
    made.selector.close()


@pytest.mark.parametrize(("announced", "stopping", "look_at", "deadline", "seconds"), [
    (False, False, 0.0, None, None),  # nobody is looked at before all are ready
    (False, False, 0.0, 130.0, 30.0),
    (True, False, 103.0, None, 3.0),
    (True, False, 103.0, 102.0, 2.0),
    (True, False, 99.0, None, 0.0),  # it is late
    (True, True, 99.0, 101.0, 1.0),  # nor in the end
    (True, True, 99.0, None, None),
])  # fmt: skip
def test_it_sleeps_until_the_next_look_or_the_end_of_its_patience(
    supervisor: Supervisor, announced: bool, stopping: bool, look_at: float, deadline: float | None,
    seconds: float | None,
) -> None:
    supervisor.announced, supervisor.roster.stopping = announced, stopping
    supervisor.look_at, supervisor.deadline = look_at, deadline
    assert supervisor._timeout(NOW) == seconds


def test_a_start_or_a_sign_of_life_that_is_due_wakes_it(supervisor: Supervisor) -> None:
    supervisor.announced, supervisor.look_at = True, NOW + 9
    supervisor.roster.workers = [Worker("receiver", 0, 1, (), life=Life.WAITING, start_at=NOW + 4)]
    assert supervisor._timeout(NOW) == 4.0
    manager: Any = supervisor.manager
    manager.due = NOW + 2
    assert supervisor._timeout(NOW) == 2.0
    manager.due, supervisor.roster.stopping = None, True
    assert supervisor._timeout(NOW) is None


@pytest.mark.parametrize(("announced", "stopping"), [(False, False), (True, False), (True, True)])
def test_its_manager_hears_who_is_away_while_the_engine_runs(
    supervisor: Supervisor, announced: bool, stopping: bool
) -> None:
    supervisor.announced, supervisor.roster.stopping = announced, stopping
    control, consumer = Worker("control", 0, lib.WORKER_CONTROL, ()), Worker("consumer", 1, 70, ())
    supervisor.roster.workers = [control, consumer]
    control.life = consumer.life = Life.RUNNING
    supervisor._tell_manager(NOW)
    control.life = consumer.life = Life.WAITING
    supervisor._tell_manager(NOW)
    manager: Any = supervisor.manager
    if not announced or stopping:
        assert manager.states == manager.ages == []
        return
    words = "UDP port 9, 2 receivers, 3 consumers"
    assert manager.states == [words, f"{words}; starting again: control, consumer 1"]
    age, none = manager.ages
    assert age >= 0 and none is None


@pytest.mark.parametrize(("word", "row"), [(0, None), (1, 0), (2, 1), (3, 2), (4, None), (2**32 - 1, None)])
def test_who_is_stuck_is_named_with_the_peer_that_it_holds(
    supervisor: Supervisor, word: int, row: int | None
) -> None:
    """The word is a row's number and one; any worker may write it."""
    keys = [bytes([each + 1]) * 32 for each in range(3)]
    rows = [SimpleNamespace(public_key=ffi.new("uint8_t[32]", key)) for key in keys]
    segment = SimpleNamespace(
        workers={7: SimpleNamespace(peer_in_hand=word)}, rows=rows, geometry=SimpleNamespace(max_peers=3)
    )
    made: Any = supervisor
    made.segment = segment
    words = "" if row is None else f" with peer {base64.b64encode(keys[row]).decode()} in hand"
    assert supervisor._in_hand(Worker("consumer", 0, 7, ())) == words


class Wanted:
    """Changes that are noted and never begin."""

    def __init__(self) -> None:
        self.noted: list[tuple[object, ...]] = []

    def want(self, kind: str, *arguments: str, asker: int) -> None:
        self.noted.append((kind, *arguments, asker))


@pytest.mark.parametrize(("change", "arguments", "is_one"), [
    ("upgrade", [], True), ("trial", [], True), ("scale", ["+1", "3"], True),
    ("upgrade", ["now"], False), ("trial", ["+1", "3"], False), ("scale", [], False),
    ("scale", ["+1"], False), ("scale", ["1", "2", "3"], False), ("more", [], False), ("renew", [], False),
])  # fmt: skip
def test_what_clients_may_ask_for(
    supervisor: Supervisor, change: str, arguments: list[str], is_one: bool
) -> None:
    made: Any = supervisor
    made.changes = wanted = Wanted()
    if is_one:
        supervisor._take_request(change, arguments, [5])
    else:
        with pytest.raises(ValueError, match=change):
            supervisor._take_request(change, arguments, [5])
    assert wanted.noted == [(change, *arguments, 5)] * is_one
