"""Peers of several kinds in one run: what each does, by the gateway's own count, and what is told of each."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from plait.failure import Failure
from plait.load import compare as load_compare
from plait.load import document as load_json
from plait.load import merge as load_merge
from plait.load import profile as load_profile
from plait.load import report as load_report
from plait.load import result as load_result
from plait.load import schema as load_schema
from plait.load import screen as load_screen
from plait.load import thresholds as load_thresholds
from plait.load.commands import load
from plait.load.process_orders import known_to, phase_orders
from plait.load.profile import of_options, parse
from tests.unit.plait.load.gateway import Gateway, private_key, public_key
from tests.unit.plait.load.test_generator import SEED, STORM, run_against, wrong

IDLE = {"name": "idle", "share": 0.9}
STREAMS = {"name": "streams", "share": 0.1, "inner": "fd64::/64"}


def test_nine_in_ten_are_idle_and_the_others_stream(tmp_path: Path) -> None:
    """By the gateway's count too; the streams are in IPv6. Two processes of each population."""
    steady = {
        "name": "steady",
        "seconds": 0.6,
        "population": {
            "idle": {"keepalives": {"every": 0.2}},
            "streams": {"traffic": {"rate": 200, "bytes": 300}},
        },
    }
    with Gateway(SEED, 20) as gateway:
        run = run_against(gateway, [STORM, steady], processes=2, population=[IDLE, STREAMS])
    storm, phase = run.phases
    assert wrong(run) == {} and storm.counters["handshakes"] == 20
    assert {name: each.counters["handshakes"] for name, each in storm.populations.items()} == {
        "idle": 18, "streams": 2,
    }  # fmt: skip
    idle, streams = (phase.populations[name].counters for name in ("idle", "streams"))
    assert idle["asked"] == streams["keepalives"] == 0
    assert idle["keepalives"] == gateway.seen["keepalives"] == 18 * 3 - idle["others_not_sent"]
    asked = 120 - streams["echoes_not_sent"]
    assert streams["asked"] == streams["answered"] == phase.counters["answered"] == asked > 0
    assert {gateway.by_number[number] for number in range(18)} == {1}
    assert gateway.sizes == {64: 18, 80: 2, 300: asked}
    for name, value in phase.counters.items():
        assert name == "wall_ns" or value == idle[name] + streams[name], name
    # What is told of each.
    thresholds = [
        load_thresholds.parse(text)
        for text in (
            "steady/streams:sent_loss<=0",
            "steady/idle:sent_loss<=0",
            "storm/idle:handshakes==18",
            "sent_loss<=0",
        )
    ]
    verdicts = load_json.judge(run, thresholds)
    assert [each["holds"] for each in verdicts] == [True, False, True, True]
    made = load_json.document(run, verdicts)
    kept = msgspec.convert(made, load_schema.Run).phases[1].populations["streams"]
    assert kept.counters["answered"] == asked and kept.times["round_trip"]["count"] == 120
    file = tmp_path / "run.json"
    file.write_text(load_json.text(made))
    load_report.write(str(file), str(tmp_path / "run.html"))
    assert "<th scope=col>steady/streams</th>" in (tmp_path / "run.html").read_text()
    found = {(line.phase, line.metric): line for line in load_compare.lines("", [made], [made])}
    assert found["steady/streams", "answers/s"].ratio == 1 and ("steady/idle", "answers/s") not in found
    cells = dict(load_screen.rows(list(load_result.places(run.phases).values())))
    assert cells["echoes asked"] == ["0", "0", "0", str(asked), "0", str(asked)]


def test_tables_of_a_phase_are_shared_by_those_without_their_own() -> None:
    """Rates, counts and places of all parts together are the whole, wherever the others stand between."""
    populations = [{"name": name, "share": share} for name, share in (("a", 3), ("b", 4), ("c", 3))]
    phase = {
        "name": "p",
        "seconds": 1,
        "handshakes": {"outstanding": 6, "count": 67},
        "traffic": {"rate": 60, "peers": 5},
        "oneway": {"rate": 20, "arrival": "poisson"},
        "keepalives": {"every": 2},
        "garbage": {"timestamp": 30},
        "population": {"b": {"traffic": {"rate": 7}, "handshakes": {"rate": 40, "count": 9}}},
    }
    profile = of_options({"peers": 100, "population": populations, "phase": [phase]})
    assert [part.span for part in profile.parts()] == [range(30), range(30, 70), range(70, 100)]
    bounds = [(part, span) for part in profile.parts() for span in _halves(part.span)]
    planned = profile.phase[0]
    made = [phase_orders(profile, planned, 0, one.start, one.stop, 0.0, part) for part, one in bounds]
    assert [each["traffic_rate"][0] for each in made] == pytest.approx([15, 15, 3.5, 3.5, 15, 15])
    assert [each["handshakes"] for each in made] == [16, 17, 4, 5, 17, 17]
    assert [each["oneway_rate"][1] for each in made] == pytest.approx([3, 3, 4, 4, 3, 3])
    assert {each["oneway_random"] for each in made} == {1}
    assert sum(each["outstanding"] for each in made) == 6 and made[2]["outstanding"] == 0
    assert sum(each["keepalive_rate"] for each in made) == 50
    assert sum(each["garbage_rate"][7] for each in made) == pytest.approx(30)
    assert profile.places() == ["p", "p/a", "p/b", "p/c"]


