"""Rings of the mailbox have turns: no receiver's messages wait behind all of another's."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shm._shm import ffi, lib
from tests.support.small_segment import GEOMETRY, make

RINGS, CELLS = 3, GEOMETRY["mailbox_cells"]
NO_ENDPOINT = ffi.new("struct endpoint *")


def taken(segment: Any, most: int) -> list[tuple[int, int]]:
    """(receiver, number) of each message that is taken."""
    cells: Any = ffi.new("struct mailbox_cell[]", most + 1)
    count = lib.mailbox_take(segment, cells, most)
    return [(cells[n].message[0], cells[n].message[1]) for n in range(count)]


@given(st.lists(st.integers(0, CELLS), min_size=RINGS, max_size=RINGS),
       st.lists(st.integers(0, RINGS * CELLS + 1), max_size=12))  # fmt: skip
def test_each_ring_with_messages_has_one_taken_a_round(waiting: list[int], takes: list[int]) -> None:
    data = make(1, max_receivers=RINGS, train_slots=1, small_slots=1, nodes_a_pool=2)
    rings = [[(ring, n) for n in range(count)] for ring, count in enumerate(waiting)]
    for ring, messages in enumerate(rings):
        for message in messages:
            assert lib.mailbox_put(data.segment, ring, NO_ENDPOINT, bytes(message), 2) == 0
    begin = 0
    for most in takes:
        expected: list[tuple[int, int]] = []
        turn = begin % RINGS
        while len(expected) < most and any(rings):
            if rings[turn]:
                expected.append(rings[turn].pop(0))
            turn = (turn + 1) % RINGS
        begin += len(expected)
        assert taken(data.segment, most) == expected
        assert lib.mailbox_waiting(data.segment) == sum(map(len, rings))
    data.close()


def test_a_full_ring_and_a_message_too_long_are_refused() -> None:
    data = make(1, max_receivers=RINGS, train_slots=1, small_slots=1, nodes_a_pool=2)
    most = bytes(lib.MAILBOX_MESSAGE_BYTES)
    assert lib.mailbox_put(data.segment, 2, NO_ENDPOINT, most + b"x", len(most) + 1) == -1
    assert lib.mailbox_put(data.segment, RINGS, NO_ENDPOINT, most, len(most)) == -1
    assert [lib.mailbox_put(data.segment, 2, NO_ENDPOINT, most, len(most)) for _ in range(CELLS + 1)] == [
        *[0] * CELLS, -1
    ]  # fmt: skip
    data.segment.mailbox[2].put += 5  # as a broken worker may
    assert lib.mailbox_waiting(data.segment) == CELLS
    data.segment.cells[2 * CELLS].length = len(most) + 1
    assert [len(taken(data.segment, 1)) for _ in range(2)] == [1, 1], "control says what it is"
    data.close()
