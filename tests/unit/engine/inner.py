"""Inner IP packets, made and read from their RFCs alone (791, 8200)."""

from __future__ import annotations

import struct


def checksum(header: bytes) -> int:
    """Internet checksum of RFC 1071 over an even number of bytes."""
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    source: bytes,
    destination: bytes,
    payload: bytes = b"",
    *,
    tos: int = 0,
    options: bytes = b"",
    length: int = -1,
) -> bytes:
    """An IPv4 packet; `length` overrides the total length in the header."""
    total = 20 + len(options) + len(payload) if length < 0 else length
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, total, 7, 0x4000, 64, 17, 0, source, destination
    )
    head += options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(source: bytes, destination: bytes, payload: bytes = b"", *, tos: int = 0, length: int = -1) -> bytes:
    """An IPv6 packet; `length` overrides the payload length in the header."""
    total = len(payload) if length < 0 else length
    return (
        struct.pack(">IHBB16s16s", 6 << 28 | tos << 20 | 0x12345, total, 17, 64, source, destination)
        + payload
    )


def parse(data: bytes) -> tuple[int, bytes, bytes, int] | None:
    """(version, source, destination, length by the header), or None for what is no whole packet."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        total = int.from_bytes(data[2:4], "big")
        header = (data[0] & 15) * 4
        if header < 20 or not header <= total <= len(data):
            return None
        return 4, data[12:16], data[16:20], total
    if len(data) >= 40 and data[0] >> 4 == 6:
        total = 40 + int.from_bytes(data[4:6], "big")
        return (6, data[8:24], data[24:40], total) if total <= len(data) else None
    return None


def ecn(data: bytes) -> int:
    return (int.from_bytes(data[:2], "big") >> 4 if data[0] >> 4 == 6 else data[1]) & 3


NOT_ECT, ECT_1, ECT_0, CE = range(4)


def decapsulated(inner: int, outer: int) -> int | None:
    """RFC 6040, section 4.2, in words rather than as its table: the inner bits that go on."""
    if outer == CE:
        return None if inner == NOT_ECT else CE
    if inner == ECT_0 and outer == ECT_1:
        return ECT_1
    return inner


def with_ecn(data: bytes, bits: int) -> bytes:
    """The same packet with other ECN bits, its checksum worked out anew."""
    if data[0] >> 4 == 6:
        return data[:1] + bytes([data[1] & 0xCF | bits << 4]) + data[2:]
    header = (data[0] & 15) * 4
    head = data[:1] + bytes([data[1] & 0xFC | bits]) + data[2:10] + b"\0\0" + data[12:header]
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + data[header:]
