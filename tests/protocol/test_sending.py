"""Section 5 of the checklist, sending data, as another peer sees it on the wire."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address

import pytest

from tests.support.fake_peer import PORT, FakePeer, Network
from tests.support.tunnel import eventually
from tests.support.waiting import PATIENCE
from tests.support.wire import Wire

pytestmark = pytest.mark.network

NO_ECN_ECT1_ECT0_CE = range(4)
AF41 = 0x88


@pytest.mark.parametrize("version", [4, 6])
def test_padding_to_16_capped_at_the_mtu(network: Network, version: int) -> None:
    peer = FakePeer(network, version)
    peer.initiate()
    inner = network.inner_socket(peer.inner4)
    for size in (*range(28, 50), 100, *range(1390, 1421)):  # IP and UDP headers included
        inner.send(bytes(size - 28))
        message = peer.hear(4)
        padded = min(-(-size // 16) * 16, 1420)
        assert len(message.data) == 32 + padded, size
        assert message.opened[2:4] == size.to_bytes(2, "big")
        assert message.opened[size:] == bytes(padded - size)
    inner.close()


@pytest.mark.parametrize(("version", "overhead"), [(4, 60), (6, 80)])
def test_overhead_is_60_bytes_on_ipv4_and_80_on_ipv6(network: Network, version: int, overhead: int) -> None:
    peer = FakePeer(network, version)
    peer.initiate()
    inner = network.inner_socket(peer.inner4)
    with Wire(network.beyond, "eth0") as wire:
        inner.send(bytes(1420 - 28))  # no padding: the packet has the length of the MTU
        packet = wire.next(lambda packet: packet.version == version and packet.payload[:4] == b"\4\0\0\0")
    assert len(packet.data) == 1420 + overhead
    inner.close()


@pytest.mark.parametrize("inner_version", [4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_outer_dscp_is_0_and_inner_ecn_is_copied_out(network: Network, version: int,
                                                     inner_version: int) -> None:
    peer = FakePeer(network, version)
    peer.initiate()
    for dscp in (0, 10, 46, 63):
        for ecn in NO_ECN_ECT1_ECT0_CE:
            target = peer.inner6 if inner_version == 6 else peer.inner4
            inner = network.inner_socket(target, dscp << 2 | ecn)
            inner.send(b"x")
            message = peer.hear(4)
            first = int.from_bytes(message.opened[:2], "big")
            assert (first >> 4 if inner_version == 6 else first) & 0xFF == dscp << 2 | ecn
            assert message.tos == ecn
            inner.close()


@pytest.mark.parametrize("version", [4, 6])
def test_handshakes_carry_dscp_af41(network: Network, version: int) -> None:
    peer = FakePeer(network, version)
    assert peer.initiate().tos == AF41
    other = FakePeer(network, version)
    inner = network.inner_socket(other.inner4)
    inner.send(b"x")
    assert other.hear(1).tos == AF41
    inner.close()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("lack", ["peer", "endpoint"])
def test_no_peer_or_no_endpoint_is_icmp_unreachable(network: Network, version: int, lack: str) -> None:
    """The sender inside hears it at once: host unreachable, address unreachable on IPv6."""
    if lack == "endpoint":
        peer = FakePeer(network, endpoint=False)
        target = peer.inner6 if version == 6 else peer.inner4
    else:
        target = "fd01::dead" if version == 6 else "10.0.0.254"
    counter = f"drop_no_{lack}"
    before = network.counters()
    inner = network.inner_socket(target)
    inner.send(b"x")
    inner.settimeout(PATIENCE)
    with pytest.raises(OSError) as caught:
        inner.recv(1)
    assert caught.value.errno == errno.EHOSTUNREACH
    _, controls, _, _ = inner.recvmsg(100, 512, socket.MSG_ERRQUEUE)
    # struct sock_extended_err: errno, origin (2 = ICMP, 3 = ICMPv6), type, code
    assert struct.unpack_from("=IBBB", controls[-1][2]) == (
        (errno.EHOSTUNREACH, 3, 1, 3) if version == 6 else (errno.EHOSTUNREACH, 2, 3, 1))
    offender = controls[-1][2][16:]  # sockaddr_in or sockaddr_in6
    address = offender[8:24] if version == 6 else offender[4:8]
    assert ip_address(address) == ip_address(target)
    inner.close()
    eventually(lambda: network.count("icmp_sent") == before["icmp_sent"] + 1)
    assert network.count(counter) == before[counter] + 1


def test_the_newest_128_packets_wait_for_a_session(network: Network) -> None:
    peer = FakePeer(network)
    inner = network.inner_socket(peer.inner4)
    before = network.count("drop_staged")
    for number in range(200):
        inner.send(struct.pack("!I", number))
    initiation = peer.hear(1)
    eventually(lambda: network.count("drop_staged") == before + 72)
    peer.respond(initiation)
    assert [struct.unpack_from("!I", peer.hear(4).opened, 28)[0] for _ in range(128)] == [*range(72, 200)]
    assert peer.hears_nothing()
    inner.close()


def second_address(network: Network, version: int) -> str:
    """Another address of the engine's host, there from now on."""
    made = "fd00:200:1::99" if version == 6 else "10.200.1.99"
    network.plait.ip(f"address replace {made}/{64 if version == 6 else 24} dev eth0"
                   + (" nodad" if version == 6 else ""))
    return made


