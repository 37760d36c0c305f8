"""Check sticky sources against the routing table, so that an old source does not hide a better route.

Replies leave from the address and interface at which a peer was heard. The kernel module asks the routing
table for each packet (and keeps the answer until routes change), and over IPv4 forgets the source when the
route goes by another interface (socket.c, send4 and send6). Here the kernel is given the source alone, so
each packet takes the interface that the table says; whether the source still fits is asked when routes or
rules change: at once, of every peer that has one, in slices. After each slice control pauses this work for
nine times the slice's length: however often routes change, it takes a tenth of control's time at most.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from time import monotonic_ns

from workers._workers import lib
from workers.control.endpoints import Endpoint, EndpointOrders
from workers.control.peers import NOBODY, Peers
from workers.netlink import drain

SECOND = 1_000_000_000
SLICE = 256  # rows in a turn of control
REST = 9  # times what a slice took, before the next one
LOOKS = 3  # after a change, a second apart: an answer to what left before it brings the old source back

# linux/rtnetlink.h, linux/netlink.h
RTMGRP_IPV4_ROUTE = 0x40
RTMGRP_IPV4_RULE = 0x80
RTMGRP_IPV6_ROUTE = 0x400
RTMGRP_IPV6_RULE = 0x40000
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
NLM_F_REQUEST = 1
RTA_DST, RTA_SRC, RTA_OIF, RTA_MARK = 1, 2, 4, 16
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, both prefix lengths, six more, flags
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type; values here are whole words


class Routes:
    """The watch over routes. `news` is to be selected for; then `drain`, and `step` in each turn."""

    def __init__(
        self, peers: Peers, endpoints: EndpointOrders, clock: Callable[[], int] = monotonic_ns, *,
        is_at_home: bool = True,
    ) -> None:
        """is_at_home: the UDP sockets are of this network namespace, so that its routes are theirs."""
        self.clock = clock  # ns
        self.peers = peers
        self.endpoints = endpoints
        self.is_at_home = is_at_home
        self.news: socket.socket | None = None
        self.questions: socket.socket | None = None  # where the kernel refuses netlink, and away from home
        if is_at_home:
            with contextlib.suppress(OSError):
                self._open()
        self.sequence = 0
        self.looks = 0
        self.at = NOBODY
        self.next_look = 0  # ns; the next of the looks not before this
        self.rest_until = 0  # ns; nor anything else

    def _open(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self.news = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self.news.bind((0, RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_ROUTE | RTMGRP_IPV6_RULE))
        self.questions = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.questions.settimeout(1)  # the kernel answers within the call that asks

    def close(self) -> None:
        for sock in (self.news, self.questions):
            if sock is not None:
                sock.close()

    def drain(self) -> None:
        """Something changed. What it was does not matter."""
        self.looks, self.next_look = LOOKS, 0
        if self.news is not None:
            drain(self.news)

    def due_in(self, now: int) -> float | None:
        """Seconds until `step` has something to do; None when nobody waits for it."""
        if self.at != NOBODY:
            return max(self.rest_until - now, 0) / SECOND
        return max(self.rest_until - now, self.next_look - now, 0) / SECOND if self.looks else None

    def step(self, now: int) -> bool:
        """A slice of the peers, when one is due. True when it is the first of a look."""
        if self.due_in(now) != 0:
            return False
        is_first = self.at == NOBODY
        if is_first:
            self.looks, self.at, self.next_look = self.looks - 1, 0, now + SECOND
        last = min(self.at + SLICE, self.peers.used)
        begin = self.clock()
        for row in self.peers.live_rows(self.at, last):
            endpoint = self.endpoints.read(row)
            if endpoint is not None and not self.agrees(endpoint):
                self.peers.order(row, lib.ORDER_CLEAR_SOURCE)
        self.rest_until = now + (1 + REST) * (self.clock() - begin)
        self.at = last if last < self.peers.used else NOBODY
        return is_first

    def agrees(self, endpoint: Endpoint) -> bool:
        """Whether the route from the source to the endpoint leaves by the source's interface.

        The kernel module asks this of IPv4 alone; with IPv6 a source stays while it is the host's.
        """
        if not endpoint.source or endpoint.family != socket.AF_INET:
            return True
        interface = self.interface(endpoint, int(self.peers.memory.device.fwmark))
        return interface is None or interface == endpoint.ifindex

    def describe(self, endpoint: Endpoint) -> str:
        """The route of what is sent to the endpoint, in words: "dev wg0", "none", or "unknown"."""
        number = self.interface(endpoint.without_source(), int(self.peers.memory.device.fwmark))
        if number:
            try:
                return f"dev {socket.if_indextoname(number)}"
            except OSError:  # gone by now
                return f"dev {number}"
        return "unknown" if number is None else "none"

    def interface(self, endpoint: Endpoint, mark: int) -> int | None:
        """The interface that packets leave by; 0 when there is no such route, None without an answer."""
        if self.questions is None:
            return None
        bits = 8 * len(endpoint.address)
        self.sequence += 1
        body = _ROUTE.pack(endpoint.family, bits, bits if endpoint.source else 0, 0, 0, 0, 0, 0, 0)
        for kind, value in ((RTA_DST, endpoint.address), (RTA_SRC, endpoint.source),
                            (RTA_MARK, struct.pack("=I", mark))):
            if not value:
                continue
            body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
        head = _HEAD.pack(_HEAD.size + len(body), RTM_GETROUTE, NLM_F_REQUEST, self.sequence, 0)
        try:
            self.questions.send(head + body)
            while True:
                answer = self.questions.recv(1 << 13)
                _, kind, _, sequence, _ = _HEAD.unpack_from(answer)
                if sequence == self.sequence:
                    return _oif(answer) if kind == RTM_NEWROUTE else 0
        except OSError:
            return None


def _oif(answer: bytes) -> int:
    """The outgoing interface in an RTM_NEWROUTE message; 0 when it names none."""
    at = _HEAD.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= len(answer):
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == RTA_OIF:
            return int.from_bytes(answer[at + _ATTRIBUTE.size : at + size], "little")
        at += max((size + 3) & ~3, _ATTRIBUTE.size)
    return 0
