"""Control's view of the data segment: the C view, numpy columns, and room in extents.

Rows, timer columns, trie nodes, index entries and keypairs are address space until they are first
used. `Memory` makes sure of the memory behind them step by step (posix_fallocate), so that a full
/dev/shm is one clear error of the operation that wanted more and never a SIGBUS. How far each
region reaches is noted in the vault, where a restarted control finds it.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from workers._workers import ffi, lib
from workers.control.vault import Vault
from workers.promises import lock

if TYPE_CHECKING:
    from engine.timers import Rows
    from workers._workers import CType, TypeName, segment_p

ROWS_A_STEP = 1024
KEYPAIRS_A_STEP = 256
TRIE_NODES_A_STEP = 4096
PAGE = 4096
MORE_MEMORY = "enlarge /dev/shm (mount -o remount,size=…; docker run --shm-size) or free memory"


class Memory:
    """The data segment behind `fd`, mapped and attached (workers/launch.py), as control writes it."""

    def __init__(self, fd: int, mapping: mmap.mmap, segment: segment_p, vault: Vault) -> None:
        self.fd = fd
        self.map = mapping
        self.segment = segment
        self.vault = vault
        geometry = self.segment.geometry
        self.max_peers = int(geometry.max_peers)
        self.max_trie_nodes = int(geometry.max_trie_nodes)
        self.why_unlocked = ""  # or why not all keypairs in use are locked in memory
        self.device = self.segment.device
        # A control before us may not have told it.
        self.device.keypairs_ready = vault.ready("keypairs_ready")
        if self.device.keypairs_ready:
            self._lock_keypairs(int(self.device.keypairs_ready))
        self.offset = [int(self.segment.header.offset[i]) for i in range(lib.REGIONS)]
        shape = (lib.TIMER_COLUMNS, self.max_peers)
        columns = np.frombuffer(self.map, np.uint32, shape[0] * shape[1], self.offset[lib.REGION_COLUMNS])
        self.columns = columns.reshape(shape)
        row = columns_of("struct peer_row", _ROW)
        self.rows = np.frombuffer(self.map, row, self.max_peers, self.offset[lib.REGION_ROWS])
        places = -(-lib.DIRECTIONS * self.max_peers // lib.TOKEN_BLOCK) * lib.TOKEN_BLOCK
        self._tokens = np.frombuffer(self.map, np.uint32, places, self.offset[lib.REGION_TOKENS])

    def tokens(self, queues: Rows) -> np.ndarray[Any, np.dtype[np.uint32]]:
        """The tokens of these queues."""
        places = queues & 0xFFFFFF00 | (queues & 15) << 4 | queues >> 4 & 15  # token_place of shm/token.c
        return np.asarray(self._tokens[places])

    # -- room: OSError (ENOSPC, ENOMEM) when there is none -------------------------------------

    def ensure_rows(self, rows: int) -> None:
        """Memory for peer rows 0..rows-1, all that belongs to them, and their vault rows."""
        ready = self.vault.ready("rows_ready")
        if rows <= ready:
            return
        last = min((rows + ROWS_A_STEP - 1) // ROWS_A_STEP * ROWS_A_STEP, self.max_peers)
        self._extend(lib.REGION_ROWS, ready * lib.PEER_ROW_BYTES, last * lib.PEER_ROW_BYTES)
        self._extend(lib.REGION_TOKENS, ready * 8, last * 8)
        self.ensure_buckets(min(last, int(self.segment.geometry.public_key_buckets)))
        for column in range(lib.TIMER_COLUMNS):
            base = column * self.max_peers
            self._extend(lib.REGION_COLUMNS, (base + ready) * 4, (base + last) * 4)
        self.vault.ensure(last)
        self.vault.set_ready("rows_ready", last)

    def ensure_buckets(self, buckets: int) -> None:
        """Memory for the buckets 0..buckets-1 of public keys."""
        self._extend(lib.REGION_PUBLIC_KEYS, 0, buckets * 4)

    def ensure_keypairs(self, count: int) -> None:
        """Memory for keypairs 0..count-1 and their index entries, which all may look at from then on."""
        ready = self.vault.ready("keypairs_ready")
        if count <= ready:
            return
        last = (count + KEYPAIRS_A_STEP - 1) // KEYPAIRS_A_STEP * KEYPAIRS_A_STEP
        last = min(last, int(self.segment.geometry.max_keypairs))
        self._extend(lib.REGION_KEYPAIRS, ready * lib.KEYPAIR_BYTES, last * lib.KEYPAIR_BYTES)
        self._extend(lib.REGION_INDEX, ready * lib.INDEX_ENTRY_BYTES, last * lib.INDEX_ENTRY_BYTES)
        self._lock_keypairs(last)
        self.vault.set_ready("keypairs_ready", last)
        self.device.keypairs_ready = last

    def ensure_trie(self, nodes: int) -> None:
        """Memory for trie nodes 0..nodes-1."""
        ready = self.vault.ready("trie_ready")
        if nodes <= ready:
            return
        last = (nodes + TRIE_NODES_A_STEP - 1) // TRIE_NODES_A_STEP * TRIE_NODES_A_STEP
        last = min(last, self.max_trie_nodes)
        self._extend(lib.REGION_TRIE, ready * lib.TRIE_NODE_BYTES, last * lib.TRIE_NODE_BYTES)
        self.vault.set_ready("trie_ready", last)

    def _lock_keypairs(self, count: int) -> None:
        """Keep them from being swapped out, whoever uses them: a page stays that one process has locked."""
        self.why_unlocked = self.why_unlocked or lock(self.segment.keypairs, count * lib.KEYPAIR_BYTES)

    def _extend(self, region: int, first: int, last: int) -> None:
        start = (self.offset[region] + first) // PAGE * PAGE
        end = (self.offset[region] + last + PAGE - 1) // PAGE * PAGE
        os.posix_fallocate(self.fd, start, end - start)


_ROW = (
    "generation", "state", "handshake_sec", "handshake_nsec", "key_word", "keepalive", "public_key", "orders",
    "events", "handshake_tx", "handshake_rx", "pending_endpoint",
    "on_demand", "idle_after", "added", "rx_bytes", "tx_bytes", "quota", "expires", "ran_out",
)  # fmt: skip


def columns_of(struct: TypeName, names: tuple[str, ...]) -> np.dtype[Any]:
    """Those fields of a C struct, to look at an array of it by column."""
    fields = dict(ffi.typeof(struct).fields)

    def kind(ctype: CType) -> Any:
        if ctype.kind == "array":
            return kind(ctype.item), ctype.length
        return f"{'i' if int(ffi.cast(ctype, -1)) < 0 else 'u'}{ffi.sizeof(ctype)}"

    return np.dtype(
        {
            "names": names,
            "formats": [kind(fields[name].type) for name in names],
            "offsets": [fields[name].offset for name in names],
            "itemsize": ffi.sizeof(struct),
        }
    )
