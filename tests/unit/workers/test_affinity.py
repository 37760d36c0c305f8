"""On which cores a worker may run, in C, against a plain Python model and the kernel's word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers._workers import ffi, lib
from workers.settings import QUIET_SHARERS, Settings

if TYPE_CHECKING:
    from workers._workers import affinity_p

TURN, WINDOW = lib.AFFINITY_TURN_NS, lib.AFFINITY_WINDOW_NS
SPREAD, GATHER, AWAY = lib.AFFINITY_SPREAD_NS, lib.AFFINITY_GATHER_NS, lib.AFFINITY_AWAY_NS
WAIT = lib.AFFINITY_WAIT_NS
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
        self.waited, self.away_until = 0, 0

    def check(self, now: int) -> None:
        self.spread |= now - self.woken > TURN

    def slept(self, begin: int, now: int, waited: int) -> None:
        self.busy += begin - self.woken
        self.woken = now
        self.spread |= self.busy > SPREAD
        if now - self.window >= WINDOW:
            if not self.spread and waited - self.waited > WAIT:
                self.spread, self.away_until = True, now + AWAY
            elif self.busy < GATHER and now >= self.away_until:
                self.spread = False
            self.waited, self.window, self.busy = waited, now, 0


def opened(affinity: affinity_p, core: int, now: int) -> None:
    """How long this process really waits has no say: `tell` has."""
    assert lib.affinity_open(affinity, core, now) == 0
    os.close(affinity.schedstat)
    affinity.schedstat, affinity.waited = os.memfd_create("schedstat"), 0


def tell(affinity: affinity_p, waited: int) -> None:
    os.ftruncate(affinity.schedstat, 0)
    os.pwrite(affinity.schedstat, f"123456789 {waited} 99\n".encode(), 0)


def waited_here() -> int:
    """ns for which this process has waited for a core while it could run."""
    return int(Path("/proc/self/schedstat").read_text().split()[1])


def near(*values: int) -> st.SearchStrategy[int]:
    return st.sampled_from([each for value in values for each in (value - 1, value, value + 1)])


STEPS = st.tuples(
    near(1000, TURN, GATHER, SPREAD),
    st.none() | near(1000, WINDOW // 2, WINDOW) | near(AWAY - WINDOW, AWAY),
    st.just(0) | near(WAIT),
)


@given(st.lists(STEPS))
@example([(SPREAD, 1000, 0), (1, 1000, 0)])
@example([(TURN, None, 0), (1, None, 0)])
@example([(SPREAD + 1, WINDOW - SPREAD - 2, 0), (GATHER, WINDOW, 0), (GATHER - 1, WINDOW, 0)])
@example([(0, WINDOW, WAIT), (0, WINDOW, WAIT + 1), (0, AWAY - 1, 0), (0, 1, 0)])
@example([(0, WINDOW, WAIT + 1), (0, AWAY - 1, 9 * WAIT), (0, WINDOW, 0), (0, WINDOW, WAIT)])
def test_the_kernel_lets_a_worker_run_where_the_model_says(steps: list[tuple[int, int | None, int]]) -> None:
    """(ns awake, ns of the sleep behind that, or no sleep but a look; ns that it waited for its core)."""
    cores = frozenset(os.sched_getaffinity(0))
    core, now, waited = max(cores), BEGIN, 0
    affinity, model = ffi.new("struct affinity *"), Model(now)
    try:
        opened(affinity, core, now)
        for awake, asleep, wait in steps:
            now += awake
            waited += wait
            tell(affinity, waited)
            if asleep is None:
                lib.affinity_check(affinity, now)
                model.check(now)
            else:
                lib.affinity_slept(affinity, now, now + asleep)
                model.slept(now, now + asleep, waited)
                now += asleep
            assert os.sched_getaffinity(0) == (cores if model.spread else {core})
    finally:
        lib.affinity_close(affinity)
        os.sched_setaffinity(0, cores)


def test_it_knows_how_long_it_waited(cores: frozenset[int]) -> None:
    """The kernel's word, as other programs read it; a worker that cannot read it has not waited."""
    affinity = ffi.new("struct affinity *")
    assert lib.affinity_open(affinity, min(cores), BEGIN) == 0
    assert os.readlink(f"/proc/self/fd/{affinity.schedstat}").endswith("/schedstat")
    for passed in (1, 2):
        before = waited_here()
        lib.affinity_slept(affinity, BEGIN + passed * WINDOW, BEGIN + passed * WINDOW)
        assert before <= affinity.waited <= waited_here()
    lib.affinity_close(affinity)
    assert not affinity.is_open
    opened(affinity, min(cores), BEGIN)
    os.ftruncate(affinity.schedstat, 0)
    lib.affinity_slept(affinity, BEGIN, BEGIN + WINDOW)
    assert (affinity.waited, affinity.is_spread) == (0, 0)
    lib.affinity_close(affinity)


