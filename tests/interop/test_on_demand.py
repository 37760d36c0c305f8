"""Peers on demand: a client that the gateway does not know, and a provider that knows it.

    host gateway   wg0 -- plaitd -- eth0 ---- eth0 -- wireguard-go -- wg0   host client
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine import noise
from plait.lab.namespaces import WIREGUARD_GO, Engine, Lab, Peer, keypair
from shm.marks import marked
from tests.support.fake_peer import FakePeer, Network
from tests.support.waiting import until

pytestmark = pytest.mark.network

PORT = 51820

# Takes 50 ms for each question, then sets the peer as the file of its key says, or refuses.
PROVIDER = r"""
import base64, json, os, socket, sys, time
def connected():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect("/run/wireguard/wg0.sock")
    return sock
asked, setting = connected(), connected()
asked.sendall(b"unknown_peers=1\nwindow=256\n\n")
for line in asked.makefile("r"):
    key, _, value = line.partition("=")
    print(line, end="", flush=True)
    if key == "evicted":
        asked.sendall(b"done=%d\n" % json.loads(value)["id"])
    if key != "unknown_peer":
        continue
    question = json.loads(value)
    time.sleep(0.05)
    path = "/run/known/" + base64.b64decode(question["public_key"]).hex()
    if os.path.exists(path):
        setting.sendall(b"set=1\n" + open(path, "rb").read() + b"\n")
        assert setting.recv(100) == b"errno=0\n\n"
        asked.sendall(b"done=%d\n" % question["id"])
    else:
        asked.sendall(b"refuse=%d\nttl=30\n\n" % question["id"])
"""


class Gateway:
    """An engine without peers, a provider beside it, and clients of Debian's wireguard-go."""

    def __init__(self, lab: Lab) -> None:
        self.host, self.client = lab.add_hosts(["gateway", "client"])
        self.link = lab.link(self.host, self.client)
        (self.private, self.public), self.engine = keypair(), self.host.engine()
        self.engine.configure(self.private, [], ["10.7.0.1/16"], PORT)
        (self.host.root / "run/known").mkdir()
        self.numbers = iter(range(2, 200))

    def know(self, public: str, lines: str) -> None:
        key = b64decode(public).hex()
        (self.host.root / "run/known" / key).write_text(f"public_key={key}\n{lines}")

    @contextmanager
    def client_engine(self) -> Iterator[tuple[Engine, str, str]]:
        """A client whom the gateway does not know: its engine, public key, and inner address."""
        number = next(self.numbers)
        (private, public), address = keypair(), f"10.7.0.{number}"
        engine = self.client.engine(f"c{number}", WIREGUARD_GO)
        peer = Peer(self.public, ["10.7.0.1/32"], self.link.endpoint(self.host, PORT))
        engine.configure(private, [peer], [f"{address}/32"])
        try:
            yield engine, public, address
        finally:
            engine.stop()

    def counters(self) -> dict[str, int]:
        return self.engine.counters()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Lab() as lab:
        yield Gateway(lab)


@contextmanager
def grown(gateway: Gateway) -> Iterator[dict[str, int]]:
    """How much each counter grows within; those that did not are left out."""
    before, found = gateway.counters(), dict[str, int]()
    yield found
    after = gateway.counters()
    found.update({name: after[name] - before[name] for name in after if after[name] != before[name]})


@contextmanager
def provider(gateway: Gateway, script: str = PROVIDER) -> Iterator[None]:
    process = gateway.host.popen([sys.executable, "-c", script])
    try:
        until(lambda: "serving=1" in process.output(), "the provider serves")
        yield
    finally:
        process.close()
        until(lambda: gateway.engine.report()["on_demand"]["providers"] == 0, "the provider is gone")


def test_the_first_ping_of_an_unknown_client_is_answered_from_its_first_initiation(gateway: Gateway) -> None:
    with provider(gateway), gateway.client_engine() as (_, public, address):
        gateway.know(public, f"allowed_ip={address}/32\n")
        with grown(gateway) as counted:
            assert gateway.client.ping("10.7.0.1", 1).received == 1
        # One handshake message came in all, so that the answer was to the first initiation and to no retry.
        assert counted["handshake_to_control"] == counted["hs_initiation_accepted"] == 1
        assert counted["unknown_asked"] == counted["unknown_answered"] == counted["hs_response_sent"] == 1
        assert not counted.get("hs_unknown_peer") and gateway.engine.report()["on_demand"]["parked"] == 0


