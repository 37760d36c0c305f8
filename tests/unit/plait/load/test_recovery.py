"""A gateway that restarts while its peers talk: how long each was without an answer, against a capture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from plait.lab.namespaces import Lab
from plait.load import profile as load_profile
from plait.load.lab_run import FIRST_SOURCE, INTERFACE, PORT, SOURCES, configure
from tests.support.waiting import until
from tests.support.wire import inside
from tests.unit.plait.load.capture import Capture, quantile, recoveries

PEERS = 20
# The run ends as soon as all peers are back; 40 s are for a machine that is slow to start an engine.
PROFILE = f"""
peers = {PEERS}
silence = 2
retry = 1
sources = "{FIRST_SOURCE}+{PEERS}"
abort_on = ["steady:recovered>={PEERS}"]
[[phase]]
name = "storm"
handshakes = {{ outstanding = 8 }}
[[phase]]
name = "steady"
seconds = 40
traffic = {{ rate = 100 }}
"""


def test_silence_is_that_of_real_peers() -> None:
    """KEEPALIVE_TIMEOUT + REKEY_TIMEOUT, where a profile says nothing else."""
    storm = {"name": "storm", "handshakes": {"outstanding": 1}}
    assert load_profile.of_options({"phase": [storm]}).silence == 15


@pytest.mark.network
def test_recovery_from_a_restart_agrees_with_the_capture(tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text(PROFILE)
    with Lab() as lab:
        peers, gateway = lab.add_hosts(["load", "gateway"])
        cable = lab.link(peers, gateway)
        peers.ip(f"route add local {SOURCES} dev lo")
        gateway.ip(f"route add {SOURCES} via {cable.address(peers)}")
        target = cable.endpoint(gateway, PORT)
        command = [
            sys.executable, "-m", "plait", "load", "run", str(profile), "--target", target,
            "--i-own-this-target", cable.address(gateway), "--json", str(tmp_path / "run.json"),
        ]  # fmt: skip
        engine = gateway.engine(INTERFACE)
        configure(engine, load_profile.load(str(profile)))
        with Capture(cable.interface(peers), PORT, lambda make: inside(peers, make)) as capture:
            run = peers.popen(command)
            until(lambda: " s steady: " in run.output(), "the phase of echoes")
            engine.stop()
            engine = gateway.engine(INTERFACE)
            configure(engine, load_profile.load(str(profile)))
            code, words = run.wait(), run.output()
            seen = capture.read()
    found = json.loads((tmp_path / "run.json").read_text())
    steady = found["phases"][1]
    expected = recoveries(seen, steady["began"])
    metrics, counters = steady["metrics"], steady["counters"]
    assert code in (0, 99), words  # 99: ended by abort_on
    assert len(expected) == PEERS == metrics["recovered"] == counters["recoveries"], words
    assert metrics["unrecovered"] == 0 and metrics["sessions"] == PEERS
    # Nobody begins before the silence has lasted; what is measured ends with the same packet.
    assert min(expected.values()) >= 2
    assert steady["times"]["recovery"]["count"] == PEERS
    for name, share in (("p50", 0.5), ("p90", 0.9)):
        assert metrics[f"recovery_{name}"] == pytest.approx(quantile(expected.values(), share), abs=0.01)
    # The longest gap of all is a little shorter: it begins with the last peer's answer.
    assert metrics["longest_gap"] <= metrics["recovery_max"] + 0.01 and metrics["longest_gap"] >= 2
    assert metrics["gap_max"] == pytest.approx(metrics["recovery_max"], rel=0.01)
    assert metrics["wrong"] == 0
    recovered = found["series"][-1]["sessions"]
    assert recovered == PEERS and 0 < metrics["loss"] < 1
