"""Opening the TUN interface: one queue for each receiver there may ever be.

All queues are opened at the start, because an interface that was moved to another network
namespace cannot be given another one; those that nobody reads yet are detached. The interface
lives as long as its queues are open: closing the last fd removes it.

A persistent one that somebody made before (`ip tuntap add dev wg0 mode tun`) is adopted when nobody uses it.
It may have one queue alone, and it stays: what was changed is put back at the end.

Facts: linux/if_tun.h, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pwd
import re
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from engine.constants import MTU
from workers.failure import Exit, Failure, explain
from workers.netlink import TUNGETIFF, attribute, attributes, moved_to, own_namespace, request
from workers.supervisor import link_setup

log = logging.getLogger(__name__)

DEVICE = "/dev/net/tun"
# Packets that wait to be read, each queue: as many as the kernel's WireGuard keeps (messages.h,
# MAX_QUEUED_PACKETS); TUN's own 500 overflow when a reader wakes a few milliseconds late.
QUEUE_LENGTH = 1024
VNET_HEADER_BYTES = 10
# What an interface has that nobody gave another.
KERNEL_MTU = 1500
KERNEL_QUEUE_LENGTH = 500

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
SIOCSIFMTU = 0x8922
SIOCSIFTXQLEN = 0x8943

RTM_GETLINK = 18  # linux/rtnetlink.h
IFLA_IFNAME, IFLA_MTU, IFLA_TXQLEN, IFLA_LINKINFO = 3, 4, 13, 18  # linux/if_link.h
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_TUN_OWNER, IFLA_TUN_TYPE, IFLA_TUN_PI, IFLA_TUN_VNET_HDR, IFLA_TUN_MULTI_QUEUE = 1, 3, 4, 5, 7
IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES = 8, 9

IFF_TUN = 0x0001
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000
FLAGS = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE

# struct ifreq: a name of 16 bytes, then a union of 24
# linux/if_tun.h: CSUM, TSO4, TSO6; USO4 and USO6 only together, since 6.2.
OFFLOADS = ((0x01 | 0x02 | 0x04 | 0x20 | 0x40, 1 | 2), (0x01 | 0x02 | 0x04, 1))
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")

_NAME = re.compile(r"[A-Za-z0-9_=+.-]{1,15}")  # what wg-quick accepts


def check_name(name: str) -> None:
    """Refuse what cannot name an interface (and what the kernel would expand, as `wg%d`)."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise Failure(
            f"cannot use the interface name {name!r}",
            "a name has 1 to 15 letters, digits or any of _ = + . -",
            "choose another one, for example wg0",
            Exit.USAGE,
        )


class Found(NamedTuple):
    """A TUN interface that was there before us, as it was found. flags: IFF_*."""

    mtu: int
    queue_length: int
    flags: int

    @property
    def has_one_queue(self) -> bool:
        """Whether it was made without multi_queue."""
        return not self.flags & IFF_MULTI_QUEUE

    def words(self, queues: int) -> str:
        """What was adopted, for the log."""
        mtu = f"MTU {self.mtu}" if self.mtu != KERNEL_MTU else f"MTU {MTU} (it had {self.mtu})"
        one = "one queue and so one receiver, since it was made without multi_queue"
        count = one if self.has_one_queue else f"{queues} queues"
        return f"{count}, {mtu}; it stays when the engine ends"


def find(name: str) -> Found | None:
    """The interface of that name, to be adopted; None when there is none. Failure when it cannot be."""
    link = _link(name)
    if link is None:
        return None
    info = attributes(link[IFLA_LINKINFO]) if IFLA_LINKINFO in link else {}
    kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    told = attributes(info.get(IFLA_INFO_DATA, b"")) if kind == "tun" else {}
    if not kind:  # loopback, a network card: nothing that anybody made, or could delete
        raise _taken(name, "no TUN, and only a TUN can be adopted", "choose another name")
    if IFLA_TUN_TYPE not in told:
        raise _taken(name, f"of kind {kind}, and only a TUN can be adopted" if kind != "tun" else "")
    if told[IFLA_TUN_TYPE][0] != IFF_TUN:
        raise _taken(name, "a TAP, and only a TUN can be adopted")
    if _queues(told):
        raise _taken(name, "and a running program uses it")
    flags = IFF_TUN
    for key, flag in ((IFLA_TUN_VNET_HDR, IFF_VNET_HDR), (IFLA_TUN_MULTI_QUEUE, IFF_MULTI_QUEUE)):
        flags |= flag if told[key][0] else 0
    if not told[IFLA_TUN_PI][0]:
        flags |= IFF_NO_PI
    mtu, length = (struct.unpack("=I", link[key])[0] for key in (IFLA_MTU, IFLA_TXQLEN))
    return Found(mtu, length, flags)


