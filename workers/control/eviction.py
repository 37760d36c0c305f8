"""Eviction: peers that were set on demand and are idle go back to the provider.

Only peers with `on_demand` are evicted, and only while a provider serves. Such a peer is idle when its
session is over, no handshake is under way, and for `idle_after` (its own, else the interface's; 0: never)
nothing authentic came from it or went to it; or when it has completed no handshake NEVER_COMPLETED after it
was added.

The provider is told its totals and its greatest timestamp, and the peer is taken away when it answers
`done`. Meanwhile the peer is leaving: an initiation of it is parked and asked about when it is gone, and we
begin no handshake with it, so that what the provider was told stays true. If its counters moved all the
same, it stays, and is offered again.

A provider may be told of one peer several times: it went away before it answered, control was killed, or the
counters moved. So totals are those since the peer was set, and `life` names that time: what is told with the
same life takes the place of what was told before. It is the row's, of this boot, so a kill of control or an
upgrade changes nothing.

Its greatest timestamp comes back by `plait_timestamp`. Where the provider does not keep it, a replay of an
initiation from before the eviction is kept out by lookups.py: it remembers the latest evictions, and has a
floor for the first initiation of any peer on demand.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine import constants, tai64n, timers
from workers._workers import lib
from workers.control.events import Event
from workers.control.peers import LIVE

if TYPE_CHECKING:
    from workers.control.configuration import Configuration

SECOND: Final = constants.SECOND
NEVER_COMPLETED: Final = 90  # seconds
LOOKED_AT: Final = 8192  # rows a second
OFFERED_A_LOOK: Final = 512
REMOVED_A_TURN: Final = 32
ALLOWED_IPS_MOST: Final = 4096  # a peer of more stays: it could not be taken away in one turn
AGAIN: Final = 60 * SECOND  # before a peer that the provider did not take is offered once more


@dataclass(slots=True)
class Leaving:
    """A peer that the provider was told of."""

    row: int
    generation: int
    totals: tuple[int, int]  # bytes received and sent, all that the row counts
    stamp: bytes


class Eviction:
    """Of one interface. idle_after: seconds, 0: never. `now` is ns of Pace.now."""

    def __init__(self, configuration: Configuration, idle_after: int) -> None:
        self.configuration = configuration
        self.peers = configuration.peers
        self.vault = configuration.vault
        self.lookups = configuration.handshakes.lookups
        self.columns = configuration.timer_columns.columns
        self.idle_after = idle_after
        self.boot = int(self.peers.memory.segment.header.generation)
        self.leaving: dict[bytes, Leaving] = {}
        self.later: OrderedDict[bytes, int] = OrderedDict()  # when a key may be offered again
        self.swept = 0

    def look(self, now: int) -> None:
        """Once a second: offer some peers that are idle to the provider."""
        self.lookups.end_if_overdue(now)
        while self.later and next(iter(self.later.values())) <= now:
            self.later.popitem(last=False)
        used = self.peers.used
        if not used or not self.lookups.has_room:
            return
        most = len(self.leaving) + OFFERED_A_LOOK
        first = self.swept if self.swept < used else 0
        last = self.swept = min(first + LOOKED_AT, used)
        for row in self._idle(first, last, timers.tick(now)):
            if not self.lookups.has_room or len(self.leaving) >= most:
                self.swept = row
                return
            self._offer(row, now)

    def _idle(self, first: int, last: int, tick: int) -> list[int]:
        """Rows among first..last-1 whose peers are to go."""
        rows = self.peers.memory.rows[first:last]
        found = np.flatnonzero((rows["on_demand"] != 0) & (rows["state"] == LIVE))
        if not len(found):
            return []
        some, columns = rows[found], self.columns[:, first + found]

        def age(stamps: timers.Rows) -> timers.Wide:
            return tick - timers.widen_all(stamps, tick)

        heard, session = columns[lib.LAST_AUTHENTICATED], columns[lib.SESSION_DERIVED]
        added = age(some["added"])
        silent = np.where(heard == 0, added, np.minimum(age(heard), added))
        has_session = (session != 0) & (age(session) <= timers.EXPIRE)
        seconds = np.where(some["idle_after"] != 0, some["idle_after"], self.idle_after).astype(np.int64)
        limit = -(-seconds * SECOND >> constants.TIMER_TICK_SHIFT)
        is_idle = (limit != 0) & (silent >= limit) & ~has_session & (columns[lib.RETRY_DUE] == 0)
        is_idle |= (some["handshake_sec"] == 0) & (added >= timers.ticks(NEVER_COMPLETED * SECOND))
        return [int(row) for row in first + found[is_idle]]

    def _offer(self, row: int, now: int) -> None:
        key = self.peers.public_key(row)
        if key in self.leaving or key in self.later or self.lookups.is_parked(key):
            return
        if self.peers.count_allowed(row, ALLOWED_IPS_MOST + 1) > ALLOWED_IPS_MOST:
            return
        peer, totals = self.peers.rows[row], self._totals(row)
        stamp = self.vault.timestamp_seen(row)
        if stamp > tai64n.stamp(self.lookups.wall()):
            return  # its clock is ahead of ours: no floor would keep out what it sent. It stays until then
        generation = int(peer.generation)
        self.leaving[key] = Leaving(row, generation, totals, stamp)
        self.lookups.offer(key, now, {
            "life": f"{self.boot:016x}-{row:x}-{generation:x}",
            "timestamp": stamp.hex(),
            "rx": totals[0],
            "tx": totals[1],
            "latest_handshake": int(peer.handshake_sec),
        })  # fmt: skip

    def _totals(self, row: int) -> tuple[int, int]:
        peer = self.peers.rows[row]
        return int(peer.rx_bytes) + int(peer.handshake_rx), int(peer.tx_bytes) + int(peer.handshake_tx)

    def step(self, now: int) -> bool:
        """Once a turn, while no set is being applied: peers of whom the provider answered. True: there are
        more."""
        for _ in range(REMOVED_A_TURN):
            if not self.lookups.offered:
                return False
            key, is_taken = self.lookups.offered.popleft()
            leaving = self.leaving.pop(key)
            is_gone = is_taken and self._take_away(key, leaving)
            self.lookups.left(key, is_gone)
            if not is_gone:
                self.later[key] = now + AGAIN
        return bool(self.lookups.offered)

    def _take_away(self, key: bytes, leaving: Leaving) -> bool:
        """The provider has its totals. False: it was set again meanwhile, or they moved; it stays."""
        row = leaving.row
        if not self.peers.is_generation(row, leaving.generation):
            return False
        has_moved = (self._totals(row), self.vault.timestamp_seen(row)) != (leaving.totals, leaving.stamp)
        is_large = self.peers.count_allowed(row, ALLOWED_IPS_MOST + 1) > ALLOWED_IPS_MOST  # by now
        if has_moved or is_large or not self.peers.rows[row].on_demand:
            return False
        self.configuration.events.emit(Event.PEER_EVICTED, row)
        for _ in self.configuration.remove([row]):
            pass
        self.lookups.count(lib.PEERS_EVICTED, 1)
        return True
