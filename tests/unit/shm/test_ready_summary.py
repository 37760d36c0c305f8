"""A set whose last member was taken says that it is empty: else its owner never sleeps."""

from __future__ import annotations

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