def test_a_client_that_the_provider_refuses_gets_no_answer_and_is_not_asked_about_again(
    gateway: Gateway,
) -> None:
    with provider(gateway), gateway.client_engine() as (_, _, _):
        with grown(gateway) as counted:
            gateway.client.ping("10.7.0.1", 1, wait=0.1)
            until(lambda: gateway.counters()["unknown_refused"], "the provider refuses it")
        assert counted["hs_unknown_peer"] == counted["unknown_asked"] == counted["unknown_refused"] == 1
        with grown(gateway) as counted:
            until(lambda: gateway.counters()["unknown_cached"], "the client tries again")
        assert "unknown_asked" not in counted and counted["hs_unknown_peer"] == counted["unknown_cached"] == 1


def test_a_control_that_is_killed_with_a_parked_initiation_is_followed_by_one_that_answers(
    gateway: Gateway,
) -> None:
    """The parked one, or on a machine that takes 5 s for all this the client's next; each has one end."""
    silent = PROVIDER.replace("time.sleep(0.05)", "continue")
    process = gateway.host.popen([sys.executable, "-c", silent])
    until(lambda: "serving=1" in process.output(), "the provider serves")
    with gateway.client_engine() as (_, public, address), grown(gateway) as counted:
        gateway.client.ping("10.7.0.1", 1, wait=0.1)
        until(lambda: gateway.engine.report()["on_demand"]["parked"], "an initiation is parked")
        os.kill(gateway.host.titles()["control"], signal.SIGKILL)
        until(lambda: process.poll() is not None, "the provider's connection ended")
        gateway.know(public, f"allowed_ip={address}/32\n")
        with provider(gateway):
            assert gateway.client.ping("10.7.0.1", 1, wait=60).received == 1
    assert counted["unknown_answered"] == 1 and counted["unknown_asked"] >= 2
    assert counted["handshake_to_control"] == sum(counted.get(name, 0) for name in marked("end message"))


def test_an_idle_peer_is_evicted_with_its_totals_and_comes_back_and_a_recorded_initiation_does_not() -> None:
    with Lab() as lab:
        network = Network(lab)
        peer = FakePeer(network)
        key = peer.identity.public_key.hex()
        network.set(f"public_key={key}\nremove=true\n")
        known = network.plait.root / "run/known"
        known.mkdir()
        lines = f"on_demand=1\nidle_after=5\nallowed_ip={peer.inner4}/32\n"
        (known / key).write_text(f"public_key={key}\n{lines}")
        process = network.plait.popen([sys.executable, "-c", PROVIDER])
        until(lambda: "serving=1" in process.output(), "the provider serves")

        recorded, state = peer.initiation()
        peer.send_raw(recorded)
        peer.session = noise.consume_response(peer.identity, state, peer.hear(2).data, noise.NO_PSK)
        peer.counter = itertools.count()
        peer.send(peer.packet(b"x" * 1000))
        until(lambda: network.peer(peer)["last_handshake_time_sec"] != "0", "the session is used")
        network.step(11)
        assert peer.receive().kind == 4, "what we owe it: a keepalive"
        shown = network.peer(peer)
        network.step(190)
        until(lambda: "evicted=" in process.output(), "the provider is told")
        told = next(line for line in process.output().splitlines() if line.startswith("evicted="))
        evicted = json.loads(told.removeprefix("evicted="))
        assert (str(evicted["rx"]), str(evicted["tx"])) == (shown["rx_bytes"], shown["tx_bytes"])
        until(lambda: network.count("peers_evicted") == 1, "it is taken away")
        assert key not in network.engine.uapi("get=1\n\n")

        before = network.count("hs_timestamp_replayed")
        peer.send_raw(recorded)
        until(lambda: network.count("hs_timestamp_replayed") == before + 1, "the replay is refused")
        assert peer.hears_nothing() and network.peer(peer)["on_demand"] == "1"
        peer.initiate()
        assert network.peer(peer)["rx_bytes"] != "0"
