"""A peer that used its quota: nothing passes, whatever dies, until it has more.

    host gateway   wg0 10.8.0.1 -- plaitd -- eth0 ---- eth0 -- wireguard-go -- wg0 10.8.0.2   host client
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plait.lab.namespaces import WIREGUARD_GO, Lab, Peer, keypair
from tests.support.waiting import until

pytestmark = pytest.mark.network

PORT = 51820
PAGE = Path(__file__).parents[2] / "docs" / "quotas.md"
QUOTA = 400_000
# Sends datagrams into the tunnel until it is ended.
SENDER = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    sock.sendto(bytes(1000), ("10.8.0.1", 9))
    time.sleep(0.001)
"""
# Sends 6 MB of datagrams as fast as it can.
BURST = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20000):
    sock.sendto(bytes(1200), (sys.argv[1], 9))
"""
# Counts the bytes that come to its port, until it is ended.
SINK = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
sock.bind(("0.0.0.0", 9))
print("ready", flush=True)
count = 0
while True:
    count += len(sock.recv(2048))
    print(count, flush=True)
"""


class Gateway:
    """An engine with one peer, whose engine a test starts and ends."""

    def __init__(self, lab: Lab) -> None:
        self.host, self.client = lab.add_hosts(["gateway", "client"])
        self.link = lab.link(self.host, self.client)
        (self.private, self.public), (self.others, self.peer) = keypair(), keypair()
        self.engine = self.host.engine()
        peers = [Peer(self.peer, ["10.8.0.2/32"])]
        self.engine.configure(self.private, peers, ["10.8.0.1/24"], PORT)
        self.numbers = iter(range(100))

    @contextmanager
    def client_engine(self) -> Iterator[None]:
        """The peer comes anew: its first packet begins a handshake."""
        engine = self.client.engine(f"c{next(self.numbers)}", WIREGUARD_GO)
        peer = Peer(self.public, ["10.8.0.1/32"], self.link.endpoint(self.host, PORT))
        engine.configure(self.others, [peer], ["10.8.0.2/32"])
        try:
            yield
        finally:
            engine.stop()

    def set(self, lines: str) -> None:
        key = b64decode(self.peer).hex()
        assert self.engine.uapi(f"set=1\npublic_key={key}\nupdate_only=true\n{lines}\n") == "errno=0\n\n"

    def get(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.engine.uapi("get=1\n\n").splitlines() if line)

    def used(self) -> int:
        told = self.get()
        return int(told["rx_bytes"]) + int(told["tx_bytes"])

    def refuses(self) -> None:
        """The peer comes anew, and its initiation is refused; nothing reaches it from inside either."""
        before, used = self.engine.counters()["hs_ran_out"], self.used()
        with self.client_engine():
            self.client.run(["ping", "-c1", "-W0.3", "10.8.0.1"], check=False)
            until(lambda: self.engine.counters()["hs_ran_out"] > before, "its initiation is refused")
            self.host.run(["ping", "-c1", "-W0.3", "10.8.0.2"], check=False)
            assert self.used() == used and self.get()["plait_ran_out"] == "quota"

    def told(self, event: str) -> int:
        """How often the engine says that this happened to the peer."""
        lines = self.engine.uapi("events=0\n\n").splitlines()
        told = [json.loads(line.removeprefix("event=")) for line in lines if line.startswith("event=")]
        return sum(each["event"] == event and each.get("peer") == self.peer for each in told)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Lab() as lab:
        yield Gateway(lab)


