"""`plait bench tunnel`: medians, ratios and verdicts; the table; and one real, small run."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from plait.bench import FIGURE_NAMES, comparison, competitors, figures, neighbours, tunnel, tunnel_table
from plait.bench import bench as command
from plait.bench.comparison import BARS, ratio, spread, verdicts
from plait.bench.competitors import NEWEST
from plait.bench.datagrams import trial
from plait.bench.implementation import CABLE, Implementation, Tunnel, chosen
from plait.failure import Failure
from plait.lab.namespaces import Engine
from plait.lab.versions import program_version

PLAIT = Implementation("plait", "0.1.0 (inline)", ("plaitd",), is_plait=True)
PIPELINE = Implementation("plait pipeline", "0.1.0", ("plaitd",), "pipeline", is_plait=True)
GO = Implementation(NEWEST, "0.0.0-20260101000000-abcdef012345", ("wireguard",))
BARE = Implementation(CABLE, "", None)

# The newest by name where this machine has it, else Debian's, which every test host has.
HERE = [row["name"] for row in competitors.listing() if row["path"]]
RIVAL = NEWEST if NEWEST in HERE else "wireguard-go@debian"

# What just clears every bar, 5 runs each; pipeline is held against none.
OURS = {
    "tcp1.ab.gbit": [1.06] * 5,
    "tcp4.ba.gbit": [1.06] * 5,
    "tcp4.ba.cpu": [2.0] * 5,
    "udp64.rate": [70e3] * 5,
    "udp64.cpu": [2.4] * 5,
    "ping.avg": [42.0] * 5,
    "pingtcp.avg": [100.0] * 5,
    "pingpeer.avg": [100.0] * 5,
    "flood.kept": [0.4] * 5,
    "flood.rate": [1e5] * 5,
}
THEIRS = {
    "tcp1.ab.gbit": [0.4, 0.6, 0.5, 0.5, 0.5],
    "tcp4.ba.gbit": [0.5] * 5,
    "tcp4.ba.cpu": [5.0] * 5,
    "udp64.rate": [10e3] * 5,
    "udp64.cpu": [20.0] * 5,
    "ping.avg": [100.0] * 5,
    "pingtcp.avg": [1000.0] * 5,
    "pingpeer.avg": [1000.0] * 5,
    "flood.kept": [0.5] * 5,
    "flood.rate": [1.01e5] * 5,
}
SAMPLES = {key: {"plait": OURS[key], "plait pipeline": OURS[key], NEWEST: THEIRS[key]} for key in OURS}
BARRED = sorted(OURS.keys() - {"flood.rate"})


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
    found = verdicts(SAMPLES, ["plait"], NEWEST, 5)
    by_key = {bar.key: bar.title for bar in BARS}
    assert {verdict.title: verdict.passed for verdict in found} == {by_key[key]: True for key in BARRED}


@pytest.mark.parametrize("bar", BARS, ids=[bar.key for bar in BARS])
def test_a_little_less_than_the_bar_is_a_miss(bar: comparison.Bar) -> None:
    for factor, passed in ((1.001, bar.at_least), (0.999, not bar.at_least)):
        samples = {bar.key: {"plait": [50 * bar.ratio * factor] * 5, NEWEST: [50.0] * 5}}
        samples |= {"flood.rate": {"plait": [1.0] * 5, NEWEST: [1.0] * 5}}
        found = {verdict.title: verdict.passed for verdict in verdicts(samples, ["plait"], NEWEST, 5)}
        assert found == {bar.title: passed}


@pytest.mark.parametrize(
    ("runs", "seconds", "why"), [(4, 5, "4 of 5 runs"), (5, 2, "2 of 5 s"), (5, 5, ""), (9, 30, "")]
)
def test_few_runs_and_short_streams_are_no_verdict(runs: int, seconds: int, why: str) -> None:
    samples = {"ping.avg": {"plait": [1.0] * runs, NEWEST: [100.0] * 5}}
    (verdict,) = verdicts(samples, ["plait"], NEWEST, seconds)
    assert (verdict.passed, verdict.why) == (None if why else True, why)


def test_a_bar_stays_open_without_its_rival() -> None:
    (verdict,) = verdicts({"udp64.cpu": {"plait": [1.0] * 5}}, ["plait"], NEWEST, 5)
    assert (verdict.passed, verdict.why) == (None, "not measured in both")


def test_a_program_beside_another_flood_is_no_verdict() -> None:
    """Whoever was sent fewer packets leaves more of the cores, and has not earned that."""
    less = SAMPLES["flood.rate"] | {"plait": [0.97e5] * 5}
    samples = {"flood.kept": SAMPLES["flood.kept"], "flood.rate": less}
    (verdict,) = verdicts(samples, ["plait"], NEWEST, 5)
    assert (verdict.passed, verdict.why) == (None, "not beside the same")


def printed(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=240)
    for made in tunnel_table.tables(result):
        console.print(made)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def result_of(implementations: Sequence[Implementation]) -> dict[str, Any]:
    titles = {one.title for one in implementations}
    samples = {key: {t: v for t, v in of.items() if t in titles} for key, of in SAMPLES.items()}
    return tunnel.summary(implementations, samples, 5, 5, 0.5)


def test_the_tables_name_versions_and_line_up() -> None:
    text = printed(result_of([PLAIT, PIPELINE, GO, BARE]))
    assert f"plait / {GO.name}" in text
    assert "plait pipeline / plait 0.1.0 (inline)" in text
    assert f"Required beside {GO.name}" in text
    assert text.count("MISS") == 0 and text.count("pass") == len(BARRED)
    assert "…" not in text
    three, bare = (line for line in text.splitlines() if "TCP 1 stream a -> b " in line and "Gbit/s" in line)
    assert bare.split()[-1] == "-"  # the bare cable, in a table of its own
    assert three.split()[-6:] == ["1.06", "1.06..1.06", "1.06", "1.06..1.06", "0.50", "0.40..0.60"]
    (row,) = (line for line in text.splitlines() if "TCP 1 stream a -> b " in line and "more" in line)
    assert row.split()[-6:] == ["2.12", "x", "1.00", "x", "2.12", "x"]


def test_the_bars_are_of_the_newest_alone() -> None:
    """Whatever else is called wireguard-go has ratios; a bar beside an old one would flatter."""
    older = Implementation("wireguard-go@debian", "0.0.20220316", ("wireguard-go",))
    samples = {key: {"plait": of["plait"], older.title: of[NEWEST]} for key, of in SAMPLES.items()}
    result = tunnel.summary([PLAIT, older, BARE], samples, 5, 5, 0.5)
    assert result["verdicts"] == []
    assert {row["other"] for row in result["ratios"]} == {older.title}
    assert "Required" not in printed(result)


def test_every_second_run_goes_backwards() -> None:
    """Nobody is always the one that follows the same other."""
    orders = [[one.title for one in tunnel.order([PLAIT, GO, BARE], number)] for number in range(3)]
    assert orders == [["plait", NEWEST, CABLE], [CABLE, NEWEST, "plait"], ["plait", NEWEST, CABLE]]


def test_what_is_chosen(tmp_path: Path) -> None:
    program = tmp_path / "other-engine"
    program.write_text("#!/bin/sh\necho other-engine v1.2.3, of today\n")
    program.chmod(0o755)
    found = chosen([f"{program} -f {{iface}}"], ["pipeline", "inline"])
    assert [one.title for one in found] == ["plait pipeline", "plait inline", "other-engine", CABLE]
    assert [one.handoff for one in found] == ["pipeline", "inline", "", ""]
    assert found[2].name == "other-engine 1.2.3"
    assert found[2].command == (str(program), "-f", "{iface}") and found[2].path == str(program)
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
def test_a_file_that_cannot_be_written_is_told_before_the_run(tmp_path: Path) -> None:
    """Nothing is measured: progress says nothing, and no table is shown."""
    arguments = ["tunnel", "--vs", RIVAL, "--seconds", "1", "--runs", "1", "--json", str(tmp_path)]
    answer = CliRunner().invoke(command, arguments)
    assert isinstance(answer.exception, Failure)
    assert answer.exception.what == f"cannot write {tmp_path}" and answer.exception.why == "Is a directory"
    assert answer.output == ""


@pytest.mark.network
def test_a_small_run(tmp_path: Path) -> None:
    """Real engines by name: every sample is there, none is zero, and the file says the same as the table."""
    file = tmp_path / "result.json"
    arguments = ["tunnel", "--vs", RIVAL, "--seconds", "1", "--runs", "1", "--json", str(file)]
    arguments += ["--only", "ping", "--only", "flood"]
    answer = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    result = json.loads(file.read_text())
    titles = ("plait", RIVAL, CABLE)
    assert tuple(one["title"] for one in result["implementations"]) == titles
    assert all(one["version"] and one["path"] for one in result["implementations"][:2])
    found = {figure["key"]: figure["found"] for figure in result["figures"]}
    echoes = {"ping.min", "ping.avg", "ping.p99", "ping.lost"}
    assert set(found) == echoes | {"flood.kept", "flood.rate", "flood.carried"}
    for title in titles:
        least, average, most = (found[f"ping.{key}"][title]["median"] for key in ("min", "avg", "p99"))
        assert 0 < least <= average and least <= most
        assert found["ping.lost"][title]["values"] == [0]
        assert found["flood.kept"][title]["median"] > 0
        assert found["flood.carried"][title]["median"] > 0
        assert 0 < found["flood.rate"][title]["median"] <= 1.01 * neighbours.FLOOD_RATE
    pairs = {(row["one"], row["other"]) for row in result["ratios"]}
    assert pairs == {("plait", RIVAL), ("plait", CABLE)}
    assert "Medians" in answer.stdout and f"bench: run 1 of 1: ping, idle: {RIVAL}" in answer.stderr


@pytest.fixture(scope="module")
def three_hosts() -> Iterator[Tunnel]:
    with Tunnel(chosen([], [])[0], second_peer=True) as made:
        yield made


def gained(engine: Engine, before: dict[str, int]) -> dict[str, int]:
    return {name: n - before[name] for name, n in engine.counters().items()}


@pytest.mark.network
def test_a_second_peer_pings_while_the_first_has_a_stream(three_hosts: Tunnel) -> None:
    """Its echoes go through its own engine, the stream's bytes through the first peer's."""
    first, _, second = three_hosts.engines
    before = first.counters(), second.counters()
    figure = next(figure for figure in figures.FIGURES if figure.name == "pingpeer")
    values = figure.measure(three_hosts, figures.Effort(1))
    assert set(values) == {metric.key for metric in figure.metrics}
    assert 0 < values["pingpeer.min"] <= values["pingpeer.avg"]
    echoes = 100 - values["pingpeer.lost"]
    assert (
        gained(second, before[1])["tun_received"] == 100
        and gained(second, before[1])["tun_sent"] >= echoes > 0
    )
    assert gained(first, before[0])["tun_received"] > 100


@pytest.mark.network
def test_a_flood_is_a_second_peers_and_arrives_inside(three_hosts: Tunnel) -> None:
    """Its messages are opened and delivered by the engine; the peer's own engine has no part in that."""
    _, gateway, second = three_hosts.engines
    before = gateway.counters(), second.counters()
    values = neighbours.program_beside_flood(three_hosts, 1)
    found = gained(gateway, before[0])
    assert found["tun_sent"] > 1000 and found["hs_initiation_accepted"] == 1
    assert not any(found[f"drop_{why}"] for why in ("data_tag", "inner_header", "inner_source"))
    assert gained(second, before[1])["tun_received"] == 0
    assert values["flood.carried"] > 0 and values["flood.rate"] > 0


