"""A peer's session by the rules alone: the model of engine/session.

It keeps keypairs as Python objects, a set as window, and seals and opens with `cryptography`.
Written from the protocol's checklist (order of steps when receiving and sending).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from . import inner
from .trie import Scan

SECOND = 10**9
LIMIT = 2**64 - 8130  # messages a session
REKEY_MESSAGES = 2**60


def nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


def header(index: int, counter: int) -> bytes:
    return (4).to_bytes(4, "little") + index.to_bytes(4, "little") + counter.to_bytes(8, "little")


@dataclass
class Keys:
    """One session's keys and what was done with them."""

    send_key: bytes
    receive_key: bytes
    birth: int
    local_index: int
    remote_index: int
    initiator: bool
    ours: bool = True  # of this peer and generation
    send_counter: int = 0
    seen: set[int] = field(default_factory=set)
    top: int = 0
    rekey_asked: bool = False

    def expired(self, now: int, seconds: int = 180) -> bool:
        return self.birth + seconds * SECOND <= now

    def accept(self, counter: int) -> bool:
        if counter in self.seen or counter + 1 + 8128 < self.top:
            return False
        self.seen.add(counter)
        self.top = max(self.top, counter + 1)
        return True


@dataclass
class Outcome:
    """What a batch came to."""

    verdicts: list[str] = field(default_factory=list)
    packets: list[bytes | None] = field(default_factory=list)  # inner packets, or whole messages
    news: set[str] = field(default_factory=set)
    last_authenticated: int = 0
    ecn: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


@dataclass
class Session:
    """The model."""

    keys: dict[int, Keys]
    current: int
    previous: int
    next: int
    peer: int
    allowed: Scan
    mtu: int

    def addressed(self, index: int, named: tuple[int, int, int]) -> int:
        for number in named:
            keys = self.keys.get(number)
            if number and keys and keys.ours and keys.local_index == index:
                return number
        return 0

    def open(self, messages: list[tuple[bytes, int]], now: int) -> Outcome:
        """(message, outer ECN) in order of arrival."""
        outcome = Outcome()
        data_came = False
        named = (self.current, self.previous, self.next)
        spent = {number for number, keys in self.keys.items() if keys.top >= LIMIT}  # as the batch begins
        for place, (message, outer) in enumerate(messages):
            verdict, packet = self._open_one(message, outer, now, named, spent, outcome)
            outcome.verdicts.append(verdict)
            outcome.packets.append(packet)
            if verdict in ("DELIVER", "KEEPALIVE", "INNER_HEADER", "INNER_SOURCE", "ECN"):
                outcome.news.add("AUTHENTICATED")
                outcome.last_authenticated = place
                data_came = data_came or verdict != "KEEPALIVE"
        if "AUTHENTICATED" in outcome.news:
            self._keep_fresh(now, outcome)
            outcome.events.append("authenticated_received")
            if data_came:
                outcome.events.append("data_received")
        return outcome

    def _open_one(
        self,
        message: bytes,
        outer: int,
        now: int,
        named: tuple[int, int, int],
        spent: set[int],
        outcome: Outcome,
    ) -> tuple[str, bytes | None]:
        if len(message) < 32:
            return "TAG", None
        number = self.addressed(int.from_bytes(message[4:8], "little"), named)
        counter = int.from_bytes(message[8:16], "little")
        if not number:
            return "KEYPAIR_GONE", None
        keys = self.keys[number]
        if keys.expired(now) or number in spent or counter >= LIMIT:
            return "KEYPAIR_EXPIRED", None
        try:
            packet = ChaCha20Poly1305(keys.receive_key).decrypt(nonce(counter), message[16:], None)
        except InvalidTag:
            return "TAG", None
        if not keys.accept(counter):
            return "REPLAY", None
        if number == self.next:
            if self.previous:
                outcome.news.add("KEYS")
            outcome.news.add("CONFIRMED")
            self.previous, self.current, self.next = self.current, self.next, 0
        return self._inner(packet, outer)

    def _inner(self, packet: bytes, outer: int) -> tuple[str, bytes | None]:
        if not packet:
            return "KEEPALIVE", b""
        parsed = inner.parse(packet)
        if parsed is None:
            return "INNER_HEADER", None
        version, source, _, length = parsed
        bits = inner.decapsulated(inner.ecn(packet), outer)
        if bits is None:
            return "ECN", None
        address: Any = IPv4Address(source) if version == 4 else IPv6Address(source)
        if self.allowed.lookup(address) != self.peer:
            return "INNER_SOURCE", None
        return "DELIVER", inner.with_ecn(packet, bits)[:length]

    def _keep_fresh(self, now: int, outcome: Outcome) -> None:
        keys = self.keys.get(self.current)
        if (
            keys
            and keys.ours
            and keys.initiator
            and self.usable(now)
            and not keys.rekey_asked
            and keys.expired(now, 165)
        ):
            keys.rekey_asked = True
            outcome.news.add("HANDSHAKE_WANTED")

    def usable(self, now: int) -> bool:
        keys = self.keys.get(self.current)
        return bool(
            self.current and keys and keys.ours and not keys.expired(now) and keys.send_counter < LIMIT
        )

    def seal(self, packets: list[bytes], now: int) -> Outcome:
        outcome = Outcome()
        keys = self.keys.get(self.current)
        if not self.usable(now) or keys is None or keys.send_counter + len(packets) > LIMIT:
            return Outcome(["NO_SESSION"] * len(packets), [None] * len(packets), {"HANDSHAKE_WANTED"})
        for packet in packets:
            counter = keys.send_counter
            keys.send_counter += 1
            up = (
                min(-(-len(packet) // 16) * 16, max(self.mtu, len(packet)))
                if self.mtu
                else -(-len(packet) // 16) * 16
            )
            padded = packet + bytes(up - len(packet))
            sealed = ChaCha20Poly1305(keys.send_key).encrypt(nonce(counter), padded, None)
            outcome.packets.append(header(keys.remote_index, counter) + sealed)
            outcome.verdicts.append("DELIVER")
            outcome.ecn.append(inner.ecn(packet) if packet else 0)
        if packets:
            outcome.events.append("authenticated_sent")
        if any(packets):
            outcome.events.append("data_sent")
        if keys.send_counter > REKEY_MESSAGES or (keys.initiator and keys.expired(now, 120)):
            outcome.news.add("HANDSHAKE_WANTED")
        return outcome


ALLOWED = {
    ip_network("10.0.0.0/8"): 2,
    ip_network("10.9.0.0/16"): 1,
    ip_network("fd00::/8"): 2,
    ip_network("fd09::/16"): 1,
}
