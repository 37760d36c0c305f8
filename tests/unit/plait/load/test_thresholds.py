"""The grammar of --require, and what it decides."""

from __future__ import annotations

import pytest

from plait.failure import Failure
from plait.load.thresholds import METRICS, check_phases, in_its_unit, parse

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
    ("wave: 2:recovery_p99<1e1s", "wave: 2", "recovery_p99", 10.0, 9.9, 10.1),
    ("not_sent!=3", None, "not_sent", 3.0, 2, 3),
    ("departed_p99.99<2ms", None, "departed_p99.99", 0.002, 0.001, 0.002),
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


@pytest.mark.parametrize(("text", "found", "words"), [
    ("loss<0.1%", 0.119783333, "11.978%"),
    ("loss<0.001", 0.12, "0.12"),
    ("steady: p99 < 5ms", 0.0123456, "12.346ms"),
    ("handshakes>2M", 1_234_567, "1.235M"),
    ("handshakes>2000000", 1_234_567, "1234567"),
    ("p99<5ms", None, "nothing measured"),
])  # fmt: skip
def test_what_was_found_is_told_in_the_unit_of_the_requirement(
    text: str, found: float | None, words: str
) -> None:
    assert in_its_unit(text, found) == words
