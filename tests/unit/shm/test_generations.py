"""Rule 1 of shm/queue.c: whatever was in a queue comes back with another generation.

Else the compare-exchange of a producer that stood still in between would link a chain behind a node of
another life.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from shm._shm import ffi, lib
from tests.support.small_segment import faults, make
from tests.unit.shm.test_wraps import issue, pop, push

LIVES = 5


@pytest.mark.parametrize("queue", [lib.INBOUND, lib.OUTBOUND])
def test_nodes_and_stubs_have_another_generation_in_each_life(queue: int) -> None:
    data, pool = make(1), ffi.new("struct pool *")
    assert lib.pool_open(pool, data.segment, queue) == 0
    stub = data.segment.rows[0].ends[queue]
    nodes: dict[int, list[int]] = defaultdict(list)
    stubs = [int(stub.stub_next) >> 32]
    while len(stubs) <= LIVES:
        number = issue(pool, 0, 1)
        generation, following = divmod(int(data.segment.node[number].next), 1 << 32)
        assert following == lib.NODE_NIL
        nodes[number].append(generation)
        assert push(data, queue, number, 1) == 0 and pop(data, queue) == [number]
        lib.node_bring_home(data.segment, number)
        lib.pool_sweep(pool)
        stubs.append(int(stub.stub_next) >> 32)  # it was pushed, since the last one was taken
    for lives in (stubs, *nodes.values()):
        assert len(set(lives)) == len(lives)
    assert max(map(len, nodes.values())) == LIVES, "the same node came back"
    assert faults(data) == ""
    lib.pool_close(pool)
    data.close()
