"""What a run writes: the documented JSON, formats that go out while it runs, and parts put together."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plait.failure import Failure
from plait.load import document as load_json
from plait.load import merge as load_merge
from plait.load import output as load_output
from plait.load import profile as load_profile
from plait.load import run as load_run
from plait.load import schema as load_schema
from plait.load import thresholds as load_thresholds
from plait.load.progress import Look, Run, Screen
from plait.load.result import PhaseResult
from plait.load.series import COUNTERS
from tests.unit.plait.load.gateway import Gateway

SEED = "tests"
PHASES: list[dict[str, Any]] = [
    {"name": "storm", "handshakes": {"outstanding": 4}, "drain": 2, "seconds": 0.5},
    {"name": "steady", "seconds": 1, "traffic": {"rate": 300}, "drain": 20},
]


class Scraping(Screen):
    """Reads the page for Prometheus at each look."""

    def __init__(self, address: str) -> None:
        self.address, self.pages = address, []

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        self.pages.append(urllib.request.urlopen(self.address, timeout=30).read().decode())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run with everything that --out takes: the run, its document and what went out."""
    directory = tmp_path_factory.mktemp("outputs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [f"csv={directory / 'run.csv'}", f"ndjson={directory / 'run.ndjson'}", f"prometheus=:{port}"]
    with Gateway(SEED, 6) as gateway, load_output.opened(places) as screens:
        scraping = Scraping(f"http://127.0.0.1:{port}/metrics")
        given = {"phase": PHASES, "peers": 6, "target": gateway.target, "seed": SEED}
        run = load_run.execute(
            load_profile.of_options(given),
            load_run.default_cores(),
            [],
            load_output.Several([*screens, scraping]),
        )
    verdicts = load_json.judge(run, [load_thresholds.parse("loss<1%"), load_thresholds.parse("storm:p99<1s")])
    return {
        "run": run,
        "document": load_json.document(run, verdicts, {"gateway": "of plain Python"}),
        "csv": (directory / "run.csv").read_text(),
        "ndjson": (directory / "run.ndjson").read_text(),
        "pages": scraping.pages,
    }


def undocumented(found: Any, shape: Any, place: str = "$") -> list[str]:
    """The keys of a document that its schema does not name."""
    if isinstance(found, list):
        inner = msgspec.inspect.type_info(shape)
        items = getattr(inner, "item_type", None)
        cls = getattr(items, "cls", None)
        return [bad for each in found for bad in undocumented(each, cls, f"{place}[]")] if cls else []
    if not isinstance(found, dict) or not (isinstance(shape, type) and issubclass(shape, msgspec.Struct)):
        return []
    known = {field.encode_name: field.type for field in msgspec.structs.fields(shape)}
    bad = [f"{place}.{key}" for key in found if key not in known]
    for key, value in found.items():
        if key in known:
            kinds = (
                getattr(known[key], "__args__", ())
                if type(None) in getattr(known[key], "__args__", ())
                else ()
            )
            kind = next((each for each in kinds if each is not type(None)), known[key])
            bad += undocumented(value, kind, f"{place}.{key}")
    return bad


def test_the_json_is_as_documented(written: dict[str, Any]) -> None:
    made = json.loads(load_json.text(written["document"]))
    msgspec.convert(made, load_schema.Run, strict=True)
    assert undocumented(made, load_schema.Run) == []
    assert undocumented({"phases": [{"new": 1}]}, load_schema.Run) == ["$.phases[].new"]
    assert (
        made["end"] == "finished" and made["why"] is None and made["gateway"]["version"] == "of plain Python"
    )
    assert made["machines"][0]["peers"] == [0, 5] and made["machines"][0]["plait"]["version"]
    assert made["command"][0] == "plait" and made["began"] < made["ended"]
    # What was not measured is null, and does not hold.
    assert [(each["holds"], each["found"]) for each in made["requirements"]] == [(True, 0.0), (False, None)]
    steady = made["phases"][1]
    assert 0 <= steady["began"] - made["phases"][0]["began"] < 600


def test_a_series_says_from_when_to_when(written: dict[str, Any]) -> None:
    """Its intervals leave nothing out, and begin where the phase does."""
    series, phases = written["document"]["series"], written["run"].phases
    for phase in phases:
        meant = [entry for entry in series if entry["phase"] == phase.name]
        assert meant[0]["from"] == pytest.approx(phase.began - phases[0].began, abs=0.002)
        for counter in COUNTERS:
            total = sum(entry[counter] * (entry["at"] - entry["from"]) for entry in meant)
            # `at` is rounded to a millisecond
            most = max(entry[counter] for entry in meant)
            assert total == pytest.approx(phase.counters[counter], abs=0.002 * most * len(meant) + 0.01)


def test_csv_and_ndjson_have_each_look(written: dict[str, Any]) -> None:
    rows = list(csv.DictReader(written["csv"].splitlines()))
    entries = [json.loads(line) for line in written["ndjson"].splitlines()]
    ticks = [entry for entry in entries if entry["type"] == "tick"]
    assert len(rows) == len(ticks) == len(written["pages"])
    assert [row["phase"] for row in rows] == [tick["phase"] for tick in ticks]
    for row, tick in zip(rows, ticks, strict=True):
        assert float(row["asked"]) == tick["asked"]
        trip = tick["round_trip"].get("p99")
        assert row["round_trip_p99"] == ("" if trip is None else str(trip))
    phases = [entry for entry in entries if entry["type"] == "phase"]
    assert [phase["name"] for phase in phases] == ["storm", "steady"]
    assert phases[1]["counters"]["answered"] == 300
    assert [entry["type"] for entry in entries][-1] == "phase"


def test_prometheus_reads_counters_of_each_phase(written: dict[str, Any]) -> None:
    page = written["pages"][-1]
    found = dict(re.findall(r"^(plait_load_\S+) (\S+)$", page, re.MULTILINE))
    before = written["pages"][-2]  # a page is that of the look before or of this one
    assert 'plait_load_handshakes_total{phase="storm"}' in found
    assert float(found['plait_load_handshakes_total{phase="storm"}']) == 6
    assert float(found['plait_load_answered_total{phase="steady"}']) <= 300
    assert "plait_load_round_trip_seconds" in before + page and "plait_load_sessions" in page


@pytest.mark.parametrize(
    "words", ["csv", "csv=", "xml=x", "prometheus=9", "prometheus=:x", "prometheus=:70000", "prometheus=:²"]
)
def test_an_output_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(Failure, match="cannot use --out"), load_output.opened([words]):
        pass


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"prometheus=:{taken.getsockname()[1]}"
        with pytest.raises(Failure, match="cannot listen"), load_output.opened([place]):
            pass


def test_a_phase_comes_back_from_its_json(written: dict[str, Any]) -> None:
    for phase in written["run"].phases:
        back = load_merge.restored(json.loads(json.dumps(phase.as_json())))
        assert (back.histograms == phase.histograms).all() and back.histograms.any()
        assert back.as_json() == phase.as_json()


def test_two_machines_make_one_run() -> None:
    """Each has half of the peers and of the rate; counts add up exactly, and percentiles are of all."""
    with Gateway(SEED, 10) as gateway:
        given = {"phase": PHASES, "peers": 10, "target": gateway.target, "seed": SEED, "require": ["loss<=0"]}
        made = load_profile.of_options(given)
        runs = [
            load_run.execute(made, load_run.default_cores(), [], Screen(), span=span)
            for span in (range(4), range(4, 10))
        ]
    documents = [json.loads(load_json.text(load_json.document(run, []))) for run in runs]
    merged = load_merge.merged(documents)
    msgspec.convert(merged, load_schema.Run)
    storm, steady = merged["phases"]
    assert storm["counters"]["handshakes"] == 10 == len(gateway.sessions)
    assert steady["counters"]["asked"] == 300 == steady["counters"]["answered"]
    assert [run.phases[1].counters["asked"] for run in runs] == [120, 180]
    rows = sum(run.phases[1].histograms for run in runs)
    expected = PhaseResult("steady", runs[0].phases[1].counters, rows).as_json()["times"]["round_trip"]
    assert steady["times"]["round_trip"] == expected
    assert [machine["peers"] for machine in merged["machines"]] == [[0, 3], [4, 9]]
    (verdict,) = merged["requirements"]
    assert (verdict["text"], verdict["holds"], verdict["found"]) == ("loss<=0", True, 0.0)
    # Rates over time: what both did, wherever their intervals lie.
    total = sum(
        entry["asked"] * (entry["at"] - entry["from"])
        for entry in merged["series"]
        if entry["phase"] == "steady"
    )
    assert total == pytest.approx(300, rel=0.02)
    assert load_merge.check(["a", "b"], documents)[0].startswith("they began up to ")


def test_what_is_no_part_of_one_run_is_not_merged(written: dict[str, Any]) -> None:
    one = json.loads(load_json.text(written["document"]))
    with pytest.raises(Failure, match="both have peer 0"):
        load_merge.check(["a", "b"], [one, one])
    other = json.loads(json.dumps(one))
    other["profile"]["retry"] = 3
    with pytest.raises(Failure, match="their profiles differ in retry"):
        load_merge.check(["a", "b"], [one, other])
    part = json.loads(json.dumps(one))
    part["profile"]["peers"] = 100
    assert load_merge.check(["a"], [part]) == ["94 of the profile's 100 peers are in none of these files"]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda made: made.update(began="yesterday"), "Invalid RFC3339"),
        (lambda made: made.update(profile={}), "missing required field peers"),
        (lambda made: made["phases"][0].update(seconds=float("nan")), "NaN is no number of JSON"),
        (lambda made: made["phases"][1]["times"]["round_trip"].update(hdr="AAAA"), "round_trip of phase"),
        (lambda made: made["phases"][1]["times"]["round_trip"].pop("hdr"), "round_trip of phase"),
    ],
)
def test_a_damaged_file_is_refused_in_words(
    damage: Any, why: str, written: dict[str, Any], tmp_path: Path
) -> None:
    made = json.loads(load_json.text(written["document"]))
    damage(made)
    file = tmp_path / "one.json"
    file.write_text(json.dumps(made))
    with pytest.raises(Failure, match=why):
        load_merge.run([str(file)], str(tmp_path / "both.json"), [])
    assert not (tmp_path / "both.json").exists()


