"""A run that ends before its time: what was measured until then is printed and written, and right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from plait.failure import Failure
from plait.load import document as load_json
from plait.load import profile as load_profile
from plait.load import result as load_result
from plait.load import run as load_run
from plait.load import screen as load_screen
from plait.load.progress import Look, Run, Screen
from plait.load.series import POINTS_MOST, Point, Series
from plait.load.stop import Stop, deaf_children
from plait.result_file import ResultFile
from plait.watch.processes import children
from tests.support.waiting import PATIENCE, until
from tests.unit.plait.load.gateway import Gateway

SEED = "tests"
PROFILE = """
[[phase]]
name = "storm"
handshakes = { outstanding = 4 }
drain = 20
[[phase]]
name = "steady"
seconds = 600
drain = 20
traffic = { rate = 300 }
[[phase]]
name = "never"
seconds = 1
traffic = { rate = 300 }
"""


@contextmanager
def command(gateway: Gateway, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`plait load run`, in a session of its own, once its second phase has asked something."""
    (tmp_path / "profile.toml").write_text(PROFILE)
    words = ["--peers", str(len(gateway.numbers)), "--seed", SEED, "--target", gateway.target]
    process = subprocess.Popen(
        [sys.executable, "-m", "plait", "load", "run", str(tmp_path / "profile.toml"), *words,
         "--json", str(tmp_path / "run.json"), "--out", f"ndjson={tmp_path / 'run.ndjson'}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        until(
            lambda: process.poll() is not None or "steady" in asked(tmp_path / "run.ndjson"),
            "its second phase",
        )
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def asked(path: Path) -> set[str]:
    """The phases that have asked something."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return {entry["phase"] for entry in entries if entry["type"] == "tick" and entry["asked"]}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_keeps_what_was_measured(name: str, tmp_path: Path) -> None:
    """To the whole group, as a terminal and a service manager send it: what is in flight is no loss."""
    with Gateway(SEED, 6) as gateway, command(gateway, tmp_path) as process:
        gateway.delay = 0.3  # there is always something in flight
        until(lambda: gateway.is_behind, "answers under way")
        os.killpg(process.pid, signal.Signals[name])
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 105, err
    found = json.loads((tmp_path / "run.json").read_text())
    assert (found["end"], found["why"]) == ("stopped", name)
    storm, steady = found["phases"]
    assert (storm["name"], storm["finished"], steady["name"], steady["finished"]) == (
        "storm", True, "steady", False,
    )  # fmt: skip
    counters = steady["counters"]
    assert counters["asked"] == counters["answered"] == gateway.seen["echoes"] - 6 > 0
    assert steady["metrics"]["loss"] == 0 and steady["seconds"] > 0
    assert steady["metrics"]["answers/s"] == pytest.approx(counters["asked"] / steady["seconds"])
    assert counters["cpu_ns"] > 0 and counters["wall_ns"] > 0
    assert "steady (ended early)" in out and f"Ended early by {name} in steady; not begun: never." in out


def test_a_killed_command_leaves_the_phases_that_were_over(tmp_path: Path) -> None:
    with Gateway(SEED, 4) as gateway, command(gateway, tmp_path) as process:
        process.kill()
        process.communicate(timeout=PATIENCE)
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["end"] == "running" and [phase["name"] for phase in found["phases"]] == ["storm"]
    assert found["phases"][0]["counters"]["handshakes"] == 4


def test_a_dead_load_process_leaves_what_it_counted(tmp_path: Path) -> None:
    with Gateway(SEED, 4) as gateway, command(gateway, tmp_path) as process:
        (child,) = children(process.pid)
        os.kill(child, signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("plait: a load process ended: exit code -9. ")
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["end"] == "failed" and found["why"].startswith("a load process ended")
    storm, steady = found["phases"]
    assert storm["finished"] and not steady["finished"] and "steady (ended early)" in out
    # It told no time: that of the last look counts, and no CPU is better than a wrong one.
    assert 0 < steady["seconds"] < 600 and steady["counters"]["asked"] > 0
    assert "cpu_share" not in steady["generator"] and "us_per_datagram" not in steady["generator"]


def profile_for(gateway: Gateway, phases: list[dict[str, Any]], **top: Any) -> load_profile.Profile:
    given = {"phase": phases, "peers": len(gateway.numbers), "target": gateway.target, "seed": SEED, **top}
    return load_profile.of_options(given)


STORM: dict[str, Any] = {"name": "storm", "handshakes": {"outstanding": 4}, "drain": 20}


def test_a_stop_between_two_phases_writes_none_of_them_twice() -> None:
    stop = Stop()

    class Stopping(Screen):
        def finished(self, run: Run, phase: load_result.PhaseResult) -> None:
            stop.signal = signal.SIGINT

    steady = {"name": "steady", "seconds": 60, "traffic": {"rate": 100}}
    with Gateway(SEED, 4) as gateway:
        made = profile_for(gateway, [STORM, steady])
        run = load_run.execute(made, load_run.default_cores(), [], Stopping(), stop)
    assert [phase.name for phase in run.phases] == ["storm"] and run.end == "stopped"
    assert any("after storm; not begun: steady." in line for line in load_screen.notes(run))
    assert load_json.document(run, [])["total"]["metrics"]["handshakes"] == 4


class StoppingWhenAsked(Screen):
    """A signal, as soon as the second phase has asked something."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        if look.phase == 1 and look.counters["asked"]:
            self.stop.signal = signal.SIGINT


@pytest.mark.parametrize("end", [{"seconds": 600}, {"handshakes": {"outstanding": 2, "confirm": False}}])
def test_a_closed_loop_asks_nothing_after_its_end(end: dict[str, Any]) -> None:
    """Stopped, or over with its handshakes: while it drains it only waits for what is in flight."""
    stop = Stop()
    loop = {"name": "loop", "traffic": {"outstanding": 2}, "drain": 20, **end}
    with Gateway(SEED, 4) as gateway:
        gateway.delay = 0.05
        made = profile_for(gateway, [STORM, loop])
        run = load_run.execute(made, load_run.default_cores(), [], StoppingWhenAsked(stop), stop)
    counters = run.phases[1].counters
    assert counters["asked"] == counters["answered"] == len(gateway.traffic) > 0
    # The phase began before the first of them was due, and ended after the last.
    dues = [due for due, _ in gateway.traffic]
    assert (max(dues) - min(dues)) / 1e9 <= run.phases[1].seconds


def test_a_stop_at_a_rate_that_is_too_high_begins_nothing_more() -> None:
    """What was due before it still leaves; what was due later is none of the phase's events."""
    stop, rate = Stop(), 300_000
    steady = {"name": "steady", "seconds": 600, "drain": 0, "traffic": {"rate": rate}}
    with Gateway(SEED, 4) as gateway:
        made = profile_for(gateway, [STORM, steady])
        run = load_run.execute(made, load_run.default_cores(), [], StoppingWhenAsked(stop), stop)
    due = load_result.events(run.phases[1].counters)["echoes"]["due"]
    assert due == pytest.approx(rate * run.phases[1].seconds, abs=2)


def test_a_stop_while_it_prepares_tells_how_much_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one core, and with nothing kept from another run: a look comes long before it is done."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cores = os.sched_getaffinity(0)
    stop, told = Stop(), []

    class Stopping(Screen):
        def preparing(self, done: int, total: int) -> None:
            told.append((done, total))
            if done:
                stop.signal = signal.SIGTERM

    phase = {"name": "storm", "handshakes": {"outstanding": 4}}
    given = {"phase": [phase], "peers": 100_000, "target": "127.0.0.1:9"}
    os.sched_setaffinity(0, {min(cores)})
    try:
        run = load_run.execute(load_profile.of_options(given), load_run.default_cores(), [], Stopping(), stop)
    finally:
        os.sched_setaffinity(0, cores)
    done, total = told[-1]
    assert total == 200_000 and done <= run.static_static < 100_000 and run.ephemerals == 0
    assert run.phases == [] and run.end == "stopped" and run.prepared_seconds > 0
    assert any("before the first phase" in line for line in load_screen.notes(run))


@pytest.mark.parametrize("option", ["--json", "--out"])
def test_a_file_that_cannot_be_written_is_told_before_the_run(option: str, tmp_path: Path) -> None:
    with Gateway(SEED, 2) as gateway:
        for place in (tmp_path / "none/x", tmp_path):
            word = str(place) if option == "--json" else f"csv={place}"
            done = subprocess.run(
                [sys.executable, "-m", "plait", "load", "run", "--peers", "2", "--seed", SEED, "--target",
                 gateway.target, option, word],
                capture_output=True, text=True, check=False, timeout=PATIENCE,
            )  # fmt: skip
            assert done.returncode == 1 and f"plait: cannot write {place}: " in done.stderr
        assert gateway.seen["datagrams"] == 0


def test_a_result_file_keeps_what_it_had_until_there_is_something_new(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("a result of yesterday")
    for path in (old, new):
        with ResultFile(str(path)):
            pass
    assert old.read_text() == "a result of yesterday" and not new.exists()
    with ResultFile(str(old)) as file:
        file.write("first")
        assert old.read_text() == "first"
        file.last("2")
    assert old.read_text() == "2"
    with pytest.raises(Failure, match="cannot write"):
        ResultFile(str(tmp_path))


def test_a_load_of_a_lab_hears_what_came_before_it_listened(tmp_path: Path) -> None:
    """While it is being loaded a signal waits; then the run is stopped, and no traceback is written."""
    profile = load_profile.parse(PROFILE, "p", {"peers": 3, "seed": SEED, "target": "127.0.0.1:1"})
    given, found = tmp_path / "profile.json", tmp_path / "run.json"
    given.write_bytes(msgspec.json.encode(profile))
    with deaf_children():
        process = subprocess.Popen(
            [sys.executable, "-m", "plait.load.lab_run", str(given), str(found), str(tmp_path / "came"),
             "127.0.0.1", "null"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    process.send_signal(signal.SIGINT)
    words = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 105, words
    assert json.loads(found.read_text())["end"] == "stopped" and "Traceback" not in words


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Stop()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: stop.signal is not None, "the signal")
        assert stop.signal == signal.SIGTERM and not stop.is_urgent
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_hurries_and_a_double_one_does_not() -> None:
    """timeout(1) sends its signal to the process and to its group."""
    stop = Stop(same_seconds=3600)
    with stop.listening():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT and not stop.is_urgent
    hasty = Stop(same_seconds=0)
    with hasty.listening():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert hasty.is_urgent


def test_a_series_does_not_grow() -> None:
    """Hours of looks, four a second: never more points than POINTS_MOST, and nothing gets lost."""
    series, looks = Series(), 40_000
    for number in range(looks):
        buckets = np.array([number % 50, 100], dtype=np.uint16)
        series.add(
            Point(number / 4, (number + 1) / 4, number // (looks // 2), 1, 5, 0,
                  np.arange(9, dtype=np.int64), buckets, np.array([1, 2], dtype=np.uint32))
        )  # fmt: skip
        assert len(series.points) <= POINTS_MOST
    assert len(series.points) > POINTS_MOST // 3
    assert [int(sum(point.counts[at] for point in series.points)) for at in range(9)] == [
        looks * at for at in range(9)
    ]
    assert sum(int(point.filled.sum()) for point in series.points) == 3 * looks
    ends = [point.end for point in series.points]
    assert [point.begin for point in series.points] == [0.0, *ends[:-1]] and ends[-1] == looks / 4
