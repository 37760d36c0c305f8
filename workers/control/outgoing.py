"""Sending handshake messages: control's copies of the UDP sockets, a batch of messages a call.

Socket 0 of each family is used; receivers read, control only writes. A message leaves with DSCP AF41
and from the address that the peer knows us by, while the kernel accepts that one (handshake_batch.c).
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from workers._workers import lib
from workers.descriptors import borrowed

if TYPE_CHECKING:
    from workers._workers import Pointer, outgoing

SO_MARK: Final = 36  # asm-generic/socket.h


class Outgoing:
    """The sockets of control: duplicates that it owns."""

    def __init__(self, udp4: int | None, udp6: int | None) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.replace(udp4, udp6)

    def replace(self, udp4: int | None, udp6: int | None) -> None:
        """Take other fds (owned from now on); the old ones are closed."""
        self.close()
        for family, fd in ((socket.AF_INET, udp4), (socket.AF_INET6, udp6)):
            if fd is not None and fd >= 0:
                self.sockets[family] = socket.socket(family, socket.SOCK_DGRAM, fileno=fd)
        self.fds = self._fd(socket.AF_INET), self._fd(socket.AF_INET6)

    def _fd(self, family: int) -> int:
        sock = self.sockets.get(family)
        return -1 if sock is None else sock.fileno()

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()
        self.fds = -1, -1

    @property
    def port(self) -> int:
        """The port that they are bound to; 0 when there is none."""
        for sock in self.sockets.values():
            return int(sock.getsockname()[1])
        return 0

    def send(self, messages: Pointer[outgoing], count: int) -> None:
        """Send `struct outgoing[count]`; each says afterwards what became of it."""
        lib.handshakes_send(*self.fds, messages, count)


def mark_sockets(fds: list[int], mark: int) -> None:
    """Set the firewall mark of these sockets. OSError (EPERM) without CAP_NET_ADMIN."""
    for fd in fds:
        with borrowed(fd) as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("@I", mark))
