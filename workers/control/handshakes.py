"""Handshakes: the mailbox, macs, cookies and the limiter, before the two sides of a handshake.

Messages come from the receivers' mailbox. Each ends in exactly one of the HS_* counters that are marked (end
message) in shm/counters.h, a knock (neighbours.py) in a KNOCK_* counter, whenever control dies: what it had
taken and not counted is counted by the next control, as HS_KILLED (`recover`). Before anything is computed:
mac1; under load also mac2 and the limiter. Macs, arithmetic and sending are C, one call for a whole batch
(handshake_batch.c, engine/handshake.c), so that a flood costs no Python object per message. In a batch,
responses and cookie replies come first (initiator.py), then the initiations (responder.py), each kind in the
order of arrival.

A session is installed before the peer can use it: the keypair is written, the order to install it is given
and scheduled, and only then the response leaves. What must outlive control (the greatest timestamp) is
stored before that, too. A killed control loses only its own handshakes in progress: an ephemeral key is kept
nowhere.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from engine import constants, peer_cookies, ratelimiter
from engine.timers import Rows
from workers._workers import ffi, lib
from workers.control.endpoints import EndpointOrders
from workers.control.events import Event, Events
from workers.control.handshake_batch import BATCH, HandshakeBatch, Outcomes
from workers.control.initiator import Initiator
from workers.control.keylog import KeyLog
from workers.control.lookups import PARKED
from workers.control.neighbours import Neighbours
from workers.control.outgoing import Outgoing
from workers.control.pace import PACE, Pace
from workers.control.peers import Peers
from workers.control.responder import Responder
from workers.control.timer_columns import TimerColumns

if TYPE_CHECKING:
    from workers._workers import counter, handshake_identity_p

log = logging.getLogger(__name__)

LOOKED_AT = 8 * BATCH  # messages a turn
_WORD = 1 << 32  # mailbox_taken comes round
# Of a cell, what the limiter knows a source by: family and the first half of the address, all of an IPv4 one.
_PLACE = {name: field.offset for name, field in ffi.typeof("struct endpoint").fields}
_SOURCE = np.array([_PLACE["family"] + i for i in range(2)] + [_PLACE["address"] + i for i in range(8)])
# A message taken has ended in one of these, is parked, or is in hand.
ENDS = (
    *(end for end in range(lib.HS_MESSAGE_LENGTH, lib.HS_KILLED + 1) if end != lib.HS_MAC2_BAD),
    *range(lib.KNOCK_INITIATED, lib.KNOCK_REFUSED + 1),
)
# Outcomes of messages that cost work and led to nothing. Those asked for a cookie are among them: while a
# flood lasts so does being under load.
_WASTED = np.array([
    lib.HS_INITIATION_TAG, lib.HS_UNKNOWN_PEER, lib.HS_LOW_ORDER, lib.HS_TIMESTAMP_REPLAYED,
    lib.HS_INITIATION_FLOOD, lib.HS_RESPONSE_TAG, lib.HS_COOKIE_SENT, lib.HS_RATE_LIMITED,
    lib.HS_NO_ROOM, lib.HS_RAN_OUT,
])  # fmt: skip


class Handshakes(HandshakeBatch):
    """All handshakes of the interface. `now` is ns of Pace.now throughout."""

    def __init__(
        self,
        peers: Peers,
        timer_columns: TimerColumns,
        endpoints: EndpointOrders,
        outgoing: Outgoing,
        events: Events,
        keylog: KeyLog | None = None,
        pace: Pace = PACE,
    ) -> None:
        super().__init__(peers, timer_columns, endpoints, outgoing, events, keylog, pace)
        self.limiter = ratelimiter.RateLimiter()
        self.under_load = False
        self.load_until = 0
        # messages that led to nothing or were asked for a cookie, in the second until wasted_until
        self.wasted = 0
        self.wasted_until = 0
        self.worked = 0  # messages that macs and limiter let through
        self.cell_bytes = np.frombuffer(ffi.buffer(self.cells), np.uint8).reshape(BATCH, -1)
        self.initiator = Initiator(self)
        self.responder = Responder(self)
        self.neighbours = Neighbours(self, self.initiator)
        self.load_identity()

    # -- our own key --------------------------------------------------------------------------

    def load_identity(self) -> None:
        """The private key in the vault is another one."""
        key = self.vault.private_key
        self.identity = None if key is None else ffi.new("struct handshake_identity *")
        if key is not None and self.identity is not None:
            lib.handshake_identity(self.crypto_threads.crypto, key, self.identity)
        self.lookups.drop()
        lib.mac1_filter_learn(self.segment, ffi.NULL if self.identity is None else self.identity.mac1_key)

    # -- the mailbox --------------------------------------------------------------------------

    def recover(self) -> None:
        """At the start: messages that the control before this one had in hand ended with it; those that it
        had parked wait on."""
        counters = self.segment.counters[
            lib.WORKER_CONTROL * lib.COUNTERS_A_WORKER : (lib.WORKER_CONTROL + 1) * lib.COUNTERS_A_WORKER
        ]
        ended = sum(int(counters[end]) for end in ENDS) + len(self.lookups.parking.places())
        difference = (int(lib.mailbox_taken(self.segment)) - ended) % _WORD
        in_hand = (difference - self.vault.messages_off) % _WORD
        if in_hand <= BATCH:
            self.count(lib.HS_KILLED, in_hand)
        else:
            self.vault.note_messages_off(difference)
            log.warning(
                "the words that count handshake messages were written over; how many ended with the control "
                "process before this one is not known"
            )
        self.lookups.recover()

    def take_messages(self, now: int) -> int:
        """Deal with up to a batch of waiting messages; returns how many there were."""
        waiting = lib.mailbox_waiting(self.segment)
        if now >= self.wasted_until:
            self.wasted, self.wasted_until = 0, now + constants.SECOND
        is_crowded = self.wasted >= self.pace.wasted or self.lookups.is_crowded
        if waiting >= constants.UNDER_LOAD_QUEUE or is_crowded:
            if now >= self.load_until:
                self.events.emit(Event.UNDER_LOAD, count=max(waiting, self.wasted))
            self.load_until = now + constants.UNDER_LOAD_TIME
        under_load = self.under_load = now < self.load_until
        if int(self.segment.device.under_load) != under_load:
            self.segment.device.under_load = under_load
        taken, worked = 0, self.worked
        # What macs and limiter turn away is cheap: many of those fit into a turn, but few of the others.
        while waiting > taken and taken < LOOKED_AT and self.worked - worked < BATCH // 2:
            count = lib.mailbox_take(self.segment, self.cells, BATCH)
            if not count:
                break
            self._tally(self.take_batch(count, under_load, now))
            taken += count
        return taken

    def _tally(self, outcomes: Outcomes) -> None:
        """Count the messages of a batch that have ended."""
        sums = np.bincount(outcomes[outcomes != PARKED], minlength=lib.COUNTERS)
        for outcome in np.flatnonzero(sums).tolist():
            self.count(cast("counter", outcome), int(sums[outcome]))
        self.wasted += int(sums[_WASTED].sum())

    def look_up(self, now: int) -> bool:
        """Once a turn: questions about unknown keys, and answers to parked initiations whose peers are there
        now. True when there is more."""
        self.lookups.step(now)
        self.wasted += self.lookups.wasted
        self.lookups.wasted = 0
        if self.lookups.ready and self.is_up and self.identity is not None:
            count = self.lookups.take_ready(self.cells, BATCH // 2, now)
            outcomes = np.zeros(count, np.int64)
            self.check_results[:count] = lib.CHECK_INITIATION
            if count:
                self.responder.take(count, outcomes, now)
                self._tally(outcomes)
            return bool(self.lookups.ready)
        return False

    def take_batch(self, count: int, under_load: bool, now: int) -> Outcomes:
        """Deal with the messages in the first cells; returns the counter of each, its outcome, or PARKED."""
        secret = self._cookie_secret(now) if under_load else None
        identity = self.identity if self.is_up and self.identity is not None else ffi.NULL
        where = ffi.from_buffer("uint8_t[]", self.check_results)
        lib.batch_check(identity, ffi.NULL if secret is None else secret, self.cells, count, where)
        results = self.check_results[:count]
        outcomes = np.zeros(count, np.int64)
        if (knocks := np.flatnonzero(results == lib.CHECK_KNOCK)).size:
            self.neighbours.take(knocks, outcomes, now)
            self.worked += int(np.count_nonzero(outcomes[knocks] == lib.KNOCK_INITIATED))
        bad_length = results == lib.CHECK_LENGTH
        self._refuse(bad_length, outcomes, lib.HS_MESSAGE_LENGTH, Event.MESSAGE_LENGTH, False)
        if not self.is_up:
            self._refuse(results <= lib.CHECK_COOKIE, outcomes, lib.HS_DOWN, Event.ARRIVED_WHILE_DOWN)
            return outcomes
        if self.identity is None:  # nobody can know the key that we do not have
            no_key = Event.NO_KEY_TO_ANSWER
            self._refuse(results == lib.CHECK_COOKIE, outcomes, lib.HS_COOKIE_UNEXPECTED, no_key)
            self._refuse(results < lib.CHECK_COOKIE, outcomes, lib.HS_NO_KEY, no_key)
            return outcomes
        self._refuse(results == lib.CHECK_MAC1_BAD, outcomes, lib.HS_MAC1_BAD, Event.MAC1_WRONG)
        if secret is not None:
            self._answer_with_cookies(self.identity, count, secret, outcomes)
            self._limit(np.flatnonzero(results < lib.CHECK_COOKIE), outcomes, now)
        self.worked += int(np.count_nonzero(results <= lib.CHECK_COOKIE))
        for i in np.flatnonzero((results == lib.CHECK_COOKIE) | (results == lib.CHECK_RESPONSE)).tolist():
            is_response = results[i] == lib.CHECK_RESPONSE
            take = self.initiator.take_response if is_response else self.initiator.take_cookie_reply
            outcomes[i] = take(self.message(i), i, now)
        if (results == lib.CHECK_INITIATION).any():
            self.responder.take(count, outcomes, now)
        return outcomes

    def _refuse(
        self, which: Any, outcomes: Outcomes, counter: int, event: Event, says_kind: bool = True
    ) -> None:
        """Messages of one verdict; nothing is made of those whose event will not be kept."""
        cells = np.flatnonzero(which)
        if not len(cells):
            return
        outcomes[cells] = int(counter)
        for at, i in enumerate(cells.tolist()):
            if not self.events.has_token(event):
                self.events.suppress(event, len(cells) - at)
                break
            kind = int(self.cells[i].message[0]) if says_kind else 0
            self.events.emit(event, None, self.sender(i), message=kind)

    def _answer_with_cookies(
        self, identity: handshake_identity_p, count: int, secret: bytes, outcomes: Outcomes
    ) -> None:
        results = self.check_results[:count]
        which = (results == lib.CHECK_NO_COOKIE) | (results == lib.CHECK_OLD_COOKIE)
        if not which.any():
            return
        where = ffi.from_buffer("uint8_t[]", self.check_results)
        made = lib.batch_answer_with_cookies(
            self.crypto_threads.crypto, identity, secret, self.cells, count, where, self.to_send
        )
        self.outgoing.send(self.to_send, made)
        failed = int(np.count_nonzero(self.to_send_columns["error"][:made]))
        if failed:
            self.count(lib.HS_SEND_FAILED, failed)
        old = int((results == lib.CHECK_OLD_COOKIE).sum())
        if old:
            self.count(lib.HS_MAC2_BAD, old)
        self._refuse(which, outcomes, lib.HS_COOKIE_SENT, Event.COOKIE_ASKED)

    def _limit(self, which: Any, outcomes: Outcomes, now: int) -> None:
        """Rate-limit per source address, after a valid cookie."""
        sources: dict[bytes, list[int]] = {}
        keys = self.cell_bytes[which[:, None], _SOURCE].tobytes()
        for at, cell in enumerate(which.tolist()):
            sources.setdefault(keys[at * len(_SOURCE) : (at + 1) * len(_SOURCE)], []).append(cell)
        refused = np.zeros(len(outcomes), bool)
        for key, cells in sources.items():
            is_ip4 = int.from_bytes(key[:2], sys.byteorder) == socket.AF_INET
            address = key[2:6] if is_ip4 else key[2:]
            refused[cells[self.limiter.allow(address, now, len(cells)) :]] = True
        self._refuse(refused, outcomes, lib.HS_RATE_LIMITED, Event.RATE_LIMITED)
        self.check_results[: len(outcomes)][refused] = lib.CHECK_LENGTH

    def _cookie_secret(self, now: int) -> bytes:
        kept = self.vault.cookie_secret
        old = peer_cookies.CookieSecret(*kept) if kept else None
        fresh = peer_cookies.fresh_secret(old, now)
        if fresh is not old:
            self.vault.store_cookie_secret(fresh.secret, fresh.birth)
        return fresh.secret

    def key_pair(self, private_key: bytes) -> tuple[bytes, bytes]:
        """(the private key as it is stored: clamped, its public key)."""
        made = ffi.new("struct handshake_identity *")
        lib.handshake_identity(self.crypto_threads.crypto, private_key, made)
        pair = bytes(ffi.buffer(made.private_key)), bytes(ffi.buffer(made.public_key))
        ffi.buffer(made)[:] = bytes(ffi.sizeof("struct handshake_identity"))
        return pair

    # -- of both sides --------------------------------------------------------------------------

    def confirmed(self, rows: Rows) -> None:
        """EVENT_CONFIRMED: these initiators used the sessions that our responses made."""
        if not len(rows):
            return
        self.peers.store_handshake_time(rows, self.pace.wall())
        self.timer_columns.handshake_complete(rows)
        which = rows.tolist()
        self.events.emit_each(
            Event.HANDSHAKE_COMPLETE, which, self.endpoints.read, reason="the peer began it"
        )
        for row in which:
            self.unconfirmed.pop(row, None)
            self.initiator.forget(row)

    def untold(self, row: int, now: int) -> int:
        """EVENT_HOLDER_DIED: the events that the dead holder may have known of, to be taken now.

        What it had been ordered to send may not have been sent, so another keepalive is.
        """
        events = lib.EVENT_TIMER | lib.EVENT_KEYS
        birth, is_ours = self.keypairs.current(row)
        if not birth or now >= birth + constants.REKEY_AFTER_TIME:
            return events
        self.peers.order(row, lib.ORDER_KEEPALIVE)
        peer = self.peers.rows[row]
        noted = int(peer.handshake_sec) * 1_000_000_000 + int(peer.handshake_nsec)
        if not is_ours and noted < self.pace.wall() - (now - birth):
            events |= lib.EVENT_CONFIRMED
        return events

    def forget_in_progress(self) -> Iterator[None]:
        """Private key changed or interface down: no handshake in progress can be finished. In slices."""
        self.cookies.forget(slice(self.peers.used))
        self.unconfirmed.clear()
        yield from self.initiator.forget_all()

    def knows(self, row: int) -> bool:
        """Whether anything of the peer is kept here, so that `removed` has something to do."""
        kept = (self.initiator.numbers, self.unconfirmed, self.initiator.unsent, self.endpoints.waiting)
        return any(row in each for each in kept)

    def removed(self, row: int) -> None:
        """The peer is being removed."""
        self.initiator.forget(row)
        self.cookies.forget(row)
        self.unconfirmed.pop(row, None)
        self.initiator.unsent.pop(row, None)
        self.endpoints.forget(row)