def _halves(span: range) -> list[range]:
    middle = (span.start + span.stop) // 2
    return [range(span.start, middle), range(middle, span.stop)]


def test_whom_nobody_knows_is_no_loss() -> None:
    """Each stranger's key is a real one; nobody answers, and no loss is told of it."""
    populations: list[dict[str, Any]] = [
        {"name": "known", "share": 10},
        {"name": "strangers", "share": 8, "known": "nobody"},
    ]
    flood = {"handshakes": {"rate": 30, "patience": 0.2}}
    storm = {**STORM, "seconds": 1, "population": {"strangers": flood}}
    with Gateway(SEED, 18) as gateway:
        for number in range(10, 18):
            del gateway.numbers[public_key(private_key(SEED, number))]
        run = run_against(gateway, [storm], processes=2, peers=18, population=populations)
    strangers = run.phases[0].populations["strangers"].counters
    begun = strangers["strangers_begun"]
    assert begun == strangers["strangers_silent"] == gateway.seen["strangers"]
    # Each is free again when its patience ends; on a busy machine some are not begun in time.
    assert 8 < begun == 30 - load_result.events(strangers)["handshakes"]["not_sent"]
    assert len(gateway.keys) == 8 and strangers["retries"] == strangers["initiations"] == 0
    known = run.phases[0].populations["known"]
    assert load_result.metrics([known])["handshake_loss"] == 0 and known.counters["strangers_begun"] == 0
    metrics = load_result.metrics(run.phases)
    assert (metrics["handshakes"], metrics["strangers"]) == (10, begun) and wrong(run) == {}
    assert not any("Nobody answered" in line for line in load_screen.notes(run))


def test_a_flood_of_strangers_is_no_silent_gateway() -> None:
    """The run does not give up on one that rightly says nothing."""
    phase = {"name": "flood", "seconds": 1, "population": {"x": {"handshakes": {"rate": 5}}}}
    with Gateway(SEED, 5) as gateway:
        gateway.deaf = True
        run = run_against(
            gateway, [phase], population=[{"name": "x", "known": "nobody"}], give_up=0.3, seed="other"
        )
    assert run.end == "finished" and run.phases[0].counters["strangers_begun"] > 0


def test_an_answer_to_a_stranger_is_wrong() -> None:
    flood = {"handshakes": {"outstanding": 5, "patience": 30}}
    with Gateway(SEED, 5) as gateway:
        phase = {"name": "flood", "population": {"x": flood}}
        run = run_against(gateway, [phase], population=[{"name": "x", "known": "nobody"}])
    counters = run.phases[0].counters
    assert counters["strangers_answered"] == counters["strangers_begun"] == 5
    assert load_result.metrics(run.phases)["wrong"] == 5 and counters["sessions_held"] == 0


def test_a_timestamp_that_does_not_open() -> None:
    dirt = {"name": "dirt", "seconds": 0.5, "garbage": {"timestamp": 100}}
    with Gateway(SEED, 5) as gateway:
        run = run_against(gateway, [STORM, dirt])
    counters = run.phases[1].counters
    assert counters["garbage_timestamp"] == gateway.seen["wrong timestamps"] > 0
    assert counters["garbage_timestamp"] + counters["others_not_sent"] == 50
    assert counters["garbage_answers"] == 0 and wrong(run) == {}


