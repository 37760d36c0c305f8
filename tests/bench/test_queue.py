"""The bench of the queue: every figure is there; a queue that mixes up packets is refused, not measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.failure import Failure
from tests.bench import queue as bench


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench.build(tmp_path_factory.mktemp("queue"))


def test_the_table_has_every_figure(module: Path) -> None:
    """Each burst and topology once, and lined up; all processes ended well."""
    method = bench.Method(module, sections=3)  # enough for a median, not for a figure
    costs = bench.costs(1, lambda text: None, method)
    assert len({(c.title, c.burst, c.topology) for c in costs}) == len(costs) == 3 * (2 + 1 + 1)
    assert all(0 < c.least <= c.median <= c.most for c in costs)
    rows = [line for line in bench.table(costs, 1) if line.lstrip().startswith(("1  ", "32  ", "64  "))]
    assert len(rows) == 3 * len(bench.TITLES)
    assert len({len(row) for row in rows if "alone" not in row}) == 1


def test_disorder_is_refused(module: Path) -> None:
    """A packet that no producer of the run has pushed comes out of the queue: no figure, and the reason."""
    built = bench.load(module)
    ffi, lib = built.ffi, built.lib
    with bench.segments(built) as (data, plain):
        area, segment = ffi.cast("struct bench_area *", plain.address), bench.pointer(built, data)
        stray = segment.nodes  # the last node of the last pool
        segment.node[stray].packets = 1
        segment.node[stray].receiver_index = 7
        assert lib.queue_push_mpsc(segment, lib.WORKER_RECEIVER, 0, stray, stray, 1) == 0
        role = {"has_queue": 1, "burst": 1, "producers": 1, "processes": 1, "receiver": 0, "takes": 1}
        asked = ffi.new("struct bench_role *", role)
        assert lib.bench_sections(segment, area, asked, 1, ffi.new("int64_t[]", 1)) == -1
        assert area.failed == lib.BENCH_DISORDER
        assert "in order" in bench.failure(bench.Run(True, 1), area.failed, lib).why


def test_a_worker_that_dies_is_a_failure(module: Path) -> None:
    """No figure and no waiting: the sentence says that a process ended."""
    method = bench.Method(module, plan=lambda topology: [bench.Run(True, 65)])  # longer than any burst may be
    with pytest.raises(Failure, match="one of its processes ended"):
        bench.costs(1, lambda text: None, method)
