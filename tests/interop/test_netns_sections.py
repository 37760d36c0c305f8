"""The kernel's WireGuard selftest (tools/testing/selftests/wireguard/netns.sh), section by section.

The table of its sections, with the bound of each, is in docs/protocol.md, section 11. What stands here in
its place; our hosts and addresses are our own.

    host left           host transport (wg1, wg2: plaitd; sockets)         host right
     └─ wg1 10.0.0.1 ───── lo 127.0.0.1, ::1 ────────────────────── wg2 10.0.0.2 ─┘
        fd01::1                                                         fd01::2
"""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address

import pytest

from plait.lab.namespaces import (
    PLAIT,
    WIREGUARD_GO,
    Engine,
    Host,
    Lab,
    Link,
    Peer,
    keypair,
    preshared_key,
    search_path,
)
from tests.support.tunnel import PORT, Side, check_words, eventually

pytestmark = pytest.mark.network

BIG_MTU = 34816 - 1500 + 1420  # the selftest's own
LOOP_BYTES = 70_000  # the selftest's own: what ten pings into a loop may become
STREAMS = max(2, min(os.cpu_count() or 2, 128))  # as many as CPUs, as the selftest; iperf3 has 128 at most
_ports = itertools.count(6000)


def move(engine: Engine, host: Host) -> None:
    """The interface goes to another host; the engine and its sockets stay."""
    subprocess.run(["nsenter", "-t", str(engine.host.pid), "-n", "ip", "link", "set", engine.interface,
                    "netns", str(host.pid)], check=True, env={"PATH": search_path()})


def set_peer(side: Side, other: Side | str, *what: str, text: str | None = None) -> None:
    """`wg set` of one peer."""
    key = other if isinstance(other, str) else other.public_key
    side.engine.wg("set", side.interface, "peer", key, *what, text=text)


def endpoint_of(side: Side, other: Side) -> str:
    """Where side believes other to be."""
    lines = side.engine.wg("show", side.interface, "endpoints").splitlines()
    return dict(line.split("\t") for line in lines)[other.public_key]


def joined(engines: Sequence[Engine], homes: Sequence[Host], ports: Sequence[int] = (PORT, PORT), *,
           inner4: str = "10.0.0", inner6: str = "fd01::", mtu: int = 1420) -> tuple[Side, Side]:
    """Both engines configured as each other's peer, without endpoints; homes: where the interfaces are."""
    sides = [Side(home, engine, *keypair(), f"{inner4}.{n}", f"{inner6}{n}")
             for n, (engine, home) in enumerate(zip(engines, homes, strict=True), 1)]
    shared = preshared_key()
    for side, other, port in zip(sides, reversed(sides), ports, strict=True):
        text = (f"[Interface]\nPrivateKey = {side.private_key}\nListenPort = {port}\n"
                + Peer(other.public_key, [f"{other.address4}/32", f"{other.address6}/128"],
                       preshared_key=shared).section())
        side.engine.wg("setconf", side.interface, "/dev/stdin", text=text)
        side.host.ip(f"address add {side.address4}/24 dev {side.interface}",
                     f"address add {side.address6}/112 dev {side.interface} nodad",
                     f"link set {side.interface} mtu {mtu} up")
    return sides[0], sides[1]


def floods_and_streams(one: Side, two: Side, udp: int) -> None:
    """Ten pings each way and family; TCP streams each way; UDP as fast as it will go (of family udp)."""
    for version in (4, 6):
        assert one.echo(two.address(version), 10) == 10
        assert two.echo(one.address(version), 10) == 10
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(stream, *pair) for pair in ((one, two, 4), (two, one, 6))]
    for run in runs:
        run.result()
    # Alone: a flood may push aside the one datagram by which iperf3 opens a stream.
    stream(*((two, one) if udp == 4 else (one, two)), udp, "-u", "-b", "0")


def stream(source: Side, target: Side, version: int, *extra: str) -> None:
    """iperf3 without copies (sendfile), streams side by side; each must have brought something."""
    run = source.host.iperf3(target.host, target.address(version), 1, streams=STREAMS, port=next(_ports),
                             extra=["-Z", *extra])
    got = [each.get("receiver") or each["udp"] for each in run.report["end"]["streams"]]
    assert len(got) == STREAMS and all(each["bytes"] > 0 for each in got), got


def flood_a_loop(side: Side, address: str, watched: Sequence[Side]) -> int:
    """Ten echo requests that nobody answers: each ends as DROP_LOOP, wherever. Returns the bytes that the
    watched have sent."""
    def dropped() -> int:
        return sum(each.counters()["drop_loop"] for each in watched)

    def sent() -> int:
        lines = [line.split() for each in watched
                 for line in each.engine.wg("show", each.interface, "transfer").splitlines()]
        return sum(int(line[2]) for line in lines)

    drops, before = dropped(), sent()
    assert side.echo(address, 10, timeout=0.3) == 0
    eventually(lambda: dropped() >= drops + 10)
    return sent() - before


def told_of_loop(side: Side, peer: str, endpoint: str, device: str) -> bool:
    """Whether an event names the peer, its endpoint and the route."""
    told = [json.loads(line.partition("=")[2]) for line in side.engine.uapi("events=0\n\n").splitlines()
            if line.startswith("event=")]
    return any((each["peer"], each["endpoint"], each["reason"]) == (peer, endpoint, f"dev {device}")
               for each in told if each["event"] == "packets_looped" and "peer" in each)


