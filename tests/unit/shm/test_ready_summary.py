"""A set whose last member was taken says that it is empty: else its owner never sleeps."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shm.segment
from shm._shm import ffi, lib

GEOMETRY = {
    "max_peers": 8192,
    "max_keypairs": 64,
    "max_receivers": 1,
    "max_consumers": 1,
    "nodes_a_pool": 64,
    "small_slots": 32,
    "train_slots": 4,
    "mailbox_cells": 64,
    "max_trie_nodes": 64,
    "public_key_buckets": 64,
}
DATA = shm.segment.create(GEOMETRY)


@given(st.lists(st.sets(st.integers(0, 8191), max_size=8), max_size=8), st.integers(0, 8191))
def test_a_set_is_empty_once_all_was_taken_wherever_the_cursor_stood(
    rounds: list[set[int]], start: int
) -> None:
    cursor = ffi.new("uint32_t *", start)
    for members in rounds:
        for row in members:
            lib.ready_set(DATA.segment, 1, row)
        taken = set()
        while (row := lib.ready_take(DATA.segment, 1, cursor)) != 0xFFFFFFFF:
            taken.add(row)
            assert bool(lib.ready_waits(DATA.segment, 1, cursor[0])) == (taken != members)
        assert taken == members
        assert lib.ready_is_empty(DATA.segment, 1)


SETS, PLACES = GEOMETRY["max_consumers"] + 1, 2 * GEOMETRY["max_peers"]


@pytest.mark.parametrize(("set_number", "place"), [
    (0, PLACES), (1, PLACES), (1, PLACES + 64), (SETS - 1, 2 * PLACES), (SETS, 0), (SETS + 1, 5),
])  # fmt: skip
def test_what_is_out_of_range_is_in_no_set_and_written_nowhere(set_number: int, place: int) -> None:
    data = shm.segment.create(GEOMETRY)
    before = hashlib.sha256(ffi.buffer(data.segment.base, data.bytes)).digest()
    lib.ready_set(data.segment, set_number, place)
    assert not lib.ready_is_set(data.segment, set_number, place)
    assert hashlib.sha256(ffi.buffer(data.segment.base, data.bytes)).digest() == before
    data.close()
