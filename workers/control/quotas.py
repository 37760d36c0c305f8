"""Quotas: peers that may use so many bytes, or that have a time at which they end.

Both are numbers of the peer's row, `plait_quota` and `plait_expires` of a `set`. A peer ran out when the
bytes that it received and sent, as `get` tells them, have come to its quota, or when the wall clock has come
to its time. Then it stays configured, with its allowed IPs and counters, and is cut off:

    index      its sessions leave the index of receiver indices: what it sends belongs to no session
    holder     is ordered to forget the keys, and what waits for a session
    handshake  its initiations are refused (responder.py), and we begin none with it (initiator.py)

A `set` that gives it more, or none of these limits, lets it in again. No packet meets any of this.

Control keeps a byte of RULE_ bits and the time of expiry of each row that has a rule, in memory of its own
(peer_table.h): a look reads no row of a peer that moved nothing since the look before, which the timer
columns tell, 4 bytes a peer. What outlives control is in the row: both limits, the counters, and `ran_out`,
what the peer was cut off for. So a control that comes after a kill cuts off what the dead one had not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from engine import constants, timers
from workers._workers import lib
from workers.control.events import Event

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workers.control.handshakes import Handshakes

SECOND: Final = constants.SECOND
LOOK_EVERY: Final = SECOND // 2  # ns; a peer uses so much more than its quota as goes in that time
MARGIN: Final = SECOND  # bytes are counted a little after the stamp of their packet, within this
JUDGED_A_TURN: Final = 1 << 12  # rows
CUT_A_TURN: Final = 256  # peers
NEVER: Final = 1 << 62  # seconds since 1970, or ns of Pace.now
REASONS: Final = {
    lib.RAN_OUT_QUOTA: "as many bytes went as its quota allows",
    lib.RAN_OUT_EXPIRED: "its time is over",
}


class Quotas:
    """Of one interface. `now` is ns of Pace.now; expiry goes by Pace.wall."""

    def __init__(self, handshakes: Handshakes) -> None:
        self.handshakes = handshakes
        self.peers = handshakes.peers
        self.events = handshakes.events
        self.pace = handshakes.pace
        self.columns = handshakes.timer_columns.columns
        self.due = NEVER  # when to look next
        self.found: deque[NDArray[np.int64]] = deque()  # rows to judge, at most JUDGED_A_TURN in each
        self.leaving: deque[int] = deque()  # rows that are refused handshakes, and are still to be cut off
        self._looked_at = 0
        self._wall = 0  # seconds since 1970 at that look
        self._next_expiry = NEVER

    def begin(self, now: int) -> None:
        """Before the first message: who ran out in the life of a control before this one is refused."""
        self.look(now)
        while self.found:
            self.look(now)

    def is_due(self, now: int, *, is_set_over: bool) -> bool:
        """Whether to look. In the midst of a set that goes on for seconds, its changes wait for the clock."""
        return now >= self.due or self.has_work or (is_set_over and self.peers.table.rules_changed != 0)

    @property
    def has_work(self) -> bool:
        """Whether a look left something for the next turn."""
        return bool(self.found or self.leaving)

    def look(self, now: int) -> None:
        """Find who may have run out since the last look. Judge some of them, and cut some off who did; let in
        who has more again."""
        rules, wall = self.peers.rules[: self.peers.used], self.pace.wall() // SECOND
        if self.peers.table.rules_changed:
            self.peers.table.rules_changed = 0
            changed = np.flatnonzero(rules & lib.RULE_CHANGED)
            rules[changed] &= ~np.uint8(lib.RULE_CHANGED)
            self._find(changed)
            self.due, self._next_expiry = now if rules.any() else NEVER, 0
        if now >= self.due:
            self._find_expired(rules, wall)
            self._find_moved(now)
            self._looked_at, self._wall, self.due = now, wall, now + LOOK_EVERY
        if self.found:
            self._judge(self.found.popleft(), wall, now)
        for _ in range(min(len(self.leaving), CUT_A_TURN)):
            row = self.leaving.popleft()
            if self.peers.is_live(row) and self.peers.has_run_out(row):
                self._cut_off(row)

    def _find(self, rows: NDArray[np.int64]) -> None:
        self.found.extend(rows[at : at + JUDGED_A_TURN] for at in range(0, len(rows), JUDGED_A_TURN))

    def _find_expired(self, rules: NDArray[np.uint8], wall: int) -> None:
        if wall < self._wall:  # the clock went back: who expired may not have
            self._find(np.flatnonzero(rules & lib.RULE_OUT))
            self._next_expiry = 0
        if wall >= self._next_expiry:
            expiries = self.peers.expiries[: len(rules)]
            expires = rules & (lib.RULE_EXPIRES | lib.RULE_OUT) == lib.RULE_EXPIRES
            self._find(np.flatnonzero(expires & (expiries <= wall)))
            left = expiries[expires & (expiries > wall)]
            self._next_expiry = int(left.min()) if len(left) else NEVER

    def _find_moved(self, now: int) -> None:
        """Rows with a quota that may have used some since the look before; before the first, all are found as
        changed."""
        if not self._looked_at:
            return
        rules = self.peers.rules
        since = timers.ticks(now - self._looked_at + MARGIN)
        heard = self.columns[lib.LAST_AUTHENTICATED, : self.peers.used]
        rows = np.flatnonzero(timers.is_younger(heard, since, timers.tick(now)))
        self._find(rows[rules[rows] & (lib.RULE_QUOTA | lib.RULE_OUT) == lib.RULE_QUOTA])

    def _judge(self, rows: NDArray[np.int64], wall: int, now: int) -> None:
        """Who of these ran out, or did and does not any more."""
        columns = self.peers.memory.rows
        quota, expires = columns["quota"][rows], columns["expires"][rows]
        used = sum(columns[name][rows] for name in ("rx_bytes", "tx_bytes", "handshake_rx", "handshake_tx"))
        is_over = (quota != 0) & (used >= quota)
        is_late = (expires != 0) & (expires <= wall)
        is_out, was_out = is_over | is_late, self.peers.rules[rows] & lib.RULE_OUT != 0
        self.peers.rules[rows[is_out]] |= lib.RULE_OUT
        fresh = rows[is_out & ~was_out]
        is_cut = columns["ran_out"][fresh] != 0  # by the control before this one, and nothing came since
        is_cut &= (columns["key_word"][fresh] == 0) & (self.handshakes.keypairs.first[fresh] == 0)
        self.leaving.extend(fresh[~is_cut].tolist())
        self._let_in(rows[~is_out & was_out].tolist(), now)
        reasons = np.where(is_over, lib.RAN_OUT_QUOTA, lib.RAN_OUT_EXPIRED).astype(np.uint16)
        told = is_out & was_out & (columns["ran_out"][rows] != 0)
        columns["ran_out"][rows[told]] = reasons[told]

    def _cut_off(self, row: int) -> None:
        """Again after a kill, too, which may have come between any two of these steps."""
        peer = self.peers.rows[row]
        self.handshakes.initiator.forget(row)
        self.handshakes.initiator.unsent.pop(row, None)
        self.handshakes.unconfirmed.pop(row, None)
        self.handshakes.timer_columns.handshake_dropped(row)
        self.handshakes.keypairs.withdraw_all(row)
        # A session whose installation is ordered comes after ORDER_ZERO: of that one nothing may be sent.
        self.peers.order(row, lib.ORDER_ZERO | lib.ORDER_STOP_SENDING | lib.ORDER_PURGE_STAGED)
        was = int(peer.ran_out)
        is_over = peer.quota and peer.quota <= (
            int(peer.rx_bytes) + int(peer.tx_bytes) + int(peer.handshake_rx) + int(peer.handshake_tx)
        )
        peer.ran_out = lib.RAN_OUT_QUOTA if is_over else lib.RAN_OUT_EXPIRED
        if not was:  # else the control before this one told
            self.events.emit(Event.PEER_RAN_OUT, row, reason=REASONS[peer.ran_out])

    def _let_in(self, rows: Iterable[int], now: int) -> None:
        for row in rows:
            peer = self.peers.rows[row]
            self.peers.rules[row] &= ~np.uint8(lib.RULE_OUT)
            if not peer.ran_out:  # it was not cut off yet
                continue
            peer.ran_out = lib.RAN_OUT_NOT
            self.events.emit(Event.PEER_RENEWED, row)
            if peer.keepalive and self.handshakes.is_up:
                self.handshakes.timer_columns.keepalive_changed(row, now, int(peer.keepalive))
                self.peers.order(row, lib.ORDER_KEEPALIVE)
