"""The TUN interface as control watches it: does it still exist, is it up, what is its MTU.

rtnetlink only says that something about links changed; the answer comes from ioctls on the queue and on
a socket. An interface that was moved to another network namespace is asked there, by a thread that
enters it, since changes there are not announced here; so everything is looked at once a second, too.
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
        try:
            name = fcntl.ioctl(self.fd, TUNGETIFF, bytes(40))[:16]
        except OSError as error:
            if error.errno in (errno.EBADFD, errno.ENODEV):
                return None
            raise
        try:
            namespace = fcntl.ioctl(self.fd, TUNGETDEVNETNS)
        except OSError:  # an old kernel, or no privilege: assume that nobody moved it
            return _ask(name)
        try:
            if os.fstat(namespace).st_ino == self.home:
                return _ask(name)
            return _ask_elsewhere(name, namespace)
        finally:
            os.close(namespace)


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
