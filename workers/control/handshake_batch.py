"""What both sides of a handshake work with: a batch's messages, those that leave, sessions, events.

The messages stand in `cells`, in their order of arrival; what is to leave is written into `to_send` (their C:
handshake_batch.c). The responder (responder.py) and the initiator (initiator.py) stand on this.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from engine.peer_cookies import PeerCookies
from workers._workers import ffi, lib
from workers.control.crypto_threads import CryptoThreads
from workers.control.endpoints import Endpoint, EndpointOrders
from workers.control.events import Event, Events
from workers.control.keylog import KeyLog
from workers.control.keypairs import NoKeypair
from workers.control.lookups import Lookups
from workers.control.memory import columns_of
from workers.control.new_sessions import NewSessions
from workers.control.outgoing import Outgoing
from workers.control.pace import Pace
from workers.control.peers import Peers
from workers.control.timer_columns import TimerColumns

if TYPE_CHECKING:
    import numpy.typing as npt

    from workers._workers import Pointer, counter, handshake, handshake_identity_p, handshake_p

log = logging.getLogger(__name__)

BATCH: int = lib.HANDSHAKE_BATCH
_OUTGOING = ("error", "source_refused")
UNCONFIRMED = 4096  # peers of whom we remember that they did not confirm our answer

Outcomes: TypeAlias = "npt.NDArray[np.int64]"  # HS_* counters, one for each message of a batch


class HandshakeBatch:
    """One batch after the other. `now` is ns of Pace.now throughout."""

    def __init__(
        self,
        peers: Peers,
        timer_columns: TimerColumns,
        endpoints: EndpointOrders,
        outgoing: Outgoing,
        events: Events,
        keylog: KeyLog | None,
        pace: Pace,
    ) -> None:
        self.pace = pace
        self.peers = peers
        self.segment = peers.segment
        self.vault = peers.vault
        self.keypairs = peers.keypairs
        self.timer_columns = timer_columns
        self.endpoints = endpoints
        self.outgoing = outgoing
        self.events = events
        self.keylog = keylog
        self.crypto_threads = CryptoThreads()
        self.identity: handshake_identity_p | None = None
        self.is_up = True
        self.cookies = PeerCookies(peers.memory.max_peers)
        self.unconfirmed: dict[int, int] = {}  # row -> answers of ours without a word in the new session
        self.cells = ffi.new("struct mailbox_cell[]", BATCH)
        self.to_send = ffi.new("struct outgoing[]", BATCH)
        columns = columns_of("struct outgoing", _OUTGOING)
        self.to_send_columns = np.frombuffer(ffi.buffer(self.to_send), columns)
        self.check_results = np.zeros(BATCH, np.uint8)
        self.complained_about_keypairs = False
        self.new_sessions = NewSessions(self.peers, self.keypairs, pace.now)
        self.lookups = Lookups(self.vault, events, peers.find, self.count, pace.now, pace.wall)

    def message(self, cell: int) -> bytes:
        return bytes(ffi.buffer(self.cells[cell].message, self.cells[cell].length))

    def sender(self, cell: int) -> Endpoint | None:
        """Where a message came from; not None but for CHECK_LENGTH."""
        return Endpoint.unpack(bytes(ffi.buffer(ffi.addressof(self.cells[cell], "from"))))

    def emit(self, event: Event, row: int | None, cell: int, **more: Any) -> None:
        """An event of a message: nothing is made of its sender unless the event will be kept."""
        self.events.emit(event, row, lambda: self.sender(cell), **more)

    def log_keys(self, handshake: handshake_p | handshake, psk: bytes) -> None:
        """The keys of a message that we are about to make go into the key log, if one was asked for;
        else its ephemeral key is drawn in C and stays there."""
        if self.keylog is None:
            return
        ephemeral = self.keylog.ephemeral()
        ffi.memmove(handshake.ephemeral, ephemeral, len(ephemeral))
        handshake.has_ephemeral = 1
        ours, theirs = handshake.identity.private_key, handshake.remote_public
        self.keylog.write(bytes(ffi.buffer(ours)), bytes(ffi.buffer(theirs)), ephemeral, psk)

    def install(
        self, handshakes: Pointer[handshake], rows: Any, numbers: Any, orders: Any, flags: int, now: int
    ) -> None:
        """New sessions: their keypairs are written, then the holders are ordered to install them."""
        words = [np.array(column, np.uint32) for column in (rows, numbers, orders)]
        # Also rid of what is too old to be used: while handshakes go on, no timer would do it.
        words[2] |= np.uint32(lib.ORDER_EXPIRE)
        who, which, what = (ffi.from_buffer("uint32_t[]", column) for column in words)
        lib.batch_install(self.segment, handshakes, who, which, what, len(rows), now, flags)
        self.new_sessions.note(words[1])

    def send(self, count: int, rows: Any, counter: counter) -> None:
        """Send the first of `to_send`, each to its peer; rows: their peers', distinct."""
        self.outgoing.send(self.to_send, count)
        rows = np.asarray(rows)
        errors = self.to_send_columns["error"][:count]
        sent = rows[errors == 0]
        self.add_bytes(sent, "handshake_tx", int(self.to_send[0].length))
        if len(sent):
            self.count(counter, len(sent))
        if len(sent) < count:
            self.count(lib.HS_SEND_FAILED, count - len(sent))
        for i in np.flatnonzero(errors).tolist():
            to = Endpoint.unpack(bytes(ffi.buffer(ffi.addressof(self.to_send[i], "to"))))
            self.events.emit(Event.SEND_FAILED, int(rows[i]), to, reason=os.strerror(int(errors[i])))
        for i in np.flatnonzero(self.to_send_columns["source_refused"][:count]).tolist():
            self.peers.order(int(rows[i]), lib.ORDER_CLEAR_SOURCE)

    def move(self, row: int, cell: int) -> int:
        """The peer is where an authenticated handshake message came from; returns orders."""
        sender = self.sender(cell)
        assert sender is not None
        before = self.endpoints.read(row)
        if before is None or before.without_source() != sender.without_source():
            self.events.emit(Event.ENDPOINT_MOVED, row, sender, was=before)
        return self.endpoints.move(row, sender)

    def emit_answers(self, rows: list[int], cells: list[int]) -> None:
        """Initiations are being answered. A peer that begins again did not get our answer, or refused it."""
        fresh: dict[int, int] = {}
        for row, cell in zip(rows, cells, strict=True):
            answers = self.unconfirmed.get(row, 0)
            if answers or len(self.unconfirmed) < UNCONFIRMED:
                self.unconfirmed[row] = answers + 1
            if answers:
                self.emit(Event.UNCONFIRMED, row, cell, tries=answers)
            else:
                fresh[row] = cell
        self.events.emit_each(Event.HANDSHAKE_ANSWERED, list(fresh), lambda row: self.sender(fresh[row]))

    def add_bytes(self, rows: Any, which: str, count: int) -> None:
        """Add to the counter of one row or of several distinct rows. which: handshake_tx or handshake_rx."""
        self.peers.memory.rows[which][rows] += np.uint64(count)

    def refuse_for_room(self, error: NoKeypair) -> int:
        if not self.complained_about_keypairs:
            self.complained_about_keypairs = True
            log.error("no handshake: %s", error)
        return lib.HS_NO_ROOM

    def count(self, counter: counter, by: int) -> None:
        lib.counter_add(self.segment, lib.WORKER_CONTROL, counter, by)
