"""MTU, routes, rules and firewall of an interface, as wg-quick(8) chooses them.

A default route (an allowed IP of length 0) must not swallow the engine's own datagrams. As
wg-quick does it: they carry a mark, the default route stands in a table of its own, a rule sends
there what is not marked, and another lets the main table's routes, its default excepted, go
first. Firewall rules refuse packets to the tunnel's addresses from other interfaces and keep the mark
with the connection, so that answers pass a strict reverse path filter.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import uapi
from plait import uapi_client
from plait.failure import Failure
from plait.programs import ip_json, run_command, undo_command
from plait.quick import iptables
from plait.uapi_client import Device

if TYPE_CHECKING:
    from pyroute2 import IPRoute

FIRST_TABLE = 51820  # wg-quick's: routing table and mark of a default route, the next free one
OVERHEAD = 80  # IPv6 40, UDP 8, data message 32: the most that a packet grows by
ETHERNET_MTU = 1500
MARKS_SETTING = "net.ipv4.conf.all.src_valid_mark"
SRC_VALID_MARK = Path("/proc/sys", *MARKS_SETTING.split("."))
MAIN_TABLE = "254"
COMPANION = ("table", "main", "suppress_prefixlength", "0")  # rule: of the main table, all but its default

IpFamily = str  # "-4" or "-6"


def mtu_of(device: Device) -> int:
    """wg-quick's choice: the smallest MTU on the way to a peer, else of the default route, else Ethernet's,
    less what a packet grows by."""
    from pyroute2 import IPRoute  # netlink: a gateway asks for thousands of ways, and each `ip` is a process

    hosts = [peer.endpoint.rpartition(":")[0].strip("[]") for peer in device.peers if peer.endpoint]
    # Marked as the engine's datagrams are: others may go into the tunnel already.
    mark = {"mark": device.fwmark} if device.fwmark else {}
    with IPRoute() as kernel:
        ways = (partial(kernel.route, "get", dst=host, **mark) for host in hosts)
        default = partial(_default_routes, kernel)
        mtus = [mtu for way in ways if (mtu := _route_mtu(kernel, way))]
        return (min(mtus, default=0) or _route_mtu(kernel, default) or ETHERNET_MTU) - OVERHEAD


def _default_routes(kernel: IPRoute) -> Iterator[Any]:
    for route in kernel.get_routes(family=socket.AF_INET):
        if route["dst_len"] == 0 and route.get_attr("RTA_TABLE") == int(MAIN_TABLE):
            yield route


def _route_mtu(kernel: IPRoute, ask: Callable[[], Iterable[Any]]) -> int:
    """The MTU of the first route that the kernel tells, its own or its device's; 0 for no route."""
    from pyroute2.netlink.exceptions import NetlinkError

    with contextlib.suppress(NetlinkError, OSError):  # no way there, or no address, as one with a zone
        for route in ask():
            if mtu := (route.get_attr("RTA_METRICS") or route).get_attr("RTAX_MTU"):
                return int(mtu)
            if index := route.get_attr("RTA_OIF"):
                return int(next(iter(kernel.get_links(index))).get_attr("IFLA_MTU"))
    return 0


def add_routes(device: Device, table: str, undo: ExitStack) -> None:
    """A route for each allowed IP, the longest prefixes first; equally long ones in wg-quick's order."""
    if table == "off":
        return
    prefixes = [prefix for peer in device.peers for prefix in peer.allowed_ips]
    for prefix in sorted(prefixes, key=_length_and_text, reverse=True):
        family = _family(prefix)
        if table != "auto":
            run_command("ip", family, "route", "add", prefix, "dev", device.name, "table", table)
        elif prefix.endswith("/0"):
            _add_default(device, prefix, undo)
        elif not ip_json(family, "route", "show", "dev", device.name, "match", prefix):
            run_command("ip", family, "route", "add", prefix, "dev", device.name)


def _length_and_text(prefix: str) -> tuple[int, str]:
    return int(prefix.rpartition("/")[2]), prefix


def _add_default(device: Device, prefix: str, undo: ExitStack) -> None:
    name, family = device.name, _family(prefix)
    if not device.fwmark:
        device.fwmark = _free_table()
        print(f"[#] configure {name}: fwmark {device.fwmark}", file=sys.stderr)
        uapi_client.change(name, uapi.format_set(uapi.Set(fwmark=device.fwmark)))
    table = str(device.fwmark)
    # The rules come first: with the route alone, a packet to the LAN would go into the tunnel meanwhile.
    _add_rule(undo, family, "not", "fwmark", table, "table", table)
    _add_rule(undo, family, *COMPANION)
    run_command("ip", family, "route", "add", prefix, "dev", name, "table", table)
    if family == "-4":
        _respect_marks(undo)
    undo.callback(remove_firewall, name, family)
    if shutil.which("nft"):
        run_command("nft", "-f", "-", text=firewall(name, family, addresses(name, family), device.fwmark))
    elif shutil.which(f"{iptables.program(family)}-restore"):
        iptables.add(name, family, addresses(name, family), device.fwmark)
    else:
        print(
            f"Warning: nft and iptables are missing, so packets to {name}'s addresses from other interfaces "
            "are not refused, and a strict reverse path filter may drop answers. Mend it: apt-get install "
            "nftables",
            file=sys.stderr,
        )


