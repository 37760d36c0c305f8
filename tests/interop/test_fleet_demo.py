"""`plait fleet demo` on a machine of its own, so that nobody else's traces are taken for its.

The demo makes six hosts, three engines, a database and four BIRDs: this is the only test in which steering,
`plait sync`, `plait routes` and a router's BIRD stand together.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Host, Lab, search_path
from plait.lab.postgresql import programs
from tests.support.needed import needed
from tests.support.traces import offspring, traces
from tests.support.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.long]

DEMO = ("plait", "fleet", "demo", "--clients", "6")
LONGEST = 280.0


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    for program, package in (("bird", "bird2"), ("nft", "nftables"), ("nats-server", "nats-server")):
        needed(package, is_there=shutil.which(program, path=search_path()) is not None)
    needed("postgresql", is_there=programs() is not None)
    with Lab() as lab:
        yield lab.host("machine")


def test_the_clients_of_a_killed_gateway_come_to_the_others(host: Host) -> None:
    before = traces(host)
    done = host.run([*DEMO, "--json", "--svg", "/run/timeline.svg"], check=False, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    drawn = host.root / "run/timeline.svg"
    assert "kill -9 of gateway" in drawn.read_text()
    drawn.unlink()
    assert traces(host) == before
    told = json.loads(done.stdout)
    assert told["wrong"] == [] and told["clients"] == 6
    (killed,) = [each for each in told["gateways"] if each["is_killed"]]
    others = [each for each in told["gateways"] if not each["is_killed"]]
    theirs = killed["clients_before"]
    assert killed["number"] == told["killed"] and theirs >= 2
    assert sum(each["clients_before"] for each in told["gateways"]) == 6
    assert sum(each["handshakes_before"] for each in told["gateways"]) >= 6
    assert told["moved"] == theirs
    assert sum(each["clients_after"] for each in others) == 6
    assert sum(each["handshakes_after"] for each in others) >= theirs
    assert [told[what]["count"] for what in ("withdrawn", "rerouted")] == [theirs, theirs]
    assert told["renewals"]["count"] >= theirs and told["gaps"]["count"] == 6
    assert told["handshakes"] >= 6 + theirs
    assert told["changes"] > 0 and told["sync_lag"]["count"] >= 2 * told["changes"]
    line = told["timeline"]
    assert line["echoes"] and line["lags"]
    assert sum(line["clients"][-1]["gateways"].values()) == 6
    assert line["clients"][-1]["gateways"][str(killed["number"])] == 0


def test_it_leaves_nothing_when_it_is_interrupted(host: Host) -> None:
    before = traces(host)
    process = host.popen([*DEMO, "--store", "nats"])
    step = "fleet demo: the clients connect\n"
    until(lambda: step in process.output() or process.poll() is not None, "they connect", LONGEST)
    assert process.poll() is None, process.output()
    made = offspring(process.pid)
    process.signal(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    assert "Traceback" not in process.output()
    assert len(made) > 6 and traces(host) == before


def test_what_is_missing_is_told_before_anything_is_built(host: Host) -> None:
    bird = shutil.which("bird", path=search_path())
    assert bird is not None
    host.run(["mount", "--bind", "/dev/null", bird])
    try:
        done = host.run(DEMO, check=False)
    finally:
        host.run(["umount", bird])
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("plait: the fleet demo cannot start: no bird: ") and "apt install bird2" in line
