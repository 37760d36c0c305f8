"""A packet capture of WireGuard's messages on an interface, with the kernel's times: what the generator's own
figures are held against. It reads nothing but what stands in clear: types, indices and counters."""

from __future__ import annotations

import ctypes
import math
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

ETH_P_ALL, SOL_SOCKET, SO_RCVBUFFORCE, SO_TIMESTAMPNS, SO_ATTACH_FILTER = 3, 1, 33, 35, 26
PACKET_OUTGOING, INDEX_MASK = 4, (1 << 20) - 1
INITIATION, RESPONSE, DATA = 1, 2, 4
KEEPALIVE = 32


@dataclass(frozen=True)
class Datagram:
    """One, seen once, with the moment (seconds since 1970) at which the kernel had it."""

    at: float
    is_to_gateway: bool
    payload: bytes

    @property
    def kind(self) -> int:
        return self.payload[0]

    def word(self, number: int) -> int:
        """A little-endian word behind the type."""
        return int.from_bytes(self.payload[4 * number : 4 * number + 4], "little")


class Capture:
    """All IPv4 UDP datagrams from and to a port on an interface. inside makes a socket in its namespace.

    Everything is kept by the kernel, in a large buffer, and read at the end: capturing costs the run nothing.
    """

    def __init__(
        self,
        interface: str,
        port: int,
        inside: Callable[[Callable[[], socket.socket]], socket.socket] = lambda make: make(),
    ) -> None:
        self.port = port

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            made.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
            made.setsockopt(SOL_SOCKET, SO_TIMESTAMPNS, 1)
            program, kept = _udp_port(port)
            made.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, program)
            made.bind((interface, ETH_P_ALL))
            del kept
            return made

        self.socket = inside(make)
        # On lo each datagram passes twice: the way out says when it left, the way in when it came.
        self.is_loopback = interface == "lo"

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read(self) -> list[Datagram]:
        """What was captured, in order."""
        found = []
        while True:
            try:
                data, ancillary, _, address = self.socket.recvmsg(2048, 256, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return sorted(found, key=lambda each: each.at)
            seconds, nanoseconds = next(
                struct.unpack("qq", value) for level, kind, value in ancillary if kind == SO_TIMESTAMPNS
            )
            header = (data[0] & 15) * 4
            is_to_gateway = int.from_bytes(data[header + 2 : header + 4], "big") == self.port
            is_outgoing = address[2] == PACKET_OUTGOING
            if self.is_loopback and is_outgoing != is_to_gateway:
                continue
            found.append(Datagram(seconds + nanoseconds / 1e9, is_to_gateway, data[header + 8 :]))


def _udp_port(port: int) -> tuple[bytes, object]:
    """A classic BPF program that takes UDP over IPv4 from or to that port, as SO_ATTACH_FILTER wants it."""
    code = [
        (0x30, 0, 0, 9),  # protocol
        (0x15, 0, 6, 17),
        (0xB1, 0, 0, 0),  # X: bytes of the IP header
        (0x48, 0, 0, 0),  # source port
        (0x15, 2, 0, port),
        (0x48, 0, 0, 2),
        (0x15, 0, 1, port),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    ]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
    return struct.pack("HL", len(code), ctypes.addressof(packed)), packed


def quantile(values: Iterable[float], share: float) -> float:
    """That a share of the values does not exceed, as the generator counts it."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


@dataclass(frozen=True)
class Echo:
    """An echo as the wire shows it; answered: None when nothing came."""

    peer: int
    left: float
    answered: float | None


def echoes(datagrams: Iterable[Datagram], bytes_: int) -> list[Echo]:
    """The echoes of so many bytes on the wire, each with its answer: a gateway that loses nothing answers
    those of a session in order."""
    peer_of: dict[int, int] = {}
    left: dict[int, list[float]] = defaultdict(list)
    came: dict[int, list[float]] = defaultdict(list)
    order = []
    for each in datagrams:
        if each.kind == RESPONSE and not each.is_to_gateway:
            peer_of[each.word(1)] = each.word(2)
        elif each.kind == DATA and len(each.payload) == bytes_:
            if each.is_to_gateway:
                session = peer_of[each.word(1)]
                order.append((session, len(left[session])))
                left[session].append(each.at)
            else:
                came[each.word(1)].append(each.at)
    return [
        Echo(
            session & INDEX_MASK,
            left[session][number],
            came[session][number] if number < len(came[session]) else None,
        )
        for session, number in order
    ]


def recoveries(datagrams: Iterable[Datagram], begin: float) -> dict[int, float]:
    """Of each peer that began a handshake after `begin` while it waited: seconds from its first echo without
    an answer to the next answer, which came through a new session."""
    peer_of: dict[int, int] = {}
    waits: dict[int, float] = {}
    renewed: set[int] = set()
    found = {}
    for each in datagrams:
        if each.kind == INITIATION and each.is_to_gateway:
            peer = each.word(1) & INDEX_MASK
            if each.at > begin and peer in waits:
                renewed.add(peer)
        elif each.kind == RESPONSE and not each.is_to_gateway:
            peer_of[each.word(1)] = each.word(2) & INDEX_MASK
        elif each.kind == DATA and len(each.payload) > KEEPALIVE:
            if each.is_to_gateway:
                waits.setdefault(peer_of[each.word(1)], each.at)
                continue
            peer = each.word(1) & INDEX_MASK
            since = waits.pop(peer, None)
            if peer in renewed and since is not None:
                renewed.remove(peer)
                found[peer] = each.at - since
    return found
