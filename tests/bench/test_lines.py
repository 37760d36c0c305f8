"""`python -m tests.bench lines`: what its runtime counts, and the words that it prints."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shm._shm import ffi, lib
from tests.bench import lines
from tests.bench.lines import Counts, Row, ratios
from tests.support.sources import ROOT

# In the place of shm/segment.c: the offsets that are asked for stand at the beginning of the memory.
STUB = """
#include "shm/segment.h"
int segment_attach(struct segment *segment, char *at, uint64_t size)
{
    segment->header = (void *)at;
    return size == 0;
}
"""
GEOMETRY = {"max_peers": 64, "max_keypairs": 64, "max_receivers": 1, "max_consumers": 1, "nodes_a_pool": 64,
            "small_slots": 32, "train_slots": 2, "mailbox_cells": 8, "max_trie_nodes": 64,
            "public_key_buckets": 64}  # fmt: skip


class Processes:
    """Two copies of the runtime, each of which takes itself for a process of the engine."""

    def __init__(self, directory: Path) -> None:
        self.counts = Counts(directory / "lines")
        self.header = ffi.new("struct header *")
        size = lib.segment_lay_out(ffi.new("struct geometry *", GEOMETRY), self.header)
        self.memory = mmap.mmap(-1, size)
        self.memory[: ffi.sizeof("struct header")] = bytes(ffi.buffer(self.header))
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        (directory / "stub.c").write_text(STUB)
        self.copies = [self._copy(directory, name) for name in ("a", "b")]

    def _copy(self, directory: Path, name: str) -> ctypes.CDLL:
        words = ["gcc", "-std=gnu11", "-O2", "-fPIC", "-shared", "-D_GNU_SOURCE", f"-I{ROOT}"]
        words += ["-Wl,--wrap=segment_attach,-Bsymbolic", "-o", str(directory / f"{name}.so")]
        subprocess.run([*words, str(lines.HERE / "lines.c"), str(directory / "stub.c")], check=True)
        os.environ["PLAIT_LINES"] = str(directory / "lines")
        try:
            copy = ctypes.CDLL(str(directory / f"{name}.so"))
        finally:
            del os.environ["PLAIT_LINES"]
        segment = ctypes.create_string_buffer(ffi.sizeof("struct segment"))
        copy["__wrap_segment_attach"](segment, ctypes.c_void_p(self.base), ctypes.c_uint64(len(self.memory)))
        return copy

    def place(self, region: int, byte: int = 0) -> int:
        return int(self.header.offset[region]) + byte

    def do(self, who: int, what: str, place: int) -> tuple[int, int]:
        """One access; the fetches and revocations that it caused."""
        before = self.events()
        copy = self.copies[who]
        at = ctypes.c_void_p(self.base + place)
        with self.counts.counting():
            {
                "load": copy["__tsan_read4"],
                "store": copy["__tsan_write4"],
                "add": lambda at: copy["__tsan_atomic32_fetch_add"](at, 1, 0),
            }[what](at)
        return self.events()[0] - before[0], self.events()[1] - before[1]

    def events(self) -> tuple[int, int]:
        fetched, revoked = (sum(self.counts.words.events[event]) for event in range(len(lines.TOLD)))
        return fetched, revoked


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    yield Processes(tmp_path_factory.mktemp("lines"))


NOTHING, FETCH, REVOCATION = (0, 0), (1, 0), (0, 1)


def test_each_event_is_what_a_cache_would_do(processes: Processes) -> None:
    word = processes.place(lib.REGION_TOKENS)
    for who, what, event in (
        (0, "load", NOTHING),  # nobody has stored there
        (0, "store", NOTHING),
        (0, "store", NOTHING),
        (1, "load", FETCH),
        (1, "load", NOTHING),
        (0, "load", NOTHING),
        (0, "store", REVOCATION),
        (0, "store", NOTHING),
        (1, "store", FETCH),
        (1, "load", NOTHING),
        (0, "add", FETCH),
        (1, "load", FETCH),
        (1, "add", REVOCATION),
        (0, "load", FETCH),
    ):
        assert processes.do(who, what, word) == event, (who, what)


def test_a_line_is_what_moves_and_its_region_is_told(processes: Processes) -> None:
    row = processes.place(lib.REGION_ROWS, 3 * 512 + 2 * 64)
    assert processes.do(0, "store", row) == NOTHING
    before = list(processes.counts.words.row_events[0])
    assert processes.do(1, "load", row + 60) == FETCH  # another word of the line
    assert processes.do(1, "load", row + 64) == NOTHING
    assert processes.do(1, "load", row + 61) == NOTHING
    after = list(processes.counts.words.row_events[0])
    assert [late - early for early, late in zip(before, after, strict=True)] == [0, 0, 1, 0, 0, 0, 0, 0]
    made = lines.row_of("echoes", 2, processes.counts, 10)
    assert made.regions["rows"][0] >= 0.1 and made.processes == 2
    assert made.moved == pytest.approx(sum(sum(each) for each in made.regions.values()))


def test_the_lines_of_a_packet_are_those_that_a_pencil_finds(tmp_path: Path) -> None:
    """Ten packets that a receiver pushes and a consumer pops.

    The receiver takes the queue's line to push, the consumer takes it to pop: two fetches a packet, but for
    the first push, which finds a line that nobody has. Each counts in a line of its own. The receiver reads
    one more line, which the consumer stored to once: one fetch for all packets. At the end it stores there,
    a revocation, and the consumer reads it, a fetch."""
    processes = Processes(tmp_path)
    queue, route = (processes.place(lib.REGION_ROWS, byte) for byte in (0, 64))
    counted = [processes.place(lib.REGION_COUNTERS, byte) for byte in (0, 4096)]
    assert processes.do(1, "store", route) == NOTHING
    for _ in range(10):
        processes.do(0, "load", route)
        processes.do(0, "add", queue)
        processes.do(0, "store", counted[0])
        processes.do(1, "add", queue)
        processes.do(1, "store", counted[1])
    processes.do(1, "load", route)
    processes.do(0, "store", route)  # its copy is the latest, and so is the consumer's
    processes.do(1, "load", route)
    row = lines.row_of("echoes", 2, processes.counts, 10)
    assert (row.fetched, row.revoked) == pytest.approx(((19 + 1 + 1) / 10, 1 / 10))
    assert [round(sum(line) * 10) for line in row.rows] == [19, 3, 0, 0, 0, 0, 0, 0]
    assert {name for name, moved in row.regions.items() if sum(moved)} == {"rows"}


def test_memory_outside_the_segment_is_not_counted(processes: Processes) -> None:
    outside = ctypes.create_string_buffer(64)
    before = processes.events()
    with processes.counts.counting():
        for copy in processes.copies:
            copy["__tsan_write8"](outside)
    assert processes.events() == before


def test_the_bar_is_of_the_most_workers_to_the_fewest() -> None:
    def row(kind: str, workers: int, moved: float) -> Row:
        return Row(kind, workers, 1000, 3, moved, 0.0)

    rows = [row("echoes", 2, 2.0), row("echoes", 64, 5.0), row("stream", 2, 0.0), row("stream", 64, 0.01)]
    assert dict(ratios(rows)) == {"echoes": 2.5, "stream": 1.0}
