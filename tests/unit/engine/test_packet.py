"""engine/packet: headers, lengths, padding and ECN against readings of the RFCs."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib

from . import inner

# ---- messages ----


def type_of(data: bytes) -> tuple[int, int]:
    why = ffi.new("int *", 77)
    return lib.message_type(ffi.from_buffer(data), len(data), why), why[0]


LENGTHS = {1: 148, 2: 92, 3: 64}


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_handshake_messages_have_one_length(kind: int) -> None:
    for length in range(4, 200):
        found = type_of(struct.pack("<I", kind) + bytes(length - 4))
        assert found == ((kind, 0) if length == LENGTHS[kind] else (0, 1))


def test_data_messages_have_any_length_from_32() -> None:
    for length in (*range(4, 200), 65_507):
        assert type_of(struct.pack("<I", 4) + bytes(length - 4)) == ((4, 0) if length >= 32 else (0, 1))


@pytest.mark.parametrize("kind", [0, 5, 0x0104, 0x01000004, 0x04000000, 0xFFFFFFFF])
def test_other_types(kind: int) -> None:
    assert type_of(struct.pack("<I", kind) + bytes(144)) == (0, 2)


@pytest.mark.parametrize("length", range(4))
def test_too_short_for_a_type(length: int) -> None:
    assert type_of(bytes([4, 0, 0])[:length]) == (0, 1)


@given(index=st.integers(0, 2**32 - 1), counter=st.integers(0, 2**64 - 1), at=st.integers(0, 7))
def test_data_header(index: int, counter: int, at: int) -> None:
    memory = ffi.new("uint8_t[]", b"\xaa" * 32)
    lib.data_header_write(memory + at, index, counter)
    written = bytes(ffi.buffer(memory))
    assert written[at : at + 16] == struct.pack("<IIQ", 4, index, counter)
    assert set(written[:at] + written[at + 16 : 32]) == {0xAA}
    assert lib.data_receiver_index(memory + at) == index
    assert lib.data_counter(memory + at) == counter


# ---- messages within packets ----

UDP, TCP, FRAGMENT, OPTIONS = 17, 6, 44, 60
DATA = struct.pack("<IIQ", 4, 0xA1B2C3D4, 7) + bytes(16)
MESSAGES = {1: struct.pack("<II", 1, 9) + bytes(140), 2: struct.pack("<II", 2, 9) + bytes(84), 4: DATA}


def datagram(payload: bytes, claimed: int | None = None) -> bytes:
    length = 8 + len(payload) if claimed is None else claimed
    return struct.pack("!HHHH", 51820, 51821, length, 0) + payload


def ipv4(body: bytes, *, protocol: int = UDP, fragment: int = 0, words: int = 5, hops: int = 64) -> bytes:
    head = struct.pack("!BBHHHBBH8x", 0x40 | words, 0, 4 * words + len(body), 1, fragment, hops, protocol, 0)
    return head + bytes(4 * words - 20) + body


def ipv6(body: bytes, *, protocol: int = UDP, fragment: int | None = None, hops: int = 64) -> bytes:
    if fragment is not None:
        protocol, body = FRAGMENT, struct.pack("!BBHI", protocol, 0, fragment, 5) + body
    return struct.pack("!IHBB32x", 6 << 28, len(body), protocol, hops) + body


def message_in(data: bytes) -> tuple[int, int] | None:
    """Type and place of what is found, in memory that ends where the packet does."""
    memory, kind = ffi.new("uint8_t[]", data), ffi.new("uint32_t *", 77)
    found = lib.packet_message(memory, len(data), kind)
    return (kind[0], found - memory) if found else None


@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_within_packets(kind: int) -> None:
    body = datagram(MESSAGES[kind])
    for packet, at in (
        (ipv4(body), 28), (ipv4(body, words=15), 68), (ipv6(body), 48),
        (ipv6(body, fragment=0), 56), (ipv6(body, fragment=1), 56), (ipv4(body, fragment=0x2000), 28),
    ):  # fmt: skip
        assert message_in(packet) == (kind, at)
    for packet in (
        ipv4(body, protocol=TCP), ipv6(body, protocol=TCP), ipv4(body, protocol=FRAGMENT),
        ipv4(body, fragment=1), ipv4(body, fragment=0x2001), ipv6(body, fragment=8),
        ipv6(body, protocol=TCP, fragment=0), ipv6(body, protocol=OPTIONS),
        ipv4(datagram(b"\x05" + MESSAGES[kind][1:])), ipv4(datagram(MESSAGES[kind][:3] + b"\1" + bytes(144))),
    ):  # fmt: skip
        assert message_in(packet) is None


def test_the_length_of_the_datagram_counts() -> None:
    """A first fragment is shorter, a super-packet has many; a datagram that is too short has no message."""
    for make in (ipv4, ipv6):
        assert message_in(make(datagram(DATA[:16], claimed=1400)))
        assert message_in(make(datagram(DATA * 40)))
        for claimed in (8, 9, 11, 39):
            assert message_in(make(datagram(DATA, claimed=claimed))) is None
        whole = make(datagram(DATA))
        for length in range(len(whole)):
            assert (message_in(whole[:length]) is None) == (length < len(whole) - 16)


def test_a_packet_shorter_than_the_header_of_ipv6_has_no_message() -> None:
    """Here an IPv4 header that says one word of itself, with a UDP header and data behind that word."""
    packet = b"\x41" + bytes(7) + bytes([1, UDP]) + bytes(2) + DATA
    assert message_in(packet[:40]) == (4, 12)
    for length in range(40):
        assert message_in(packet[:length]) is None


def test_sender_of_a_handshake_message() -> None:
    assert lib.handshake_sender_index(ffi.from_buffer(MESSAGES[1])) == 9


def test_hop_limits_of_nested_messages() -> None:
    """8 less at each, from 64 at the most: a circle ends after seven."""
    for make in (ipv4, ipv6):
        def nested(hops: int, make: Any = make) -> int:
            return int(lib.packet_nested_hops(ffi.from_buffer(make(datagram(DATA), hops=hops))))

        assert [nested(hops) for hops in (0, 1, 8, 9, 63, 64, 65, 255)] == [0, 0, 0, 1, 55, 56, 56, 56]
        hops, rounds = 255, 0
        while hops := nested(hops):
            rounds += 1
        assert rounds == 7


# ---- inner packets ----


def destination_of(data: bytes) -> tuple[int, bytes]:
    where = ffi.new("const uint8_t **")
    buffer = ffi.from_buffer(data)
    version = lib.packet_destination(buffer, len(data), where)
    return version, b"" if not version else bytes(ffi.buffer(where[0], 4 if version == 4 else 16))


def source_of(data: bytes) -> tuple[int, bytes, int]:
    where, trimmed = ffi.new("const uint8_t **"), ffi.new("uint32_t *", 77)
    buffer = ffi.from_buffer(data)
    version = lib.packet_source(buffer, len(data), where, trimmed)
    return version, b"" if not version else bytes(ffi.buffer(where[0], 4 if version == 4 else 16)), trimmed[0]


V4, W4 = bytes([10, 1, 2, 3]), bytes([192, 0, 2, 200])
V6, W6 = bytes(range(16)), bytes(range(100, 116))

headers = st.one_of(
    st.builds(
        inner.ipv4,
        st.binary(min_size=4, max_size=4),
        st.binary(min_size=4, max_size=4),
        st.binary(max_size=40),
        tos=st.integers(0, 255),
        options=st.integers(0, 10).map(lambda n: b"\1" * 4 * n),
        length=st.sampled_from([-1, -1, 0, 19, 20, 21, 24, 60, 61, 65535]),
    ),
    st.builds(
        inner.ipv6,
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=16, max_size=16),
        st.binary(max_size=40),
        tos=st.integers(0, 255),
        length=st.sampled_from([-1, -1, 0, 1, 40, 41, 65535]),
    ),
    st.binary(max_size=70),
)


@settings(max_examples=500)
@given(
    data=headers,
    first=st.one_of(st.none(), st.integers(0, 255)),
    cut=st.integers(0, 60),
    more=st.integers(0, 20),
)
def test_addresses_and_lengths(data: bytes, first: int | None, cut: int, more: int) -> None:
    if first is not None and data:
        data = bytes([first]) + data[1:]
    data = (data[: len(data) - cut] if cut < len(data) and cut % 3 == 0 else data) + bytes(more)
    expected = inner.parse(data)
    if expected is None:
        assert destination_of(data) == (0, b"")
        assert source_of(data) == (0, b"", 0)
    else:
        version, source, destination, length = expected
        assert destination_of(data) == (version, destination)
        assert source_of(data) == (version, source, length)


@pytest.mark.parametrize("length", range(41))
def test_every_cut_of_a_header(length: int) -> None:
    """Exact to the byte. The buffer holds nothing beyond the cut, so a sanitizer sees a read too far."""
    for whole in (inner.ipv4(V4, W4, b"x" * 21), inner.ipv6(V6, W6, b"x")):
        assert source_of(whole[:length])[0] == (inner.parse(whole[:length]) or (0,))[0]
    assert source_of(inner.ipv4(V4, W4))[0] == 4
    assert source_of(inner.ipv6(V6, W6))[0] == 6


def test_header_length_of_ipv4() -> None:
    good = inner.ipv4(V4, W4, b"x" * 60)
    assert [ihl for ihl in range(16) if source_of(bytes([0x40 | ihl]) + good[1:])[0]] == list(range(5, 16))
    short = inner.ipv4(V4, W4, b"x" * 4)  # 24 bytes in all: a header of 28 cannot be
    assert [ihl for ihl in range(16) if source_of(bytes([0x40 | ihl]) + short[1:])[0]] == [5, 6]


# ---- padding ----


def padded(length: int, mtu: int) -> int:
    """How many bytes are added to the last part of a packet of that length."""
    while mtu and length > mtu:
        length -= mtu
    up = -(-length // 16) * 16
    return (min(up, mtu) if mtu else up) - length


@given(length=st.integers(0, 70_000), mtu=st.one_of(st.just(0), st.integers(68, 9000), st.just(65_535)))
def test_padding(length: int, mtu: int) -> None:
    # of several whole MTUs nothing is left to pad, as of one
    assert lib.packet_padding(length, mtu) == padded(length, mtu)


def test_padding_stops_at_the_mtu() -> None:
    assert [lib.packet_padding(n, 1420) for n in (0, 1, 15, 16, 17, 1407, 1408, 1409, 1419, 1420)] == [
        0, 15, 1, 0, 15, 1, 0, 11, 1, 0,
    ]  # fmt: skip


# ---- ECN ----


@pytest.mark.parametrize("outer", range(4))
@pytest.mark.parametrize("bits", range(4))
@pytest.mark.parametrize("dscp", [0, 0x2E, 0x3F])
def test_ecn_table(bits: int, outer: int, dscp: int) -> None:
    tos = dscp << 2 | bits
    for data in (inner.ipv4(V4, W4, b"abc", tos=tos, options=bytes(4)), inner.ipv6(V6, W6, b"abc", tos=tos)):
        memory = ffi.new("uint8_t[]", data)
        assert lib.packet_ecn(memory) == inner.ecn(data) == bits
        expected = inner.decapsulated(bits, outer)
        assert lib.packet_ecn_decapsulate(memory, outer) == (-1 if expected is None else 0)
        after = bytes(ffi.buffer(memory, len(data)))
        assert after == (data if expected is None else inner.with_ecn(data, expected))


@settings(max_examples=300)
@given(
    source=st.binary(min_size=4, max_size=4),
    identity=st.integers(0, 65_535),
    tos=st.integers(0, 63).map(lambda dscp: dscp << 2 | inner.ECT_0),
    outer=st.sampled_from([inner.CE, inner.ECT_1]),
)
def test_ipv4_checksum_is_mended(source: bytes, identity: int, tos: int, outer: int) -> None:
    data: Any = bytearray(inner.ipv4(source, W4, b"abc", tos=tos))
    data[4:6] = identity.to_bytes(2, "big")
    data = inner.with_ecn(bytes(data), inner.ECT_0)
    memory = ffi.new("uint8_t[]", data)
    assert lib.packet_ecn_decapsulate(memory, outer) == 0
    after = bytes(ffi.buffer(memory, len(data)))
    assert inner.ecn(after) == outer
    assert inner.checksum(after[:20]) == 0


def test_a_wrong_checksum_stays_wrong() -> None:
    """Mended, not worked out anew: damage from before the tunnel is not covered up."""
    data = bytearray(inner.ipv4(V4, W4, tos=inner.ECT_0))
    data[11] ^= 1
    memory = ffi.new("uint8_t[]", bytes(data))
    lib.packet_ecn_decapsulate(memory, inner.CE)
    assert inner.checksum(bytes(ffi.buffer(memory, 20))) != 0