def test_machines_have_a_part_of_each_population() -> None:
    """Merged, each population is whole again, also one that is on one of the machines alone."""
    populations = [{"name": "first", "share": 1}, {"name": "second", "share": 3}]
    steady = {"name": "steady", "seconds": 0.4, "population": {"second": {"traffic": {"rate": 150}}}}
    made = []
    with Gateway(SEED, 8) as gateway:
        for span in (range(5), range(5, 8)):
            run = run_against(gateway, [STORM, steady], span=span, population=populations)
            made.append(load_json.document(run, []))
    whole = load_merge.merged(made, ["steady/second:answers/s>1", "storm/first:handshakes==2"])
    assert [each["holds"] for each in whole["requirements"]] == [True, True]
    storm, phase = whole["phases"]
    assert {name: each["counters"]["handshakes"] for name, each in storm["populations"].items()} == {
        "first": 2, "second": 6,
    }  # fmt: skip
    second = phase["populations"]["second"]["counters"]
    assert second["answered"] == phase["counters"]["answered"] == 60 - second["echoes_not_sent"]
    assert phase["populations"]["second"]["times"]["round_trip"]["count"] == 60


PROFILE = """
peers = 10
seed = "tests"
[[population]]
name = "idle"
share = 4
[[population]]
name = "mobile"
share = 1
known = "provider"
inner = "fd64::/64"
[[phase]]
name = "storm"
handshakes = { outstanding = 4 }
[phase.population.idle]
handshakes = { outstanding = 2 }
"""


def test_configuration_of_each_that_knows_peers(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(PROFILE)
    texts = [
        CliRunner().invoke(load, ["config", str(path), "--for", who]).output
        for who in ("gateway", "provider")
    ]
    keys = [[line for line in text.splitlines() if line.startswith("PublicKey")] for text in texts]
    assert [len(each) for each in keys] == [8, 2] and not set(keys[0]) & set(keys[1])
    assert "[Interface]" in texts[0] and "[Interface]" not in texts[1]
    assert "AllowedIPs = 10.64.0.9/32" in texts[0] and "AllowedIPs = fd64::b/128" in texts[1]
    assert [span for span, _ in known_to(load_profile.load(str(path)), "provider")] == [range(8, 10)]
    done = CliRunner().invoke(load, ["config", "--for", "provider"])
    assert isinstance(done.exception, Failure) and "nothing for a provider" in str(done.exception)


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ('name = "mobile"', 'name = "idle"', 4, "two populations idle"),
        ("share = 1\n", "share = 0.01\n", 4, "of 10 peers mobile has none"),
        ("population.idle", "population.idel", 15, "there is no population idel"),
        ('"storm"', '"st/orm"', 13, "PHASE/POPULATION"),
        ("outstanding = 2 }", "outstandin = 2 }", 16, "unknown field outstandin"),
        ('known = "provider"', 'konwn = "provider"', 10, "Did you mean known"),
        ('known = "provider"', 'known = "nobody"', 14, "it is for no population"),
        ("outstanding = 4 }", "outstanding = 4 }\ntraffic = { rate = 1, bytes = 70 }", 15, "few over IPv6"),
    ],
)
def test_bad_populations_are_refused_with_their_line(old: str, new: str, line: int, why: str) -> None:
    assert PROFILE.count(old) == 1
    with pytest.raises(Failure, match=why) as refused:
        parse(PROFILE.replace(old, new), "p.toml")
    assert f"p.toml, line {line}:" in str(refused.value)


def test_the_example_of_the_page_says_what_it_means() -> None:
    page = (Path(load_profile.__file__).parents[2] / "docs/load.md").read_text()
    example = page[page.index("    [[population]]") :].partition("\n\nA table")[0]
    profile = parse(f"peers = 10000\n{textwrap.dedent(example)}", "docs/load.md")
    assert [len(part.span) for part in profile.parts()] == [8500, 1000, 400, 100]
    storm, steady = (
        [sorted(profile.shares(phase, part)) for part in profile.parts()] for phase in profile.phase
    )
    assert storm == [["handshakes"], ["handshakes"], [], []]
    assert steady[1:] == [["keepalives", "traffic"], ["handshakes", "keepalives"], ["handshakes"]]


def test_strangers_have_no_traffic_and_no_more_handshakes_than_they_can_wait_for() -> None:
    population = [{"name": "x", "known": "nobody"}]
    for own, why in (
        ({"traffic": {"rate": 1}}, "nobody knows the peers of x"),
        ({"handshakes": {"rate": 1}, "pause": True}, "there is handshakes in this phase"),
        ({"handshakes": {"rate": 101}}, "begin at most 100 handshakes"),
        ({"handshakes": {"rate": 201, "patience": 0.5}}, "begin at most 200 handshakes"),
    ):
        phase = {"name": "p", "seconds": 1, "population": {"x": own}}
        with pytest.raises(Failure, match=why):
            of_options({"peers": 100, "population": population, "phase": [phase]})
