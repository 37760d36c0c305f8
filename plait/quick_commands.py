"""`plait strip`, `plait save` and `plait reload`: a wg-quick file while its interface runs.

`reload` makes the running interface what the file says, as `wg syncconf` does for keys and peers, and for
addresses, MTU, routes, rules, firewall and DNS besides. What is the same in both is not touched, so
sessions and streams of peers that stay go on. Peers that the file no longer has go last: their
sessions are all that could not be given back. Each step leaves behind how to undo it, as in `plait up`.

Hooks are not run, and what they may have set while the file is silent stays: private key, UDP port, firewall
mark, and routes that belong to no allowed IP.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from engine import conf as wgconf
from engine import uapi
from plait import keys, uapi_client
from plait.failure import Failure
from plait.programs import complaints, ip_json, run_command
from plait.quick import _interruptible, _resolvconf_name, resolve
from plait.quick_file import Conf, _mtu, read
from plait.quick_file import save as save_file
from plait.routes import add_routes as add_default_routes
from plait.routes import addresses, firewall, mtu_of, remove_firewall
from plait.uapi_client import Device, Peer

FAMILIES = ("-4", "-6")
ANY = {"-4": "0.0.0.0/0", "-6": "::/0"}
ZERO_KEY = bytes(32)


def strip(config: str) -> None:
    """Print what `wg setconf` takes of a wg-quick file. Failure when the file is refused."""
    _, path, _ = read(config)
    text = wgconf.strip(path.read_bytes().decode("utf-8", "surrogateescape"))
    keys.warn_about_public_output(sys.stdout.fileno(), sys.stderr)
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def save(config: str) -> None:
    """Write what is in force into the file. Failure when that fails; the file is then as before."""
    name, path, conf = read(config)
    save_file(_running(name, "saved", config), path, conf)


def reload(config: str) -> None:
    """Make the running interface what the file says. Failure when a step fails; all is then as before."""
    name, path, conf = read(config)
    before = _running(name, "reloaded", config)
    if conf.interface.dns and not shutil.which("resolvconf"):
        mend = "Install it (apt-get install openresolv), or take these lines out of the file."
        raise Failure(f"the DNS lines of {path} cannot be applied", "resolvconf is not installed", mend)
    _check_table(before, conf, config)
    wanted = wanted_device(before, conf)
    with _interruptible(), ExitStack() as undo:
        undo.callback(_restore_routes, name, _routes(name))
        undo.callback(_set_engine, name, before)
        _set_addresses(name, conf, undo)
        _set_engine(name, wanted, with_removals=False)
        _set_mtu(wanted, conf, undo)
        _set_default_routes(before, wanted, conf, undo)
        _set_routes(before, wanted, conf)
        _set_dns(name, conf, undo)
        _set_engine(name, wanted)
        undo.pop_all()


def _running(name: str, what: str, config: str) -> Device:
    if os.geteuid() != 0:
        verb = {"saved": "save", "reloaded": "reload"}[what]
        why = "its keys, addresses and routes are root's"
        raise Failure(f"{config} cannot be {what}", why, f"Run: sudo plait {verb} {config}")
    if not uapi_client.is_live(name):
        mend = f"Set it up first: plait up {config} (those that run: plait show interfaces)."
        raise Failure(f"{name} cannot be {what}", "no engine listens for it", mend)
    return uapi_client.get(name)


# --- engine -------------------------------------------------------------------------------------


def wanted_device(now: Device, conf: Conf) -> Device:
    """The interface that the file describes, endpoints resolved. Failure when a name has no address."""
    operation = wgconf.to_set(conf, resolve)
    interface = conf.interface
    wanted = Device(now.name, now.private_key, interface.listen_port or now.listen_port, now.fwmark)
    if interface.private_key:
        wanted.private_key = wgconf.key_text(interface.private_key)
    if interface.fwmark is not None:
        wanted.fwmark = interface.fwmark
    present = {peer.public_key: peer for peer in now.peers}
    peers: dict[str, Peer] = {}
    for change in operation.peers:
        key = wgconf.key_text(change.public_key)
        if key == wanted.public_key:  # an engine ignores a peer that is itself
            continue
        old = present.get(key)
        peer = peers.get(key) or Peer(key, endpoint=old.endpoint if old else "")
        if not change.replace_allowed_ips and old and key not in peers:
            peer.allowed_ips = list(old.allowed_ips)
        if change.preshared_key is not None:
            peer.preshared_key = wgconf.key_text(change.preshared_key) if any(change.preshared_key) else ""
        if change.endpoint is not None:
            peer.endpoint = str(change.endpoint)
        if change.keepalive is not None:
            peer.keepalive = change.keepalive
        if change.replace_allowed_ips:
            peer.allowed_ips = []
        peers[key] = peer
        for ip in change.allowed_ips:
            prefix = str(ip._replace(removed=False))
            for owner in [peer] if ip.removed else peers.values():  # an allowed IP has one peer, the last
                if prefix in owner.allowed_ips:
                    owner.allowed_ips.remove(prefix)
            if not ip.removed:
                peer.allowed_ips.append(prefix)
    wanted.peers = list(peers.values())
    return wanted


def difference(now: Device, wanted: Device, *, can_remove_ips: bool) -> uapi.Set:
    """The operation that makes an engine what is wanted, peers that are not wanted excepted.

    Nothing is mentioned that is the same in both: a mentioned UDP port opens sockets anew, a replaced list
    of allowed IPs loses packets. can_remove_ips: the engine knows `allowed_ip=-`; others are given the list.
    """
    made = uapi.Set()
    if wanted.private_key != now.private_key:
        made.private_key = wgconf.key_bytes(wanted.private_key) if wanted.private_key else ZERO_KEY
    if wanted.listen_port != now.listen_port:
        made.listen_port = wanted.listen_port
    if wanted.fwmark != now.fwmark:
        made.fwmark = wanted.fwmark
    present = {peer.public_key: peer for peer in now.peers}
    moved = {ip: peer.public_key for peer in wanted.peers for ip in peer.allowed_ips}
    for peer in wanted.peers:
        key = peer.public_key
        old = present.get(key) or Peer(key)
        change = uapi.PeerChange(wgconf.key_bytes(key))
        if peer.preshared_key != old.preshared_key:
            change.preshared_key = wgconf.key_bytes(peer.preshared_key) if peer.preshared_key else ZERO_KEY
        if peer.endpoint and peer.endpoint != old.endpoint:
            host, _, port = peer.endpoint.rpartition(":")
            change.endpoint = wgconf.Host(host.strip("[]"), int(port)).endpoint
        if peer.keepalive != old.keepalive:
            change.keepalive = peer.keepalive
        gone = [ip for ip in old.allowed_ips if moved.get(ip) is None]
        change.replace_allowed_ips = bool(gone) and not can_remove_ips
        kept = [] if change.replace_allowed_ips else old.allowed_ips
        change.allowed_ips = [_allowed_ip(ip) for ip in peer.allowed_ips if ip not in kept]
        if gone and can_remove_ips:
            change.allowed_ips += [_allowed_ip(ip)._replace(removed=True) for ip in gone]
        if key not in present or change != uapi.PeerChange(change.public_key):
            made.add_peer(change)
    return made


def removals(now: Device, wanted: Device) -> uapi.Set:
    """The operation that takes away the peers that are not wanted."""
    made = uapi.Set()
    stay = {peer.public_key for peer in wanted.peers}
    for peer in now.peers:
        if peer.public_key not in stay:
            made.add_peer(uapi.PeerChange(wgconf.key_bytes(peer.public_key), remove=True))
    return made


def _allowed_ip(prefix: str) -> uapi.AllowedIP:
    network = ipaddress.ip_network(prefix)
    return uapi.AllowedIP(network.network_address.packed, network.max_prefixlen, network.prefixlen)


def _set_engine(name: str, wanted: Device, *, with_removals: bool = True) -> None:
    now = uapi_client.get(name)
    operation = difference(now, wanted, can_remove_ips=_is_plaitd(name))
    if operation != uapi.Set():
        print(f"[#] configure {name}: {operation.peer_count} of {len(now.peers)} peers", file=sys.stderr)
        uapi_client.change(name, uapi.format_set(operation))
    operation = removals(now, wanted)
    if with_removals and operation.peer_count:
        print(f"[#] configure {name}: remove {operation.peer_count} peers", file=sys.stderr)
        uapi_client.change(name, uapi.format_set(operation))


def _is_plaitd(name: str) -> bool:
    try:
        uapi_client.engine(name)
    except Failure:
        return False
    return True


# --- addresses, MTU, DNS ------------------------------------------------------------------------


def _set_addresses(name: str, conf: Conf, undo: ExitStack) -> None:
    before = {family: _cidrs(name, family) for family in FAMILIES}
    for family, bits in zip(FAMILIES, (32, 128), strict=True):
        wanted = [str(address) for address in conf.interface.addresses if address.bits == bits]
        if set(wanted) == set(before[family]):
            continue
        undo.callback(_make_addresses, name, family, before[family])
        _make_addresses(name, family, wanted)


def _make_addresses(name: str, family: str, wanted: Sequence[str]) -> None:
    """New ones come before old ones go, and no other goes with them: they would take routes along."""
    routes = _routes(name, family)
    _add_addresses(name, family, wanted)
    with _promoted_secondaries(name):
        for address in _cidrs(name, family):
            if address not in wanted and address in _cidrs(name, family):
                run_command("ip", family, "address", "delete", address, "dev", name)
    _add_addresses(name, family, wanted)
    _add_missing_routes(name, routes, _routes(name, family))  # with the last address of IPv4 they all went


@contextlib.contextmanager
def _promoted_secondaries(name: str) -> Iterator[None]:
    """An IPv4 address that goes leaves its place to the next one of its subnet, which else goes with it."""
    switch = Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries")
    before = switch.read_text()
    with contextlib.suppress(OSError):  # where /proc/sys is read-only, there is a gap instead
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
    """Addresses of the interface. Link-local ones are the kernel's as a rule: they are never taken away."""
    links = ip_json(family, "address", "show", "dev", name)
    entries = [entry for link in links for entry in link.get("addr_info", ())]
    return [
        f"{entry['local']}/{entry['prefixlen']}"
        for entry in entries
        if with_links or entry.get("scope") != "link"
    ]


