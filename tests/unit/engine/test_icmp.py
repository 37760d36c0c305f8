"""ICMP unreachable against the RFCs, read field by field."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import example, given
from hypothesis import strategies as st

from engine._engine import ffi, lib


def answer(packet: bytes) -> bytes:
    out = ffi.new("uint8_t[]", lib.ICMP_MOST_BYTES)
    length = lib.icmp_unreachable(out, packet, len(packet))
    assert length <= lib.ICMP_MOST_BYTES
    return bytes(ffi.buffer(out, length))


def ones_sum(data: bytes) -> int:
    """0xffff for a part whose checksum field is right (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv4(source: str, destination: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    return header + ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed + payload


def ipv6(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return header + ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed + payload


@given(st.binary(max_size=1500))
@example(bytes(576 - 28 - 20 - 1))
@example(bytes(576 - 28 - 20))
@example(bytes(576 - 28 - 20 + 1))
@example(bytes(1480))
def test_ipv4_host_unreachable_rfc792(payload: bytes) -> None:
    packet = ipv4("10.0.0.1", "10.9.9.9", 17, payload)
    error = answer(packet)
    assert error[0] == 0x45 and error[9] == 1
    assert struct.unpack("!H", error[2:4])[0] == len(error) <= 576
    assert error[12:16] == packet[16:20] and error[16:20] == packet[12:16]
    assert ones_sum(error[:20]) == 0xFFFF and ones_sum(error[20:]) == 0xFFFF
    assert error[20:22] == b"\x03\x01"
    assert error[28:] == packet[: 576 - 28]


@given(st.binary(max_size=1500))
@example(bytes(1280 - 48 - 40 - 1))
@example(bytes(1280 - 48 - 40))
@example(bytes(1280 - 48 - 40 + 1))
@example(bytes(1460))
def test_ipv6_address_unreachable_rfc4443(payload: bytes) -> None:
    packet = ipv6("fd00::1", "fd00:9::9", 17, payload)
    error = answer(packet)
    length = struct.unpack("!H", error[4:6])[0]
    assert error[0] == 0x60 and error[6] == 58 and length == len(error) - 40
    assert error[8:24] == packet[24:40] and error[24:40] == packet[8:24]
    assert ones_sum(error[8:40] + struct.pack("!II", length, 58) + error[40:]) == 0xFFFF
    assert error[40:42] == b"\x01\x03"
    assert error[48:] == packet[: 1280 - 48]


def test_what_must_not_be_answered() -> None:
    query, reply = b"\x08" + bytes(7), b"\x00" + bytes(7)
    assert answer(ipv4("10.0.0.1", "10.9.9.9", 1, query))
    assert answer(ipv4("10.0.0.1", "10.9.9.9", 1, reply))
    for kind in (3, 4, 5, 11, 12):
        assert not answer(ipv4("10.0.0.1", "10.9.9.9", 1, bytes([kind]) + bytes(7)))
    assert not answer(ipv4("10.0.0.1", "10.9.9.9", 17, bytes(8), fragment=1))
    assert answer(ipv4("10.0.0.1", "10.9.9.9", 17, bytes(8), fragment=0x2000))  # the first one
    for source, destination in (
        ("10.0.0.1", "224.0.0.1"),
        ("10.0.0.1", "255.255.255.255"),
        ("0.0.0.0", "10.9.9.9"),
        ("127.0.0.1", "10.9.9.9"),
        ("239.1.1.1", "10.9.9.9"),
    ):
        assert not answer(ipv4(source, destination, 17, bytes(8)))
    assert answer(ipv6("fd00::1", "fd00::9", 58, b"\x80" + bytes(7)))
    assert not answer(ipv6("fd00::1", "fd00::9", 58, b"\x01" + bytes(7)))
    assert not answer(ipv6("fd00::1", "fd00::9", 60, bytes([58, 0]) + bytes(6) + b"\x01" + bytes(7)))
    assert not answer(ipv6("fd00::1", "ff02::1", 17, bytes(8)))
    assert not answer(ipv6("ff02::1", "fd00::1", 17, bytes(8)))
    assert not answer(ipv6("::", "fd00::1", 17, bytes(8)))


@given(st.binary(max_size=100), st.sampled_from([0x45, 0x4F, 0x40, 0x60, 0x6F, 0x00]))
def test_anything_is_survived(tail: bytes, first: int) -> None:
    packet = bytes([first]) + tail
    error = answer(packet)
    if error:
        assert len(packet) >= (20 if first >> 4 == 4 else 40)
    assert answer(b"") == b""