def test_a_steady_load_between_both_bars_moves_nobody(cores: frozenset[int]) -> None:
    """4 % of the time, as 1 ms in 25: a worker that was alone stays alone, one that spread stays spread."""
    for spread in (False, True):
        affinity, now = ffi.new("struct affinity *"), BEGIN
        opened(affinity, min(cores), now)
        if spread:
            lib.affinity_check(affinity, now + TURN + 1)
        for _ in range(100):
            for _ in range(4):  # turns of 0.25 ms
                lib.affinity_check(affinity, now + 250_000)
                lib.affinity_slept(affinity, now + 250_000, now + 6_250_000)
                now += 6_250_000
            assert bool(affinity.is_spread) == spread
        lib.affinity_close(affinity)


def test_what_cannot_be_had_changes_nothing(cores: frozenset[int]) -> None:
    for core in (max(range(os.cpu_count() or 1)) + 1, 64 * lib.AFFINITY_WORDS):
        affinity = ffi.new("struct affinity *")
        assert lib.affinity_open(affinity, core, BEGIN) == -1
        lib.affinity_check(affinity, BEGIN + 2 * TURN)
        lib.affinity_slept(affinity, BEGIN + SPREAD, BEGIN + 2 * WINDOW)
        assert os.sched_getaffinity(0) == cores and not affinity.is_spread


def test_who_helps_others_leaves_at_once(cores: frozenset[int]) -> None:
    affinity = ffi.new("struct affinity *")
    opened(affinity, min(cores), BEGIN)
    assert os.sched_getaffinity(0) == {min(cores)}
    lib.affinity_leave(affinity)
    assert os.sched_getaffinity(0) == cores and affinity.is_spread
    lib.affinity_close(affinity)


def test_nobody_is_moved_who_has_no_place_of_its_own(cores: frozenset[int]) -> None:
    """Where it could not be had, and after its end."""
    affinity, now = ffi.new("struct affinity *"), BEGIN + 2 * WINDOW
    for _ in range(2):
        before = os.sched_getaffinity(0)
        lib.affinity_check(affinity, now)
        lib.affinity_leave(affinity)
        lib.affinity_slept(affinity, now, now + WINDOW)
        assert os.sched_getaffinity(0) == before and not affinity.is_spread
        opened(affinity, min(cores), BEGIN)
        lib.affinity_close(affinity)


def test_eight_workers_share_a_core_and_no_more() -> None:
    settings = Settings(receivers=12, consumers=12, cores=tuple(range(40)))
    found = [settings.quiet_core_of(number, "wg0") for number in range(12)]
    first = found[0]
    assert found == [(first + n) % 40 for n in (0, 4, 8) for _ in range(QUIET_SHARERS)]  # type: ignore[operator]
    few = Settings(receivers=1, consumers=1, cores=(3, 5))
    assert len({few.quiet_core_of(n, "wg0") for n in range(4)} & {3, 5}) == 1


def test_many_engines_share_no_first_core() -> None:
    settings = Settings(receivers=1, consumers=1, cores=tuple(range(8)))
    assert {settings.quiet_core_of(0, f"wg{n}") for n in range(40)} == set(range(8))


@pytest.mark.parametrize("more", [{"pin": True}, {"priority": "normal"}, {"cores": (1,)}, {"cores": (1, 1)}])
def test_nobody_stays_where_it_would_gain_nothing(more: dict[str, object]) -> None:
    settings = Settings(**{"receivers": 2, "consumers": 2, "cores": (0, 1), **more})  # type: ignore[arg-type]
    assert settings.quiet_core_of(0, "wg0") is None


def test_two_hundred_windows_in_a_row_are_counted_alone(cores: frozenset[int]) -> None:
    """What a window had is not the next one's: 1 % of the time for 20 s is never much."""
    affinity, now = ffi.new("struct affinity *"), BEGIN
    opened(affinity, min(cores), now)
    for _ in range(2000):
        lib.affinity_slept(affinity, now + 100_000, now + 10_000_000)
        now += 10_000_000
    assert not affinity.is_spread
    lib.affinity_close(affinity)
