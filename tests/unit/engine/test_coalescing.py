"""Joining of packets against a list of rules over their fields, and against cutting them again."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib
from tests.support.transport import (
    ACK,
    DF,
    ECE,
    FIN,
    MF,
    PSH,
    RESERVED,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    Segment,
    ones_sum,
)

from .test_segmentation import cut, gso_type

MOST = 65535
UDP_MOST = 64  # packets: more is refused by some kernels
BOTH = lib.JOIN_TCP | lib.JOIN_UDP


@dataclass
class Fields:
    """One packet that may be joined to another, read field by field."""

    same: tuple[Any, ...]  # what must not differ
    tcp: bool
    id: int | None  # where it counts: IPv4 that may be fragmented
    sequence: int
    push: bool
    header: bytes
    payload: bytes


def fields(packet: bytes) -> Fields | None:
    """The packet's fields if it may be joined to any other: whole, plain, right sums, with payload."""
    version = packet[0] >> 4
    if version == 4:
        first, tos, length, ident, fragment, ttl, protocol, _ = struct.unpack("!BBHHHBBH", packet[:12])
        at, addresses = 20, packet[12:20]
        if first != 0x45 or fragment & ~DF or ones_sum(packet[:20]) != 0xFFFF:
            return None
        pseudo = addresses + struct.pack("!HH", protocol, len(packet) - at)
        network: tuple[Any, ...] = (tos, fragment, ttl, protocol, addresses)
        number = None if fragment & DF else ident
    else:
        word, length, protocol, ttl = struct.unpack("!IHBB", packet[:8])
        at, addresses, number = 40, packet[8:40], None
        length += 40
        pseudo = addresses + struct.pack("!II", len(packet) - at, protocol)
        network = (word, ttl, protocol, addresses)
    if length != len(packet) or protocol not in (TCP, UDP) or len(packet) < at + 8:
        return None
    if ones_sum(pseudo + packet[at:]) != 0xFFFF:
        return None
    if protocol == UDP:
        ports, size, checksum = packet[at : at + 4], *struct.unpack("!HH", packet[at + 4 : at + 8])
        header, sequence, push, transport = 8, 0, False, (ports,)
        if size != len(packet) - at or checksum == 0:
            return None
    else:
        if len(packet) < at + 20:
            return None
        ports, sequence = packet[at : at + 4], int.from_bytes(packet[at + 4 : at + 8], "big")
        acknowledgement, offset, flags, window = struct.unpack("!IBBH", packet[at + 8 : at + 16])
        header, push = (offset >> 4) * 4, bool(flags & PSH)
        if header < 20 or flags & ~PSH != ACK:
            return None
        urgent_and_options = packet[at + 18 : at + header]
        transport = (ports, acknowledgement, offset, window, urgent_and_options)
    if len(packet) <= at + header:
        return None
    return Fields(
        (version, *network, *transport),
        protocol == TCP,
        number,
        sequence,
        push,
        packet[: at + header],
        packet[at + header :],
    )


def joinable(packets: list[bytes], kinds: int) -> int:
    """How many of the packets, from the first on, one super-packet can stand for."""
    first = fields(packets[0])
    if first is None or first.push or not kinds & (lib.JOIN_TCP if first.tcp else lib.JOIN_UDP):
        return 1
    size, total = len(first.payload), len(packets[0])
    for n, packet in enumerate(packets[1:], 1):
        one = fields(packet)
        if (
            one is None
            or one.same != first.same
            or len(one.payload) > size
            or (first.id is not None and one.id != (first.id + n) % 2**16)
            or (first.tcp and one.sequence != (first.sequence + n * size) % 2**32)
            or total + len(one.payload) > MOST
            or (not first.tcp and n == UDP_MOST)
        ):
            return n
        total += len(one.payload)
        if one.push or len(one.payload) < size:
            return n + 1
    return len(packets)


