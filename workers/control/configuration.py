"""The configuration of the interface: a validated `set` applied whole, and what `get` shows.

A set is a generator, so that a million peers do not keep handshakes waiting: it yields between slices of
work, and once to wait for the supervisor's answer about a listen port. Its phases:

    check     everything that can fail later: zones, room for peers and allowed IPs, the redo record
    sockets   firewall mark, then listen port; a refused port puts the mark back
    commit    from here on the set is applied again if control is killed
    apply     private key, replace_peers, then the peers in order
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from engine import timers, uapi
from workers import promises
from workers._workers import ffi, lib
from workers.attempts import Step
from workers.control import engine_report, peer_counters
from workers.control.busiest import SHOWN_IPS, Busiest
from workers.control.endpoints import Endpoint, EndpointOrders
from workers.control.events import Event
from workers.control.handshakes import Handshakes
from workers.control.kernel_drops import KernelDrops
from workers.control.memory import MORE_MEMORY
from workers.control.outgoing import mark_sockets
from workers.control.pace import PACE, Pace
from workers.control.peers import LIVE, NoRoom, Peers
from workers.control.timer_columns import TimerColumns
from workers.control.vault import KEY_CHANGED

log = logging.getLogger(__name__)

PAUSE = 0.001  # seconds


class PortRequest(NamedTuple):
    """Yielded by a set: ask the supervisor for this port, then send back the errno (0 = done)."""

    port: int


class Pause(NamedTuple):
    """Yielded by a set: nothing can be done before removed peers have given back what they have."""


Steps = Generator[PortRequest | Pause | None, int | None, int]


class _Work:
    """The records of a set as control/peer_changes.c goes through them, and what it must find alive."""

    def __init__(self, peers: Peers, operation: uapi.Set, own_key: bytes | None) -> None:
        self.records = ffi.from_buffer("uint8_t[]", operation.records)
        self.own_key = ffi.NULL if own_key is None else ffi.new("uint8_t[]", own_key)
        self.place = peers.vault.attempt_place()
        self.kept = np.zeros(peers.memory.max_peers, np.uint8) if operation.replace_peers else None
        self.changes = ffi.new("struct peer_changes *")
        self.changes.table = peers.table
        self.changes.records, self.changes.bytes = self.records, len(self.records)
        self.changes.own_key, self.changes.place = self.own_key, self.place
        if self.kept is not None:
            self.changes.kept = ffi.cast("uint8_t *", self.kept.ctypes.data)


class Configuration:
    """What `set` changes and `get` shows."""

    def __init__(
        self,
        peers: Peers,
        handshakes: Handshakes,
        timer_columns: TimerColumns,
        endpoints: EndpointOrders,
        udp_fds: Callable[[], list[int]],
        aead: str = "auto",
        program: dict[str, Any] | None = None,
        broken: dict[str, str] | None = None,
        pace: Pace = PACE,
        kernel_drops: KernelDrops | None = None,
    ) -> None:
        self.pace = pace
        self.peers = peers
        self.vault = peers.vault
        self.device = peers.device
        self.handshakes = handshakes
        self.timer_columns = timer_columns
        self.endpoints = endpoints
        self.udp_fds = udp_fds
        self.program = program
        self.broken = {} if broken is None else broken
        self.kernel_drops = kernel_drops or KernelDrops(None, udp_fds)
        self.aead = engine_report.aead_name(aead)
        self.events = handshakes.events
        self.is_changing_key = False
        self.longest_turn = 0  # ns of CPU that one turn of control took, since somebody asked
        self.busiest = Busiest(peers.memory, peers.count_allowed)

    # -- set ----------------------------------------------------------------------------------

    def apply(self, operation: uapi.Set) -> Steps:
        """Apply a parsed set; returns 0 or the errno of what cannot be done, nothing changed then."""
        try:
            yield from self._check(operation)
            yield from self.vault.prepare_redo(operation.head(), operation.records)
        except (NoRoom, OSError) as error:
            log.error("the set is refused: %s", error)
            if isinstance(error, NoRoom):
                self.events.emit(Event.NO_ROOM, reason=error.why, mend=error.mend)
            elif error.errno in (errno.ENOSPC, errno.ENOMEM):  # for the redo record
                reason = f"no memory for the text of the set ({error.strerror})"
                self.events.emit(Event.NO_ROOM, reason=reason, mend=MORE_MEMORY)
            else:
                mend = "after % in an Endpoint stands an interface of this host (ip link)"
                if error.errno != errno.ENODEV:
                    mend = "the engine's log has more"
                self.events.emit(Event.SET_REFUSED, reason=error.strerror or str(error), mend=mend)
            self.vault.clear_redo()
            return error.errno or errno.EIO
        code = yield from self._change_sockets(operation)
        if code:
            self.vault.clear_redo()
            return code
        self.vault.commit_redo(operation.peer_count)
        yield from self._apply_whole(operation)
        self.vault.clear_redo()
        self.handshakes.lookups.set_is_over()
        return 0

    def redo(self) -> None:
        """At the start: finish the set that a killed control had begun to apply."""
        if not self.vault.has_redo:
            return
        self.vault.attempts.begin(Step.SET)
        text = self.vault.read_redo()
        log.info("finishing the set that was being applied when the control process died")
        for pause in self._apply_whole(uapi.Set.from_bytes(text)):
            self.peers.grace_periods.poll()
            while self.peers.grace_periods.has_work:
                self.peers.grace_periods.poll()
            if pause is not None:
                self.peers.look_for_retired()
                time.sleep(PAUSE)
        for _ in self.start_what_waits():  # which the dead control may have left undone
            pass
        self.vault.clear_redo()

    def _check(self, operation: uapi.Set) -> Iterator[None]:
        own = self.vault.public_key
        if operation.private_key is not None:
            is_key = any(operation.private_key)
            own = self.handshakes.key_pair(operation.private_key)[1] if is_key else None
        peers = self.peers
        work = _Work(peers, operation, own)
        need = ffi.new("struct changes_need *")
        slots = np.zeros(1 << (2 * operation.peer_count).bit_length(), np.uint32)
        need.slots, need.slot_mask = ffi.cast("uint32_t *", slots.ctypes.data), len(slots) - 1
        if not operation.replace_peers:
            need.count = need.peak = peers.count
            need.nodes = peers.ips.live
        while (stop := lib.changes_measure(work.changes, need, self.pace.peers)) != lib.CHANGES_DONE:
            if stop == lib.CHANGES_RARE:
                change = uapi.unpack_head(operation.records, work.changes.at)[0]
                if change.endpoint is not None:
                    _place(change.endpoint)
                need.zone_is_known = work.changes.at + 1
            yield
        yield from peers.room(int(need.peak), int(need.fresh), int(need.nodes))

    def _change_sockets(self, operation: uapi.Set) -> Steps:
        mark = int(self.device.fwmark)
        if operation.fwmark is not None and operation.fwmark != mark:
            try:
                mark_sockets(self.udp_fds(), operation.fwmark)
            except OSError as error:
                mark_sockets(self.udp_fds(), mark)
                reason = f"the kernel refuses the firewall mark 0x{operation.fwmark:x} ({error.strerror})"
                mend = "start plaitd as root, or with CAP_NET_ADMIN"
                self.events.emit(Event.SET_REFUSED, reason=reason, mend=mend)
                return error.errno or errno.EIO
            # The supervisor marks the sockets of another port with this word.
            self.device.fwmark = operation.fwmark
        if operation.listen_port is not None and operation.listen_port != self.listen_port():
            code = yield PortRequest(operation.listen_port)
            if code:
                reason = f"the UDP port {operation.listen_port} cannot be had ({os.strerror(code)})"
                mend = "choose another, or end what has it (ss -lunp); the engine's log has more"
                self.events.emit(Event.SET_REFUSED, reason=reason, mend=mend)
                if int(self.device.fwmark) != mark:
                    mark_sockets(self.udp_fds(), mark)
                    self.device.fwmark = mark
                return code
            if int(self.device.fwmark):
                mark_sockets(self.udp_fds(), int(self.device.fwmark))
            self.events.emit(Event.LISTEN_PORT_CHANGED, count=self.listen_port())
        if operation.listen_port is not None or operation.fwmark is not None:
            yield from self._clear_sources()
        return 0

    def _apply_whole(self, operation: uapi.Set) -> Iterator[Pause | None]:
        had_key = self.vault.private_key is not None
        if operation.private_key is not None:
            yield from self._change_private_key(operation.private_key)
        work = _Work(self.peers, operation, self.vault.public_key)
        if work.kept is not None:
            while lib.changes_mark(work.changes, self.pace.peers) != lib.CHANGES_DONE:
                yield None
            work.changes.at = 0
            for first in range(0, self.peers.used, self.pace.peers):
                rows = self.peers.live_rows(first, first + self.pace.peers)
                yield from self.remove([row for row in rows if not work.kept[row]])
                yield None
        while True:
            work.changes.tick = lib.timers_tick(self.pace.now())
            work.changes.interface_is_up = int(self.device.up)
            stop = lib.changes_apply(work.changes, self.pace.peers)
            self._emit_added(work.changes)
            if self.peers.table.names_lost:
                log.error("no memory for the names of %d peers; they have none", self.peers.table.names_lost)
                self.peers.table.names_lost = 0
            self.peers.reclaim_later()
            self.timer_columns.changed()
            if stop == lib.CHANGES_DONE:
                if not had_key and self.vault.private_key is not None:
                    yield from self.start_what_waits()
                return
            if stop == lib.CHANGES_RARE:
                yield from self._begin_rare(work, operation)
            elif stop == lib.CHANGES_NO_ROW:
                while not self.peers.has_row:
                    yield Pause()
                self.peers.ensure_row()
            elif stop == lib.CHANGES_NO_NODE:
                while not self.peers.has_node:
                    yield Pause()
                self.peers.ensure_nodes()
            yield None

    def _begin_rare(self, work: _Work, operation: uapi.Set) -> Iterator[None]:
        """The record that the C stopped at: a removal, or an endpoint that names a zone or has to wait."""
        change = uapi.unpack_head(operation.records, work.changes.at)[0]
        row = self.peers.find(change.public_key)
        if change.remove and row is not None:
            if work.kept is not None:
                work.kept[row] = 0
            yield from self.remove([row])
            if lib.changes_pass(work.changes):
                return
        elif change.endpoint is not None and row is not None and not work.changes.is_placed:
            work.changes.is_placed = 1
            try:
                place = _place(change.endpoint)
            except OSError as error:  # it was there when the set was checked
                key = b64encode(change.public_key).decode()
                log.error("the endpoint %s of peer %s is left out: %s", change.endpoint, key, error.strerror)
                return
            work.changes.orders |= self.endpoints.move(row, place)
            return
        raise ValueError(f"the set is damaged at byte {int(work.changes.at)} of its records")

    def _emit_added(self, changes: Any) -> None:
        emitted = min(int(changes.added), lib.CHANGES_EMITTED)
        for row in changes.emitted[0:emitted]:
            self.events.emit(Event.PEER_ADDED, row)
        if emitted < int(changes.added):
            self.handshakes.lookups.peers_added(None)
        elif emitted:
            self.handshakes.lookups.peers_added(map(self.peers.public_key, changes.emitted[0:emitted]))
        self.events.suppress(Event.PEER_ADDED, int(changes.added) - emitted)

    def _change_private_key(self, private_key: bytes) -> Iterator[None]:
        if any(private_key):
            private_key, public_key = self.handshakes.key_pair(private_key)
            if private_key == self.vault.private_key:
                return
            row = self.peers.find(public_key)
            if row is not None:
                yield from self.remove([row])
            self.vault.note_passing(self.vault.passing | KEY_CHANGED)
            self.vault.store_private_key(private_key, public_key)
            self.events.emit(Event.PRIVATE_KEY_CHANGED, key=public_key)
        else:
            if self.vault.private_key is None:
                return
            self.vault.note_passing(self.vault.passing | KEY_CHANGED)
            self.vault.store_private_key(None, None)
            self.events.emit(Event.PRIVATE_KEY_REMOVED)
        self.is_changing_key = True
        yield from self.spread_key()
        self.is_changing_key = False
        self.vault.note_passing(self.vault.passing & ~KEY_CHANGED)

    def spread_key(self) -> Iterator[None]:
        """Every peer is to know that the private key is another. After a kill in the midst, once more."""
        self.vault.make_stale(self.peers.used)
        self.handshakes.load_identity()
        yield from self.handshakes.forget_in_progress()
        for first in range(0, self.peers.used, self.pace.looked):
            rows = self.peers.memory.rows[first : min(first + self.pace.looked, self.peers.used)]
            # The new key may introduce itself at once (kernel: noise.c).
            self.timer_columns.forget_sent(slice(first, first + len(rows)))
            self.vault.wipe_stale(first, first + len(rows))
            with_orders = (rows["key_word"] != 0) | (rows["orders"] & 0xFFFFFFFF != 0)
            for place in np.flatnonzero(with_orders):
                if self.peers.is_live(first + int(place)):
                    self.peers.order(first + int(place), lib.ORDER_STOP_SENDING)
            yield

    def start_what_waits(self) -> Iterator[None]:
        """The interface is up and has a key, one of which came late: staged packets may go, persistent
        keepalives begin (kernel: device.c, netlink.c; the table in docs/reliability.md)."""
        for first in range(0, self.peers.used if int(self.device.up) else 0, self.pace.ordered):
            now = self.pace.now()
            for row in self.peers.active_rows(False, first, first + self.pace.ordered):
                seconds, orders = int(self.peers.rows[row].keepalive), 0
                if seconds:
                    self.timer_columns.keepalive_changed(row, now, seconds)
                    orders |= lib.ORDER_KEEPALIVE
                if not lib.queue_is_empty(self.peers.segment, 2 * row + lib.OUTBOUND):
                    orders |= lib.ORDER_LOOK
                if orders:
                    self.peers.order(row, orders)
            yield

    def remove(self, rows: list[int]) -> Iterator[None]:
        """Take peers away, in slices where they have many allowed IPs."""
        left = self.pace.peers
        for row in rows:
            while (count := self.peers.disallow_some(row, left)) == left:
                left = self.pace.peers
                yield
            left -= count
        for row in rows[: lib.CHANGES_EMITTED]:
            self.events.emit(Event.PEER_REMOVED, row)
        self.events.suppress(Event.PEER_REMOVED, max(len(rows) - lib.CHANGES_EMITTED, 0))
        numbers = np.array(rows, np.uint32)
        self.handshakes.cookies.forget(numbers)
        gone = numbers[self.peers.memory.rows["on_demand"][numbers] != 0]
        for row, stamp in zip(gone.tolist(), self.vault.timestamps_seen(gone), strict=True):
            if stamp.any():  # so that a provider that sets the peer again lets no replay in
                self.handshakes.lookups.remember(self.peers.public_key(row), stamp.tobytes())
        if self.handshakes.lookups.refusals.is_used:
            for row in rows:
                self.handshakes.lookups.refusals.remove(self.peers.public_key(row))
        for row in rows:
            if self.handshakes.knows(row):
                self.handshakes.removed(row)
        if rows:
            self.peers.remove(rows)

    def _clear_sources(self) -> Iterator[None]:
        """The port or mark changed: replies may have to take another way."""
        for first in range(0, self.peers.used, self.pace.looked):
            for row in self.peers.live_rows(first, first + self.pace.looked):
                endpoint = self.endpoints.read(row)
                if endpoint is not None and endpoint.source:
                    self.peers.order(row, lib.ORDER_CLEAR_SOURCE)
            yield

    # -- get ----------------------------------------------------------------------------------

    def listen_port(self) -> int:
        """The UDP port in use."""
        return self.handshakes.outgoing.port

    def show(self, public_key: bytes | None = None) -> Iterator[bytes]:
        """The answer to a get, in pieces, made while it is sent; that peer alone when its key is given."""
        if public_key is not None:
            return self._show_peer(public_key)
        device = uapi.DeviceRecord(self.vault.private_key, self.listen_port(), int(self.device.fwmark))
        return uapi.answer_get(device, self._shown())

    def _show_peer(self, public_key: bytes) -> Iterator[bytes]:
        row = self.peers.find(public_key)  # when the first piece is made, so that the row is still its own
        if row is None:
            yield uapi.answer_get_refused(errno.ENOENT)
        else:
            yield from uapi.answer_get(uapi.DeviceRecord(None, 0, 0), self._shown(row, row + 1))

    def show_engine(self) -> Iterator[bytes]:
        """The answer to a get_engine."""
        now = self.pace.now()
        turn, self.longest_turn = self.longest_turn, 0
        found = engine_report.report(self.peers.segment, now, self.peers.count, self.aead, self.program, turn)
        found["kernel_drops"] = self.kernel_drops.look()
        rows = self.peers.memory.rows[: self.peers.used]
        on_demand = int(np.count_nonzero((rows["on_demand"] != 0) & (rows["state"] == LIVE)))
        found["on_demand"] = {"peers": on_demand, **self.handshakes.lookups.report(now)}
        derived = self.timer_columns.columns[lib.SESSION_DERIVED, : self.peers.used]
        lately = np.flatnonzero(timers.is_younger(derived, timers.EXPIRE, timers.tick(now)))
        found["connected"] = self.peers.keypairs.connected(lately, now)
        rules = self.peers.rules[: self.peers.used]
        found["rules"] = {
            name: int(np.count_nonzero(rules & bit))
            for name, bit in (
                ("quota", lib.RULE_QUOTA), ("expires", lib.RULE_EXPIRES), ("ran_out", lib.RULE_OUT),
            )
        }
        found["dead_gateways"] = self.handshakes.neighbours.report(now)
        found["broken_promises"] = promises.as_list(self.broken)
        found["key_log"] = self.handshakes.keylog.path if self.handshakes.keylog is not None else None
        return iter((uapi.answer_get_engine(json.dumps(found)),))

    def show_busiest(self, count: int) -> Iterator[bytes]:
        """The answer to a get_busiest."""
        self.busiest.sample(self.pace.now())
        peers = [(row, self._record(row)) for row in self.busiest.rows(count) if self.peers.is_live(row)]
        return iter((uapi.answer_get_busiest(json.dumps(self.busiest.report(peers))),))

    def show_counters(self) -> Iterator[bytes]:
        """The answer to a get_counters, in pieces, made while it is sent."""
        return uapi.answer_get_counters(peer_counters.pieces(self.peers))

    def _shown(self, first: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The peers of rows first..end-1 (None: all), in pieces; this runs while other things happen, so a
        row may come and go.

        Each piece shows what is true when it is made. A peer of more allowed IPs than one piece holds: those
        that it has all the while are shown once, whatever a set does meanwhile (control/peer_table.h).
        """
        text = ffi.new("char[]", uapi.CHUNK_BYTES)
        show = ffi.new("struct peer_show *")
        place = ffi.addressof(show, "place")
        show.row = first
        lib.allowedips_hold(self.peers.ips, place)
        try:
            while show.row < (self.peers.used if end is None else end):
                last = min(show.row + self.pace.looked, self.peers.used if end is None else end)
                written = lib.table_show(self.peers.table, show, last, text, uapi.CHUNK_BYTES)
                yield ffi.buffer(text, written)[:]
        finally:
            lib.allowedips_let_go(self.peers.ips, place)

    def _record(self, row: int) -> uapi.PeerRecord:
        """As get_busiest shows it, with the first of its allowed IPs."""
        peer = self.peers.rows[row]
        return uapi.PeerRecord(
            public_key=self.peers.public_key(row),
            preshared_key=self.vault.preshared_key(row),
            endpoint=_shown(self.endpoints.read(row)),
            handshake_sec=int(peer.handshake_sec),
            handshake_nsec=int(peer.handshake_nsec),
            tx_bytes=int(peer.tx_bytes) + int(peer.handshake_tx),
            rx_bytes=int(peer.rx_bytes) + int(peer.handshake_rx),
            numbers=[getattr(peer, number.field) for number in uapi.NUMBERS.values()],
            allowed_ips=[
                uapi.AllowedIP(a, 8 * len(a), cidr) for a, cidr in self.peers.allowed(row, SHOWN_IPS)
            ],
            name=self.peers.name(row),
        )


def _place(endpoint: uapi.Endpoint) -> Endpoint:
    """As the segment has it. OSError (ENODEV) for a zone that is no interface of this host."""
    scope = 0
    if endpoint.zone.isdecimal():
        scope = int(endpoint.zone)
        if scope >= 1 << 32:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    elif endpoint.zone:
        try:
            scope = socket.if_nametoindex(endpoint.zone)
        except OSError as error:
            raise OSError(errno.ENODEV, f"no interface {endpoint.zone}") from error
    return Endpoint(endpoint.address, endpoint.port, scope)


def _shown(endpoint: Endpoint | None) -> uapi.Endpoint | None:
    if endpoint is None:
        return None
    zone = ""
    if endpoint.scope:
        try:
            zone = socket.if_indextoname(endpoint.scope)
        except OSError:
            zone = str(endpoint.scope)
    return uapi.Endpoint(endpoint.address, endpoint.port, zone)
