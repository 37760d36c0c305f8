"""`python -m tests.simulator`: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest

from . import __main__ as command
from .watch import Broken
from .world import Tally


@pytest.fixture
def lived(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lives that take no time: seed 6 breaks, at seed 8 somebody presses Ctrl-C."""
    seeds: list[int] = []

    def live(seed: int, length: int) -> Tally:
        seeds.append(seed)
        if seed == 6:
            raise Broken(f"seed {seed}, 1.000 s into it: nonce 0 was used twice under one key")
        if seed == 8:
            raise KeyboardInterrupt
        return Tally(datagrams=3, sessions=1)

    monkeypatch.setattr(command, "live", live)
    return seeds


def test_all_is_well(lived: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--seeds", "2", "--first", "4"]) == 0
    said = capsys.readouterr()
    assert lived == [4, 5]
    assert said.out.startswith("seeds 4 to 5: 2 lives")
    assert "6 datagrams" in said.out and "0 broken" in said.out
    assert "2/2" in said.err


def test_the_seed_that_broke_is_named(lived: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--seeds", "2", "--first", "6"]) == 1
    assert "BROKEN seed 6, 1.000 s into it: nonce 0" in capsys.readouterr().out
    assert command.main(["--seeds", "2", "--first", "6", "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["lives"] == 2 and list(summary["broken"]) == ["6"]


def test_what_is_left_after_an_interruption(lived: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--seeds", "100", "--first", "7"]) == 130
    assert "continue with --first 8 --seeds 99" in capsys.readouterr().err