def test_the_packet_of_the_flood_is_ipv4_and_udp() -> None:
    """Its header sums up to the complement of zero, as whoever receives it will check."""
    made = neighbours.packet("10.201.0.3", "10.201.0.2")
    total = sum(struct.unpack("!10H", made[:20]))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert len(made) == 28 and struct.unpack("!H", made[2:4])[0] == 28
    assert made[12:20] == bytes([10, 201, 0, 3, 10, 201, 0, 2])
    assert struct.unpack("!HHH", made[20:26]) == (neighbours.SINK_PORT, neighbours.SINK_PORT, 8)
    total = sum(struct.unpack("!8H", made[12:])) + socket.IPPROTO_UDP + 8
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


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
    bars = {bar.key: (bar.ratio, bar.at_least) for bar in comparison.BARS}
    assert bars.pop("ping.avg") == (0.42, False)
    assert bars.pop("pingtcp.avg") == bars.pop("pingpeer.avg") == (0.1, False)
    assert bars.pop("udp64.rate") == (7, True)
    assert bars.pop("udp64.cpu") == (0.12, False)
    assert bars.pop("flood.kept") == (0.8, True)
    ways = [f"tcp{streams}.{way}" for streams in (1, 4) for way in ("ab", "ba")]
    wanted = {f"{way}.gbit": (2.1, True) for way in ways}
    assert bars == wanted | {f"{way}.cpu": (0.42, False) for way in ways}
