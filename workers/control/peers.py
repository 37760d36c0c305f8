"""The peers of the interface: a table whose every byte stands in the segments.

A peer is a row number. Its row, timer columns, place in the public-key table, allowed IPs and
keypairs are the data segment's; its secrets are the vault's. This process keeps no object per
configured peer, so that a restarted control finds everything as it was (`recover`).

A row's life: unused -> live -> retiring -> unused. Readers and the holder may still look at a
removed peer, so it goes step by step:

    remove    out of the trie, the index and the public-key table; secrets wiped; state retiring
    grace     no receiver knows the row any more
    retire    inbound's holder lets go of the keys; each drops what it has and sets its token dead
    grace     nobody who read the row before still looks
    free      keypairs released, row wiped, may be used again with a new generation
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from engine.constants import MAX_PEERS
from workers._workers import ffi, lib
from workers.attempts import Step
from workers.control.grace_periods import GracePeriods
from workers.control.keypairs import Keypairs
from workers.control.memory import MORE_MEMORY, Memory
from workers.control.pace import PACE, Pace
from workers.settings import ALLOWED_IPS_A_PEER

if TYPE_CHECKING:
    import numpy.typing as npt

    from workers._workers import Ints, peer_table_p, publickeys_p, uint32_t

log = logging.getLogger(__name__)

LIVE, RETIRING = lib.PEER_LIVE, lib.PEER_RETIRING
LEFT_OUT = lib.PEER_LEFT_OUT
NOBODY = 0xFFFFFFFF
ROWS_AT_ONCE = 1 << 14  # grown between two yields, about 11 MB
NODES_AT_ONCE = 1 << 17
FIRST_BUCKETS = 1024  # of public keys: a page
RETIRING_A_LOOK = 1 << 12  # rows
ROWS_AN_ACTION = 1 << 5  # so many rows are told to retire in the time of an action of a grace period
NODES_A_RECLAIM = 1 << 12  # removed trie nodes made free in a turn


Rows: TypeAlias = "npt.NDArray[np.uint32]"


class NoRoom(Exception):
    """More peers or allowed IPs than there is room for; nothing was changed. `errno` is positive."""

    def __init__(self, what: str, why: str, next_step: str, code: int = errno.ENOSPC) -> None:
        super().__init__(f"{what}: {why}; {next_step}")
        self.errno = code
        self.why, self.mend = f"{what}: {why}", next_step


class Peers:
    """The table; control alone has one."""

    def __init__(
        self,
        memory: Memory,
        grace_periods: GracePeriods,
        keypairs: Keypairs,
        consumers: int,
        pace: Pace = PACE,
    ) -> None:
        self.pace = pace
        self.memory = memory
        self.segment = memory.segment
        self.vault = memory.vault
        self.grace_periods = grace_periods
        self.keypairs = keypairs
        self.rows = self.segment.rows
        self.device = self.segment.device
        self.retiring: set[int] = set()  # ordered to retire, token not yet dead
        self.looked = 0  # how far `look_for_retired` has come among those
        self.retired: set[int] = set()  # in the second grace period
        self.tables = self._open_public_keys()
        self.ips = ffi.new("struct allowedips *")
        self.free_rows = np.zeros(memory.max_peers, np.uint32)
        # Of each row (workers/control/quotas.py). Pages come into being where a row has a rule.
        self.rules = np.zeros(memory.max_peers, np.uint8)
        self.expiries = np.zeros(memory.max_peers, np.uint32)
        self.table = self._open_table(consumers)
        self.away: list[int] = []  # consumers
        self.reclaiming = 0  # head of the removed trie nodes in a grace period
        self.is_reclaiming = False

    # -- looking up ---------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Live peers."""
        return int(self.table.count)

    @property
    def free(self) -> Rows:
        """Rows to use again, the last first."""
        return self.free_rows[: int(self.table.free_count)]

    @property
    def used(self) -> int:
        """No row at or above was ever used."""
        return int(self.device.rows_used)

    def find(self, public_key: bytes) -> int | None:
        """The row of a live peer, or None."""
        row = lib.publickeys_lookup(self.tables, public_key)
        return None if row == NOBODY else row

    def is_live(self, row: int) -> bool:
        """Whether the row holds a peer."""
        return row < self.used and int(self.rows[row].state) == LIVE

    def are_live(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """`is_live` of each."""
        live = rows < self.used
        live[live] = self.memory.rows["state"][rows[live]] == LIVE
        return live

    def is_generation(self, row: int, generation: int) -> bool:
        """Whether the row still holds that very peer."""
        return self.is_live(row) and int(self.rows[row].generation) == generation

    def live_rows(self, first: int = 0, last: int | None = None) -> list[int]:
        """The rows with peers among first..last-1."""
        last = self.used if last is None else min(last, self.used)
        states = self.memory.rows["state"][first:last]
        return [int(row) + first for row in np.flatnonzero(states == LIVE)]

    def rows_with_pending_endpoint(self) -> list[int]:
        """Live rows whose endpoint waits (workers/control/endpoints.c)."""
        rows = self.memory.rows[: self.used]
        waits = (rows["pending_endpoint"][:, 0] != 0) & (rows["state"] == LIVE)
        return [int(row) for row in np.flatnonzero(waits)]

    def has_run_out(self, row: int) -> bool:
        """Whether its quota is used up or its time over: no session may begin."""
        return bool(self.rules[row] & lib.RULE_OUT)

    def active_rows(self, is_down: bool, first: int = 0, last: int | None = None) -> list[int]:
        """Live rows among first..last-1 with something outbound, or with keys that are there or ordered
        (is_down), or with a persistent interval (else)."""
        last = self.used if last is None else min(last, self.used)
        found = np.empty(max(last - first, 0), np.uint32)
        count = lib.table_find_active(self.table, first, last, is_down, _pointer(found))
        return [int(row) for row in found[:count]]

    def public_key(self, row: int) -> bytes:
        return bytes(ffi.buffer(self.rows[row].public_key))

    def name(self, row: int) -> str:
        """Its name, empty when it has none."""
        name = ffi.new("uint8_t[]", lib.NAME_MOST)
        return bytes(name[0 : lib.table_load_name(self.table, row, name)]).decode("utf-8", "replace")

    def store_handshake_time(self, rows: int | Rows, wall: int) -> None:
        """Handshakes are complete; wall clock ns."""
        columns = self.memory.rows
        columns["handshake_sec"][rows], columns["handshake_nsec"][rows] = divmod(wall, 1_000_000_000)

    # -- adding -------------------------------------------------------------------------------

    def room(self, peak: int, new: int, nodes: int) -> Iterator[None]:
        """Make sure of memory for what a set will add, in slices. NoRoom when it cannot fit.

        peak: the most peers there will be at once; new: of them not yet there; nodes: the most trie
        nodes there will be. Rows and nodes that removed peers give back count as free: who
        adds waits for them (`has_row`, `has_node`).
        """
        if peak > self.memory.max_peers:
            raise NoRoom(
                f"{peak} peers",
                f"this interface has room for {self.memory.max_peers}",
                f"raise max_peers in the settings, as far as {MAX_PEERS:,}, and start the interface anew",
            )
        if nodes >= self.memory.max_trie_nodes:
            raise NoRoom(
                "more allowed IPs",
                f"this interface has room for {self.memory.max_trie_nodes // 2}",
                f"raise max_peers in the settings, as far as {MAX_PEERS:,} ({ALLOWED_IPS_A_PEER} for each), "
                "and start the interface anew",
            )
        rows = self.used + max(new - int(self.table.free_count), 0)
        try:
            rows = min(rows, self.memory.max_peers)
            for some in range(self.vault.ready("rows_ready") + ROWS_AT_ONCE, rows, ROWS_AT_ONCE):
                self.memory.ensure_rows(some)
                yield
            self.memory.ensure_rows(rows)
            most = int(self.ips.used) + nodes - int(self.ips.live) + 1
            most = min(max(most, 1), self.memory.max_trie_nodes)
            for some in range(self.vault.ready("trie_ready") + NODES_AT_ONCE, most, NODES_AT_ONCE):
                self.memory.ensure_trie(some)
                yield
            self.memory.ensure_trie(most)
        except OSError as error:
            raise NoRoom(
                "more peers",
                f"no memory for them ({error.strerror})",
                MORE_MEMORY,
                error.errno or errno.ENOMEM,
            ) from error
        self._note_room()

    @property
    def has_row(self) -> bool:
        """Whether `add` can be called now; else a removed peer's row will come free."""
        return bool(self.table.free_count) or self.used < self.memory.max_peers

    @property
    def has_node(self) -> bool:
        """Whether `allow` can be called now; else removed nodes will come free. It takes two at most."""
        return self.memory.max_trie_nodes - 1 - int(self.ips.used) + int(self.ips.free) >= 2

    def add(self, public_key: bytes) -> int:
        """A new peer; returns its row. Room was made sure of before (`room`)."""
        self.ensure_row()
        return lib.table_add(self.table, public_key)

    def ensure_row(self) -> None:
        """Memory for a row more."""
        if not self.table.free_count:
            self.memory.ensure_rows(self.used + 1)
            self._note_room()

    # -- removing -----------------------------------------------------------------------------

    def remove(self, rows: list[int]) -> None:
        """Take peers away; their rows are free again some grace periods later."""
        order = np.array(rows, np.uint32)
        for row in order[self.keypairs.first[order] != 0].tolist():
            self.keypairs.withdraw_all(row)
        lib.table_take_away(self.table, _pointer(order), len(order))
        self.reclaim_later()
        self.grace_periods.after(lambda: self._retire(order))

    def _retire(self, rows: Rows) -> int:
        self.retiring.update(rows.tolist())
        lib.table_retire(self.table, _pointer(rows), len(rows))
        self._take_dead(rows)  # they may have been ordered in control's life before this one
        return len(rows) // ROWS_AN_ACTION

    def _take_dead(self, rows: Rows) -> None:
        for row in rows[self.memory.tokens(2 * rows + lib.OUTBOUND) == lib.TOKEN_DEAD].tolist():
            self.holder_retired(row)

    def holder_retired(self, row: int) -> None:
        """EVENT_RETIRED, or outbound's token, which dies last, was seen dead: one more grace period,
        then the row is free."""
        if row not in self.retiring or lib.token_read(self.segment, 2 * row + lib.OUTBOUND) != lib.TOKEN_DEAD:
            return
        self.retiring.discard(row)
        self.retired.add(row)
        self.grace_periods.gather(self._free, [row])

    def look_for_retired(self) -> None:
        """Once a second: a holder killed between setting the token dead and telling it. Of many, some."""
        if self.retiring:
            first = self.looked if self.looked < len(self.retiring) else 0
            self.looked = first + RETIRING_A_LOOK
            self._take_dead(np.array(list(islice(self.retiring, first, self.looked)), np.uint32))

    def _free(self, rows: list[int]) -> None:
        """A slice of them, the rest in the next poll."""
        some = rows[-self.pace.freed:]
        del rows[-self.pace.freed:]
        for row in some:
            before = self.vault.attempts.note(Step.FREEING, row + 1)  # each control comes to this
            self.keypairs.release_all(row)
            self.retired.discard(row)
            lib.table_free(self.table, ffi.new("uint32_t[]", [row]), 1)
            self.vault.attempts.over(before)
        if rows:
            self.grace_periods.go_on(lambda: self._free(rows))

    # -- allowed IPs --------------------------------------------------------------------------

    def disallow_some(self, row: int, most: int) -> int:
        """At most so many prefixes are no longer this peer's; how many."""
        count = lib.table_disallow_some(self.table, row, most)
        if count:
            self.reclaim_later()
        return count

    def count_allowed(self, row: int, most: int) -> int:
        """How many prefixes the peer has, counted up to `most`."""
        return lib.table_count_allowed(self.table, row, most)

    def allowed(self, row: int, most: int = 1 << 32) -> list[tuple[bytes, int]]:
        """The peer's prefixes as (address, cidr), first given first, at most so many."""
        found: list[tuple[bytes, int]] = []
        number = int(self.table.vault[row].first_allowed)
        while number and len(found) < most:
            node = self.ips.nodes[number]
            found.append((bytes(ffi.buffer(node.address, node.bits // 8)), int(node.cidr)))
            number = int(node.peer_next)
        return found

    def ensure_nodes(self) -> None:
        """Memory for an allowed IP more."""
        needed = min(int(self.ips.used) + 3, self.memory.max_trie_nodes)
        if needed > self.vault.ready("trie_ready"):
            try:
                self.memory.ensure_trie(needed)
            except OSError as error:
                raise NoRoom(
                    "an allowed IP", f"no memory ({error.strerror})", MORE_MEMORY
                ) from error
            self._note_room()

    def reclaim_later(self) -> None:
        """Removed trie nodes are used again after a grace period; later ones wait for the next."""
        if self.is_reclaiming or not self.ips.waiting_head:
            return
        self.is_reclaiming = True
        self.reclaiming, self.ips.waiting_head = int(self.ips.waiting_head), 0
        self.grace_periods.after(self._reclaim)

    def _reclaim(self) -> None:
        since, self.ips.waiting_head = int(self.ips.waiting_head), self.reclaiming
        has_more = lib.allowedips_reclaim_some(self.ips, NODES_A_RECLAIM)
        self.ips.waiting_head, self.reclaiming = since, int(self.ips.waiting_head)
        if has_more:
            self.grace_periods.go_on(self._reclaim)
            return
        self.is_reclaiming = False
        self.reclaim_later()

    # -- consumers ----------------------------------------------------------------------------

    def share_out(self, consumers: int, away: Sequence[int] = ()) -> None:
        """Each row, used or not, belongs to one of so many consumers from now on; none to one that is away,
        while others are there."""
        self.away = list(away)
        lib.table_share_out(self.table, consumers, self.away, len(self.away))

    # -- orders -------------------------------------------------------------------------------

    def order(self, row: int, bits: int) -> None:
        """Give orders to whoever holds the peer next, and see to it that somebody does."""
        if bits & lib.ORDER_STOP_SENDING:
            self.keypairs.stop_sending(row)
        lib.orders_give(self.segment, row, bits)
        lib.peer_schedule(self.segment, row)

    # -- the start ----------------------------------------------------------------------------

    def leave_out(self, row: int) -> None:
        """Before `recover`: it must not be touched again. Nothing leads there, its secrets are gone."""
        self.rows[row].state = LEFT_OUT
        size = ffi.sizeof("struct vault_row")
        ffi.memmove(self.table.vault + row, bytes(size), size)

    def recover(self, without: Collection[Step] = ()) -> None:
        """Find everything as a killed control left it; with an empty segment there is nothing.

        without: steps that controls before this one died of.
        """
        attempts = self.vault.attempts
        ready = self.vault.ready("rows_ready")
        if self.used > ready:  # any worker may write this word, and behind those rows there is no memory
            log.error("%d rows were said to be in use, %d exist; the others are ignored", self.used, ready)
            self.device.rows_used = ready
        used = self.used
        states = self.memory.rows["state"][:used]
        left_out = np.flatnonzero(states == LEFT_OUT).tolist()
        for row in left_out:  # a kill may have cut that short
            self.leave_out(row)
        self.memory.ensure_trie(1)
        self._note_room()
        lib.allowedips_open(
            self.ips,
            ffi.cast("struct trie_node *", self.segment.trie),
            self.memory.max_trie_nodes,
            ffi.addressof(self.device, "trie_root4"),
            ffi.addressof(self.device, "trie_root6"),
        )
        nodes = self.vault.ready("trie_ready")
        self.ips.nodes[0].peer_next = min(int(self.ips.nodes[0].peer_next), nodes - 1)  # likewise
        if Step.TRIE in without:  # no peer has an allowed IP
            self.device.trie_root4 = self.device.trie_root6 = 0
        if used:
            with attempts.trying(Step.TRIE):
                heads = lib.table_allowed(self.table)
                lib.allowedips_recover(self.ips, used, heads, ffi.sizeof("struct vault_row"))
        with attempts.trying(Step.PEERS):
            lib.table_recover(self.table, self.vault.attempt_place())
        for row in left_out:
            lib.table_disallow_all(self.table, row)
        retiring = []
        if Step.RETIRING not in without:
            for row in attempts.each(Step.RETIRING, np.flatnonzero(states == RETIRING).tolist()):
                lib.table_disallow_all(self.table, row)
                retiring.append(row)
        free = np.flatnonzero((states != LIVE) & (states != RETIRING) & (states != LEFT_OUT))[::-1]
        self.free_rows[: len(free)] = free
        self.table.free_count = len(free)
        with attempts.trying(Step.SESSIONS):
            self.keypairs.recover(self.is_generation, Step.SESSIONS in without)
        if Step.ORDERS not in without:
            orders = self.memory.rows["orders"][:used] & 0xFFFFFFFF != 0
            for row in attempts.each(Step.ORDERS, np.flatnonzero(orders & (states != LEFT_OUT)).tolist()):
                lib.peer_schedule(self.segment, row)  # given, perhaps not scheduled
        pending = self.memory.rows["events"][:used] & 0xFFFFFFFF != 0
        for row in np.flatnonzero(pending).tolist():
            lib.events_give(self.segment, row, 0)  # a control before us took it out of our set, and died
        for first in range(0, len(retiring), self.pace.retiring):
            some = np.array(retiring[first : first + self.pace.retiring], np.uint32)
            self.grace_periods.after(partial(self._retire, some))
        self.reclaim_later()

    def _note_room(self) -> None:
        self.table.rows_ready = self.vault.ready("rows_ready")
        self.table.trie_ready = self.vault.ready("trie_ready")

    def _open_table(self, consumers: int) -> peer_table_p:
        """What the C of many rows works with (workers/control/peer_table.h)."""
        table = ffi.new("struct peer_table *")
        table.segment, table.keys, table.ips = self.segment, self.tables, self.ips
        table.vault = ffi.cast("struct vault_row *", self.vault.rows.ctypes.data)
        table.free = _pointer(self.free_rows)
        table.rules = ffi.cast("uint8_t *", self.rules.ctypes.data)
        table.expiries = _pointer(self.expiries)
        table.names_fd, table.names_at = self.vault.fd, self.vault.names_at
        table.consumers = max(consumers, 1)
        return table

    def _open_public_keys(self) -> publickeys_p:
        """The buckets are filled again by each control, under a fresh key: they need no repair."""
        tables = ffi.new("struct publickeys *")
        tables.buckets = self.segment.public_keys
        tables.bucket_count = min(FIRST_BUCKETS, int(self.segment.geometry.public_key_buckets))
        self.memory.ensure_buckets(tables.bucket_count)
        ffi.memmove(tables.buckets, bytes(4 * tables.bucket_count), 4 * tables.bucket_count)
        tables.key[0] = int.from_bytes(os.urandom(8), "little")
        tables.key[1] = int.from_bytes(os.urandom(8), "little")
        tables.rows = ffi.cast("uint8_t *", self.rows)
        tables.stride = lib.PEER_ROW_BYTES
        tables.key_offset = ffi.offsetof("struct peer_row", "public_key")
        tables.chain_offset = ffi.offsetof("struct peer_row", "key_chain")
        tables.max_rows = self.memory.max_peers
        return tables


def _pointer(rows: Rows) -> Ints[uint32_t]:
    """As C takes it; the array must stay alive meanwhile."""
    return ffi.cast("uint32_t *", rows.ctypes.data)
