"""Profiles: the examples are taken, and what is wrong is refused with its line and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.failure import Failure
from plait.load import thresholds as load_thresholds
from plait.load.process_orders import phase_orders
from plait.load.profile import Profile, load, of_options, parse
from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[4]
EXAMPLES = sources("configs/load/*.toml", at_least=6)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path) -> None:
    profile = load(str(path))
    thresholds = [load_thresholds.parse(text) for text in profile.require]
    load_thresholds.check_phases(thresholds, profile.places())


def test_options_go_over_a_file() -> None:
    text = 'peers = 5\nseed = "x"\n[[phase]]\nname = "a"\nseconds = 1\npause = true\n'
    assert parse(text, "p", {"peers": 7}).peers == 7
    assert parse(text, "p").seed == "x"


GOOD = (
    'peers = 10\n\n[[phase]]\nname = "a"\nhandshakes = { outstanding = 4 }\n\n'
    '[[phase]]\nname = "b"\nseconds = 1\nkeepalives = { every = 1 }\n'
)


@pytest.mark.parametrize(
    ("text", "line", "key", "why"),
    [
        ("peers = 0\n" + GOOD.partition("\n")[2], 1, "peers", "Expected `?int`? >= 1"),
        (GOOD + "traffic = { rate = -1 }\n", 11, "phase.traffic.rate", "Expected"),
        (
            GOOD + "traffic = { rate = 1, outstanding = 2 }\n",
            11,
            "phase.traffic",
            "exactly one of rate and outstanding",
        ),
        (GOOD + "traffic = { rate = 1, size = 2 }\n", 11, "phase.traffic.size", "unknown field size"),
        (
            GOOD + "handshakes = { count = 3 }\n",
            11,
            "phase.handshakes",
            "exactly one of outstanding, rate and within",
        ),
        (GOOD + "roaming = { rate = 3 }\n", 11, "phase.roaming", "one address and one port"),
        (GOOD + "[phase.garbage]\nshort = 'x'\n", 12, "phase.garbage.short", "Expected"),
        (GOOD + "traffic = { rate = 1, peers = 11 }\n", 11, "phase.traffic", "names 11 of 10 peers"),
        (GOOD.replace('"b"', '"a"'), 8, "phase.name", "there is a phase a before it"),
        (GOOD + "pause = true\n", 11, "phase.pause", "there is keepalives in this phase"),
        (GOOD.replace("keepalives = { every = 1 }\n", ""), 8, "phase.name", "nothing happens in this phase"),
        (
            GOOD + "traffic = { outstanding = 2, arrival = 'poisson' }\n",
            11,
            "phase.traffic",
            "has no arrivals",
        ),
        (GOOD + "traffic = { rate = 2, arrival = 'x' }\n", 11, "phase.traffic.arrival", "Invalid enum"),
        (
            GOOD + "traffic = { rate = 2, mix = { 63 = 1 } }\n",
            11,
            "phase.traffic",
            "63 is no size from 64 to 1920",
        ),
        (
            GOOD + "traffic = { rate = 2, mix = { } }\n",
            11,
            "phase.traffic",
            "its mix has 0 sizes, not 1 to 8",
        ),
        (
            GOOD + "traffic = { rate = 2, bytes = 84, mix = { 64 = 1 } }\n",
            11,
            "phase.traffic",
            "both bytes and mix",
        ),
        (GOOD + "traffic = { rate = 0 }\n", 11, "phase.traffic", "nothing would be sent"),
        (GOOD + "traffic = { rate = [0, 0] }\n", 11, "phase.traffic", "nothing would be sent"),
        (GOOD + "garbage = { tag = 0 }\n", 11, "phase.garbage", "nothing would be sent"),
        (
            GOOD.replace("handshakes = { outstanding = 4 }", "garbage = { tag = 1 }\nseconds = 1"),
            11,
            "phase.keepalives",
            "no peer has a session",
        ),
        (
            GOOD.replace("outstanding", "outstandin"),
            5,
            "phase.handshakes.outstandin",
            "Did you mean outstanding",
        ),
        (GOOD.replace("handshakes", "handshake"), 5, "phase.handshake", "Did you mean handshakes"),
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


def test_a_pause_is_said() -> None:
    text = GOOD.replace("keepalives = { every = 1 }", "pause = true")
    assert parse(text, "p").phase[1].pause


BASE = """
peers = 50
retry = 2
[[phase]]
name = "storm"
handshakes = { outstanding = 4 }
[[phase]]
name = "steady"
seconds = 5
traffic = { rate = 100, bytes = 500 }
"""


INCLUDE = 'include = "base.toml"\n'


def test_a_profile_includes_others(tmp_path: Path) -> None:
    """Its own keys go over theirs; a phase of the same name takes the place of theirs, key by key."""
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "more.toml").write_text(
        'include = "base.toml"\npeers = 9\n[[phase]]\nname = "steady"\ntraffic = { rate = 7 }\n'
        '[[phase]]\nname = "last"\nseconds = 1\ntraffic = { rate = 1 }\n'
    )
    found = load(str(tmp_path / "more.toml"))
    assert (found.peers, found.retry) == (9, 2.0)
    assert [phase.name for phase in found.phase] == ["storm", "steady", "last"]
    steady = found.phase[1]
    assert steady.traffic is not None and (steady.traffic.rate, steady.traffic.bytes) == (7, 500)
    assert steady.seconds == 5
    assert load(str(tmp_path / "more.toml"), {"peers": 3}, ["retry=4"]).retry == 4


@pytest.mark.parametrize(
    ("base", "own", "place", "why"),
    [
        (BASE, 'include = "none.toml"\n', "cannot read profile ", "No such file"),
        (BASE, "include = 3\n", "more.toml, line 1: cannot use include", "no name of a file"),
        ('include = "more.toml"\n', INCLUDE, "base.toml, line 1: cannot use include", "includes"),
        (BASE.replace("100", "-1"), INCLUDE, "base.toml, line 10: cannot use phase.", "Expected"),
        (BASE, 'include = "base.toml"\n\n[[phase]]\nname = "steady"\ntraffic = { rate = -1 }\n',
         "more.toml, line 5: cannot use phase.traffic.rate", "Expected"),
        (BASE + "secons = 1", INCLUDE, "base.toml, line 11: cannot use phase.secons", "Did you mean seconds"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_include_is_told_of_its_file(
    base: str, own: str, place: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "base.toml").write_text(base)
    (tmp_path / "more.toml").write_text(own)
    with pytest.raises(Failure, match=why) as caught:
        load(str(tmp_path / "more.toml"))
    assert place in caught.value.what


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("phase.steady.traffic.rate=5000", 5000),
        ("phase.steady.rate=5000", 5000),
        ("phase.steady.rate=[1, 9]", [1, 9]),
    ],
)
def test_set_changes_one_key(words: str, value: object) -> None:
    found = parse(BASE, "p", changed=[words, "seed=other"])
    traffic = found.phase[1].traffic
    assert traffic is not None and traffic.rate == value and traffic.bytes == 500 and found.seed == "other"
    assert parse(BASE, "p").phase[1].traffic.rate == 100  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("retry", "not KEY=VALUE"),
        ("=3", "not KEY=VALUE"),
        ("phase.none.rate=3", "there is no phase none"),
        ("phase=3", "it names no key of a phase"),
        ("phase.steady=3", "it names no key of a phase"),
        ("phase.steady.=3", "not KEY=VALUE"),
        ("population.idle.share=3", "there is no population idle"),
        ('include="x.toml"', "files are read before"),
        ("phase.steady.rat=3", "unknown field rat"),
        ("phase.steady.rate=-3", "Expected"),
        ("phase.both.rate=3", "handshakes and traffic have a rate"),
        ("pears=3", "unknown field pears"),
    ],
)
def test_set_is_refused_in_words(words: str, why: str) -> None:
    both = '[[phase]]\nname = "both"\nseconds = 1\nhandshakes = { rate = 1 }\ntraffic = { rate = 1 }\n'
    with pytest.raises(Failure, match=why):
        parse(BASE + both, "p", changed=[words])


def test_set_changes_a_population() -> None:
    populations = '[[population]]\nname = "a"\n[[population]]\nname = "b"\nshare = 4\n'
    found = parse(BASE + populations, "p", changed=["population.b.share=1", "population.a.known=provider"])
    assert [(each.name, each.share, each.known) for each in found.population] == [
        ("a", 1, "provider"), ("b", 1, "gateway")
    ]  # fmt: skip
    with pytest.raises(Failure, match="it names no key of a population"):
        parse(BASE + populations, "p", changed=["population.a=3"])


@pytest.mark.parametrize(
    ("changes", "changed", "what"),
    [
        ({}, ["retry=3", "phase.steady.rate=-1"], "cannot use --set phase.steady.rate=-1"),
        ({}, ["pears=1"], "cannot use --set pears=1"),
        ({"peers": 3, "give_up": -1.0}, ["retry=3"], "cannot use --give-up -1.0"),
        ({"peers": 3}, ["phase.steady.traffic.peers=4"], "cannot use --set phase.steady.traffic.peers=4"),
    ],
)
def test_what_an_option_makes_wrong_is_told_of_the_option(
    changes: dict[str, object], changed: list[str], what: str
) -> None:
    """Each line of the file is right."""
    with pytest.raises(Failure) as caught:
        parse(BASE, "p", changes, changed)
    assert caught.value.what == what
    with pytest.raises(Failure, match="p, line 11: cannot use phase"):
        parse(BASE + "secons = 1", "p", changes, changed)


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


def test_machines_share_what_one_would_do() -> None:
    """Peers 0 to 3 and 4 to 9 of ten: all parts together are the whole."""
    given = {
        "name": "a",
        "seconds": 1,
        "handshakes": {"rate": 5, "count": 15},
        "traffic": {"rate": 8, "peers": 6},
    }
    profile = of_options({"peers": 10, "phase": [given]})
    made = [phase_orders(profile, profile.phase[0], 0, *bound, 0.0) for bound in ((0, 4), (4, 10))]
    for key, whole in (("handshakes", 15), ("traffic_peers", 6)):
        assert sum(each[key] for each in made) == whole
    assert [each["traffic_rate"][0] for each in made] == pytest.approx([3.2, 4.8])


def test_a_wave_is_a_rate() -> None:
    profile = of_options({"peers": 10, "phase": [{"name": "a", "handshakes": {"within": 4}}]})
    assert shares(profile, 1, "handshake_rate") == [[2.5, 2.5]]
    assert shares(profile, 1, "until_done") == [1]
