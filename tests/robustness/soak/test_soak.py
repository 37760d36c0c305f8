"""`plait soak`, for as long as a test may take. `plait soak --minutes 10` is the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from plait.lab.soak_deeds import OPERATIONS

pytestmark = [pytest.mark.long, pytest.mark.network]


def soak(*options: str) -> tuple[int, dict[str, Any], str]:
    """A minute of it: exit code, what it came to, what it said."""
    code = "import sys; from plait.command import main; sys.argv[0] = 'plait'; main()"
    command = [sys.executable, "-c", code, "soak", "--minutes", "1", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_minute_of_kills() -> None:
    code, result, words = soak()
    assert (code, result["wrong"]) == (0, []), words
    assert sum(sum(points.values()) for points in result["kills"].values()) >= 5
    assert result["changes"] >= 5 and result["roams"] >= 5
    # Losses are of kills, of roams (to the old port), or of full buffers: how many is the machine's affair.
    assert result["packets_echoed"] > 0


@pytest.mark.timeout(600)  # the machine may be busy, and it may run twice
def test_a_minute_of_operations() -> None:
    """On a busy machine the engine may lack CPU for as long as a bound. So an operation is at fault whose
    silence is too long twice; all else has to be right each time."""
    silent: list[set[str]] = []
    for _ in range(2):
        code, result, words = soak("--operations", "--seed", "1", "--handoff", "inline")
        late = {entry["operation"] for entry in result["log"] if entry["silence_s"] > entry["bound_s"]}
        assert [line for line in result["wrong"] if ": silent for " not in line] == [], words
        assert code == bool(result["wrong"])
        assert len(result["log"]) >= 10 and sum(result["received"].values()) > 0
        assert [row["operation"] for row in result["operations"]] == [each.name for each in OPERATIONS]
        assert sum(row["times"] for row in result["operations"]) == len(result["log"])
        silent.append(late)
        if not late:
            return
    assert not silent[0] & silent[1], words


def test_a_load_run_of_two_minutes_does_not_grow() -> None:
    """Few echoes: what could grow is kept for each look at the counters, not for each echo."""
    command = [sys.executable, "-m", "tests.robustness.soak.load_memory", "--minutes", "2", "--rate", "50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
