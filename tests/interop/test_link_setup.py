"""What the kernel module sets on its device (device.c, wg_setup and wg_open), as the hosts show it.

    client 10.0.0.2 ── hub 10.0.0.1, which forwards; its second peer, 10.0.0.3, is not there
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from plait.lab.namespaces import PLAIT, Host, Lab, Link, Peer, keypair, search_path
from tests.support.tunnel import Side, eventually
from tests.support.waiting import until

pytestmark = pytest.mark.network

ABSENT4, ABSENT6 = "10.0.0.3", "fd01::3"
ALL_REDIRECTS = "/proc/sys/net/ipv4/conf/all/send_redirects"


def link_of(host: Host, name: str) -> dict[str, Any]:
    """What `ip -d link` says of an interface."""
    found: list[dict[str, Any]] = json.loads(host.run(["ip", "-d", "-j", "link", "show", name]).stdout)
    return found[0]


def addresses_of(host: Host, name: str) -> list[str]:
    found = json.loads(host.run(["ip", "-j", "address", "show", name]).stdout)[0]["addr_info"]
    return [each["local"] for each in found]


def setting(host: Host, path: str) -> str:
    return host.run(["cat", path]).stdout.strip()


def move(host: Host, name: str, there: Host) -> None:
    """An interface of host goes to another; its engine stays."""
    subprocess.run(["nsenter", "-t", str(host.pid), "-n", "ip", "link", "set", name, "netns", str(there.pid)],
                   check=True, env={"PATH": search_path()})


def counted(host: Host) -> dict[str, int]:
    """The kernel's figures of IP and ICMP, both families."""
    found = {}
    lines = [line.split() for line in host.run(["cat", "/proc/net/snmp"]).stdout.splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        for name, value in zip(names[1:], values[1:], strict=True):
            found[names[0].rstrip(":") + name] = int(value)
    for line in host.run(["cat", "/proc/net/snmp6"]).stdout.splitlines():
        name, value = line.split()
        found[name] = int(value)
    return found


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[Side, Side, Host]]:
    """Hub, client, and a host without anything."""
    with Lab() as lab:
        center, edge, elsewhere = lab.add_hosts(["hub", "client", "elsewhere"])
        link: Link = lab.link(center, edge)
        center.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        assert setting(center, ALL_REDIRECTS) == "1"
        keys = [keypair(), keypair()]
        sides = [Side(host, host.engine("wg0", PLAIT), *pair, f"10.0.0.{n}", f"fd01::{n}")
                 for n, (host, pair) in enumerate(zip((center, edge), keys, strict=True), 1)]
        sides[0].engine.configure(
            keys[0][0],
            [Peer(keys[1][1], ["10.0.0.2/32", "fd01::2/128"]),
             Peer(keypair()[1], [f"{ABSENT4}/32", f"{ABSENT6}/128"], endpoint=link.endpoint(edge, 9))],
            ["10.0.0.1/24", "fd01::1/112"], 51820)
        sides[1].engine.configure(
            keys[1][0],
            [Peer(keys[0][1], ["10.0.0.0/24", "fd01::/112"], endpoint=link.endpoint(center, 51820))],
            ["10.0.0.2/24", "fd01::2/112"], 51820)
        yield sides[0], sides[1], elsewhere


def test_flags_and_bounds(hub: tuple[Side, Side, Host]) -> None:
    found = link_of(hub[0].host, "wg0")
    assert set(found["flags"]) == {"POINTOPOINT", "NOARP", "UP", "LOWER_UP"}
    assert (found["link_type"], found["mtu"], found["txqlen"]) == ("none", 1420, 1024)
    assert (found["min_mtu"], found["max_mtu"]) == (68, 65535)
    assert found["inet6_addr_gen_mode"] == "none"
    assert "address" not in found


def test_a_hub_sends_no_redirects(hub: tuple[Side, Side, Host]) -> None:
    center, edge, _ = hub
    before = counted(center.host)
    for absent in (ABSENT4, ABSENT6):
        assert edge.echo(absent, 3, timeout=0.3) == 0

    def forwarded() -> bool:
        now = counted(center.host)
        return all(now[name] >= before[name] + 3 for name in ("IpForwDatagrams", "Ip6OutForwDatagrams"))

    eventually(forwarded)
    now = counted(center.host)
    assert [now[name] - before[name] for name in ("IcmpOutRedirects", "Icmp6OutRedirects")] == [0, 0]
    assert setting(center.host, ALL_REDIRECTS) == "0"


