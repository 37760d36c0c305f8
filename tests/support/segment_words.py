"""The data segment of a running engine, as somebody outside sees it."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from plait.lab.namespaces import descriptors
from plait.watch.processes import GONE
from shm.layout import dtype
from workers._workers import ffi, lib


class Memory:
    """Mapped through the supervisor's descriptor. LookupError when it has none."""

    def __init__(self, supervisor: int) -> None:
        for fd, path in descriptors(supervisor).items():
            with contextlib.suppress(*GONE):
                if path.startswith("/dev/shm/"):
                    file = os.open(f"/proc/{supervisor}/fd/{fd}", os.O_RDWR)
                    try:
                        size = os.fstat(file).st_size
                        self.map = mmap.mmap(file, size)
                    finally:
                        os.close(file)
                    self.segment = ffi.new("struct segment *")
                    self.base = ffi.from_buffer(self.map)
                    if lib.segment_attach(self.segment, self.base, size) == 0:
                        return
        raise LookupError("the supervisor has no data segment")

    def faults(self) -> str:
        """What segment_valid finds, in words; empty when all is whole. Nobody may be at work."""
        text = ffi.new("char[200]")
        count = lib.segment_valid(self.segment, text, 200)
        return f"{count}: {ffi.string(text).decode()}" if count else ""

    def nodes_out(self) -> int:
        states = ffi.unpack(self.segment.states, self.segment.nodes + 1)
        return sum(state != lib.NODE_FREE for state in states)

    def keypairs_out(self) -> int:
        """Sessions in memory that no peer's key word names."""
        segment = self.segment
        words = [int(segment.rows[row].key_word) for row in range(segment.device.rows_used)]
        slab = ffi.cast("struct keypair *", segment.keypairs)
        used = [number for number in range(1, segment.geometry.max_keypairs) if slab[number].birth]
        return sum(not any(lib.key_word_names(word, number) for word in words) for number in used)

    def tables(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Every array of structs, with the struct's name."""
        geometry = self.segment.geometry
        cells = geometry.max_receivers * geometry.mailbox_cells
        counts = {
            "worker": (lib.REGION_WORKERS, lib.MAX_WORKERS),
            "bell": (lib.REGION_BELLS, lib.MAX_WORKERS),
            "device": (lib.REGION_DEVICE, 1),
            "peer_row": (lib.REGION_ROWS, self.segment.device.rows_used),
            "index_entry": (lib.REGION_INDEX, geometry.max_keypairs),
            "keypair": (lib.REGION_KEYPAIRS, geometry.max_keypairs),
            "mailbox_ring": (lib.REGION_MAILBOX, geometry.max_receivers),
            "node": (lib.REGION_NODES, self.segment.nodes + 1),
        }
        for name, (region, count) in counts.items():
            offset = int(self.segment.header.offset[region])
            yield name, self._table(name, offset, int(count))
        rings = int(self.segment.header.offset[lib.REGION_MAILBOX])
        rings += geometry.max_receivers * ffi.sizeof("struct mailbox_ring")
        yield "mailbox_cell", self._table("mailbox_cell", rings, cells)
        yield "header", self._table("header", 0, 1)

    def _table(self, name: str, offset: int, count: int) -> np.ndarray[Any, Any]:
        kind = dtype(ffi.typeof(f"struct {name}"))
        return np.frombuffer(self.map, np.uint8, count * kind.itemsize, offset).view(kind)


def reserved(memory: Memory) -> dict[str, bool]:
    """Whether anything but zero stands in each field that is called reserved, by struct and field."""
    found = {}
    for struct, table in memory.tables():
        for name, words in _fields(struct, table):
            found[name] = bool(words.any())
    return found


def _fields(name: str, array: np.ndarray[Any, Any]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for field in array.dtype.names or ():
        if "reserved" in field:
            yield f"{name}.{field}", array[field]
        else:
            yield from _fields(f"{name}.{field}", array[field])