def open_queues(
    name: str, count: int, attached: int, found: Found | None = None, *, multicast: bool = False
) -> list[int]:
    """Create the interface `name` with `count` queues and leave the first `attached` in use.

    Returns `count` fds: nonblocking, close-on-exec, with a 10-byte vnet header before each
    packet and no offloads. The MTU is 1420, txqueuelen 1024, and the rest as link_setup says. Raises Failure
    and leaves nothing behind.
    found: adopt this one, with count 1 where it has one queue; an MTU or txqueuelen that was chosen stays.
    multicast: as the setting.
    """
    check_name(name)
    fds: list[int] = []
    flags, is_ours = FLAGS & ~IFF_MULTI_QUEUE if found and found.has_one_queue else FLAGS, False
    try:
        for number in range(count):
            fds.append(_open_device(name))
            # Exclusive: without it the first queue would join a running engine's interface.
            exclusive = IFF_TUN_EXCL if number == 0 and found is None else 0
            _attach(fds[-1], name, flags | exclusive)
            _configure(fds[-1], name)
        if found is not None and not found.has_one_queue:
            _check_alone(name, count)
        is_ours = True
        try:
            for fd in fds[attached:]:
                fcntl.ioctl(fd, TUNSETQUEUE, _IFREQ_FLAGS.pack(b"", IFF_DETACH_QUEUE))
        except OSError as error:
            raise _not_made(name, error) from error
        if found is None or found.mtu == KERNEL_MTU:
            _set_or_say(name, SIOCSIFMTU, MTU, "MTU", found is None)
        if found is None or found.queue_length == KERNEL_QUEUE_LENGTH:
            _set_or_say(name, SIOCSIFTXQLEN, QUEUE_LENGTH, "queue length", False)
        link_setup.set_up(fds[0], is_new=found is None, multicast=multicast)
    except BaseException:
        for fd in fds:
            os.close(fd)
        if found is not None and is_ours:
            _reset_flags(name, found)
        raise
    return fds


def give_back(fds: list[int], found: Found) -> None:
    """Close the queues of an adopted interface, and put back what we changed and nobody changed since."""
    try:
        name = name_of(fds[0])
        link = _link(name)
        namespace = moved_to(fds[0], own_namespace())
        if namespace is not None:
            os.close(namespace)
            link = None
            log.info("%s was moved to another network namespace, and stays as it is there", name)
        if link is not None:
            for key, ours, order, theirs in (
                (IFLA_MTU, MTU, SIOCSIFMTU, found.mtu),
                (IFLA_TXQLEN, QUEUE_LENGTH, SIOCSIFTXQLEN, found.queue_length),
            ):
                if link[key] == struct.pack("=I", ours) != struct.pack("=I", theirs):
                    _set(name, order, theirs)
            fcntl.ioctl(fds[0], TUNSETOFFLOAD, 0)
    except OSError as error:  # deleted, as a rule
        log.debug("the adopted interface is not put back: %s", _words(error))
        link = None
    for fd in fds:
        os.close(fd)
    if link is not None:
        _reset_flags(name, found)


def _reset_flags(name: str, found: Found) -> None:
    """An interface has the flags of whoever attached to it last."""
    with contextlib.suppress(OSError, Failure):
        fd = _open_device(name)
        try:
            _attach(fd, name, found.flags)
        finally:
            os.close(fd)


def _check_alone(name: str, count: int) -> None:
    """Another program may have attached a queue since we looked: packets would be shared out between both."""
    link = _link(name)
    told = attributes(attributes(link[IFLA_LINKINFO])[IFLA_INFO_DATA]) if link else {}
    if not told or _queues(told) != count:
        raise _taken(name, "and another program began to use it just now")


def _queues(told: dict[int, bytes]) -> int:
    """How many queues are open."""
    counts = (told.get(key, bytes(4)) for key in (IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES))
    return sum(struct.unpack("=I", count)[0] for count in counts)


