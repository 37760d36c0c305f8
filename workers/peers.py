"""The peers of the interface: a table whose every byte stands in the segments.

A peer is a row number. Its row, timer columns, place in the public-key table, allowed IPs and
keypairs are the data segment's; its secrets are the vault's. This process keeps no object per
configured peer, so that a restarted control finds everything as it was (`recover`).

A row's life: unused -> live -> retiring -> unused. Readers and the holder may still look at a
removed peer, so it goes step by step:

    remove    out of the trie, the index and the public-key table; secrets wiped; state retiring
    grace     no receiver knows the row any more
    retire    the holder drops what it has, lets go of its keys and sets the token dead
    grace     nobody who read the row before still looks
    free      keypairs released, row wiped, may be used again with a new generation
"""

from __future__ import annotations

import errno
import os
from array import array
from typing import Any

import numpy as np

from workers._workers import ffi, lib
from workers.grace import Graces
from workers.keypairs import Keypairs
from workers.memory import Memory

UNUSED, LIVE, RETIRING = 0, 1, 2
NOBODY = 0xFFFFFFFF
NO_ROW = bytes(lib.PEER_ROW_BYTES)

# control_reserved[]: bytes of handshake messages (the holder counts data in tx_bytes and rx_bytes), and
# what was `produced` in the outbound queue when a handshake was last wanted.
HANDSHAKE_TX, HANDSHAKE_RX, OUTBOUND_SEEN = 0, 1, 2  # 3 to 5: workers/endpoints.py


class NoRoom(Exception):
    """More peers or allowed IPs than there is room for; nothing was changed. `errno` is positive."""

    def __init__(self, what: str, why: str, next_step: str, code: int = errno.ENOSPC) -> None:
        super().__init__(f"{what}: {why}; {next_step}")
        self.errno = code


