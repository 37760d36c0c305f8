"""Workers with little to do share a core; those that a TCP stream keeps busy may run on any.

    one (plaitd)  10.200.1.1 ──── 10.200.1.2  two (plaitd)
     wg0 10.0.0.1 ═══ TCP stream ═══▶ 10.0.0.2 wg0
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import PLAIT, Lab
from tests.support.stream import Stream
from tests.support.tunnel import Side, Tunnel, two_hosts
from tests.support.waiting import until
from workers.promises import Promise

pytestmark = pytest.mark.network

CORES = frozenset(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def tunnel() -> Iterator[Tunnel]:
    if len(CORES) == 1:
        pytest.skip("there is one core here")
    with Lab() as lab:
        made = two_hosts(lab, PLAIT, PLAIT, settings="receivers = 2\nconsumers = 2\n")
        broken = made.sides[0].engine.report()["broken_promises"]
        if any(promise["name"] == Promise.WAKES for promise in broken):
            pytest.skip("the kernel refuses real-time priority here")
        yield made
        made.check()


def places(side: Side) -> dict[str, set[int]]:
    """On which CPUs each process of an engine may run; nothing for one that has ended meanwhile."""
    found = {}
    for title, pid in side.host.titles().items():
        try:
            found[title] = set(os.sched_getaffinity(pid))
        except ProcessLookupError:
            continue
    return found


def await_shared_core(side: Side) -> None:
    """Until each worker was seen on the core that they share. Not all at once: on a busy machine one that
    waited for that core is away for 10 s."""
    seen: dict[str, set[int]] = {}

    def are_all_seen() -> bool:
        for title, cpus in places(side).items():
            if title.startswith(("receiver", "consumer")) and len(cpus) == 1:
                seen[title] = cpus
        return len(seen) == 4

    until(are_all_seen, "workers that have little to do on one core")
    assert len(set.union(*seen.values())) == 1


def has_spread(side: Side) -> bool:
    return any(cpus == CORES for title, cpus in places(side).items() if title.startswith("receiver"))


def test_a_stream_sends_workers_to_other_cores_and_its_end_calls_them_back(tunnel: Tunnel) -> None:
    one, two = tunnel.sides
    for side in (one, two):
        await_shared_core(side)
        assert places(side)["control"] == places(side)["supervisor"] == CORES
    with Stream(one, two):
        for side in (one, two):
            until(lambda side=side: has_spread(side), "a busy receiver")  # type: ignore[misc]
    for side in (one, two):
        await_shared_core(side)


def test_a_worker_in_the_place_of_a_dead_one_stays_there_too(tunnel: Tunnel) -> None:
    side = tunnel.sides[0]
    before = side.host.titles()["receiver 0"]
    os.kill(before, 9)
    until(lambda: side.host.titles().get("receiver 0", before) != before, "another receiver")
    await_shared_core(side)
