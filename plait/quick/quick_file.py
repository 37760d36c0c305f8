"""The wg-quick file of an interface: read whole before anything is done, and written anew for SaveConfig."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine import uapi
from plait import keys, plaitd_client
from plait.failure import Failure
from plait.programs import ip_json
from plait.quick import conf as wgconf
from plait.uapi_client import Device

DIRECTORY = Path("/etc/wireguard")
WARNINGS = 5  # lines at most for what may be wrong once for each peer

Conf = wgconf.Conf


def read(config: str) -> tuple[str, Path, Conf]:
    """Interface, path and content of FILE or INTERFACE. Failure when it is refused, whole."""
    bare = re.fullmatch(r"[a-zA-Z0-9_=+.-]{1,15}", config)
    path = DIRECTORY / f"{config}.conf" if bare else Path(config)
    try:
        name = wgconf.interface_name(str(path))
        path = path.resolve()
        text = wgconf.decode(path.read_bytes(), str(path))
        everybody = path.stat().st_mode & path.parent.stat().st_mode & stat.S_IRWXO
        conf = wgconf.parse(text, str(path))
    except wgconf.ConfError as error:
        where = f"{error.file}:{error.line_number}" if error.line_number else error.file
        what = f"{where}: {error.what} ({error.line})"
        raise Failure(what, error.why, f"Mend it: {error.next}.") from error
    except OSError as error:
        why = error.strerror or str(error)
        mend = "Give a wg-quick file or its interface."
        if isinstance(error, PermissionError):
            mend = "Run this as root, or give a file that this user may read."
        elif bare and Path(config).is_file():
            mend = f"A bare word is an interface: write ./{config} for the file here."
        raise Failure(f"{path} cannot be read", why, mend) from error
    if everybody:
        print(f"Warning: {path} is world accessible. Mend it: chmod 600 {path}", file=sys.stderr)
    for earlier, later in _repeated(conf):
        lost = ", whose AllowedIPs it replaces" if earlier.allowed_ips and later.replace_allowed_ips else ""
        again = f"Warning: {path}:{later.line_number}: the [Peer] of line {earlier.line_number} again{lost}"
        print(f"{again}. Mend it: make one section of both", file=sys.stderr)
    _warn_of_taken(path, conf)
    return name, path, conf


def _repeated(conf: Conf) -> Iterator[tuple[wgconf.Peer, wgconf.Peer]]:
    """The sections of a public key that an earlier section has, each with the earlier one."""
    sections: dict[bytes, wgconf.Peer] = {}
    for peer in conf.peers:
        if peer.public_key in sections:
            yield sections[peer.public_key], peer
        sections[peer.public_key] = peer


def _warn_of_taken(path: Path, conf: Conf) -> None:
    """Name the allowed IPs that a later peer takes from an earlier one: each has one peer, the last."""
    taken = list(_taken(conf))
    for prefix, earlier, later in taken[:WARNINGS]:
        what = f"{prefix} stands in line {earlier.line_number}'s [Peer] too, which does not get it"
        mend = "Mend it: give one of them another"
        print(f"Warning: {path}:{later.line_number}: {what}. {mend}", file=sys.stderr)
    if len(taken) > WARNINGS:
        print(f"Warning: {path}: and {len(taken) - WARNINGS} more such AllowedIPs", file=sys.stderr)


def _taken(conf: Conf) -> Iterator[tuple[str, wgconf.Peer, wgconf.Peer]]:
    """Allowed IPs with the peer that loses each, and the later one that has it then."""
    owners: dict[str, wgconf.Peer] = {}
    for peer in conf.peers:
        for ip in peer.allowed_ips:
            prefix = str(ip._replace(removed=False))
            owner = owners.get(prefix)
            if not ip.removed:
                if owner is not None and owner.public_key != peer.public_key:
                    yield prefix, owner, peer
                owners[prefix] = peer
            elif owner is not None and owner.public_key == peer.public_key:
                del owners[prefix]


def is_plaitd(name: str) -> bool:
    """Whether the interface's engine is one of Plait."""
    try:
        plaitd_client.engine(name)
    except Failure:
        return False
    return True


