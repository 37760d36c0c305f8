"""`plait bench handshakes`: every figure is there, and all that was measured was answered."""

from __future__ import annotations

import json

from click.testing import CliRunner

from plait.bench import handshakes as bench_handshakes


def test_every_figure_is_there() -> None:
    words = ["--peers", "20", "--rounds", "2", "--json"]
    answer = CliRunner().invoke(bench_handshakes.handshakes, words, catch_exceptions=False)
    found = json.loads(answer.stdout)
    steps = [bench_handshakes.Step(**step) for step in found["us_per_handshake"]]
    assert len(steps) == 4
    assert all(0 < step.least <= step.median <= step.most for step in steps)
    rate = bench_handshakes.Rate(**found["control"])
    assert rate.accepted == 40 and rate.a_second > 0 and rate.cpu_us > 0
    text = "\n".join(bench_handshakes.table(steps, rate))
    assert all(step.step in text for step in steps) and "20 peers" in text