@pytest.mark.parametrize(
    ("end", "why", "code"),
    [("finished", None, 0), ("stopped", "SIGINT", 105), ("failed", "a load process ended", 1),
     ("gave_up", "silence", 1), ("aborted", "loss>50%", 99), ("running", None, 1)],
)  # fmt: skip
def test_a_machine_that_did_not_come_to_its_end_decides(
    end: str, why: str | None, code: int, written: dict[str, Any], tmp_path: Path
) -> None:
    """Its phases are in the whole, and one that it never ran is not over."""
    parts = [json.loads(load_json.text(written["document"])) for _ in range(2)]
    for part, peers in zip(parts, ([0, 5], [6, 11]), strict=True):
        part["profile"] |= {"peers": 12, "require": []}
        part["machines"][0]["peers"] = peers
    parts[1] |= {"end": end, "why": why}
    if end != "finished":
        parts[1]["phases"].pop()
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file, part in zip(files, parts, strict=True):
        file.write_text(json.dumps(part))
    assert load_merge.run([str(file) for file in files], str(tmp_path / "both.json"), []) == code
    made = load_json.read(str(tmp_path / "both.json"))
    assert [phase["finished"] for phase in made["phases"]] == [True, end == "finished"]
    assert (made["end"], made["why"]) == (end, "the command was killed" if end == "running" else why)


def test_machines_begin_at_one_time() -> None:
    with Gateway(SEED, 4) as gateway:
        given = {"phase": PHASES, "peers": 4, "target": gateway.target, "seed": SEED}
        made = load_profile.of_options(given)
        for ahead in (2, 10, 30):  # a busy machine may not be prepared so soon
            at = time.time() + ahead
            with contextlib.suppress(Failure):
                run = load_run.execute(made, load_run.default_cores(), [], Screen(), start_at=at)
                break
        assert gateway.first_at >= at - 0.05
        # The second phase begins by the clock, not when the first is over on this machine.
        planned = PHASES[0]["seconds"] + PHASES[0]["drain"] + load_run.BETWEEN_SECONDS
        assert run.phases[1].began - run.phases[0].began >= planned - 0.001
        with pytest.raises(Failure, match="cannot start at that time"):
            load_run.execute(made, load_run.default_cores(), [], Screen(), start_at=time.time() - 1)
    endless = load_profile.of_options({"phase": [{**PHASES[0], "seconds": None}, PHASES[1]], "peers": 4})
    with pytest.raises(Failure, match="each machine at another time"):
        load_run.execute(endless, load_run.default_cores(), [], Screen(), start_at=time.time() + 9)
