"""Routes of one protocol number through one interface, in batches, by rtnetlink (linux/rtnetlink.h).

By hand, as workers/netlink.py asks: the process stays, and 100,000 routes are a batch like any other.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final, NamedTuple

from workers.netlink import attribute, attributes

PROTOCOL: Final = 151  # of `ip route show proto 151`; no routing daemon and no kernel uses it
MAIN: Final = 254
BATCH: Final = 128  # requests in one call: a refusal of each fits into the socket's buffer

_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, lengths of dst and src, tos, table, protocol, …
_WORD = struct.Struct("=I")
_NEW, _DELETE, _GET, _ERROR, _DONE = 24, 25, 26, 2, 3
_REQUEST, _ACK, _DUMP, _EXCLUSIVE, _CREATE = 1, 4, 0x300, 0x200, 0x400
_DST, _OIF, _PRIORITY, _TABLE = 1, 4, 6, 15
_UNICAST, _LINK, _ANYWHERE = 1, 253, 255  # a type, and two scopes
_SOL_NETLINK, _STRICT = 270, 12
_ABSENT = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV})  # what is not there needs no removal


class Prefix(NamedTuple):
    """An allowed IP as the kernel has it."""

    family: int
    address: bytes
    length: int

    def __str__(self) -> str:
        return f"{socket.inet_ntop(self.family, self.address)}/{self.length}"


def prefix_of(text: str) -> Prefix:
    """ADDRESS/LENGTH. ValueError when it is none, or has bits behind its length."""
    address, sign, length = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except OSError as error:
        raise ValueError(f"{text!r} is no ADDRESS/LENGTH") from error
    bits = 8 * len(packed)
    number = int(length) if sign else bits
    if not 0 <= number <= bits or int.from_bytes(packed, "big") & ((1 << bits - number) - 1):
        raise ValueError(f"{text!r} is no prefix")
    return Prefix(family, packed, number)


class Route(NamedTuple):
    """To a prefix. Of two with one prefix the smaller metric counts."""

    prefix: Prefix
    metric: int


class KernelRoutes:
    """Those of PROTOCOL through one interface in one table.

    have: the metrics of those that the kernel has, by prefix. foreign: prefixes of other programs' routes
    through the interface, which are better than ours. Every method raises OSError when the kernel refuses
    all of it.
    """

    def __init__(self, link: int, table: int = MAIN) -> None:
        """link: the interface's number."""
        self.link = link
        self.table = table
        self.have: dict[Prefix, set[int]] = {}
        self.foreign: set[Prefix] = set()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(10)
        self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)  # the kernel tells what is asked for, and no more
        self._oif = attribute(_OIF, _WORD.pack(link))

    def close(self) -> None:
        self._socket.close()

    def look(self) -> None:
        """Ask the kernel anew."""
        self.have, self.foreign = {}, set()
        for protocol, table, route in self._dump_all():
            if table == self.table and protocol == PROTOCOL:
                self.have.setdefault(route.prefix, set()).add(route.metric)
            elif table == self.table:
                self.foreign.add(route.prefix)

    def tables(self) -> set[int]:
        """Where there are some."""
        return {table for protocol, table, _ in self._dump_all() if protocol == PROTOCOL}

    def add(self, routes: Sequence[Route]) -> list[tuple[Route, int]]:
        """Those that the kernel refuses, each with its errno."""
        refused = dict(self._request(_NEW, _CREATE | _EXCLUSIVE, _LINK, routes))
        for route in routes:
            if refused.get(route, errno.EEXIST) == errno.EEXIST:
                self.have.setdefault(route.prefix, set()).add(route.metric)
        return [(route, number) for route, number in refused.items() if number != errno.EEXIST]

    def remove(self, routes: Sequence[Route]) -> list[tuple[Route, int]]:
        """Likewise. What is not there is no refusal."""
        refused = dict(self._request(_DELETE, 0, _ANYWHERE, routes))
        for route in routes:
            if refused.get(route, errno.ESRCH) in _ABSENT and (metrics := self.have.get(route.prefix)):
                metrics.discard(route.metric)
                if not metrics:
                    del self.have[route.prefix]
        return [(route, number) for route, number in refused.items() if number not in _ABSENT]

    def withdraw(self) -> int:
        """Remove every one that the kernel has, whoever made it; how many these were."""
        self.look()
        all_of_them = [Route(prefix, metric) for prefix, metrics in self.have.items() for metric in metrics]
        self.remove(all_of_them)
        return len(all_of_them)

    def _request(
        self, kind: int, flags: int, scope: int, routes: Sequence[Route]
    ) -> Iterator[tuple[Route, int]]:
        """Ask for all of them, one call a batch; those that are refused, with an errno."""
        for begin in range(0, len(routes), BATCH):
            batch = routes[begin : begin + BATCH]
            messages = bytearray()
            for number, (prefix, metric) in enumerate(batch):
                head = _ROUTE.pack(prefix.family, prefix.length, 0, 0, self.table if self.table < 256 else 0,
                                    PROTOCOL, scope, _UNICAST, 0)  # fmt: skip
                where = attribute(_DST, prefix.address) + attribute(_PRIORITY, _WORD.pack(metric))
                body = head + where + self._oif + attribute(_TABLE, _WORD.pack(self.table))
                # A refusal comes by itself. That the last one is done says that all are.
                ack = _ACK if number == len(batch) - 1 else 0
                messages += _HEAD.pack(_HEAD.size + len(body), kind, _REQUEST | flags | ack, number, 0) + body
            self._socket.send(messages)
            yield from self._refusals(batch)

    def _refusals(self, batch: Sequence[Route]) -> Iterator[tuple[Route, int]]:
        while True:
            for kind, sequence, body in self._messages():
                if kind != _ERROR:
                    continue
                (number,) = struct.unpack_from("=i", body)
                if number:
                    yield batch[sequence], -number
                if sequence == len(batch) - 1:
                    return

    def _dump_all(self) -> Iterator[tuple[int, int, Route]]:
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from self._dump(family)

    def _dump(self, family: int) -> Iterator[tuple[int, int, Route]]:
        """Of every table, with whose it is and in which table it stands."""
        body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + self._oif
        self._socket.send(_HEAD.pack(_HEAD.size + len(body), _GET, _REQUEST | _DUMP, 0, 0) + body)
        while True:
            for kind, _, data in self._messages():
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (number,) = struct.unpack_from("=i", data)
                    if -number == errno.EAFNOSUPPORT:  # no IPv6
                        return
                    raise OSError(-number, os.strerror(-number))
                if kind == _NEW:
                    _, length, _, _, _, protocol, *_ = _ROUTE.unpack_from(data)
                    values = attributes(data[_ROUTE.size :])
                    (table,), (metric,) = (
                        _WORD.unpack(values.get(kind, bytes(4))) for kind in (_TABLE, _PRIORITY)
                    )
                    none = bytes(4 if family == socket.AF_INET else 16)  # a default route has no destination
                    yield protocol, table, Route(Prefix(family, values.get(_DST, none), length), metric)

    def _messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Of one datagram: type, sequence and body of each."""
        data = self._socket.recv(1 << 18)
        while len(data) >= _HEAD.size:
            length, kind, _, sequence, _ = _HEAD.unpack_from(data)
            yield kind, sequence, data[_HEAD.size : length]
            data = data[(length + 3) // 4 * 4 :]


def withdraw_all(link: int) -> int:
    """Take away those of every table; how many they were."""
    count = 0
    with closing(KernelRoutes(link)) as kernel:
        for table in kernel.tables():
            kernel.table = table
            count += kernel.withdraw()
    return count
