"""Section 5 of the checklist, sending data, as another peer sees it on the wire."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address

import pytest

from tests.support.fake_peer import PORT, Puppet, Stage
from tests.support.tunnel import eventually
from tests.support.waiting import PATIENCE
from tests.support.wire import Wire

pytestmark = pytest.mark.network

NO_ECN_ECT1_ECT0_CE = range(4)
AF41 = 0x88


@pytest.mark.parametrize("version", [4, 6])
def test_padding_to_16_capped_at_the_mtu(stage: Stage, version: int) -> None:
    puppet = Puppet(stage, version)
    puppet.initiate()
    inner = stage.inner_socket(puppet.inner4)
    for size in (*range(28, 50), 100, *range(1390, 1421)):  # IP and UDP headers included
        inner.send(bytes(size - 28))
        message = puppet.hear(4)
        padded = min(-(-size // 16) * 16, 1420)
        assert len(message.data) == 32 + padded, size
        assert message.opened[2:4] == size.to_bytes(2, "big")
        assert message.opened[size:] == bytes(padded - size)
    inner.close()


@pytest.mark.parametrize(("version", "overhead"), [(4, 60), (6, 80)])
def test_overhead_is_60_bytes_on_ipv4_and_80_on_ipv6(stage: Stage, version: int, overhead: int) -> None:
    puppet = Puppet(stage, version)
    puppet.initiate()
    inner = stage.inner_socket(puppet.inner4)
    with Wire(stage.strings, "eth0") as wire:
        inner.send(bytes(1420 - 28))  # no padding: the packet has the length of the MTU
        packet = wire.next(lambda packet: packet.version == version and packet.payload[:4] == b"\4\0\0\0")
    assert len(packet.data) == 1420 + overhead
    inner.close()


@pytest.mark.parametrize("inner_version", [4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_outer_dscp_is_0_and_inner_ecn_is_copied_out(stage: Stage, version: int, inner_version: int) -> None:
    puppet = Puppet(stage, version)
    puppet.initiate()
    for dscp in (0, 10, 46, 63):
        for ecn in NO_ECN_ECT1_ECT0_CE:
            target = puppet.inner6 if inner_version == 6 else puppet.inner4
            inner = stage.inner_socket(target, dscp << 2 | ecn)
            inner.send(b"x")
            message = puppet.hear(4)
            first = int.from_bytes(message.opened[:2], "big")
            assert (first >> 4 if inner_version == 6 else first) & 0xFF == dscp << 2 | ecn
            assert message.tos == ecn
            inner.close()


@pytest.mark.parametrize("version", [4, 6])
def test_handshakes_carry_dscp_af41(stage: Stage, version: int) -> None:
    puppet = Puppet(stage, version)
    assert puppet.initiate().tos == AF41
    other = Puppet(stage, version)
    inner = stage.inner_socket(other.inner4)
    inner.send(b"x")
    assert other.hear(1).tos == AF41
    inner.close()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("lack", ["peer", "endpoint"])
def test_no_peer_or_no_endpoint_is_icmp_unreachable(stage: Stage, version: int, lack: str) -> None:
    """The sender inside hears it at once: host unreachable, address unreachable on IPv6."""
    if lack == "endpoint":
        puppet = Puppet(stage, endpoint=False)
        target = puppet.inner6 if version == 6 else puppet.inner4
    else:
        target = "fd01::dead" if version == 6 else "10.0.0.254"
    counter = f"drop_no_{lack}"
    before = stage.counters()
    inner = stage.inner_socket(target)
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
    eventually(lambda: stage.count("icmp_sent") == before["icmp_sent"] + 1)
    assert stage.count(counter) == before[counter] + 1


def test_the_newest_128_packets_wait_for_a_session(stage: Stage) -> None:
    puppet = Puppet(stage)
    inner = stage.inner_socket(puppet.inner4)
    before = stage.count("drop_staged")
    for number in range(200):
        inner.send(struct.pack("!I", number))
    initiation = puppet.hear(1)
    eventually(lambda: stage.count("drop_staged") == before + 72)
    puppet.respond(initiation)
    assert [struct.unpack_from("!I", puppet.hear(4).opened, 28)[0] for _ in range(128)] == [*range(72, 200)]
    assert puppet.hears_nothing()
    inner.close()


def second_address(stage: Stage, version: int) -> str:
    """Another address of the engine's host, there from now on."""
    made = "fd00:200:1::99" if version == 6 else "10.200.1.99"
    stage.plait.ip(f"address replace {made}/{64 if version == 6 else 24} dev eth0"
                   + (" nodad" if version == 6 else ""))
    return made


