"""The grammar of --require, and what it decides."""

from __future__ import annotations

import pytest

from plait.failure import Failure
from plait.load.thresholds import METRICS, check_phases, parse

CASES = [
    # text, phase, metric, value, what holds, what does not
    ("loss<0.1%", None, "loss", 0.001, 0.0009, 0.001),
    ("loss<=0.001", None, "loss", 0.001, 0.001, 0.0011),
    ("p99<5ms", None, "p99", 0.005, 0.0049, 0.005),
    ("p99.9 < 250 us", None, "p99.9", 0.00025, 0.0002, 0.0003),
    ("steady:p50<1s", "steady", "p50", 1.0, 0.5, 1.0),
    ("rekey wave: handshake_loss == 0", "rekey wave", "handshake_loss", 0.0, 0.0, 0.1),
    ("handshakes/s>2.5k", None, "handshakes/s", 2500.0, 2501.0, 2500.0),
    ("answers/s>=1M", None, "answers/s", 1e6, 1e6, 999999.0),
    ("garbage_answers==0", None, "garbage_answers", 0.0, 0, 1),
]


@pytest.mark.parametrize(("text", "phase", "metric", "value", "good", "bad"), CASES)
def test_threshold(text: str, phase: str | None, metric: str, value: float, good: float, bad: float) -> None:
    threshold = parse(text)
    assert (threshold.phase, threshold.metric) == (phase, metric)
    assert threshold.value == pytest.approx(value)
    assert threshold.holds({metric: good})
    assert not threshold.holds({metric: bad})
    assert not threshold.holds({metric: None}) and not threshold.holds({})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not METRIC OPERATOR VALUE"),
        ("loss", "not METRIC OPERATOR VALUE"),
        ("loss=1%", "not METRIC OPERATOR VALUE"),
        ("loss<-1%", "not METRIC OPERATOR VALUE"),
        ("p98<5ms", "no metric p98"),
        ("p99<5", "not given in a bare number"),
        ("p99<5%", "not given in %"),
        ("loss<5ms", "not given in ms"),
        ("handshakes/s>5G", "not given in G"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(Failure, match=why):
        parse(text)


def test_a_phase_must_be_there() -> None:
    check_phases([parse("a:loss<1%")], ["a", "b"])
    with pytest.raises(Failure, match="no phase c"):
        check_phases([parse("c:loss<1%")], ["a", "b"])


def test_each_metric_can_be_required() -> None:
    unit = {"share": "%", "time": "ms", "number": ""}
    for metric, kind in METRICS.items():
        assert parse(f"{metric}<1{unit[kind]}").metric == metric
