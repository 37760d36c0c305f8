"""Profiles: the examples are taken, and what is wrong is refused with its line and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.failure import Failure
from plait.load import thresholds as load_thresholds
from plait.load.profile import Profile, load, of_options, parse
from plait.load.run import phase_orders
from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[4]
EXAMPLES = sources("configs/load/*.toml", at_least=6)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path) -> None:
    profile = load(str(path))
    thresholds = [load_thresholds.parse(text) for text in profile.require]
    load_thresholds.check_phases(thresholds, [phase.name for phase in profile.phase])


def test_options_go_over_a_file() -> None:
    text = 'peers = 5\nseed = "x"\n[[phase]]\nname = "a"\nseconds = 1\n'
    assert parse(text, "p", {"peers": 7}).peers == 7
    assert parse(text, "p").seed == "x"


GOOD = (
    'peers = 10\n\n[[phase]]\nname = "a"\nhandshakes = { outstanding = 4 }\n\n'
    '[[phase]]\nname = "b"\nseconds = 1\n'
)


@pytest.mark.parametrize(
    ("text", "line", "key", "why"),
    [
        ("peers = 0\n" + GOOD.partition("\n")[2], 1, "peers", "Expected `?int`? >= 1"),
        (GOOD + "traffic = { rate = -1 }\n", 10, "phase.traffic.rate", "Expected"),
        (
            GOOD + "traffic = { rate = 1, outstanding = 2 }\n",
            10,
            "phase.traffic",
            "exactly one of rate and outstanding",
        ),
        (GOOD + "traffic = { rate = 1, size = 2 }\n", 10, "phase.traffic.size", "unknown field size"),
        (
            GOOD + "handshakes = { count = 3 }\n",
            10,
            "phase.handshakes",
            "exactly one of outstanding, rate and within",
        ),
        (GOOD + "roaming = { rate = 3 }\n", 10, "phase.roaming", "one address and one port"),
        (GOOD + "[phase.garbage]\nshort = 'x'\n", 11, "phase.garbage.short", "Expected"),
        (GOOD + "traffic = { rate = 1, peers = 11 }\n", 10, "phase.traffic", "names 11 of 10 peers"),
        (GOOD.replace('"b"', '"a"'), 8, "phase.name", "there is a phase a before it"),
        (GOOD.replace("seconds = 1\n", ""), 8, "phase.name", "nothing ends this phase"),
        ("peers = 3\nphase = [\n", 2, "read the profile", "Invalid value"),
        ("peers = 3\n", 1, "the profile", "missing required field phase"),
        ("pears = 3\n" + GOOD, 1, "pears", "unknown field pears"),
    ],
)
def test_refused_with_line_and_reason(text: str, line: int, key: str, why: str) -> None:
    with pytest.raises(Failure, match=why) as caught:
        parse(text, "p.toml")
    assert caught.value.what == f"p.toml, line {line}: cannot {'' if 'read' in key else 'use '}{key}"


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(Failure, match="cannot read profile /nowhere"):
        load("/nowhere")


def shares(profile: Profile, processes: int, key: str) -> list[object]:
    peers = profile.peers
    bounds = [(peers * i // processes, peers * (i + 1) // processes) for i in range(processes)]
    return [phase_orders(profile, profile.phase[0], 0, *bound, 0.0)[key] for bound in bounds]


def test_processes_share_what_is_counted_and_paced() -> None:
    """All parts together are the whole, also where it does not divide."""
    profile = of_options(
        {
            "peers": 10,
            "phase": [
                {
                    "name": "a",
                    "seconds": 1,
                    "handshakes": {"outstanding": 5},
                    "traffic": {"rate": [3, 9]},
                    "roaming": {"rate": 7},
                    "keepalives": {"every": 2},
                    "garbage": {"tag": 4},
                }
            ],
            "ports": 2,
        }
    )
    assert sum(shares(profile, 3, "handshakes")) == 10  # type: ignore[arg-type]
    assert sum(shares(profile, 3, "outstanding")) == 5  # type: ignore[arg-type]
    assert sum(shares(profile, 3, "keepalive_rate")) == pytest.approx(5)  # type: ignore[arg-type]
    assert sum(shares(profile, 3, "roam_rate")) == pytest.approx(7)  # type: ignore[arg-type]
    for at, end in enumerate((3, 9)):
        assert sum(ramp[at] for ramp in shares(profile, 3, "traffic_rate")) == pytest.approx(end)  # type: ignore[index]
    assert sum(kinds[4] for kinds in shares(profile, 3, "garbage_rate")) == pytest.approx(4)  # type: ignore[index]


def test_a_wave_is_a_rate() -> None:
    profile = of_options({"peers": 10, "phase": [{"name": "a", "handshakes": {"within": 4}}]})
    assert shares(profile, 1, "handshake_rate") == [[2.5, 2.5]]
    assert shares(profile, 1, "until_done") == [1]
