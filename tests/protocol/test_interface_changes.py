"""The TUN interface under the engine: its MTU, and its end, also in another network namespace."""

from __future__ import annotations

import os
import subprocess

import pytest

from plait.lab.namespaces import PLAIT, Host, Lab, search_path
from tests.support.fake_peer import FakePeer, Network
from tests.support.tunnel import check_words, eventually, two_hosts

pytestmark = pytest.mark.network


@pytest.mark.parametrize("version", [4, 6])
def test_jumbo_mtu(version: int) -> None:
    """9,000 bytes inside, 9,100 outside: packets of every size up to the MTU, whole, both ways."""
    with Lab() as lab:
        tunnel = two_hosts(lab, PLAIT, PLAIT, version=version, mtu=9000, link_mtu=9100)
        one, two = tunnel.sides
        assert one.echo(two.address4) == 3
        for there, header in ((two.address4, 28), (two.address6, 48)):
            for size in (1420, 1421, 2048, 4096, 8999, 9000):
                assert one.host.ping(there, 3, size=size - header, whole=True).received == 3, size
        stream = one.host.iperf3(two.host, two.address4, 1)
        assert stream.bytes > 1 << 20
        tunnel.check()


def lengths(network: Network, peer: FakePeer, size: int) -> int:
    """On the wire, of a packet of so many bytes inside."""
    inner = network.inner_socket(peer.inner4)
    inner.send(bytes(size - 28))
    length = len(peer.hear(4).data)
    inner.close()
    return length


@pytest.mark.parametrize("place", ["at home", "in another namespace"])
def test_mtu_change_is_noticed_at_once(place: str) -> None:
    """Seen by the padding: 1 to 15 bytes up to a multiple of 16, but never past the MTU."""
    with Lab() as lab:
        network = Network(lab)
        host = network.plait
        if place == "in another namespace":
            host = move(lab, network)
        peer = FakePeer(network)
        peer.initiate()  # that it is up in its new place has been noticed
        home, network.plait = network.plait, host  # inner sockets are made where the interface is
        for mtu in (1401, 1420, 1403, 1409, 1405):
            host.ip(f"link set wg0 mtu {mtu}")
            expected = 32 + min(1408, mtu)
            eventually(lambda expected=expected: lengths(network, peer, 1400) == expected, 0.4)
        network.plait = home
        check_words(network.engine.process)


def move(lab: Lab, network: Network) -> Host:
    """The TUN interface moves to a host of its own; its addresses come with it."""
    other = lab.host("moved")
    subprocess.run(["nsenter", "-t", str(network.plait.pid), "-n", "ip", "link", "set", "wg0", "netns",
                    str(other.pid)], check=True, env={**os.environ, "PATH": search_path()})
    other.ip("link set wg0 mtu 1420 up", "address add 10.0.0.1/24 dev wg0",
             "address add fd01::1/64 dev wg0 nodad")
    return other


@pytest.mark.parametrize("place", ["at home", "in another namespace"])
def test_removal_of_the_tun_ends_the_engine(place: str) -> None:
    """Also after it moved; nothing is left, and the end is a clean one."""
    with Lab() as lab:
        network = Network(lab)
        peer = FakePeer(network)
        peer.initiate()
        host = move(lab, network) if place == "in another namespace" else network.plait
        host.ip("link delete wg0")
        assert network.engine.process.wait() == 0
        assert not network.engine.socket_path.exists()
        assert network.engine.processes() == []
        check_words(network.engine.process)


def test_deleting_the_socket_file_ends_the_engine(network: Network) -> None:
    """The last test with this network."""
    peer = FakePeer(network)
    peer.initiate()
    network.engine.socket_path.unlink()
    assert network.engine.process.wait() == 0
    assert "wg0" not in network.plait.run(["ip", "link"]).stdout
