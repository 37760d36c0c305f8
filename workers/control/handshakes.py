"""Handshakes: control answers a batch of messages, and begins handshakes of its own.

Messages come from the receivers' mailbox. Each ends in exactly one of the HS_* counters that are marked (end
message) in shm/counters.h. Before anything is computed: mac1; under load also mac2 and the rate limiter.
Macs, arithmetic and sending are C, one call for a whole batch (handshake_batch.c, engine/handshake.c), so
that a flood costs no Python object per message. In a batch, responses and cookie replies come first, then
the initiations (responder.py), each kind in the order of arrival.

A session is installed before the peer can use it: the keypair is written, the order to install it is given
and scheduled, and only then the response leaves. What must outlive control (the greatest timestamp) is
stored before that, too. A killed control loses only its own handshakes in progress: an ephemeral key is kept
nowhere.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from engine import constants, cookie, ratelimiter, tai64n
from engine.timers import Rows
from workers._workers import ffi, lib
from workers.control.endpoints import EndpointOrders
from workers.control.events import Event, Events
from workers.control.handshake_batch import BATCH, HandshakeBatch, Outcomes
from workers.control.keylog import KeyLog
from workers.control.keypairs import NoKeypair
from workers.control.outgoing import Outgoing
from workers.control.pace import PACE, Pace
from workers.control.peers import Peers
from workers.control.responder import Responder
from workers.control.timer_columns import TimerColumns

if TYPE_CHECKING:
    from workers._workers import counter, handshake_identity_p, handshake_p

LOOKED_AT = 8 * BATCH  # messages a turn
# Of a cell, what the limiter knows a source by: family and the first half of the address, all of an IPv4 one.
_PLACE = {name: field.offset for name, field in ffi.typeof("struct endpoint").fields}
_SOURCE = np.r_[_PLACE["family"] : _PLACE["family"] + 2, _PLACE["address"] : _PLACE["address"] + 8]
# Outcomes of messages that cost work and led to nothing. Those asked for a cookie are among them: while a
# flood lasts so does being under load.
_WASTED = np.array([
    lib.HS_INITIATION_TAG, lib.HS_UNKNOWN_PEER, lib.HS_LOW_ORDER, lib.HS_TIMESTAMP_REPLAYED,
    lib.HS_INITIATION_FLOOD, lib.HS_RESPONSE_TAG, lib.HS_COOKIE_SENT, lib.HS_RATE_LIMITED,
    lib.HS_NO_ROOM,
])  # fmt: skip
FORGOTTEN_A_TURN = 1024  # handshakes in progress
UNSENT = 4096  # peers of whom we remember that our initiation could not leave
UNSENT_A_LOOK = 64  # of those, tried again when routes changed


@dataclass(slots=True)
class InProgress:
    """A handshake that we began and that was not answered yet."""

    row: int
    generation: int
    number: int  # keypair
    handshake: handshake_p  # wiped when it is over
    tries: int  # initiations without an answer, this one included


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
        self.in_progress: dict[int, InProgress] = {}  # by keypair number
        self.numbers: dict[int, int] = {}  # row -> keypair number in progress
        self.limiter = ratelimiter.RateLimiter()
        self.unsent: dict[int, int] = {}  # row -> when the kernel refused our latest initiation
        self.under_load = False
        self.load_until = 0
        # messages that led to nothing or were asked for a cookie, in the second until wasted_until
        self.wasted = 0
        self.wasted_until = 0
        self.begun = 0  # initiations ever made
        self.worked = 0  # messages that macs and limiter let through
        self.cell_bytes = np.frombuffer(ffi.buffer(self.cells), np.uint8).reshape(BATCH, -1)
        self.is_up = True
        self.responder = Responder(self)
        self.load_identity()

    # -- our own key --------------------------------------------------------------------------

    def load_identity(self) -> None:
        """The private key in the vault is another one."""
        key = self.vault.private_key
        self.identity = None if key is None else ffi.new("struct handshake_identity *")
        if key is not None and self.identity is not None:
            lib.handshake_identity(self.crypto_threads.crypto, key, self.identity)
        lib.mac1_filter_learn(self.segment, ffi.NULL if self.identity is None else self.identity.mac1_key)

    # -- the mailbox --------------------------------------------------------------------------

    def take_messages(self, now: int) -> int:
        """Deal with up to a batch of waiting messages; returns how many there were."""
        waiting = lib.mailbox_waiting(self.segment)
        if now >= self.wasted_until:
            self.wasted, self.wasted_until = 0, now + constants.SECOND
        if waiting >= constants.UNDER_LOAD_QUEUE or self.wasted >= self.pace.wasted:
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
            outcomes = np.bincount(self.take_batch(count, under_load, now), minlength=lib.COUNTERS)
            for outcome in np.flatnonzero(outcomes).tolist():
                self.count(cast("counter", outcome), int(outcomes[outcome]))
            self.wasted += int(outcomes[_WASTED].sum())
            taken += count
        return taken

    def take_batch(self, count: int, under_load: bool, now: int) -> Outcomes:
        """Deal with the messages in the first cells; returns the counter of each, its outcome."""
        secret = self._cookie_secret(now) if under_load else None
        identity = self.identity if self.is_up and self.identity is not None else ffi.NULL
        where = ffi.from_buffer("uint8_t[]", self.check_results)
        lib.batch_check(identity, ffi.NULL if secret is None else secret, self.cells, count, where)
        results = self.check_results[:count]
        outcomes = np.zeros(count, np.int64)
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
            take = self._take_response if results[i] == lib.CHECK_RESPONSE else self._take_cookie_reply
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
        old = cookie.CookieSecret(*kept) if kept else None
        fresh = cookie.fresh_secret(old, now)
        if fresh is not old:
            self.vault.store_cookie_secret(fresh.secret, fresh.birth)
        return fresh.secret

    # -- initiator ----------------------------------------------------------------------------

    def wanted(self, row: int, now: int) -> None:
        """EVENT_HANDSHAKE_WANTED: begin one, unless one was sent in the last 5 s; then later."""
        if self.keypairs.has_fresh(row, now, constants.REKEY_TIMEOUT):
            return  # stale: a newer session already exists
        peer = self.peers.rows[row]
        produced = int(peer.ends[lib.OUTBOUND].produced)
        is_fresh = produced != int(peer.outbound_seen)
        if is_fresh:
            # New packets, not the same ones that still wait: the retries may count from 0 again.
            peer.outbound_seen = produced
        is_retrying = self.timer_columns.is_retrying(row)
        if is_fresh or not is_retrying:
            self.timer_columns.handshake_wanted(row)
        if not self.timer_columns.may_send_handshake(row, now):
            self.timer_columns.retry_when_allowed(row, now)
        elif is_fresh or not is_retrying:
            self.initiate(row, now)

    def initiate(self, row: int, now: int, *, is_retry: bool = False) -> bool:
        """Send an initiation. False when the peer cannot be sent one now (no key, endpoint or room)."""
        identity = self.identity
        endpoint = self.endpoints.read(row)
        if not self.is_up or not self.peers.is_live(row):
            return False
        if identity is None:
            self.events.emit(Event.NO_PRIVATE_KEY, row)
            return False
        if endpoint is None:
            self.events.emit(Event.NO_ENDPOINT, row)
            return False
        if is_retry:
            endpoint = endpoint.without_source()
        self.begun += 1
        handshake = ffi.new("struct handshake *")
        handshake.identity = identity
        ffi.memmove(handshake.remote_public, self.peers.public_key(row), constants.KEY_BYTES)
        secret = self.vault.static_static(row)
        if secret is not None:
            ffi.memmove(handshake.static_static, secret, len(secret))
            handshake.has_static_static = 1
            if not any(secret):
                self.events.emit(Event.PEER_KEY_USELESS, row)
                return False  # a key of low order: it stays configured and is sent nothing
        tries = self._tries(row) + 1
        self.forget(row)
        try:
            number, handshake.local_index = self.keypairs.reserve(row)
        except NoKeypair as error:
            self.events.emit(Event.NO_ROOM_TO_BEGIN, row, reason=error.why, mend=error.mend)
            self.refuse_for_room(error)
            self.timer_columns.initiation_sent(row, now)
            return False
        stamp = tai64n.next_stamp(self.pace.wall(), self.vault.timestamp_sent(row))
        ffi.memmove(handshake.timestamp, stamp, len(stamp))
        held, is_usable = self.cookies.usable(row, now)
        if is_usable:
            ffi.memmove(handshake.cookie, held.tobytes(), constants.MAC_BYTES)
            handshake.has_cookie = 1
        self.log_keys(handshake, self.vault.preshared_key(row))
        lib.handshake_create_initiation(self.crypto_threads.crypto, handshake, 1)
        if secret is None:
            self.vault.store_static_static(row, bytes(ffi.buffer(handshake.static_static)))
        if handshake.result != lib.HANDSHAKE_FINE:
            self.keypairs.release(row, number)
            self.events.emit(Event.PEER_KEY_USELESS, row)
            return False
        self.vault.store_timestamp_sent(row, stamp)
        generation = int(self.peers.rows[row].generation)
        self.in_progress[number] = InProgress(row, generation, number, handshake, tries)
        self.numbers[row] = number
        self.timer_columns.initiation_sent(row, now)
        if tries == 1:
            self.events.emit(Event.HANDSHAKE_BEGUN, row, endpoint)
        else:
            self.events.emit(Event.UNANSWERED, row, endpoint, tries=tries - 1)
        message = bytes(ffi.buffer(handshake.initiation))
        self.cookies.message_sent(row, np.frombuffer(message[cookie.MAC1], np.uint8), now)
        outgoing = self.to_send[0]
        ffi.memmove(ffi.addressof(outgoing, "to"), endpoint.pack(), ffi.sizeof("struct endpoint"))
        ffi.memmove(outgoing.message, message, len(message))
        outgoing.length = len(message)
        self.send(1, [row], lib.HS_INITIATION_SENT)
        self.unsent.pop(row, None)
        if int(outgoing.error) and len(self.unsent) < UNSENT:
            self.unsent[row] = now
        self.peers.order(row, lib.ORDER_AUTHENTICATED_SENT | (lib.ORDER_CLEAR_SOURCE if is_retry else 0))
        return True

    def try_unsent(self, now: int) -> None:
        """Routes changed: initiations that could not leave a second ago need not wait for their retry."""
        due = [row for row, tried in self.unsent.items() if now >= tried + constants.SECOND]
        for row in due[:UNSENT_A_LOOK]:
            del self.unsent[row]
            if self.timer_columns.is_retrying(row):  # else it was given up, or there is a session
                self.initiate(row, now, is_retry=True)

    def _take_response(self, message: bytes, cell: int, now: int) -> int:
        receiver_index = int.from_bytes(message[8:12], "little")
        progress = self.in_progress.get(self._number_of(receiver_index)[0])
        if progress is None or not self.peers.is_generation(progress.row, progress.generation):
            self.emit(Event.RESPONSE_UNKNOWN, None, cell)
            return lib.HS_RESPONSE_UNKNOWN
        row, handshake = progress.row, progress.handshake
        ffi.memmove(handshake.response, message, len(message))
        ffi.memmove(handshake.preshared_key, self.vault.preshared_key(row), constants.KEY_BYTES)
        lib.handshake_consume_response(self.crypto_threads.crypto, handshake, 1)
        if handshake.result != lib.HANDSHAKE_FINE:
            is_low_order = handshake.result == lib.HANDSHAKE_LOW_ORDER
            handshake.result = lib.HANDSHAKE_FINE  # as good as before for the true response
            if is_low_order:
                self.emit(Event.LOW_ORDER, row, cell, message=lib.MESSAGE_RESPONSE)
                return lib.HS_LOW_ORDER
            self.emit(Event.RESPONSE_TAG, row, cell)
            return lib.HS_RESPONSE_TAG
        del self.in_progress[progress.number], self.numbers[row]
        self.add_bytes(row, "handshake_rx", len(message))
        self.peers.store_handshake_time(row, self.pace.wall())
        self.timer_columns.handshake_complete(row)
        self.unconfirmed.pop(row, None)
        self.emit(Event.HANDSHAKE_COMPLETE, row, cell, reason="we began it")
        # The keepalive confirms the session to the responder; it is skipped if data is sent first.
        orders = lib.ORDER_AUTHENTICATED_RECEIVED | lib.ORDER_KEEPALIVE | self.move(row, cell)
        self.timer_columns.session_derived(row, now)
        self.install(handshake, [row], [progress.number], [orders], lib.KEYPAIR_INITIATOR, now)
        lib.handshake_wipe(handshake, 1)
        return lib.HS_RESPONSE_ACCEPTED

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
            self.forget(row)

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

    def give_up(self, row: int) -> None:
        """The last of our initiations was not answered either."""
        self.events.emit(Event.GIVEN_UP, row, self.endpoints.read(row), tries=self._tries(row))
        self.forget(row)

    def forget(self, row: int) -> None:
        """Our handshake in progress with this peer, if any, is over."""
        number = self.numbers.pop(row, None)
        if number is not None:
            lib.handshake_wipe(self.in_progress.pop(number).handshake, 1)
            self.keypairs.release(row, number)

    def forget_in_progress(self) -> Iterator[None]:
        """Private key changed or interface down: no handshake in progress can be finished. In slices."""
        self.cookies.forget(slice(self.peers.used))
        self.unconfirmed.clear()
        self.unsent.clear()
        known = iter(self.numbers.copy().items())
        while some := list(islice(known, FORGOTTEN_A_TURN)):
            for row, number in some:
                if self.numbers.get(row) == number:
                    self.forget(row)
            yield

    # -- cookies ------------------------------------------------------------------------------

    def _take_cookie_reply(self, message: bytes, cell: int, now: int) -> int:
        number, row = self._number_of(int.from_bytes(message[4:8], "little"))
        try:
            if not number or not self.peers.is_live(row):
                raise cookie.CookieUnexpected("a cookie reply for nobody")
            self.cookies.consume_reply(row, lambda mac1: self._open_cookie(row, message, mac1), now)
        except cookie.CookieUnexpected:
            self.emit(Event.COOKIE_UNEXPECTED, None, cell)
            return lib.HS_COOKIE_UNEXPECTED
        except cookie.CookieTagWrong:
            self.emit(Event.COOKIE_TAG, None, cell)
            return lib.HS_COOKIE_TAG
        self.events.emit(Event.COOKIE_RECEIVED, row, self.endpoints.read(row))
        return lib.HS_COOKIE_ACCEPTED

    def _open_cookie(self, row: int, message: bytes, mac1: bytes) -> bytes | None:
        opened = ffi.new("uint8_t[]", constants.MAC_BYTES)
        key = self.peers.public_key(row)
        refused = lib.handshake_open_cookie(self.crypto_threads.crypto, key, message, mac1, opened)
        return None if refused else bytes(opened)

    def knows(self, row: int) -> bool:
        """Whether anything of the peer is kept here, so that `removed` has something to do."""
        kept = (self.numbers, self.unconfirmed, self.unsent, self.endpoints.waiting)
        return any(row in each for each in kept)

    def removed(self, row: int) -> None:
        """The peer is being removed."""
        self.forget(row)
        self.cookies.forget(row)
        self.unconfirmed.pop(row, None)
        self.unsent.pop(row, None)
        self.endpoints.forget(row)

    def _tries(self, row: int) -> int:
        """Initiations to this peer that were not answered so far."""
        progress = self.in_progress.get(self.numbers.get(row, 0))
        return progress.tries if progress is not None else 0

    def _number_of(self, index: int) -> tuple[int, int]:
        """(keypair number, row) of a receiver index; number 0 when it is nobody's."""
        row = ffi.new("uint32_t *")
        number = lib.index_lookup(self.keypairs.table, self.keypairs.used, self.keypairs.key, index, row)
        return int(number), int(row[0])
