"""`plait strip`, `plait save` and `plait reload`: a wg-quick file while its interface runs.

`reload` makes the running interface what the file says, as `wg syncconf` does for keys and peers, and for
addresses, MTU, routes, rules, firewall and DNS besides. What is the same in both is not touched, so
sessions and streams of peers that stay go on. Peers that the file no longer has go last: their
sessions are all that could not be given back. Each step leaves behind how to undo it, as in `plait up`.

Hooks are not run, and what they may have set while the file is silent stays: private key, UDP port, firewall
mark, routes that belong to no allowed IP, and addresses with another end (`ip address add … peer …`).
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
from contextlib import ExitStack

from engine import uapi
from plait import keys, uapi_client
from plait.failure import Failure
from plait.quick import conf as wgconf
from plait.quick.changes import (
    FAMILIES,
    check_table,
    default_of,
    firewalls_of,
    restore_firewall,
    restore_routes,
    routes_of,
    set_addresses,
    set_default_routes,
    set_dns,
    set_mtu,
    set_routes,
    undone,
)
from plait.quick.quick_file import Conf, check_limits, is_plaitd, read
from plait.quick.quick_file import save as save_file
from plait.quick.up_down import resolve
from plait.signals import interruptible
from plait.uapi_client import Device, Peer

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
    check_table(before, conf, config)
    check_limits(name, path, conf)
    wanted = wanted_device(before, conf)
    with interruptible(), ExitStack() as undo:
        undo.callback(undone, restore_firewall, name, firewalls_of(name))
        undo.callback(undone, restore_routes, name, routes_of(name))
        undo.callback(undone, _set_engine, name, before)
        set_addresses(name, conf, undo)
        _set_engine(name, wanted, with_removals=False)
        set_default_routes(before, wanted, conf, undo)
        set_mtu(wanted, conf, undo)
        set_routes(before, wanted, conf)
        set_dns(name, conf, undo)
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
        wanted.private_key = keys.encode(interface.private_key)
    present = {peer.public_key: peer for peer in now.peers}
    peers: dict[str, Peer] = {}
    for change in operation.peers:
        key = keys.encode(change.public_key)
        if key == wanted.public_key:  # an engine ignores a peer that is itself
            continue
        old = present.get(key)
        peer = peers.get(key) or Peer(key, endpoint=old.endpoint if old else "")
        if not change.replace_allowed_ips and old and key not in peers:
            peer.allowed_ips = list(old.allowed_ips)
        if change.preshared_key is not None:
            peer.preshared_key = keys.encode(change.preshared_key) if any(change.preshared_key) else ""
        if change.endpoint is not None:
            peer.endpoint = str(change.endpoint)
        if change.keepalive is not None:
            peer.keepalive = change.keepalive
        if change.name is not None:
            peer.name = change.name
        if change.quota is not None:
            peer.quota = change.quota
        if change.expires is not None:
            peer.expires = change.expires
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
    chooses = interface.table == "auto" and any(default_of(wanted, family) for family in FAMILIES)
    if interface.fwmark or (interface.fwmark == 0 and not chooses):
        wanted.fwmark = interface.fwmark
    return wanted


def difference(now: Device, wanted: Device, *, is_ours: bool) -> uapi.Set:
    """The operation that makes an engine what is wanted, peers that are not wanted excepted.

    Nothing is mentioned that is the same in both: a mentioned UDP port opens sockets anew, a replaced list
    of allowed IPs loses packets. is_ours: the engine knows names and `allowed_ip=-`; others are given the
    list.
    """
    made = uapi.Set()
    if wanted.private_key != now.private_key:
        made.private_key = keys.decode(wanted.private_key) if wanted.private_key else ZERO_KEY
    if wanted.listen_port != now.listen_port:
        made.listen_port = wanted.listen_port
    if wanted.fwmark != now.fwmark:
        made.fwmark = wanted.fwmark
    present = {peer.public_key: peer for peer in now.peers}
    moved = {ip: peer.public_key for peer in wanted.peers for ip in peer.allowed_ips}
    for peer in wanted.peers:
        key = peer.public_key
        old = present.get(key) or Peer(key)
        change = uapi.PeerChange(keys.decode(key))
        if peer.preshared_key != old.preshared_key:
            change.preshared_key = keys.decode(peer.preshared_key) if peer.preshared_key else ZERO_KEY
        if peer.endpoint and peer.endpoint != old.endpoint:
            host, _, port = peer.endpoint.rpartition(":")
            change.endpoint = wgconf.Host(host.strip("[]"), int(port)).endpoint
        if peer.keepalive != old.keepalive:
            change.keepalive = peer.keepalive
        if peer.name != old.name and is_ours:
            change.name = peer.name
        if peer.quota != old.quota:
            change.quota = peer.quota
        if peer.expires != old.expires:
            change.expires = peer.expires
        gone = [ip for ip in old.allowed_ips if moved.get(ip) is None]
        change.replace_allowed_ips = bool(gone) and not is_ours
        kept = [] if change.replace_allowed_ips else old.allowed_ips
        change.allowed_ips = [_allowed_ip(ip) for ip in peer.allowed_ips if ip not in kept]
        if gone and is_ours:
            change.allowed_ips += [_allowed_ip(ip)._replace(removed=True) for ip in gone]
        if key not in present or change != uapi.PeerChange(change.public_key):
            made.add_peer(change)
    return made


def removals(now: Device, wanted: Device) -> uapi.Set:
    """The operation that takes away the peers that are not wanted.

    Peers on demand are their provider's: taken away here, they would be silent until their clients begin
    anew, and nobody would be told their totals.
    """
    made = uapi.Set()
    stay = {peer.public_key for peer in wanted.peers}
    for peer in now.peers:
        if peer.public_key not in stay and peer.others.get("on_demand") != "1":
            made.add_peer(uapi.PeerChange(keys.decode(peer.public_key), remove=True))
    return made


def _allowed_ip(prefix: str) -> uapi.AllowedIP:
    network = ipaddress.ip_network(prefix)
    return uapi.AllowedIP(network.network_address.packed, network.max_prefixlen, network.prefixlen)


def _set_engine(name: str, wanted: Device, *, with_removals: bool = True) -> None:
    now = uapi_client.get(name)
    operation = difference(now, wanted, is_ours=is_plaitd(name))
    if operation != uapi.Set():
        print(f"[#] configure {name}: {_changed(operation.peer_count, now, wanted)}", file=sys.stderr)
        uapi_client.change(name, uapi.format_set(operation))
    operation = removals(now, wanted)
    if with_removals and operation.peer_count:
        print(f"[#] configure {name}: remove {_peers(operation.peer_count)}", file=sys.stderr)
        uapi_client.change(name, uapi.format_set(operation))


def _changed(count: int, now: Device, wanted: Device) -> str:
    """Of so many peers: how many are new, and how many of those that are there change."""
    present = {peer.public_key for peer in now.peers}
    added = sum(peer.public_key not in present for peer in wanted.peers)
    changed = count - added
    parts = [f"add {_peers(added)}"] if added else []
    parts += [f"change {changed} of {_peers(len(present))}"] if changed else []
    return ", ".join(parts) or "no peer changes"


def _peers(count: int) -> str:
    return f"{count} peer" if count == 1 else f"{count} peers"
