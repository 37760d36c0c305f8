"""The TUN interface as control watches it: does it still exist, is it up, what is its MTU.

rtnetlink only says that something about links changed; the answer comes from ioctls on the queue and on
a socket. An interface that was moved to another network namespace is asked there, by a thread that enters
it; that namespace is given an id here, and the news of all that have one are listened to
(NETLINK_LISTEN_ALL_NSID). A socket opened in that namespace would tell as much, but keep it alive for as
long as the engine lives, which is as long as the interface. Everything is looked at once a second, too:
news may be lost, and those of other namespaces want CAP_NET_BROADCAST.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from typing import NamedTuple

TUNGETIFF = 0x800454D2  # linux/if_tun.h
TUNGETDEVNETNS = 0x54E3
SIOCGIFFLAGS = 0x8913  # linux/sockios.h
SIOCGIFMTU = 0x8921
IFF_UP = 1
RTMGRP_LINK = 1
CLONE_NEWNET = 0x40000000
SOL_NETLINK = 270  # linux/socket.h
NETLINK_LISTEN_ALL_NSID = 8  # linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK = 1, 4
RTM_NEWNSID = 88  # linux/rtnetlink.h
NETNSA_NSID, NETNSA_FD = 1, 3  # linux/net_namespace.h
MOVES = 3  # an interface may move again between two questions
# struct nlmsghdr, struct rtgenmsg, then two attributes of a word: the id (-1: any), and the namespace's fd.
_NEW_ID = struct.Struct("=IHHII B3x HHi HHi")
_IFREQ = struct.Struct("16sI20x")


class InterfaceState(NamedTuple):
    """What `look` found."""

    mtu: int
    is_up: bool


class Interface:
    """The interface behind a TUN queue `fd`, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self.news = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self.news.bind((0, RTMGRP_LINK))
        self.home = os.stat("/proc/self/ns/net").st_ino
        self.heard = self.home  # the namespace whose news reach us

    def close(self) -> None:
        self.news.close()

    def drain(self) -> None:
        """Read away what woke us; an overflow (ENOBUFS) says no less."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self.news.recv(1 << 16)
                except BlockingIOError:
                    raise
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise

    def look(self) -> InterfaceState | None:
        """The state now; None when the interface does not exist any more."""
        for _ in range(MOVES):
            try:
                name = fcntl.ioctl(self.fd, TUNGETIFF, bytes(40))[:16]
            except OSError as error:
                if error.errno in (errno.EBADFD, errno.ENODEV):
                    return None
                raise
            state = self._look_for(name)
            if state is not None:
                return state
        return None

    def _look_for(self, name: bytes) -> InterfaceState | None:
        """Wherever it is; None when it is not there any more."""
        try:
            namespace = fcntl.ioctl(self.fd, TUNGETDEVNETNS)
        except OSError:  # an old kernel, or no privilege: assume that nobody moved it
            return _ask(name)
        try:
            inode = os.fstat(namespace).st_ino
            if inode == self.home:
                return _ask(name)
            if inode != self.heard:
                self.heard = inode
                with contextlib.suppress(OSError):
                    self._listen_in(namespace)
            return _ask_elsewhere(name, namespace)
        finally:
            os.close(namespace)

    def _listen_in(self, namespace: int) -> None:
        """From now on `news` tells of changes there as well. OSError: it does not."""
        self.news.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        head = (_NEW_ID.size, RTM_NEWNSID, NLM_F_REQUEST | NLM_F_ACK, 1, 0, socket.AF_UNSPEC)
        request = _NEW_ID.pack(*head, 8, NETNSA_NSID, -1, 8, NETNSA_FD, namespace)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(1)  # the kernel answers within the call that asks
            sock.send(request)
            sock.recv(1 << 12)  # done, or EEXIST: it has an id


def _ask(name: bytes) -> InterfaceState | None:
    """By name in this thread's network namespace."""
    request = _IFREQ.pack(name, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            mtu = _IFREQ.unpack(fcntl.ioctl(sock, SIOCGIFMTU, request))[1]
            flags = _IFREQ.unpack(fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
    return InterfaceState(mtu, bool(flags & IFF_UP))


def _ask_elsewhere(name: bytes, namespace: int) -> InterfaceState | None:
    """By name in another network namespace; None only when it has no such interface."""
    found: list[InterfaceState | None] = []
    failed: list[OSError] = []

    def ask() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            if libc.setns(namespace, CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, f"cannot enter the interface's namespace: {os.strerror(number)}")
            found.append(_ask(name))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=ask, name="namespace")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
