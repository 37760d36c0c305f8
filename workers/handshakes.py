"""Handshakes: what control does with a message, and how it begins one itself.

Messages come from the receivers' mailbox. Each ends in exactly one of the HS_* counters that are marked
(end) in shm/counters.h. Before anything is computed: mac1; under load also mac2 and the rate limiter.

A session is installed before the peer can use it: the keypair is written, the order to install it is
given and scheduled, and only then the response leaves. What must outlive control (the greatest
timestamp) is stored before that, too. A handshake of our own in progress is the one thing that a killed
control loses: an ephemeral key is kept nowhere.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from engine import constants, cookie, messages, noise, ratelimiter, tai64n
from workers._workers import ffi, lib
from workers.endpoints import Endpoint, EndpointOrders
from workers.events import Event, Events
from workers.keylog import KeyLog
from workers.keypairs import NoKeypair
from workers.outgoing import Outgoing
from workers.peers import HANDSHAKE_RX, HANDSHAKE_TX, OUTBOUND_SEEN, Peers
from workers.stamps import Stamps

log = logging.getLogger(__name__)

BATCH = 64
UNCONFIRMED = 4096  # peers of whom we remember that they did not confirm our answer
COOKIE_MEMORY = constants.COOKIE_SECRET_MAX_AGE  # what a peer's cookie, or our mac1, can still be good for


@dataclass(slots=True)
class InProgress:
    """A handshake that we began and that was not answered yet."""

    row: int
    generation: int
    number: int  # keypair
    state: noise.InitiationSent
    tries: int  # initiations without an answer, this one included


@dataclass(slots=True)
class PeerCookie:
    """A peer's cookie and when we last sent it something that a cookie reply may answer."""

    holder: cookie.CookieHolder
    sent: int


