"""node_read and node_slot against a list of all slots: no byte outside one slot is given away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


near = st.integers(-130, 130) | st.sampled_from([-(2**31), 0, 2**31])


@given(
    border=st.integers(0, POOLS * (SMALLS + TRAINS)), shift=near,
    length=st.integers(0, 3000) | st.integers(lib.TRAIN_SLOT_BYTES - 300, lib.TRAIN_SLOT_BYTES + 10)
    | st.just(0xFFFFFFFF),
    before=st.sampled_from([0, 1, 128]), after=st.sampled_from([0, 1, 16, 0xFFFFFFFF]),
)  # fmt: skip
def test_the_bytes_of_a_node_stand_in_one_slot(
    data: DataSegment, border: int, shift: int, length: int, before: int, after: int
) -> None:
    segment = data.segment
    all_of_them = slots(segment)
    offset = [*(start for start, _ in all_of_them), sum(all_of_them[-1])][border] + shift
    segment.node[NODE].offset, segment.node[NODE].length = offset % 2**64, length
    copy: Any = ffi.new("struct node *")
    got = lib.node_read(segment, NODE, before, after, copy)
    whose = next(((start, size) for start, size in all_of_them if start <= offset < start + size), None)
    fits = whose and whose[0] + before <= offset and offset + length + after <= sum(whose)
    assert (got != ffi.NULL) == bool(fits)
    if whose and fits:
        assert got == segment.base + offset
        assert lib.node_slot(segment, got) == segment.base + whose[0]
    assert (copy.offset, copy.length) == (segment.node[NODE].offset, length)
