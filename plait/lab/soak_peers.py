"""The many peers of a soak: each a key and a UDP socket, all in one process, each honest and watchful.

    python -m plait.lab.soak_peers FILE     FILE: JSON as `plait.lab.soak` writes it

Each sends numbered packets through the gateway to an echo there and looks at everything that comes back: no
nonce twice in a session, no packet twice, none before an earlier one. Now and then a peer roams to
another port or makes a new session. Ends when the file `until` exists, after `quiet` seconds without sending;
prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine import cookie, noise, tai64n

DATA = struct.Struct("<IIQ")
ECHO_PORT = 7
OWN_PORT = 7000
SESSION_SECONDS = (15.0, 60.0)  # until a peer wants another session
ROAM_SECONDS = (5.0, 40.0)
RETRY_SECONDS = 1.0


class Peer:
    """One of them."""

    def __init__(self, number: int, given: dict[str, Any], settings: dict[str, Any]) -> None:
        self.number = number
        self.identity = noise.Identity(bytes.fromhex(given["private_key"]))
        self.inner = ip_address(given["inner"]).packed
        self.there = ip_address(settings["echo"]).packed
        self.gateway = noise.PeerKeys(self.identity, bytes.fromhex(settings["public_key"]))
        self.address = settings["address"]
        self.endpoint = (settings["gateway"], settings["port"])
        self.sessions: dict[int, tuple[noise.Session, ChaCha20Poly1305, set[int]]] = {}
        self.current: noise.Session | None = None
        self.pending: noise.InitiationSent | None = None
        self.counter = itertools.count()
        self.indices = itertools.count(1)
        self.retry_at = 0.0
        self.renew_at = 0.0
        self.sequence = itertools.count(1)
        self.latest = 0  # sequence number of the last echo
        self.spoken = 0  # of the last packet
        self.roamed_at = 0  # of the first packet from the present port
        self.sent = self.echoed = self.twice = self.early = self.nonces_twice = 0
        self.handshakes = self.asked = self.forged = 0
        self.seen: set[int] = set()
        self.socket = self._open()

    def _open(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        made.bind((self.address, 0))
        made.setblocking(False)
        return made

    def initiate(self, now: float) -> None:
        """Ask for a session, unless we did a moment ago."""
        if now < self.retry_at:
            return
        self.retry_at = now + RETRY_SECONDS
        stamp = tai64n.stamp(time.time_ns())
        body, self.pending = noise.create_initiation(self.identity, self.gateway, next(self.indices), stamp)
        self._send(cookie.add_macs(body, self.gateway.mac1_key, None))

    def speak(self, now: float) -> None:
        """The next numbered packet; or, without a session or with an old one, a handshake."""
        if self.current is None or now >= self.renew_at:
            self.initiate(now)
        if self.current is None:
            return
        self.sent += 1
        self.spoken = next(self.sequence)
        payload = struct.pack("!IQ", self.number, self.spoken) + bytes(random.randrange(0, 1200))
        self.seal(udp_packet(self.inner, self.there, payload))

    def seal(self, inner: bytes) -> None:
        """One data message of the current session."""
        assert self.current is not None
        number = next(self.counter)
        nonce = bytes(4) + number.to_bytes(8, "little")
        cipher = ChaCha20Poly1305(self.current.send_key)
        sealed = cipher.encrypt(nonce, inner + bytes(-len(inner) % 16), None)
        self._send(DATA.pack(4, self.current.remote_index, number) + sealed)

    def hear(self, now: float) -> None:
        """Everything that waits in the socket."""
        while True:
            try:
                data = self.socket.recv(1 << 16)
            except OSError:
                return
            if data[0] == 4:
                self._open_data(data)
            elif data[0] == 2:
                self._take_response(data, now)
            elif data[0] == 1:
                self._answer(data, now)

    def roam(self, selector: selectors.BaseSelector) -> None:
        """Another port from now on; what is under way to the old one is lost."""
        self.hear(time.monotonic())
        self.roamed_at = self.spoken + 1
        selector.unregister(self.socket)
        self.socket.close()
        self.socket = self._open()
        selector.register(self.socket, selectors.EVENT_READ, self)

    def _take_response(self, data: bytes, now: float) -> None:
        if self.pending is None:
            return
        try:
            session = noise.consume_response(self.identity, self.pending, data, noise.NO_PSK)
        except noise.HandshakeRefused:  # of an attempt before this one
            return
        self.pending = None
        self._begin(session, now)
        self.seal(b"")

    def _answer(self, data: bytes, now: float) -> None:
        """The gateway wants a session: it never should, while we renew ours."""
        self.asked += 1
        opened = noise.open_initiation(self.identity, data)
        _, opened = noise.open_timestamp(opened, self.gateway.static_static)
        body, session = noise.create_response(opened, noise.NO_PSK, next(self.indices))
        self._begin(session, now)
        self._send(cookie.add_macs(body, self.gateway.mac1_key, None))

    def _begin(self, session: noise.Session, now: float) -> None:
        self.handshakes += 1
        self.current = session
        self.counter = itertools.count()
        self.renew_at = now + random.uniform(*SESSION_SECONDS)
        cipher = ChaCha20Poly1305(session.receive_key)
        self.sessions[session.local_index] = (session, cipher, set())

    def _open_data(self, data: bytes) -> None:
        _, index, number = DATA.unpack_from(data)
        if index not in self.sessions:
            self.forged += 1
            return
        _, cipher, nonces = self.sessions[index]
        try:
            inner = cipher.decrypt(bytes(4) + number.to_bytes(8, "little"), data[16:], None)
        except InvalidTag:
            self.forged += 1
            return
        self.nonces_twice += number in nonces
        nonces.add(number)
        if len(inner) < 40:
            return
        owner, sequence = struct.unpack_from("!IQ", inner, 28)
        if owner != self.number:
            self.forged += 1
            return
        self.echoed += 1
        self.twice += sequence in self.seen
        # What left from two ports may have waited in two receivers' sockets.
        self.early += self.roamed_at <= sequence < self.latest
        self.seen.add(sequence)
        self.latest = sequence

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            self.socket.sendto(message, self.endpoint)


def udp_packet(source: bytes, destination: bytes, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram to the echo; without a UDP checksum, as IPv4 allows."""
    udp = struct.pack(">HHHH", OWN_PORT, ECHO_PORT, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0x4000, 64, 17, 0) + source + destination
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:] + udp


