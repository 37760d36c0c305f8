"""Sending handshake messages: control's copies of the UDP sockets, one message a call.

Socket 0 of each family is used; receivers read, control only writes. A message leaves with DSCP AF41
(kernel: messages.h, HANDSHAKE_DSCP) and from the address that the peer knows us by, while the
kernel accepts that one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

from workers.endpoints import Endpoint

HANDSHAKE_TOS: Final = 0x88
IP_PKTINFO: Final = 8  # linux/in.h
SO_MARK: Final = 36  # asm-generic/socket.h

_TOS = struct.pack("@i", HANDSHAKE_TOS)
_PKTINFO4 = struct.Struct("@i4s4s")
_PKTINFO6 = struct.Struct("@16sI")
_SOURCE_GONE = {
    errno.EINVAL,
    errno.ENETUNREACH,
    errno.ENODEV,
    errno.EADDRNOTAVAIL,
    errno.EHOSTUNREACH,
}


class Outgoing:
    """The sockets of control: duplicates that it owns."""

    def __init__(self, udp4: int | None, udp6: int | None) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.errno = 0  # of the latest message that was not sent
        self.replace(udp4, udp6)

    def replace(self, udp4: int | None, udp6: int | None) -> None:
        """Take other fds (owned from now on); the old ones are closed."""
        self.close()
        for family, fd in ((socket.AF_INET, udp4), (socket.AF_INET6, udp6)):
            if fd is not None and fd >= 0:
                self.sockets[family] = socket.socket(family, socket.SOCK_DGRAM, fileno=fd)

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()

    @property
    def port(self) -> int:
        """The port that they are bound to; 0 when there is none."""
        for sock in self.sockets.values():
            return int(sock.getsockname()[1])
        return 0

    def send(self, message: bytes, to: Endpoint) -> tuple[bool, bool]:
        """(whether the kernel took it, whether it refused the sticky source)."""
        sock = self.sockets.get(to.family)
        if sock is None:
            self.errno = errno.EAFNOSUPPORT
            return False, False
        refused_source = False
        target: tuple[str, int] | tuple[str, int, int, int]
        if to.family == socket.AF_INET:
            target = (socket.inet_ntoa(to.address), to.port)
            control = [(socket.IPPROTO_IP, socket.IP_TOS, _TOS)]
            source = (socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, to.source or b"", b""))
        else:
            target = (socket.inet_ntop(socket.AF_INET6, to.address), to.port, 0, to.scope)
            control = [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _TOS)]
            source = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(to.source or b"", 0))
        if to.source:
            try:
                sock.sendmsg([message], [*control, source], socket.MSG_DONTWAIT, target)
                return True, False
            except OSError as error:
                if error.errno not in _SOURCE_GONE:
                    self.errno = error.errno or errno.EIO
                    return False, False
                refused_source = True
        try:
            sock.sendmsg([message], control, socket.MSG_DONTWAIT, target)
        except OSError as error:
            self.errno = error.errno or errno.EIO
            return False, refused_source
        return True, refused_source


def mark_sockets(fds: list[int], mark: int) -> None:
    """Set the firewall mark of these sockets. OSError (EPERM) without CAP_NET_ADMIN."""
    for fd in fds:
        with socket.socket(fileno=os.dup(fd)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("@I", mark))
