"""The interop matrix in little: every pair of values, few bytes. `python -m tests.interop.matrix` is whole.

Cells that restart an engine are run by that command alone: what a TCP connection makes of an address
that goes away and comes back is a matter of its own timers, up to minutes of them.
`tests/robustness/simulator/` holds the engine's part of a restart.

    initiator wg0 10.0.0.1 fd01::1 ── eth0 ──── eth0 ── wg0 10.0.0.2 fd01::2 responder
"""

from __future__ import annotations

import itertools
import json

import pytest

from tests.interop import matrix
from tests.interop.matrix import CELLS, Cell, Outcome, covering

COUNT = 2 * matrix.MEGABYTE
WITHOUT_RESTART = [cell for cell in covering(CELLS) if not cell.event.startswith("restart")]


@pytest.mark.network
@pytest.mark.parametrize("cell", WITHOUT_RESTART, ids=lambda cell: cell.name)
def test_cell(cell: Cell) -> None:
    assert matrix.run(cell, COUNT) >= 2 * COUNT


def test_selection_has_every_pair_of_values_and_is_small() -> None:
    def pairs(cells: list[Cell]) -> set[object]:
        return {pair for cell in cells for pair in itertools.combinations(enumerate(cell), 2)}

    assert len(CELLS) == 32
    assert pairs(covering(CELLS)) == pairs(CELLS)
    assert len(covering(CELLS)) <= 10


@pytest.mark.network
def test_exit_code_and_table_tell_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def run(cell: Cell, count: int, course: matrix.Course) -> int:
        assert cell.event != "roam", "lost on the way"
        return 2 * count

    assert matrix.main(["--only", "go-IPv6", "--only", "psk-re"], run) == 0
    assert "3 of 3 cells pass" in capsys.readouterr().out
    assert matrix.main(["--only", "plait-IPv4-none", "--megabytes", "7"], run) == 1
    out = capsys.readouterr().out
    assert "3 of 4 cells pass" in out and "AssertionError: lost on the way" in out
    lines = out.splitlines()
    assert len({line.index("pass") for line in lines[1:-1] if "pass" in line}) == 1
    assert matrix.main(["--only", "roam", "--json"], run) == 1
    outcomes = [Outcome(**each) for each in json.loads(capsys.readouterr().out)]
    assert [each.passed for each in outcomes] == [False] * 8
    assert matrix.main(["--only", "carrier pigeon"], run) == 2
    assert capsys.readouterr().out == ""
