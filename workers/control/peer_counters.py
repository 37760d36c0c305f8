"""Every peer's counters at once: the answer to `get_counters=1`, for whoever counts many peers.

A line `counters=BASE64` has up to ROWS packed rows (COUNTERS_ROW of engine.uapi). Each line is true when it
is made; the peers of an answer are those that are there when their turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine import uapi
from workers.control.engine_report import field
from workers.control.peers import LIVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workers.control.peers import Peers

ROW: Final = np.dtype(list(uapi.COUNTERS_ROW))
ROWS: Final = 768  # 43,008 bytes, 57,344 in base64
SECOND: Final = 1_000_000_000


def pieces(peers: Peers) -> Iterator[bytes]:
    """Packed rows of live peers, a piece whenever the client has read the one before."""
    first = 0
    while first < peers.used:
        last = min(first + ROWS, peers.used)
        if piece := _packed(peers, first, last):
            yield piece
        first = last


def _packed(peers: Peers, first: int, last: int) -> bytes:
    rows = np.flatnonzero(peers.memory.rows["state"][first:last] == LIVE) + first

    def column(name: str, kind: str) -> NDArray[Any]:
        column: NDArray[Any] = field("struct peer_row", peers.segment.rows, last, (name,), kind)[rows]
        return column

    found = np.empty(len(rows), ROW)
    found["public_key"] = column("public_key", "V32")
    found["rx_bytes"] = column("rx_bytes", "<u8") + column("handshake_rx", "<u8")
    found["tx_bytes"] = column("tx_bytes", "<u8") + column("handshake_tx", "<u8")
    found["handshake"] = column("handshake_sec", "<i8") * SECOND + column("handshake_nsec", "<u4")
    return found.tobytes()
