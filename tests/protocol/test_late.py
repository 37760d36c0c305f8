"""Whatever comes last of what sending needs starts what waits: docs/reliability.md has the table.

Packets that wait for a key wait for ever where nothing starts them, and the first persistent keepalive
is 25 s away.
"""

from __future__ import annotations

import pytest

from tests.support.fake_peer import FakePeer, Network

pytestmark = pytest.mark.network

ALIVE = "persistent_keepalive_interval=25\n"


def key(network: Network, private: bytes) -> str:
    return f"private_key={private.hex()}\n"


def ask(network: Network, peer: FakePeer, more: str) -> None:
    network.set(f"public_key={peer.identity.public_key.hex()}\n{more}")


@pytest.mark.parametrize("what", ["a packet", "a keepalive"])
def test_the_key_comes_last(network: Network, what: str) -> None:
    network.set(key(network, bytes(32)))
    peer = FakePeer(network)
    if what == "a packet":
        network.inner_socket(peer.inner4).send(b"early")
    else:
        ask(network, peer, ALIVE)
    assert peer.hears_nothing()
    network.set(key(network, network.identity.private_key))
    peer.respond(peer.hear(1))
    assert peer.receive().kind == 4
    ask(network, peer, "persistent_keepalive_interval=0\n")


def test_the_endpoint_comes_last(network: Network) -> None:
    peer = FakePeer(network, endpoint=False)
    ask(network, peer, ALIVE)
    assert peer.hears_nothing()
    ask(network, peer, f"endpoint={peer.endpoint}\n")
    peer.respond(peer.hear(1))
    assert peer.receive().kind == 4
    # Moved with a session, nothing is due.
    ask(network, peer, f"endpoint={FakePeer(network).endpoint}\npersistent_keepalive_interval=0\n")


def test_the_peer_comes_last(network: Network) -> None:
    peer = FakePeer(network)
    ask(network, peer, "remove=true\n")
    ask(network, peer, f"endpoint={peer.endpoint}\n{ALIVE}")
    peer.respond(peer.hear(1))
    assert peer.receive().kind == 4
    ask(network, peer, "persistent_keepalive_interval=0\n")


def test_an_allowed_ip_comes_last(network: Network) -> None:
    peer = FakePeer(network)
    address = "10.0.0.200"
    inner = network.inner_socket(address)
    inner.send(b"dropped")
    assert peer.hears_nothing()
    ask(network, peer, f"allowed_ip={address}/32\n")
    inner.close()
    inner = network.inner_socket(address)
    inner.send(b"next")
    peer.respond(peer.hear(1))
    assert peer.hear(4).opened[28:32] == b"next"
    inner.close()


def test_the_route_comes_last(network: Network) -> None:
    """Outside; without an answer the initiation is sent again after 5 s, so that this cannot tell at once."""
    peer = FakePeer(network)
    subnet = "10.200.1.0/24"
    route = network.plait.run(["ip", "route", "show", subnet]).stdout.split()
    network.plait.ip(f"route delete {subnet}")
    network.inner_socket(peer.inner4).send(b"early")
    assert peer.hears_nothing()
    network.plait.ip(f"route add {' '.join(word for word in route if word != 'linkdown')}")
    peer.respond(peer.hear(1))
    assert peer.hear(4).opened[28:33] == b"early"


def test_up_comes_last(network: Network) -> None:
    """The last test with this network: its inner addresses of IPv6 go with down."""
    network.plait.ip("link set wg0 down")
    peer = FakePeer(network)
    ask(network, peer, ALIVE)
    assert peer.hears_nothing()
    network.plait.ip("link set wg0 up")
    peer.respond(peer.hear(1))
    assert peer.receive().kind == 4
