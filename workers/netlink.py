"""Questions to rtnetlink, by hand: a request, its answer, and the attributes of both (linux/netlink.h)."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from workers.failure import SHORTAGES

DRAINED = 1000  # messages in a turn
NLMSG_ERROR, NLM_F_REQUEST, NLM_F_ACK = 2, 1, 4
TUNGETIFF, TUNGETDEVNETNS = 0x800454D2, 0x54E3  # linux/if_tun.h
SIOCGSKNS = 0x894C  # linux/sockios.h
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port


def request(sock: socket.socket, kind: int, body: bytes) -> bytes:
    """The body of the kernel's answer to one request; OSError with its errno. Acknowledgements have none."""
    sock.settimeout(1)  # the kernel answers within the call that asks
    sock.send(_HEAD.pack(_HEAD.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK, 0, 0) + body)
    answer = b""
    while True:
        data = sock.recv(1 << 16)
        length, what, *_ = _HEAD.unpack_from(data)
        if what != NLMSG_ERROR:
            answer = data[_HEAD.size : length]
            continue
        (number,) = struct.unpack_from("=i", data, _HEAD.size)
        if number:
            raise OSError(-number, os.strerror(-number))
        return answer


def drain(news: socket.socket) -> None:
    """Read away what woke us; what comes behind it wakes us again."""
    for _ in range(DRAINED):
        try:
            news.recv(1 << 16)
        except OSError:  # nothing is left, or there was an overflow (ENOBUFS), which is news as well
            return


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Values by kind."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind] = data[4:length]
        data = data[(length + 3) // 4 * 4 :]
    return found


def own_namespace() -> int | None:
    """The inode of this process's network namespace, without /proc, which may be hidden. None where the
    kernel does not tell (nor does it tell `moved_to` then). OSError when there is no descriptor for it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            namespace: int = fcntl.ioctl(sock, SIOCGSKNS)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return None
    found = os.fstat(namespace).st_ino
    os.close(namespace)
    return found


def moved_to(queue: int, home: int | None) -> int | None:
    """The network namespace where the interface of a TUN queue is, as a descriptor that the caller closes.

    None: it is in the one whose inode is home; or home is unknown, or an old kernel does not tell, or tells
    only the privileged, and nobody is taken to have moved it. OSError when there is no descriptor for the
    answer.
    """
    try:
        namespace: int = fcntl.ioctl(queue, TUNGETDEVNETNS)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return None
    if home is not None and os.fstat(namespace).st_ino != home:
        return namespace
    os.close(namespace)
    return None