def run(settings: dict[str, Any]) -> dict[str, int]:
    """The whole soak, as seen by the peers."""
    random.seed(settings["seed"])
    peers = [Peer(number, given, settings) for number, given in enumerate(settings["peers"], 1)]
    selector = selectors.DefaultSelector()
    for peer in peers:
        selector.register(peer.socket, selectors.EVENT_READ, peer)
    interval = 1 / settings["packets_a_second"]
    turn = itertools.cycle(peers)
    next_at = time.monotonic()
    roam_at = next_at + random.uniform(*ROAM_SECONDS) / len(peers)
    roams = 0
    end: float | None = None
    while end is None or next_at < end:
        now = time.monotonic()
        if end is None and os.path.exists(settings["until"]):
            end = now + settings["quiet"]
        while next_at <= now:
            if end is None:
                next(turn).speak(now)
            next_at += interval
        if now >= roam_at and end is None:
            random.choice(peers).roam(selector)
            roams += 1
            roam_at = now + random.uniform(*ROAM_SECONDS) / len(peers)
        for key, _ in selector.select(max(next_at - time.monotonic(), 0)):
            key.data.hear(time.monotonic())
    names = ("sent", "echoed", "twice", "early", "nonces_twice", "handshakes", "asked", "forged")
    return {"roams": roams, **{name: sum(getattr(peer, name) for peer in peers) for name in names}}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
