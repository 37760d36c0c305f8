"""Packet sockets of a capture (packet(7)): one on the TUN, one for the engine's UDP port on other devices.

The kernel copies packets into these, and the engine has no part in it. A socket that is not read in time
drops packets, and counts them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine import constants
from plait.failure import Failure

ETH_P_ALL: Final = 3  # linux/if_ether.h
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 33, 35  # asm-generic/socket.h
PACKET_OTHERHOST, PACKET_OUTGOING = 3, 4
SKF_AD_PKTTYPE: Final = 0xFFFFF004  # linux/filter.h: where a filter finds which of these a packet is
BYTES: Final = 1 << 17  # more than a super-packet has
BUFFER_BYTES: Final = 64 << 20
UDP_HEADER: Final = 8
# Types of messages, as they begin, and what follows from them.
INITIATION, RESPONSE, COOKIE, DATA = (bytes([kind, 0, 0, 0]) for kind in (1, 2, 3, 4))
HANDSHAKES: Final = {
    INITIATION: constants.INITIATION_BYTES,
    RESPONSE: constants.RESPONSE_BYTES,
    COOKIE: constants.COOKIE_BYTES,
}
DATA_LEAST: Final = constants.DATA_MINIMUM_BYTES
AT_ONCE: Final = 512  # packets of one socket, before the others are looked at
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Packet:
    """A packet as the kernel has it."""

    time: int
    """ns since 1970, the kernel's."""
    is_out: bool
    """It leaves this host, or goes into the tunnel."""
    data: bytes
    """From its IP header on."""
    device: str
    """The device that it was seen on."""
    message: bytes = b""
    """Of an outer packet: what is in its UDP datagram."""


class Source:
    """A packet socket on `device`, with None on all of them."""

    def __init__(self, device: str | None, port: int | None, room: int = BUFFER_BYTES) -> None:
        """port: UDP alone, to that port or, going out, from it. room: bytes that may wait.

        Failure when the kernel refuses.
        """
        self.dropped = 0  # packets that the kernel dropped for want of room, up to the latest look
        self._buffer = bytearray(BYTES)
        what = f"{device or 'outer packets'} cannot be captured"
        try:
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        except PermissionError as error:
            step = "Run this as root, or give it CAP_NET_RAW."
            raise Failure(what, "packet sockets need a privilege", step) from error
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            with contextlib.suppress(PermissionError):  # without CAP_NET_ADMIN it is net.core.rmem_max
                self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, room)
            if port is not None:
                self.follow(port)
            self._bind(0 if device is None else socket.if_nametoindex(device))  # from here on packets come
        except OSError as error:
            self.socket.close()
            step = "Run this in the network namespace where the interface is: ip link show"
            raise Failure(what, error.strerror or str(error), step) from error

    def _bind(self, number: int) -> None:
        """To the device of that number; 0: to all of them, for which Python has no word before 3.12."""
        place = struct.pack("=HHiHBB8x", socket.AF_PACKET, socket.htons(ETH_P_ALL), number, 0, 0, 0)
        if _libc.bind(self.socket.fileno(), place, len(place)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def follow(self, port: int) -> None:
        """Take UDP of that port alone from now on."""
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in _udp(port)))
        program = struct.pack("@HP", len(_udp(port)), ctypes.addressof(code))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def receive(self) -> Iterator[Packet]:
        """What waits, up to AT_ONCE packets. OSError (ENETDOWN) when the device is down or gone."""
        for _ in range(AT_ONCE):
            try:
                size, told, _, place = self.socket.recvmsg_into([self._buffer], 64)
            except BlockingIOError:
                return
            version = self._buffer[0] >> 4 if size else 0
            if version not in (4, 6) or place[2] == PACKET_OTHERHOST:
                continue
            seconds, nanoseconds = struct.unpack("qq", told[0][2])
            time = seconds * 10**9 + nanoseconds
            yield Packet(time, place[2] == PACKET_OUTGOING, bytes(self._buffer[:size]), place[0])

    def look(self) -> int:
        """How many packets the kernel has dropped since the socket was made."""
        told = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # and sets them to 0
        self.dropped += struct.unpack("II", told)[1]
        return self.dropped

    def close(self) -> None:
        self.socket.close()


