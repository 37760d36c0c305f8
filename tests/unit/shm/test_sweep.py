"""How far a sweep of a pool looks for nodes that came home: a little, or all the way if a kind ran out."""

from __future__ import annotations

from typing import Any

import pytest

from shm._shm import ffi, lib
from tests.support.small_segment import make

OUT = 40  # nodes that are out; more than a sweep looks at


@pytest.mark.parametrize("out_of", ["nothing", "small slots", "trains"])
def test_a_node_behind_many_that_are_out(out_of: str) -> None:
    changes = {"nothing": {}, "small slots": {"small_slots": OUT}, "trains": {"train_slots": OUT}}[out_of]
    data = make(1, **changes)
    pool: Any = ffi.new("struct pool *")
    assert lib.pool_open(pool, data.segment, lib.OUTBOUND) == 0
    take = lib.pool_take_train if out_of == "trains" else lib.pool_take_small
    nodes = [lib.pool_issue(pool, take(pool), 0) for _ in range(OUT)]
    data.segment.states[nodes[-1]] = lib.NODE_FREE
    sweeps: list[int] = []
    while sum(sweeps) == 0:
        sweeps.append(lib.pool_sweep(pool))
    assert (len(sweeps) == 1) is (out_of != "nothing")
    lib.pool_close(pool)
    data.close()
