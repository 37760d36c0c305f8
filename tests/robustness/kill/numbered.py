"""Numbered packets both ways through one engine, made and looked at by the test itself.

    field                                        gateway
    strand 1, 2: a key, a UDP socket  <------>   wg0 10.0.0.1, a UDP socket behind it

A strand is an honest peer of lab/soak_peers.py, which opens all that comes from the wire: no nonce twice in
a session, no packet twice, none before an earlier one. The inner socket does the same for the way in.
Packets go in bursts, alone and as trains.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine import noise
from plait.lab.namespaces import Link
from plait.lab.soak_peers import DATA, ECHO_PORT, OWN_PORT, Peer, udp_packet

UDP_SEGMENT = 103  # linux/udp.h
SO_RCVBUFFORCE = 33
NUMBER = struct.Struct("!IQ")  # strand, sequence
HERE = "10.0.0.1"
BURST = 6  # packets of a burst
QUIET_SECONDS = 0.15  # nothing came for so long: nothing is under way


class Strand(Peer):
    """One peer, and what the gateway's side knows of its packets."""

    def __init__(self, number: int, engine_key: bytes, link: Link, port: int) -> None:
        gateway, self.field = link.ends
        self.former: socket.socket | None = None
        given = {"private_key": os.urandom(32).hex(), "inner": f"10.0.0.{1 + number}"}
        settings = {
            "echo": HERE,
            "public_key": engine_key.hex(),
            "address": link.address(self.field),
            "gateway": link.address(gateway),
            "port": port,
        }
        super().__init__(number, given, settings)
        self.inner_address = given["inner"]
        self.sent_in = self.sent_out = 0
        self.arrived: set[int] = set()  # inside, of the numbers sent in
        self.arrived_last = self.arrived_twice = self.arrived_early = 0
        self.began_at = 0.0  # wall clock; the latest session
        self.is_confirmed = False  # something came in it

    def _open(self) -> socket.socket:
        made = self.field.socket()
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        made.bind((self.address, 0))
        made.setblocking(False)
        return made

    def hear(self, now: float) -> None:
        """Also at the former port, whose packets were sent before all that comes to the present one."""
        is_waiting = False
        with contextlib.suppress(OSError):
            is_waiting = bool(self.socket.recv(1, socket.MSG_PEEK))
        present = self.socket
        if self.former is not None:
            self.socket = self.former
            super().hear(now)
            self.socket = present
        if is_waiting:
            super().hear(now)

    def roam(self, selector: selectors.BaseSelector) -> None:
        """Another port from now on; the one before is listened to until the next time."""
        if self.former is not None:
            selector.unregister(self.former)
            self.former.close()
        self.former, self.socket = self.socket, self._open()
        selector.register(self.socket, selectors.EVENT_READ, self)
        self.seal(b"")

    @property
    def section(self) -> str:
        """Its lines of a set operation."""
        return f"public_key={self.identity.public_key.hex()}\nallowed_ip={self.inner_address}/32\n"

    def _begin(self, session: noise.Session, now: float) -> None:
        super()._begin(session, now)
        self.began_at, self.is_confirmed = time.time(), False

    def _open_data(self, data: bytes) -> None:
        super()._open_data(data)
        if self.current is not None and DATA.unpack_from(data)[1] == self.current.local_index:
            self.is_confirmed = True

    def renew(self) -> None:
        """Ask for another session, unless the present one or the last wish is still fresh: what is under way
        in a session would be lost if the next but one began meanwhile."""
        if self.is_confirmed and self.pending is None:
            self.retry_at = 0.0
        self.initiate(time.monotonic())

    def push_in(self, count: int, payload: int, *, is_train: bool) -> None:
        """`count` data messages to the engine, at once."""
        if self.current is None:
            return
        sealed = []
        cipher = ChaCha20Poly1305(self.current.send_key)
        for _ in range(count):
            self.sent_in += 1
            body = NUMBER.pack(self.number, self.sent_in).ljust(payload, b"\0")
            inner = udp_packet(self.inner, ip_address(HERE).packed, body)
            counter = next(self.counter)
            nonce = bytes(4) + counter.to_bytes(8, "little")
            text = cipher.encrypt(nonce, inner + bytes(-len(inner) % 16), None)
            sealed.append(DATA.pack(4, self.current.remote_index, counter) + text)
        if not is_train:
            for message in sealed:
                self._send(message)
            return
        segment = (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(sealed[0])))
        self.socket.sendmsg([b"".join(sealed)], [segment], 0, self.endpoint)

    def push_out(self, inside: socket.socket, count: int, payload: int, *, is_train: bool) -> None:
        """`count` packets from inside to this peer, at once."""
        bodies = []
        for _ in range(count):
            self.sent_out += 1
            bodies.append(NUMBER.pack(self.number, self.sent_out).ljust(payload, b"\0"))
        to = (self.inner_address, OWN_PORT)
        if is_train:
            segment = (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", payload))
            inside.sendmsg([b"".join(bodies)], [segment], 0, to)
        else:
            for body in bodies:
                inside.sendto(body, to)

    def arrive(self, sequence: int) -> None:
        """One of its packets came out inside."""
        self.arrived_twice += sequence in self.arrived
        self.arrived_early += sequence < self.arrived_last
        self.arrived.add(sequence)
        self.arrived_last = sequence

    @property
    def lost(self) -> int:
        """Packets that did not arrive (yet), both ways."""
        return self.sent_in - len(self.arrived) + self.sent_out - len(self.seen)

    def wrong(self) -> list[str]:
        """What must never be."""
        found = {
            "nonces twice on the wire": self.nonces_twice,
            "packets twice outside": self.twice,
            "packets out of order outside": self.early,
            "packets twice inside": self.arrived_twice,
            "packets out of order inside": self.arrived_early,
            "packets that do not open": self.forged,
            "handshakes that the engine asked for": self.asked,
        }
        return [f"strand {self.number}: {count} {what}" for what, count in found.items() if count]


class Traffic:
    """All strands, pumped by the caller's thread."""

    def __init__(self, link: Link, engine_key: bytes, port: int, count: int) -> None:
        self.strands = [Strand(number, engine_key, link, port) for number in range(1, 1 + count)]
        self.gateway = link.ends[0]
        self.selector = selectors.DefaultSelector()
        self.bursts = 0
        for strand in self.strands:
            self.selector.register(strand.socket, selectors.EVENT_READ, strand)

    def begin(self) -> None:
        """Once wg0 is up: the inner socket, and a session for each strand."""
        self.inside = self.gateway.socket()
        self.inside.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self.inside.bind((HERE, ECHO_PORT))
        self.inside.setblocking(False)
        self.selector.register(self.inside, selectors.EVENT_READ, None)
        for strand in self.strands:
            strand.initiate(time.monotonic())
        self.pump(10, lambda: all(strand.current for strand in self.strands), send=False)

    def pump(
        self, seconds: float, until: Callable[[], bool], interval: float = 0.01, *, send: bool = True
    ) -> bool:
        """Send bursts and hear what comes until the condition holds (True) or the time is over (False)."""
        end = time.monotonic() + seconds
        next_at = time.monotonic()
        while not until():
            now = time.monotonic()
            if now >= end:
                return False
            if send and now >= next_at:
                self.burst()
                next_at = now + interval
            self.hear(min(max(next_at - time.monotonic(), 0.0), 0.005))
        return True

    def burst(self) -> None:
        """Some packets each way of each strand; every second burst as a train."""
        self.bursts += 1
        is_train, payload = self.bursts % 2 == 0, 40 + self.bursts * 37 % 700
        for strand in self.strands:
            strand.push_in(BURST, payload, is_train=is_train)
            with contextlib.suppress(BlockingIOError):
                strand.push_out(self.inside, BURST, payload, is_train=is_train)

    def hear(self, timeout: float) -> int:
        """Everything that waits; how many sockets had something."""
        ready = self.selector.select(timeout)
        for key, _ in ready:
            if key.data is not None:
                key.data.hear(time.monotonic())
                continue
            with contextlib.suppress(BlockingIOError):
                while True:
                    number, sequence = NUMBER.unpack_from(self.inside.recv(1 << 16))
                    self.strands[number - 1].arrive(sequence)
        return len(ready)

    def settle(self) -> None:
        """Send nothing until nothing comes."""
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + QUIET_SECONDS:
            if self.hear(0.02):
                quiet_since = time.monotonic()

    @property
    def lost(self) -> int:
        return sum(strand.lost for strand in self.strands)

    @property
    def delivered(self) -> list[tuple[int, int]]:
        """Packets that came through so far: (in, out) of each strand."""
        return [(len(strand.arrived), len(strand.seen)) for strand in self.strands]

    def wrong(self) -> list[str]:
        return [line for strand in self.strands for line in strand.wrong()]
