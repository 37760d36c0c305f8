"""Is a gateway ready for clients? What a routing daemon's watch, a balancer or a probe asks."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from plait import uapi_client
from plait.failure import Failure
from plait.fleet import drain
from plait.sync import state

PATIENCE: Final = 5.0  # seconds for the engine's answer
SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
IFF_UP: Final = 1


class Look(NamedTuple):
    """One thing looked at. mend is empty when it is fine."""

    name: str
    found: str
    mend: str = ""


def is_ready(interface: str) -> bool:
    """Whether nothing is missing."""
    return not any(look.mend for look in examine(interface))


def examine(interface: str) -> Iterator[Look]:
    """Everything, until something without which the rest cannot be looked at."""
    try:
        device = uapi_client.head(interface, PATIENCE)
    except Failure as failure:
        yield Look("engine", failure.why, failure.next_step)
        return
    yield Look("engine", "it answers")
    yield _link(interface)
    if device.private_key:
        yield Look("private key", "there is one")
    else:
        yield Look("private key", "there is none", f"wg set {interface} private-key FILE")
    if device.listen_port:
        yield Look("port", str(device.listen_port))
    else:
        yield Look("port", "there is none", f"wg set {interface} listen-port 51820")
    yield _peers(interface)
    if drain.is_draining(interface):
        yield Look("drain", "it is about to be stopped", f"plait drain --undo {interface}")
    else:
        yield Look("drain", "none")


def _link(interface: str) -> Look:
    name = uapi_client.interface_of(interface)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            told = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
    except OSError as error:
        mend = "run this in the interface's network namespace"
        return Look("interface", error.strerror or str(error), mend)
    (flags,) = struct.unpack_from("=H", told, 16)
    is_up = bool(flags & IFF_UP)
    return Look("interface", "up") if is_up else Look("interface", "down", f"ip link set {name} up")


def _peers(interface: str) -> Look:
    """All that the store has is in force, where `plait sync` follows one."""
    path = state.path_of(state.DIRECTORY, interface)
    if not path.exists():
        return Look("peers", "no `plait sync` sets them")
    try:
        known = state.read(path)
    except Failure as failure:
        return Look("peers", failure.why, failure.next_step)
    if known.life != state.life_of(interface):
        mend = f"plait sync {interface} URL; or, if no store is followed any more: rm {path}"
        return Look("peers", "`plait sync` has set none in this life of the engine", mend)
    if known.position is None:
        mend = f"wait, or see what it says: journalctl -u plait-sync@{interface}"
        return Look("peers", "`plait sync` is reading them", mend)
    return Look("peers", f"those of the store, up to position {known.position}")
