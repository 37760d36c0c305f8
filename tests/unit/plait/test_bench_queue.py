"""`plait bench queue`: every figure is there; a queue that mixes up its packets is refused, not measured."""

from __future__ import annotations

import json

import pytest

from plait.bench import queue as bench
from plait.bench._bench import ffi, lib
from plait.failure import Failure

SHORT = bench.Method(sections=3)  # enough for a median, not for a figure


def test_the_table_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """Each design, burst and topology once, as JSON and lined up; all processes ended well."""
    bench.run(1, as_json=True, method=SHORT)
    found = json.loads(capsys.readouterr().out)
    costs = [bench.Cost(**cost) for cost in found["ns_per_packet"]]
    assert len({(c.design, c.burst, c.topology) for c in costs}) == len(costs) == 3 * (5 + 4 + 4)
    assert all(0 < c.least <= c.median <= c.most for c in costs)

    chains, singly = bench.chain_ratio(costs)
    by_place = {(c.burst, c.design, c.topology): c.median for c in costs}
    assert chains == by_place[32, "Plait's queue", "2 producers"]
    assert singly == by_place[1, "Plait's queue, counted per packet", "2 producers"]
    assert found["chains_over_singly"]["ratio"] == pytest.approx(chains / singly)

    lines = bench.queue_table(costs, 1)
    assert sum(line.startswith("Ratio ") for line in lines) == 1
    rows = [line for line in lines if line.lstrip().startswith(("1  ", "32  ", "64  "))]
    assert len(rows) == 3 * len(bench.TITLES)
    assert len({len(row) for row in rows if "alone" not in row}) == 1


def test_the_bytes_are_those_of_the_layout() -> None:
    """Two queues live in words of the peer's row; two rings have 1,024 pointers each."""
    sizes = bench.bytes_a_peer()
    row = ffi.typeof("struct peer_row").fields
    words = sum(ffi.sizeof(f.type) for name, f in row if name in ("ends", "heads"))
    assert sizes["Plait's queue"] == words
    assert sizes["ring of 1,024"] >= 2 * 1024 * 8


def test_disorder_is_refused() -> None:
    """A packet that no producer of the run has pushed comes out of the queue: no figure, and the reason."""
    with bench._segments() as (data, plain):
        area = ffi.cast("struct bench_area *", plain.address)
        segment = ffi.cast("struct segment *", data.segment_address)
        stray = segment.nodes  # the last node of the last pool
        segment.node[stray].packets = 1
        segment.node[stray].receiver_index = 7
        assert lib.queue_push_mpsc(segment, lib.WORKER_RECEIVER, 0, stray, stray, 1) == 0
        role = ffi.new(
            "struct bench_role *",
            {"design": 0, "burst": 1, "producers": 1, "processes": 1, "receiver": 0, "takes": 1},
        )
        assert lib.bench_sections(segment, area, role, 1, ffi.new("int64_t[]", 1)) == -1
        assert area.failed == lib.BENCH_DISORDER
        failure = bench._failure(bench.Run(lib.BENCH_QUEUE, 1), area.failed)
        assert "in order" in failure.why


def test_a_worker_that_dies_is_a_failure() -> None:
    """No figure and no waiting: the sentence says that a process ended."""
    method = bench.Method(plan=lambda topology: [bench.Run(0, 65)])  # longer than any burst may be
    with pytest.raises(Failure, match="one of its processes ended"):
        bench.costs(1, lambda text: None, method)
