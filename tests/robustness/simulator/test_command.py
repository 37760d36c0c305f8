"""`python -m tests.robustness.simulator`: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest

from .__main__ import main
from .watch import Broken
from .world import Tally


class Lives:
    """In place of lives, and takes no time: seed 6 breaks, at seed 8 somebody presses Ctrl-C."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __call__(self, seed: int, length: int) -> Tally:
        self.seeds.append(seed)
        if seed == 6:
            raise Broken(f"seed {seed}, 1.000 s into it: nonce 0 was used twice under one key")
        if seed == 8:
            raise KeyboardInterrupt
        return Tally(datagrams=3, sessions=1)


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    lives = Lives()
    assert main(["--seeds", "2", "--first", "4"], lives) == 0
    said = capsys.readouterr()
    assert lives.seeds == [4, 5]
    assert said.out.startswith("seeds 4 to 5: 2 lives")
    assert "6 datagrams" in said.out and "0 broken" in said.out
    assert "2/2" in said.err


def test_the_seed_that_broke_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--first", "6"], Lives()) == 1
    assert "BROKEN seed 6, 1.000 s into it: nonce 0" in capsys.readouterr().out
    assert main(["--seeds", "2", "--first", "6", "--json"], Lives()) == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["lives"] == 2 and list(summary["broken"]) == ["6"]


def test_what_is_left_after_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "100", "--first", "7"], Lives()) == 130
    assert "continue with --first 8 --seeds 99" in capsys.readouterr().err
