"""Where peers are reached: `struct endpoint` as Python sees it, and control's orders to move one.

The holder owns a peer's endpoint. Control asks for a change by writing `ordered_endpoint` and
ORDER_ENDPOINT, but only while that bit is clear, since the holder may be reading the words; what comes
meanwhile is kept, the latest alone, until the bit is seen clear.
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
_PENDING = struct.Struct("<QQQ")  # its first 24 bytes: family, port, scope, address


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
    """Control's orders to holders to move an endpoint.

    An endpoint that has to wait stands in words of control's own in the row, without its source, so that a
    killed control does not lose what was configured.
    """

    def __init__(self, segment: segment_p, pace: Pace = PACE) -> None:
        self.pace = pace
        self.segment = segment
        self.place = ffi.new("struct endpoint *")
        self.waiting: dict[int, None] = {}  # rows with a pending endpoint, in the order of `poll`

    def recover(self, rows: Iterable[int]) -> None:
        """Find the endpoints that a killed control left in these rows."""
        self.waiting = {row: None for row in rows if self._pending(row) is not None}

    def read(self, row: int) -> Endpoint | None:
        """Where the peer is reached: ordered or not yet."""
        if row in self.waiting:
            return self._pending(row)
        if self._is_ordered(row):
            ordered = ffi.addressof(self.segment.rows[row], "ordered_endpoint")
            return Endpoint.unpack(bytes(ffi.buffer(ordered)))
        lib.endpoint_load(self.segment, row, self.place)
        return Endpoint.unpack(bytes(ffi.buffer(self.place)))

    def move(self, row: int, endpoint: Endpoint) -> int:
        """Bits to give as orders: ORDER_ENDPOINT, or 0 when nothing changes or the endpoint has to wait."""
        if endpoint == self.read(row):
            return 0
        if self._is_ordered(row):
            self._keep(row, endpoint)
            self.waiting[row] = None
            return 0
        self.forget(row)
        self._write(row, endpoint)
        return lib.ORDER_ENDPOINT

    def forget(self, row: int) -> None:
        """No endpoint waits any more."""
        self.waiting.pop(row, None)
        self.segment.rows[row].pending_endpoint[0] = 0

    def poll(self, at: Callable[[int], None] = lambda place: None) -> bool:
        """Give the orders that waited, of some rows. True while others still do. at: is told row + 1."""
        for row in list(islice(self.waiting, self.pace.pending_endpoints)):
            if self._is_ordered(row):
                self.waiting[row] = self.waiting.pop(row)  # it is looked at again after the others
                continue
            at(row + 1)
            pending = self._pending(row)
            if pending is not None:
                self._write(row, pending)
                lib.orders_give(self.segment, row, lib.ORDER_ENDPOINT)
                lib.peer_schedule(self.segment, row)
            self.forget(row)
        return bool(self.waiting)

    def _is_ordered(self, row: int) -> bool:
        return lib.orders_read(self.segment, row) & lib.ORDER_ENDPOINT != 0

    def _write(self, row: int, endpoint: Endpoint) -> None:
        ffi.memmove(ffi.addressof(self.segment.rows[row], "ordered_endpoint"), endpoint.pack(), _STRUCT.size)

    def _keep(self, row: int, endpoint: Endpoint) -> None:
        words = self.segment.rows[row].pending_endpoint
        head, first, second = _PENDING.unpack(endpoint.pack()[: _PENDING.size])
        words[0] = 0  # nothing is kept while the address is half written
        words[1], words[2] = first, second
        words[0] = head

    def _pending(self, row: int) -> Endpoint | None:
        packed = _PENDING.pack(*(int(word) for word in self.segment.rows[row].pending_endpoint))
        return Endpoint.unpack(packed + bytes(_STRUCT.size - _PENDING.size))


if ffi.sizeof("struct endpoint") != _STRUCT.size:
    raise ImportError("struct endpoint changed in shm/layout.h; mend _STRUCT in workers/control/endpoints.py")
