"""`gateway = N`: its bits on the wire, and a router that steers by them.

    host client -- eth0 ---- eth0 -- host router -- eth1 ---- eth0 -- host gateway 1
                                                  -- eth2 ---- eth0 -- host gateway 2

Both gateways have one private key and one address, 198.51.100.1. The router sends initiations to the gateway
of its choice, and all other messages where their index says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import WIREGUARD_GO, Engine, Lab, Peer, keypair
from tests.support.syncing import PLAIT
from tests.support.waiting import until

pytestmark = pytest.mark.network

PORT = 51820
ANYCAST = "198.51.100.1"
# As in docs/fleet.md; `chosen` stands where a hash of the source stands there.
RULES = """
table ip steering {{
  counter one {{ }}
  counter two {{ }}
  chain steer {{ type filter hook prerouting priority mangle;
    ip daddr {anycast} udp dport {port} jump by_index
    meta mark 1 counter name one
    meta mark 2 counter name two
  }}
  chain by_index {{
    @th,64,8 {{ 3, 4 }} meta mark set @th,96,8 & 15 map {{ 1 : 1, 2 : 2 }}
    @th,64,8 2 meta mark set @th,128,8 & 15 map {{ 1 : 1, 2 : 2 }}
    @th,64,8 1 meta mark set {chosen}
  }}
}}
"""


class Scene:
    """Two gateways behind one address."""

    def __init__(self, lab: Lab) -> None:
        self.client, self.router, *self.gateways = lab.add_hosts(["client", "router", "one", "two"])
        (self.private, self.public), (client_private, client_public) = keypair(), keypair()
        self.outer = outer = lab.link(self.client, self.router)
        self.client.ip(f"route add {ANYCAST} via {outer.address(self.router)}")
        no_filter = [f"net.ipv4.conf.{name}.rp_filter=0" for name in ("all", "default")]
        self.router.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", *no_filter])
        self.engines: list[Engine] = []
        for number, host in enumerate(self.gateways, 1):
            link = lab.link(self.router, host)
            self.router.ip(f"route add {ANYCAST} via {link.address(host)} table {number}",
                           f"rule add fwmark {number} table {number}")  # fmt: skip
            host.ip(f"address add {ANYCAST}/32 dev lo",
                    f"route add default via {link.address(self.router)} src {ANYCAST}")
            engine = host.engine(settings=f"gateway = {number}\n")
            engine.configure(self.private, [Peer(client_public, ["10.7.0.2/32"])], ["10.7.0.1/24"], PORT)
            self.engines.append(engine)
        self.choose(1)
        self.engine = self.client.engine("wg0", WIREGUARD_GO)
        peer = Peer(self.public, ["10.7.0.1/32"], f"{ANYCAST}:{PORT}")
        self.engine.configure(client_private, [peer], ["10.7.0.2/24"])

    def choose(self, number: int) -> None:
        """Where initiations go."""
        rules = RULES.format(anycast=ANYCAST, port=PORT, chosen=number)
        old = "table ip steering { }\ndelete table ip steering\n"
        self.router.run(["nft", "-f", "-"], text=old + rules)

    def steered(self) -> list[int]:
        """Datagrams to each gateway so far."""
        told = json.loads(self.router.run(["nft", "-j", "list", "counters"]).stdout)["nftables"]
        counters = {each["counter"]["name"]: each["counter"]["packets"] for each in told if "counter" in each}
        return [counters["one"], counters["two"]]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Lab() as lab:
        yield Scene(lab)


def test_an_engine_tells_its_number(scene: Scene) -> None:
    assert [engine.report()["gateway"] for engine in scene.engines] == [
        {"number": number, "bits": 4} for number in (1, 2)
    ]  # fmt: skip
    assert "gateway: 1 in 4 bits" in scene.gateways[0].run([*PLAIT, "show", "--engine", "wg0"]).stdout


def unknown(engine: Engine) -> int:
    return engine.counters()["drop_index_unknown"]


def test_each_message_finds_the_gateway_that_has_its_session(scene: Scene) -> None:
    assert scene.client.ping("10.7.0.1", 3).received == 3
    first, second = scene.steered()
    assert first >= 4 and second == 0
    scene.choose(2)  # of sessions to come: the one that there is stays where it is
    assert scene.client.ping("10.7.0.1", 3).received == 3
    assert scene.steered()[1] == 0
    # What a NAT or a roaming client does: another source port, and the hash would say another gateway.
    for port in (40001, 40002, 40003):
        scene.engine.uapi(f"set=1\nlisten_port={port}\n\n")
        assert scene.client.ping("10.7.0.1", 2).received == 2
    assert scene.steered()[1] == 0
    assert [unknown(engine) for engine in scene.engines] == [0, 0]
    assert scene.engines[1].counters()["udp_received"] == 0


def test_a_gateway_s_own_initiation_is_answered_to_it(scene: Scene) -> None:
    """A response names the gateway in its receiver index, at another place than data."""
    port = int(scene.engine.wg("show", "wg0", "listen-port"))
    peer = scene.engines[1].wg("show", "wg0", "peers").strip()
    endpoint = scene.outer.endpoint(scene.client, port)
    scene.engines[1].wg("set", "wg0", "peer", peer, "endpoint", endpoint)
    scene.choose(1)
    assert scene.gateways[1].ping("10.7.0.2", 1, wait=30).received == 1
    until(lambda: scene.steered()[1] >= 1, "the response came to the gateway that has begun")
    assert [unknown(engine) for engine in scene.engines] == [0, 0]
