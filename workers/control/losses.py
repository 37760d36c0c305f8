"""Packets that were dropped for a reason that somebody can mend, from counters to events.

The processes that carry packets tell control nothing of those that they drop; they count them. Once a
second control looks whether a count has moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workers._workers import lib
from workers.control.endpoints import EndpointOrders
from workers.control.events import Event, Events
from workers.control.peers import Peers
from workers.control.routes import Routes

if TYPE_CHECKING:
    from workers._workers import counter

LOOKED_THROUGH: Final = 256  # rows, for the peer without an endpoint

WATCHED: Final[tuple[tuple[Event, tuple[counter, ...]], ...]] = (
    (Event.MAILBOX_FULL, (lib.DROP_MAILBOX_FULL,)),
    (Event.PACKETS_OF_NO_SESSION, (lib.DROP_INDEX_UNKNOWN,)),
    (Event.PACKETS_DAMAGED, (lib.DROP_DATA_TAG,)),
    (Event.PACKETS_NO_PEER, (lib.DROP_NO_PEER,)),
    (Event.PACKETS_NO_ENDPOINT, (lib.DROP_NO_ENDPOINT,)),
    (Event.PACKETS_WRONG_SOURCE, (lib.DROP_INNER_SOURCE,)),
    (Event.PACKETS_NOT_SENT, (lib.DROP_UDP_SEND, lib.DROP_UDP_FULL, lib.DROP_NO_SOCKET)),
    (Event.PACKETS_LOOPED, (lib.DROP_LOOP,)),
)


class Losses:
    """The counts of the latest events; what was counted before control's life makes no event."""

    def __init__(self, peers: Peers, endpoints: EndpointOrders, events: Events, routes: Routes) -> None:
        self.segment = peers.segment
        self.peers = peers
        self.endpoints = endpoints
        self.events = events
        self.routes = routes
        self.looping: int | None = None  # row of the latest peer that DROP_LOOP was counted for
        self.emitted = [self._count(*counters) for _, counters in WATCHED]
        self.turned_away = self._turned_away()

    def look(self) -> None:
        """Emit what has been dropped since the latest events. A count without a token grows on."""
        for i, (event, counters) in enumerate(WATCHED):
            count = self._count(*counters)
            if count == self.emitted[i] or not self.events.has_token(event):
                continue
            if event is Event.PACKETS_LOOPED and self.looping is None:
                continue  # whoever counted tells the row next
            lost, self.emitted[i] = count - self.emitted[i], count
            if event is Event.PACKETS_LOOPED:
                self._emit_loop(lost)
            else:
                row = self._without_endpoint() if event is Event.PACKETS_NO_ENDPOINT else None
                self.events.emit(event, row, count=lost)
        turned_away = self._turned_away()
        self.events.suppress(Event.MAC1_WRONG, turned_away - self.turned_away)
        self.turned_away = turned_away

    def _emit_loop(self, count: int) -> None:
        """With the peer, and the route that the kernel has to its endpoint now."""
        row, self.looping = self.looping, None
        endpoint = self.endpoints.read(row) if row is not None and self.peers.is_live(row) else None
        if endpoint is not None:
            reason = self.routes.describe(endpoint)
            self.events.emit(Event.PACKETS_LOOPED, row, endpoint, count=count, reason=reason)

    def _turned_away(self) -> int:
        """Messages whose mac1 is wrong that receivers did not show control (datapath/mac1_filter.c)."""
        own = lib.WORKER_CONTROL * lib.COUNTERS_A_WORKER + lib.HS_MAC1_BAD
        return self._count(lib.HS_MAC1_BAD) - int(self.segment.counters[own])

    def _count(self, *counters: counter) -> int:
        return sum(lib.counter_sum(self.segment, counter) for counter in counters)

    def _without_endpoint(self) -> int | None:
        """The peer that it must be: the only one without an endpoint, in a small table."""
        if self.peers.used > LOOKED_THROUGH:
            return None
        rows = [row for row in self.peers.live_rows() if self.endpoints.read(row) is None]
        return rows[0] if len(rows) == 1 else None
