"""`plait reload`'s changes to a host: addresses, MTU, DNS, routes, rules and firewall of an interface.

What is already as the file says is not touched. When a change fails, those before it are undone: routes and
firewall are restored as they were before all changes, everything else one by one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from plait.failure import Failure
from plait.programs import complaints, ip_json, run_command
from plait.quick.quick_file import Conf, _mtu
from plait.quick.routes import add_routes as add_default_routes
from plait.quick.routes import addresses, firewall, mtu_of, remove_firewall
from plait.quick.up_down import _resolvconf_name
from plait.uapi_client import Device, Peer

FAMILIES = ("-4", "-6")
ANY = {"-4": "0.0.0.0/0", "-6": "::/0"}


def undone(step: Callable[..., None], *arguments: object) -> None:
    """Undo a step. A failure is reported and not raised, so that the other steps are undone too."""
    with complaints():
        step(*arguments)


# --- addresses, MTU, DNS ------------------------------------------------------------------------


def set_addresses(name: str, conf: Conf, undo: ExitStack) -> None:
    """The file's addresses, and no others."""
    before = {family: _cidrs(name, family) for family in FAMILIES}
    for family, bits in zip(FAMILIES, (32, 128), strict=True):
        wanted = [str(address) for address in conf.interface.addresses if address.bits == bits]
        if set(wanted) == set(before[family]):
            continue
        undo.callback(undone, _make_addresses, name, family, before[family])
        _make_addresses(name, family, wanted)


def _make_addresses(name: str, family: str, wanted: Sequence[str]) -> None:
    """Add the new addresses, then delete the old ones alone: an address takes its routes with it."""
    routes = routes_of(name, family)
    _add_addresses(name, family, wanted)
    with _promoted_secondaries(name):
        for address in _cidrs(name, family):
            if address not in wanted and address in _cidrs(name, family):
                run_command("ip", family, "address", "delete", address, "dev", name)
    _add_addresses(name, family, wanted)
    _add_missing_routes(name, routes, routes_of(name, family))  # the last IPv4 address took them all


