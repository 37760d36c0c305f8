"""Packets that the kernel dropped before the engine could read them: no counter of the engine knows of these.

    {"tun": 2324, "udp": 0}     "tun": null where the kernel does not tell

tun: the link's tx_dropped, `ip -s link`: the TUN's queue was full. udp: the sockets' drops, `ss -m`, the d of
skmem: their buffers were full. Control may ask: it watches the interface, and holds every receiver's sockets
for the firewall mark.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from workers.control.interface import Interface
from workers.descriptors import borrowed

SO_MEMINFO: Final = 55  # asm-generic/socket.h
SK_MEMINFO_DROPS: Final = 8  # linux/sock_diag.h
_DROPS = struct.Struct(f"={SK_MEMINFO_DROPS + 1}I")  # they are the last of these, and come round


class KernelDrops:
    """The figures of one interface. Those of a socket count on when the port changes and it is closed."""

    def __init__(self, interface: Interface | None, udp_fds: Callable[[], list[int]]) -> None:
        self.interface = interface
        self.udp_fds = udp_fds
        self.udp = 0
        self.seen: dict[int, int] = {}  # drops by the inode of the socket, which its copies share

    def look(self) -> dict[str, int | None]:
        """As above. Nothing is raised: what the kernel refuses to tell is not told."""
        seen = {}
        for fd in self.udp_fds():
            number = os.fstat(fd).st_ino
            drops = _drops(fd)
            if drops is None:
                continue
            seen[number] = drops
            self.udp += (drops - self.seen.get(number, 0)) & 0xFFFFFFFF
        self.seen = seen
        return {"tun": None if self.interface is None else self.interface.tx_dropped(), "udp": self.udp}


def _drops(fd: int) -> int | None:
    with borrowed(fd) as sock:
        try:
            told = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _DROPS.size)
        except OSError:
            return None
    return int(_DROPS.unpack(told)[-1]) if len(told) == _DROPS.size else None