@pytest.mark.parametrize("version", [4, 6])
def test_sticky_source_is_used_for_replies_and_dropped_when_refused(stage: Stage, version: int) -> None:
    """A host with two addresses answers from the one that was asked, data and handshakes."""
    puppet = Puppet(stage, version)
    first, second = puppet.engine[0], second_address(stage, version)
    inner = stage.inner_socket(puppet.inner4)
    puppet.engine = (second, PORT)
    assert puppet.initiate().source == (second, PORT)
    inner.send(b"x")
    assert puppet.hear(4).source == (second, PORT)
    puppet.engine = (first, PORT)
    puppet.send(b"")
    eventually(lambda: stage.peer(puppet)["rx_bytes"] == str(148 + 2 * 32))
    inner.send(b"x")
    assert puppet.hear(4).source == (first, PORT)
    puppet.engine = (second, PORT)
    puppet.send(b"")
    eventually(lambda: stage.peer(puppet)["rx_bytes"] == str(148 + 3 * 32))
    stage.plait.ip(f"address del {second}/{64 if version == 6 else 24} dev eth0")
    inner.send(b"x")
    assert puppet.hear(4).source == (first, PORT)
    inner.close()


def test_sticky_source_is_dropped_on_retries(stage: Stage) -> None:
    puppet = Puppet(stage)
    first, second = puppet.engine[0], second_address(stage, 4)
    puppet.engine = (second, PORT)
    puppet.initiate()
    stage.step(181)  # the session is over, what we know of the peer is not
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    assert puppet.hear(1).source == (second, PORT)
    stage.step(5.4)
    assert puppet.hear(1).source == (first, PORT)
    inner.close()


def test_sticky_source_is_dropped_by_the_new_handshake(stage: Stage) -> None:
    """Data that nobody answers for 15 s: the address may be the reason."""
    puppet = Puppet(stage)
    first, second = puppet.engine[0], second_address(stage, 4)
    puppet.engine = (second, PORT)
    puppet.initiate()
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    assert puppet.hear(4).source == (second, PORT)
    stage.step(15.4)
    assert puppet.hear(1).source == (first, PORT)
    inner.close()


@pytest.mark.parametrize("change", ["fwmark=9", "listen_port=41234"])
def test_port_or_fwmark_change_clears_all_sticky_sources(stage: Stage, change: str) -> None:
    puppet = Puppet(stage)
    first, second = puppet.engine[0], second_address(stage, 4)
    puppet.engine = (second, PORT)
    puppet.initiate()
    inner = stage.inner_socket(puppet.inner4)
    inner.send(b"x")
    assert puppet.hear(4).source[0] == second
    stage.set(change + "\n")
    inner.send(b"x")
    assert puppet.hear(4).source[0] == first
    stage.set(f"fwmark=0\nlisten_port={PORT}\n")
    inner.close()


def test_fwmark_at_any_time(stage: Stage) -> None:
    """Marked packets have no route here: neither data nor handshakes leave while the mark is set."""
    stage.plait.ip("rule add fwmark 0x77 table 77", "route add unreachable default table 77")
    puppet, other = Puppet(stage), Puppet(stage)
    puppet.initiate()
    inner, inner_other = stage.inner_socket(puppet.inner4), stage.inner_socket(other.inner4)
    stage.set("fwmark=119\n")
    before = stage.counters()
    inner.send(b"x")
    inner_other.send(b"x")
    eventually(lambda: stage.count("drop_udp_send") > before["drop_udp_send"])
    eventually(lambda: stage.count("hs_send_failed") > before["hs_send_failed"])
    assert puppet.hears_nothing() and other.hears_nothing(0.01)
    stage.set("listen_port=41235\n")  # new sockets are marked as well
    inner.send(b"x")
    eventually(lambda: stage.count("drop_udp_send") > before["drop_udp_send"] + 1)
    assert puppet.hears_nothing()
    stage.set(f"fwmark=0\nlisten_port={PORT}\n")
    inner.send(b"y")
    assert puppet.hear(4).opened[28:29] == b"y"
    inner.close()
    inner_other.close()


def test_listen_port_changes_while_traffic_flows(stage: Stage) -> None:
    """Nothing that is sent meanwhile is lost or out of order, and soon all leaves from the new port."""
    puppet = Puppet(stage)
    puppet.initiate()
    inner = stage.inner_socket(puppet.inner4)
    count = 0

    def flow(packets: int) -> None:
        nonlocal count
        for _ in range(packets):
            inner.send(struct.pack("!I", count))
            count += 1

    def hear(packets: int) -> list[int]:
        """Ports that the next packets came from; their numbers must follow each other."""
        messages = [puppet.hear(4) for _ in range(packets)]
        numbers = [struct.unpack_from("!I", message.opened, 28)[0] for message in messages]
        assert numbers == [*range(count - packets, count)]
        return [message.source[1] for message in messages]

    before = PORT
    for port in (42001, 42002, PORT):
        flow(40)
        stage.set(f"listen_port={port}\n")
        flow(40)
        ports = hear(80)
        assert ports == sorted(ports, key=[before, port].index)
        eventually(lambda: flow(1) or hear(1) == [port])  # noqa: B023
        before = port
    puppet.send(puppet.packet(b"back"))
    eventually(lambda: int(stage.peer(puppet)["rx_bytes"]) > 148 + 32)
    inner.close()
