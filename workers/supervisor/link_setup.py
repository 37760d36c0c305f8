"""What the kernel module sets on its device, and a TUN device does not come with.

When it is made: no multicast. Each time it goes up: no ICMP redirects, neither of the device nor of "all"
(the kernel takes either for a yes), since a hub that sends a client's packet on to another client would tell
the first one to speak with the second itself; and no link-local address of the kernel's own making, from
which it would solicit routers that no peer's allowed IPs know (kernel: device.c, wg_setup and wg_open).
With the setting `multicast` the flag and the address are left as a TUN device comes with them.

A device that moves to another network namespace gets what that one has by default. So this is done in the
namespace in which the interface is, by the supervisor, in a thread that enters it. Nothing here is fatal:
what the kernel refuses is said once.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from workers.failure import SHORTAGES, explain
from workers.netlink import TUNGETDEVNETNS, TUNGETIFF, attribute, own_namespace, request

log = logging.getLogger(__name__)

ALL_REDIRECTS = Path("/proc/sys/net/ipv4/conf/all/send_redirects")
CLONE_NEWNET = 0x40000000  # linux/sched.h
IFF_MULTICAST = 0x1000  # linux/if.h
RTM_SETLINK = 19  # linux/rtnetlink.h
IFLA_AF_SPEC, IFLA_INET_CONF, IFLA_INET6_ADDR_GEN_MODE = 26, 1, 8  # linux/if_link.h
IN6_ADDR_GEN_MODE_NONE = 1
IPV4_DEVCONF_SEND_REDIRECTS = 6  # linux/ip.h
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which of them change

_told: set[str] = set()


def set_up(fd: int, *, is_new: bool, multicast: bool = False) -> None:
    """Set all that the kernel module would on the interface of this TUN queue, wherever it is.

    is_new: we made it, so that its flags are ours, too. multicast: as the setting.
    """
    try:
        name = fcntl.ioctl(fd, TUNGETIFF, bytes(40))[:16].rstrip(b"\0").decode()
    except OSError:
        return  # removed meanwhile
    try:
        namespace = fcntl.ioctl(fd, TUNGETDEVNETNS)
    except OSError as error:
        if error.errno in SHORTAGES:
            _tell_nothing_done(name, *explain(error))
        else:  # an old kernel, or no privilege: assume that nobody moved it
            _set_all(name, is_new, multicast)
        return
    try:
        if own_namespace() in (os.fstat(namespace).st_ino, None):
            _set_all(name, is_new, multicast)
        else:
            thread = threading.Thread(target=_set_there, args=(name, is_new, multicast, namespace))
            try:
                thread.start()
            except RuntimeError:  # a full pids cgroup
                _tell(f"{name} is not set up where it is: the kernel has no thread for that namespace")
                return
            thread.join()
    except (OSError, RuntimeError) as error:  # no thread
        _tell_nothing_done(name, *explain(error))
    finally:
        os.close(namespace)


def _set_there(name: str, is_new: bool, multicast: bool, namespace: int) -> None:
    """In a thread of its own, which stays in the namespace until its end."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        why = os.strerror(ctypes.get_errno())
        _tell(
            f"{name} keeps ICMP redirects and a link-local address in the network namespace where it is: "
            f"{why}; start plaitd with CAP_SYS_ADMIN, or turn both off there"
        )
    else:
        _set_all(name, is_new, multicast)


def _set_all(name: str, is_new: bool, multicast: bool) -> None:
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return
    if is_new and not multicast:
        _try(name, "multicast", f"ip link set {name} multicast off",
             lambda: _set_link(index, change=IFF_MULTICAST))  # fmt: skip
    no_redirects = attribute(IPV4_DEVCONF_SEND_REDIRECTS, struct.pack("=I", 0))
    _try(name, "ICMP redirects", f"sysctl net.ipv4.conf.{name}.send_redirects=0",
         lambda: _set_link(index, socket.AF_INET, attribute(IFLA_INET_CONF, no_redirects)))  # fmt: skip
    _try(name, "ICMP redirects of all interfaces", "sysctl net.ipv4.conf.all.send_redirects=0",
         _stop_redirects)  # fmt: skip
    if not multicast and Path("/proc/sys/net/ipv6").exists():
        no_address = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
        _try(name, "a link-local address", f"ip link set {name} addrgenmode none",
             lambda: _set_link(index, socket.AF_INET6, no_address))  # fmt: skip


def _set_link(index: int, family: int = 0, settings: bytes = b"", *, change: int = 0) -> None:
    """Clear the flags `change`, or give a family's settings. OSError from the kernel."""
    body = _LINK.pack(0, 0, index, 0, change)
    if settings:
        body += attribute(IFLA_AF_SPEC, attribute(family, settings))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        request(sock, RTM_SETLINK, body)


def _stop_redirects() -> None:
    """Of "all". Written only where it would change something: /proc/sys is read-only in many containers."""
    with contextlib.suppress(FileNotFoundError):
        if ALL_REDIRECTS.read_text().strip() != "0":
            ALL_REDIRECTS.write_text("0")


def _try(name: str, what: str, by_hand: str, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        # It has gone, or has no IPv6 while its MTU is below 1280.
        if error.errno not in (errno.ENODEV, errno.EAFNOSUPPORT):
            _tell(f"{name} keeps {what}: {error.strerror or error}; if you do not want them: {by_hand}")


def _tell_nothing_done(name: str, why: str, mend: str) -> None:
    _tell(f"{name} keeps what its network namespace gives a device: {why}; {mend}, then set it down and up")


def _tell(words: str) -> None:
    if words not in _told:
        _told.add(words)
        log.warning("%s", words)
