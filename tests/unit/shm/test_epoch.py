"""shm/epoch: a grace period ends when no reader can hold any more what was unpublished before it.

The model keeps, for each reader, what the C does not: which things it has found since it last held
nothing. Control unpublishes a thing, begins a grace period, and may reuse the thing when that is over;
a reader must not hold it then. Readers look at what is published only while awake.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shm._shm import ffi, lib
from tests.support.small_segment import GEOMETRY, make

READERS = (lib.WORKER_RECEIVER, lib.WORKER_RECEIVER + 1, lib.WORKER_CONSUMER,
           lib.WORKER_CONSUMER + GEOMETRY["max_consumers"] - 1)  # fmt: skip
READER = st.sampled_from(READERS)


@pytest.fixture
def segment() -> Iterator[Any]:
    data = make(1)
    yield data.segment
    data.close()


def begin(segment: Any) -> Any:
    grace = ffi.new("uint64_t[]", lib.MAX_WORKERS)
    lib.grace_begin(segment, grace)
    return grace


def is_over(segment: Any, grace: Any) -> bool:
    return bool(lib.grace_is_over(segment, grace))


def repair(segment: Any, worker: int) -> None:
    lib.repair_worker(segment, worker, ffi.new("struct repair *"))


@pytest.mark.parametrize("worker", READERS)
def test_nobody_awake_is_waited_for(segment: Any, worker: int) -> None:
    assert is_over(segment, begin(segment))
    lib.epoch_wake(segment, worker)
    lib.epoch_sleep(segment, worker)
    assert is_over(segment, begin(segment))


@pytest.mark.parametrize("worker", READERS)
@pytest.mark.parametrize("passing", ["turn", "sleep", "sleep and wake", "repair"])
def test_a_reader_awake_is_waited_for(segment: Any, worker: int, passing: str) -> None:
    lib.epoch_wake(segment, worker)
    grace = begin(segment)
    other = READERS[0] if worker != READERS[0] else READERS[1]
    lib.epoch_wake(segment, other)  # woke after: it cannot have seen anything
    assert not is_over(segment, grace)
    if passing == "turn":
        lib.epoch_turn(segment, worker, 1234)
        assert segment.workers[worker].beat == 1234
    elif passing == "repair":
        repair(segment, worker)
    else:
        lib.epoch_sleep(segment, worker)
        if passing == "sleep and wake":
            lib.epoch_wake(segment, worker)
    assert is_over(segment, grace)


def test_waking_twice_is_being_awake(segment: Any) -> None:
    """And the words may wrap around."""
    line = segment.workers[READERS[0]]
    line.epoch = 0xFFFFFFFC
    for _ in range(3):
        lib.epoch_wake(segment, READERS[0])
        lib.epoch_wake(segment, READERS[0])
        assert line.epoch % 2 == 1
        grace = begin(segment)
        assert not is_over(segment, grace)
        lib.epoch_turn(segment, READERS[0], 0)
        assert line.epoch % 2 == 1 and is_over(segment, grace)
        lib.epoch_sleep(segment, READERS[0])
        lib.epoch_sleep(segment, READERS[0])
        assert line.epoch % 2 == 0


class Graces(RuleBasedStateMachine):
    """Readers that find things, control that takes them away."""

    @initialize()
    def start(self) -> None:
        self.data = make(1)
        self.segment = self.data.segment
        self.awake: dict[int, bool] = dict.fromkeys(READERS, False)
        self.held: dict[int, set[int]] = {worker: set() for worker in READERS}
        self.published = {0}
        self.things = 1
        self.graces: list[tuple[Any, int]] = []  # words, thing

    def teardown(self) -> None:
        if hasattr(self, "data"):
            self.data.close()

    @rule(worker=READER)
    def wake(self, worker: int) -> None:
        lib.epoch_wake(self.segment, worker)
        self.awake[worker] = True

    @rule(worker=READER)
    def sleep(self, worker: int) -> None:
        lib.epoch_sleep(self.segment, worker)
        self.awake[worker] = False
        self.held[worker].clear()

    @rule(worker=READER)
    def turn(self, worker: int) -> None:
        if self.awake[worker]:
            lib.epoch_turn(self.segment, worker, 0)
            self.held[worker].clear()

    @rule(worker=READER)
    def die(self, worker: int) -> None:
        repair(self.segment, worker)
        self.awake[worker] = bool(self.segment.workers[worker].epoch & 1)
        self.held[worker].clear()

    @rule(worker=READER)
    def find(self, worker: int) -> None:
        if self.awake[worker]:
            self.held[worker] |= self.published

    @rule()
    def publish(self) -> None:
        self.published.add(self.things)
        self.things += 1

    @precondition(lambda self: self.published)
    @rule()
    def unpublish(self) -> None:
        thing = min(self.published)
        self.published.discard(thing)
        self.graces.append((begin(self.segment), thing))

    @invariant()
    def nothing_is_reused_too_early(self) -> None:
        for grace, thing in list(getattr(self, "graces", ())):
            if is_over(self.segment, grace):
                assert not any(thing in held for held in self.held.values())

    @rule()
    def end_of_all(self) -> None:
        """Once everybody who was awake has passed, every grace period is over."""
        for worker in READERS:
            if self.awake[worker]:
                self.turn(worker)
        assert all(is_over(self.segment, grace) for grace, _ in self.graces)


TestGraces = Graces.TestCase
TestGraces.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_threads_never_read_what_was_reused(segment: Any) -> None:
    """Readers follow an index that control moves, and control overwrites the old place after each period."""
    current = 0
    rounds = 300
    found: list[int] = []
    done = threading.Event()
    values = [0, 0]

    def read(worker: int) -> None:
        while not done.is_set():
            lib.epoch_wake(segment, worker)
            for _ in range(5):
                place = current
                if values[place] < 0:
                    found.append(place)
                lib.epoch_turn(segment, worker, 0)
            lib.epoch_sleep(segment, worker)

    threads = [threading.Thread(target=read, args=(worker,)) for worker in READERS]
    for thread in threads:
        thread.start()
    for _ in range(rounds):
        old, current = current, 1 - current
        grace = begin(segment)
        while not is_over(segment, grace):
            pass
        values[old] = -1  # nobody looks any more
        values[old] = 0
    done.set()
    for thread in threads:
        thread.join()
    assert found == []
