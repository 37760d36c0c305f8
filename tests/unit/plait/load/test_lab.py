"""The whole command against real engines: 200 peers, requirements, report and comparison of what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plait.failure import Failure
from plait.lab.namespaces import missing
from plait.load import compare as load_compare
from plait.load import document as load_json
from plait.load import report as load_report

PROFILE = """
peers = 200
require = ["storm:handshake_loss<=0", "echoes:loss<1%", "echoes:wrong==0", "echoes:garbage_answers==0",
           "echoes:p50<1s"]
[[phase]]
name = "storm"
handshakes = { outstanding = 32 }
[[phase]]
name = "echoes"
seconds = 1
traffic = { rate = 500 }
garbage = { mac1 = 50, replayed_data = 50, tag = 50 }
"""
ENGINES = ["plaitd -f {iface}", "wireguard-go -f {iface}"]

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(bool(missing("wg", "wireguard-go")), reason="no lab here"),
]


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """A run against both engines, in a lab of its own each."""
    directory = tmp_path_factory.mktemp("lab")
    (directory / "profile.toml").write_text(PROFILE)
    labs = [word for engine in ENGINES for word in ("--lab", engine)]
    command = [
        sys.executable,
        "-m",
        "plait",
        "load",
        "run",
        str(directory / "profile.toml"),
        *labs,
        "--json",
        str(directory / "lab.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "handshakes/s" in done.stdout and "ratio" in done.stdout
    found: list[dict[str, object]] = json.loads((directory / "lab.json").read_text())["turns"]
    return found


def test_both_engines_bear_it(turns: list[dict[str, object]]) -> None:
    assert [turn["engine"] for turn in turns] == ENGINES
    for turn in turns:
        storm, echoes = turn["run"]["phases"]  # type: ignore[index]
        assert storm["counters"]["handshakes"] == 200 == storm["counters"]["initiations"]
        assert storm["counters"]["unprepared"] == 0
        assert echoes["counters"]["asked"] == 500
        assert echoes["counters"]["garbage_mac1"] == 50 and echoes["counters"]["garbage_tag"] == 50
        assert turn["gateway"]["cpu_seconds"] > 0  # type: ignore[index]


def test_requirements_decide_the_exit_code(turns: list[dict[str, object]]) -> None:
    from plait.load.lab_run import judge
    from plait.load.thresholds import parse

    assert list(judge(turns[0], [parse("storm:handshakes==200")])) == []
    (words,) = judge(turns[0], [parse("storm:handshakes<200")])
    assert words == "plaitd -f {iface}: required storm:handshakes<200, found 200"


def test_report_and_comparison(
    turns: list[dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{at}.json" for at in range(2)]
    for file, turn in zip(files, turns, strict=True):
        file.write_text(json.dumps(turn["run"]))
    load_report.write(str(files[0]), str(tmp_path / "run.html"))
    page = (tmp_path / "run.html").read_text()
    assert "data:image/png;base64,iVBOR" in page and "<td>handshakes/s</td>" in page
    assert "http:" not in page and "https:" not in page  # it fetches nothing; base64 has no colon
    load_report.write(str(files[0]), str(tmp_path / "run.png"))
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    load_compare.run(*map(str, files), as_json=True)
    lines = json.loads(capsys.readouterr().out)
    ours = next(line for line in lines if (line["phase"], line["metric"]) == ("storm", "handshakes/s"))
    assert ours["ratio"] == pytest.approx(ours["after"] / ours["before"]) and ours["before"] > 0
    load_compare.run(*map(str, files), as_json=False)
    assert "after : before" in capsys.readouterr().out


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"plait_load": 99}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(Failure, match="cannot read"):
            load_json.read(str(tmp_path / "x.json"))