class Peers:
    """The table; control alone has one."""

    def __init__(self, memory: Memory, graces: Graces, keypairs: Keypairs, consumers: int) -> None:
        self.memory = memory
        self.segment = memory.segment
        self.vault = memory.vault
        self.graces = graces
        self.keypairs = keypairs
        self.consumers = max(consumers, 1)
        self.rows = self.segment.rows
        self.device = self.segment.device
        self.count = 0
        self.free = array("I")
        self.retiring: set[int] = set()  # ordered to retire, token not yet dead
        self.retired: set[int] = set()  # in the second grace period
        self.tables = self._open_public_keys()
        self.ips = ffi.new("struct allowedips *")
        self.reclaiming = 0  # head of the removed trie nodes in a grace period
        self.is_reclaiming = False

    # -- looking up ---------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """No row at or above was ever used."""
        return int(self.device.rows_used)

    def find(self, public_key: bytes) -> int | None:
        """The row of a live peer, or None."""
        row = int(lib.publickeys_lookup(self.tables, public_key))
        return None if row == NOBODY else row

    def is_live(self, row: int) -> bool:
        """Whether the row holds a peer."""
        return row < self.used and int(self.rows[row].state) == LIVE

    def is_generation(self, row: int, generation: int) -> bool:
        """Whether the row still holds that very peer."""
        return self.is_live(row) and int(self.rows[row].generation) == generation

    def live_rows(self, first: int = 0, last: int | None = None) -> list[int]:
        """The rows with peers among first..last-1."""
        last = self.used if last is None else min(last, self.used)
        states = self.memory.rows["state"][first:last]
        return [int(row) + first for row in np.flatnonzero(states == LIVE)]

    def public_key(self, row: int) -> bytes:
        return bytes(ffi.buffer(self.rows[row].public_key))

    def remembered(self, row: int, which: int) -> int:
        """A word of control's own in the row."""
        return int(self.rows[row].control_reserved[which])

    def remember(self, row: int, which: int, value: int) -> None:
        self.rows[row].control_reserved[which] = value

    def store_handshake_time(self, row: int, wall: int) -> None:
        """A handshake is complete; wall clock ns."""
        peer = self.rows[row]
        peer.handshake_sec, peer.handshake_nsec = divmod(wall, 1_000_000_000)

    # -- adding -------------------------------------------------------------------------------

    def room(self, peak: int, new: int, nodes: int) -> None:
        """Make sure of memory for what a set will add. NoRoom when it cannot fit.

        peak: the most peers there will be at once; new: of them not yet there; nodes: the most trie
        nodes there will be. Rows and nodes that removed peers give back count as free: who
        adds waits for them (`has_row`, `has_node`).
        """
        if peak > self.memory.max_peers:
            raise NoRoom(
                f"{peak} peers",
                f"this interface has room for {self.memory.max_peers}",
                "raise max_peers in its settings and start it anew",
            )
        if nodes >= self.memory.max_trie_nodes:
            raise NoRoom(
                "more allowed IPs",
                f"this interface has room for {self.memory.max_trie_nodes // 2}",
                "raise max_peers in its settings and start it anew",
            )
        rows = self.used + max(new - len(self.free), 0)
        try:
            self.memory.ensure_rows(min(rows, self.memory.max_peers))
            most = int(self.ips.used) + nodes - int(self.ips.live) + 1
            self.memory.ensure_trie(min(max(most, 1), self.memory.max_trie_nodes))
        except OSError as error:
            raise NoRoom(
                "more peers",
                f"no memory for them ({error.strerror})",
                "enlarge /dev/shm or free memory",
                error.errno or errno.ENOMEM,
            ) from error

    @property
    def has_row(self) -> bool:
        """Whether `add` can be called now; else a removed peer's row will come free."""
        return bool(self.free) or self.used < self.memory.max_peers

    @property
    def has_node(self) -> bool:
        """Whether `allow` can be called now; else removed nodes will come free. It takes two at most."""
        left = self.memory.max_trie_nodes - 1 - int(self.ips.used)
        number = int(self.ips.free_head)
        while number and left < 2:
            left += 1
            number = int(self.ips.nodes[number].child[0])
        return left >= 2

    def add(self, public_key: bytes) -> int:
        """A new peer; returns its row. Room was made sure of before (`room`)."""
        if self.free:
            row = self.free.pop()
        else:
            row = self.used
            self.memory.ensure_rows(row + 1)
            lib.token_give_dead(self.segment, row)
            self.device.rows_used = row + 1
        peer = self.rows[row]
        generation = (int(peer.generation) + 1) & 0xFFFFFFFF or 1
        ffi.memmove(self.rows + row, NO_ROW, lib.PEER_ROW_BYTES)
        peer.generation = generation
        peer.consumer = row % self.consumers
        lib.queue_initialise(self.segment, 2 * row + lib.INBOUND)
        lib.queue_initialise(self.segment, 2 * row + lib.OUTBOUND)
        lib.timers_initialise(self.segment.columns, self.memory.max_peers, row)
        self.vault.wipe(row)
        ffi.memmove(peer.public_key, public_key, 32)
        lib.token_initialise(self.segment, row)
        peer.state = LIVE
        lib.publickeys_insert(self.tables, row)
        self.count += 1
        return row

    # -- removing -----------------------------------------------------------------------------

    def remove(self, rows: list[int]) -> None:
        """Take peers away; their rows are free again some grace periods later."""
        for row in rows:
            self._take_away(row)
        self._reclaim_later()
        rows = list(rows)
        self.graces.after(lambda: self._retire(rows))

    def _take_away(self, row: int) -> None:
        peer = self.rows[row]
        lib.allowedips_remove_peer(self.ips, row, *self._first())
        lib.publickeys_remove(self.tables, row)
        self.keypairs.withdraw_all(row)
        peer.state = RETIRING
        self.memory.columns[lib.NEXT_DUE, row] = lib.TIMER_NEVER
        self.vault.wipe(row)
        self.count -= 1

    def _retire(self, rows: list[int]) -> None:
        for row in rows:
            self.retiring.add(row)
            self.order(row, lib.ORDER_RETIRE)
            self.holder_retired(row)  # it may have been ordered in control's life before this one

    def holder_retired(self, row: int) -> None:
        """EVENT_RETIRED, or the token was seen dead: one more grace period, then the row is free."""
        if row not in self.retiring or int(lib.token_read(self.segment, row)) != lib.TOKEN_DEAD:
            return
        self.retiring.discard(row)
        self.retired.add(row)
        self.graces.after(lambda: self._free(row))

    def look_for_retired(self) -> None:
        """Once a second: a holder killed between setting the token dead and telling it."""
        for row in list(self.retiring):
            self.holder_retired(row)

    def _free(self, row: int) -> None:
        self.keypairs.release_all(row)
        self.retired.discard(row)
        peer = self.rows[row]
        generation = int(peer.generation)
        ffi.memmove(self.rows + row, NO_ROW, lib.PEER_ROW_BYTES)
        peer.generation = generation
        self.free.append(row)

    # -- allowed IPs --------------------------------------------------------------------------

    def allow(self, row: int, address: bytes, cidr: int) -> None:
        """The prefix is this peer's from now on, whoever had it. NoRoom when the trie is full."""
        self._ensure_nodes()
        if lib.allowedips_insert(self.ips, address, 8 * len(address), cidr, row, *self._first()):
            raise NoRoom("an allowed IP", "the table is full", "raise max_peers in the settings")

    def disallow(self, row: int, address: bytes, cidr: int) -> None:
        """Exactly that prefix is no longer this peer's; nothing happens when it was not."""
        if lib.allowedips_remove(self.ips, address, 8 * len(address), cidr, row, *self._first()):
            self._reclaim_later()

    def disallow_all(self, row: int) -> None:
        if lib.allowedips_remove_peer(self.ips, row, *self._first()):
            self._reclaim_later()

    def allowed(self, row: int) -> list[tuple[bytes, int]]:
        """The peer's prefixes as (address, cidr), first given first."""
        found: list[tuple[bytes, int]] = []
        number, limit = int(self.rows[row].first_allowed), self.memory.max_trie_nodes
        nodes = self.ips.nodes
        while 0 < number < limit and len(found) < limit:
            node = nodes[number]
            found.append((bytes(ffi.buffer(node.address, node.bits // 8)), int(node.cidr)))
            number = int(node.peer_next)
        return found

    def _first(self) -> tuple[Any, int]:
        return ffi.cast("uint8_t *", ffi.addressof(self.rows[0], "first_allowed")), lib.PEER_ROW_BYTES

    def _ensure_nodes(self) -> None:
        needed = min(int(self.ips.used) + 3, self.memory.max_trie_nodes)
        if needed > self.vault.ready("trie_ready"):
            try:
                self.memory.ensure_trie(needed)
            except OSError as error:
                raise NoRoom(
                    "an allowed IP", f"no memory ({error.strerror})", "enlarge /dev/shm or free memory"
                ) from error

    def _reclaim_later(self) -> None:
        """Removed trie nodes are used again after a grace period; later ones wait for the next."""
        if self.is_reclaiming or not self.ips.waiting_head:
            return
        self.is_reclaiming = True
        self.reclaiming, self.ips.waiting_head = int(self.ips.waiting_head), 0
        self.graces.after(self._reclaim)

    def _reclaim(self) -> None:
        since, self.ips.waiting_head = int(self.ips.waiting_head), self.reclaiming
        lib.allowedips_reclaim(self.ips)
        self.ips.waiting_head, self.reclaiming = since, 0
        self.is_reclaiming = False
        self._reclaim_later()

    # -- orders -------------------------------------------------------------------------------

    def order(self, row: int, bits: int) -> None:
        """Give orders to whoever holds the peer next, and see to it that somebody does."""
        lib.orders_give(self.segment, row, bits)
        lib.peer_schedule(self.segment, row)

    # -- the start ----------------------------------------------------------------------------

    def recover(self) -> None:
        """Find everything as a killed control left it; with an empty segment there is nothing."""
        used = self.used
        self.memory.ensure_trie(1)
        lib.allowedips_open(
            self.ips,
            ffi.cast("struct trie_node *", self.segment.trie),
            self.memory.max_trie_nodes,
            ffi.addressof(self.device, "trie_root4"),
            ffi.addressof(self.device, "trie_root6"),
        )
        if used:
            lib.allowedips_recover(self.ips, used, *self._first())
        states = self.memory.rows["state"][:used]
        for row in np.flatnonzero(states == LIVE):
            lib.publickeys_insert(self.tables, int(row))
            self.count += 1
        retiring = []
        for row in np.flatnonzero(states == RETIRING):
            lib.allowedips_remove_peer(self.ips, int(row), *self._first())
            retiring.append(int(row))
        for row in np.flatnonzero((states != LIVE) & (states != RETIRING))[::-1]:
            self.free.append(int(row))
        self.keypairs.recover(self.is_generation)
        if retiring:
            self.graces.after(lambda: self._retire(retiring))
        self._reclaim_later()

    def _open_public_keys(self) -> Any:
        """The buckets are filled anew by each control, under a fresh key: they need no repair."""
        tables = ffi.new("struct publickeys *")
        geometry = self.segment.geometry
        size = 4 * int(geometry.public_key_buckets)
        ffi.memmove(self.segment.public_keys, bytes(size), size)
        tables.buckets = self.segment.public_keys
        tables.bucket_count = geometry.public_key_buckets
        tables.key[0] = int.from_bytes(os.urandom(8), "little")
        tables.key[1] = int.from_bytes(os.urandom(8), "little")
        tables.rows = ffi.cast("uint8_t *", self.rows)
        tables.stride = lib.PEER_ROW_BYTES
        tables.key_offset = ffi.offsetof("struct peer_row", "public_key")
        tables.chain_offset = ffi.offsetof("struct peer_row", "key_chain")
        tables.max_rows = self.memory.max_peers
        return tables