def datagrams(packet: Packet) -> Iterator[Packet]:
    """The UDP datagrams of an outer packet, each with its message: one, or those of a train.

    The kernel shows a train (UDP_SEGMENT, UDP_GRO) as one datagram of up to 64 KiB, and only newer kernels
    tell a packet socket of how many bytes its parts are. The messages do.
    """
    data = packet.data
    header = 40 if data[0] >> 4 == 6 else (data[0] & 15) * 4
    start = header + UDP_HEADER
    message = data[start:]
    size = part_bytes(message)
    if size >= len(message):
        packet.message = message
        yield packet
        return
    for at in range(0, len(message), size):
        part = message[at : at + size]
        head = bytearray(data[:start])
        struct.pack_into("!H", head, header + 4, UDP_HEADER + len(part))
        if header == 40:
            struct.pack_into("!H", head, 4, UDP_HEADER + len(part))
        else:
            struct.pack_into("!H", head, 2, start + len(part))
            struct.pack_into("!H", head, 10, 0)
            struct.pack_into("!H", head, 10, _checksum(head[:header]))
        yield Packet(packet.time, packet.is_out, bytes(head) + part, packet.device, part)


def part_bytes(message: bytes) -> int:
    """Bytes of each message of a train but the last, which may be shorter; of a single message all of it.

    Handshake messages have their size; the others begin with their type, and no counter comes so far that its
    last two bytes are not 0: that one message has these six bytes by chance in it is one in 2**48 a byte.
    """
    fixed = HANDSHAKES.get(message[:4])
    if fixed is not None and len(message) % fixed == 0:
        return fixed
    at = message.find(DATA, DATA_LEAST) if message.startswith(DATA) else -1
    while at >= 0:
        if all(message[each : each + 4] == DATA and message[each + 14 : each + 16] == b"\0\0"
               for each in range(at, len(message), at)):  # fmt: skip
            return at
        at = message.find(DATA, at + 1)
    return len(message)


def addresses(packet: Packet) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    """Our end and the other one of an outer packet: address and port of each."""
    data = packet.data
    if data[0] >> 4 == 6:
        places, at = (data[8:24], data[24:40]), 40
    else:
        places, at = (data[12:16], data[16:20]), (data[0] & 15) * 4
    ports = struct.unpack_from("!HH", data, at)
    source, target = zip(places, ports, strict=True)
    return (source, target) if packet.is_out else (target, source)


def _checksum(header: bytearray) -> int:
    """Of an IPv4 header (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _udp(port: int) -> list[tuple[int, int, int, int]]:
    """A program of classic BPF over IP packets: UDP, what leaves from that port and what comes to it. Of
    fragments only the first has ports. Jumps count instructions behind the next one."""
    return [
        (0x30, 0, 0, 0),  # version
        (0x74, 0, 0, 4),
        (0x15, 7, 0, 6),
        (0x15, 0, 16, 4),
        (0x30, 0, 0, 9),  # IPv4: protocol, fragment's offset, X: bytes of the header
        (0x15, 0, 14, socket.IPPROTO_UDP),
        (0x28, 0, 0, 6),
        (0x45, 12, 0, 0x1FFF),
        (0xB1, 0, 0, 0),
        (0x05, 0, 0, 3),
        (0x30, 0, 0, 6),  # IPv6: next header
        (0x15, 0, 8, socket.IPPROTO_UDP),
        (0x01, 0, 0, 40),
        (0x20, 0, 0, SKF_AD_PKTTYPE),
        (0x15, 2, 0, PACKET_OUTGOING),
        (0x48, 0, 0, 2),  # coming: to which port
        (0x05, 0, 0, 1),
        (0x48, 0, 0, 0),  # leaving: from which port
        (0x15, 0, 1, port),
        (0x06, 0, 0, 0x40000),  # all of it
        (0x06, 0, 0, 0),
    ]
