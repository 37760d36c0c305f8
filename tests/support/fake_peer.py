"""A peer that is nothing but a key and a UDP socket: it does what the test says, right or wrong.

    host plait                                         host peers
     wg0 10.0.0.1 fd01::1 (plaitd)                      fake peers: 10.0.0.N fd01::N inside
     └─ eth0 10.200.1.1 fd00:200:1::1 ─── 10.200.1.2 fd00:200:1::2 eth0

Its handshakes are engine.noise and engine.cookie, which stand on vectors and recordings of their own; its
data messages are made here, from the message format alone.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from base64 import b64encode
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine import cookie, noise, tai64n
from plait.lab.namespaces import Host, Lab
from tests.support.tunnel import Clock, eventually
from tests.support.waiting import PATIENCE
from tests.support.wire import inside, udp_socket

PORT = 51820
DATA = struct.Struct("<IIQ")


class Network:
    """An engine without peers, and a host where fake peers have their sockets."""

    def __init__(self, lab: Lab, *, mtu: int = 1420, link_mtu: int = 1500,
                 settings: str | None = None, boottime: int | None = None) -> None:
        self.plait, self.beyond = lab.add_hosts(["plait", "peers"])
        self.link = lab.link(self.plait, self.beyond, mtu=link_mtu)
        self.clock = Clock(self.plait, boottime)
        self.ahead = 0  # ns that peers' clocks are ahead of ours: they go with the engine's
        self.engine = self.plait.engine("wg0", settings=settings, environment={"PLAIT_CLOCK": Clock.PATH})
        self.identity = noise.Identity(os.urandom(32))
        self.engine.configure(b64encode(self.identity.private_key).decode(), [],
                              ["10.0.0.1/24", "fd01::1/64"], PORT, mtu)
        self.numbers = itertools.count(2)
        self.sink = udp_socket(self.plait, "::", 9)  # else each packet from inside is answered with ICMP

    def set(self, text: str) -> None:
        """A set operation that must work."""
        answer = self.engine.uapi(f"set=1\n{text}\n")
        assert answer == "errno=0\n\n", (text, answer)

    def report(self) -> dict[str, Any]:
        return self.engine.report()

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.report()["counters"]
        return counters

    def step(self, seconds: float) -> None:
        """The engine's clock jumps ahead, once no process has a packet in hand, so that what happened was
        noted; asked something, control looks at the clock at once."""
        eventually(lambda: not self.report()["tokens"]["held"])
        self.clock.step(seconds)
        self.ahead += int(seconds * 1e9)
        self.counters()

    def count(self, *names: str) -> int:
        """The sum of these counters."""
        counters = self.counters()
        return sum(counters[name] for name in names)

    def peer(self, peer: FakePeer) -> dict[str, str]:
        """What get=1 says of this peer (allowed_ip: the last)."""
        text = self.engine.uapi("get=1\n\n").partition(f"public_key={peer.identity.public_key.hex()}\n")[2]
        assert text, "no such peer"
        return dict(line.split("=", 1) for line in text.partition("public_key=")[0].split("\n") if line)

    def inner_socket(self, address: str, tos: int = 0, port: int = 0) -> socket.socket:
        """A UDP socket on the engine's host, connected to an inner address."""
        version = ip_address(address).version
        made = udp_socket(self.plait, "fd01::1" if version == 6 else "10.0.0.1", port)
        if version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            made.setsockopt(socket.IPPROTO_IPV6, 25, 1)  # IPV6_RECVERR
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            made.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        inside(self.plait, lambda: made.connect((address, 7)))
        return made


@dataclass(frozen=True)
class Message:
    """A datagram that a fake peer received. opened: the plaintext of a data message."""

    data: bytes
    tos: int
    source: tuple[str, int]
    opened: bytes = b""

    @property
    def kind(self) -> int:
        return self.data[0]


