"""The knock: a gateway is killed, and its client is begun with by the one that is left.

    host client -- eth0 ---- eth0 -- host router -- eth1 ---- eth0 -- host one: plaitd, plait sync --knock
    wireguard-go     PostgreSQL or NATS          -- eth2 ---- eth0 -- host two: likewise

Both gateways have one private key and one address, and beat in one store. From the kill on, the router
sends all that comes to the second one, but no initiation of the client: what ends the gap is none of its own.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from plait.lab.namespaces import Engine, Host, Lab, Process
from tests.interop.knock_stores import STORES
from tests.interop.test_gateway_number import ANYCAST, PORT, Scene
from tests.support.syncing import LISTEN, PLAIT, SCRAPE
from tests.support.waiting import until

pytestmark = pytest.mark.network

KINDS = ("knocked", "handshake_complete", "endpoint_moved")
ALL_TO_THE_SECOND = f"""
table ip steering {{ }}
delete table ip steering
table ip steering {{
  chain steer {{ type filter hook prerouting priority mangle;
    ip daddr {ANYCAST} udp dport {PORT} @th,64,8 1 drop
    ip daddr {ANYCAST} udp dport {PORT} meta mark set 2
  }}
}}
"""


class Fleet(Scene):
    """The scene of test_gateway_number.py, with a store at the router."""

    def __init__(self, lab: Lab, kind: str) -> None:
        super().__init__(lab)
        self.routers = {host: self.router_of(host) for host in self.gateways}
        self.store = STORES[kind](self.router, list(self.routers.values()))

    @staticmethod
    def router_of(host: Host) -> str:
        """The router's address at a gateway: what goes there has the gateway's own address as its source."""
        (route,) = json.loads(host.run(["ip", "-j", "route", "show", "default"]).stdout)
        return str(route["gateway"])

    def sync(self, host: Host, *options: str, interface: str = "wg0") -> Process:
        """A sync that knocks, in one of the gateways."""
        url, told = self.store.url(self.routers[host]), self.store.credentials(host)
        return host.popen([*PLAIT, "sync", interface, url, "--knock", *options], environment=told)

    @contextmanager
    def syncing(self, host: Host, *options: str, interface: str = "wg0") -> Iterator[Process]:
        """One that follows, until the end of the test."""
        process = self.sync(host, *options, interface=interface)
        try:
            until(lambda: "follows" in process.output() or process.poll() is not None, "it follows")
            assert process.poll() is None, process.output()
            yield process
        finally:
            process.close()

    def metrics(self, host: Host) -> dict[str, float]:
        lines = host.run([sys.executable, "-c", SCRAPE]).stdout.splitlines()
        told = (line.partition("{")[::2] for line in lines if line.startswith("plait_sync"))
        return {name: float(rest.split()[-1]) for name, rest in told}


@pytest.fixture(scope="module", params=STORES)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with Lab() as lab:
        fleet = Fleet(lab, request.param)
        yield fleet
        fleet.store.close()


def events(engine: Engine) -> list[dict[str, Any]]:
    lines = engine.uapi("events=0\n\n").splitlines()
    return [json.loads(line.removeprefix("event=")) for line in lines if line.startswith("event=")]


def first(told: Sequence[dict[str, Any]], kind: str) -> int:
    """When an event of this kind was told first; its place among all."""
    return next(at for at, event in enumerate(told) if event["event"] == kind)


def test_what_lacks_is_said_in_one_sentence(fleet: Fleet) -> None:
    host = fleet.gateways[1]
    for url, environment, words in fleet.store.lacking(host, fleet.routers[host]):
        command = [*PLAIT, "sync", "wg0", url, "--knock", "--state", "/run/bare", "--fresh"]
        process = host.popen(command, environment=environment)
        assert process.wait() == 1
        assert all(each in process.output() for each in words), process.output()


def test_a_second_gateway_of_one_number_is_told_and_waits(fleet: Fleet) -> None:
    host = fleet.gateways[1]
    engine = host.engine("wg1", settings="gateway = 1\n")
    engine.configure(fleet.private, [], [], PORT + 1)
    with fleet.syncing(fleet.gateways[0]) as former:
        until(lambda: fleet.store.beating() == {1}, "gateway 1 beats")
        with fleet.syncing(host, "--listen", LISTEN, interface="wg1") as process:
            until(lambda: fleet.metrics(host)["plait_sync_number_taken"] == 1, "its number is taken")
            beats = fleet.metrics(host)["plait_sync_beats_total"]
            until(lambda: fleet.metrics(host)["plait_sync_beats_total"] > beats + 1, "it goes on")
            said = "gateway 1 is not told of: another gateway beats in"
            assert process.output().count(said) == 1 and process.poll() is None
            former.stop()
            fleet.store.free(1)
            until(lambda: fleet.metrics(host)["plait_sync_number_taken"] == 0, "the number is free")
            until(lambda: "gateway 1 is told of again" in process.output(), "it is said")
    engine.stop()


def test_the_client_of_a_killed_gateway_is_begun_with_when_it_knocks(fleet: Fleet) -> None:
    one, two = fleet.engines
    fleet.choose(1)
    assert fleet.client.ping("10.7.0.1", 1, wait=60).received == 1
    with fleet.syncing(fleet.gateways[0]) as former, fleet.syncing(fleet.gateways[1], "--listen", LISTEN):
        until(lambda: 1 in fleet.store.telling(), "its session is told")
        until(lambda: fleet.store.beating() >= {1, 2}, "both beat")
        unknown = one.counters()["drop_index_unknown"]
        fleet.client.run([sys.executable, "-c", FORGED])
        until(lambda: one.counters()["drop_index_unknown"] > unknown, "nobody is dead: they are dropped")
        assert not any(count for name, count in one.counters().items() if name.startswith("knock_"))
        before = two.counters()
        assert before["hs_initiation_sent"] == 0
        one.process.signal(signal.SIGKILL)
        former.signal(signal.SIGKILL)
        fleet.router.run(["nft", "-f", "-"], text=ALL_TO_THE_SECOND)
        pinging = fleet.client.popen(["ping", "-i", "0.2", "10.7.0.1"])
        until(lambda: two.counters()["hs_response_accepted"] >= 1, "the client answered an initiation")
        until(lambda: "time=" in pinging.output(), "the gap is over")
        pinging.stop(signal.SIGINT)
        counted = two.counters()
        assert counted["hs_initiation_accepted"] == before["hs_initiation_accepted"], "none of the client's"
        assert counted["knock_initiated"] >= 1 and counted["hs_response_accepted"] >= 1
        told = events(two)
        knocked, complete, moved = (first(told, kind) for kind in KINDS)
        # On a busy host it may have been taken for dead before it was.
        dead = [event for event in told[:knocked] if event["event"] == "gateway_dead"]
        assert dead and dead[-1]["reason"] == "1" and dead[-1]["count"] >= 1
        assert knocked < complete < moved
        assert told[knocked]["source"] == told[moved]["endpoint"]
        until(lambda: "dead gateway: 1 since" in show(fleet.gateways[1]), "it is shown")
        until(lambda: fleet.metrics(fleet.gateways[1])["plait_sync_dead_gateways"] == 1, "and told")
        endpoint = two.wg("show", "wg0", "endpoints")
        until(lambda: forged_add_up(fleet, two), "each forged message is counted, and no more comes of it")
        assert two.wg("show", "wg0", "endpoints") == endpoint
        engine = fleet.gateways[0].engine(settings="gateway = 1\n")
        engine.configure(fleet.private, [], ["10.7.0.1/24"], PORT)
        with fleet.syncing(fleet.gateways[0]):
            until(lambda: not two.report()["dead_gateways"], "the first gateway is back")
    assert "gateway_back" in [event["event"] for event in events(two)]


def show(host: Host) -> str:
    return host.run([*PLAIT, "show", "--engine", "wg0"]).stdout


FORGED = f"""
import os, socket, struct, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(({ANYCAST!r}, {PORT}))
for i in range(1000):
    index = int.from_bytes(os.urandom(4), "little") & ~15 | 1
    sock.send(struct.pack("<IIQ", 4, index, i) + bytes(16))
"""


def forged_add_up(fleet: Fleet, engine: Engine) -> bool:
    """Messages with the dead gateway's number, and indices that no session had. False when the engine did not
    take the gateway for dead meanwhile, as on a host where a sync has to wait for seconds."""
    before = engine.counters()
    fleet.client.run([sys.executable, "-c", FORGED])

    def gained() -> dict[str, int]:
        after = engine.counters()
        return {name: after[name] - before[name] for name in after}

    until(lambda: gained()["drop_index_unknown"] > 0, "some have come")
    told = gained()
    assert told["knock_initiated"] == 0
    knocks = sum(count for name, count in told.items() if name.startswith("knock_"))
    return told["knock_unknown"] > 0 and knocks == told["drop_index_unknown"]
