"""Responder: the initiations of a batch, from first look to response (kernel: noise.c, receive.c).

    open        whose key is it? arithmetic over the batch, on every core (crypto_threads.py)
    find        the peers' rows; their static-static secrets come from the vault, once computed
    open        the timestamp: from here on the sender is authentic; unknown ones are parked (lookups.py)
    accept      timestamp greater than the latest, no flood, quota left (quotas.py), room for a session
    respond     arithmetic again
    install     store the timestamp, write the keypair, order its installation; then send

A peer that is there twice is dealt with in order: its first initiation goes through all of the last three
steps before its second is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from engine import tai64n
from workers._workers import ffi, lib
from workers.control.distinct import first_of_each
from workers.control.events import Event
from workers.control.handshake_batch import BATCH, HandshakeBatch, Outcomes
from workers.control.keypairs import NoKeypair
from workers.control.memory import columns_of
from workers.control.peers import NOBODY
from workers.control.vault import SECRET_VALID

if TYPE_CHECKING:
    import numpy.typing as npt

Places: TypeAlias = "npt.NDArray[np.intp]"  # places in the array of handshakes

_COLUMNS = (
    "result", "local_index", "has_static_static", "has_cookie", "remote_public", "static_static",
    "preshared_key", "cookie", "timestamp", "response",
)  # fmt: skip
_MAC1 = slice(lib.RESPONSE_BYTES - 2 * lib.MAC_BYTES, lib.RESPONSE_BYTES - lib.MAC_BYTES)


class Responder:
    """The responder's side of a batch, whose cells, messages to send and parts it uses."""

    def __init__(self, batch: HandshakeBatch) -> None:
        self.owner = batch
        self.vault = batch.vault
        self.handshakes = ffi.new("struct handshake[]", BATCH)
        self.columns = np.frombuffer(ffi.buffer(self.handshakes), columns_of("struct handshake", _COLUMNS))
        self.where = np.zeros(BATCH, np.uint32)  # cell of each handshake
        self.rows = np.zeros(BATCH, np.uint32)
        self.same = np.zeros(BATCH, np.uint8)

    def take(self, count: int, outcomes: Outcomes, now: int) -> None:
        """Every CHECK_INITIATION among `count` cells gets its outcome."""
        owner = self.owner
        assert owner.identity is not None  # no message without it comes so far
        results = ffi.from_buffer("uint8_t[]", owner.check_results)
        where = ffi.from_buffer("uint32_t[]", self.where)
        count = lib.batch_begin(owner.identity, owner.cells, count, results, self.handshakes, where)
        try:
            owner.crypto_threads.each(lib.handshake_open_initiation, self.handshakes, count)
            known, unknown = self._find(count, outcomes, now)
            self._open_timestamps(known, unknown, count, outcomes)
            self._park(unknown, outcomes, now)
            waiting = np.flatnonzero(self.columns["result"][:count] == lib.HANDSHAKE_FINE)
            while len(waiting):
                is_first = first_of_each(self.rows[waiting])
                self._answer(waiting[is_first], count, outcomes, now)
                waiting = waiting[~is_first]
        finally:
            lib.handshake_wipe(self.handshakes, count)

    # -- who it is ----------------------------------------------------------------------------

    def _find(self, count: int, outcomes: Outcomes, now: int) -> tuple[Places, Places]:
        """The rows; returns the handshakes that have one, and those without that somebody may know."""
        owner, result = self.owner, self.columns["result"][:count]
        for i in np.flatnonzero(result).tolist():
            cell = int(self.where[i])
            if result[i] == lib.HANDSHAKE_LOW_ORDER:
                outcomes[cell] = lib.HS_LOW_ORDER
                owner.emit(Event.LOW_ORDER, None, cell, message=lib.MESSAGE_INITIATION)
            else:
                outcomes[cell] = lib.HS_INITIATION_TAG
                owner.emit(Event.INITIATION_TAG, None, cell)
        rows = ffi.from_buffer("uint32_t[]", self.rows)
        lib.batch_find_peers(owner.peers.tables, self.handshakes, count, rows)
        is_nobodys = self.rows[:count] == NOBODY
        if owner.lookups.leaving:  # what they send waits until they are gone
            is_nobodys |= [self._key(i) in owner.lookups.leaving for i in range(count)]
        for i in np.flatnonzero(is_nobodys & (result == lib.HANDSHAKE_FINE)).tolist():
            if owner.lookups.wants(self._key(i), now):
                continue
            cell = int(self.where[i])
            outcomes[cell] = lib.HS_UNKNOWN_PEER
            owner.emit(Event.UNKNOWN_PEER, None, cell, key=self._key(i))
            result[i] = lib.HANDSHAKE_PASSED_OVER
        is_fine = result == lib.HANDSHAKE_FINE
        return np.flatnonzero(is_fine & ~is_nobodys), np.flatnonzero(is_fine & is_nobodys)

    def _open_timestamps(self, known: Places, unknown: Places, count: int, outcomes: Outcomes) -> None:
        owner, secrets = self.owner, self.vault.rows
        rows = self.rows[known]
        kept = (secrets["flags"][rows] & SECRET_VALID) != 0
        self.columns["static_static"][known] = secrets["static_static"][rows]
        self.columns["has_static_static"][known] = kept
        owner.crypto_threads.each(lib.handshake_open_timestamp, self.handshakes, count)
        for i in known[~kept].tolist():
            self.vault.store_static_static(int(self.rows[i]), self.columns["static_static"][i].tobytes())
        opened = np.concatenate([known, unknown])
        for i in opened[self.columns["result"][opened] != lib.HANDSHAKE_FINE].tolist():
            cell = int(self.where[i])
            if self.columns["result"][i] == lib.HANDSHAKE_LOW_ORDER:
                outcomes[cell] = lib.HS_LOW_ORDER
                owner.emit(Event.LOW_ORDER, None, cell, key=self._key(i), message=lib.MESSAGE_INITIATION)
            else:
                outcomes[cell] = lib.HS_INITIATION_TAG
                owner.emit(Event.INITIATION_TAG, None, cell, key=self._key(i))

    def _park(self, unknown: Places, outcomes: Outcomes, now: int) -> None:
        """Authentic initiations of nobody's keys; none of them goes on now."""
        result, timestamps = self.columns["result"], self.columns["timestamp"]
        for i in unknown[result[unknown] == lib.HANDSHAKE_FINE].tolist():
            cell = int(self.where[i])
            message = ffi.addressof(self.owner.cells[cell])
            outcome = self.owner.lookups.park(self._key(i), timestamps[i].tobytes(), message, now)
            outcomes[cell] = outcome
            if outcome == lib.HS_UNKNOWN_PEER:
                self.owner.emit(Event.LOOKUP_HELD_BACK, None, cell, key=self._key(i))
            result[i] = lib.HANDSHAKE_PASSED_OVER

    # -- the answer ---------------------------------------------------------------------------

    def _answer(self, which: Places, count: int, outcomes: Outcomes, now: int) -> None:
        """Authentic initiations of distinct peers."""
        owner, columns = self.owner, self.columns
        which = self._accept(which, outcomes, now)
        numbers = {}
        psks = self.vault.rows["preshared_key"][self.rows[which]]
        columns["result"][:count] = lib.HANDSHAKE_PASSED_OVER
        for i, row in zip(which.tolist(), self.rows[which].tolist(), strict=True):
            try:
                numbers[i], columns["local_index"][i] = owner.keypairs.reserve(row)
            except NoKeypair as error:
                outcomes[int(self.where[i])] = owner.refuse_for_room(error)
                owner.emit(
                    Event.NO_ROOM_TO_ANSWER, row, int(self.where[i]), reason=error.why, mend=error.mend
                )
                continue
            columns["result"][i] = lib.HANDSHAKE_FINE
        if not numbers:
            return
        columns["preshared_key"][which] = psks
        columns["cookie"][which], columns["has_cookie"][which] = owner.cookies.usable(self.rows[which], now)
        if owner.keylog is not None:
            for i in numbers:
                owner.log_keys(self.handshakes[i], columns["preshared_key"][i].tobytes())
        owner.crypto_threads.each(lib.handshake_create_response, self.handshakes, count)
        for i in [i for i in numbers if columns["result"][i] != lib.HANDSHAKE_FINE]:
            row, cell = int(self.rows[i]), int(self.where[i])
            owner.keypairs.release(row, numbers.pop(i))
            outcomes[cell] = lib.HS_LOW_ORDER
            owner.emit(Event.LOW_ORDER, row, cell, message=lib.MESSAGE_INITIATION)
        if numbers:
            self._finish(np.array(list(numbers)), list(numbers.values()), count, outcomes, now)

    def _accept(self, which: Places, outcomes: Outcomes, now: int) -> Places:
        """Neither replays nor a flood, nor of who ran out; returns those that may go on."""
        owner, rows = self.owner, self.rows[which]
        seen = self.vault.timestamps_seen(rows)
        is_later = tai64n.later(self.columns["timestamp"][which], seen)
        is_late = is_later & self._is_below_floor(which, seen)
        is_later &= ~is_late
        is_flood = is_later & owner.timer_columns.is_flood(rows, now)
        is_out = is_later & ~is_flood & (owner.peers.rules[rows] & lib.RULE_OUT != 0)
        if is_out.any():  # so that none of these messages begins a session when the peer may again
            self.vault.store_timestamps_seen(rows[is_out], self.columns["timestamp"][which[is_out]])
        for bad, outcome, event in (
            (is_late, lib.HS_TIMESTAMP_REPLAYED, Event.TIMESTAMP_TOO_OLD),
            (~is_later & ~is_late, lib.HS_TIMESTAMP_REPLAYED, Event.TIMESTAMP_REPLAYED),
            (is_flood, lib.HS_INITIATION_FLOOD, Event.INITIATION_FLOOD),
            (is_out, lib.HS_RAN_OUT, Event.RAN_OUT),
        ):
            for i in which[bad].tolist():
                outcomes[int(self.where[i])] = int(outcome)
                owner.emit(event, int(self.rows[i]), int(self.where[i]))
        may_go_on: Places = which[is_later & ~is_flood & ~is_out]
        return may_go_on

    def _is_below_floor(self, which: Places, seen: tai64n.Stamps) -> npt.NDArray[np.bool_]:
        """Of peers on demand whose greatest timestamp nobody knows, what may be from before an eviction."""
        is_on_demand = self.owner.peers.memory.rows["on_demand"][self.rows[which]] != 0
        is_first = np.asarray(is_on_demand & ~seen.any(axis=1))
        if not is_first.any():
            return is_first
        lookups, stamps = self.owner.lookups, self.columns["timestamp"][which]
        floor = np.frombuffer(lookups.floor() * len(which), np.uint8).reshape(len(which), -1)
        is_below = np.asarray(is_first & ~tai64n.later(stamps, floor))
        for at in np.flatnonzero(is_below).tolist():
            is_below[at] = not lookups.vouches(self._key(int(which[at])), stamps[at].tobytes())
        return is_below

    def _finish(self, which: Places, numbers: list[int], count: int, outcomes: Outcomes, now: int) -> None:
        """Responses are made. What is stored and ordered here comes before they leave."""
        owner, columns = self.owner, self.columns
        rows = self.rows[which]
        self.vault.store_timestamps_seen(rows, columns["timestamp"][which])
        owner.timer_columns.initiation_accepted(rows, now)
        owner.add_bytes(rows, "handshake_rx", lib.INITIATION_BYTES)
        orders = np.full(count, lib.ORDER_AUTHENTICATED_RECEIVED | lib.ORDER_AUTHENTICATED_SENT, np.uint32)
        for i in self._moved(which):
            orders[i] |= owner.move(int(self.rows[i]), int(self.where[i]))
        cells = self.where[which]
        outcomes[cells] = lib.HS_INITIATION_ACCEPTED
        owner.emit_answers(rows.tolist(), cells.tolist())
        of_all = np.zeros(count, np.uint32)
        of_all[which] = numbers
        owner.timer_columns.session_derived(rows, now)
        owner.install(self.handshakes, self.rows[:count], of_all, orders, 0, now)
        owner.timer_columns.response_sent(rows, now)
        owner.cookies.message_sent(rows, columns["response"][which][:, _MAC1], now)
        where = ffi.from_buffer("uint32_t[]", self.where)
        made = lib.batch_write_responses(self.handshakes, owner.cells, where, count, owner.to_send)
        owner.send(made, rows, lib.HS_RESPONSE_SENT)

    def _moved(self, which: Places) -> list[int]:
        """Those whose peers were last heard elsewhere."""
        rows, where = self.rows[which], self.where[which]
        passed = (ffi.from_buffer("uint32_t[]", column) for column in (rows, where))
        same = ffi.from_buffer("uint8_t[]", self.same)
        lib.batch_compare_endpoints(
            self.owner.segment, next(passed), self.owner.cells, next(passed), len(which), same
        )
        return [int(i) for i in which[self.same[: len(which)] == 0]]

    def _key(self, i: int) -> bytes:
        return bytes(self.columns["remote_public"][i])
