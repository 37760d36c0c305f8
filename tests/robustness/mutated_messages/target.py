"""The engine under test: paced sending, counters by cause, and signs of life."""

from __future__ import annotations

import itertools
import math
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from plait.lab.namespaces import Engine
from shm.marks import marked
from tests.robustness.mutated_messages.initiator import Initiator
from tests.support.waiting import until

# Far fewer than a peer's share of a receiver's slots (512, those not yet swept in included), than a
# queue's limit (1,024), and than the handshake messages that mean load (512): what is paced by
# this loses nothing and meets no cookie.
WINDOW = 192
TIMEOUT = 60.0
# Where a datagram can end, of shm/counters.h: what goes to control ends there.
ENDS = tuple(
    name for name in marked("end in", "end both", "end message") if name != "handshake_to_control"
)
# The kernel of the engine's host sends router solicitations into the TUN now and then.
UNRELATED = ("tun_received", "drop_no_peer")


class Target:
    """An engine and what it has counted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._before = self.counters()

    def report(self) -> dict[str, Any]:
        return self.engine.report(TIMEOUT)

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.report()["counters"]
        return counters

    def mark(self) -> None:
        """From here on, delta() counts."""
        self._before = self.counters()

    def delta(self) -> dict[str, int]:
        """Counters that have changed since mark(), by how much."""
        now = self.counters()
        return {name: now[name] - before for name, before in self._before.items()
                if now[name] != before and name not in UNRELATED}

    def send(self, initiator: Initiator, datagrams: Iterable[bytes], rate: float = math.inf) -> int:
        """Send all, never more under way than the engine can hold, at most `rate` a second.

        Returns how many, all dealt with. A pause of the machine is not made up for by sending faster.
        """
        start, sent, next_at = self._ended(), 0, time.monotonic()
        iterator = iter(datagrams)
        socks = initiator.sockets
        while batch := list(itertools.islice(iterator, WINDOW)):
            for number, datagram in enumerate(batch):
                socks[number % len(socks)].send(datagram)
            sent += len(batch)
            self._await(start + sent)
            next_at = max(next_at + len(batch) / rate, time.monotonic())
            time.sleep(next_at - time.monotonic() if next_at > time.monotonic() else 0)
        return sent

    def _ended(self) -> int:
        counters = self.counters()
        return sum(counters[name] for name in ENDS)

    def _await(self, ended: int) -> None:
        until(lambda: self._ended() >= ended, f"the end of all {ended} datagrams")

    def handshake(self, initiator: Initiator) -> None:
        """A new session; both of its datagrams, initiation and keepalive, are dealt with."""
        ended = self._ended()
        initiator.handshake()
        self._await(ended + 2)

    def socket_drops(self) -> int:
        """Datagrams that the kernel dropped because a socket of the engine was full."""
        drops = 0
        for table in ("udp", "udp6"):
            for line in Path(f"/proc/{self.engine.host.pid}/net/{table}").read_text().splitlines()[1:]:
                drops += int(line.split()[-1])
        return drops

    def assert_unharmed(self, initiator: Initiator) -> None:
        """No process was replaced, no datagram lost before it was counted, and traffic still passes."""
        report = self.report()
        assert {row["incarnation"] for row in report["processes"] if row["role"] != "supervisor"} == {1}
        assert report["counters"]["lost_wakes"] == 0
        assert self.socket_drops() == 0
        initiator.handshake()
        request = echo_request()
        initiator.sockets[0].send(initiator.seal(request))

        def is_reply(answer: bytes) -> bool:
            packet = initiator.open(answer)
            return bool(packet) and packet is not None and packet[20] == 0 and packet[24:44] == request[24:44]

        initiator.await_answer(is_reply)
        initiator.sockets[0].send(initiator.seal(b""))  # so the engine waits for nothing
        words = self.engine.process.output()
        assert "Traceback" not in words and "Sanitizer" not in words, words[-4000:]


def checksum(data: bytes) -> int:
    """The internet checksum of RFC 1071; data of even length."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ipv4(source: bytes, target: bytes, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet without options."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source, target)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(source: bytes, target: bytes, protocol: int, payload: bytes) -> bytes:
    """An IPv6 packet without extension headers."""
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, source, target) + payload


def udp(source_port: int, target_port: int, payload: bytes) -> bytes:
    """A UDP datagram without a checksum, which IPv4 allows."""
    return struct.pack("!HHHH", source_port, target_port, 8 + len(payload), 0) + payload


def echo_request() -> bytes:
    """An ICMP echo request from our inner address to the engine's."""
    body = struct.pack("!BBHHH", 8, 0, 0, 77, 1) + b"is there anybody"
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ipv4(OUR_ADDRESS, ENGINE_ADDRESS, 1, body)


def assert_only_keepalives(initiator: Initiator, answers: Sequence[bytes], most: int) -> None:
    """Every answer is an authentic, empty message of a session, and there are not more than `most`."""
    assert all(initiator.open(answer) == b"" for answer in answers), [answer[:16] for answer in answers]
    assert len(answers) <= most


OUR_ADDRESS = bytes((10, 0, 0, 2))
ENGINE_ADDRESS = bytes((10, 0, 0, 1))
OUR_ADDRESS6 = bytes.fromhex("fd010000000000000000000000000002")
ENGINE_ADDRESS6 = bytes.fromhex("fd010000000000000000000000000001")