@contextlib.contextmanager
def _promoted_secondaries(name: str) -> Iterator[None]:
    """Let the kernel keep the other addresses of a subnet when one is deleted (IPv4)."""
    switch = Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries")
    before = switch.read_text()
    with contextlib.suppress(OSError):  # where /proc/sys is read-only, the next one is missing for a moment
        switch.write_text("1\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            switch.write_text(before)


def _add_addresses(name: str, family: str, wanted: Sequence[str]) -> None:
    present = _cidrs(name, family, with_links=True)
    for address in dict.fromkeys(wanted):
        if address not in present:
            run_command("ip", family, "address", "add", address, "dev", name)


def _cidrs(name: str, family: str, *, with_links: bool = False) -> list[str]:
    """Addresses of the interface that the file may have set.

    Left out are link-local addresses, which the kernel sets as a rule, and point-to-point addresses, which a
    hook set.
    """
    links = ip_json(family, "address", "show", "dev", name)
    entries = [entry for link in links for entry in link.get("addr_info", ())]
    return [
        f"{entry['local']}/{entry['prefixlen']}"
        for entry in entries
        if with_links or (entry.get("scope") != "link" and "address" not in entry)
    ]


def set_mtu(wanted: Device, conf: Conf, undo: ExitStack) -> None:
    """The file's MTU; without one, what the routes to the peers' endpoints allow."""
    name, now = wanted.name, _mtu(wanted.name)
    mtu = conf.interface.mtu or mtu_of(wanted)
    if mtu != now:
        undo.callback(undone, run_command, "ip", "link", "set", "mtu", str(now), "dev", name)
        run_command("ip", "link", "set", "mtu", str(mtu), "dev", name)


def set_dns(name: str, conf: Conf, undo: ExitStack) -> None:
    """The file's name servers. Without any in the file, those that resolvconf has for the interface go."""
    if not shutil.which("resolvconf"):
        return
    lines = [f"nameserver {server}" for server in conf.interface.dns]
    if lines and conf.interface.dns_search:
        lines.append(f"search {' '.join(conf.interface.dns_search)}")
    before = _dns_record(name)
    if lines != before:
        undo.callback(undone, _make_dns, name, before)
        _make_dns(name, lines)


def _make_dns(name: str, lines: Sequence[str]) -> None:
    if lines:
        text = "\n".join(lines) + "\n"
        run_command("resolvconf", "-a", _resolvconf_name(name), "-m", "0", "-x", text=text)
    else:
        run_command("resolvconf", "-d", _resolvconf_name(name), "-f")


def _dns_record(name: str) -> list[str]:
    """What resolvconf has for the interface: openresolv prints it, Debian's old one has a file."""
    done = subprocess.run(
        ["resolvconf", "-l", _resolvconf_name(name)], capture_output=True, text=True, check=False
    )
    text = done.stdout
    if done.returncode:
        try:
            text = Path("/etc/resolvconf/run/interface", _resolvconf_name(name)).read_text()
        except OSError:
            text = ""
    words = [line.split() for line in text.splitlines()]
    return [" ".join(line) for line in words if line and line[0] in ("nameserver", "search")]


# --- routes -------------------------------------------------------------------------------------


def check_table(before: Device, conf: Conf, config: str) -> None:
    """Refuse a file with another Table than the interface was set up with, if its routes show which."""
    name, table = before.name, conf.interface.table
    if table == "off":
        return
    for family in FAMILIES:
        prefixes = _prefixes(before, family)
        tables = {entry[0] for entry in routes_of(name, family) if entry[1] in prefixes}
        homes = ["main", str(before.fwmark)] if table == "auto" else [table]
        at_home = [entry for home in homes for entry in routes_of(name, family, home)]
        if tables and not any(entry[1] in prefixes for entry in at_home):
            why = f"its routes stand in table {', '.join(sorted(tables))}, which the file does not name"
            mend = f"Take the interface down and set it up again: plait down {config}; plait up {config}"
            raise Failure(f"{name} cannot be reloaded with another Table", why, mend)


def set_default_routes(before: Device, wanted: Device, conf: Conf, undo: ExitStack) -> None:
    """Routing table, rules and firewall of the default route, for each family that had or gets one."""
    if conf.interface.table != "auto":
        return
    is_gone = False
    for family in FAMILIES:
        rules = _rules(before, family)
        old = default_of(before, family) if rules else None
        new = default_of(wanted, family)
        if old and new and old.fwmark == new.fwmark:
            _refresh_firewall(wanted.name, family, new.fwmark)
            continue
        if old:
            undo.callback(undone, _come_back, old, family)
            remove_firewall(wanted.name, family)
        if new:  # before the old one goes, so that no packet takes another way in between
            add_default_routes(new, "auto", undo)
            wanted.fwmark = new.fwmark
        if old:
            _drop_default(old, family, rules)
            is_gone = True
    if is_gone and not conf.interface.fwmark and not any(default_of(wanted, one) for one in FAMILIES):
        wanted.fwmark = 0  # it was chosen for the default route


def _rules(device: Device, family: str) -> list[list[str]]:
    """The rules of the default route: each that names its table, and the rule for `main` before it."""
    shown = ip_json(family, "rule", "show")
    companions = [rule for rule in shown if rule.get("table") == "main" and "suppress_prefixlen" in rule]
    found = []
    for rule in shown:
        if device.fwmark and rule.get("table") == str(device.fwmark):
            found.append(["pref", str(rule["priority"]), "table", str(device.fwmark)])
            before = [each for each in companions if each["priority"] <= rule["priority"]]
            if before:
                main = ["table", "main", "suppress_prefixlength", "0"]
                found.append(["pref", str(before[-1]["priority"]), *main])
                companions.remove(before[-1])
    return found


def _drop_default(device: Device, family: str, rules: Sequence[Sequence[str]]) -> None:
    for rule in rules:
        run_command("ip", family, "rule", "delete", *rule)
    for entry in routes_of(device.name, family):
        if entry[:2] == (str(device.fwmark), ANY[family]):
            _change_route("delete", device.name, entry)


def _come_back(device: Device, family: str) -> None:
    """Undo: the default route comes back, and parts of it may still be there."""
    remove_firewall(device.name, family)
    _drop_default(device, family, _rules(device, family))
    add_default_routes(device, "auto", ExitStack())


def default_of(device: Device, family: str) -> Device | None:
    """A copy of the device with the family's default route as its only allowed IP; None when it has none."""
    if ANY[family] not in _prefixes(device, family):
        return None
    return replace(device, peers=[Peer("", allowed_ips=[ANY[family]])])


def firewalls_of(name: str) -> dict[str, str]:
    """The text of the interface's nft table, by family; empty where there is none."""
    shown = {}
    for family, ip in zip(FAMILIES, ("ip", "ip6"), strict=True):
        shown[family] = ""
        if shutil.which("nft"):
            command = ["nft", "list", "table", ip, f"wg-quick-{name}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            shown[family] = "" if done.returncode else done.stdout
    return shown


def restore_firewall(name: str, before: Mapping[str, str]) -> None:
    """Undo: each nft table as it was, with the addresses that it named."""
    for family, now in firewalls_of(name).items():
        if before[family] != now:
            _replace_firewall(name, family, now, before[family])


def _refresh_firewall(name: str, family: str, mark: int) -> None:
    """Make the firewall name the interface's present addresses. Undone by restore_firewall."""
    now = firewalls_of(name)[family]
    named = [line.split(" daddr ")[1].split()[0] for line in now.splitlines() if " daddr " in line]
    present = addresses(name, family)
    if now and set(named) != set(present):
        _replace_firewall(name, family, now, firewall(name, family, present, mark))


def _replace_firewall(name: str, family: str, now: str, text: str) -> None:
    """Replace the table in one transaction, so that every packet meets the old one or the new one."""
    drop = f"delete table {'ip' if family == '-4' else 'ip6'} wg-quick-{name}\n" if now else ""
    run_command("nft", "-f", "-", text=drop + text)


def set_routes(before: Device, wanted: Device, conf: Conf) -> None:
    """A route for each allowed IP, but not the default routes of `Table = auto`. Undone by restore_routes."""
    table = conf.interface.table
    if table == "off":
        return
    home = "main" if table == "auto" else table
    # The kernel has a route to the network of each address.
    connected = [ipaddress.ip_interface(str(address)).network for address in conf.interface.addresses]
    for family in FAMILIES:
        own = {entry[1]: entry for entry in routes_of(wanted.name, family, home)}
        old, new = _prefixes(before, family), _prefixes(wanted, family)
        if table == "auto":
            new = {prefix for prefix in new if not _is_within(prefix, connected)}
            old, new = old - {ANY[family]}, new - {ANY[family]}
        for prefix in sorted(set(own) & old - new):
            _change_route("delete", wanted.name, own[prefix])
        for prefix in sorted(new - set(own), key=_length, reverse=True):
            where = ["dev", wanted.name, "table", home]
            if not ip_json(family, "route", "show", "exact", prefix, *where):
                run_command("ip", family, "route", "add", prefix, *where)


def _is_within(prefix: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    inner = ipaddress.ip_network(prefix)
    return any(inner.version == outer.version and inner.subnet_of(outer) for outer in networks)  # type: ignore[arg-type]


def _length(prefix: str) -> int:
    return int(prefix.rpartition("/")[2])


def _prefixes(device: Device, family: str) -> set[str]:
    prefixes = {ip for peer in device.peers for ip in peer.allowed_ips}
    return {prefix for prefix in prefixes if (":" in prefix) == (family == "-6")}


Route = tuple[str, str, str]  # table, prefix, and what `ip route` prints, without the interface


def routes_of(name: str, family: str | None = None, table: str = "all") -> list[Route]:
    """Routes through the interface, without those that the kernel made."""
    found = []
    for each in [family] if family else FAMILIES:
        command = ["ip", each, "route", "show", "table", table, "dev", name]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for line in shown.splitlines():
            if line[0].isspace():  # a next hop of a multipath route, which no allowed IP has
                continue
            words = [word for word in line.split() if word not in ("linkdown", "dead")]
            if "kernel" in words or words[0] in ("local", "broadcast", "multicast", "anycast"):
                continue
            if "table" not in words and table not in ("all", "main"):
                words += ["table", table]
            words[0] = str(ipaddress.ip_network(ANY[each] if words[0] == "default" else words[0]))
            home = words[words.index("table") + 1] if "table" in words else "main"
            found.append((home, words[0], " ".join(words)))
    return found


def restore_routes(name: str, before: Sequence[Route]) -> None:
    """Undo: delete the routes that were added, add those that were deleted."""
    now = routes_of(name)
    for entry in sorted(set(now) - set(before)):
        with complaints():
            _change_route("delete", name, entry)
    with complaints():
        _add_missing_routes(name, before, now)


def _add_missing_routes(name: str, wanted: Iterable[Route], now: Iterable[Route]) -> None:
    for entry in sorted(set(wanted) - set(now)):
        _change_route("add", name, entry)


def _change_route(verb: str, name: str, entry: Route) -> None:
    family = "-6" if ":" in entry[1] else "-4"
    run_command("ip", family, "route", verb, *entry[2].split(), "dev", name)
