"""Cutting of super-packets against a host that sends each packet by itself (transport.py)."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine._engine import ffi, lib
from tests.support.transport import ACK, CWR, FIN, PSH, TCP, UDP, Segment, ones_sum

MOST = 65535
SMALL_MOST = 3000  # for most examples; the limit itself has its own
CANARY = b"\xa5" * 32
EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing (with no segments left), destination options


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@st.composite
def segments(draw: st.DrawFn, version: int | None = None, protocol: int | None = None) -> Segment:
    version = version or draw(st.sampled_from([4, 6]))
    address = octets(4 if version == 4 else 16)
    extensions = []
    if version == 6:
        for kind in draw(st.lists(st.sampled_from(EXTENSIONS), max_size=3)):
            body = bytearray(draw(st.sampled_from([8, 16, 24])))
            body[4:8] = draw(octets(4))
            if kind == 43:
                body[3] = 0
            extensions.append((kind, bytes(body)))
    timestamps = b"\x01\x01\x08\x0a" + draw(octets(8))
    sack = b"\x01\x01\x05\x0a" + draw(octets(8))
    return Segment(
        version=version,
        protocol=protocol or draw(st.sampled_from([TCP, UDP])),
        source=draw(address),
        destination=draw(address),
        tos=draw(st.integers(0, 255)),
        ttl=draw(st.integers(1, 255)),
        label=draw(st.integers(0, 2**20 - 1)),
        id=draw(st.one_of(st.integers(0, 65535), st.integers(65500, 65535))),
        fragment=draw(st.sampled_from([0, 0x4000])),
        options=draw(st.binary(max_size=40)) if version == 4 else b"",
        extensions=tuple(extensions),
        ports=draw(st.tuples(st.integers(0, 65535), st.integers(0, 65535))),
        sequence=draw(st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 4000, 2**32 - 1))),
        acknowledgement=draw(st.integers(0, 2**32 - 1)),
        flags=draw(st.integers(0, 255)),
        reserved=draw(st.integers(0, 15)),
        window=draw(st.integers(0, 65535)),
        urgent=draw(st.integers(0, 65535)),
        tcp_options=draw(st.sampled_from([b"", timestamps, sack, timestamps + sack, bytes(40)])),
    )


def gso_type(segment: Segment) -> int:
    if segment.protocol == UDP:
        return int(lib.VNET_GSO_UDP_L4)
    return int(lib.VNET_GSO_TCPV4 if segment.version == 4 else lib.VNET_GSO_TCPV6)


def vnet(segment: Segment, size: int) -> dict[str, int]:
    """What a kernel says of a super-packet."""
    return {
        "flags": lib.VNET_NEEDS_CSUM,
        "gso_type": gso_type(segment),
        "gso_size": size,
        "checksum_start": segment.transport,
        "checksum_offset": 6 if segment.protocol == UDP else 16,
    }


def cut(packet: bytes, header: dict[str, int]) -> list[bytes] | None:
    """The packets, or None when the header is refused. Nothing is written past plan.largest."""
    data = ffi.from_buffer(packet)
    superb = ffi.new("struct super_packet *", {"data": data, "length": len(packet), **header})
    plan = ffi.new("struct segmentation *")
    if lib.segmentation_plan(superb, plan):
        return None
    out = bytearray(plan.largest) + bytearray(CANARY)
    room = ffi.from_buffer(out)
    packets = []
    for which in range(plan.packets):
        length = lib.segmentation_cut(superb, plan, which, room)
        assert length <= plan.largest
        assert out[plan.largest :] == CANARY
        packets.append(bytes(out[:length]))
    assert max(map(len, packets)) == plan.largest
    return packets


RANDOMS = st.integers(0, 2**32 - 1).map(random.Random)


@settings(deadline=None, max_examples=400)
@given(segments(), st.integers(1, SMALL_MOST), st.integers(1, 1500), st.booleans(), RANDOMS)
@example(Segment(flags=ACK | CWR | PSH | FIN), 3000, 1000, False, random.Random(1))
@example(Segment(flags=ACK | PSH, sequence=2**32 - 1000), 3000, 1000, False, random.Random(1))
@example(Segment(id=65535, fragment=0), 3000, 1000, False, random.Random(1))
def test_a_super_packet_is_cut_into_what_would_have_been_sent(
    segment: Segment, count: int, size: int, ecn: bool, random: Any
) -> None:
    payload = random.randbytes(count)
    header = vnet(segment, size)
    if ecn and segment.protocol == TCP:
        header["gso_type"] |= lib.VNET_GSO_ECN
    assert cut(segment.partial(payload), header) == segment.train(payload, size)
    # Nobody relies on the sums in the super-packet: they may be anything.
    assert cut(segment.packet(payload, checksum=7, ip_checksum=9), header) == segment.train(payload, size)


@settings(deadline=None, max_examples=20)
@given(segments(), st.integers(500, 65535))
def test_the_largest_super_packet(segment: Segment, size: int) -> None:
    payload = random.Random(size).randbytes(MOST - segment.header)
    assert cut(segment.partial(payload), vnet(segment, size)) == segment.train(payload, size)


@settings(deadline=None)
@given(segments(), st.binary(max_size=200))
def test_a_lone_packet_gets_its_checksum_and_nothing_else(segment: Segment, payload: bytes) -> None:
    lone = vnet(segment, 0) | {"gso_type": lib.VNET_GSO_NONE}
    assert cut(segment.partial(payload), lone) == [segment.packet(payload)]
    assert cut(segment.partial(payload), lone | {"flags": 0}) == [segment.partial(payload)]
    assert cut(segment.packet(payload), lone | {"flags": lib.VNET_DATA_VALID}) == [segment.packet(payload)]


@given(segments(protocol=UDP), st.binary(max_size=61))
def test_a_udp_checksum_of_zero_is_sent_as_ffff(segment: Segment, rest: bytes) -> None:
    """The first word of the payload is made the very checksum that it would have without."""
    plain = segment.packet(b"\0\0" + rest)
    word = plain[segment.transport + 6 : segment.transport + 8]
    if word == b"\xff\xff":
        word = b"\0\0"
    packet = segment.packet(word + rest)
    assert packet[segment.transport + 6 : segment.transport + 8] == b"\xff\xff"
    lone = vnet(segment, 0) | {"gso_type": lib.VNET_GSO_NONE}
    assert cut(segment.partial(word + rest), lone) == [packet]
    assert cut(segment.partial(word + rest), vnet(segment, 1000)) == [packet]


def tcp(version: int = 4, **changes: Any) -> Segment:
    if version == 6:
        changes |= {"source": bytes(16), "destination": bytes(15) + b"\1"}
    return Segment(version=version, **changes)


LIES: dict[str, tuple[bytes, dict[str, int]]] = {
    "IPv4 is said to be TCPV6": (tcp().partial(bytes(90)), vnet(tcp(6), 40) | {"checksum_start": 20}),
    "IPv6 is said to be TCPV4": (tcp(6).partial(bytes(90)), vnet(tcp(), 40) | {"checksum_start": 40}),
    "version 5": (b"\x55" + tcp().partial(bytes(90))[1:], vnet(tcp(), 40)),
    "segments of 0 bytes": (tcp().partial(bytes(90)), vnet(tcp(), 0)),
    "no checksum wanted": (tcp().partial(bytes(90)), vnet(tcp(), 40) | {"flags": 0}),
    "IP header of 16 bytes": (b"\x44" + tcp().partial(bytes(90))[1:], vnet(tcp(), 40)),
    "IP header longer than all": (b"\x4f" + tcp().partial(bytes(5))[1:], vnet(tcp(), 2)),
    "half an IPv6 header": (tcp(6).partial(b"")[:39], vnet(tcp(6), 2)),
    "transport inside the IP header": (
        tcp(protocol=UDP).partial(bytes(90)),
        vnet(tcp(protocol=UDP), 40) | {"checksum_start": 19},
    ),
    "transport inside the IPv6 header": (
        tcp(6, protocol=UDP).partial(bytes(90)),
        vnet(tcp(6, protocol=UDP), 40) | {"checksum_start": 39},
    ),
    "transport behind the end": (tcp().partial(bytes(90)), vnet(tcp(), 40) | {"checksum_start": 60000}),
    "transport header cut short": (tcp().partial(bytes(90)), vnet(tcp(), 40) | {"checksum_start": 111}),
    "UDP header cut short": (
        tcp(protocol=UDP).partial(bytes(9)),
        vnet(tcp(protocol=UDP), 4) | {"checksum_start": 30},
    ),
    "TCP header of 16 bytes": (
        bytes(tcp().partial(bytes(90))[:32]) + b"\x40" + tcp().partial(bytes(90))[33:],
        vnet(tcp(), 40),
    ),
    "TCP header longer than all": (
        bytes(tcp().partial(bytes(9))[:32]) + b"\xf0" + tcp().partial(bytes(9))[33:],
        vnet(tcp(), 4),
    ),
    "no payload": (tcp().partial(b""), vnet(tcp(), 40)),
    "an unknown type": (tcp().partial(bytes(90)), vnet(tcp(), 40) | {"gso_type": 2}),
    "UFO": (tcp(protocol=UDP).partial(bytes(90)), vnet(tcp(protocol=UDP), 40) | {"gso_type": 3}),
    "nothing at all": (b"", vnet(tcp(), 40)),
    "alone, sum behind the end": (
        tcp().partial(bytes(9)),
        vnet(tcp(), 0) | {"gso_type": 0, "checksum_offset": 28},
    ),
    "alone, sum far behind the end": (
        tcp().partial(bytes(9)),
        vnet(tcp(), 0) | {"gso_type": 0, "checksum_start": 65535, "checksum_offset": 65535},
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(lie: str) -> None:
    packet, header = LIES[lie]
    assert cut(packet, header) is None


def test_what_borders_on_a_lie_is_cut() -> None:
    one = tcp()
    assert cut(one.partial(b"x"), vnet(one, 65535)) == [one.packet(b"x")]
    udp = replace(one, protocol=UDP)
    assert cut(udp.partial(b"x"), vnet(udp, 1)) == [udp.packet(b"x")]
    last = vnet(one, 0) | {"gso_type": 0, "checksum_offset": 27}
    packet = one.partial(bytes(9))
    [out] = cut(packet, last) or []
    assert out == packet[:-2] + (~ones_sum(packet[20:]) & 0xFFFF).to_bytes(2, "big")


@settings(deadline=None, max_examples=500)
@given(
    st.one_of(st.binary(max_size=200), st.builds(Segment.partial, segments(), st.binary(max_size=90))),
    st.integers(0, 255),
    st.sampled_from([0, 1, 3, 4, 5, 128, 129, 132, 133, 6, 255]),
    st.integers(0, 100),
    st.integers(0, 120),
    st.integers(0, 120),
)
def test_any_header_over_any_bytes_is_refused_or_harmless(
    packet: bytes, flags: int, kind: int, size: int, start: int, offset: int
) -> None:
    header = {
        "flags": flags,
        "gso_type": kind,
        "gso_size": size,
        "checksum_start": start,
        "checksum_offset": offset,
    }
    packets = cut(packet, header)  # which looks that nothing is written past the end
    if packets and len(packets) > 1:
        head = len(packets[0]) - size
        assert b"".join(one[head:] for one in packets) == packet[head:]
