"""Sockets in a host of the lab, held by the test itself: what leaves and what arrives, byte for byte.

A socket belongs to the network namespace that it was made in; a thread enters the host's, makes it and ends.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from plait.lab.namespaces import Host
from tests.support.waiting import PATIENCE

ETH_P_ALL = 3
CLONE_NEWNET = 0x40000000
SOL_PACKET, PACKET_OUTGOING, PACKET_VNET_HDR = 263, 4, 15
# struct virtio_net_hdr of Linux: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
VNET_HEADER, GSO_UDP_L4, ECN = struct.Struct("=BBHHHH"), 5, 0x80
SO_RCVBUFFORCE = 33
Made = TypeVar("Made")


def inside(host: Host, make: Callable[[], Made]) -> Made:
    """make() done in the network namespace of host."""
    done: list[Made] = []
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            fd = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(fd)
            done.append(make())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def udp_socket(host: Host, address: str = "", port: int = 0) -> socket.socket:
    """A UDP socket of the host, bound to the address (its family decides), told of each datagram's TOS."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = inside(host, lambda: socket.socket(family, socket.SOCK_DGRAM))
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
    made.bind((address, port))
    made.settimeout(PATIENCE)
    return made


@dataclass(frozen=True)
class Packet:
    """An IP packet as it was seen."""

    data: bytes
    is_outgoing: bool

    @property
    def version(self) -> int:
        return self.data[0] >> 4

    @property
    def tos(self) -> int:
        return (self.data[0] << 4 & 0xF0 | self.data[1] >> 4) if self.version == 6 else self.data[1]

    @property
    def protocol(self) -> int:
        return self.data[6] if self.version == 6 else self.data[9]

    @property
    def source(self) -> str:
        return str(ipaddress.ip_address(self.data[8:24] if self.version == 6 else self.data[12:16]))

    @property
    def payload(self) -> bytes:
        """What follows the IP header; for UDP what follows its header, too."""
        body = self.data[40:] if self.version == 6 else self.data[20:]
        return body[8:] if self.protocol == socket.IPPROTO_UDP else body

    @property
    def source_port(self) -> int:
        body = self.data[40:] if self.version == 6 else self.data[20:]
        return int.from_bytes(body[:2], "big")


def segments(frame: bytes, network: int, size: int) -> Iterator[bytes]:
    """The datagrams that a super-packet stands for. network: where its IP header begins; size: of a payload.

    Checksums stay as they are: those of the whole.
    """
    transport = network + (40 if frame[network] >> 4 == 6 else 20)
    header, payload = bytearray(frame[:transport + 8]), frame[transport + 8:]
    for start in range(0, len(payload), size):
        part = payload[start:start + size]
        if frame[network] >> 4 == 6:
            header[network + 4:network + 6] = (8 + len(part)).to_bytes(2, "big")
        else:
            header[network + 2:network + 4] = (28 + len(part)).to_bytes(2, "big")
        header[transport + 4:transport + 6] = (8 + len(part)).to_bytes(2, "big")
        yield bytes(header) + part


class Wire:
    """All IP packets on an interface of a host, both ways. A context manager.

    A train leaves as one UDP super-packet and on a veth stays one to the other end; here it is its datagrams,
    as it would be on a cable.
    """

    def __init__(self, host: Host, interface: str) -> None:
        has_ethernet = Path(host.root / f"sys/class/net/{interface}/type").read_text().strip() == "1"
        self.skip = 14 if has_ethernet else 0
        self.socket = inside(
            host, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
        self.socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        inside(host, lambda: self.socket.bind((interface, ETH_P_ALL)))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self.waiting: deque[tuple[bytes, bool]] = deque()
        self.linktype = 1 if has_ethernet else 101
        self.frames: list[tuple[float, bytes]] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def next(self, wanted: Callable[[Packet], bool], timeout: float = PATIENCE) -> Packet:
        """The next packet that is wanted; others are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            if not self.waiting:
                self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    self._receive()
                except TimeoutError:
                    raise AssertionError(f"no such packet within {timeout} s") from None
            frame, is_outgoing = self.waiting.popleft()
            self.frames.append((time.time(), frame))
            if self.skip and frame[12:14] not in (b"\x08\0", b"\x86\xdd"):
                continue
            packet = Packet(frame[self.skip:], is_outgoing)
            if wanted(packet):
                return packet

    def _receive(self) -> None:
        received, address = self.socket.recvfrom(1 << 17)
        _, kind, _, size, _, _ = VNET_HEADER.unpack_from(received)
        frame = received[VNET_HEADER.size:]
        is_train = kind & ~ECN == GSO_UDP_L4
        for one in segments(frame, self.skip, size) if is_train else [frame]:
            self.waiting.append((one, address[2] == PACKET_OUTGOING))

    def drain(self) -> list[Packet]:
        """What is there now."""
        found: list[Packet] = []
        while True:
            try:
                found.append(self.next(lambda packet: True, 0))
            except AssertionError:
                return found

    def save(self, path: Path) -> None:
        """Everything seen so far as a capture file (pcap)."""
        content = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 17, self.linktype)
        for when, frame in self.frames:
            content += struct.pack("<IIII", int(when), int(when % 1 * 1e6), len(frame), len(frame)) + frame
        path.write_bytes(content)