def _set_mtu(wanted: Device, conf: Conf, undo: ExitStack) -> None:
    name, now = wanted.name, _mtu(wanted.name)
    mtu = conf.interface.mtu or mtu_of(wanted)
    if mtu != now:
        undo.callback(run_command, "ip", "link", "set", "mtu", str(now), "dev", name)
        run_command("ip", "link", "set", "mtu", str(mtu), "dev", name)


def _set_dns(name: str, conf: Conf, undo: ExitStack) -> None:
    if not shutil.which("resolvconf"):
        return
    lines = [f"nameserver {server}" for server in conf.interface.dns]
    if lines and conf.interface.dns_search:
        lines.append(f"search {' '.join(conf.interface.dns_search)}")
    before = _dns_record(name)
    if lines != before:
        undo.callback(_make_dns, name, before)
        _make_dns(name, lines)


def _make_dns(name: str, lines: Sequence[str]) -> None:
    if lines:
        text = "\n".join(lines) + "\n"
        run_command("resolvconf", "-a", _resolvconf_name(name), "-m", "0", "-x", text=text)
    else:
        run_command("resolvconf", "-d", _resolvconf_name(name), "-f")


def _dns_record(name: str) -> list[str]:
    """What resolvconf has for the interface: openresolv tells, Debian's old one keeps a file."""
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


