"""Kills at marked points: that all points are in the matrix, and a selection of it.

`python -m tests.soak.kill_matrix` is the whole.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from shm import _shm
from tests.soak import points
from tests.soak.kill_matrix import run
from tests.soak.kill_points import HANDOFFS, cases, selection
from workers import _workers

PAGE = points.ROOT / "docs/reliability.md"


def test_every_point_is_in_the_matrix_and_stands_once() -> None:
    names = points.names()
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert set(names) == {case.point for handoff in HANDOFFS for case in cases(handoff)}
    assert all(len(name) < points.NAME_BYTES for name in names)
    selected = {case.point.partition(":")[0] for handoff in HANDOFFS for case in selection(handoff)}
    assert selected == {name.partition(":")[0] for name in names}


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


@pytest.mark.network
@pytest.mark.parametrize("handoff", HANDOFFS)
def test_kills_at_a_selection_of_points(handoff: str) -> None:
    which = selection(handoff)
    outcomes = list(run(handoff, which, seed=1))
    wrong = {str(outcome.case): outcome.wrong for outcome in outcomes if outcome.wrong}
    assert wrong == {}
    assert len(outcomes) == len(which)