class FakePeer:
    """One peer. version: of its outer addresses."""

    def __init__(self, network: Network, version: int = 4, *, endpoint: bool = True) -> None:
        self.network = network
        self.version = version
        self.identity = noise.Identity(os.urandom(32))
        number = next(network.numbers)
        self.inner4, self.inner6 = f"10.0.0.{number}", f"fd01::{number:x}"
        self.address = network.link.address(network.beyond, version)
        self.socket = udp_socket(network.beyond, self.address)
        self.engine = (network.link.address(network.plait, version), PORT)
        self.sessions: dict[int, noise.Session] = {}  # all, by our index: older packets may be on their way
        self._session: noise.Session | None = None
        self.indices = itertools.count(77)
        self.counter = itertools.count()
        self.wall = 0
        where = f"endpoint={self.endpoint}\n" if endpoint else ""
        network.set(f"public_key={self.identity.public_key.hex()}\n{where}"
                  f"allowed_ip={self.inner4}/32\nallowed_ip={self.inner6}/128\n")

    @property
    def endpoint(self) -> str:
        address, port = self.socket.getsockname()[:2]
        return f"[{address}]:{port}" if self.version == 6 else f"{address}:{port}"

    @property
    def session(self) -> noise.Session | None:
        """The newest; None: data messages are not opened."""
        return self._session

    @session.setter
    def session(self, session: noise.Session | None) -> None:
        self._session = session
        if session is not None:
            self.sessions[session.local_index] = session

    def move(self) -> None:
        """Another port from now on."""
        self.socket.close()
        self.socket = udp_socket(self.network.beyond, self.address)

    # -- handshakes ---------------------------------------------------------------------------

    def initiation(self, cookie_: bytes | None = None) -> tuple[bytes, noise.InitiationSent]:
        """An initiation of now, and what its response needs."""
        self.wall = max(self.wall + (1 << 24), time.time_ns() + self.network.ahead)
        keys = noise.PeerKeys(self.identity, self.network.identity.public_key)
        index, stamp = next(self.indices), tai64n.stamp(self.wall)
        body, state = noise.create_initiation(self.identity, keys, index, stamp)
        return cookie.add_macs(body, keys.mac1_key, cookie_), state

    def initiate(self, tries: int = 1) -> Message:
        """A handshake of ours, confirmed with a keepalive; returns the response."""
        while True:
            message, state = self.initiation()
            self.send_raw(message)
            tries -= 1
            try:
                response = self.hear(2, 0.5 if tries else PATIENCE)
                break
            except TimeoutError:
                if not tries:
                    raise
        self.session = noise.consume_response(self.identity, state, response.data, noise.NO_PSK)
        self.counter = itertools.count()
        self.send(b"")
        eventually(lambda: self.network.peer(self)["last_handshake_time_sec"] != "0")
        return response

    def respond(self, initiation: Message) -> None:
        """Answer a handshake of the engine's."""
        opened = noise.open_initiation(self.identity, initiation.data)
        secret = self.identity.static_static(opened.peer_public_key)
        _, opened = noise.open_timestamp(opened, secret)
        body, self.session = noise.create_response(opened, noise.NO_PSK, next(self.indices))
        self.counter = itertools.count()
        self.send_raw(cookie.add_macs(body, self.network.identity.mac1_key, None))

    # -- data ---------------------------------------------------------------------------------

    def sealed(self, inner: bytes, counter: int | None = None) -> bytes:
        """A data message; inner is padded to a multiple of 16."""
        assert self.session is not None
        number = next(self.counter) if counter is None else counter
        nonce = bytes(4) + number.to_bytes(8, "little")
        padded = inner + bytes(-len(inner) % 16)
        head = DATA.pack(4, self.session.remote_index, number)
        return head + ChaCha20Poly1305(self.session.send_key).encrypt(nonce, padded, None)

    def send(self, inner: bytes, tos: int = 0) -> None:
        self.send_raw(self.sealed(inner), tos)

    def send_raw(self, message: bytes, tos: int = 0) -> None:
        if self.version == 6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        self.socket.sendto(message, self.engine)

    def receive(self, timeout: float = PATIENCE) -> Message:
        """The next datagram. TimeoutError when there is none."""
        self.socket.settimeout(timeout)
        data, controls, _, source = self.socket.recvmsg(1 << 16, 256)
        tos = int.from_bytes(controls[0][2][:1], "little")
        opened = b""
        if data[0] == 4 and self.session is not None:
            _, index, counter = DATA.unpack_from(data)
            nonce = bytes(4) + counter.to_bytes(8, "little")
            opened = ChaCha20Poly1305(self.sessions[index].receive_key).decrypt(nonce, data[16:], None)
        return Message(data, tos, source[:2], opened)

    def hear(self, kind: int, timeout: float = PATIENCE) -> Message:
        """The next message of this type; 4: the next of the newest session with something in it."""
        while True:
            message = self.receive(timeout)
            if message.kind != kind:
                continue
            if kind != 4 or (len(message.data) > 32 and self._is_newest(message)):
                return message

    def _is_newest(self, message: Message) -> bool:
        return self.session is None or DATA.unpack_from(message.data)[1] == self.session.local_index

    def hears_nothing(self, timeout: float = 0.2) -> bool:
        try:
            self.receive(timeout)
        except TimeoutError:
            return True
        return False

    # -- inner packets ------------------------------------------------------------------------

    def packet(self, payload: bytes, *, version: int = 4, tos: int = 0, source: str | None = None,
               port: int = 9) -> bytes:
        """An inner UDP packet from this peer to the engine's host."""
        own, there = (self.inner6, "fd01::1") if version == 6 else (self.inner4, "10.0.0.1")
        return udp_packet(source or own, there, payload, tos, port)


def udp_packet(source: str, destination: str, payload: bytes, tos: int = 0, port: int = 9) -> bytes:
    """A UDP packet from port 7 (RFC 768, 791, 8200)."""
    ends = ip_address(source).packed + ip_address(destination).packed
    length = 8 + len(payload)
    udp = struct.pack(">HHHH", 7, port, length, 0) + payload
    check = _checksum(ends + struct.pack(">HH", length, 17) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack(">H", check) + udp[8:]
    if len(ends) == 32:
        return struct.pack(">IHBB", 6 << 28 | tos << 20, length, 17, 64) + ends + udp
    head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + length, 7, 0x4000, 64, 17, 0) + ends
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + udp


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


__all__ = ["PORT", "FakePeer", "Host", "Message", "Network", "udp_packet"]
