"""Numbered packets between the insides of two hosts, and how long each flow was silent.

Each end sends a packet of every flow to the other each INTERVAL seconds. Time is our own: a turn of the loop
counts TURN seconds at the most, so that a sender which had no CPU takes nobody for silent.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from plait.lab.namespaces import Host

NUMBER: Final = struct.Struct("!II")  # flow, sequence number
FLOWS: Final = 4  # each way: other TUN queues
PORT: Final = 4000
INTERVAL: Final = 0.01
TURN: Final = 0.05
QUIET_SECONDS: Final = 0.2  # nothing came for so long: nothing is under way
MAX_BYTES: Final = 500  # goes through the least MTU of an operation
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2  # linux/in.h


@dataclass
class Flow:
    """One way of numbered packets, as its reader sees it."""

    sender: socket.socket
    sent: int = 0
    refused: int = 0  # by the sender's kernel: those were never under way
    latest: int = 0
    twice: int = 0
    early: int = 0
    heard_at: float = 0.0
    longest: float = 0.0  # silence since the mark
    seen: set[int] = field(default_factory=set)

    def hear(self, sequence: int, now: float) -> None:
        self.twice += sequence in self.seen
        self.early += sequence < self.latest
        self.seen.add(sequence)
        self.latest = max(self.latest, sequence)
        self.longest = max(self.longest, now - self.heard_at)
        self.heard_at = now


class Inside:
    """What one end sends and reads inside the tunnel."""

    def __init__(self, host: Host, to: str) -> None:
        self.to = to
        self.reader = host.socket()
        self.reader.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self.reader.bind(("", PORT))  # no address, so that it outlives them
        self.reader.setblocking(False)
        self.flows = [Flow(host.socket()) for _ in range(FLOWS)]  # to the other end
        for number, flow in enumerate(self.flows, 1):
            flow.sender.bind(("", PORT + number))
            flow.sender.setblocking(False)
            flow.sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)

    def burst(self) -> None:
        """The next packet of every flow."""
        for number, flow in enumerate(self.flows):
            packet = NUMBER.pack(number, flow.sent + 1).ljust(NUMBER.size + flow.sent * 37 % MAX_BYTES, b"\0")
            try:
                flow.sender.sendto(packet[:MAX_BYTES], (self.to, PORT))
                flow.sent += 1
            except OSError:  # no route, no address, interface down
                flow.refused += 1

    @property
    def sent(self) -> int:
        return sum(flow.sent for flow in self.flows)

    @property
    def arrived(self) -> int:
        """Of these, at the other end; what came twice counts twice."""
        return sum(len(flow.seen) + flow.twice for flow in self.flows)


class Traffic:
    """Both ways, pumped by the caller's thread."""

    def __init__(self, one: Inside, two: Inside) -> None:
        self.ends = (one, two)
        self.selector = selectors.DefaultSelector()
        for end, other in ((one, two), (two, one)):
            self.selector.register(end.reader, selectors.EVENT_READ, other)
        self.now = self.next_at = 0.0
        self.turned_at = time.monotonic()

    @property
    def flows(self) -> list[Flow]:
        return [flow for end in self.ends for flow in end.flows]

    def turn(self, *, send: bool = True) -> bool:
        """Once round the loop; whether something came."""
        now = time.monotonic()
        self.now += min(now - self.turned_at, TURN)
        self.turned_at = now
        if send and self.now >= self.next_at:
            self.next_at = self.now + INTERVAL
            for end in self.ends:
                end.burst()
        ready = self.selector.select(INTERVAL / 4)
        for key, _ in ready:
            with contextlib.suppress(BlockingIOError):
                while True:
                    number, sequence = NUMBER.unpack_from(key.fileobj.recv(1 << 11))  # type: ignore[union-attr]
                    key.data.flows[number].hear(sequence, self.now)
        return bool(ready)

    def pump(self, seconds: float, until: Callable[[], bool]) -> bool:
        """Go on until the condition holds (True), or for so long (False)."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= end:
                return False
            self.turn()
        return True

    def settle(self) -> None:
        """Send nothing until nothing comes."""
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + QUIET_SECONDS:
            if self.turn(send=False):
                quiet_since = time.monotonic()

    def mark(self) -> None:
        """Silence counts from now on."""
        for flow in self.flows:
            flow.heard_at, flow.longest = self.now, 0.0

    def silence(self) -> float:
        """The longest since the mark, of any flow, in seconds."""
        return max(max(flow.longest, self.now - flow.heard_at) for flow in self.flows)

    def flowing(self) -> Callable[[], bool]:
        """A condition: of every flow something came that was sent after this call."""
        marks = [(flow, flow.sent) for flow in self.flows]
        return lambda: all(flow.latest > sent for flow, sent in marks)
