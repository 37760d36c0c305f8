"""Numpy views of the segment's tables, for control: no copies, one array a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from shm._shm import ffi, lib
from shm.layout import dtype
from shm.segment import DataSegment

Array = np.ndarray[Any, np.dtype[Any]]


class Columns:
    """Views into a mapped data segment; drop this object before the segment is closed.

    Reading or writing beyond what `DataSegment.ensure` has allocated may end the process.
    """

    def __init__(self, data: DataSegment) -> None:
        """Views of every table that control works on."""
        self._data = data
        g = data.segment.geometry
        self.rows = self._view(lib.REGION_ROWS, dtype("struct peer_row"), (g.max_peers,))
        self.timers = self._view(lib.REGION_COLUMNS, np.dtype("u4"), (lib.TIMER_COLUMNS, g.max_peers))
        places = -(-lib.DIRECTIONS * g.max_peers // lib.TOKEN_BLOCK) * lib.TOKEN_BLOCK
        self.tokens = self._view(lib.REGION_TOKENS, np.dtype("u4"), (places,))
        self.counters = self._view(
            lib.REGION_COUNTERS, np.dtype("u8"), (lib.MAX_WORKERS, lib.COUNTERS_A_WORKER)
        )
        self.workers = self._view(lib.REGION_WORKERS, dtype("struct worker"), (lib.MAX_WORKERS,))
        self.device = self._view(lib.REGION_DEVICE, dtype("struct device"), (1,))
        self.public_keys = self._view(lib.REGION_PUBLIC_KEYS, np.dtype("u4"), (g.public_key_buckets,))
        # Only engine/ knows what stands in these: plain bytes here.
        self.index = self._view(lib.REGION_INDEX, np.dtype("u1"), (g.max_keypairs, lib.INDEX_ENTRY_BYTES))
        self.trie = self._view(lib.REGION_TRIE, np.dtype("u1"), (g.max_trie_nodes, lib.TRIE_NODE_BYTES))
        self.keypairs = self._view(lib.REGION_KEYPAIRS, np.dtype("u1"), (g.max_keypairs, lib.KEYPAIR_BYTES))

    def _view(self, region: int, kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        length = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        memory = ffi.buffer(ffi.cast("char *", self._data.address + self._data.offset(region)), length)
        return np.frombuffer(memory, dtype=kind).reshape(shape)