class Handshakes:
    """All handshakes of the interface. `now` is ns of lib.clock_now throughout."""

    def __init__(
        self,
        peers: Peers,
        stamps: Stamps,
        endpoints: EndpointOrders,
        outgoing: Outgoing,
        events: Events,
        keylog: KeyLog | None = None,
    ) -> None:
        self.peers = peers
        self.segment = peers.segment
        self.vault = peers.vault
        self.keypairs = peers.keypairs
        self.stamps = stamps
        self.endpoints = endpoints
        self.outgoing = outgoing
        self.events = events
        self.keylog = keylog
        self.identity: noise.Identity | None = None
        self.in_progress: dict[int, InProgress] = {}  # by keypair number
        self.numbers: dict[int, int] = {}  # row -> keypair number in progress
        self.cookies: dict[int, PeerCookie] = {}
        self.limiter = ratelimiter.RateLimiter()
        self.unconfirmed: dict[int, int] = {}  # row -> answers of ours without a word in the new session
        self.load_until = 0
        self.cells = ffi.new("struct mailbox_cell[]", BATCH)
        self.complained_about_keypairs = False
        self.is_up = True
        self.load_identity()

    # -- our own key --------------------------------------------------------------------------

    def load_identity(self) -> None:
        """The private key in the vault is another one."""
        key = self.vault.private_key
        self.identity = noise.Identity(key) if key is not None else None

    # -- the mailbox --------------------------------------------------------------------------

    def take_messages(self, now: int) -> int:
        """Deal with up to a batch of waiting messages; returns how many there were."""
        waiting = int(lib.mailbox_waiting(self.segment))
        if waiting >= constants.UNDER_LOAD_QUEUE:
            if now >= self.load_until:
                self.events.tell(Event.UNDER_LOAD, count=waiting)
            self.load_until = now + constants.UNDER_LOAD_TIME
        under_load = now < self.load_until
        if int(self.segment.device.under_load) != under_load:
            self.segment.device.under_load = under_load
        if not waiting:
            return 0
        count = int(lib.mailbox_take(self.segment, self.cells, BATCH))
        for i in range(count):
            cell = self.cells[i]
            length = min(int(cell.length), lib.MAILBOX_MESSAGE_BYTES)
            message = bytes(ffi.buffer(cell.message, length))
            endpoint = Endpoint.unpack(bytes(ffi.buffer(ffi.addressof(cell, "from"))))
            self._count(self.take_message(message, endpoint, under_load, now))
        return count

    def take_message(self, message: bytes, sender: Endpoint | None, under_load: bool, now: int) -> int:
        """Deal with one message; returns the counter that says what became of it."""
        try:
            kind = messages.message_type(message)
        except messages.MessageError:
            kind = messages.DATA
        if kind == messages.DATA or sender is None:
            self.events.tell(Event.MESSAGE_LENGTH, None, sender)
            return int(lib.HS_MESSAGE_LENGTH)
        if not self.is_up:
            self.events.tell(Event.ARRIVED_WHILE_DOWN, None, sender, message=kind)
            return int(lib.HS_DOWN)
        if self.identity is None:  # nobody can know the key that we do not have
            self.events.tell(Event.NO_KEY_TO_ANSWER, None, sender, message=kind)
            return int(lib.HS_COOKIE_UNEXPECTED if kind == messages.COOKIE else lib.HS_MAC1_BAD)
        if kind == messages.COOKIE:
            return self._take_cookie_reply(message, sender, now)
        refused = self._check_macs(self.identity, message, sender, under_load, now)
        if refused is not None:
            return refused
        if kind == messages.INITIATION:
            return self._take_initiation(self.identity, message, sender, now)
        return self._take_response(self.identity, message, sender, now)

    def _check_macs(
        self, identity: noise.Identity, message: bytes, sender: Endpoint, under_load: bool, now: int
    ) -> int | None:
        """None when the message may go on, else its counter."""
        if not under_load:
            if cookie.mac1_is_right(identity.mac1_key, message):
                return None
            self.events.tell(Event.MAC1_WRONG, None, sender, message=message[0])
            return int(lib.HS_MAC1_BAD)
        secret = self._cookie_secret(now)
        check = cookie.check_macs(identity.mac1_key, secret, message, sender.address, sender.port)
        if check is cookie.MacCheck.INVALID:
            self.events.tell(Event.MAC1_WRONG, None, sender, message=message[0])
            return int(lib.HS_MAC1_BAD)
        if check is cookie.MacCheck.NO_COOKIE:
            if message[cookie.MAC2] != cookie.NO_MAC:
                self._count(lib.HS_MAC2_BAD)
            reply = cookie.create_cookie_reply(
                identity.cookie_key, secret, message, sender.address, sender.port
            )
            if not self.outgoing.send(reply, sender)[0]:
                self._count(lib.HS_SEND_FAILED)
            self.events.tell(Event.COOKIE_ASKED, None, sender, message=message[0])
            return int(lib.HS_COOKIE_SENT)
        if self.limiter.allow(sender.address, now):
            return None
        self.events.tell(Event.RATE_LIMITED, None, sender, message=message[0])
        return int(lib.HS_RATE_LIMITED)

    def _cookie_secret(self, now: int) -> bytes:
        kept = self.vault.cookie_secret
        old = cookie.CookieSecret(*kept) if kept else None
        fresh = cookie.fresh_secret(old, now)
        if fresh is not old:
            self.vault.store_cookie_secret(fresh.secret, fresh.birth)
        return fresh.secret

    # -- responder ----------------------------------------------------------------------------

    def _take_initiation(self, identity: noise.Identity, message: bytes, sender: Endpoint, now: int) -> int:
        try:
            opened = noise.open_initiation(identity, message)
        except noise.LowOrder:
            self.events.tell(Event.LOW_ORDER, None, sender, message=messages.INITIATION)
            return int(lib.HS_LOW_ORDER)
        except noise.StaticTagWrong:
            self.events.tell(Event.INITIATION_TAG, None, sender)
            return int(lib.HS_INITIATION_TAG)
        key = opened.peer_public_key
        row = self.peers.find(key)
        if row is None:
            self.events.tell(Event.UNKNOWN_PEER, None, sender, key=key)
            return int(lib.HS_UNKNOWN_PEER)
        try:
            timestamp, opened = noise.open_timestamp(opened, self._static_static(identity, row))
        except noise.LowOrder:
            self.events.tell(Event.LOW_ORDER, None, sender, key=key, message=messages.INITIATION)
            return int(lib.HS_LOW_ORDER)
        except noise.TimestampTagWrong:
            self.events.tell(Event.INITIATION_TAG, None, sender, key=key)
            return int(lib.HS_INITIATION_TAG)
        if not tai64n.later(timestamp, self.vault.timestamp_seen(row)):
            self.events.tell(Event.TIMESTAMP_REPLAYED, row, sender)
            return int(lib.HS_TIMESTAMP_REPLAYED)
        if self.stamps.is_flood(row, now):
            self.events.tell(Event.INITIATION_FLOOD, row, sender)
            return int(lib.HS_INITIATION_FLOOD)
        try:
            number, index = self.keypairs.reserve(row)
        except NoKeypair as error:
            self.events.tell(Event.NO_ROOM_TO_ANSWER, row, sender)
            return self._refuse_for_room(error)
        psk = self.vault.preshared_key(row)
        ephemeral = self._ephemeral(identity, opened.peer_public_key, psk)
        try:
            body, session = noise.create_response(opened, psk, index, ephemeral)
        except noise.LowOrder:
            self.keypairs.release(row, number)
            self.events.tell(Event.LOW_ORDER, row, sender, message=messages.INITIATION)
            return int(lib.HS_LOW_ORDER)
        self.vault.store_timestamp_seen(row, timestamp)
        self.stamps.initiation_accepted(row, now)
        self._add_bytes(row, HANDSHAKE_RX, len(message))
        orders = lib.ORDER_AUTHENTICATED_RECEIVED | lib.ORDER_AUTHENTICATED_SENT
        orders |= self._move(row, sender)
        self._tell_answer(row, sender)
        self._install(row, number, session, now, orders)
        self.stamps.response_sent(row, now)
        response = self._close(row, body, noise.mac1_key(opened.peer_public_key), now)
        self._send(row, response, sender, lib.HS_RESPONSE_SENT)
        return int(lib.HS_INITIATION_ACCEPTED)

    # -- initiator ----------------------------------------------------------------------------

    def wanted(self, row: int, now: int) -> None:
        """EVENT_HANDSHAKE_WANTED: begin one, unless one was sent in the last 5 s; then later."""
        if self.keypairs.has_fresh(row, now, constants.REKEY_TIMEOUT):
            return  # the wish is older than the session that fulfils it
        produced = int(self.peers.rows[row].ends[lib.OUTBOUND].produced)
        is_fresh = produced != self.peers.remembered(row, OUTBOUND_SEEN)
        if is_fresh:
            # New packets, not the same ones that still wait: the retries may count from 0 again.
            self.peers.remember(row, OUTBOUND_SEEN, produced)
        is_retrying = self.stamps.is_retrying(row)
        if is_fresh or not is_retrying:
            self.stamps.handshake_wanted(row)
        if not self.stamps.may_send_handshake(row, now):
            self.stamps.retry_when_allowed(row)
        elif is_fresh or not is_retrying:
            self.initiate(row, now)

    def initiate(self, row: int, now: int, *, is_retry: bool = False) -> bool:
        """Send an initiation. False when the peer cannot be sent one now (no key, endpoint or room)."""
        identity = self.identity
        endpoint = self.endpoints.read(row)
        if not self.is_up or not self.peers.is_live(row):
            return False
        if identity is None:
            self.events.tell(Event.NO_PRIVATE_KEY, row)
            return False
        if endpoint is None:
            self.events.tell(Event.NO_ENDPOINT, row)
            return False
        if is_retry:
            endpoint = endpoint.without_source()
        secret = self._static_static(identity, row)
        if not any(secret):
            self.events.tell(Event.PEER_KEY_USELESS, row)
            return False  # a key of low order: it stays configured and is sent nothing
        tries = self._tries(row) + 1
        self.forget(row)
        try:
            number, index = self.keypairs.reserve(row)
        except NoKeypair as error:
            self.events.tell(Event.NO_ROOM_TO_BEGIN, row)
            self._refuse_for_room(error)
            self.stamps.initiation_sent(row, now)
            return False
        keys = noise.PeerKeys(identity, self.peers.public_key(row), secret)
        stamp = tai64n.next_stamp(int(lib.clock_wall()), self.vault.timestamp_sent(row))
        self.vault.store_timestamp_sent(row, stamp)
        ephemeral = self._ephemeral(identity, keys.public_key, self.vault.preshared_key(row))
        try:
            body, state = noise.create_initiation(identity, keys, index, stamp, ephemeral)
        except noise.LowOrder:
            self.keypairs.release(row, number)
            return False
        generation = int(self.peers.rows[row].generation)
        self.in_progress[number] = InProgress(row, generation, number, state, tries)
        self.numbers[row] = number
        self.stamps.initiation_sent(row, now)
        if tries == 1:
            self.events.tell(Event.HANDSHAKE_BEGUN, row, endpoint)
        else:
            self.events.tell(Event.UNANSWERED, row, endpoint, tries=tries - 1)
        message = self._close(row, body, keys.mac1_key, now)
        self._send(row, message, endpoint, lib.HS_INITIATION_SENT)
        self.peers.order(row, lib.ORDER_AUTHENTICATED_SENT | (lib.ORDER_CLEAR_SOURCE if is_retry else 0))
        return True

    def _take_response(self, identity: noise.Identity, message: bytes, sender: Endpoint, now: int) -> int:
        progress = self.in_progress.get(self._number_of(messages.Response.unpack(message).receiver_index)[0])
        if progress is None or not self.peers.is_generation(progress.row, progress.generation):
            self.events.tell(Event.RESPONSE_UNKNOWN, None, sender)
            return int(lib.HS_RESPONSE_UNKNOWN)
        row = progress.row
        try:
            session = noise.consume_response(identity, progress.state, message, self.vault.preshared_key(row))
        except noise.LowOrder:
            self.events.tell(Event.LOW_ORDER, row, sender, message=messages.RESPONSE)
            return int(lib.HS_LOW_ORDER)
        except noise.ResponseTagWrong:
            self.events.tell(Event.RESPONSE_TAG, row, sender)
            return int(lib.HS_RESPONSE_TAG)
        del self.in_progress[progress.number], self.numbers[row]
        self._add_bytes(row, HANDSHAKE_RX, len(message))
        self.peers.store_handshake_time(row, int(lib.clock_wall()))
        self.stamps.handshake_complete(row)
        self.unconfirmed.pop(row, None)
        self.events.tell(Event.HANDSHAKE_COMPLETE, row, sender, reason="we began it")
        # The keepalive confirms the session to the responder; the holder leaves it out when it sends data.
        orders = lib.ORDER_AUTHENTICATED_RECEIVED | lib.ORDER_KEEPALIVE | self._move(row, sender)
        self._install(row, progress.number, session, now, orders)
        return int(lib.HS_RESPONSE_ACCEPTED)

    def confirmed(self, row: int) -> None:
        """EVENT_CONFIRMED: the initiator used the session that our response made."""
        self.peers.store_handshake_time(row, int(lib.clock_wall()))
        self.stamps.handshake_complete(row)
        self.unconfirmed.pop(row, None)
        self.events.tell(
            Event.HANDSHAKE_COMPLETE, row, self.endpoints.read(row), reason="the peer began it"
        )
        self.forget(row)

    def give_up(self, row: int) -> None:
        """The last of our initiations was not answered either."""
        self.events.tell(Event.GIVEN_UP, row, self.endpoints.read(row), tries=self._tries(row))
        self.forget(row)

    def forget(self, row: int) -> None:
        """Our handshake in progress with this peer, if any, is over."""
        number = self.numbers.pop(row, None)
        if number is not None:
            del self.in_progress[number]
            self.keypairs.release(row, number)

    def forget_in_progress(self) -> None:
        """Private key changed or interface down: no handshake in progress can be finished."""
        for row in list(self.numbers):
            self.forget(row)
        self.cookies.clear()
        self.unconfirmed.clear()

    def reserved(self, row: int) -> set[int]:
        """Keypair numbers that belong to a handshake in progress."""
        number = self.numbers.get(row)
        return set() if number is None else {number}

    # -- cookies ------------------------------------------------------------------------------

    def _take_cookie_reply(self, message: bytes, sender: Endpoint, now: int) -> int:
        number, row = self._number_of(messages.CookieReply.unpack(message).receiver_index)
        kept = self.cookies.get(row) if number else None
        if kept is None or not self.peers.is_live(row):
            self.events.tell(Event.COOKIE_UNEXPECTED, None, sender)
            return int(lib.HS_COOKIE_UNEXPECTED)
        try:
            kept.holder.consume_reply(noise.cookie_key(self.peers.public_key(row)), message, now)
        except cookie.CookieUnexpected:
            self.events.tell(Event.COOKIE_UNEXPECTED, None, sender)
            return int(lib.HS_COOKIE_UNEXPECTED)
        except cookie.CookieTagWrong:
            self.events.tell(Event.COOKIE_TAG, None, sender)
            return int(lib.HS_COOKIE_TAG)
        self.events.tell(Event.COOKIE_RECEIVED, row, self.endpoints.read(row))
        return int(lib.HS_COOKIE_ACCEPTED)

    def collect_cookies(self, now: int) -> None:
        """Once in a while: forget what can be of no use any more."""
        for row in [row for row, kept in self.cookies.items() if kept.sent + 2 * COOKIE_MEMORY <= now]:
            del self.cookies[row]

    def knows(self, row: int) -> bool:
        """Whether anything of the peer is kept here, so that `removed` has something to do."""
        return (
            row in self.numbers
            or row in self.cookies
            or row in self.unconfirmed
            or row in self.endpoints.waiting
        )

    def removed(self, row: int) -> None:
        """The peer is being removed."""
        self.forget(row)
        self.cookies.pop(row, None)
        self.unconfirmed.pop(row, None)
        self.endpoints.forget(row)

    # -- parts --------------------------------------------------------------------------------

    def _static_static(self, identity: noise.Identity, row: int) -> bytes:
        secret = self.vault.static_static(row)
        if secret is None:
            try:
                secret = identity.static_static(self.peers.public_key(row))
            except noise.LowOrder:
                secret = bytes(constants.KEY_BYTES)
            self.vault.store_static_static(row, secret)
        return secret

    def _ephemeral(self, identity: noise.Identity, public_key: bytes, psk: bytes) -> bytes | None:
        """The ephemeral key of a message that we are about to make; None, and engine.noise draws it and
        keeps it to itself, unless a key log was asked for."""
        if self.keylog is None:
            return None
        ephemeral = self.keylog.ephemeral()
        self.keylog.write(identity.private_key, public_key, ephemeral, psk)
        return ephemeral

    def _install(self, row: int, number: int, session: noise.Session, now: int, orders: int) -> None:
        self.keypairs.fill(
            number,
            row,
            int(self.peers.rows[row].generation),
            send_key=session.send_key,
            receive_key=session.receive_key,
            remote_index=session.remote_index,
            initiator=session.initiator,
            now=now,
        )
        self.peers.rows[row].installing = number
        self.stamps.session_derived(row, now)
        # Also rid of what is too old to be used: while handshakes go on, no timer would do it.
        self.peers.order(row, lib.ORDER_INSTALL | lib.ORDER_EXPIRE | orders)

    def _close(self, row: int, body: bytes, mac1_key: bytes, now: int) -> bytes:
        """Body and macs; remembers mac1 in case a cookie reply comes."""
        kept = self.cookies.get(row)
        if kept is None:
            kept = self.cookies[row] = PeerCookie(cookie.CookieHolder(), now)
        kept.sent = now
        message = cookie.add_macs(body, mac1_key, kept.holder.cookie(now))
        kept.holder.message_sent(message)
        return message

    def _send(self, row: int, message: bytes, to: Endpoint, counter: int) -> None:
        sent, source_refused = self.outgoing.send(message, to)
        if sent:
            self._add_bytes(row, HANDSHAKE_TX, len(message))
        self._count(counter if sent else lib.HS_SEND_FAILED)
        if not sent:
            self.events.tell(Event.SEND_FAILED, row, to, reason=os.strerror(self.outgoing.errno))
        if source_refused:
            self.peers.order(row, lib.ORDER_CLEAR_SOURCE)

    def _move(self, row: int, sender: Endpoint) -> int:
        """The peer is where an authenticated handshake message came from; returns orders."""
        before = self.endpoints.read(row)
        if before is None or before.without_source() != sender.without_source():
            self.events.tell(Event.ENDPOINT_MOVED, row, sender, was=before)
        return self.endpoints.move(row, sender)

    def _tell_answer(self, row: int, sender: Endpoint) -> None:
        """An initiation is being answered. A peer that begins anew did not hear us, or not understand."""
        answers = self.unconfirmed.get(row, 0)
        if answers or len(self.unconfirmed) < UNCONFIRMED:
            self.unconfirmed[row] = answers + 1
        if answers:
            self.events.tell(Event.UNCONFIRMED, row, sender, tries=answers)
        else:
            self.events.tell(Event.HANDSHAKE_ANSWERED, row, sender)

    def _tries(self, row: int) -> int:
        """Initiations to this peer that were not answered so far."""
        progress = self.in_progress.get(self.numbers.get(row, 0))
        return progress.tries if progress is not None else 0

    def _number_of(self, index: int) -> tuple[int, int]:
        """(keypair number, row) of a receiver index; number 0 when it is nobody's."""
        row = ffi.new("uint32_t *")
        number = lib.index_lookup(self.keypairs.table, self.keypairs.limit, self.keypairs.key, index, row)
        return int(number), int(row[0])

    def _add_bytes(self, row: int, which: int, count: int) -> None:
        reserved = self.peers.rows[row].control_reserved
        reserved[which] = int(reserved[which]) + count

    def _refuse_for_room(self, error: NoKeypair) -> int:
        if not self.complained_about_keypairs:
            self.complained_about_keypairs = True
            log.error("no handshake: %s; raise max_peers in the settings, or enlarge /dev/shm", error)
        return int(lib.HS_RATE_LIMITED)

    def _count(self, counter: Any) -> None:
        lib.counter_add(self.segment, lib.WORKER_CONTROL, counter, 1)