def test_a_peer_that_used_its_quota_stays_out_whatever_dies_until_it_has_more(gateway: Gateway) -> None:
    with gateway.client_engine():
        assert gateway.client.ping("10.8.0.1", 1).received == 1
        quota = gateway.used() + QUOTA
        gateway.set(f"plait_quota={quota}\n")
        assert gateway.client.ping("10.8.0.1", 1).received == 1
        sender = gateway.client.popen([sys.executable, "-c", SENDER])
        try:
            until(lambda: "plait_ran_out" in gateway.get(), "it is cut off")
            assert gateway.get()["plait_ran_out"] == "quota" and gateway.used() >= quota
            until(lambda: gateway.engine.counters()["drop_index_unknown"] > 50, "what it sends is dropped")
            used = gateway.used()
            dropped = gateway.engine.counters()["drop_index_unknown"]
            until(lambda: gateway.engine.counters()["drop_index_unknown"] > dropped + 50, "all of it")
            assert gateway.used() == used
        finally:
            sender.close()
    assert gateway.told("peer_ran_out") == 1
    gateway.refuses()
    for kind in "control", "consumer 0", "receiver 0":
        pid = gateway.host.titles()[kind]
        os.kill(pid, signal.SIGKILL)
        until(lambda kind=kind, pid=pid: gateway.host.titles().get(kind, pid) != pid, f"another {kind}")
        gateway.refuses()
    before = gateway.host.titles()
    gateway.engine.process.signal(signal.SIGUSR2)
    until(lambda: not set(gateway.host.titles().values()) & (set(before.values()) - {before["supervisor"]}),
          "every worker is another")  # fmt: skip
    gateway.refuses()
    gateway.set(f"plait_quota={gateway.used() + QUOTA}\n")
    with gateway.client_engine():
        assert gateway.client.ping("10.8.0.1", 1).received == 1
        assert gateway.host.ping("10.8.0.2", 1).received == 1
    assert "plait_ran_out" not in gateway.get()


def test_a_peer_whose_time_is_over_is_cut_off_under_its_packets(gateway: Gateway) -> None:
    gateway.set("plait_quota=0\nplait_expires=4102444800\n")
    with gateway.client_engine():
        assert gateway.client.ping("10.8.0.1", 1).received == 1
        gateway.set("plait_expires=1700000000\n")
        until(lambda: gateway.get().get("plait_ran_out") == "expired", "it is cut off")
        assert gateway.client.run(["ping", "-c1", "-W0.3", "10.8.0.1"], check=False).returncode == 1
    gateway.set("plait_expires=0\n")


@pytest.mark.parametrize("way", ["to", "from"])
def test_the_recipes_for_rates_hold_a_peer_to_them(gateway: Gateway, way: str) -> None:
    """Of a burst of 24 MB no more passes than the rate allows in the time that it took, and a queue."""
    source, sink = (gateway.host, gateway.client) if way == "to" else (gateway.client, gateway.host)
    address = "10.8.0.2" if way == "to" else "10.8.0.1"
    (block,) = re.findall(rf"^```{way}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    with gateway.client_engine():
        assert gateway.client.ping("10.8.0.1", 1).received == 1
        for line in block.replace("10.0.0.2", "10.8.0.2").splitlines():
            gateway.host.run(shlex.split(line))
        receiver = sink.popen([sys.executable, "-c", SINK])
        try:
            until(lambda: "ready" in receiver.output(), "it listens")
            began = time.monotonic()
            source.run([sys.executable, "-c", BURST, address])
            until(lambda: receiver.output().count("\n") > 20, "some of it passes")
            passed = int(receiver.output().split()[-1])
            # A queue of htb holds 1,000 packets at most. A bucket of nft begins full: what a second brings,
            # and the burst.
            full = 1000 * 1200 if way == "to" else (2500 + 256) * 1024
            assert passed <= 2500 * 1024 * (time.monotonic() - began) + full
        finally:
            receiver.close()
        shown = gateway.host.run(["tc", "-s", "class", "show", "dev", "wg0"]).stdout
        if way == "to":
            assert max(map(int, re.findall(r"overlimits (\d+)", shown))) > 0, shown
            gateway.host.run(["tc", "qdisc", "del", "dev", "wg0", "root"])
        else:
            gateway.host.run(["nft", "delete", "table", "inet", "rates"])
