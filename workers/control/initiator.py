"""Initiator: handshakes that we begin, from the wish for a session to the response or the last retry.

A handshake in progress is kept by its keypair number, and its ephemeral key in this process alone. Each row
has at most one: a new initiation ends the one before. A response or a cookie reply names a handshake by the
receiver index of its initiation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from engine import constants, peer_cookies, tai64n
from workers._workers import ffi, lib
from workers.control.endpoints import Endpoint
from workers.control.events import Event
from workers.control.handshake_batch import HandshakeBatch
from workers.control.keypairs import NoKeypair

if TYPE_CHECKING:
    from workers._workers import handshake_p

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
    is_knocked: bool  # it went where a message came from that proved nothing (neighbours.py)
    has_replaced: bool  # and took the place of one that went where the peer is known to be


class Initiator:
    """The initiator's side of a batch, whose cells, messages to send and parts it uses."""

    def __init__(self, batch: HandshakeBatch) -> None:
        self.batch = batch
        self.pace = batch.pace
        self.peers = batch.peers
        self.vault = batch.vault
        self.keypairs = batch.keypairs
        self.timer_columns = batch.timer_columns
        self.endpoints = batch.endpoints
        self.events = batch.events
        self.crypto_threads = batch.crypto_threads
        self.cookies = batch.cookies
        self.unconfirmed = batch.unconfirmed
        self.in_progress: dict[int, InProgress] = {}  # by keypair number
        self.numbers: dict[int, int] = {}  # row -> keypair number in progress
        self.unsent: dict[int, int] = {}  # row -> when the kernel refused our latest initiation

    # -- to begin -----------------------------------------------------------------------------

    def wanted(self, row: int, now: int) -> None:
        """EVENT_HANDSHAKE_WANTED: begin one, unless one was sent in the last 5 s; then later."""
        if self.peers.has_run_out(row):
            self.peers.order(row, lib.ORDER_PURGE_STAGED)  # else what waits would wait for ever
            return
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

    def initiate(
        self, row: int, now: int, *, is_retry: bool = False, to: Endpoint | None = None
    ) -> bool:
        """Send an initiation. False when the peer cannot be sent one now (no key, endpoint or room).

        to: there, instead of where the peer is known to be; the peer moves there only when it answers. If it
        does not, no other initiation follows by itself.
        """
        identity = self.batch.identity
        if is_retry and self._was_in_vain(row):
            return False
        endpoint = to or self.endpoints.read(row)
        if not self.batch.is_up or not self.peers.is_live(row) or self.peers.has_run_out(row):
            return False
        leaving = self.batch.lookups.leaving
        if leaving and self.peers.public_key(row) in leaving:
            return False
        if identity is None:
            self.events.emit(Event.NO_PRIVATE_KEY, row)
            return False
        if endpoint is None:
            self.events.emit(Event.NO_ENDPOINT, row)
            return False
        if is_retry:
            endpoint = endpoint.without_source()
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
        has_replaced = to is not None and row in self.numbers and not self._is_knocked(row)
        self.forget(row)
        try:
            number, handshake.local_index = self.keypairs.reserve(row)
        except NoKeypair as error:
            self.events.emit(Event.NO_ROOM_TO_BEGIN, row, reason=error.why, mend=error.mend)
            self.batch.refuse_for_room(error)
            self.timer_columns.initiation_sent(row, now)
            return False
        stamp = tai64n.next_stamp(self.pace.wall(), self.vault.timestamp_sent(row))
        ffi.memmove(handshake.timestamp, stamp, len(stamp))
        held, is_usable = self.cookies.usable(row, now)
        if is_usable:
            ffi.memmove(handshake.cookie, held.tobytes(), constants.MAC_BYTES)
            handshake.has_cookie = 1
        self.batch.log_keys(handshake, self.vault.preshared_key(row))
        lib.handshake_create_initiation(self.crypto_threads.crypto, handshake, 1)
        if secret is None:
            self.vault.store_static_static(row, bytes(ffi.buffer(handshake.static_static)))
        if handshake.result != lib.HANDSHAKE_FINE:
            self.keypairs.release(row, number)
            self.events.emit(Event.PEER_KEY_USELESS, row)
            return False
        self.vault.store_timestamp_sent(row, stamp)
        generation = int(self.peers.rows[row].generation)
        self.in_progress[number] = InProgress(
            row, generation, number, handshake, tries, to is not None, has_replaced
        )
        self.numbers[row] = number
        self.timer_columns.initiation_sent(row, now)
        if to is not None:
            self.events.emit(Event.KNOCKED, row, endpoint)
        elif tries == 1:
            self.events.emit(Event.HANDSHAKE_BEGUN, row, endpoint)
        else:
            self.events.emit(Event.UNANSWERED, row, endpoint, tries=tries - 1)
        message = bytes(ffi.buffer(handshake.initiation))
        self.cookies.message_sent(row, np.frombuffer(message[peer_cookies.MAC1], np.uint8), now)
        outgoing = self.batch.to_send[0]
        ffi.memmove(ffi.addressof(outgoing, "to"), endpoint.pack(), ffi.sizeof("struct endpoint"))
        ffi.memmove(outgoing.message, message, len(message))
        outgoing.length = len(message)
        self.batch.send(1, [row], lib.HS_INITIATION_SENT)
        self.unsent.pop(row, None)
        if int(outgoing.error) and len(self.unsent) < UNSENT:
            self.unsent[row] = now
        self.peers.order(row, lib.ORDER_AUTHENTICATED_SENT | (lib.ORDER_CLEAR_SOURCE if is_retry else 0))
        return True

    def owes(self, row: int) -> bool:
        """Whether the next initiation to this peer goes where it is known to be, and none before it to who
        knocks: the latest went to one who knocked, and took the place of one of ours, or packets wait. Else
        whoever forges knocks could hold off ours for as long as he likes."""
        progress = self.in_progress.get(self.numbers.get(row, 0))
        if progress is None or not progress.is_knocked or self.endpoints.read(row) is None:
            return False
        peer = self.peers.rows[row]
        is_awaited = int(peer.ends[lib.OUTBOUND].produced) != int(peer.heads[lib.OUTBOUND].consumed)
        return progress.has_replaced or is_awaited

    def _is_knocked(self, row: int) -> bool:
        progress = self.in_progress.get(self.numbers.get(row, 0))
        return progress is not None and progress.is_knocked

    def _was_in_vain(self, row: int) -> bool:
        """Whether the latest initiation went where somebody only claimed to be, and was the last one."""
        if not self._is_knocked(row) or self.owes(row):
            return False
        self.forget(row)
        self.timer_columns.handshake_dropped(row)
        return True

    def try_unsent(self, now: int) -> None:
        """Routes changed: initiations that could not leave a second ago need not wait for their retry."""
        due = [row for row, tried in self.unsent.items() if now >= tried + constants.SECOND]
        for row in due[:UNSENT_A_LOOK]:
            del self.unsent[row]
            if self.timer_columns.is_retrying(row):  # else it was given up, or there is a session
                self.initiate(row, now, is_retry=True)

    # -- what is answered -----------------------------------------------------------------------

    def take_response(self, message: bytes, cell: int, now: int) -> int:
        receiver_index = int.from_bytes(message[8:12], "little")
        progress = self.in_progress.get(self._number_of(receiver_index)[0])
        if progress is None or not self.peers.is_generation(progress.row, progress.generation):
            self.batch.emit(Event.RESPONSE_UNKNOWN, None, cell)
            return lib.HS_RESPONSE_UNKNOWN
        row, handshake = progress.row, progress.handshake
        ffi.memmove(handshake.response, message, len(message))
        ffi.memmove(handshake.preshared_key, self.vault.preshared_key(row), constants.KEY_BYTES)
        lib.handshake_consume_response(self.crypto_threads.crypto, handshake, 1)
        if handshake.result != lib.HANDSHAKE_FINE:
            is_low_order = handshake.result == lib.HANDSHAKE_LOW_ORDER
            handshake.result = lib.HANDSHAKE_FINE  # as good as before for the true response
            if is_low_order:
                self.batch.emit(Event.LOW_ORDER, row, cell, message=lib.MESSAGE_RESPONSE)
                return lib.HS_LOW_ORDER
            self.batch.emit(Event.RESPONSE_TAG, row, cell)
            return lib.HS_RESPONSE_TAG
        del self.in_progress[progress.number], self.numbers[row]
        self.batch.add_bytes(row, "handshake_rx", len(message))
        self.peers.store_handshake_time(row, self.pace.wall())
        self.timer_columns.handshake_complete(row)
        self.unconfirmed.pop(row, None)
        self.batch.emit(Event.HANDSHAKE_COMPLETE, row, cell, reason="we began it")
        # The keepalive confirms the session to the responder; it is skipped if data is sent first.
        orders = lib.ORDER_AUTHENTICATED_RECEIVED | lib.ORDER_KEEPALIVE | self.batch.move(row, cell)
        self.timer_columns.session_derived(row, now)
        self.batch.install(handshake, [row], [progress.number], [orders], lib.KEYPAIR_INITIATOR, now)
        lib.handshake_wipe(handshake, 1)
        return lib.HS_RESPONSE_ACCEPTED

    def take_cookie_reply(self, message: bytes, cell: int, now: int) -> int:
        number, row = self._number_of(int.from_bytes(message[4:8], "little"))
        try:
            if not number or not self.peers.is_live(row):
                raise peer_cookies.CookieUnexpected("a cookie reply for nobody")
            self.cookies.consume_reply(row, lambda mac1: self._open_cookie(row, message, mac1), now)
        except peer_cookies.CookieUnexpected:
            self.batch.emit(Event.COOKIE_UNEXPECTED, None, cell)
            return lib.HS_COOKIE_UNEXPECTED
        except peer_cookies.CookieTagWrong:
            self.batch.emit(Event.COOKIE_TAG, None, cell)
            return lib.HS_COOKIE_TAG
        self.events.emit(Event.COOKIE_RECEIVED, row, self.endpoints.read(row))
        return lib.HS_COOKIE_ACCEPTED

    def _open_cookie(self, row: int, message: bytes, mac1: bytes) -> bytes | None:
        opened = ffi.new("uint8_t[]", constants.MAC_BYTES)
        key = self.peers.public_key(row)
        refused = lib.handshake_open_cookie(self.crypto_threads.crypto, key, message, mac1, opened)
        return None if refused else bytes(opened)

    # -- the end --------------------------------------------------------------------------------

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

    def forget_all(self) -> Iterator[None]:
        """No handshake in progress can be finished: all are over. In slices."""
        self.unsent.clear()
        known = iter(self.numbers.copy().items())
        while some := list(islice(known, FORGOTTEN_A_TURN)):
            for row, number in some:
                if self.numbers.get(row) == number:
                    self.forget(row)
            yield

    def _tries(self, row: int) -> int:
        """Initiations to this peer that were not answered so far."""
        progress = self.in_progress.get(self.numbers.get(row, 0))
        return progress.tries if progress is not None else 0

    def _number_of(self, index: int) -> tuple[int, int]:
        """(keypair number, row) of a receiver index; number 0 when it is nobody's."""
        row = ffi.new("uint32_t *")
        number = lib.index_lookup(self.keypairs.table, self.keypairs.used, self.keypairs.key, index, row)
        return int(number), int(row[0])
