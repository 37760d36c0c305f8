"""The search for the greatest rate: by itself, and by the command against a gateway that has such a rate."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.load.commands import load
from plait.load.find import LEAST, Search
from plait.load.profile import PHASES_MOST
from tests.support.waiting import PATIENCE, until
from tests.unit.plait.load.gateway import Gateway

SEED = "tests"


def searched(limit: float, long_limit: float, generator: float = 1e9, most: float = 1e6) -> Search:
    """A search at a gateway that bears `limit` in a short trial and `long_limit` in a long one."""
    search = Search(1000, most, 3, 15, 0.05)
    while (trial := search.next()) is not None and len(search.trials) < PHASES_MOST:
        is_limited = trial.rate > generator
        holds = trial.rate <= (long_limit if trial.is_long else limit) and not is_limited
        search.told(holds, is_limited)
    return search


@settings(max_examples=300)
@given(st.floats(2, 2e6))
def test_what_is_found_holds_and_little_more_does_not(limit: float) -> None:
    search = searched(limit, limit)
    assert search.found is not None and not search.is_limited and search.trials[-1].is_long
    assert search.found <= limit
    assert search.found >= min(limit * 0.95 - LEAST - 0.5, 1e6)
    assert len(search.trials) < PHASES_MOST - 4


@given(st.floats(100, 1e6), st.floats(0.85, 1))
def test_what_a_long_trial_does_not_confirm_is_lowered(limit: float, share: float) -> None:
    search = searched(limit, limit * share)
    assert search.found is not None and limit * share * 0.9 <= search.found <= limit * share


def test_a_gateway_that_bears_nothing_and_one_that_bears_all() -> None:
    assert searched(0, 0).found is None
    every = searched(1e9, 1e9, most=3000)
    assert [(trial.rate, trial.is_long) for trial in every.trials] == [
        (1000, False), (2000, False), (3000, False), (3000, True)
    ]  # fmt: skip
    assert every.found == 3000


@given(st.floats(1000, 100_000))
def test_a_generator_that_cannot_do_more_makes_it_a_bound(generator: float) -> None:
    search = searched(1e9, 1e9, generator)
    assert search.is_limited and search.found is not None and search.found <= generator


def test_the_command_finds_the_rate_of_a_gateway_that_has_one(tmp_path: Path) -> None:
    """It answers what was due at least 1/300 s after the echo before: whatever the machine is doing."""
    with Gateway(SEED, 8) as gateway:
        gateway.least_ns = 1_000_000_000 // 300
        done = subprocess.run(
            [sys.executable, "-m", "plait", "load", "find", "loss<1%", "--target", gateway.target,
             "--seed", SEED, "--peers", "8", "--from", "100", "--seconds", "0.4", "--confirm", "0.8",
             "--json", str(tmp_path / "found.json")],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    words = done.stdout + done.stderr
    assert [trial["rate"] for trial in found["trials"][:3]] == [100, 200, 400], words
    assert all(trial["holds"] for trial in found["trials"] if trial["rate"] <= 300) or done.returncode == 98
    assert not any(trial["holds"] for trial in found["trials"] if trial["rate"] > 301)
    assert found["found"] <= 301 and f"{found['found']:,.0f} echoes a second" in done.stdout, words
    if not found["is_bound_from_below"]:
        assert done.returncode == 0 and found["found"] >= 284, words


def test_an_option_that_says_nothing_about_handshakes_is_refused() -> None:
    words = ["find", "loss<1%", "--of", "handshakes", "--bytes", "100", "--target", "192.0.2.1:1"]
    done = CliRunner().invoke(load, words)
    assert "--bytes has no effect here: --of handshakes sends no echoes" in str(done.exception)


def test_the_next_step_of_a_search_that_nobody_answers_can_be_taken() -> None:
    """It names --give-up."""
    with Gateway(SEED, 2) as gateway:
        gateway.deaf = True
        words = ["--target", gateway.target, "--seed", SEED, "--peers", "2", "--give-up", "0.3"]
        done = CliRunner().invoke(load, ["find", "loss<1%", *words])
    assert "no datagram came back in 0.3 s" in str(done.exception) and "--give-up" in str(done.exception)


def test_a_search_that_is_stopped_before_the_first_answer_is_stopped() -> None:
    """Nobody had the time to answer: no word that nobody does."""
    with Gateway(SEED, 2) as gateway:
        gateway.deaf = True
        process = subprocess.Popen(
            [sys.executable, "-m", "plait", "load", "find", "loss<1%", "--target", gateway.target,
             "--seed", SEED, "--peers", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until(lambda: gateway.seen["initiations"], "an initiation")
        process.send_signal(signal.SIGINT)
        words = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 105, words
    assert words.splitlines()[-1] == "plait: load: no rate found: the run was ended early"