def _check_table(before: Device, conf: Conf, config: str) -> None:
    """Refuse a file whose Table is not the one that the interface was set up with, as far as that shows."""
    name, table = before.name, conf.interface.table
    homes = {"auto": {"main", str(before.fwmark)}, "off": set()}.get(table, {table})
    for family in FAMILIES:
        prefixes = _prefixes(before, family)
        found = {home for home, prefix, _ in _routes(name, family) if prefix in prefixes}
        if found and homes and not found & homes:
            why = f"its routes stand in table {', '.join(sorted(found))}, which the file does not name"
            mend = f"Take the interface down and set it up again: plait down {config}; plait up {config}"
            raise Failure(f"{name} cannot be reloaded with another Table", why, mend)


def _set_default_routes(before: Device, wanted: Device, conf: Conf, undo: ExitStack) -> None:
    """Table, rules and firewall of a default route, for each family that has, had or gets one."""
    if conf.interface.table != "auto":
        return
    is_gone = False
    for family in FAMILIES:
        rules = _rules(before, family)
        old = _default(before, family) if rules else None
        new = _default(wanted, family)
        if old and new and old.fwmark == new.fwmark:
            _refresh_firewall(wanted.name, family, new.fwmark, undo)
            continue
        if old:
            undo.callback(_come_back, old, family)
            remove_firewall(wanted.name, family)
        if new:  # before the old one goes: nothing leaves by another way in between
            add_default_routes(new, "auto", undo)
            wanted.fwmark = new.fwmark
        if old:
            _drop_default(old, family, rules)
            is_gone = True
    if is_gone and conf.interface.fwmark is None and not any(_default(wanted, one) for one in FAMILIES):
        wanted.fwmark = 0  # it was chosen for the default route


