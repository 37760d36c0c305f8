"""`plait show --engine` against a plaitd, and its report against the segment that it reads.

    host a   wg0 -- plaitd -- eth0 ---- eth0 -- plaitd -- wg0   host b
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Engine, Lab, Peer, keypair
from tests.support.waiting import until

pytestmark = pytest.mark.network

SETTINGS = (
    "receivers = 2\nconsumers = 1\nmax_consumers = 1\nmax_peers = 64\nsmall_slots = 128\ntrain_slots = 4\n"
)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Engine, Engine]]:
    """Two engines with a session."""
    with Lab() as lab:
        a, b = lab.add_hosts(["a", "b"])
        cable = lab.link(a, b)
        (private_a, public_a), (private_b, public_b) = keypair(), keypair()
        one = a.engine("wg0", settings=SETTINGS, wait=False)
        two = b.engine("wg0", settings=SETTINGS + 'priority = "normal"\n', wait=False)
        one.wait_ready(), two.wait_ready()
        two.configure(private_b, [Peer(public_a, ["10.7.0.1/32"])], ["10.7.0.2/24"], 5182)
        one.configure(private_a, [Peer(public_b, ["10.7.0.2/32"], cable.endpoint(b, 5182))], ["10.7.0.1/24"])
        assert a.ping("10.7.0.2", 20).received == 20
        yield one, two


def report(engine: Engine) -> dict[str, object]:
    """The report of an engine at rest: asked until its last packets are where they end."""

    def at_rest() -> dict[str, object] | None:
        told = json.loads(engine.host.run(["plait", "show", "--engine", "--json", "wg0"]).stdout)["wg0"]
        return None if told["queues"]["inbound"]["waiting"] or told["tokens"]["held"] else told

    return until(at_rest, "an engine at rest") or {}


def test_processes_are_those_that_run(pair: tuple[Engine, Engine]) -> None:
    told = report(pair[0])
    assert isinstance(told["processes"], list)
    roles = [(process["role"], process["number"]) for process in told["processes"]]
    assert roles == [("supervisor", 0), ("control", 0), ("receiver", 0), ("receiver", 1), ("consumer", 0)]
    pids = {int(pid) for pid in pair[0].host.run(["sh", "-c", "ls /proc"]).stdout.split() if pid.isdigit()}
    for process in told["processes"]:
        assert process["pid"] in pids
        assert process["state"] == "running" and process["incarnation"] == 1
        assert process["cpu_seconds"] >= 0 and process["pss_bytes"] > 1 << 20
        assert process["realtime"] == (process["role"] in ("receiver", "consumer"))
    told = report(pair[1])
    assert isinstance(told["processes"], list)
    assert [process["realtime"] for process in told["processes"]] == 5 * [False]


def test_every_datagram_is_counted_where_it_ended(pair: tuple[Engine, Engine]) -> None:
    """20 echoes: what a sent, b received, and the other way; nothing was dropped on the way."""
    counters = [report(engine)["counters"] for engine in pair]
    for here, there in (counters, counters[::-1]):
        assert isinstance(here, dict) and isinstance(there, dict)
        sent = ("udp_sent", "keepalive_sent", "hs_initiation_sent", "hs_response_sent")
        assert there["udp_received"] == sum(here[name] for name in sent)
        assert here["tun_sent"] >= 20
        assert here["drop_data_tag"] == here["drop_replay"] == here["drop_killed"] == here["lost_wakes"] == 0


def test_at_rest_queues_are_empty_and_every_slot_is_accounted_for(pair: tuple[Engine, Engine]) -> None:
    told = report(pair[0])
    assert told["peers"] == 1
    assert told["tokens"] == {"idle": 1, "queued": 0, "held": 0, "dead": 0}
    assert isinstance(told["pools"], list) and isinstance(told["queues"], dict)
    assert [queue["waiting"] for queue in told["queues"].values()] == [0, 0]
    assert [(pool["receiver"], pool["direction"]) for pool in told["pools"]] == [
        (0, "inbound"), (0, "outbound"), (1, "inbound"), (1, "outbound"),
    ]  # fmt: skip
    for pool in told["pools"]:
        assert (pool["small_slots"], pool["train_slots"]) == (128, 4)
        assert pool["home"] + pool["mine"] + pool["queued"] + pool["in_hand"] == pool["nodes"]
        assert pool["queued"] == pool["in_hand"] == 0


def test_packets_that_wait_for_a_session_are_in_the_tables(pair: tuple[Engine, Engine]) -> None:
    engine = pair[0]
    _, stranger = keypair()
    engine.wg("set", "wg0", "peer", stranger, "endpoint", "10.200.1.9:9", "allowed-ips", "10.7.0.9/32")
    engine.host.ip("route add 10.7.0.9/32 dev wg0")
    engine.host.ping("10.7.0.9", 7, wait=0.1)
    told = report(engine)
    assert told["peers"] == 2
    assert isinstance(told["queues"], dict) and isinstance(told["pools"], list)
    assert told["queues"]["outbound"] == {"waiting": 7, "peers": 1, "longest": 7}
    assert sum(pool["queued"] for pool in told["pools"]) == 7
    assert sum(pool["small_out"] + pool["train_out"] for pool in told["pools"]) >= 7
    table = engine.host.run(["plait", "show", "--engine"]).stdout
    _, second = keypair()
    engine.wg("set", "wg0", "peer", second, "endpoint", "10.200.1.9:9", "allowed-ips", "10.7.0.8/32")
    engine.host.ip("route add 10.7.0.8/32 dev wg0")
    engine.host.ping("10.7.0.8", 3, wait=0.1)
    engine.host.ping("10.7.0.9", 2, wait=0.1)
    queues = report(engine)["queues"]
    assert isinstance(queues, dict) and queues["outbound"] == {"waiting": 12, "peers": 2, "longest": 9}
    engine.wg("set", "wg0", "peer", stranger, "remove", "peer", second, "remove")
    for words in ("interface: wg0", "Processes", "Queues of 2 peers", "receiver 1", "tun_received"):
        assert words in table
    assert ["outbound", "7", "1", "7"] in [line.split() for line in table.splitlines()]
    assert ["sum", "820.5", "1,176.0"] in [line.split() for line in table.splitlines()]
    heads = {" ".join(line.split()) for line in table.replace("│", " ").replace("┃", " ").splitlines()}
    for head in (
        "process state pid core RT starts turn ms CPU s PSS MiB",
        "direction packets waiting of so many peers longest queue",
        "receiver small trains at receiver queued in work free",
        "part for an idle peer more with a session",
    ):
        assert head in heads, table
    assert "starts: 1 when it never had to be replaced." in " ".join(table.split())
    assert "…" not in table and max(map(len, table.splitlines())) <= 80