def _link(name: str) -> dict[int, bytes] | None:
    """The attributes of an interface of this network namespace; None when there is none of that name, or
    where the kernel refuses netlink: then one that exists is taken, and not adopted."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError as error:
        log.debug("netlink is refused: %s", _words(error))
        return None
    with sock:
        try:
            named = attribute(IFLA_IFNAME, os.fsencode(name) + b"\0")
            return attributes(request(sock, RTM_GETLINK, bytes(16) + named)[16:])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise


def _taken(name: str, words: str, next_step: str = "") -> Failure:
    return Failure(
        f"cannot create the interface {name}",
        f"an interface of that name exists already{', ' * bool(words)}{words}",
        next_step or f"choose another name, or `ip link delete {name}` if nobody needs that interface",
        Exit.INTERFACE,
        errno.EBUSY,
    )


def adopt_queue(fd: int) -> tuple[str, list[int]]:
    """Take over a queue that the caller of plaitd opened (WG_TUN_FD).

    Returns the interface's name and the one fd. Raises Failure when it is not a TUN queue with
    a vnet header and without packet information, as wireguard-go's launcher contract has it. Its
    MTU and queue length stay the caller's.
    """
    what = f"cannot use the TUN queue given as WG_TUN_FD={fd}"
    next_step = "open it with IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, or let plaitd open one"
    try:
        answer = fcntl.ioctl(fd, TUNGETIFF, _IFREQ_FLAGS.pack(b"", 0))
        raw, flags = _IFREQ_FLAGS.unpack(answer)
        name = raw.split(b"\0", 1)[0].decode()
        if not flags & IFF_TUN or not flags & IFF_NO_PI or not flags & IFF_VNET_HDR:
            raise Failure(what, f"its flags are {flags:#06x}", next_step, Exit.INTERFACE)
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        _configure(fd, name)
    except OSError as error:
        raise Failure(what, _words(error), next_step, Exit.INTERFACE, error.errno or 0) from error
    return name, [fd]


def offload(fd: int) -> int:
    """Let super-packets through this queue's interface, as far as the kernel can.

    Returns what it takes when written: JOIN_TCP | JOIN_UDP of engine/coalescing.h, 0 for none.
    """
    for flags, joins in OFFLOADS:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, flags)
        except OSError:
            continue
        return joins
    return 0


def use_queue(fd: int, use: bool) -> None:
    """Attach (use) or detach a queue of a running interface. OSError from the kernel."""
    flag = IFF_ATTACH_QUEUE if use else IFF_DETACH_QUEUE
    fcntl.ioctl(fd, TUNSETQUEUE, _IFREQ_FLAGS.pack(b"", flag))


def name_of(fd: int) -> str:
    """What the interface of this queue is called now. OSError (EBADFD) when there is none any more."""
    return os.fsdecode(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ_FLAGS.size))[:16].split(b"\0", 1)[0])


def _set_or_say(name: str, order: int, value: int, what: str, is_needed: bool) -> None:
    try:
        _set(name, order, value)
    except OSError as error:
        if is_needed:
            raise _not_made(name, error) from error
        log.warning("%s keeps its %s: %s", name, what, _words(error))


def _set(name: str, order: int, value: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, order, _IFREQ_INT.pack(name.encode(), value))


def _open_device(name: str) -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR):
            raise Failure(
                f"cannot create the interface {name}",
                f"this host has no usable {DEVICE}",
                f"load the module with `modprobe tun`, or give the container the device {DEVICE}",
                Exit.INTERFACE,
                error.errno,
            ) from error
        raise _refused(name, error) from error


def _attach(fd: int, name: str, flags: int) -> None:
    try:
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ_FLAGS.pack(name.encode(), flags))
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EEXIST):
            # Whether the one queue of an interface is used, the kernel does not tell before.
            is_found = not flags & IFF_TUN_EXCL
            raise _taken(name, "and a running program uses it" if is_found else "") from error
        owner = _owner(name)
        if error.errno == errno.EPERM and owner is not None:
            raise Failure(
                f"cannot use the interface {name}",
                f"it belongs to {owner}, and this user may not use interfaces of others",
                f"run plaitd as {owner}, as root, or with the capability CAP_NET_ADMIN",
                Exit.PRIVILEGE,
                errno.EPERM,
            ) from error
        raise _refused(name, error) from error


def _owner(name: str) -> str | None:
    """Whose a TUN interface is, None when it is nobody's."""
    link = _link(name) or {}
    info = attributes(link.get(IFLA_LINKINFO, b""))
    owner = attributes(info.get(IFLA_INFO_DATA, b"")).get(IFLA_TUN_OWNER)
    if owner is None:
        return None
    (number,) = struct.unpack("=I", owner)
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _configure(fd: int, name: str) -> None:
    settings: tuple[Callable[[], object], ...] = (
        lambda: fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES)),
        lambda: fcntl.ioctl(fd, TUNSETOFFLOAD, 0),
    )
    for setting in settings:
        try:
            setting()
        except OSError as error:
            raise _refused(name, error) from error


def _refused(name: str, error: OSError) -> Failure:
    if error.errno == errno.EINVAL:
        return Failure(
            f"cannot create the interface {name}",
            "this kernel's TUN has no queues for several readers, or no vnet header",
            "run Linux 3.8 or later, whose own tun module has both; an emulated kernel, as gVisor, has not",
            Exit.INTERFACE,
            error.errno,
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return Failure(
            f"cannot create the interface {name}",
            f"{DEVICE} refuses this user ({_words(error)})",
            "run plaitd as root or with the capability CAP_NET_ADMIN (docker run --cap-add NET_ADMIN)",
            Exit.PRIVILEGE,
            error.errno or 0,
        )
    return Failure(
        f"cannot create the interface {name}",
        _words(error),
        "see what the kernel says with `dmesg | tail`",
        Exit.INTERFACE,
        error.errno or 0,
    )


def _not_made(name: str, error: OSError) -> Failure:
    """The device is there, and the kernel refuses what a program can always ask of its own."""
    why, next_step = explain(error)
    return Failure(f"cannot create the interface {name}", why, next_step, Exit.INTERFACE, error.errno or 0)


def _words(error: OSError) -> str:
    return error.strerror or str(error)
