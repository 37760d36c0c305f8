"""Kills at all marked points, in both hand-offs and with batches shared; all points are in the matrix.

`python -m tests.robustness.kill.matrix` prints a line for each, and takes other seeds.
"""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from shm import _shm
from tests.robustness.kill import points
from tests.robustness.kill.cases import MODES, cases
from tests.robustness.kill.matrix import Outcome, parser, run
from workers import _workers

PAGE = points.ROOT / "docs/reliability.md"


def test_every_point_is_in_the_matrix_and_stands_once() -> None:
    names = points.names()
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert set(names) == {case.point for handoff in MODES for case in cases(handoff)}
    assert all(len(name) < points.NAME_BYTES for name in names)


def test_the_page_tells_of_every_kind_of_point() -> None:
    rows = re.findall(r"^\| ((?:`\w+:`(?:, )?)+) \| ([\d, ]+) \|", PAGE.read_text(), re.MULTILINE)
    told = {
        kind: int(count)
        for kinds, counts in rows
        for kind, count in zip(re.findall(r"\w+", kinds), counts.split(", "), strict=True)
    }
    assert told == Counter(name.partition(":")[0] for name in points.names())


def test_what_ships_has_no_points() -> None:
    for module in (_shm, _workers):
        content = Path(str(module.__file__)).read_bytes()
        assert b"PLAIT_POINTS" not in content
        assert [name for name in points.names() if name.encode() in content] == []


def killed_at_all_points(handoff: str, command: list[str]) -> list[Outcome]:
    """Until three are wrong: a point that is not reached is waited for."""
    outcomes = []
    for outcome in run(handoff, cases(handoff), 1, command):
        outcomes.append(outcome)
        if sum(bool(each.wrong) for each in outcomes) == 3:
            break
    return outcomes


@pytest.mark.long
@pytest.mark.network
def test_kills_at_every_point() -> None:
    command = points.build()
    with ProcessPoolExecutor(len(MODES)) as pool:  # at the same time: each mostly waits
        found = list(pool.map(killed_at_all_points, MODES, [command] * len(MODES)))
    for handoff, outcomes in zip(MODES, found, strict=True):
        assert {str(outcome.case): outcome.wrong for outcome in outcomes if outcome.wrong} == {}
        assert len(outcomes) == len(cases(handoff))


@pytest.mark.parametrize(("word", "today", "note"), [
    ("lend", "inline", '"lend" is called "inline" now: write that'),
    ("split", "pipeline", '"split" is called "pipeline" now: write that'),
    ("auto", "inline", '"auto" is gone, "inline" takes its place: write that'),
])  # fmt: skip
def test_earlier_words(word: str, today: str, note: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser().parse_args(["--handoff", word]).handoff == [today]
    assert capsys.readouterr() == ("", f"--handoff {note}\n")
