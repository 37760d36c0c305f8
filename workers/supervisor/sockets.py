"""Opening UDP sockets: one IPv4 and one IPv6 socket for each receiver, all on one port.

The sockets of a family form an SO_REUSEPORT group, over which the kernel spreads the
datagrams. Anybody of the same user may join such a group, and two engines on one port would
then steal each other's datagrams; so the first socket binds alone, which the kernel refuses
when the port is in use, and only then opens its group for the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import select
import socket
import struct
from collections.abc import Mapping

from workers.descriptors import borrowed
from workers.failure import Exit, Failure, explain

BUFFER_BYTES = 4 << 20
RANDOM_PORT_TRIES = 100

# Not in Python's socket module (linux/in.h, linux/in6.h, asm-generic/socket.h).
IP_PKTINFO = 8
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DONT = 0
IPV6_MTU_DISCOVER = 23
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_ATTACH_FILTER = 26
SO_MARK = 36
SO_ATTACH_REUSEPORT_CBPF = 51
SO_DETACH_REUSEPORT_BPF = 68  # since 5.3
BPF_RETURN = 0x06  # linux/bpf_common.h: BPF_RET | BPF_K

UDP_GRO = 104  # linux/udp.h

# Options that a socket can do without: level, option, value, what is lost without it. Outer packets may be
# fragmented on their way: path MTU discovery is done by the inner packets.
_WHOLE = "large packets get lost where the path's MTU is smaller than ours"
_UNMARKED = "congestion that the path marks (ECN) is not told to what is inside"
_ANY_SOURCE = "answers may leave from another address of this host than they were asked at"
OPTIONS = {
    socket.AF_INET: (
        (socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT, _WHOLE),
        (socket.IPPROTO_IP, socket.IP_RECVTOS, 1, _UNMARKED),
        (socket.IPPROTO_IP, IP_PKTINFO, 1, _ANY_SOURCE),
    ),
    socket.AF_INET6: (
        (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DONT, _WHOLE),
        (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1, _UNMARKED),
        (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1, _ANY_SOURCE),
    ),
}
# Variables of the environment by which plaitd is given bound sockets.
GIVEN = {socket.AF_INET: "PLAIT_UDP4_FD", socket.AF_INET6: "PLAIT_UDP6_FD"}
_said: set[str] = set()
log = logging.getLogger("plait")

Pair = tuple[int | None, int | None]


def open_sockets(port: int, receivers: int, mark: int = 0) -> list[Pair]:
    """Open (IPv4 fd, IPv6 fd) for each receiver, all bound to `port`; 0 takes a random one.

    mark is the firewall mark, 0 for none. An fd is None where the host lacks the family.
    The fds are nonblocking and close-on-exec; they tell local address and TOS of what they
    receive and let the kernel fragment what they send. Raises Failure with the errno
    (EADDRINUSE for a taken port) and leaves nothing open.
    """
    for tries_left in reversed(range(RANDOM_PORT_TRIES if port == 0 else 1)):
        try:
            return _open_all(port, receivers, mark)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and tries_left:
                continue  # the random port is in use in the other family: take another
            raise _refused(port, error) from error
    raise AssertionError("unreachable")


def adopt_sockets(fds: Mapping[str, int | None]) -> list[Pair]:
    """Take over the one pair that the caller of plaitd opened and bound, by the variables that name them.

    They may stand in another network namespace. Raises Failure when one is no bound UDP socket of its family,
    or both have different ports.
    """
    ports = set()
    for family, name in GIVEN.items():
        fd = fds.get(name)
        if fd is None:
            continue
        what = f"cannot use the UDP socket given as {name}={fd}"
        try:
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)
            with borrowed(fd) as sock:
                if (sock.family, sock.type) != (family, socket.SOCK_DGRAM):
                    raise OSError(errno.EINVAL, f"it is no UDP socket of {family.name}")
                ports.add(sock.getsockname()[1])
                _configure(sock, 0)
        except OSError as error:
            why, step = error.strerror or str(error), "pass a UDP socket of that family"
            raise Failure(what, why, step, Exit.PORT, error.errno or 0) from error
    if len(ports) != 1 or 0 in ports:
        what, why = "cannot use the UDP sockets that were given", f"their ports are {sorted(ports)}"
        raise Failure(what, why, "bind both to one port before plaitd is started", Exit.PORT)
    return [(fds.get(GIVEN[socket.AF_INET]), fds.get(GIVEN[socket.AF_INET6]))]


def open_one_more(pairs: list[Pair], mark: int = 0) -> Pair:
    """Another pair in the groups of these, which receives its part of the datagrams from now on.

    Raises Failure with the errno and leaves nothing open.
    """
    port = port_of(pairs)
    fds: list[int | None] = []
    try:
        for family, fd in zip((socket.AF_INET, socket.AF_INET6), pairs[0], strict=True):
            sock = None if fd is None else _open_socket(family, port, mark, joins=True, opens=True)
            fds.append(None if sock is None else sock.detach())
    except OSError as error:
        close_sockets([(fd, None) for fd in fds])
        raise _refused(port, error) from error
    return fds[0], fds[1]


def gather(pairs: list[Pair]) -> None:
    """Deliver all datagrams to the first pair, whoever the sender is. OSError from the kernel.

    By a BPF program that needs no privileges: `return 0`, the index of the socket that was opened first.
    """
    code = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(code))
    for fd in pairs[0]:
        if fd is not None:
            with borrowed(fd) as sock:
                sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)


def spread(pairs: list[Pair]) -> None:
    """The end of `gather`: the kernel spreads the senders over the groups again."""
    for fd in pairs[0]:
        if fd is not None:
            with borrowed(fd) as sock, contextlib.suppress(FileNotFoundError):
                sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)


def deafen(pairs: list[Pair]) -> None:
    """Let these sockets receive nothing more: a sender finds the port closed. What is in them can be read.

    Nobody may send through them afterwards.
    """
    code = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
    nothing = struct.pack("HP", 1, ctypes.addressof(code))
    for pair in pairs:
        for address, fd in zip(("127.0.0.1", "::1"), pair, strict=True):
            if fd is None:
                continue
            with borrowed(fd) as sock:
                try:  # a connected socket hears its peer alone, here itself
                    sock.connect((address, sock.getsockname()[1]))
                except OSError:  # this namespace has no loopback: a filter drops what comes
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, nothing)


def is_empty(pair: Pair) -> bool:
    """Whether no datagram waits in either socket."""
    poll = select.poll()
    for fd in pair:
        if fd is not None:
            poll.register(fd, select.POLLIN)
    return not poll.poll(0)


def empty(pair: Pair) -> int:
    """Discard what waits in both sockets; returns how many datagrams, each of a train counted."""
    packets = 0
    for fd in pair:
        if fd is None:
            continue
        with borrowed(fd) as sock:
            while not is_empty((fd, None)):
                with contextlib.suppress(OSError):  # an ICMP error for something sent, reported once
                    data, ancillary, _, _ = sock.recvmsg(1 << 16, 256)
                    packets += _datagrams(data, ancillary)
    return packets


def _datagrams(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> int:
    """How many datagrams a received message has."""
    sizes = [size for *kind, size in ancillary if kind == [socket.IPPROTO_UDP, UDP_GRO]]
    segment = struct.unpack_from("i", sizes[0])[0] if sizes else len(data)
    return -(-len(data) // segment) if data else 1


def port_of(pairs: list[Pair]) -> int:
    """The port that the sockets are bound to, in host byte order."""
    fd = next(fd for pair in pairs for fd in pair if fd is not None)
    with borrowed(fd) as sock:
        return int(sock.getsockname()[1])


def receive_trains(pairs: list[Pair]) -> bool:
    """Let trains of datagrams arrive in one piece (UDP_GRO). False where the kernel cannot."""
    try:
        for pair in pairs:
            for fd in pair:
                if fd is not None:
                    with borrowed(fd) as sock:
                        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def close_sockets(pairs: list[Pair]) -> None:
    """Close every fd of the pairs."""
    for pair in pairs:
        for fd in pair:
            if fd is not None:
                os.close(fd)


def _open_all(port: int, receivers: int, mark: int) -> list[Pair]:
    opened: dict[socket.AddressFamily, list[socket.socket]] = {}
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            if not _has_family(family):
                continue
            opened[family] = []
            for number in range(receivers):
                opened[family].append(_open_socket(family, port, mark, number > 0, receivers > 1))
                port = opened[family][-1].getsockname()[1]
        if not opened:
            raise OSError(errno.EAFNOSUPPORT, "this host has neither IPv4 nor IPv6")
    except BaseException:
        for socks in opened.values():
            for sock in socks:
                sock.close()
        raise
    fours: list[int | None] = [sock.detach() for sock in opened.get(socket.AF_INET, [])]
    sixes: list[int | None] = [sock.detach() for sock in opened.get(socket.AF_INET6, [])]
    return list(zip(fours or [None] * receivers, sixes or [None] * receivers, strict=True))


class _NoGroup(OSError):
    """The kernel refuses SO_REUSEPORT."""


def _open_socket(family: int, port: int, mark: int, joins: bool, opens: bool) -> socket.socket:
    """One socket that joins a group (joins) or opens one. opens: others will join, so that it must not lack
    its group."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _configure(sock, mark)
        if joins:
            _share(sock)
        sock.bind(("", port))
        if not joins:
            with contextlib.suppress(*() if opens else (_NoGroup,)):
                _share(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _share(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        raise _NoGroup(error.errno, error.strerror) from error


def _has_family(family: socket.AddressFamily) -> bool:
    """Whether the kernel knows the family: IPv6 is missing when booted with ipv6.disable=1."""
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES, errno.ENOSYS):  # of filters
            return False
        raise
    return True


def _configure(sock: socket.socket, mark: int) -> None:
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
        except OSError:  # without CAP_NET_ADMIN the host's limit applies
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    for level, option, value, without in OPTIONS[sock.family]:
        try:
            sock.setsockopt(level, option, value)
        except OSError as error:
            if without not in _said:
                _said.add(without)
                log.info("the kernel refuses a socket option (%s): %s", error.strerror, without)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("I", mark))


def _refused(port: int, error: OSError) -> Failure:
    what = f"cannot open UDP port {port}" if port else "cannot open a UDP port"
    number = error.errno or errno.EIO
    if number == errno.EADDRINUSE:
        why = "another program uses it"
        next_step = f"choose another port, or see who has it with `ss -lunp sport = :{port}`"
    elif isinstance(error, _NoGroup):
        why = f"the kernel refuses SO_REUSEPORT, by which receivers share a port ({error.strerror})"
        next_step = "set receivers = 1 and max_receivers = 1 in the settings, or allow it"
    elif number in (errno.EACCES, errno.EPERM) and 0 < port < 1024:
        why = error.strerror or str(error)
        next_step = "run plaitd as root, with CAP_NET_BIND_SERVICE, or choose a port above 1023"
    elif number == errno.EAFNOSUPPORT:
        why = "this kernel or container has neither IPv4 nor IPv6 sockets"
        next_step = "allow sockets of AF_INET or AF_INET6"
    else:
        why, next_step = explain(error)
    return Failure(what, why, next_step, Exit.PORT, number)
