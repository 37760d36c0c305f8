"""How much one turn takes: no more than the holder's budget of a peer, and what large slots there are."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path as File

import pytest

from tests.support.waiting import until
from tests.unit.workers.test_data_path import GEOMETRY, Path, ipv4
from workers._workers import ffi, lib

PACKETS = 300  # fit the smallest buffer that a socket has
SMALL = {**GEOMETRY, "small_slots": 512, "nodes_a_pool": 600}


@pytest.fixture
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Parameter: how many large slots there are."""
    made = Path({**SMALL, "train_slots": getattr(request, "param", 16)})
    yield made
    made.close()


def send(path: Path, sizes: list[int]) -> None:
    """Packets of peer 0, one a call of its receiver."""
    for size in sizes:
        path.inside.send(bytes(10) + ipv4(bytes(size)))
        lib.receiver_run(path.receiver, 0)


def turn(path: Path, queue: int) -> int:
    assert lib.holder_take(path.holder, queue)
    return int(lib.holder_take_turn(path.holder, queue, lib.clock_now()))


@pytest.mark.parametrize("budget", [7, 64, 192, 193, 250, 300, 400])
def test_a_turn_takes_no_more_than_its_budget(path: Path, budget: int) -> None:
    """A batch has up to 192 packets; the last of a turn has what is left of the budget. Both ways."""
    path.holder.budget = budget
    send(path, [8] * PACKETS)
    whole, rest = divmod(PACKETS, budget)
    turns = [budget] * whole + [rest] * bool(rest)
    assert [turn(path, lib.OUTBOUND) for _ in turns] == turns
    until(lambda: arrived(path) == PACKETS, "what was sent has come")
    assert [turn(path, 2 + lib.INBOUND) for _ in turns] == turns


def arrived(path: Path) -> int:
    lib.receiver_run(path.receiver, 0)
    return int(lib.queue_packets(path.segment, 2 + lib.INBOUND))


@pytest.mark.parametrize("path", [0], indirect=True)
def test_small_packets_need_no_large_slots(path: Path) -> None:
    send(path, [8] * 10)
    assert lib.queue_packets(path.segment, lib.OUTBOUND) == 10


@pytest.mark.parametrize("path", [1], indirect=True)
def test_large_packets_wait_for_a_large_slot(path: Path) -> None:
    """In the TUN, where their sender sees that they wait."""
    send(path, [3000] * 3)
    assert lib.queue_packets(path.segment, lib.OUTBOUND) == 1
    assert path.counters()["DROP_NO_SLOT_OUTBOUND"] == 0


def test_a_receiver_without_memory_for_its_inbox_is_none(path: Path) -> None:
    """The inbox has 4 MiB of address space for what comes in one call."""
    child = os.fork()
    if child == 0:
        try:
            bells = ffi.new("int32_t[]", [-1] * lib.MAX_WORKERS)
            ours = int(File("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (ours + (3 << 20), ours + (3 << 20)))
            os._exit(lib.receiver_new(path.segment, 0, -1, bells) != ffi.NULL)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