@dataclass
class Bare:
    """Two sides whose transport is another host's loopback."""

    transport: Host
    left: Side
    right: Side

    def meet(self, version: int) -> None:
        """Both are told the other's endpoint."""
        there = "[::1]" if version == 6 else "127.0.0.1"
        set_peer(self.left, self.right, "endpoint", f"{there}:2")
        set_peer(self.right, self.left, "endpoint", f"{there}:1")


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    with Lab() as lab:
        transport, left, right = lab.add_hosts(["transport", "left", "right"])
        engines = [transport.engine(name, PLAIT, wait=False) for name in ("wg1", "wg2")]
        for engine, host in zip(engines, (left, right), strict=True):
            move(engine.wait_ready(), host)
        made = Bare(transport, *joined(engines, (left, right), (1, 2)))
        made.meet(4)
        assert made.left.echo(made.right.address4) == 3
        yield made
        for engine in engines:
            check_words(engine.process)
            assert engine.process.poll() is None


@pytest.mark.parametrize("mtu", [1420, BIG_MTU])
@pytest.mark.parametrize("version", [4, 6])
def test_pings_and_streams(bare: Bare, version: int, mtu: int) -> None:
    """version: of the outer transport."""
    bare.meet(version)
    for side in (bare.left, bare.right):
        side.host.ip(f"link set {side.interface} mtu {mtu}")
    floods_and_streams(bare.left, bare.right, version)
    # The largest packet goes whole.
    eventually(lambda: bare.left.host.ping(bare.right.address4, 1, size=mtu - 28).received)
    for side in (bare.left, bare.right):
        side.host.ip(f"link set {side.interface} mtu 1420")


def bytes_of(side: Side) -> tuple[int, int]:
    """Bytes received and sent that the kernel counts for the interface: of inner packets, behind a TUN."""
    shown = side.host.run(["ip", "-s", "-j", "link", "show", side.interface]).stdout
    figures = json.loads(shown)[0]["stats64"]
    return figures["rx"]["bytes"], figures["tx"]["bytes"]


def test_interface_counts_the_inner_packets_and_no_others(bare: Bare) -> None:
    bare.meet(4)
    before = [bytes_of(side) for side in (bare.left, bare.right)]
    assert bare.right.echo(bare.left.address4, 10) == 10
    after = [bytes_of(side) for side in (bare.left, bare.right)]
    assert [(a - b, c - d) for (a, c), (b, d) in zip(after, before, strict=True)] == [(840, 840), (840, 840)]


def test_padding_ends_at_the_mtu(bare: Bare) -> None:
    """The selftest's figures: 1297 bytes are 1360 outside with an MTU of 1300, which a filter drops, and 1359
    with one of 1299. That is the MTU of a route there, and the interface's here."""
    bare.meet(4)
    nft(bare.transport, """table ip length { chain in { type filter hook input priority 0;
        meta length 1360 counter drop; meta length 1359 counter; }; }""")

    def counted() -> list[int]:
        listed = json.loads(bare.transport.run(["nft", "-j", "list", "table", "ip", "length"]).stdout)
        rules = [each["rule"]["expr"] for each in listed["nftables"] if "rule" in each]
        return [part["counter"]["packets"] for rule in rules for part in rule if "counter" in part]

    def answered() -> bool:
        return bare.right.host.ping(bare.left.address4, 1, size=1269, wait=0.5).received == 1

    # Control learns of an MTU when it next looks: until then a packet has the padding of the one before.
    for side in (bare.left, bare.right):
        side.host.ip(f"link set {side.interface} mtu 1300")
    eventually(lambda: not answered() and counted()[0] > 0)
    for side in (bare.left, bare.right):
        side.host.ip(f"link set {side.interface} mtu 1299")
    eventually(answered)
    assert counted()[1] >= 2
    nft(bare.transport, "delete table ip length")
    for side in (bare.left, bare.right):
        side.host.ip(f"link set {side.interface} mtu 1420")


def test_roaming_of_the_transport_itself(bare: Bare) -> None:
    bare.meet(4)
    assert bare.left.echo(bare.right.address4) == 3
    bare.transport.ip("address del 127.0.0.1/8 dev lo", "address add 127.212.121.99/8 dev lo")
    bare.left.engine.wg("set", "wg1", "listen-port", "9999")
    set_peer(bare.left, bare.right, "endpoint", "127.0.0.1:2")
    assert bare.left.echo(bare.right.address6) == 3
    assert endpoint_of(bare.right, bare.left) == "127.212.121.99:9999"
    bare.left.engine.wg("set", "wg1", "listen-port", "9998")
    set_peer(bare.left, bare.right, "endpoint", "[::1]:2")
    assert bare.left.echo(bare.right.address4) == 3
    assert endpoint_of(bare.right, bare.left) == "[::1]:9998"
    bare.transport.ip("address del 127.212.121.99/8 dev lo", "address add 127.0.0.1/8 dev lo")
    bare.left.engine.wg("set", "wg1", "listen-port", "1")


def arrives(source: Side, target: Side) -> bool:
    """Whether one UDP datagram gets there."""
    with closing(target.host.socket()) as there, closing(source.host.socket()) as here:
        there.bind((target.address4, 1111))
        there.settimeout(1)
        here.sendto(b"X", (target.address4, 1111))
        try:
            return there.recv(16) == b"X"
        except TimeoutError:
            return False


