"""Timestamps: whitened, ordered, never back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine import tai64n

WALLS = st.integers(0, 4_000_000_000 * 10**9)
TICK = 1 << 24


def is_later(a: bytes, b: bytes) -> bool:
    rows = (np.frombuffer(stamp, np.uint8).reshape(1, -1) for stamp in (a, b))
    return bool(tai64n.later(*rows)[0])


def test_label() -> None:
    assert tai64n.stamp(0).hex() == "400000000000000a00000000"
    assert tai64n.stamp(1_700_000_000 * 10**9 + 999_999_999).hex() == "400000006553f10a3b000000"


@given(WALLS, WALLS)
def test_order_is_that_of_the_clock(a: int, b: int) -> None:
    assert is_later(tai64n.stamp(a), tai64n.stamp(b)) == (
        (a // 10**9, a % 10**9 // TICK) > (b // 10**9, b % 10**9 // TICK)
    )


@given(st.lists(WALLS, max_size=30))
def test_never_back(walls: list[int]) -> None:
    last = tai64n.ZERO
    for wall in walls:
        stamp = tai64n.next_stamp(wall, last)
        assert is_later(stamp, last)
        assert stamp >= tai64n.stamp(wall)
        ns = int.from_bytes(stamp[8:], "big")
        assert ns < 10**9 and ns % TICK == 0
        last = stamp


@given(WALLS)
def test_a_later_clock_is_taken_as_it_is(wall: int) -> None:
    assert tai64n.next_stamp(wall + 10**9, tai64n.stamp(wall)) == tai64n.stamp(wall + 10**9)
