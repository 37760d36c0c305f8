"""Which peers carry most: the answer to `get_busiest=N`, for whoever watches a running engine.

    {"interval_ms": 1000.2,           what the rates are of; null in the first answer, which has no rates
     "active": 3,                     peers with bytes in it
     "rx_rate": 1800.0, "tx_rate": 925.5,     bytes a second, of all peers together
     "peers": [{"public_key": "base64", "name": "alice", "endpoint": "192.0.2.1:51820" | null,
                "allowed_ips": ["10.0.0.2/32"],
                "allowed_ips_more": 0, "latest_handshake": 1764000000, "rx_bytes": 123, "tx_bytes": 456,
                "rx_rate": 0.0, "tx_rate": 0.0, "waiting_in": 0, "waiting_out": 0}, …]}

The busiest come first, then those heard of last; allowed_ips has the first of many.

Rates are differences between two samples of every peer's bytes. Control keeps one sample in its own memory,
16 bytes a peer; all clients share it, and it is dropped when no client asks any more. Samples after the
first one look only at peers that sent or received since the sample before: their stamps stand in one dense
column (engine/timers.h), so that an idle peer costs 4 bytes to read. Clients in quick succession get the
same sample: many of them cost no more than one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import timers
from workers._workers import lib
from workers.control.engine_report import field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.uapi import PeerRecord
    from workers.control.memory import Memory

SECOND = 1_000_000_000
SAMPLE_INTERVAL = SECOND * 2 // 5  # ns; who asks again within it gets the same sample
FORGET = 30 * SECOND  # a sample is dropped when nobody asked for so long
MARGIN = SECOND  # bytes are counted a little after the stamp of their packet, within this
SHOWN_IPS = 3
COUNTED_IPS = 1 << 12  # who has more is said to have so many
_NAMES = ("rx_bytes", "tx_bytes")  # of struct peer_row, in the order of _known and _rates
LATELY = (10 * SECOND, 600 * SECOND, 1 << 62)  # ages that are tried until there are rows enough
WHOLE = 4096  # rows that are sorted by when they were heard of, at most


class Busiest:
    """Samples of all peers' byte counters. Times are ns of lib.clock_now, rates bytes a second."""

    def __init__(self, memory: Memory, count_allowed: Callable[[int, int], int]) -> None:
        self.memory = memory
        self.count_allowed = count_allowed
        self.interval = 0  # ns that the rates are of; 0 = there are none
        self._at = 0  # when the sample was taken; 0 = there is none
        self._asked = 0
        self._forget()

    def sample(self, now: int) -> None:
        """Take a new sample, unless the one before is young."""
        self._asked = now
        if self._at and now - self._at < SAMPLE_INTERVAL:
            return
        used = min(int(self.memory.device.rows_used), self.memory.max_peers)
        counters = self._counters(used)
        if not self._at:
            self._known = np.stack(counters)
        else:
            self._compare(now, used, counters)
        self._at = now

    def rest(self, now: int) -> None:
        """Forget everything when nobody asks any more. To be called once a second or so."""
        if self._at and now - self._asked > FORGET:
            self._at = 0
            self._forget()

    def rows(self, count: int) -> list[int]:
        """Up to count rows, the busiest first, then those heard of last. Some may be unused."""
        order = np.argsort(-self._rates.sum(axis=0), kind="stable")[:count]
        busiest = self._active[order]
        if len(busiest) == count:
            return [int(row) for row in busiest]
        latest = self._heard_lately(count)
        is_busiest = np.zeros(self._known.shape[1], np.bool_)
        is_busiest[busiest] = True
        live = ~is_busiest[latest] & (self.memory.rows["state"][latest] != 0)
        return [int(row) for row in (*busiest, *latest[live])][:count]

    def _heard_lately(self, count: int) -> NDArray[np.int64]:
        """Rows with a stamp, the latest first, then others. Of many, some: a sort of all is not worth it."""
        heard = self.memory.columns[lib.LAST_AUTHENTICATED, : self._known.shape[1]]
        rows, now = np.zeros(0, np.int64), timers.tick(self._at)
        for age in LATELY:
            rows = np.flatnonzero(timers.is_younger(heard, timers.ticks(age), now))
            if len(rows) >= 2 * count:  # twice: the busiest may be among them
                break
        rows = rows[:WHOLE]
        latest = rows[np.argsort(timers.widen_all(heard[rows], now), kind="stable")[::-1]]
        return np.concatenate([latest, np.flatnonzero(heard[:WHOLE] == 0)])

    def report(self, peers: list[tuple[int, PeerRecord]]) -> dict[str, Any]:
        """The latest sample with these peers, ready for json.dumps."""
        receiving, sending = self._rates.sum(axis=1)
        return {
            "interval_ms": round(self.interval / 1e6, 1) if self.interval else None,
            "active": len(self._active),
            "rx_rate": round(float(receiving), 1),
            "tx_rate": round(float(sending), 1),
            "peers": [self._peer(row, record, *self._rates_of(row)) for row, record in peers],
        }

    def _rates_of(self, row: int) -> tuple[float, float]:
        place = int(np.searchsorted(self._active, row))  # ascending
        if place < len(self._active) and self._active[place] == row:
            return float(self._rates[0, place]), float(self._rates[1, place])
        return 0.0, 0.0

    def _peer(self, row: int, record: PeerRecord, receiving: float, sending: float) -> dict[str, Any]:
        more = self.count_allowed(row, COUNTED_IPS) - SHOWN_IPS
        peer = self.memory.segment.rows[row]
        depth = [(peer.ends[d].produced - peer.heads[d].consumed) & 0xFFFFFFFF for d in range(lib.DIRECTIONS)]
        waiting = [each if each < 1 << 31 else 0 for each in depth]  # taken before it was counted: none
        return {
            "public_key": b64encode(record.public_key).decode(),
            "name": record.name,
            "endpoint": str(record.endpoint) if record.endpoint else None,
            "allowed_ips": [str(ip) for ip in record.allowed_ips][:SHOWN_IPS],
            "allowed_ips_more": max(more, 0),
            "latest_handshake": record.handshake_sec,
            "rx_bytes": record.rx_bytes,
            "tx_bytes": record.tx_bytes,
            "rx_rate": round(receiving, 1),
            "tx_rate": round(sending, 1),
            "waiting_in": waiting[lib.INBOUND],
            "waiting_out": waiting[lib.OUTBOUND],
        }

    def _counters(self, used: int) -> list[NDArray[np.uint64]]:
        """Received and sent bytes of rows 0..used-1 where they stand: 8 bytes of every 512."""
        rows = self.memory.segment.rows
        return [field("struct peer_row", rows, used, (name,), "<u8") for name in _NAMES]

    def _compare(self, now: int, used: int, counters: list[NDArray[np.uint64]]) -> None:
        """Find who sent or received since the sample before, and how much."""
        if used > self._known.shape[1]:
            new = np.zeros((len(counters), used - self._known.shape[1]), np.uint64)
            self._known = np.concatenate([self._known, new], axis=1)
        heard = self.memory.columns[lib.LAST_AUTHENTICATED, :used]
        since = timers.ticks(now - self._at + MARGIN)
        rows = np.flatnonzero(timers.is_younger(heard, since, timers.tick(now)))
        latest = np.stack([column[rows] for column in counters])
        before = self._known[:, rows]
        self._known[:, rows] = latest
        moved = np.where(latest >= before, latest - before, latest)  # less: another peer has the row now
        busy = moved.any(axis=0)
        self.interval = now - self._at
        self._active = rows[busy]
        self._rates = moved[:, busy] * (SECOND / self.interval)

    def _forget(self) -> None:
        self.interval = 0
        self._known = np.zeros((2, 0), np.uint64)
        self._active = np.zeros(0, np.int64)
        self._rates = np.zeros((2, 0))