def test_source_of_a_more_specific_peer_is_refused(bare: Bare) -> None:
    """And yet the endpoint has moved: the outer packet was authentic."""
    bare.meet(6)
    left, right = bare.left, bare.right
    set_peer(left, right, "allowed-ips", "10.0.0.0/24,fd01::2/128")
    assert eventually(lambda: arrives(right, left))
    other = keypair()[1]
    set_peer(left, other, "allowed-ips", "10.0.0.2/32")
    right.engine.wg("set", "wg2", "listen-port", "9997")
    assert not arrives(right, left)
    eventually(lambda: endpoint_of(left, right) == "[::1]:9997")
    set_peer(left, other, "remove")
    assert eventually(lambda: arrives(right, left))
    set_peer(left, right, "allowed-ips", "10.0.0.2/32,fd01::2/128")
    right.engine.wg("set", "wg2", "listen-port", "2")


def test_private_key_changes_and_the_handshake_is_immediate(bare: Bare) -> None:
    bare.meet(4)
    left, right = bare.left, bare.right
    assert left.echo(right.address4) == 3
    shared = preshared_key()
    secret, public = keypair()
    left.engine.wg("set", "wg1", "private-key", "/dev/stdin", text=secret)
    set_peer(left, right, "preshared-key", "/dev/stdin", text=shared)
    right.engine.wg("set", "wg2", "peer", left.public_key, "remove")
    set_peer(right, public, "preshared-key", "/dev/stdin", "allowed-ips",
             f"{left.address4}/32,{left.address6}/128", text=shared)
    left.private_key, left.public_key = secret, public
    assert left.echo(right.address4) == 3
    assert endpoint_of(right, left) == "127.0.0.1:1"


def test_routing_loop_across_namespaces(bare: Bare) -> None:
    """The selftest's own circle. wg3: interface in transport, sockets in left; wg1 the other way round."""
    bare.meet(4)
    left, right = bare.left, bare.right
    engines = [side.host.engine(name, PLAIT, wait=False) for side, name in ((left, "wg3"), (right, "wg4"))]
    for engine in engines:
        engine.wait_ready()
    move(engines[0], bare.transport)
    inner = joined(engines, (bare.transport, right.host), (5, 5), inner4="10.5.0", inner6="fd05::", mtu=1340)
    for version in (4, 6):
        within = place_of(right.address(version), 5)
        set_peer(*inner, "endpoint", within)
        assert inner[0].echo(inner[1].address4) == 3
        back = place_of(inner[1].address(version), 7)
        set_peer(left, right, "endpoint", back)
        assert flood_a_loop(inner[0], inner[1].address4, [left, inner[0]]) < LOOP_BYTES
        assert inner[0].host.ping(inner[1].address4, 10, size=1300, wait=0.3).received == 0
        loop = ((left, right, back, "wg3"), (inner[0], inner[1], within, "wg1"))
        assert eventually(lambda loop=loop: any(told_of_loop(side, other.public_key, place, device)
                                                for side, other, place, device in loop))
        bare.meet(4)
        assert left.echo(right.address4) == 3
        assert inner[0].echo(inner[1].address4) == 3
    for engine in engines:
        assert engine.stop() == 0
        check_words(engine.process)


@dataclass
class Natted:
    """client 10.200.1.1 ── router (masquerade to 10.200.2.1) ── 10.200.2.2 server"""

    router: Host
    client: Side
    server: Side
    outside: Link

    def mappings(self) -> int:
        """UDP mappings that the router knows."""
        return len(self.router.run(["conntrack", "-L", "-p", "udp"]).stdout.splitlines())


def nft(host: Host, text: str) -> None:
    host.run(["nft", "-f", "-"], text=text)


@pytest.fixture(scope="module")
def natted() -> Iterator[Natted]:
    with Lab() as lab:
        client, router, server = lab.add_hosts(["client", "router", "server"])
        engines = [host.engine("wg0", PLAIT, wait=False) for host in (client, server)]
        lab.link(client, router)
        outside = lab.link(router, server)
        client.ip("route add default via 10.200.1.2", "route add default via fd00:200:1::2")
        for host in (router, server):
            host.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        router.run(["sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=4",
                    "net.netfilter.nf_conntrack_udp_timeout_stream=4"])
        nft(router, """table ip nat { chain out { type nat hook postrouting priority 100;
            ip saddr 10.200.1.0/24 ip daddr 10.200.2.0/24 masquerade; }; }""")
        for engine in engines:
            engine.wait_ready()
        made = Natted(router, *joined(engines, (client, server)), outside)
        set_peer(made.client, made.server, "endpoint", f"10.200.2.2:{PORT}")
        yield made
        for engine in engines:
            check_words(engine.process)
            assert engine.process.poll() is None


def test_persistent_keepalive_keeps_the_mapping(natted: Natted) -> None:
    """Without it the mapping expires after four seconds, and nobody reaches the client any more."""
    client, server = natted.client, natted.server
    set_peer(client, server, "persistent-keepalive", "1")
    assert client.echo(server.address4) == 3
    assert endpoint_of(server, client) == f"10.200.2.1:{PORT}"
    before = server.transfer()[0]
    eventually(lambda: server.transfer()[0] >= before + 5 * 32)
    assert server.echo(client.address4) == 3
    set_peer(client, server, "persistent-keepalive", "0")
    eventually(lambda: natted.mappings() == 0)
    assert server.echo(client.address4, 1, timeout=0.5) == 0
    assert client.echo(server.address4) == 3
    assert server.echo(client.address4) == 3


def test_packets_bound_to_the_interface_and_marked_on_the_way(natted: Natted) -> None:
    """ping -I wg0; then with a mark set on output, so that the packet is routed a second time."""
    client, there = natted.client, natted.server.address4
    assert client.echo(there) == 3
    bound = ["ping", "-n", "-c", "1", "-W", "2", "-I", "wg0", there]
    client.host.run(bound)
    nft(client.host, "table ip m { chain o { type route hook output priority mangle; meta mark set 1; }; }")
    assert client.echo(there) == 3
    client.host.run(bound)
    nft(client.host, "delete table ip m")