@dataclass
class Joined:
    packets: int
    data: bytes
    header: dict[str, int]


def join(packets: list[bytes], kinds: int = BOTH) -> Joined:
    """The first super-packet of the list; a packet left alone must not have been touched."""
    buffers = [bytearray(packet) for packet in packets]
    pointers = [ffi.from_buffer("uint8_t[]", buffer) for buffer in buffers]
    array = ffi.new("struct packet[]", len(packets))
    for one, pointer in zip(array, pointers, strict=True):
        one.data, one.length = pointer, len(pointer)
    joined = ffi.new("struct joined *")
    lib.coalescing_join(array, len(packets), kinds, joined)
    after = [bytes(buffer) for buffer in buffers]
    assert after[1:] == packets[1:]
    data = after[0] + b"".join(packet[joined.header :] for packet in packets[1 : joined.packets])
    assert len(data) == joined.length
    names = ("flags", "gso_type", "gso_size", "checksum_start", "checksum_offset")
    if joined.packets == 1:
        assert after == packets and joined.gso_type == lib.VNET_GSO_NONE and not joined.header
    return Joined(joined.packets, data, {name: getattr(joined, name) for name in names})


def without_id(packet: bytes) -> bytes:
    """An IPv4 packet that must not be fragmented, without its id and the sum over it (RFC 6864)."""
    if packet[0] >> 4 == 6 or not packet[6] & DF >> 8:
        return packet
    return packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:]


def check(packets: list[bytes], kinds: int = BOTH) -> list[int]:
    """Join all of a list, in order, as a holder does; returns how many went into each super-packet."""
    counts, at = [], 0
    while at < len(packets):
        batch = packets[at : at + lib.SESSION_BATCH]
        joined = join(batch, kinds)
        assert joined.packets == joinable(batch, kinds)
        if joined.packets > 1:
            again = cut(joined.data, joined.header)
            assert again is not None
            assert again[0] == batch[0]
            assert list(map(without_id, again)) == list(map(without_id, batch[: joined.packets]))
            check_header(joined, batch[0])
        counts.append(joined.packets)
        at += joined.packets
    return counts


def check_header(joined: Joined, first: bytes) -> None:
    """What a kernel reads of a super-packet before it cuts it, or instead."""
    data, at = joined.data, joined.header["checksum_start"]
    assert joined.header["flags"] == lib.VNET_NEEDS_CSUM
    assert len(data) <= MOST
    if data[0] >> 4 == 4:
        assert at == 20 and ones_sum(data[:20]) == 0xFFFF
        assert int.from_bytes(data[2:4], "big") == len(data)
        protocol = data[9]
        pseudo = data[12:20] + struct.pack("!HH", protocol, len(data) - at)
    else:
        assert at == 40 and int.from_bytes(data[4:6], "big") == len(data) - 40
        protocol = data[6]
        pseudo = data[8:40] + struct.pack("!II", len(data) - at, protocol)
    field = at + joined.header["checksum_offset"]
    assert joined.header["checksum_offset"] == (16 if protocol == TCP else 6)
    assert int.from_bytes(data[field : field + 2], "big") == ones_sum(pseudo)
    if protocol == UDP:
        assert int.from_bytes(data[at + 4 : at + 6], "big") == len(data) - at
    assert joined.header["gso_type"] == gso_type(Segment(version=data[0] >> 4, protocol=protocol))


ADDRESSES = {4: (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])), 6: (bytes(16), bytes(15) + b"\x01")}


def flow(version: int, protocol: int, **changes: Any) -> Segment:
    source, destination = ADDRESSES[version]
    changes = {"source": source, "destination": destination} | changes
    return Segment(version=version, protocol=protocol, **changes)