def test_no_address_of_its_own_and_no_false_event(hub: tuple[Side, Side, Host]) -> None:
    """As a router the host tells which groups it is in, from no address: that is no fault, and no event."""
    center = hub[0]
    eventually(lambda: center.counters()["drop_no_peer_multicast"] > 0)
    assert sorted(addresses_of(center.host, "wg0")) == ["10.0.0.1", "fd01::1"]
    assert center.counters()["drop_no_peer"] == 0
    assert '"packets_no_peer"' not in center.engine.uapi("events=0\n\n")


def test_an_interface_that_moves_is_set_up_where_it_goes(hub: tuple[Side, Side, Host]) -> None:
    """Renamed as well: it is found by its queue."""
    client, elsewhere = hub[1], hub[2]
    assert setting(elsewhere, ALL_REDIRECTS) == "1"
    client.host.ip("link set wg0 down", "link set wg0 name tunnel0")
    client.engine.interface = "tunnel0"
    until(client.engine.socket_path.exists, "its socket file, called as it is")
    move(client.host, "tunnel0", elsewhere)
    until(lambda: link_of(elsewhere, "tunnel0")["inet6_addr_gen_mode"] == "none", "its setup elsewhere")
    own = "/proc/sys/net/ipv4/conf/tunnel0/send_redirects"
    assert [setting(elsewhere, path) for path in (ALL_REDIRECTS, own)] == ["0", "0"]
    elsewhere.ip("link set tunnel0 up")
    assert addresses_of(elsewhere, "tunnel0") == []
    # As the module does, at the next time that it goes up.
    elsewhere.run(["sysctl", "-qw", "net.ipv4.conf.all.send_redirects=1",
                   "net.ipv4.conf.tunnel0.send_redirects=1"])
    elsewhere.ip("link set tunnel0 down")
    eventually(lambda: '"interface_down"' in client.engine.uapi("events=0\n\n"))
    elsewhere.ip("link set tunnel0 up")
    until(lambda: [setting(elsewhere, path) for path in (ALL_REDIRECTS, own)] == ["0", "0"], "the next up")


def test_with_multicast_it_is_as_wireguard_go_s() -> None:
    """The flag and the kernel's own link-local address; redirects are off all the same."""
    with Lab() as lab:
        host = lab.host("multicast")
        engine = host.engine("wg0", PLAIT, settings="multicast = true\n")
        host.ip("link set wg0 up")
        until(lambda: setting(host, "/proc/sys/net/ipv4/conf/wg0/send_redirects") == "0", "its setup")
        assert "MULTICAST" in link_of(host, "wg0")["flags"]
        assert [each[:6] for each in addresses_of(host, "wg0")] == ["fe80::"]
        assert engine.stop() == 0


def test_a_read_only_proc_sys_is_said_once_and_nothing_else_lost() -> None:
    """As in many containers. What netlink can set is set all the same."""
    with Lab() as lab:
        host = lab.host("container")
        script = ("mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && "
                  "exec plaitd -f {iface}")
        engine = host.engine("wg0", ["unshare", "-m", "sh", "-c", script])
        host.ip("link set wg0 up")
        eventually(lambda: '"interface_up"' in engine.uapi("events=0\n\n"))
        assert link_of(host, "wg0")["inet6_addr_gen_mode"] == "none"
        assert addresses_of(host, "wg0") == []
        assert setting(host, "/proc/sys/net/ipv4/conf/wg0/send_redirects") == "0"
        assert setting(host, ALL_REDIRECTS) == "1"
        host.ip("link set wg0 down", "link set wg0 up")
        said = [line for line in engine.process.output().splitlines() if "ICMP redirects" in line]
        assert len(said) == 1 and "sysctl net.ipv4.conf.all.send_redirects=0" in said[0], said
        assert engine.stop() == 0


def test_an_interface_without_ipv6_is_said_to_keep_nothing() -> None:
    """The kernel takes IPv6 off a device whose MTU is below 1280."""
    with Lab() as lab:
        host = lab.host("narrow")
        engine = host.engine("wg0")
        until(lambda: "wg0 is ready" in engine.process.output(), "an engine")
        host.ip("link set wg0 mtu 1279", "link set wg0 up")
        eventually(lambda: '"interface_up"' in engine.uapi("events=0\n\n"))
        assert engine.stop() == 0  # all that was asked for before is done by then
        assert "keeps" not in engine.process.output()