def test_onion_and_its_loop(natted: Natted) -> None:
    """A peer of wg0 whose endpoint is reached through another peer of wg0; then through itself."""
    client, server = natted.client, natted.server
    assert client.echo(server.address4) == 3
    secret, public = keypair()
    inner = server.host.engine("wg1", PLAIT)
    inner.configure(secret, [Peer(client.public_key, ["10.1.0.1/32"])], ["10.1.0.2/24"], 5)
    set_peer(client, public, "allowed-ips", "10.1.0.2/32", "endpoint", f"{server.address4}:5")
    client.host.ip("address add 10.1.0.1/24 dev wg0")
    assert client.echo("10.1.0.2") == 3
    assert inner.stop() == 0
    set_peer(client, public, "endpoint", "10.1.0.2:5")
    assert flood_a_loop(client, "10.1.0.2", [client]) < LOOP_BYTES
    assert eventually(lambda: told_of_loop(client, public, "10.1.0.2:5", "wg0"))
    # Two peers, each reached through the other.
    outer = endpoint_of(client, server)
    set_peer(client, public, "endpoint", f"{server.address4}:5")
    set_peer(client, server, "endpoint", "10.1.0.2:7")
    assert flood_a_loop(client, "10.1.0.2", [client]) < LOOP_BYTES
    set_peer(client, server, "endpoint", outer)
    set_peer(client, public, "remove")
    client.host.ip("address del 10.1.0.1/24 dev wg0")
    assert client.echo(server.address4) == 3


def test_mark_and_policy_routing(natted: Natted) -> None:
    """The default route goes through the tunnel, what is marked goes past it: as wg-quick does it."""
    client, server = natted.client, natted.server
    server.host.ip("address add 192.168.99.7/32 dev wg0", "address add abab::1111/128 dev wg0 nodad")
    allowed = f"{server.address4}/32,{server.address6}/128,0.0.0.0/0,abab::1111/128"
    client.engine.wg("set", "wg0", "fwmark", "51820")
    set_peer(client, server, "allowed-ips", allowed)
    client.host.run(["sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1", "net.ipv4.conf.all.rp_filter=0"])
    for version in (4, 6):
        client.host.run(["ip", f"-{version}", "-batch", "-"], text=(
            "route add default dev wg0 table 51820\nrule add not fwmark 51820 table 51820\n"
            "rule add table main suppress_prefixlength 0\n"))
    assert client.echo("192.168.99.7", 100) == 100
    assert client.echo("abab::1111", 100) == 100
    # It was the mark: without it the engine's own messages go into the tunnel.
    client.engine.wg("set", "wg0", "fwmark", "0")
    assert flood_a_loop(client, "192.168.99.7", [client]) < LOOP_BYTES
    client.engine.wg("set", "wg0", "fwmark", "51820")
    assert client.echo("192.168.99.7") == 3


def test_icmp_error_finds_its_way_back_through_nat(natted: Natted) -> None:
    """The router's packet goes into the server's tunnel under the server's own address."""
    router, client, server = natted.router, natted.client, natted.server
    nft(server.host, f"""table ip nat {{ chain out {{ type nat hook postrouting priority 100;
        ip saddr 10.200.2.0/24 ip daddr 10.0.0.0/24 snat to {server.address4}; }}; }}""")
    router.ip(f"route add {client.address4} via 10.200.2.2")
    server.engine.wg("set", "wg0", "peer", client.public_key, "remove")
    said = router.run(["ping", "-n", "-c", "1", "-W", "2", client.address4], check=False).stdout
    assert "Destination Host Unreachable" in said


@dataclass
class Cabled:
    """Two sides with eth0 between them, and eth1, a second cable, where a test lays one."""

    lab: Lab
    one: Side
    two: Side


@pytest.fixture
def cabled() -> Iterator[Cabled]:
    """Addresses of eth0 are the test's own: the default ones are flushed."""
    with Lab() as lab:
        hosts = lab.add_hosts(["one", "two"])
        engines = [host.engine("wg0", PLAIT, wait=False) for host in hosts]
        lab.link(*hosts)
        for engine, host in zip(engines, hosts, strict=True):
            engine.wait_ready()
            host.ip("address flush dev eth0")
            host.run(["sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1",
                      "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0"])
        made = Cabled(lab, *joined(engines, hosts))
        yield made
        for engine in engines:
            check_words(engine.process)


def test_source_is_not_too_sticky(cabled: Cabled) -> None:
    """An address that goes is replaced by the one that came, in both families."""
    one, two = cabled.one, cabled.two
    for version, first, second, there, length in ((4, "10.9.0.1", "10.9.0.10", "10.9.0.2", 24),
                                                  (6, "fd09::1", "fd09::10", "fd09::2", 96)):
        nodad = " nodad" * (version == 6)
        one.host.ip(f"address add {first}/{length} dev eth0" + nodad)
        two.host.ip(f"address add {there}/{length} dev eth0" + nodad)
        set_peer(one, two, "endpoint", f"[{there}]:{PORT}" if version == 6 else f"{there}:{PORT}")
        assert one.echo(two.address4) == 3
        one.host.ip(f"address add {second}/{length} dev eth0" + nodad,
                    f"address del {first}/{length} dev eth0")
        assert one.echo(two.address4) == 3
        assert second in endpoint_of(two, one)