@st.composite
def flows(draw: st.DrawFn) -> Segment:
    return flow(
        draw(st.sampled_from([4, 6])),
        draw(st.sampled_from([TCP, UDP])),
        ports=(draw(st.integers(1, 3)), 2000),
        id=draw(st.integers(0, 65535)),
        fragment=draw(st.sampled_from([0, DF])),
        sequence=draw(st.one_of(st.integers(0, 2**32 - 1), st.just(2**32 - 1000))),
        flags=draw(st.sampled_from([ACK, ACK, ACK | PSH, ACK | FIN])),
        tcp_options=draw(st.sampled_from([b"", b"\x01\x01\x08\x0a" + bytes(8)])),
    )


def damaged(packet: bytes, random: Random) -> bytes:
    """The packet with one bit changed, version and lengths left as a session lets them through."""
    changed = bytearray(packet)
    at = random.choice([n for n in range(len(packet)) if n not in (0, 2, 3, 4, 5)] or [1])
    changed[at] ^= 1 << random.randrange(8)
    return bytes(changed)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(flows(), st.integers(1, 3000), st.integers(1, 500)), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1).map(Random),
)
def test_flows_interleaved_and_damaged(
    trains: list[tuple[Segment, int, int]], mixed: bool, damage: int, kinds: int, random: Any
) -> None:
    queues = [one.train(random.randbytes(count), size)[: lib.SESSION_BATCH] for one, count, size in trains]
    packets = []
    while queues:
        queue = random.choice(queues)
        run = 1 if mixed else random.randint(1, len(queue))
        packets += queue[:run]
        del queue[:run]
        queues = [queue for queue in queues if queue]
    for _ in range(damage):
        at = random.randrange(len(packets))
        packets[at] = damaged(packets[at], random)
    check(packets, kinds)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_train_is_joined_up_to_the_limits(version: int, protocol: int) -> None:
    one = flow(version, protocol)
    payload = Random(1).randbytes(100_000)
    most = (MOST - one.header) // 1100
    assert check(one.train(payload, 1100)) == [most, 91 - most]
    exact = MOST - one.header  # 65,535 bytes, and then one more
    assert check(one.train(payload[:exact], 1100)) == [most + 1]
    assert check(one.train(payload[: exact + 1], 1100)) == [most, 1]
    most = lib.SESSION_BATCH if protocol == TCP else UDP_MOST
    assert check(one.train(payload[:300], 1))[:2] == [most, min(most, 300 - most)]
    assert check(one.train(payload[:2001], 1000)) == [3]  # the last one is shorter
    assert check([*one.train(payload[:1500], 1000), *one.train(payload[:1500], 1000)]) == [2, 2]
    for kinds in range(4):
        joins = kinds & (lib.JOIN_TCP if protocol == TCP else lib.JOIN_UDP)
        assert check(one.train(payload[:3000], 1000), kinds) == ([3] if joins else [1, 1, 1])


@pytest.mark.parametrize("version", [4, 6])
def test_a_push_ends_a_super_packet(version: int) -> None:
    plain, push = flow(version, TCP), flow(version, TCP, flags=ACK | PSH)
    order = [push, plain, plain, push, plain, plain]
    sent = [replace(one, sequence=1 + 100 * n).packet(bytes(100)) for n, one in enumerate(order)]
    assert check(sent) == [1, 3, 2]


