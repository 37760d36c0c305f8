"""Which keypairs of rows may go: keypairs_collect against the same in a line of Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shm.segment
from workers._workers import ffi, lib

NUMBERS = 12
ROWS = (3, 40)
GEOMETRY = {
    "max_peers": 64, "max_keypairs": 64, "max_receivers": 1, "max_consumers": 1, "nodes_a_pool": 100,
    "small_slots": 64, "train_slots": 4, "mailbox_cells": 8, "max_trie_nodes": 64, "public_key_buckets": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def segment() -> Iterator[object]:
    data = shm.segment.create(GEOMETRY)
    for region, elements in ((lib.REGION_ROWS, 64), (lib.REGION_INDEX, 64), (lib.REGION_KEYPAIRS, 64)):
        data.ensure(region, elements)
    yield ffi.cast("struct segment *", data.segment_address)
    data.close()


number = st.integers(0, NUMBERS)
INSTALLS = lib.ORDER_INSTALL | lib.ORDER_INSTALL_NEXT


@dataclass
class Row:
    """What stands in a row, and its list."""

    named: tuple[int, int, int]
    installing: int
    orders: int
    keep: int
    listed: list[int]

    def holds(self, each: int) -> bool:
        """While an installation is ordered, a holder may be about to name any of them."""
        return bool(self.orders & INSTALLS) or each in (*self.named, self.keep)


rows = st.builds(
    Row, st.tuples(number, number, number), number,
    st.sampled_from([0, lib.ORDER_INSTALL, lib.ORDER_INSTALL_NEXT, INSTALLS, lib.ORDER_LOOK]),
    number, st.just([]),
)  # fmt: skip


@given(rows, rows, st.lists(st.tuples(st.integers(1, NUMBERS), st.integers(0, 1)), unique_by=lambda t: t[0]),
       st.integers(1, NUMBERS))  # fmt: skip
def test_what_nothing_names_leaves_the_lists_in_their_order(
    segment: Any, one: Row, two: Row, owners: list[tuple[int, int]], most: int
) -> None:
    pair = (Row(**vars(one) | {"listed": []}), Row(**vars(two) | {"listed": []}))
    first, follow = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    table = ffi.cast("struct index_entry *", segment.index)
    indices = {}
    for each, owner in owners:
        pair[owner].listed.append(each)
        indices[each] = int(lib.index_publish(table, segment.device.index_key, each, ROWS[owner]))
    for place, row in zip(ROWS, pair, strict=True):
        there = segment.rows[place]
        there.key_word = lib.key_word_of(*row.named)
        there.installing, there.orders = row.installing, row.orders
        for before, after in zip([0, *row.listed], [*row.listed, 0], strict=True):
            if before:
                follow[before] = after
            else:
                first[place] = after
    lists = [ffi.from_buffer("uint32_t[]", column) for column in (first, follow)]
    asked = [ffi.new("uint32_t[]", column) for column in (ROWS, [row.keep for row in pair])]
    found = ffi.new("uint32_t[]", NUMBERS)
    count = lib.keypairs_collect(segment, *lists, *asked, len(ROWS), found, most)
    left = [each for row in pair for each in row.listed if not row.holds(each)][:most]
    assert list(found[0:count]) == left
    for place, row in zip(ROWS, pair, strict=True):
        listed, at = [], int(first[place])
        while at:
            listed.append(at)
            at = int(follow[at])
        assert listed == [each for each in row.listed if each not in left]
    whose = ffi.new("uint32_t *")
    for each, index in indices.items():
        gone = not lib.index_lookup(table, 64, segment.device.index_key, index, whose)
        assert gone == (each in left)
        lib.index_withdraw(table, each)
