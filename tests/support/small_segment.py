"""A small data segment for the tests, with its queues and tokens ready."""

from __future__ import annotations

from typing import Any

from shm import segment
from shm._shm import ffi, lib

GEOMETRY = {
    "max_peers": 64,
    "max_keypairs": 64,
    "max_receivers": 2,
    "max_consumers": 2,
    "nodes_a_pool": 160,
    "small_slots": 64,
    "train_slots": 72,
    "mailbox_cells": 8,
    "max_trie_nodes": 64,
    "public_key_buckets": 64,
}


def make(rows: int, **changes: int) -> segment.DataSegment:
    """A fresh segment whose first `rows` rows are initialised; every worker is in its first life."""
    data = segment.create(GEOMETRY | changes, "test")
    data.ensure(lib.REGION_ROWS, data.segment.geometry.max_peers)
    for row in range(rows):
        lib.queue_initialise(data.segment, 2 * row)
        lib.queue_initialise(data.segment, 2 * row + 1)
        lib.token_initialise(data.segment, 2 * row)
        lib.token_initialise(data.segment, 2 * row + 1)
    for worker in range(lib.MAX_WORKERS):
        data.segment.workers[worker].incarnation = 1
    data.segment.device.rows_used = rows
    return data


def mark(data: segment.DataSegment, worker: int) -> int:
    """The mark of this worker's present life."""
    value: int = lib.worker_mark(worker, data.segment.workers[worker].incarnation)
    return value


def faults(data: segment.DataSegment) -> str:
    """What segment_valid finds, in words; empty when all is whole."""
    text: Any = ffi.new("char[200]")
    count = lib.segment_valid(data.segment, text, 200)
    return f"{count}: {ffi.string(text).decode()}" if count else ""
