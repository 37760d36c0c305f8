"""Opening the TUN interface: one queue for each receiver there may ever be.

All queues are opened at the start, because an interface that was moved to another network
namespace cannot be given another one; those that nobody reads yet are detached. The interface
lives as long as its queues are open: closing the last fd removes it.

Facts: linux/if_tun.h, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
import struct
from collections.abc import Callable

from workers.failure import Exit, Failure

log = logging.getLogger(__name__)

DEVICE = "/dev/net/tun"
MTU = 1420  # 1500 less 80: outer IPv6, UDP, the data message
# Packets that wait to be read, each queue: as many as the kernel's WireGuard keeps (messages.h,
# MAX_QUEUED_PACKETS); TUN's own 500 overflow when a reader wakes a few milliseconds late.
QUEUE_LENGTH = 1024
VNET_HEADER_BYTES = 10

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
SIOCSIFMTU = 0x8922
SIOCSIFTXQLEN = 0x8943

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


def open_queues(name: str, count: int, attached: int) -> list[int]:
    """Create the interface `name` with `count` queues and leave the first `attached` in use.

    Returns `count` fds: nonblocking, close-on-exec, with a 10-byte vnet header before each
    packet and no offloads. The MTU is 1420, txqueuelen 1024. Raises Failure and leaves nothing behind.
    """
    check_name(name)
    fds: list[int] = []
    try:
        for number in range(count):
            fds.append(_open_device(name))
            # Exclusive: without it the first queue would join a running engine's interface.
            exclusive = IFF_TUN_EXCL if number == 0 else 0
            _attach(fds[-1], name, FLAGS | exclusive)
            _configure(fds[-1], name)
        for fd in fds[attached:]:
            fcntl.ioctl(fd, TUNSETQUEUE, _IFREQ_FLAGS.pack(b"", IFF_DETACH_QUEUE))
        set_mtu(name, MTU)
        try:
            _set(name, SIOCSIFTXQLEN, QUEUE_LENGTH)
        except OSError as error:
            log.warning("%s keeps the kernel's own queue length: %s", name, _words(error))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


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


def set_mtu(name: str, mtu: int) -> None:
    """Set the MTU of an interface in this network namespace. OSError from the kernel."""
    _set(name, SIOCSIFMTU, mtu)


def _set(name: str, request: int, value: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, request, _IFREQ_INT.pack(name.encode(), value))


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
            raise Failure(
                f"cannot create the interface {name}",
                "an interface of that name exists already",
                f"choose another name, or `ip link delete {name}` if nobody needs that interface",
                Exit.INTERFACE,
                error.errno,
            ) from error
        raise _refused(name, error) from error


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
    if error.errno in (errno.EPERM, errno.EACCES):
        return Failure(
            f"cannot create the interface {name}",
            f"{DEVICE} refuses this user ({_words(error)})",
            "run plaitd as root or with the capability CAP_NET_ADMIN",
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


def _words(error: OSError) -> str:
    return error.strerror or str(error)
