"""A gateway of plain Python on loopback, with keys of plain Python: what the load generator is held against.

It answers handshakes with engine.noise (the model of the protocol) and echoes through sealed messages of
`cryptography`, and can be told to misbehave. It counts what it saw by itself.
"""

from __future__ import annotations

import collections
import hashlib
import ipaddress
import socket
import struct
import threading
import time
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine import cookie, messages, noise

HEADER = struct.Struct("<IIQ")


def derived(seed: str, label: bytes, number: int) -> bytes:
    """A key as plait/load/keys.c derives it."""
    return hashlib.blake2s(
        label + struct.pack("<I", number), key=hashlib.blake2s(seed.encode()).digest()
    ).digest()


def private_key(seed: str, number: int) -> bytes:
    return noise.clamp(derived(seed, b"peer----", number))


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def reply(inner: bytes) -> bytes:
    """The echo reply that a kernel would give; asserts that the request is right in every bit."""
    if inner[0] >> 4 == 6:
        return reply6(inner)
    length = int.from_bytes(inner[2:4], "big")
    packet, padding = inner[:length], inner[length:]
    assert len(inner) % 16 == 0 and not any(padding) and len(padding) < 16
    assert packet[0] == 0x45 and packet[9] == 1 and packet[20:22] == b"\x08\x00"
    assert checksum(packet[:20]) == 0 and checksum(packet[20:]) == 0
    header = packet[:12] + packet[16:20] + packet[12:16]
    body = bytes(4) + packet[24:]
    return header + b"\0\0" + checksum(body).to_bytes(2, "big") + body[4:] + padding


def reply6(inner: bytes) -> bytes:
    """The same over IPv6."""
    length = 40 + int.from_bytes(inner[4:6], "big")
    packet, padding = inner[:length], inner[length:]
    assert len(inner) % 16 == 0 and not any(padding) and len(padding) < 16
    assert packet[0] == 0x60 and packet[6] == 58 and packet[40:42] == b"\x80\0"
    assert checksum(pseudo6(packet) + packet[40:]) == 0
    header = packet[:8] + packet[24:40] + packet[8:24]
    body = b"\x81\0\0\0" + packet[44:]
    return header + body[:2] + checksum(pseudo6(header) + body).to_bytes(2, "big") + body[4:] + padding


def pseudo6(packet: bytes) -> bytes:
    """What of an IPv6 header ICMPv6's checksum is over."""
    return packet[8:40] + struct.pack(">I3xB", int.from_bytes(packet[4:6], "big"), 58)


def address_of(inner: bytes) -> bytes:
    """From which a packet comes."""
    return inner[8:24] if inner[0] >> 4 == 6 else inner[12:16]


