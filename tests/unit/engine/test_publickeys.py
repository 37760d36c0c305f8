"""engine/publickeys: a dict."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib

ROWS, STRIDE, KEY_AT, CHAIN_AT = 40, 128, 24, 64
GROWN = 128  # buckets that there can be
NOBODY = 0xFFFFFFFF


class Rows:
    """Peer rows as in a segment: key and chain at some offset of each."""

    def __init__(self, buckets: int, key: tuple[int, int] = (1, 2)) -> None:
        self.memory = ffi.new("uint8_t[]", ROWS * STRIDE)
        self.buckets = ffi.new("uint32_t[]", max(buckets, GROWN))
        self.table = ffi.new("struct publickeys *")
        self.table.buckets, self.table.bucket_count = self.buckets, buckets
        self.table.key = list(key)
        self.table.rows, self.table.stride, self.table.max_rows = self.memory, STRIDE, ROWS
        self.table.key_offset, self.table.chain_offset = KEY_AT, CHAIN_AT

    def set_key(self, row: int, key: bytes) -> None:
        ffi.memmove(self.memory + row * STRIDE + KEY_AT, key, 32)

    def set_chain(self, row: int, value: int) -> None:
        ffi.memmove(self.memory + row * STRIDE + CHAIN_AT, value.to_bytes(4, "little"), 4)

    def lookup(self, key: bytes) -> int:
        return int(lib.publickeys_lookup(self.table, key))


def key_of(number: int) -> bytes:
    return hashlib.sha256(bytes([number])).digest()


def test_every_byte_of_a_key_counts() -> None:
    rows, key = Rows(1), key_of(7)
    rows.set_key(0, key)
    lib.publickeys_insert(rows.table, 0)
    for at in range(32):
        other = bytearray(key)
        other[at] ^= 0x80
        assert rows.lookup(bytes(other)) == NOBODY, at
    assert rows.lookup(key) == 0


actions = st.tuples(
    st.sampled_from(["insert", "insert", "grow", "remove"]), st.integers(0, ROWS - 1), st.integers(0, 60)
)


@settings(deadline=None, max_examples=200)
@given(buckets=st.sampled_from([1, 2, 3, 16, 45, 64]), walk=st.lists(actions, max_size=80))
def test_is_a_dict(buckets: int, walk: list[tuple[str, int, int]]) -> None:
    rows = Rows(buckets)
    model: dict[bytes, int] = {}
    used: dict[int, bytes] = {}
    for kind, row, number in walk:
        key = key_of(number)
        if kind == "insert" and row not in used and key not in model:
            rows.set_key(row, key)
            lib.publickeys_insert(rows.table, row)
            lib.publickeys_insert(rows.table, row)  # repeated after a kill
            model[key], used[row] = row, key
        elif kind == "grow" and rows.table.bucket_count < GROWN:
            lib.publickeys_grow(rows.table)
        elif kind == "remove" and row in used:
            lib.publickeys_remove(rows.table, row)
            lib.publickeys_remove(rows.table, row)
            del model[used.pop(row)]
        for probe in range(0, 61, 3):
            assert rows.lookup(key_of(probe)) == model.get(key_of(probe), NOBODY)
    assert all(rows.lookup(key) == row for key, row in model.items())


def siphash(key: tuple[int, int], data: bytes) -> int:
    """SipHash-2-4, from its paper."""
    mask = 2**64 - 1
    v = [
        key[0] ^ 0x736F6D6570736575,
        key[1] ^ 0x646F72616E646F6D,
        key[0] ^ 0x6C7967656E657261,
        key[1] ^ 0x7465646279746573,
    ]

    def rotate(x: int, b: int) -> int:
        return (x << b | x >> 64 - b) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = v[0] + v[1] & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = v[2] + v[3] & mask
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = v[0] + v[3] & mask
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = v[2] + v[1] & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    whole = len(data) // 8 * 8
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, whole, 8)]
    words.append((len(data) & 255) << 56 | int.from_bytes(data[whole:], "little"))
    for word in words:
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_oracle_against_the_vector_of_the_paper() -> None:
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    assert siphash(key, bytes(range(15))) == 0xA129CA6149BE45E5


@settings(deadline=None, max_examples=100)
@given(key=st.tuples(*[st.integers(0, 2**64 - 1)] * 2), public=st.binary(min_size=32, max_size=32))
def test_buckets_are_chosen_by_siphash(key: tuple[int, int], public: bytes) -> None:
    rows = Rows(64, key)
    rows.set_key(3, public)
    lib.publickeys_insert(rows.table, 3)
    assert [i for i in range(64) if rows.buckets[i]] == [siphash(key, public) % 64]


def test_buckets_that_come_share_the_rows_out_evenly() -> None:
    """As many as there are keys: each is one or two steps away, not at the end of one long chain."""
    rows = Rows(1)
    for row in range(ROWS):
        rows.set_key(row, key_of(row))
        lib.publickeys_insert(rows.table, row)
        lib.publickeys_grow(rows.table)
    buckets = [siphash((1, 2), key_of(row)) % 64 for row in range(ROWS)]
    expected = {bucket if bucket <= ROWS else bucket % 32 for bucket in buckets}
    assert {i for i in range(GROWN) if rows.buckets[i]} == expected and len(expected) > ROWS // 2
    assert [rows.lookup(key_of(row)) for row in range(ROWS)] == list(range(ROWS))


def test_damaged_chains_end() -> None:
    """A ring, and a number out of range: not found, and back in time."""
    rows = Rows(1)
    for row in range(3):
        rows.set_key(row, key_of(row))
        lib.publickeys_insert(rows.table, row)
    rows.set_chain(0, 3)  # the last row points at the first
    assert rows.lookup(key_of(9)) == NOBODY
    rows.set_chain(0, ROWS + 1)
    assert rows.lookup(key_of(9)) == NOBODY
    assert rows.lookup(key_of(1)) == 1


def test_is_for_any_bytes(  # a key of zeros is a key like any other
) -> None:
    rows: Any = Rows(4)
    lib.publickeys_insert(rows.table, 7)
    assert rows.lookup(bytes(32)) == 7
