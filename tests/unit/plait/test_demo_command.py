"""`plait demo`: it measures, cleans up however it ends, and says what is wrong.

It makes its own hosts:   a  wg0 10.201.0.1 -- plaitd -- eth0 ---- eth0 -- plaitd -- wg0 10.201.0.2  b
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest

from plait import demo
from plait.failure import Failure
from plait.lab.namespaces import Host, Lab, state
from tests.support.traces import offspring, traces
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.network

DEMO = ("plait", "demo", "--seconds", "1")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A machine of its own to run the demo on, so that nobody else's traces are taken for its."""
    with Lab() as lab:
        yield lab.host("machine")


def test_it_runs_and_tells_everything(host: Host) -> None:
    before = traces(host)
    done = host.run([*DEMO, "--json"], check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert told["handshake_ms"] > 0
    assert [ping["path"] for ping in told["pings"]] == ["a -> b", "a -> b", "b -> a", "b -> a"]
    assert {":" in ping["address"] for ping in told["pings"]} == {True, False}
    for ping in told["pings"]:
        assert 0 < ping["min_ms"] <= ping["avg_ms"] and ping["min_ms"] <= ping["p99_ms"]
        assert ping["sent"] == ping["received"] == demo.PINGS
    assert [stream["path"] for stream in told["streams"]] == ["a -> b", "b -> a"]
    assert all(stream["bytes"] > 0 and stream["gbit_per_second"] > 0 for stream in told["streams"])
    assert [kill["name"].split()[0] for kill in told["kills"]] == ["receiver", "consumer", "control"]
    assert all(kill["handshakes"] == 0 and kill["pause_ms"] >= 0 for kill in told["kills"])
    for name in ("a", "b"):
        # Each stream's bytes came through the host that is its end, 1,380 or fewer a packet.
        assert told["counters"][name]["tun_sent"] > min(s["bytes"] for s in told["streams"]) / 1380 > 0
        roles = [process["name"].split()[2] for process in told["processes"] if process["host"] == name]
        assert {"supervisor", "control", "receiver", "consumer"} <= set(roles)
        assert told["show"][name].startswith("interface: wg0\n")
        assert "latest handshake" in told["show"][name] and "transfer" in told["show"][name]
    assert all(process["pss_bytes"] > 1 << 20 for process in told["processes"])
    assert "demo: the handshake" in done.stderr.splitlines()
    assert traces(host) == before


def test_the_table_in_a_file_is_plain_text(host: Host) -> None:
    done = host.run(DEMO, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\033" not in done.stdout + done.stderr
    for word in ("handshake", "ping 10.201.0.2", "Gbit/s", "udp_received", "PSS MiB", "host b: wg show wg0",
                 "new handshakes"):
        assert word in done.stdout


@pytest.mark.parametrize("step, number", [
    ("an engine in each", signal.SIGINT),
    ("an engine in each", signal.SIGTERM),
    ("an engine in each", signal.SIGHUP),
    ("an engine in each", signal.SIGKILL),
    ("ping a -> b (10.201.0.2)", signal.SIGINT),
    ("ping a -> b (10.201.0.2)", signal.SIGKILL),
])  # fmt: skip
def test_it_leaves_nothing_however_it_ends(host: Host, step: str, number: signal.Signals) -> None:
    before = traces(host)
    process = host.popen(DEMO)
    until(lambda: f"demo: {step}\n" in process.output(), step)
    until(lambda: len(offspring(process.pid)) >= 4, "its processes")
    made = offspring(process.pid)
    process.signal(number)
    assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in process.output()
    # Killed, it leaves that to its hosts' holders, which see their pipes close; else it is done at its end.
    seconds = PATIENCE if number == signal.SIGKILL else 0
    until(lambda: all(state(pid) in ("", "Z") for pid in made), "the end of what it made", seconds)
    until(lambda: traces(host) == before, "no trace", seconds)


def test_an_engine_that_cannot_answer_or_does_not_start_is_told() -> None:
    """wireguard-go carries the traffic, but cannot answer for the inside of plaitd."""
    with pytest.raises(Failure) as failure:
        demo.run(as_json=True, seconds=1, pings=3, command=("wireguard-go", "-f", "{iface}"))
    assert "wg0" in str(failure.value)
    with pytest.raises(Failure) as failure:
        demo.run(as_json=True, seconds=1, command=("false",))
    assert "did not start" in str(failure.value)


def test_what_is_wrong_makes_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(as_json=True, seconds=1, pings=3, foreign=("udp_sent",)) == 1
    assert re.search(r"plait: wrong: host a: \d+ x udp_sent", capsys.readouterr().err)
