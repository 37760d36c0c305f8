"""node_read and node_slot against a list of all slots: no byte outside one slot is given away."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from shm._shm import ffi, lib
from shm.segment import DataSegment
from tests.support.small_segment import make

SMALLS, TRAINS = 3, 2
POOLS = 4
NODE = 5


@pytest.fixture(scope="module")
def data() -> Iterator[DataSegment]:
    made = make(1, small_slots=SMALLS, train_slots=TRAINS, nodes_a_pool=SMALLS + TRAINS)
    yield made
    made.close()


def slots(segment: Any) -> list[tuple[int, int]]:
    """(first byte, bytes) of each."""
    found = []
    for region, count, size in ((lib.REGION_SMALL_SLOTS, SMALLS, lib.SMALL_SLOT_BYTES),
                                (lib.REGION_TRAIN_SLOTS, TRAINS, lib.TRAIN_SLOT_BYTES)):
        base = int(segment.header.offset[region])
        found += [(base + n * size, size) for n in range(POOLS * count)]
    return found


def test_the_bytes_of_a_node_stand_in_one_slot(data: DataSegment) -> None:
    """Around each border of slots, up to each end, and far away."""
    segment, copy, all_of_them = data.segment, ffi.new("struct node *"), slots(data.segment)
    borders = [*(start for start, _ in all_of_them), sum(all_of_them[-1])]
    offsets = {border + shift for border in borders for shift in (-128, -1, 0, 1, 128)} | {0, 2**63}
    rooms = (0, 1, 128), (0, 1, 16, 0xFFFFFFFF)
    for offset, before, after, slack in product(offsets, *rooms, (-1, 0, 1, 700)):
        whose = next(((start, size) for start, size in all_of_them if start <= offset < start + size), None)
        end = sum(whose) if whose else offset + 2000
        length = (end - offset - after - slack) & 0xFFFFFFFF
        segment.node[NODE].offset, segment.node[NODE].length = offset, length
        got = lib.node_read(segment, NODE, before, after, copy)
        fits = whose and whose[0] + before <= offset and offset + length + after <= end
        assert (got != ffi.NULL) == bool(fits)
        if whose and fits:
            assert got == segment.base + offset
            assert lib.node_slot(segment, got) == segment.base + whose[0]
        assert (copy.offset, copy.length) == (offset, length)
