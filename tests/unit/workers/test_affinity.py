"""On which cores a worker may run, in C, against a plain Python model and the kernel's word."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers._workers import ffi, lib
from workers.settings import QUIET_SHARERS, Settings

TURN, WINDOW = lib.AFFINITY_TURN_NS, lib.AFFINITY_WINDOW_NS
SPREAD, GATHER = lib.AFFINITY_SPREAD_NS, lib.AFFINITY_GATHER_NS
BEGIN = 1 << 40


@pytest.fixture
def cores() -> Iterator[frozenset[int]]:
    """Those of this process, which has them again afterwards."""
    before = frozenset(os.sched_getaffinity(0))
    yield before
    os.sched_setaffinity(0, before)


class Model:
    """struct affinity."""

    def __init__(self, now: int) -> None:
        self.spread, self.woken, self.window, self.busy = False, now, now, 0

    def check(self, now: int) -> None:
        self.spread |= now - self.woken > TURN

    def slept(self, begin: int, now: int) -> None:
        self.busy += begin - self.woken
        self.woken = now
        self.spread |= self.busy > SPREAD
        if now - self.window >= WINDOW:
            self.spread &= self.busy >= GATHER
            self.window, self.busy = now, 0


def near(*values: int) -> st.SearchStrategy[int]:
    return st.sampled_from([each for value in values for each in (value - 1, value, value + 1)])


@given(st.lists(st.tuples(near(1000, TURN, GATHER, SPREAD), st.none() | near(1000, WINDOW // 2, WINDOW))))
@example([(SPREAD, 1000), (1, 1000)])
@example([(TURN, None), (1, None)])
@example([(SPREAD + 1, WINDOW - SPREAD - 2), (GATHER, WINDOW), (GATHER - 1, WINDOW)])
def test_the_kernel_lets_a_worker_run_where_the_model_says(steps: list[tuple[int, int | None]]) -> None:
    """(ns awake, ns of the sleep behind that, or no sleep but a look)."""
    cores = frozenset(os.sched_getaffinity(0))
    core, now = max(cores), BEGIN
    affinity, model = ffi.new("struct affinity *"), Model(now)
    try:
        assert lib.affinity_open(affinity, core, now) == 0
        for awake, asleep in steps:
            now += awake
            if asleep is None:
                lib.affinity_check(affinity, now)
                model.check(now)
            else:
                lib.affinity_slept(affinity, now, now + asleep)
                model.slept(now, now + asleep)
                now += asleep
            assert os.sched_getaffinity(0) == (cores if model.spread else {core})
    finally:
        os.sched_setaffinity(0, cores)


def test_a_steady_load_between_both_bars_moves_nobody(cores: frozenset[int]) -> None:
    """4 % of the time, as 1 ms in 25: a worker that was alone stays alone, one that spread stays spread."""
    for spread in (False, True):
        affinity, now = ffi.new("struct affinity *"), BEGIN
        assert lib.affinity_open(affinity, min(cores), now) == 0
        if spread:
            lib.affinity_check(affinity, now + TURN + 1)
        for _ in range(100):
            for _ in range(4):  # turns of 0.25 ms
                lib.affinity_check(affinity, now + 250_000)
                lib.affinity_slept(affinity, now + 250_000, now + 6_250_000)
                now += 6_250_000
            assert bool(affinity.is_spread) == spread


def test_what_cannot_be_had_changes_nothing(cores: frozenset[int]) -> None:
    for core in (max(range(os.cpu_count() or 1)) + 1, 64 * lib.AFFINITY_WORDS):
        affinity = ffi.new("struct affinity *")
        assert lib.affinity_open(affinity, core, BEGIN) == -1
        lib.affinity_check(affinity, BEGIN + 2 * TURN)
        lib.affinity_slept(affinity, BEGIN + SPREAD, BEGIN + 2 * WINDOW)
        assert os.sched_getaffinity(0) == cores and not affinity.is_spread


def test_eight_workers_share_a_core_and_no_more() -> None:
    settings = Settings(receivers=12, consumers=12, cores=tuple(range(10)))
    found = [settings.quiet_core_of(number) for number in range(12)]
    assert found == [core for core in (0, 4, 8) for _ in range(QUIET_SHARERS)]
    assert {Settings(receivers=1, consumers=1, cores=(3, 5)).quiet_core_of(n) for n in range(4)} == {3}


@pytest.mark.parametrize("more", [{"pin": True}, {"priority": "normal"}, {"cores": (1,)}, {"cores": (1, 1)}])
def test_nobody_stays_where_it_would_gain_nothing(more: dict[str, object]) -> None:
    settings = Settings(**{"receivers": 2, "consumers": 2, "cores": (0, 1), **more})  # type: ignore[arg-type]
    assert settings.quiet_core_of(0) is None


def test_two_hundred_windows_in_a_row_are_counted_alone(cores: frozenset[int]) -> None:
    """What a window had is not the next one's: 1 % of the time for 20 s is never much."""
    affinity, now = ffi.new("struct affinity *"), BEGIN
    assert lib.affinity_open(affinity, min(cores), now) == 0
    for _ in range(2000):
        lib.affinity_slept(affinity, now + 100_000, now + 10_000_000)
        now += 10_000_000
    assert not affinity.is_spread
