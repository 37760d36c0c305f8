"""`plait show`: interfaces and peers as wg(8) prints them, and what goes on inside the engine.

The text is wg's, byte for byte, so that what reads one reads the other: on a terminal with its
colours (unless NO_COLOR or WG_COLOR_MODE say otherwise), else without.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from plait import keys, uapi_client
from plait.failure import Failure
from plait.uapi_client import Device, Peer
from plait.watch import engines, which_peer
from plait.watch.terminal import is_coloured, printable
from workers.environment import choice

_SECONDS = (("year", 365 * 24 * 3600), ("day", 24 * 3600), ("hour", 3600), ("minute", 60), ("second", 1))
_COLOURS = {"green": "\033[32m", "yellow": "\033[33m", "cyan": "\033[36m", "bold": "\033[1m"}
_RESET = "\033[0m"


def run(interface: str | None, field: str | None, *, engine: bool, as_json: bool) -> None:
    """Print what was asked for on standard output."""
    if engine:
        from plait.watch import engine as engine_view

        if field is not None:
            raise Failure(
                "--engine takes no field", f"`{field}` belongs to the other tables", "Leave one of them out."
            )
        engine_view.run(interface, as_json=as_json)
    elif field is not None and not _is_field(field):
        _print_peer(interface, field, as_json=as_json)
    elif field is not None and as_json:
        raise Failure("--json takes no field", f"it has `{field}` and all others", "Leave one of them out.")
    elif interface == "interfaces" and field is None:
        names = [name for name, _ in engines.ask(uapi_client.interfaces(), uapi_client.check_live)]
        sys.stdout.write(json.dumps(names) + "\n" if as_json else " ".join(names) + "\n" if names else "")
    elif field is not None:
        _print_field(interface, field)
    else:
        told = engines.ask(engines.names(interface), uapi_client.get)
        if as_json:
            json.dump([as_dict(device) for _, device in told], sys.stdout, indent=2)
            sys.stdout.write("\n")
        else:
            between = ""
            for _, device in told:
                sys.stdout.write(between + pretty(device, time.time(), coloured=is_coloured()))
                sys.stdout.flush()  # the next engine may be one that keeps us waiting
                between = "\n"


def as_dict(device: Device) -> dict[str, Any]:
    """The interface for JSON; secrets are left out, whether they exist is said."""
    return {
        "interface": device.name,
        "public_key": device.public_key or None,
        "listen_port": device.listen_port,
        "fwmark": device.fwmark,
        "peers": [peer_as_dict(peer) for peer in device.peers],
    }


def peer_as_dict(peer: Peer) -> dict[str, Any]:
    """One peer, likewise."""
    return {
        **peer.others,
        "public_key": peer.public_key,
        "name": peer.name or None,
        "has_preshared_key": bool(peer.preshared_key),
        "endpoint": peer.endpoint or None,
        "allowed_ips": peer.allowed_ips,
        "latest_handshake": peer.handshake_sec,
        "rx_bytes": peer.rx_bytes,
        "tx_bytes": peer.tx_bytes,
        "persistent_keepalive": peer.keepalive,
        "quota": peer.quota,
        "expires": peer.expires,
        "ran_out": peer.ran_out or None,
    }


def _print_peer(interface: str | None, who: str, *, as_json: bool) -> None:
    """The peer of this key, and of no other: cheap among any number of them. By name or start of its key it
    is looked for among all."""
    if interface is None or interface == "all":
        if not keys.is_key(who):
            raise _no_such(who)
        why = "several may have that peer, each with its own address and counters"
        raise Failure("one peer is shown of one interface", why, f"Name one: plait show wg0 {who}")
    if keys.is_key(who):
        peer = uapi_client.get_peer(interface, who)
    else:
        device = uapi_client.get(interface)
        try:
            peer = uapi_client.peer_of(device, which_peer.key_of(who, device.peers))
        except which_peer.NoPeer:
            raise _no_such(who) from None
    if as_json:
        json.dump(peer_as_dict(peer), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(pretty_peer(peer, time.time(), coloured=is_coloured()))


# --- for people ---------------------------------------------------------------------------------


def pretty(device: Device, now: float, *, coloured: bool) -> str:
    """The interface and its peers, the latest heard of first. now: wall clock, seconds."""
    paint, hidden = _painter(coloured), _are_keys_hidden()
    start = _RESET if coloured else ""
    lines = [f"{start}{paint('interface', 'green', 'bold')}: {paint(device.name, 'green')}"]

    def add(name: str, value: str) -> None:
        lines.append(f"  {paint(name, 'bold')}: {value}")

    if device.private_key:
        add("public key", device.public_key)
        add("private key", "(hidden)" if hidden else device.private_key)
    if device.listen_port:
        add("listening port", str(device.listen_port))
    if device.fwmark:
        add("fwmark", f"0x{device.fwmark:x}")
    for peer in sorted(device.peers, key=_age, reverse=True):
        lines += ["", *_peer_lines(peer, now, paint, hidden)]
    return "\n".join(lines) + "\n"


def pretty_peer(peer: Peer, now: float, *, coloured: bool) -> str:
    """One peer, as `pretty` shows it among others."""
    return "\n".join(_peer_lines(peer, now, _painter(coloured), _are_keys_hidden())) + "\n"


def _are_keys_hidden() -> bool:
    known, given = ("always", "never"), os.environ.get("WG_HIDE_KEYS", "")
    return choice("plait", "WG_HIDE_KEYS", given, known, "always", "keys are hidden") != "never"


def _peer_lines(peer: Peer, now: float, paint: Paint, hidden: bool) -> list[str]:
    lines = [f"{paint('peer', 'yellow', 'bold')}: {paint(peer.public_key, 'yellow')}"]

    def add(name: str, value: str) -> None:
        lines.append(f"  {paint(name, 'bold')}: {value}")

    if peer.name:
        add("name", printable(peer.name))
    if peer.preshared_key:
        add("preshared key", "(hidden)" if hidden else peer.preshared_key)
    if peer.endpoint:
        add("endpoint", peer.endpoint)
    slash = paint("/", "cyan")
    add("allowed ips", ", ".join(ip.replace("/", slash) for ip in peer.allowed_ips) or "(none)")
    if peer.handshake_sec:
        add("latest handshake", _ago(int(now) - peer.handshake_sec, paint))
    if peer.rx_bytes or peer.tx_bytes:
        received, sent = amount(peer.rx_bytes, paint), amount(peer.tx_bytes, paint)
        add("transfer", f"{received} received, {sent} sent")
    if peer.keepalive:
        add("persistent keepalive", f"every {_duration(peer.keepalive, paint)}")
    if peer.quota:
        used = amount(peer.rx_bytes + peer.tx_bytes, paint)
        add("quota", f"{used} of {amount(peer.quota, paint)} used{_is_out(peer, 'quota', paint)}")
    if peer.expires:
        add("expires", f"{_when(peer.expires, now, paint)}{_is_out(peer, 'expired', paint)}")
    for key, value in peer.others.items():
        add(printable(key.replace("_", " ")), printable(value))
    return lines


Paint = Callable[..., str]


def _painter(coloured: bool) -> Paint:
    """A function (text, colours...) -> text."""
    if not coloured:
        return lambda text, *colours: text
    return lambda text, *colours: "".join(_COLOURS[colour] for colour in colours) + text + _RESET


def _age(peer: Peer) -> tuple[int, int]:
    return peer.handshake_sec, peer.handshake_nsec


def _duration(seconds: int, paint: Paint) -> str:
    parts = []
    for unit, length in _SECONDS:
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count} {paint(unit if count == 1 else unit + 's', 'cyan')}")
    return ", ".join(parts)


def _ago(seconds: int, paint: Paint) -> str:
    if seconds == 0:
        return "Now"
    if seconds < 0:
        return f"({paint('System clock wound backward; connection problems may ensue.', 'bold')})"
    return f"{_duration(seconds, paint)} ago"


def _when(expires: int, now: float, paint: Paint) -> str:
    left = expires - int(now)
    if left <= 0:
        return _ago(-left, paint)
    shown: list[str] = []
    for unit, length in _SECONDS:  # to two units: what is years away needs no seconds
        count, left = divmod(left, length)
        if count and len(shown) < 2:
            shown.append(f"{count} {paint(unit if count == 1 else unit + 's', 'cyan')}")
    return f"in {', '.join(shown)}"


def _is_out(peer: Peer, reason: str, paint: Paint) -> str:
    return f" ({paint('cut off', 'bold')})" if peer.ran_out == reason else ""


def amount(count: int, paint: Paint | None = None) -> str:
    """Bytes as wg(8) writes them."""
    paint = paint or _painter(False)
    if count < 1024:
        return f"{count} {paint('B', 'cyan')}"
    for power, unit in ((2, "KiB"), (3, "MiB"), (4, "GiB")):
        if count < 1024**power:
            return f"{count / 1024 ** (power - 1):.2f} {paint(unit, 'cyan')}"
    return f"{count / 1024**4:.2f} {paint('TiB', 'cyan')}"


# --- for programs -------------------------------------------------------------------------------

_DEVICE_FIELDS: dict[str, Callable[[Device], str]] = {
    "public-key": lambda device: device.public_key or "(none)",
    "private-key": lambda device: device.private_key or "(none)",
    "listen-port": lambda device: str(device.listen_port),
    "fwmark": lambda device: _mark(device),
}
_PEER_FIELDS: dict[str, Callable[[Peer], list[str]]] = {
    "peers": lambda peer: [],
    "preshared-keys": lambda peer: [peer.preshared_key or "(none)"],
    "endpoints": lambda peer: [peer.endpoint or "(none)"],
    "allowed-ips": lambda peer: [" ".join(peer.allowed_ips) or "(none)"],
    "latest-handshakes": lambda peer: [str(peer.handshake_sec)],
    "transfer": lambda peer: [str(peer.rx_bytes), str(peer.tx_bytes)],
    "persistent-keepalive": lambda peer: [_keepalive(peer)],
}


def _is_field(word: str) -> bool:
    return word in (*_DEVICE_FIELDS, *_PEER_FIELDS, "dump")


def _no_such(word: str) -> Failure:
    known = ", ".join((*_DEVICE_FIELDS, *_PEER_FIELDS, "dump"))
    why = "it is no field, and no peer of one interface has that name, or a key that begins so"
    return Failure(f"`{word}` cannot be shown", why, f"Ask for one of {known}.")


def _print_field(interface: str | None, field: str) -> None:
    prefix = interface == "all"
    for name, device in engines.ask(engines.names(interface), uapi_client.get):
        for row in rows(device, field):
            sys.stdout.write("\t".join([name, *row] if prefix else row) + "\n")


def rows(device: Device, field: str) -> Iterator[list[str]]:
    """What `show IFACE FIELD` prints of the interface, line by line."""
    if field == "dump":
        yield [
            device.private_key or "(none)",
            device.public_key or "(none)",
            str(device.listen_port),
            _mark(device),
        ]
        for peer in device.peers:
            yield [
                peer.public_key,
                peer.preshared_key or "(none)",
                peer.endpoint or "(none)",
                ",".join(peer.allowed_ips) or "(none)",
                str(peer.handshake_sec),
                str(peer.rx_bytes),
                str(peer.tx_bytes),
                _keepalive(peer),
            ]
    elif field in _DEVICE_FIELDS:
        yield [_DEVICE_FIELDS[field](device)]
    else:
        for peer in device.peers:
            yield [peer.public_key, *_PEER_FIELDS[field](peer)]


def _mark(device: Device) -> str:
    return f"0x{device.fwmark:x}" if device.fwmark else "off"


def _keepalive(peer: Peer) -> str:
    return str(peer.keepalive) if peer.keepalive else "off"
