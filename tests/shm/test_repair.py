"""What repair counts of a dead worker, beyond making whole what it left (killed.c has that)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from small_segment import make

from shm import segment
from shm._shm import ffi, lib

ROW = 5


@pytest.fixture
def data() -> Iterator[segment.DataSegment]:
    made = make(ROW + 1)
    yield made
    made.close()


def test_packets_received_without_a_node_are_counted_once(data: segment.DataSegment) -> None:
    line = data.segment.workers[lib.WORKER_RECEIVER]
    line.arriving = 7
    repair = ffi.new("struct repair *")
    for lost in (7, 0):
        lib.repair_worker(data.segment, lib.WORKER_RECEIVER, repair)
        assert (repair.packets_lost, line.arriving) == (lost, 0)
    assert lib.counter_sum(data.segment, lib.DROP_KILLED) == 7