@pytest.mark.parametrize("version", [4, 6])
def test_sticky_source_is_used_for_replies_and_dropped_when_refused(network: Network, version: int) -> None:
    """A host with two addresses answers from the one that was asked, data and handshakes."""
    peer = FakePeer(network, version)
    first, second = peer.engine[0], second_address(network, version)
    inner = network.inner_socket(peer.inner4)
    peer.engine = (second, PORT)
    assert peer.initiate().source == (second, PORT)
    inner.send(b"x")
    assert peer.hear(4).source == (second, PORT)
    peer.engine = (first, PORT)
    peer.send(b"")
    eventually(lambda: network.peer(peer)["rx_bytes"] == str(148 + 2 * 32))
    inner.send(b"x")
    assert peer.hear(4).source == (first, PORT)
    peer.engine = (second, PORT)
    peer.send(b"")
    eventually(lambda: network.peer(peer)["rx_bytes"] == str(148 + 3 * 32))
    network.plait.ip(f"address del {second}/{64 if version == 6 else 24} dev eth0")
    inner.send(b"x")
    assert peer.hear(4).source == (first, PORT)
    inner.close()


def test_sticky_source_is_dropped_on_retries(network: Network) -> None:
    peer = FakePeer(network)
    first, second = peer.engine[0], second_address(network, 4)
    peer.engine = (second, PORT)
    peer.initiate()
    network.step(181)  # the session is over, what we know of the peer is not
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    assert peer.hear(1).source == (second, PORT)
    network.step(5.4)
    assert peer.hear(1).source == (first, PORT)
    inner.close()


def test_sticky_source_is_dropped_by_the_new_handshake(network: Network) -> None:
    """Data that nobody answers for 15 s: the address may be the reason."""
    peer = FakePeer(network)
    first, second = peer.engine[0], second_address(network, 4)
    peer.engine = (second, PORT)
    peer.initiate()
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    assert peer.hear(4).source == (second, PORT)
    network.step(15.4)
    assert peer.hear(1).source == (first, PORT)
    inner.close()


@pytest.mark.parametrize("change", ["fwmark=9", "listen_port=41234"])
def test_port_or_fwmark_change_clears_all_sticky_sources(network: Network, change: str) -> None:
    peer = FakePeer(network)
    first, second = peer.engine[0], second_address(network, 4)
    peer.engine = (second, PORT)
    peer.initiate()
    inner = network.inner_socket(peer.inner4)
    inner.send(b"x")
    assert peer.hear(4).source[0] == second
    network.set(change + "\n")
    inner.send(b"x")
    assert peer.hear(4).source[0] == first
    network.set(f"fwmark=0\nlisten_port={PORT}\n")
    inner.close()


def test_fwmark_at_any_time(network: Network) -> None:
    """Marked packets have no route here: neither data nor handshakes leave while the mark is set."""
    network.plait.ip("rule add fwmark 0x77 table 77", "route add unreachable default table 77")
    peer, other = FakePeer(network), FakePeer(network)
    peer.initiate()
    inner, inner_other = network.inner_socket(peer.inner4), network.inner_socket(other.inner4)
    network.set("fwmark=119\n")
    before = network.counters()
    inner.send(b"x")
    inner_other.send(b"x")
    eventually(lambda: network.count("drop_udp_send") > before["drop_udp_send"])
    eventually(lambda: network.count("hs_send_failed") > before["hs_send_failed"])
    assert peer.hears_nothing() and other.hears_nothing(0.01)
    network.set("listen_port=41235\n")  # new sockets are marked as well
    inner.send(b"x")
    eventually(lambda: network.count("drop_udp_send") > before["drop_udp_send"] + 1)
    assert peer.hears_nothing()
    network.set(f"fwmark=0\nlisten_port={PORT}\n")
    inner.send(b"y")
    assert peer.hear(4).opened[28:29] == b"y"
    inner.close()
    inner_other.close()


def test_listen_port_changes_while_traffic_flows(network: Network) -> None:
    """Nothing that is sent meanwhile is lost or out of order, and soon all leaves from the new port."""
    peer = FakePeer(network)
    peer.initiate()
    inner = network.inner_socket(peer.inner4)
    count = 0

    def flow(packets: int) -> None:
        nonlocal count
        for _ in range(packets):
            inner.send(struct.pack("!I", count))
            count += 1

    def hear(packets: int) -> list[int]:
        """Ports that the next packets came from; their numbers must follow each other."""
        messages = [peer.hear(4) for _ in range(packets)]
        numbers = [struct.unpack_from("!I", message.opened, 28)[0] for message in messages]
        assert numbers == [*range(count - packets, count)]
        return [message.source[1] for message in messages]

    before = PORT
    for port in (42001, 42002, PORT):
        flow(40)
        network.set(f"listen_port={port}\n")
        flow(40)
        ports = hear(80)
        assert ports == sorted(ports, key=[before, port].index)
        eventually(lambda: flow(1) or hear(1) == [port])  # noqa: B023
        before = port
    peer.send(peer.packet(b"back"))
    eventually(lambda: int(network.peer(peer)["rx_bytes"]) > 148 + 32)
    inner.close()