def _rules(device: Device, family: str) -> list[list[str]]:
    """The rules of the default route: those that name its table, each with the companion next before it."""
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
    for entry in _routes(device.name, family):
        if entry[:2] == (str(device.fwmark), ANY[family]):
            _change_route("delete", device.name, entry)


def _come_back(device: Device, family: str) -> None:
    """Undo the loss of a default route, of which something may still be there."""
    with complaints():
        remove_firewall(device.name, family)
        _drop_default(device, family, _rules(device, family))
        add_default_routes(device, "auto", ExitStack())


def _default(device: Device, family: str) -> Device | None:
    """The interface with nothing but its default route of a family; None when it has none."""
    if ANY[family] not in _prefixes(device, family):
        return None
    return replace(device, peers=[Peer("", allowed_ips=[ANY[family]])])


def _refresh_firewall(name: str, family: str, mark: int, undo: ExitStack) -> None:
    """The rules name the interface's addresses; they are replaced in one transaction."""
    ip = "ip" if family == "-4" else "ip6"
    shown = ["nft", "list", "table", ip, f"wg-quick-{name}"]
    if not shutil.which("nft"):
        return
    before = subprocess.run(shown, capture_output=True, text=True, check=False)
    after = firewall(name, family, addresses(name, family), mark)
    daddrs = [line.split("daddr ")[1].split()[0] for line in before.stdout.splitlines() if "daddr" in line]
    if before.returncode or set(daddrs) == set(addresses(name, family)):
        return
    drop = f"delete table {ip} wg-quick-{name}\n"
    undo.callback(run_command, "nft", "-f", "-", text=drop + before.stdout)
    run_command("nft", "-f", "-", text=drop + after)


def _set_routes(before: Device, wanted: Device, conf: Conf) -> None:
    """A route for each allowed IP, default routes of `Table = auto` excepted. Undone by _restore_routes."""
    table = conf.interface.table
    if table == "off":
        return
    home = "main" if table == "auto" else table
    # The kernel has a route to the network of each address.
    connected = [ipaddress.ip_interface(str(address)).network for address in conf.interface.addresses]
    for family in FAMILIES:
        own = {entry[1]: entry for entry in _routes(wanted.name, family) if entry[0] == home}
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


Route = tuple[str, str, str]  # table, prefix, and the whole as `ip route` shows it without the interface


def _routes(name: str, *families: str) -> list[Route]:
    """Routes out of the interface that somebody added: those that the kernel makes itself excepted."""
    found = []
    for family in families or FAMILIES:
        command = ["ip", family, "route", "show", "table", "all", "dev", name]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for line in shown.splitlines():
            words = [word for word in line.split() if word not in ("linkdown", "dead")]
            if "kernel" in words or words[0] in ("local", "broadcast", "multicast", "anycast"):
                continue
            table = words[words.index("table") + 1] if "table" in words else "main"
            prefix = words[0] if words[0] != "default" else ANY[family]
            prefix = str(ipaddress.ip_network(prefix)) if prefix[0].isalnum() or ":" in prefix else prefix
            found.append((table, prefix, " ".join([prefix, *words[1:]])))
    return found


def _restore_routes(name: str, before: Sequence[Route]) -> None:
    """Undo: routes that came go, routes that went come back."""
    now = _routes(name)
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
