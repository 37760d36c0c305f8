"""Twenty peers on one gateway at once.

    host peer1   wg0 10.0.0.101 ── eth0 ──┐
    host peer2   wg0 10.0.0.102 ── eth0 ──┤
     ...                                  ├── eth0 ... eth19  gateway  wg0 10.0.0.1
    host peer20  wg0 10.0.0.120 ── eth0 ──┘

The peers run wireguard-go. Even ones are reached over IPv6, and every third has a preshared key.
"""

from __future__ import annotations

import pytest

from plait.lab.namespaces import PLAIT, WIREGUARD_GO, Lab, Peer, keypair, preshared_key
from tests.support.tunnel import Transfer, check_words

pytestmark = pytest.mark.network

PEERS = 20
BYTES = 2_000_000
TWO_AND_TWO = "receivers = 2\nconsumers = 2\n"


def test_twenty_peers_at_once() -> None:
    with Lab() as lab:
        gateway, *hosts = lab.add_hosts(["gateway", *(f"peer{n}" for n in range(1, PEERS + 1))])
        secret, public = keypair()
        server = gateway.engine("wg0", PLAIT, settings=TWO_AND_TWO)
        peers = []
        for number, host in enumerate(hosts, 1):
            link = lab.link(gateway, host)
            own, own_public = keypair()
            shared = preshared_key() if number % 3 == 0 else None
            endpoint = link.endpoint(gateway, 51820, 6 if number % 2 == 0 else 4)
            host.engine("wg0", WIREGUARD_GO).configure(
                own, [Peer(public, ["10.0.0.1/32"], endpoint, shared)], [f"10.0.0.{100 + number}/32"])
            peers.append(Peer(own_public, [f"10.0.0.{100 + number}/32"], None, shared))
        server.configure(secret, peers, ["10.0.0.1/24"], 51820)
        up = [Transfer(host, gateway, "10.0.0.1", BYTES) for host in hosts]
        for transfer in up:
            transfer.finish()
        down = [Transfer(gateway, host, f"10.0.0.{100 + n}", BYTES) for n, host in enumerate(hosts, 1)]
        for transfer in down:
            transfer.finish()
        # Each byte went through the right peer: its inner packets, headers and tags included.
        for line in server.wg("show", "wg0", "transfer").splitlines():
            _, received, sent = line.split()
            assert BYTES < int(received) < 2 * BYTES
            assert BYTES < int(sent) < 2 * BYTES
        check_words(server.process)
