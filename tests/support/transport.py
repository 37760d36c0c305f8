"""TCP and UDP packets written out from their RFCs alone (791, 8200, 9293, 768): what a host would send.

A train of packets is modelled by sending each one: nothing here knows how to cut or join.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << n for n in range(8))
DF, MF, RESERVED = 0x4000, 0x2000, 0x8000


def ones_sum(data: bytes) -> int:
    """The sum of RFC 1071, folded; 0xffff over a part whose checksum field is right."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def padded(options: bytes) -> bytes:
    return options + bytes(-len(options) % 4)


@dataclass(frozen=True)
class Segment:
    """The headers of one packet to be sent. extensions: IPv6 ones, (type, bytes of a multiple of 8)."""

    version: int = 4
    protocol: int = TCP
    source: bytes = bytes([10, 0, 0, 1])
    destination: bytes = bytes([10, 0, 0, 2])
    tos: int = 0
    ttl: int = 64
    label: int = 0
    id: int = 0
    fragment: int = DF
    options: bytes = b""
    extensions: tuple[tuple[int, bytes], ...] = ()
    ports: tuple[int, int] = (1000, 2000)
    sequence: int = 1
    acknowledgement: int = 1
    flags: int = ACK
    reserved: int = 0
    window: int = 500
    urgent: int = 0
    tcp_options: bytes = b""

    @property
    def transport(self) -> int:
        """Where the TCP or UDP header begins."""
        if self.version == 4:
            return 20 + len(padded(self.options))
        return 40 + sum(len(body) for _, body in self.extensions)

    @property
    def header(self) -> int:
        return self.transport + (8 if self.protocol == UDP else 20 + len(padded(self.tcp_options)))

    def pseudo(self, length: int) -> bytes:
        """RFC 9293 3.1 and RFC 8200 8.1."""
        if self.version == 4:
            return self.source + self.destination + struct.pack("!BBH", 0, self.protocol, length)
        return self.source + self.destination + struct.pack("!IHBB", length, 0, 0, self.protocol)

    def upper(self, payload: bytes, checksum: int | None) -> bytes:
        """TCP or UDP header and payload. checksum: None for the right one."""
        if self.protocol == UDP:
            head = struct.pack("!HHH", *self.ports, 8 + len(payload))
        else:
            offset = 5 + len(padded(self.tcp_options)) // 4
            head = struct.pack(
                "!HHIIBBH",
                *self.ports,
                self.sequence % 2**32,
                self.acknowledgement,
                offset << 4 | self.reserved,
                self.flags,
                self.window,
            )
        tail = b"" if self.protocol == UDP else struct.pack("!H", self.urgent) + padded(self.tcp_options)
        if checksum is None:
            length = len(head) + 2 + len(tail) + len(payload)
            whole = self.pseudo(length) + head + b"\0\0" + tail + payload
            checksum = ~ones_sum(whole) & 0xFFFF
            if self.protocol == UDP and checksum == 0:
                checksum = 0xFFFF  # RFC 768: an all zero value means that the sender generated none
        return head + struct.pack("!H", checksum) + tail + payload

    def packet(self, payload: bytes, checksum: int | None = None, ip_checksum: int | None = None) -> bytes:
        """The whole packet; checksums given instead of right ones where not None."""
        upper = self.upper(payload, checksum)
        if self.version == 4:
            options = padded(self.options)
            head = struct.pack(
                "!BBHHHBB",
                0x45 + len(options) // 4,
                self.tos,
                20 + len(options) + len(upper),
                self.id % 2**16,
                self.fragment,
                self.ttl,
                self.protocol,
            )
            addresses = self.source + self.destination + options
            if ip_checksum is None:
                ip_checksum = ~ones_sum(head + b"\0\0" + addresses) & 0xFFFF
            return head + struct.pack("!H", ip_checksum) + addresses + upper
        kinds = [kind for kind, _ in self.extensions] + [self.protocol]
        bodies = [
            bytes([kinds[n + 1], len(body) // 8 - 1]) + body[2:]
            for n, (_, body) in enumerate(self.extensions)
        ]
        inside = b"".join(bodies) + upper
        return (
            struct.pack("!IHBB", 6 << 28 | self.tos << 20 | self.label, len(inside), kinds[0], self.ttl)
            + self.source
            + self.destination
            + inside
        )

    def partial(self, payload: bytes) -> bytes:
        """The packet as a kernel leaves it to be finished: the pseudo-header's sum as checksum."""
        length = self.header - self.transport + len(payload)
        return self.packet(payload, checksum=ones_sum(self.pseudo(length)))

    def train(self, payload: bytes, size: int) -> list[bytes]:
        """The packets of at most `size` bytes of payload that a host sends for all of it."""
        parts = [payload[at : at + size] for at in range(0, len(payload), size)]
        sent = []
        for n, part in enumerate(parts):
            flags = self.flags
            if n > 0:
                flags &= ~CWR  # RFC 3168 6.1.2: the first packet after the reduction
            if n < len(parts) - 1:
                flags &= ~(FIN | PSH)
            one = replace(self, id=self.id + n, sequence=self.sequence + n * size, flags=flags)
            sent.append(one.packet(part))
        return sent