class Gateway:
    """Peers 0 to peers of a seed, on a port of 127.0.0.1. `want_cookies`, `drop_every`, `repeat_every`,
    `forge_every`, `wrong_every` (echoes), `least_ns` (echoes that were due less than that after the one
    before are not answered), `mute` (no echo is), `chats` (it begins handshakes and pings itself), `loses`
    (that many initiations), `holds` (the first echo's answer back, while so many come), `parrots` (it says
    what it hears), `loses_back` (each so manyth answer, after it was numbered) and
    `deaf` say what it does besides answering."""

    def __init__(self, seed: str, peers: int, psk: bool = False) -> None:
        self.seed, self.psk = seed, psk
        self.identity = noise.Identity(derived(seed, b"gateway-", 0))
        self.numbers = {public_key(private_key(seed, number)): number for number in range(peers)}
        self.keys: collections.Counter[bytes] = collections.Counter()  # of strangers, how often each came
        self.inner = [ipaddress.ip_network("10.64.0.0/10"), ipaddress.ip_network("fd64::/64")]
        self.static_static = {key: self.identity.static_static(key) for key in self.numbers}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.02)
        self.target = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.secret = bytes(range(32))
        self.sessions: dict[int, dict[str, Any]] = {}
        self.seen: collections.Counter[str] = collections.Counter()
        self.stamps: dict[int, bytes] = {}
        self.sources: set[tuple[str, int]] = set()
        self.visited: dict[int, set[tuple[str, int]]] = collections.defaultdict(set)
        self.want_cookies = self.deaf = self.mute = self.chats = self.parrots = False
        self.loses = self.holds = 0
        self.held: bytes | None = None
        self.confirmed: list[tuple[float, float]] = []  # just before and after each first answer
        self.least_ns = self.due = 0
        self.loses_back = 0
        self.drop_every = self.repeat_every = self.forge_every = self.wrong_every = 0
        self.dues: list[int] = []  # when echoes were due, ns of the load's clock
        self.traffic: list[tuple[int, int]] = []  # when echoes of traffic were due, and when they left
        self.sizes: collections.Counter[int] = collections.Counter()
        self.oneway_sizes: collections.Counter[int] = collections.Counter()
        self.oneway_by: set[int] = set()
        self.by_number: collections.Counter[int] = collections.Counter()  # echoes of each peer
        self.first_at = 0.0  # when the first datagram came: seconds since 1970
        self.delay = 0.0  # seconds until an echo is answered
        self._later: collections.deque[tuple[float, bytes, tuple[str, int]]] = collections.deque()
        self.failed: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._serve)

    @property
    def is_behind(self) -> bool:
        """Whether echoes wait for their answers."""
        return len(self._later) > 10

    def __enter__(self) -> Gateway:
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._stop = True
        self._thread.join()
        self.socket.close()
        if self.failed is not None:
            raise self.failed

    def _serve(self) -> None:
        while not self._stop:
            while self._later and self._later[0][0] <= time.monotonic():
                _, sealed, source = self._later.popleft()
                self.socket.sendto(sealed, source)
            try:
                message, source = self.socket.recvfrom(1 << 16)
            except TimeoutError:
                continue
            try:
                self._take(message, source)
            except BaseException as error:
                self.failed = error
                return

    def _take(self, message: bytes, source: tuple[str, int]) -> None:
        self.seen["datagrams"] += 1
        self.first_at = self.first_at or time.time()
        if self.parrots:
            self.socket.sendto(message, source)
            return
        try:
            kind = messages.message_type(message)
        except messages.MessageError:
            self.seen["malformed"] += 1
            return
        if kind == messages.INITIATION:
            self._initiation(message, source)
        elif kind == messages.DATA:
            self._data(message, source)

    def _initiation(self, message: bytes, source: tuple[str, int]) -> None:
        if not cookie.mac1_is_right(self.identity.mac1_key, message):
            self.seen["mac1"] += 1
            return
        self.seen["initiations"] += 1
        address = socket.inet_aton(source[0])
        if self.want_cookies and not cookie.mac2_is_right(self.secret, message, address, source[1]):
            self.seen["cookies"] += 1
            self.socket.sendto(
                cookie.create_cookie_reply(
                    self.identity.cookie_key, self.secret, message, address, source[1]
                ),
                source,
            )
            return
        self.seen["with mac2"] += message[-16:] != bytes(16)
        opened = noise.open_initiation(self.identity, message)
        number = self.numbers.get(opened.peer_public_key)
        if number is None:
            self.seen["strangers"] += 1
            self.keys[opened.peer_public_key] += 1
            return
        try:
            stamp, opened = noise.open_timestamp(opened, self.static_static[opened.peer_public_key])
        except noise.TimestampTagWrong:
            self.seen["wrong timestamps"] += 1
            return
        if stamp <= self.stamps.get(number, b""):
            self.seen["replayed initiations"] += 1
            return
        self.stamps[number] = stamp
        if self.deaf:
            return
        if self.loses:
            self.loses -= 1
            return
        self.sources.add(source)
        index = len(self.sessions) + 1
        shared = derived(self.seed, b"psk-----", number) if self.psk else noise.NO_PSK
        body, session = noise.create_response(opened, shared, index)
        self.sessions[index] = {"keys": session, "number": number, "counter": 0, "seen": set(), "at": source}
        mac1_key = noise.mac1_key(opened.peer_public_key)
        self.socket.sendto(cookie.add_macs(body, mac1_key, None), source)

    def _data(self, message: bytes, source: tuple[str, int]) -> None:
        _, index, counter = HEADER.unpack_from(message)
        session = self.sessions.get(index)
        if session is None:
            self.seen["unknown index"] += 1
            return
        key = ChaCha20Poly1305(session["keys"].receive_key)
        try:
            inner = key.decrypt(struct.pack("<4xQ", counter), message[16:], None)
        except InvalidTag:
            self.seen["wrong tag"] += 1
            return
        if counter in session["seen"]:
            self.seen["replayed data"] += 1
            return
        session["seen"].add(counter)
        session["at"] = source
        self.sources.add(source)
        self.visited[session["number"]].add(source)
        if not inner:
            self.seen["keepalives"] += 1
            return
        is_ip6 = inner[0] >> 4 == 6
        ip = 40 if is_ip6 else 20
        length = 40 + int.from_bytes(inner[4:6], "big") if is_ip6 else int.from_bytes(inner[2:4], "big")
        source_address = self.inner[is_ip6].network_address + 2 + session["number"]
        assert address_of(inner) == source_address.packed
        if inner[ip] == (129 if is_ip6 else 0):  # an answer to nothing, which a host drops in silence
            assert checksum((pseudo6(inner[:length]) if is_ip6 else b"") + inner[ip:length]) == 0
            self.seen["oneway"] += 1
            self.oneway_sizes[length] += 1
            self.oneway_by.add(session["number"])
            return
        self.seen["echoes"] += 1
        self.by_number[session["number"]] += 1
        stamp = ip + 8
        self.dues.append(int.from_bytes(inner[stamp + 8 : stamp + 16], "little"))
        self.sizes[length] += 1
        self.seen["bytes"] = length
        n = self.seen["echoes"]
        due, last = int.from_bytes(inner[stamp + 8 : stamp + 16], "little"), self.due
        is_traffic = inner[stamp + 29] == 0
        self.due = due if is_traffic else last
        if is_traffic:
            self.traffic.append((due, int.from_bytes(inner[stamp + 16 : stamp + 24], "little")))
        if self.mute or (is_traffic and 0 <= due - last < self.least_ns):
            self.seen["not answered"] += 1
            return
        if self.drop_every and n % self.drop_every == 0:
            self.seen["dropped"] += 1
            return
        answer = reply(inner)
        if self.wrong_every and n % self.wrong_every == 0:  # somebody else's, in this session
            self.seen["wrong"] += 1
            answer = answer[:16] + (0x0A4000F0).to_bytes(4, "big") + answer[20:]
        sealed = self._sealed(session, answer)
        if self.loses_back and n % self.loses_back == 0:  # sealed, and lost on the way
            self.seen["lost back"] += 1
            return
        if self.forge_every and n % self.forge_every == 0:
            self.seen["forged"] += 1
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        if is_traffic and self.holds:
            self.holds -= 1
            if self.held is None:
                self.held = sealed
                return
            if not self.holds:
                self.socket.sendto(self.held, source)
        before = time.time()
        if self.delay and is_traffic:
            self._later.append((time.monotonic() + self.delay, sealed, source))
        else:
            self.socket.sendto(sealed, source)
        if not is_traffic:
            self.confirmed.append((before, time.time()))
        if self.chats:  # an initiation of its own, and an echo request
            self.seen["chats"] += 1
            self.socket.sendto(struct.pack("<I", messages.INITIATION) + bytes(144), source)
            ping = answer[:20] + b"\x08" + answer[21:]
            self.socket.sendto(self._sealed(session, ping), source)
        if self.repeat_every and n % self.repeat_every == 0:
            self.seen["repeated"] += 1
            self.socket.sendto(sealed, source)

    def _sealed(self, session: dict[str, Any], inner: bytes) -> bytes:
        counter = session["counter"]
        session["counter"] += 1
        sealed = ChaCha20Poly1305(session["keys"].send_key).encrypt(struct.pack("<4xQ", counter), inner, None)
        return HEADER.pack(messages.DATA, session["keys"].remote_index, counter) + sealed
