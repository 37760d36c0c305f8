"""New sessions, for whoever publishes them to the other gateways of the key: the answer to `get_sessions`.

A cursor says how far somebody has read: which life of control, and how many sessions it had made. Numbers of
the latest sessions are kept from the first question on; whoever is further behind, or asks with the cursor of
another life, gets every session that is young enough to be used. A session may be told more than once.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine import constants, uapi
from workers.control.engine_report import field
from workers.control.keypairs import Keypairs
from workers.control.peers import LIVE, Peers

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT: Final = 1 << 16  # numbers: 256 KiB, up to twice as many until they are cut
ROWS: Final = 1024  # of a line: 36,864 bytes, 49,152 in base64
ROW: Final = np.dtype(list(uapi.SESSION_ROW))
_COUNT: Final = 0xFFFFFFFF


class NewSessions:
    """Of one life of control. now: ns."""

    def __init__(self, peers: Peers, keypairs: Keypairs, now: Callable[[], int]) -> None:
        self.peers = peers
        self.keypairs = keypairs
        self.now = now
        self.is_asked = False  # somebody wants to know
        self.life = int.from_bytes(os.urandom(4), "little") >> 1 | 1
        self.numbers = array("I")  # keypairs, in the order of their sessions
        self.dropped = 0  # of those that were noted before

    def note(self, numbers: NDArray[np.uint32]) -> None:
        """These keypairs have a session now; 0 is none."""
        if not self.is_asked:
            return
        self.numbers.frombytes(numbers[numbers != 0].tobytes())
        if len(self.numbers) > 2 * KEPT:
            self.dropped += len(self.numbers) - KEPT
            del self.numbers[:-KEPT]

    def answer(self, cursor: int) -> Iterator[bytes]:
        """The answer to a `get_sessions`, in pieces, made while it is sent. cursor: what the last answer
        told, 0 for the first question."""
        self.is_asked = True
        count = self.dropped + len(self.numbers)
        behind = (count - cursor) & _COUNT  # the number of sessions comes round
        if cursor >> 32 == self.life and behind <= len(self.numbers):
            new = np.array(self.numbers[len(self.numbers) - behind :], np.int64)
            pieces = (self._packed(new[i : i + ROWS]) for i in range(0, len(new), ROWS))
        else:
            used = self.keypairs.used
            pieces = (self._packed(np.arange(i, min(i + ROWS, used))) for i in range(1, used, ROWS))
        return uapi.answer_get_sessions(pieces, self.life << 32 | count & _COUNT)

    def _packed(self, numbers: NDArray[np.int64]) -> bytes:
        """Those of these keypairs that may be used, as rows."""
        used = self.keypairs.used

        def entry(name: str) -> NDArray[Any]:
            column: NDArray[Any] = field("struct index_entry", self.keypairs.table, used, (name,), "<u4")
            return column[numbers]

        births = field("struct keypair", self.keypairs.slab, used, ("birth",), "<u8")[numbers]
        # Birth 0: its handshake is in progress, or it rests.
        is_fine = (entry("in_use") != 0) & (births != 0)
        is_fine &= births + np.uint64(constants.REJECT_AFTER_TIME) > self.now()
        indices, rows = entry("index")[is_fine], entry("peer")[is_fine]
        is_peer = rows < self.peers.used
        indices, rows = indices[is_peer], rows[is_peer]
        if not len(rows):
            return b""
        is_live = self.peers.memory.rows["state"][rows] == LIVE
        keys = field("struct peer_row", self.peers.segment.rows, self.peers.used, ("public_key",), "V32")
        found = np.empty(int(np.count_nonzero(is_live)), ROW)
        found["index"], found["public_key"] = indices[is_live], keys[rows[is_live]]
        return found.tobytes()