def check_limits(name: str, path: Path, conf: Conf) -> None:
    """Failure when the file limits a peer, and the interface's engine knows no limits."""
    limited = next((peer for peer in conf.peers if peer.quota or peer.expires), None)
    if limited is not None and not is_plaitd(name):
        why = f"the [Peer] of line {limited.line_number} has PlaitQuota or PlaitExpires"
        mend = "Run plaitd for it, or take these lines out."
        raise Failure(f"{path} needs an engine that keeps quotas, and {name}'s does not", why, mend)


def save(device: Device, path: Path, conf: Conf) -> None:
    """Write the file anew with what is in force now: all or nothing, for root's eyes only."""
    print(f"[#] save {path}", file=sys.stderr)
    addresses = [*_cidrs(device.name, "-4"), *_cidrs(device.name, "-6")]
    text = saved_text(device, conf, addresses, _mtu(device.name))
    temporary = path.with_suffix(".conf.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a save that was killed
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        why, mend = error.strerror or str(error), "It is as it was. Mend that and try again."
        raise Failure(f"{path} cannot be saved", why, mend) from error


def saved_text(device: Device, conf: Conf, addresses: Sequence[str], mtu: int) -> str:
    """The file for a running interface: wg-quick's lines as they were given, wg's as they are now."""
    old = conf.interface
    lines = [f"Address = {address}" for address in addresses]
    lines += [f"DNS = {server}" for server in (*old.dns, *old.dns_search)]
    if old.mtu:
        lines.append(f"MTU = {mtu}")
    if old.table != "auto":
        lines.append(f"Table = {old.table}")
    if old.save_config:
        lines.append("SaveConfig = true")
    for key, hooks in (
        ("PreUp", old.pre_up), ("PostUp", old.post_up),
        ("PreDown", old.pre_down), ("PostDown", old.post_down),
    ):  # fmt: skip
        lines += [f"{key} = {hook}" for hook in hooks]
    now = wgconf.to_text(_as_conf(device))
    head = "[Interface]\n"
    return head + "\n".join(lines) + "\n" + now.removeprefix(head)


def _as_conf(device: Device) -> Conf:
    """What the engine tells, as plait.quick.conf has it."""
    made = Conf()
    made.interface.private_key = keys.decode(device.private_key) if device.private_key else None
    made.interface.listen_port, made.interface.fwmark = device.listen_port, device.fwmark
    for peer in device.peers:
        entry = wgconf.Peer(0, keys.decode(peer.public_key), keepalive=peer.keepalive)
        entry.name, entry.quota, entry.expires = peer.name, peer.quota, peer.expires
        entry.preshared_key = keys.decode(peer.preshared_key) if peer.preshared_key else None
        if peer.endpoint:
            host, _, port = peer.endpoint.rpartition(":")
            entry.endpoint = wgconf.Host(host.strip("[]"), int(port))
        for prefix in peer.allowed_ips:
            text, _, cidr = prefix.partition("/")
            kind = socket.AF_INET6 if ":" in text else socket.AF_INET
            address = socket.inet_pton(kind, text)
            entry.allowed_ips.append(uapi.AllowedIP(address, len(address) * 8, int(cidr)))
        made.peers.append(entry)
    return made


def _cidrs(name: str, family: str) -> list[str]:
    links = ip_json(family, "address", "show", "dev", name)
    entries = [entry for link in links for entry in link.get("addr_info", ())]
    # The kernel makes the link-local address itself; a saved one would be added twice.
    return [f"{entry['local']}/{entry['prefixlen']}" for entry in entries if entry.get("scope") != "link"]


def _mtu(name: str) -> int:
    return next((int(link["mtu"]) for link in ip_json("link", "show", "dev", name)), 0)