def test_reply_to_sender(cabled: Cabled) -> None:
    """Each address that is asked answers itself: the asker's endpoint stays what it was told."""
    one, two = cabled.one, cabled.two
    one.host.ip("address add 10.9.0.1/24 dev eth0", "address add 10.9.0.2/24 dev eth0",
                "address add fd09::1/96 dev eth0 nodad", "address add fd09::2/96 dev eth0 nodad")
    two.host.ip("address add 10.9.0.3/24 dev eth0", "address add fd09::3/96 dev eth0 nodad")
    for address in ("10.9.0.1", "[fd09::2]", "10.9.0.2", "[fd09::1]"):
        set_peer(two, one, "endpoint", f"{address}:{PORT}")
        assert two.echo(one.address4) == 3
        assert endpoint_of(two, one) == f"{address}:{PORT}"
        if address in ("10.9.0.2", "[fd09::1]"):  # not what the route prefers
            one.host.ip("route add 10.77.0.0/16 dev eth0", "route add fd77::/64 dev eth0",
                        "route del 10.77.0.0/16 dev eth0", "route del fd77::/64 dev eth0")
            time.sleep(0.2)  # what is not for the source any more is looked for at once
            assert one.echo(two.address4) == 3
            assert endpoint_of(two, one) == f"{address}:{PORT}"


def test_mapped_endpoint_is_the_ipv4_address(cabled: Cabled) -> None:
    """Not of the selftest: the kernel takes ::ffff:10.9.0.2, and reaches nothing there."""
    one, two = cabled.one, cabled.two
    one.host.ip("address add 10.9.0.1/24 dev eth0")
    two.host.ip("address add 10.9.0.2/24 dev eth0")
    set_peer(one, two, "endpoint", f"[::ffff:10.9.0.2]:{PORT}")
    assert one.echo(two.address4) == 3
    assert (endpoint_of(one, two), endpoint_of(two, one)) == (f"10.9.0.2:{PORT}", f"10.9.0.1:{PORT}")


def test_asked_address_belongs_to_another_interface(cabled: Cabled) -> None:
    """The selftest uses a dummy interface for it; a bridge without ports does as well."""
    one, two = cabled.one, cabled.two
    one.host.ip("address add 10.9.0.1/24 dev eth0", "link add br0 type bridge", "link set br0 up",
                "address add 10.50.0.1/24 dev br0")
    two.host.ip("address add 10.9.0.3/24 dev eth0", "route add 10.50.0.0/24 dev eth0 via 10.9.0.1")
    set_peer(two, one, "endpoint", f"10.50.0.1:{PORT}")
    assert two.echo(one.address4) == 3
    assert endpoint_of(two, one) == f"10.50.0.1:{PORT}"


def test_route_that_takes_precedence(cabled: Cabled) -> None:
    """A better route by another interface: packets leave there, from its address."""
    one, two = cabled.one, cabled.two
    cabled.lab.link(one.host, two.host)
    for host in (one.host, two.host):
        host.ip("address flush dev eth1")
        host.run(["sysctl", "-qw", "net.ipv4.conf.eth1.rp_filter=0"])
    one.host.ip("address add 10.9.0.1/24 dev eth0", "address add 10.9.0.3/24 dev eth1",
                "route flush dev eth0", "route flush dev eth1",
                "route add 10.9.0.0/24 dev eth0 src 10.9.0.1 metric 2")
    two.host.ip("address add 10.9.0.2/24 dev eth0")
    set_peer(one, two, "endpoint", f"10.9.0.2:{PORT}")
    assert one.echo(two.address4) == 3
    assert endpoint_of(two, one) == f"10.9.0.1:{PORT}"
    one.host.ip("route add 10.9.0.0/24 dev eth1 src 10.9.0.3 metric 1")

    def moved() -> bool:
        assert one.echo(two.address4, 1) == 1
        return endpoint_of(two, one) == f"10.9.0.3:{PORT}"

    eventually(moved)


@pytest.mark.parametrize("version", [4, 6])
def test_answers_take_the_interface_of_the_route(cabled: Cabled, version: int) -> None:
    """Also from the beginning, when no route has changed: asked on eth0, it answers by eth1."""
    one, two = cabled.one, cabled.two
    cabled.lab.link(one.host, two.host)
    for host in (one.host, two.host):
        host.run(["sysctl", "-qw", "net.ipv4.conf.eth1.rp_filter=0"])
    asked, asker, length = ("10.9.0.1", "10.9.0.2", 24) if version == 4 else ("fd09::1", "fd09::2", 96)
    nodad = " nodad" * (version == 6)
    one.host.ip(f"address add {asked}/{length} dev eth0" + nodad)
    two.host.ip(f"address add {asker}/{length} dev eth0" + nodad)
    via = "10.200.2.2" if version == 4 else "fd00:200:2::2"
    one.host.ip(f"route add {asker}/{32 if version == 4 else 128} via {via} dev eth1")
    set_peer(two, one, "endpoint", f"[{asked}]:{PORT}" if version == 6 else f"{asked}:{PORT}")
    assert two.echo(one.address4) == 3

    def sent() -> list[int]:
        statistics = one.host.root / "sys/class/net"
        return [int((statistics / name / "statistics/tx_bytes").read_text()) for name in ("eth0", "eth1")]

    before = sent()
    assert two.echo(one.address4, 20) == 20
    eth0, eth1 = map(int.__sub__, sent(), before)
    answer = 84 + 12 + 32  # inner packet, padding, a data message; a train would count as one packet
    assert eth1 >= 20 * answer > 5 * answer > eth0