def _add_rule(undo: ExitStack, family: IpFamily, *selector: str) -> None:
    """Add a rule; undone by its own priority, since another tunnel may have a rule that is the same."""
    before = {rule["priority"] for rule in ip_json(family, "rule", "show")}
    run_command("ip", family, "rule", "add", *selector)
    added = {rule["priority"] for rule in ip_json(family, "rule", "show")} - before
    for priority in added:
        undo.callback(_delete_rule, family, priority, *selector)


def _respect_marks(undo: ExitStack) -> None:
    """Let the reverse path filter look at marks. Containers may read this setting and not write it."""
    before = SRC_VALID_MARK.read_text()
    if before.strip() == "1":
        return
    print(f"[#] sysctl {MARKS_SETTING}=1", file=sys.stderr)
    try:
        SRC_VALID_MARK.write_text("1\n")
    except OSError as error:
        mend = f"In a container, set it from outside: docker run --sysctl {MARKS_SETTING}=1 …"
        raise Failure(f"{MARKS_SETTING} cannot be set to 1", error.strerror or str(error), mend) from error
    undo.callback(SRC_VALID_MARK.write_text, before)


def firewall(name: str, family: IpFamily, addresses: Sequence[str], mark: int) -> str:
    """The table, in nft's language. It bears wg-quick's name for it, so that either takes it down."""
    ip = "ip" if family == "-4" else "ip6"
    refused = "\n".join(
        f'    iifname != "{name}" {ip} daddr {address} fib saddr type != local drop' for address in addresses
    )
    return f"""\
table {ip} wg-quick-{name} {{
  chain preraw {{
    type filter hook prerouting priority -300; policy accept;
{refused}
  }}
  chain premangle {{
    type filter hook prerouting priority -150; policy accept;
    meta l4proto udp meta mark set ct mark
  }}
  chain postmangle {{
    type filter hook postrouting priority -150; policy accept;
    meta l4proto udp meta mark {mark} ct mark set meta mark
  }}
}}
"""


def remove_firewall(name: str, *families: IpFamily) -> None:
    """Delete the interface's tables of nft, and its rules of iptables."""
    families = families or ("-4", "-6")
    iptables.remove(name, *families)
    if not shutil.which("nft"):
        return
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    for family in families:
        ip = "ip" if family == "-4" else "ip6"
        if f"table {ip} wg-quick-{name}" in tables.splitlines():
            undo_command("nft", "delete", "table", ip, f"wg-quick-{name}")


def remove_rules(device: Device, table: str) -> None:
    """Delete the rules of a default route, and its table's others, as wg-quick does when a peer has one."""
    prefixes = [prefix for peer in device.peers for prefix in peer.allowed_ips]
    if table == "auto" and device.fwmark and any(prefix.endswith("/0") for prefix in prefixes):
        for family in ("-4", "-6"):
            _remove_rules(family, device.fwmark)


def _remove_rules(family: IpFamily, mark: int) -> None:
    """Delete each rule of a mark's table, and the companion of each that `up` made.

    All full tunnels have the same companion, so that it is told by its priority: the kernel gives a
    new rule the one below the least, so the companion of a rule is the next below that rule.
    """
    rules = ip_json("-N", family, "rule", "show")
    companions = [rule["priority"] for rule in rules if _is_companion(rule)]
    for rule in rules:
        if rule.get("table") != str(mark):
            continue
        priority = rule["priority"]
        _delete_rule(family, priority, "table", str(mark))
        below = [other for other in companions if other < priority]
        if "not" in rule and below:
            companions.remove(max(below))
            _delete_rule(family, max(below), *COMPANION)


def _is_companion(rule: dict[str, Any]) -> bool:
    return rule.get("table") == MAIN_TABLE and rule.get("suppress_prefixlen") == 0


def _delete_rule(family: IpFamily, priority: int, *selector: str) -> None:
    undo_command("ip", family, "rule", "delete", "priority", str(priority), *selector)


def _free_table() -> int:
    """The first routing table from wg-quick's on that is empty in both families."""
    table = FIRST_TABLE
    while any(ip_json(family, "route", "show", "table", str(table)) for family in ("-4", "-6")):
        table += 1
    return table


def addresses(name: str, family: IpFamily) -> list[str]:
    links = ip_json(family, "address", "show", "dev", name)
    return [entry["local"] for link in links for entry in link.get("addr_info", ())]


def _family(prefix: str) -> IpFamily:
    return "-6" if ":" in prefix else "-4"
