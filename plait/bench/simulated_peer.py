"""A peer without an engine: its sessions with the gateway that is measured, and packets for it to seal."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from contextlib import suppress

from engine import cookie, noise, tai64n
from plait.bench.implementation import REACHED
from plait.failure import Failure

SINK_PORT = 9000
# Our stamps must be later than those of any engine that has the same keys. TAI is 37 s ahead of UTC: some
# engines count that in, others do not.
AHEAD = 60_000_000_000  # ns
INDEX = 1  # by which the gateway would address the simulated peer


def handshake(private: bytes, public: bytes, out: socket.socket, title: str) -> noise.Session:
    """A session as the initiator with the gateway of this public key, to which `out` is connected.

    title: of the gateway's implementation, for the Failure when it answers nothing.
    """
    identity = noise.Identity(private)
    peer = noise.PeerKeys(identity, public)
    deadline = time.monotonic() + REACHED
    while time.monotonic() < deadline:
        out.setblocking(False)
        with suppress(BlockingIOError):  # answers to earlier tries, keepalives
            while True:
                out.recv(2048)
        out.settimeout(1)
        body, state = noise.create_initiation(identity, peer, INDEX, tai64n.stamp(time.time_ns() + AHEAD))
        with suppress(TimeoutError, noise.HandshakeRefused, struct.error):  # struct.error: no response
            out.send(cookie.add_macs(body, peer.mac1_key, None))
            session = noise.consume_response(identity, state, out.recv(2048), noise.NO_PSK)
            out.settimeout(None)
            return session
    raise Failure(f"cannot measure {title}", "it answered no handshake", "Try it by hand, or leave it out.")


def packet(source: str, target: str, payload: bytes = b"") -> bytes:
    """IPv4 and UDP, not to be fragmented, to the sink, with both checksums."""
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(target).packed
    length = 8 + len(payload)
    header = bytearray(struct.pack("!BxHHHBBxx", 0x45, 20 + length, 0, 0x4000, 64, socket.IPPROTO_UDP))
    header += addresses
    struct.pack_into("!H", header, 10, _checksum(bytes(header)))
    udp = struct.pack("!HHHH", SINK_PORT, SINK_PORT, length, 0) + payload
    pseudo = addresses + struct.pack("!HH", socket.IPPROTO_UDP, length)
    return bytes(header) + udp[:6] + struct.pack("!H", _checksum(pseudo + udp) or 0xFFFF) + payload


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    even = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
