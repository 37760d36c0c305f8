"""Lists that a broken worker has tied to rings cost their reader no more than whole ones."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

from shm._shm import ffi, lib
from tests.support.small_segment import make, mark

CPU_SECONDS = 20  # a thousand times what any of these takes; a walk that does not end has no other limit


def ends(act: Callable[[], object]) -> bool:
    """Whether a child that does this comes to its end before the kernel ends it."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def test_a_stub_behind_itself_is_no_list() -> None:
    data = make(1)
    stub = lib.STUB_FIRST + lib.INBOUND
    data.segment.rows[0].ends[lib.INBOUND].stub_next = stub
    whose, numbers = mark(data, lib.WORKER_CONSUMER), ffi.new("uint32_t[8]")
    assert ends(lambda: lib.queue_pop_sc(data.segment, whose, lib.INBOUND, numbers, 8, 64))
    data.close()


def test_repair_walks_rings_in_all_rows_once_in_all() -> None:
    """The dead one said that it held every peer, and that each one's lists are rings."""
    rows, nodes = 1 << 16, 32_000
    data = make(rows, max_peers=rows, nodes_a_pool=nodes)
    held, node = lib.TOKEN_HELD | mark(data, lib.WORKER_CONSUMER), 1
    data.segment.node[node].next = node
    for row in range(rows):
        for direction in (lib.INBOUND, lib.OUTBOUND):
            data.segment.tokens[lib.token_place(2 * row + direction)] = held
            data.segment.rows[row].heads[direction].head = node
    repair = ffi.new("struct repair *")
    assert ends(lambda: lib.repair_worker(data.segment, lib.WORKER_CONSUMER, repair))
    assert data.segment.workers[lib.WORKER_CONSUMER].incarnation == 2
    data.close()
