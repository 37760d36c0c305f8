"""engine/index: a bijection that hides what it permutes, and a table that compares it whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib

words = st.integers(0, 2**64 - 1)
GATEWAYS = [0, *(bits << 8 | gateway for bits in (2, 4, 6, 8) for gateway in (0, 1, (1 << bits) - 1))]
gateways = st.sampled_from(GATEWAYS)
keys = st.tuples(words, words, gateways).map(lambda key: ffi.new("uint64_t[3]", list(key)))
KEY = ffi.new("uint64_t[3]", [0x0123456789ABCDEF, 0xFEDCBA9876543210])


def beside(gateway: int, bits: int) -> Any:
    """The same key, with a gateway's number."""
    return ffi.new("uint64_t[3]", [KEY[0], KEY[1], bits << 8 | gateway])


@settings(deadline=None, max_examples=300)
@given(key=keys, number=st.integers(0, 2**21 - 1), generation=st.integers(0, 2**11 - 1))
def test_comes_back(key: Any, number: int, generation: int) -> None:
    assert lib.index_number(key, lib.index_of(key, number, generation)) == number


@settings(deadline=None, max_examples=300)
@given(key=keys, index=st.integers(0, 2**32 - 1))
def test_any_index_has_one_origin(key: Any, index: int) -> None:
    """Onto, and as many values to as many values: a bijection. With another gateway's bits it has none."""
    bits, number = int(key[2]) >> 8, lib.index_number(key, index)
    assert number < 2**21
    is_own = index % 2**bits == int(key[2]) % 2**bits
    drawn = [lib.index_of(key, number, generation) for generation in range(2 ** (11 - bits))]
    assert drawn.count(index) == is_own and len(set(drawn)) == len(drawn)


def test_no_two_share_an_index() -> None:
    drawn = {lib.index_of(KEY, number, generation) for number in range(3000) for generation in (0, 1, 2047)}
    assert len(drawn) == 9000
    assert len({lib.index_of(KEY, 5, generation) for generation in range(2048)}) == 2048


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_neighbours_look_unrelated(bits: int) -> None:
    """Each output bit changes for about half of all changes of one input bit; those in the clear never do."""
    key = beside(1, bits) if bits else KEY
    for bit in range(32 - bits):
        flips = [0] * 32
        for i in range(400):
            value = i * 2654435761 & 0xFFFFFFFF >> bits
            other = value ^ 1 << bit
            a, b = (lib.index_of(key, v & 2**21 - 1, v >> 21) for v in (value, other))
            for out in range(32):
                flips[out] += (a ^ b) >> out & 1
        assert not any(flips[:bits])
        assert all(120 < count < 280 for count in flips[bits:]), (bit, flips)


@pytest.mark.parametrize(("gateway", "bits"), [(0, 2), (3, 2), (5, 4), (15, 4), (0, 6), (255, 8)])
def test_a_gateway_s_number_is_the_end_of_each_index(gateway: int, bits: int) -> None:
    key, indices = beside(gateway, bits), []
    table, peer = ffi.new("struct index_entry[]", MAX), ffi.new("uint32_t *")
    for life in range(2 ** (11 - bits) + 1):
        indices.append(lib.index_publish(table, key, 5, life))
        assert indices[-1] % 2**bits == gateway
    assert len(set(indices)) == 2 ** (11 - bits) and indices[-1] == indices[0]
    assert lib.index_lookup(table, MAX, key, indices[-1], peer) == 5
    for other in range(1, 2**bits):
        assert lib.index_lookup(table, MAX, key, indices[-1] ^ other, peer) == 0


def test_each_bit_of_the_key_counts() -> None:
    plain = [lib.index_of(KEY, n, 1) for n in range(8)]
    for bit in range(128):
        other = ffi.new("uint64_t[3]", [KEY[0], KEY[1]])
        other[bit // 64] ^= 1 << bit % 64
        assert plain != [lib.index_of(other, n, 1) for n in range(8)]


@dataclass
class Table:
    """The model: index -> (number, peer)."""

    entries: dict[int, tuple[int, int]] = field(default_factory=dict)

    def withdraw(self, number: int) -> None:
        self.entries = {i: e for i, e in self.entries.items() if e[0] != number}


MAX = 64
actions = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, MAX - 1), st.integers(0, 2**20)),
    st.tuples(st.just("withdraw"), st.integers(1, MAX - 1), st.just(0)),
    st.tuples(st.just("probe"), st.integers(0, 2**32 - 1), st.just(0)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(actions, max_size=50))
def test_table(walk: list[tuple[str, int, int]]) -> None:
    table = ffi.new("struct index_entry[]", MAX)
    peer = ffi.new("uint32_t *")
    model = Table()
    given_out: set[int] = set()
    for kind, number, row in walk:
        if kind == "publish":
            model.withdraw(number)
            index = lib.index_publish(table, KEY, number, row)
            assert index not in given_out  # never one of before, until generations wrap
            given_out.add(index)
            model.entries[index] = (number, row)
        elif kind == "withdraw":
            model.withdraw(number)
            lib.index_withdraw(table, number)
        else:
            given_out.add(number)
        for index in given_out:
            peer[0] = 0xDEAD
            found = lib.index_lookup(table, MAX, KEY, index, peer)
            assert (found, peer[0]) == model.entries.get(index, (0, 0xDEAD))


def test_numbers_out_of_the_table_are_unknown() -> None:
    """Numbers are checked before the table is touched: here there is room for entry 1 alone."""
    table = ffi.new("struct index_entry[2]")
    peer = ffi.new("uint32_t *")
    index = lib.index_publish(table, KEY, 1, 9)
    assert lib.index_lookup(table, 2, KEY, index, peer) == 1
    assert lib.index_lookup(table, 1, KEY, index, peer) == 0
    for number in (0, 2, 3, 2**21 - 1):
        assert lib.index_lookup(table, 2, KEY, lib.index_of(KEY, number, 1), peer) == 0
    table[0].in_use, table[0].index = 1, lib.index_of(KEY, 0, 0)
    assert lib.index_lookup(table, 2, KEY, lib.index_of(KEY, 0, 0), peer) == 0


def test_after_2048_lives_an_index_comes_again() -> None:
    """The others of before are unknown; the one that comes again is the present peer's."""
    table, peer = ffi.new("struct index_entry[]", MAX), ffi.new("uint32_t *")
    indices = [lib.index_publish(table, KEY, 5, life) for life in range(2049)]
    assert len(set(indices)) == 2048 and indices[2048] == indices[0]
    assert lib.index_lookup(table, MAX, KEY, indices[1], peer) == 0
    assert lib.index_lookup(table, MAX, KEY, indices[2048], peer) == 5
    assert peer[0] == 2048
