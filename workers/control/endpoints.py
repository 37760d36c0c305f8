"""Where peers are reached: `struct endpoint` as Python sees it, and which peers' endpoints wait.

How an endpoint is read and moved is said in endpoints.h: its C serves the batches of a set, a get and the
handshakes as well.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from workers._workers import ffi, lib
from workers.control.pace import PACE, Pace

if TYPE_CHECKING:
    from workers._workers import segment_p

_STRUCT = struct.Struct("<H2sI16s16sII")  # struct endpoint, checked below
_NO_SOURCE = bytes(16)


class Endpoint(NamedTuple):
    """An outer address; `source` and `ifindex` say at which of our addresses we heard from it."""

    address: bytes  # 4 or 16
    port: int
    scope: int = 0  # IPv6 zone index of a link-local address
    source: bytes = b""  # as long as address; empty = none
    ifindex: int = 0

    @property
    def family(self) -> int:
        return socket.AF_INET if len(self.address) == 4 else socket.AF_INET6

    def without_source(self) -> Endpoint:
        return self._replace(source=b"", ifindex=0)

    def pack(self) -> bytes:
        """The 48 bytes of struct endpoint."""
        return _STRUCT.pack(
            self.family, self.port.to_bytes(2, "big"), self.scope, self.address, self.source, self.ifindex, 0
        )

    @classmethod
    def unpack(cls, data: bytes) -> Endpoint | None:
        """From struct endpoint; None when it names nothing."""
        family, port, scope, address, source, ifindex, _ = _STRUCT.unpack(data)
        if family == socket.AF_INET:
            size = 4
        elif family == socket.AF_INET6:
            size = 16
        else:
            return None
        heard = source[:size] if source != _NO_SOURCE else b""
        return cls(address[:size], int.from_bytes(port, "big"), scope, heard, ifindex if heard else 0)


class EndpointOrders:
    """Control's orders to holders to move an endpoint."""

    def __init__(self, segment: segment_p, pace: Pace = PACE) -> None:
        self.pace = pace
        self.segment = segment
        self.place = ffi.new("struct endpoint *")
        self.waiting: dict[int, None] = {}  # rows with a pending endpoint, in the order of `poll`

    def recover(self, rows: Iterable[int]) -> None:
        """Rows with an endpoint that a killed control left waiting."""
        self.waiting = dict.fromkeys(rows)

    def read(self, row: int) -> Endpoint | None:
        """Where the peer is reached: ordered or not yet."""
        lib.endpoint_read(self.segment, row, self.place)
        return Endpoint.unpack(bytes(ffi.buffer(self.place)))

    def move(self, row: int, endpoint: Endpoint) -> int:
        """Bits to give as orders: ORDER_ENDPOINT, or 0 when nothing changes or the endpoint has to wait."""
        ffi.memmove(self.place, endpoint.pack(), _STRUCT.size)
        moved = lib.endpoint_move(self.segment, row, self.place)
        if moved == lib.ENDPOINT_WAITS:
            self.waiting[row] = None
            return 0
        self.waiting.pop(row, None)
        return lib.ORDER_ENDPOINT if moved == lib.ENDPOINT_ORDERED else 0

    def forget(self, row: int) -> None:
        """No endpoint waits any more."""
        self.waiting.pop(row, None)
        lib.endpoint_forget(self.segment, row)

    def poll(self, at: Callable[[int], None] = lambda place: None) -> bool:
        """Give the orders that waited, of some rows. True while others still do. at: is told row + 1."""
        for row in list(islice(self.waiting, self.pace.pending_endpoints)):
            at(row + 1)
            del self.waiting[row]
            if not self._move_waiting(row):
                self.waiting[row] = None  # it is looked at again after the others
        return bool(self.waiting)

    def _move_waiting(self, row: int) -> bool:
        return lib.endpoint_move_waiting(self.segment, row) != 0


if ffi.sizeof("struct endpoint") != _STRUCT.size:
    raise ImportError("struct endpoint changed in shm/layout.h; mend _STRUCT in workers/control/endpoints.py")
