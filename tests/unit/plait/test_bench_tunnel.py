"""`plait bench tunnel`: medians, ratios and verdicts; the table; and one real, small run."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from plait.bench import FIGURE_NAMES, comparison, figures, tunnel, tunnel_table
from plait.bench import bench as command
from plait.bench.comparison import BARS, ratio, spread, verdicts
from plait.bench.datagrams import trial
from plait.bench.implementation import CABLE, Implementation, Tunnel, chosen, program_version
from plait.failure import Failure

PLAIT = Implementation("plait", "0.1.0 (pipeline)", ("plaitd",), is_plait=True)
PIPELINE = Implementation("plait pipeline", "0.1.0", ("plaitd",), "pipeline", is_plait=True)
GO = Implementation("wireguard-go", "0.0.20220316", ("wireguard-go",))
BARE = Implementation(CABLE, "", None)

# What just clears every bar of pipeline and none of the default mode where the two differ, 5 runs each.
SAMPLES = {
    "tcp1.ab.gbit": {
        "plait": [4.5] * 5, "plait pipeline": [4.5] * 5, "wireguard-go": [0.4, 0.6, 0.5, 0.5, 0.5],
    },
    "tcp1.ab.cpu": {"plait": [3.0] * 5, "plait pipeline": [3.0] * 5, "wireguard-go": [27.0] * 5},
    "udp64.rate": {"plait": [60e3] * 5, "plait pipeline": [60e3] * 5, "wireguard-go": [20e3] * 5},
    "udp64.cpu": {"plait": [7.5] * 5, "plait pipeline": [7.5] * 5, "wireguard-go": [30.0] * 5},
    "ping.avg": {"plait": [80.0] * 5, "plait pipeline": [80.0] * 5, "wireguard-go": [100.0] * 5},
    "pingtcp.avg": {"plait": [400.0], "plait pipeline": [400.0], "wireguard-go": [1000.0]},
}


def test_figures_have_the_names_that_only_takes() -> None:
    assert tuple(figure.name for figure in figures.FIGURES) == FIGURE_NAMES
    keys = [metric.key for figure in figures.FIGURES for metric in figure.metrics]
    assert len(set(keys)) == len(keys)
    assert {bar.key for bar in BARS} <= set(keys)


def test_medians_and_ratios() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert found is not None and (found.median, found.least, found.most, found.runs) == (2.5, 1.0, 10.0, 4)
    assert spread([]) is None
    samples = {"x": {"one": [1.0, 9.0, 2.0], "other": [4.0, 4.0, 5.0], "none": [0.0]}}
    assert ratio(samples, "x", "one", "other") == 0.5
    assert ratio(samples, "x", "one", "none") is None
    assert ratio(samples, "x", "one", "missing") is None
    assert ratio(samples, "y", "one", "other") is None


def test_verdicts_at_the_edge_of_every_bar() -> None:
    found = verdicts(SAMPLES, {"plait": True, "plait pipeline": False}, "wireguard-go")
    told = {(verdict.implementation, verdict.title): verdict.passed for verdict in found}
    assert len(told) == 2 * len(SAMPLES)
    by_key = {bar.key: bar.title for bar in BARS}
    for key in SAMPLES:
        assert told["plait pipeline", by_key[key]] is True, key
        assert told["plait", by_key[key]] is (key == "udp64.cpu"), key


@pytest.mark.parametrize("key", SAMPLES)
def test_a_little_less_than_the_bar_is_a_miss(key: str) -> None:
    (bar,) = (bar for bar in BARS if bar.key == key)
    rival = spread(SAMPLES[key]["wireguard-go"])
    assert rival is not None
    for default, wanted in ((True, bar.default), (False, bar.pipeline)):
        for factor, passed in ((1.001, bar.at_least), (0.999, not bar.at_least)):
            ours, theirs = rival.median * wanted * factor, rival.median
            samples = {key: {"plait": [ours] * 5, "wireguard-go": [theirs] * 5}}
            (verdict,) = verdicts(samples, {"plait": default}, "wireguard-go")
            assert verdict.passed is passed


def test_a_bar_stays_open_without_its_runs_or_its_rival() -> None:
    samples = {"ping.avg": {"plait": [1.0] * 4, "wireguard-go": [100.0] * 5}, "udp64.cpu": {"plait": [1.0]}}
    found = {v.title: v for v in verdicts(samples, {"plait": True}, "wireguard-go")}
    assert [(v.passed, v.why) for v in found.values()] == [
        (None, "not measured in both"),
        (None, "4 of 5 runs"),
    ]


def printed(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    for made in tunnel_table.tables(result):
        console.print(made)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def result_of(implementations: Sequence[Implementation]) -> dict[str, Any]:
    titles = {one.title for one in implementations}
    samples = {key: {t: v for t, v in of.items() if t in titles} for key, of in SAMPLES.items()}
    return tunnel.summary(implementations, samples, 3, 5, 0.5)


def test_the_tables_name_versions_and_line_up() -> None:
    text = printed(result_of([PLAIT, PIPELINE, GO, BARE]))
    assert "plait / wireguard-go 0.0.20220316" in text
    assert "plait pipeline / plait 0.1.0 (pipeline)" in text
    assert "Required beside wireguard-go 0.0.20220316" in text
    assert text.count("MISS") == 5 and text.count("pass") == 7
    assert "…" not in text
    three, bare = (line for line in text.splitlines() if "TCP 1 stream a -> b " in line and "Gbit/s" in line)
    assert bare.split()[-1] == "-"  # the bare cable, in a table of its own
    assert three.split()[-6:] == ["4.50", "4.50..4.50", "4.50", "4.50..4.50", "0.50", "0.40..0.60"]
    (row,) = (line for line in text.splitlines() if "TCP 1 stream a -> b " in line and "more" in line)
    assert row.split()[-6:] == ["9.00", "x", "1.00", "x", "9.00", "x"]


def test_other_versions_have_ratios_and_no_verdicts() -> None:
    newer = Implementation("wireguard-go", "0.0.20250522", ("wireguard-go",))
    result = result_of([PLAIT, newer, BARE])
    assert result["verdicts"] == []
    assert {row["other"] for row in result["ratios"]} == {"wireguard-go"}
    assert "Required" not in printed(result)


def test_what_is_chosen(tmp_path: Path) -> None:
    program = tmp_path / "other-engine"
    program.write_text("#!/bin/sh\necho other-engine v1.2.3, of today\n")
    program.chmod(0o755)
    found = chosen([f"{program} -f {{iface}}"], ["pipeline", "inline"])
    assert [one.title for one in found] == ["plait pipeline", "plait inline", "other-engine", CABLE]
    assert [one.handoff for one in found] == ["pipeline", "inline", "", ""]
    assert found[2].name == "other-engine 1.2.3"
    assert found[2].command == (str(program), "-f", "{iface}")
    assert program_version("/bin/false") != ""
    (default, _) = chosen([], [])
    assert default.title == "plait" and "(" in default.version


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no-such-engine {iface}", "there is no program no-such-engine"),
        ("wireguard-go -f wg0", "not one command with {iface}"),
        ("wireguard-go {other}", "not one command with {iface}"),
        ("wireguard-go '{iface}", "not one command with {iface}"),
        ("", "not one command with {iface}"),
    ],
)
def test_a_command_that_cannot_be_run_is_one_error(text: str, why: str) -> None:
    with pytest.raises(Failure, match=why):
        chosen([text], [])


def test_without_root_it_says_so() -> None:
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(Failure, match=r"the bench cannot start: not root.*Run it as root"):
            CliRunner().invoke(command, ["tunnel"], catch_exceptions=False)
    finally:
        os.seteuid(user)


@pytest.mark.network
def test_a_small_run(tmp_path: Path) -> None:
    """Real engines: every sample is there, none is zero, and the file says the same as the table."""
    file = tmp_path / "result.json"
    arguments = ["tunnel", "--vs", "wireguard-go -f {iface}", "--seconds", "1", "--runs", "1"]
    arguments += ["--only", "ping", "--json", str(file)]
    answer = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    result = json.loads(file.read_text())
    assert [one["title"] for one in result["implementations"]] == ["plait", "wireguard-go", CABLE]
    assert all(one["version"] for one in result["implementations"][:2])
    found = {figure["key"]: figure["found"] for figure in result["figures"]}
    assert set(found) == {"ping.min", "ping.avg", "ping.p99", "ping.lost"}
    for title in ("plait", "wireguard-go", CABLE):
        least, average, most = (found[f"ping.{key}"][title]["median"] for key in ("min", "avg", "p99"))
        assert 0 < least <= average and least <= most
        assert found["ping.lost"][title]["values"] == [0]
    pairs = {(row["one"], row["other"]) for row in result["ratios"]}
    assert pairs == {("plait", "wireguard-go"), ("plait", CABLE)}
    assert "Medians" in answer.stdout and "bench: run 1 of 1: ping, idle: wireguard-go" in answer.stderr


@pytest.mark.network
def test_a_trial_counts_packets_and_cpu_of_both_engines() -> None:
    """A rate that any machine bears arrives whole; the CPU is that of Plait's processes at both ends."""
    with Tunnel(chosen([], [])[0]) as made:
        assert len(made.processes()) >= 2 * 4
        found = trial(made, 2000, 0.3)
        assert found.sent == 600 and 0 < found.received <= 600
        assert found.rate == pytest.approx(found.received / found.seconds) and found.seconds >= 0.29
        assert found.cpu_seconds > 0
        assert made.cpu_seconds() > found.cpu_seconds
        pss = figures._memory(made, figures.Effort(1))["memory.pss"]
        assert 10 < pss < 2000


def test_a_process_that_ended_is_no_figure() -> None:
    """Its CPU would be missing from the sum."""
    made = Tunnel(PLAIT)
    made._pids = [2**22 + 1]  # above PID_MAX_LIMIT: no such process
    with pytest.raises(Failure, match="a process of it has ended"):
        made.cpu_seconds()


def test_bars_are_those_that_are_required() -> None:
    """Of the default mode and of pipeline."""
    bars = {bar.key: (bar.default, bar.pipeline) for bar in comparison.BARS}
    assert bars.pop("ping.avg") == (0.4, 0.8)
    assert bars.pop("pingtcp.avg") == (0.25, 0.4)
    assert bars.pop("udp64.rate") == (5, 3)
    assert bars.pop("udp64.cpu") == (1 / 4, 1 / 4)
    assert set(bars.values()) == {(13, 9), (1 / 13, 1 / 9)}
