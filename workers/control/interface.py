"""The TUN interface as control watches it: does it still exist, is it up, what are its MTU and name.

rtnetlink only says that something about links changed; the answer comes from ioctls on the queue and on
a socket. An interface that was moved to another network namespace is asked for by rtnetlink with that
namespace's id, which it is given here, and the news of all that have one are listened to
(NETLINK_LISTEN_ALL_NSID). A socket opened in that namespace would tell as much, but keep it alive for as
long as the engine lives, which is as long as the interface. Everything is looked at once a second, too:
news may be lost, and those of other namespaces want CAP_NET_BROADCAST.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from typing import NamedTuple

from workers.netlink import TUNGETIFF, attribute, attributes, drain, moved_to, own_namespace, request

SIOCGIFFLAGS = 0x8913  # linux/sockios.h
SIOCGIFMTU = 0x8921
IFF_UP = 1
RTMGRP_LINK = 1
SOL_NETLINK = 270  # linux/socket.h
NETLINK_LISTEN_ALL_NSID = 8  # linux/netlink.h
RTM_GETLINK, RTM_NEWNSID, RTM_GETNSID = 18, 88, 90  # linux/rtnetlink.h
IFLA_IFNAME, IFLA_MTU, IFLA_STATS64, IFLA_TARGET_NETNSID = 3, 4, 23, 46  # linux/if_link.h
TX_DROPPED = 7  # of struct rtnl_link_stats64
NETNSA_NSID, NETNSA_FD = 1, 3  # linux/net_namespace.h
MOVES = 3  # an interface may move, or be renamed, again between two questions
FLAGS = -1  # beside the attributes of a link
_IFREQ = struct.Struct("16sI20x")


class InterfaceState(NamedTuple):
    """What `look` found."""

    mtu: int
    is_up: bool
    name: str = ""  # empty where names mean nothing to us: in another network namespace
    is_elsewhere: bool = False  # in another network namespace than we are


class Removed(Exception):
    """The interface does not exist any more."""


class Interface:
    """The interface behind a TUN queue `fd`, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self.news: socket.socket | None = None  # where the kernel refuses netlink
        with contextlib.suppress(OSError):
            self.news = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self.news.bind((0, RTMGRP_LINK))
            # now, since the capability does not stay
            self.news.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        self.latest = InterfaceState(0, False)  # of what was found
        self.home = own_namespace()

    def close(self) -> None:
        if self.news is not None:
            self.news.close()

    def drain(self) -> None:
        """Read away what woke us (netlink.py)."""
        if self.news is not None:
            drain(self.news)

    def look(self) -> InterfaceState | None:
        """The state now; None when it moved on each time that it was asked for. Removed; OSError, which says
        nothing of the interface: a question may fail for want of a descriptor or of memory.

        The queue alone knows whether there still is one. A name that means nothing was given away since.
        """
        for _ in range(MOVES):
            state = self._look_for(self._name())
            if state is not None:
                self.latest = state
                return state
        return None

    def tx_dropped(self) -> int | None:
        """Packets that the kernel dropped in front of our queues; None where it does not tell."""
        try:
            name = fcntl.ioctl(self.fd, TUNGETIFF, bytes(40))[:16]
            namespace = moved_to(self.fd, self.home)
            try:
                stats = _link(name, namespace)[IFLA_STATS64]
            finally:
                if namespace is not None:
                    os.close(namespace)
        except (OSError, KeyError):
            return None
        return int(struct.unpack_from("=Q", stats, 8 * TX_DROPPED)[0])

    def _name(self) -> bytes:
        try:
            return fcntl.ioctl(self.fd, TUNGETIFF, bytes(40))[:16]
        except OSError as error:
            if error.errno in (errno.EBADFD, errno.ENODEV):
                raise Removed from error
            raise

    def _look_for(self, name: bytes) -> InterfaceState | None:
        """Wherever it is; None when it is not there any more."""
        namespace = moved_to(self.fd, self.home)
        if namespace is None:
            return _ask(name)
        try:
            return self.latest if self.news is None else _ask_elsewhere(name, namespace)
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
    return InterfaceState(mtu, bool(flags & IFF_UP), os.fsdecode(name.rstrip(b"\0")))


def _ask_elsewhere(name: bytes, namespace: int) -> InterfaceState | None:
    """By name in another namespace; None only when it has no such interface."""
    try:
        told = _link(name, namespace)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    (flags,) = struct.unpack("=I", told[FLAGS])
    (mtu,) = struct.unpack("=I", told[IFLA_MTU])
    return InterfaceState(mtu, bool(flags & IFF_UP), is_elsewhere=True)


def _link(name: bytes, namespace: int | None) -> dict[int, bytes]:
    """Attributes of the interface of that name, and its FLAGS; OSError, ENODEV when there is none.

    namespace: a descriptor of another network namespace than ours, which is given an id here.
    """
    named = attribute(IFLA_IFNAME, name.rstrip(b"\0") + b"\0")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        if namespace is not None:
            here = attribute(NETNSA_FD, struct.pack("=I", namespace))
            with contextlib.suppress(FileExistsError):
                request(sock, RTM_NEWNSID, bytes(4) + here + attribute(NETNSA_NSID, struct.pack("=i", -1)))
            answer = request(sock, RTM_GETNSID, bytes(4) + here)
            named = attribute(IFLA_TARGET_NETNSID, attributes(answer[4:])[NETNSA_NSID]) + named
        answer = request(sock, RTM_GETLINK, bytes(16) + named)
    return {**attributes(answer[16:]), FLAGS: answer[8:12]}  # struct ifinfomsg