DIFFERENT: dict[str, dict[str, Any]] = {
    "TOS": {"tos": 4},
    "ECN": {"tos": 3},
    "TTL": {"ttl": 63},
    "source": {"source": b"\x0a\0\0\3" + bytes(12)},
    "destination": {"destination": b"\x0a\0\0\3" + bytes(12)},
    "end of the destination": {"destination": bytes(15) + b"\2"},
    "source port": {"ports": (1001, 2000)},
    "destination port": {"ports": (1000, 2001)},
    "protocol": {"protocol": -1},
}
DIFFERENT_4 = {
    "id": {"id": 9, "fragment": 0},
    "may be fragmented": {"fragment": 0},
    "more fragments": {"fragment": MF},
    "fragment": {"fragment": 5},
    "reserved bit": {"fragment": RESERVED | DF},
    "options": {"options": b"\1\1\1\1"},
}
DIFFERENT_6 = {
    "flow label": {"label": 1},
    "extension": {"extensions": ((60, bytes([0, 0, 1, 4, 0, 0, 0, 0])),)},
}
DIFFERENT_TCP = {
    "acknowledgement": {"acknowledgement": 2},
    "window": {"window": 501},
    "urgent": {"urgent": 1},
    "sequence before": {"sequence": 100},
    "sequence behind": {"sequence": 102},
    "reserved bits": {"reserved": 1},
    "no ACK": {"flags": 0},
    "options": {"tcp_options": b"\1\1\1\1"},
    "timestamp": {"tcp_options": b"\x01\x01\x08\x0a" + bytes(7) + b"\1"},
    **{f"flag {bit}": {"flags": ACK | bit} for bit in (FIN, SYN, RST, URG, ECE, 0x80)},
}

ALWAYS_ALONE = ("more fragments", "fragment", "reserved bit", "extension", "no ACK")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_neighbours_that_differ_are_not_joined(version: int, protocol: int) -> None:
    """Sums are right in each of them, so it is the field alone that keeps them apart."""
    cases = DIFFERENT | (DIFFERENT_4 if version == 4 else DIFFERENT_6)
    cases |= DIFFERENT_TCP if protocol == TCP else {}
    for name, changes in cases.items():
        changes = dict(changes)
        for key in ("source", "destination"):
            if key in changes:
                changes[key] = changes[key][: 4 if version == 4 else 16]
        if "protocol" in changes:
            changes["protocol"] = UDP if protocol == TCP else TCP
        before = flow(version, protocol, id=7, fragment=changes.get("fragment", DF) if name == "id" else DF)
        if name == "timestamp":
            before = replace(before, tcp_options=b"\x01\x01\x08\x0a" + bytes(8))
        after = replace(before, id=8, sequence=101)
        assert check([before.packet(bytes(100)), after.packet(bytes(100))]) == [2], name
        odd = replace(after, **changes)
        assert check([before.packet(bytes(100)), odd.packet(bytes(100))]) == [1, 1], name
        if name not in ("sequence before", "sequence behind", "id"):
            twice = replace(odd, sequence=odd.sequence - 100, id=odd.id - 1)
            alone = name in ALWAYS_ALONE or "flag" in name or "options" in changes
            both = [twice.packet(bytes(100)), odd.packet(bytes(100))]
            assert check(both) == ([1, 1] if alone else [2]), name


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_wrong_sum_is_never_hidden(version: int, protocol: int) -> None:
    one = flow(version, protocol)
    train = one.train(Random(2).randbytes(400), 100)
    assert check(train) == [4]
    for at in range(4):
        for place in [one.header - 1 - at, len(train[at]) - 1, *([10, 11] if version == 4 else [])]:
            wrong = list(train)
            wrong[at] = train[at][:place] + bytes([train[at][place] ^ 1]) + train[at][place + 1 :]
            assert join(wrong[at:]).packets == 1
            assert sum(check(wrong)[:2]) <= 4
            assert 1 in check(wrong)
    if protocol == UDP:
        # No sum at all, also where the bytes happen to add up: a cut would put one in.
        without = one.packet(bytes(100), checksum=0)
        word = one.packet(bytes(100))[one.header - 2 : one.header]
        assert check([without] * 3) == [1, 1, 1]
        assert check([one.packet(word + bytes(98), checksum=0)] * 3) == [1, 1, 1]
        assert check([one.packet(word + bytes(98))] * 3) == [3]


def test_growing_payloads_are_not_joined() -> None:
    one = flow(4, UDP)
    assert check([one.packet(bytes(n)) for n in (5, 6, 7, 7, 6, 6, 0, 0, 1, 1)]) == [1, 1, 3, 1, 1, 1, 2]
