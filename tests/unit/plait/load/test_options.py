"""Options of `plait load run`: what would have no effect is refused, before anything is sent."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from plait.load.commands import load
from plait.load.process_orders import processes_most
from plait.load.profile import of_options

PROFILE = '[[phase]]\nname = "storm"\nhandshakes = { outstanding = 4 }\n'
ENGINE = ["--lab", "plaitd -f {iface}"]


def refusal(*words: str, lab: str = "") -> str:
    """What the command says when it is given these; it must not get as far as to send."""
    where = ["--lab", lab] if lab else ["--target", "192.0.2.1:1"]
    done = CliRunner().invoke(load, ["run", *where, *words])
    assert done.exit_code
    said = f"{done.output} {done.exception}"
    assert "is no target" not in said, "nothing was refused"
    return said


@pytest.mark.parametrize(
    "words", [["--rate", "5"], ["--seconds", "3"], ["--bytes", "84"], ["--outstanding", "3"]]
)
def test_a_profile_says_what_happens(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(PROFILE)
    assert f"{words[0]} has no effect here: the profile says" in refusal(str(tmp_path / "p.toml"), *words)


@pytest.mark.parametrize("words", [["--seconds", "3"], ["--bytes", "84"]])
def test_without_a_rate_there_are_no_echoes(words: list[str]) -> None:
    assert f"{words[0]} has no effect here: without --rate" in refusal(*words)
    assert "nothing would be sent" in refusal("--rate", "0")


@pytest.mark.parametrize(
    "words",
    [
        ["--rounds", "2"],
        ["--gateway-cores", str(min(os.sched_getaffinity(0)))],
        ["--provider", "plait peers {iface} --file {file}"],
    ],
)
def test_without_a_lab_there_are_no_rounds(words: list[str]) -> None:
    assert f"{words[0]} has no effect here: it is about a lab" in refusal(*words)


def test_without_peers_for_it_there_is_no_provider() -> None:
    done = CliRunner().invoke(load, ["run", *ENGINE, "--provider", "x"])
    assert 'no population of the profile has known = "provider"' in str(done.exception)


@pytest.mark.parametrize(
    "words",
    [
        ["--public-key", "AAAA"],
        ["--i-own-this-target", "192.0.2.1"],
        ["--out", "csv=x"],
        ["--peers-range", "0-9"],
        ["--start-at", "2100-01-01"],
        ["--gateway-pid", "1"],
    ],
)
def test_a_lab_makes_its_own_gateway(words: list[str]) -> None:
    done = CliRunner().invoke(load, ["run", *ENGINE, *words])
    assert f"{words[0]} has no effect here: a lab makes its own" in str(done.exception)
    assert "--target has no effect here" in refusal(*ENGINE)


def test_peers_of_a_lab_can_roam(tmp_path: Path) -> None:
    """It has addresses and ports enough, which the profile need not ask for."""
    roaming = '[[phase]]\nname = "walk"\nseconds = 1\nroaming = { rate = 1 }\n'
    (tmp_path / "p.toml").write_text(PROFILE + roaming)
    assert "one address and one port to be at" in refusal(str(tmp_path / "p.toml"))
    assert "no no-such-engine" in refusal(str(tmp_path / "p.toml"), lab="no-such-engine")
    assert "one port to be at" in refusal(str(tmp_path / "p.toml"), "--ports", "1", lab="no-such-engine")


def test_cores_are_those_that_there_are() -> None:
    usable = sorted(os.sched_getaffinity(0))
    first = str(usable[0])
    for words in ("99999", f"{first},99999"):
        assert "there is no core 99999 for this process" in refusal("--cores", words)
    assert "a core is named twice" in refusal("--cores", f"{first},{first}")
    for words in ("-1", "x", "1-", "1-0", "0,,1", ""):
        assert "CPU numbers with commas between" in refusal("--cores", words)
    assert "there is no core" in refusal("--cores", f"{first}-999999999999999")
    last = f"{usable[0]}-{usable[0]}"
    done = CliRunner().invoke(load, ["run", "--cores", last, "--target", "192.0.2.1:1"])
    assert "is no target" in str(done.exception)


@pytest.mark.parametrize("words", ["5", "5-", "7-3", "a-b", "²-³"])
def test_a_range_is_two_numbers(words: str) -> None:
    assert "for example 0-49999" in refusal("--peers-range", words)


def test_a_range_lies_within_the_peers() -> None:
    assert "the profile has peers 0 to 99" in refusal("--peers-range", "50-100")


@pytest.mark.parametrize("words", ["soon", "25:00", "1e999", "9" * 20, "9" * 400])
def test_a_start_is_a_time(words: str) -> None:
    assert "seconds since 1970" in refusal("--start-at", words)


def test_a_start_lies_ahead() -> None:
    assert "that time has passed" in refusal("--start-at", str(int(time.time()) - 5))


def test_a_tag_has_a_name() -> None:
    assert "NAME=TEXT" in refusal("--tag", "gateway")


def test_there_are_no_more_processes_than_a_closed_loop_has_places() -> None:
    storm = {"name": "a", "handshakes": {"outstanding": 8}}
    for traffic, most in (({"outstanding": 1}, 1), ({"rate": 3, "peers": 2}, 2), ({"rate": 3}, 5)):
        steady = {"name": "b", "seconds": 1, "traffic": traffic}
        profile = of_options({"peers": 5, "phase": [storm, steady]})
        assert processes_most(profile, range(5)) == most
