"""Link-local endpoints mean nothing without the interface, so its number goes into each send."""

from __future__ import annotations

import json

import pytest

from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Lab
from tests.support.tunnel import Side, two_hosts
from tests.support.waiting import until

pytestmark = pytest.mark.network
PAIRS = {"plait-go": (PLAIT, WIREGUARD_GO), "plait-plait": (PLAIT, PLAIT)}


def link_local(side: Side) -> str:
    """Of eth0, once the kernel takes it for usable."""
    def usable() -> str:
        words = ["ip", "-json", "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative"]
        addresses = [info["local"] for link in json.loads(side.host.run(words).stdout)
                     for info in link.get("addr_info", []) if "local" in info]
        return addresses[0] if addresses else ""

    return until(usable, "a link-local address")


@pytest.mark.parametrize("pair", PAIRS)
def test_handshakes_and_packets_reach_a_link_local_endpoint(pair: str) -> None:
    """The initiator is told the endpoint, the responder learns it; both then send by it."""
    with Lab() as lab:
        tunnel = two_hosts(lab, *PAIRS[pair])
        initiator, responder = tunnel.sides
        for side in tunnel.sides:  # another link, which the kernel prefers where no number is given
            side.host.ip("link add other type veth peer name none", "link set other up", "link set none up",
                         "route add fe80::/64 dev other metric 1")
        there = f"[{link_local(responder)}%eth0]:51820"
        initiator.engine.wg("set", "wg0", "peer", responder.public_key, "endpoint", there)
        assert initiator.echo(responder.address4, 3) == 3
        assert initiator.get()["endpoint"] == there
        learned = {f"[{link_local(initiator)}%eth0]:51820"}
        if PAIRS[pair][1] is not PLAIT:  # some versions of wireguard-go do not say the zone
            learned.add(f"[{link_local(initiator)}]:51820")
        assert responder.get()["endpoint"] in learned
        assert responder.echo(initiator.address4, 3) == 3
        tunnel.check()