def nested(cabled: Cabled) -> tuple[Side, Side]:
    """wg1 through wg0."""
    one, two = cabled.one, cabled.two
    one.host.ip("address add 10.9.0.1/24 dev eth0")
    two.host.ip("address add 10.9.0.2/24 dev eth0")
    set_peer(one, two, "endpoint", f"10.9.0.2:{PORT}")
    set_peer(two, one, "endpoint", f"10.9.0.1:{PORT}")
    engines = [side.host.engine("wg1", PLAIT, wait=False) for side in (one, two)]
    for engine in engines:
        engine.wait_ready()
    inner = joined(engines, (one.host, two.host), (5, 5), inner4="10.5.0", inner6="fd05::", mtu=1340)
    for side, other, there in ((inner[0], inner[1], two), (inner[1], inner[0], one)):
        set_peer(side, other, "endpoint", f"[{there.address6}]:5")
    return inner


def test_tunnel_through_a_tunnel(cabled: Cabled) -> None:
    inner = nested(cabled)
    floods_and_streams(*inner, 6)
    # All that arrived came through wg0, and was longer there.
    assert inner[1].transfer()[0] + 60 < cabled.two.transfer()[0]
    for side in inner:
        check_words(side.engine.process)


def place_of(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def test_routing_loop_of_two_tunnels(cabled: Cabled) -> None:
    """wg1 through wg0 and wg0 through wg1: nothing goes round for long, and it can be undone."""
    one, two = cabled.one, cabled.two
    inner = nested(cabled)
    for version in (4, 6):
        set_peer(*inner, "endpoint", place_of(two.address(version), 5))
        assert inner[0].echo(inner[1].address4) == 3
        there = place_of(inner[1].address(version), 7)
        set_peer(one, two, "endpoint", there)
        assert flood_a_loop(inner[0], inner[1].address4, [one, inner[0]]) < LOOP_BYTES
        # In the middle, fragments are made of what has grown beyond the MTU.
        assert inner[0].host.ping(inner[1].address4, 10, size=1300, wait=0.3).received == 0
        loop = ((one, two, there, "wg1"), (inner[0], inner[1], place_of(two.address(version), 5), "wg0"))
        assert eventually(lambda loop=loop: any(told_of_loop(side, other.public_key, place, device)
                                                for side, other, place, device in loop))
        set_peer(one, two, "endpoint", f"10.9.0.2:{PORT}")
        assert one.echo(two.address4) == 3
        assert inner[0].echo(inner[1].address4) == 3
    for side in inner:
        check_words(side.engine.process)


@pytest.mark.parametrize("version", [4, 6])
def test_route_to_the_endpoint_leads_into_its_tunnel(cabled: Cabled, version: int) -> None:
    """By the endpoint, by the routes while it runs, and without a session: no message comes back twice."""
    one, two = cabled.one, cabled.two
    address = ("10.9.0.1/24", "10.9.0.2/24") if version == 4 else ("fd09::1/96 nodad", "fd09::2/96 nodad")
    place = place_of("10.9.0.2" if version == 4 else "fd09::2", PORT)
    for side, own in zip((one, two), address, strict=True):
        side.host.ip(f"address add {own.replace(' ', ' dev eth0 ', 1) if ' ' in own else own + ' dev eth0'}")
    set_peer(one, two, "endpoint", place)
    assert one.echo(two.address4) == 3

    def loops_and_ends(endpoint: str) -> None:
        assert flood_a_loop(one, two.address4, [one]) < 20 * 128  # ten messages, and none a second time
        assert eventually(lambda: told_of_loop(one, two.public_key, endpoint, "wg0"))

    within = place_of(two.address(version), PORT)
    set_peer(one, two, "endpoint", within)
    loops_and_ends(within)
    set_peer(one, two, "endpoint", place)
    assert one.echo(two.address4) == 3
    there = place.rpartition(":")[0].strip("[]")
    allowed = f"{two.address4}/32,{two.address6}/128,{there}"
    set_peer(one, two, "allowed-ips", allowed)
    assert one.echo(two.address4) == 3  # the route decides, not the allowed IPs
    route = f"{there}/{32 if version == 4 else 128} dev wg0"
    one.host.ip(f"route add {route}")
    loops_and_ends(place)
    one.host.ip(f"route del {route}")
    assert one.echo(two.address4) == 3
    # No session: the initiations themselves come back, and do not wait for one.
    one.host.ip("link set wg0 down", "link set wg0 up", f"route add {route}")
    drops = one.counters()["drop_loop"]
    assert one.echo(two.address4, 1, timeout=0.3) == 0
    eventually(lambda: one.counters()["drop_loop"] > drops)


@pytest.fixture(scope="module")
def alone() -> Iterator[Engine]:
    """An engine without any peer to speak with."""
    with Lab() as lab:
        engine = lab.host("alone").engine("wg0", PLAIT)
        yield engine
        check_words(engine.process)


CONFIGURATIONS = {
    "one peer, 130,560 allowed IPs": [[f"{a}.{b}.0.0/16, {IPv6Address(f'{a:x}::{b:x}')}/128"
                                       for a in range(1, 256) for b in range(256)]],
    "40 peers, 52 allowed IPs each": [[f"{a}.{b}.0.0/16" for b in range(1, 53)] for a in range(1, 41)],
    "29 bare peers and one": [[]] * 29 + [["255.2.3.4/32, abcd::255/128"]],
    "197 allowed IPs and none": [[], [f"abcd::{n:x}/128" for n in range(1, 198)]],
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_whose_answers_are_long(alone: Engine, name: str) -> None:
    text = f"[Interface]\nPrivateKey = {keypair()[0]}\n"
    expected = []
    for ips in CONFIGURATIONS[name]:
        public = keypair()[1]
        text += Peer(public, ips).section() if ips else f"[Peer]\nPublicKey = {public}\n"
        expected.append((public, sorted(", ".join(ips).split(", ")) if ips else ["(none)"]))
    alone.wg("setconf", "wg0", "/dev/stdin", text=text)

    def shown() -> list[tuple[str, list[str]]]:
        lines = alone.wg("show", "wg0", "allowed-ips").splitlines()
        return sorted((line.split("\t")[0], sorted(line.split("\t")[1].split())) for line in lines)

    assert shown() == sorted(expected)
    if len(expected) == 1:
        return  # showconf is made of the same answer, and there is much of it
    again = alone.wg("showconf", "wg0")
    alone.wg("setconf", "wg0", "/dev/stdin", text=f"[Interface]\nPrivateKey = {keypair()[0]}\n")
    assert shown() == []
    alone.wg("setconf", "wg0", "/dev/stdin", text=again)
    assert shown() == sorted(expected)


def test_single_allowed_ips_are_removed(alone: Engine) -> None:
    """Three of 197 of each family, in the words of a newer wg than Debian's (`allowed-ips -IP`)."""
    public = keypair()[1]
    ips = [each for n in range(1, 198) for each in (f"192.168.0.{n}/32", f"abcd::{n}/128")]
    alone.wg("setconf", "wg0", "/dev/stdin", text=f"[Interface]\nPrivateKey = {keypair()[0]}\n")
    alone.wg("set", "wg0", "peer", public, "allowed-ips", ",".join(ips))
    gone = [each for n in (1, 20, 100) for each in (f"192.168.0.{n}/32", f"abcd::{n}/128")]
    text = "".join(f"allowed_ip=-{ip}\n" for ip in gone)
    assert alone.uapi(f"set=1\npublic_key={b64decode(public).hex()}\n{text}\n") == "errno=0\n\n"
    shown = alone.wg("show", "wg0", "allowed-ips").split("\t")[1].split()
    assert len(shown) == 388
    assert sorted(shown) == sorted(set(ips) - set(gone))


def test_keepalives_begin_with_the_interface_and_with_the_key(alone: Engine) -> None:
    """At once: the next one would be due 18 hours later. The selftest has 1 s, and looks at once."""
    with closing(alone.host.socket()) as there:
        there.bind(("127.0.0.1", 1113))
        there.settimeout(60)

        def begin(key: str) -> None:
            alone.host.ip("link set wg0 down")
            alone.wg("setconf", "wg0", "/dev/stdin", text=f"[Interface]\n{key}")
            alone.wg("set", "wg0", "peer", keypair()[1], "endpoint", "127.0.0.1:1113",
                     "persistent-keepalive", "65535")
            assert sent() == 0
            ups = alone.uapi("events=0\n\n").count('"interface_up"')
            alone.host.ip("link set wg0 up")
            eventually(lambda: alone.uapi("events=0\n\n").count('"interface_up"') > ups)

        def sent() -> int:
            return int(alone.wg("show", "wg0", "transfer").split()[2])

        begin(f"PrivateKey = {keypair()[0]}\n")
        assert len(there.recv(200)) == 148
        assert eventually(sent) == 148
        begin("")
        assert sent() == 0
        alone.wg("set", "wg0", "private-key", "/dev/stdin", text=keypair()[0])
        assert len(there.recv(200)) == 148
        assert eventually(sent) == 148
    alone.host.ip("link set wg0 down")


def test_keys_of_every_kind(alone: Engine) -> None:
    (secret, own), (second, second_public), shared = keypair(), keypair(), preshared_key()

    def show(what: str) -> str:
        return alone.wg("show", "wg0", what).strip()

    def set_key(text: str) -> None:
        alone.wg("set", "wg0", "private-key", "/dev/stdin", text=text)

    alone.wg("setconf", "wg0", "/dev/stdin", text=f"[Interface]\nPrivateKey = {secret}\n")
    assert show("public-key") == own
    alone.wg("set", "wg0", "peer", second_public, "preshared-key", "/dev/stdin", text=shared)
    assert show("private-key") == secret
    assert show("preshared-keys") == f"{second_public}\t{shared}"
    alone.wg("set", "wg0", "private-key", "/dev/null", "peer", second_public, "preshared-key", "/dev/null")
    assert show("private-key") == "(none)"
    assert show("preshared-keys") == f"{second_public}\t(none)"
    set_key(second)  # the peer is now ourselves, and goes; it does not come back
    assert show("public-key") == second_public
    assert show("peers") == ""
    alone.wg("set", "wg0", "peer", second_public)
    assert show("peers") == ""
    set_key(secret)
    alone.wg("set", "wg0", "peer", second_public)
    assert show("peers") == second_public
    set_key("/" + secret[1:])  # stored clamped
    assert show("private-key") == "+" + secret[1:]
    for ips in ("0.0.0.0/0,10.0.0.0/8,100.0.0.0/10,172.16.0.0/12,192.168.0.0/16", "0.0.0.0/0",
                "::/0,1700::/111,5000::/4,e000::/37,9000::/75", "::/0"):
        alone.wg("set", "wg0", "peer", second_public, "allowed-ips", ips)
        assert sorted(show("allowed-ips").split("\t")[1].split()) == sorted(ips.split(","))
    alone.wg("set", "wg0", "peer", second_public, "remove")


# RFC 7748 section 7, "contributory behaviour"; the points of low order on the curve and its twist.
LOW_ORDER = ["00" * 32, "01" + "00" * 31,
             "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
             "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
             "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f"]


def test_public_keys_of_low_order_are_kept_and_sent_nothing(alone: Engine) -> None:
    good = keypair()[1]
    with closing(alone.host.socket()) as bad_end, closing(alone.host.socket()) as good_end:
        for end, port in ((bad_end, 1111), (good_end, 1112)):
            end.bind(("127.0.0.1", port))
        alone.wg("setconf", "wg0", "/dev/stdin", text=f"[Interface]\nPrivateKey = {keypair()[0]}\n")
        for key in LOW_ORDER:
            answer = alone.uapi(f"set=1\npublic_key={key}\nendpoint=127.0.0.1:1111\n"
                                "persistent_keepalive_interval=1\n\n")
            assert answer == "errno=0\n\n"
        assert len(alone.wg("show", "wg0", "peers").split()) == len(LOW_ORDER)
        alone.host.ip("link set wg0 up")
        # A good peer that is added last is greeted at once, so the bad ones had their turn.
        alone.wg("set", "wg0", "peer", good, "endpoint", "127.0.0.1:1112", "persistent-keepalive", "1")
        good_end.settimeout(60)
        assert len(good_end.recv(200)) == 148
        bad_end.settimeout(2)
        with pytest.raises(TimeoutError):
            bad_end.recv(200)
    alone.host.ip("link set wg0 down")


def test_interface_goes_with_its_namespace() -> None:
    """Two engines whose interfaces are in each other's host: the hosts end, so do the engines and tunnels."""
    with Lab() as lab:
        transport, left, right = lab.add_hosts(["transport", "left", "right"])
        engines = [transport.engine(name, PLAIT, wait=False) for name in ("wg1", "wg2")]
        for engine, host in zip(engines, (left, right), strict=True):
            move(engine.wait_ready(), host)
        left_side, right_side = joined(engines, (left, right), (1, 2))
        for side, other, port in ((left_side, right_side, 2), (right_side, left_side, 1)):
            set_peer(side, other, "endpoint", f"[::1]:{port}")
        assert left_side.echo(right_side.address6) == 3
        for engine, host in zip(engines, (left, right), strict=True):
            host.close()
            assert engine.process.wait() == 0
            assert engine.processes() == []
            assert not engine.socket_path.exists()
            check_words(engine.process)


def test_interfaces_in_each_others_namespaces() -> None:
    """No circle keeps anything alive when both hosts end; nor does a route that packets have taken."""
    with Lab() as lab:
        one, two = lab.add_hosts(["one", "two"])
        engines = [one.engine("wg1", PLAIT, wait=False), two.engine("wg2", PLAIT, wait=False)]
        link = lab.link(one, two)
        for engine, other in zip(engines, (two, one), strict=True):
            engine.wait_ready().host.ip(f"route add default via {link.address(other, 6)} dev eth0")
        sides = joined(engines, (one, two))
        for side, other in (sides, sides[::-1]):
            set_peer(side, other, "endpoint", link.endpoint(other.host, PORT, 6))
        assert sides[0].echo(sides[1].address6) == 3
        move(engines[0], two)
        move(engines[1], one)
        namespaces = {f"/proc/{host.pid}/ns/net" for host in (one, two)}
        inodes = {os.stat(path).st_ino for path in namespaces}
        # Not by their namespaces afterwards: the number of one that is gone is another's soon.
        held = [os.pidfd_open(int(pid)) for pid in holders(inodes)]
        assert held
        two.close()
        assert engines[0].process.wait() == 0  # its interface has gone
        one.close()
        eventually(lambda: len(select.select(held, [], [], 0)[0]) == len(held))
        for pidfd in held:
            os.close(pidfd)


def holders(inodes: set[int]) -> list[str]:
    """Processes in these network namespaces."""
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}/ns/net").st_ino in inodes:
                found.append(entry)
    return found


@pytest.mark.parametrize("engines", [(PLAIT, WIREGUARD_GO, PLAIT)], ids=["plait-go-plait"])
def test_many_streams_with_several_peers(engines: Sequence[Sequence[str]]) -> None:
    """A hub and three peers, two of them reached over IPv6: eight TCP streams with each at once."""
    with Lab() as lab:
        hub, *hosts = lab.add_hosts(["hub", "a", "b", "c"])
        secret, public = keypair()
        server = hub.engine("wg0", PLAIT, settings="receivers = 2\nconsumers = 2\n", wait=False)
        clients = [host.engine("wg0", command, wait=False)
                   for host, command in zip(hosts, engines, strict=True)]
        peers = []
        for number, client in enumerate(clients, 11):
            link = lab.link(hub, client.host)
            own, own_public = keypair()
            endpoint = link.endpoint(hub, PORT, 6 if number > 11 else 4)
            client.wait_ready().configure(own, [Peer(public, ["10.0.0.1/32"], endpoint)],
                                          [f"10.0.0.{number}/32"])
            peers.append(Peer(own_public, [f"10.0.0.{number}/32"]))
        server.wait_ready().configure(secret, peers, ["10.0.0.1/24"], PORT)
        with ThreadPoolExecutor(3) as pool:
            runs = [pool.submit(host.iperf3, hub, "10.0.0.1", 1, streams=8, port=next(_ports),
                                reverse=host is hosts[0]) for host in hosts]
        for run in runs:
            streams = run.result().report["end"]["streams"]
            assert len(streams) == 8
            assert all(stream["receiver"]["bytes"] > 0 for stream in streams)
        for engine in (server, clients[0], clients[2]):
            check_words(engine.process)
