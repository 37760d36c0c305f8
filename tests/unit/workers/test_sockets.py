"""UDP sockets: one port for both families and all receivers, and nobody else on it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from plait.lab.namespaces import Lab
from tests.support.descriptors import open_here
from workers.descriptors import borrowed
from workers.failure import Exit, Failure
from workers.supervisor import sockets

REFUSING = str(Path(__file__).with_name("refusing.py"))


def names(pairs: list[sockets.Pair]) -> list[list[tuple[int, int]]]:
    """(family, port) of each fd."""
    found = []
    for pair in pairs:
        row = []
        for fd in pair:
            if fd is not None:
                with socket.socket(fileno=os.dup(fd)) as sock:
                    row.append((int(sock.family), sock.getsockname()[1]))
        found.append(row)
    return found


def test_all_on_one_port() -> None:
    pairs = sockets.open_sockets(0, 3)
    port = sockets.port_of(pairs)
    families = [int(socket.AF_INET)] + [int(socket.AF_INET6)] * (pairs[0][1] is not None)
    assert port > 0
    assert names(pairs) == [[(family, port) for family in families]] * 3
    sockets.close_sockets(pairs)
    again = sockets.open_sockets(port, 1)
    assert sockets.port_of(again) == port
    sockets.close_sockets(again)


def test_every_socket_receives() -> None:
    pairs = sockets.open_sockets(0, 2)
    port = sockets.port_of(pairs)
    counts = [0, 0]
    for _ in range(64):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("127.0.0.1", port))
    for number, (fd, _) in enumerate(pairs):
        assert fd is not None
        with socket.socket(fileno=os.dup(fd)) as sock, pytest.raises(BlockingIOError):
            while sock.recv(1):
                counts[number] += 1
    sockets.close_sockets(pairs)
    assert sum(counts) == 64 and min(counts) > 0


def test_second_engine_on_a_port_is_refused() -> None:
    """The group is closed to strangers although they run as the same user with SO_REUSEPORT."""
    pairs = sockets.open_sockets(0, 2)
    port = sockets.port_of(pairs)
    with pytest.raises(Failure, match=str(port)) as caught:
        sockets.open_sockets(port, 2)
    assert (caught.value.errno, caught.value.code) == (errno.EADDRINUSE, Exit.PORT)
    sockets.close_sockets(pairs)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_one_taken_family_is_a_taken_port(family: socket.AddressFamily) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as other:
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("", 0))
        before = open_here()
        with pytest.raises(Failure) as caught:
            sockets.open_sockets(other.getsockname()[1], 2)
        assert caught.value.errno == errno.EADDRINUSE
        assert open_here() == before


@pytest.mark.network
def test_random_port_avoids_the_other_family() -> None:
    """A random IPv4 port that IPv6 has in use is given up for another one."""
    program = """
import socket
from workers.supervisor import sockets
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("50000 50003")
taken = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(3)]
for sock, port in zip(taken, (50000, 50001, 50003)):
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
for _ in range(16):
    pairs = sockets.open_sockets(0, 1)
    assert sockets.port_of(pairs) == 50002
    sockets.close_sockets(pairs)
"""
    with Lab() as lab:
        lab.host("a").run([sys.executable, "-c", program])


@pytest.mark.network
def test_a_low_port_needs_a_privilege_and_says_which() -> None:
    program = """
import os
from workers.supervisor import sockets
from workers.failure import Failure
os.setuid(65534)
try:
    sockets.open_sockets(80, 1)
except Failure as failure:
    assert "CAP_NET_BIND_SERVICE" in str(failure), failure
else:
    raise SystemExit("it was opened")
"""
    with Lab() as lab:
        lab.host("a").run([sys.executable, "-c", program])


def test_options_of_a_socket() -> None:
    ((four, six),) = sockets.open_sockets(0, 1)
    assert four is not None and not os.get_inheritable(four) and not os.get_blocking(four)
    with socket.socket(fileno=four) as sock:
        assert sock.getsockopt(socket.IPPROTO_IP, sockets.IP_MTU_DISCOVER) == sockets.IP_PMTUDISC_DONT
        assert sock.getsockopt(socket.IPPROTO_IP, sockets.IP_PKTINFO) == 1
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS) == 1
        if os.geteuid() == 0:  # nobody else gets more than the host's limit; the kernel tells twice as much
            for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                assert sock.getsockopt(socket.SOL_SOCKET, buffer) == 8 << 20
    if six is not None:
        with socket.socket(fileno=six) as sock:
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS) == 1
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO) == 1


def test_host_without_ipv6() -> None:
    program = """from workers.supervisor import sockets
pairs = sockets.open_sockets(0, 2)
assert sockets.port_of(pairs) and [four is None for four, _ in pairs] == [False, False]
assert [six for _, six in pairs] == [None, None]
"""
    refusal = f"socket,0={int(socket.AF_INET6)}:EAFNOSUPPORT"
    subprocess.run([sys.executable, REFUSING, refusal, "--", sys.executable, "-c", program], check=True)


def test_the_last_pair_leaves_with_nothing_lost() -> None:
    """What came before stays readable; from then on all goes to the first; then the rest share again."""

    def send() -> None:
        for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            for _ in range(32):
                with socket.socket(family, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"x", (address, port))

    pairs = sockets.open_sockets(0, 2)
    port = sockets.port_of(pairs)
    pairs.append(sockets.open_one_more(pairs))
    assert names(pairs) == [[(int(socket.AF_INET), port), (int(socket.AF_INET6), port)]] * 3
    send()
    first = [sockets.empty(pairs[0]), sockets.empty(pairs[1])]
    sockets.gather(pairs)
    last = pairs.pop()
    send()
    assert not sockets.is_empty(last) and sockets.is_empty(pairs[1])
    assert sum(first) + sockets.empty(last) == sockets.empty(pairs[0]) == 64
    assert sockets.is_empty(last)
    sockets.close_sockets([last])
    send()
    assert (sockets.empty(pairs[0]), sockets.empty(pairs[1])) == (64, 0)
    sockets.spread(pairs)
    send()
    counts = sockets.empty(pairs[0]), sockets.empty(pairs[1])
    assert sum(counts) == 64 and min(counts) > 0
    sockets.close_sockets(pairs)


def test_datagrams_of_a_train_are_counted_each() -> None:
    (pair,) = sockets.open_sockets(0, 1)
    assert sockets.receive_trains([pair])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT
        sender.sendto(bytes(950), ("127.0.0.1", sockets.port_of([pair])))
        sender.setsockopt(socket.IPPROTO_UDP, 103, 0)
        sender.sendto(b"", ("127.0.0.1", sockets.port_of([pair])))
    assert sockets.empty(pair) == 11
    sockets.close_sockets([pair])


def test_given_sockets_are_used_or_refused_with_a_reason() -> None:
    four, six = (socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6))
    with four, six, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        given = {"PLAIT_UDP4_FD": four.fileno(), "PLAIT_UDP6_FD": six.fileno()}
        with pytest.raises(Failure, match="ports are \\[0\\]"):  # nobody bound them
            sockets.adopt_sockets(given)
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        four.bind(("", 0))
        port = four.getsockname()[1]
        six.bind(("", 0))
        if six.getsockname()[1] != port:
            with pytest.raises(Failure, match="ports are"):
                sockets.adopt_sockets(given)
        for wrong in ({"PLAIT_UDP6_FD": four.fileno()}, {"PLAIT_UDP4_FD": stream.fileno()}):
            with pytest.raises(Failure, match="no UDP socket of AF_INET"):
                sockets.adopt_sockets(dict(wrong))
        assert sockets.adopt_sockets({"PLAIT_UDP4_FD": four.fileno()}) == [(four.fileno(), None)]
        assert sockets.port_of([(four.fileno(), None)]) == port and not os.get_inheritable(four.fileno())
        assert not os.get_blocking(four.fileno())


def test_every_socket_is_marked() -> None:
    def marks(pairs: list[sockets.Pair]) -> set[int]:
        found = set()
        for fd in (fd for pair in pairs for fd in pair if fd is not None):
            with borrowed(fd) as sock:
                found.add(sock.getsockopt(socket.SOL_SOCKET, sockets.SO_MARK))
        return found

    for mark in (0, 0x1234):
        pairs = sockets.open_sockets(0, 2, mark)
        try:
            pairs.append(sockets.open_one_more(pairs, mark))
            assert len(pairs) == 3 and marks(pairs) == {mark}
        finally:
            sockets.close_sockets(pairs)


@pytest.mark.parametrize(("code", "port", "words"), [
    (errno.EADDRINUSE, 53, "another program uses it"),
    (errno.EACCES, 1, "CAP_NET_BIND_SERVICE"),
    (errno.EPERM, 1023, "CAP_NET_BIND_SERVICE"),
    (errno.EACCES, 1024, "Permission denied"),
    (errno.EACCES, 0, "Permission denied"),
    (errno.EAFNOSUPPORT, 1, "neither IPv4 nor IPv6"),
])  # fmt: skip
def test_what_is_refused_has_its_reason(code: int, port: int, words: str) -> None:
    failure = sockets._refused(port, OSError(code, os.strerror(code)))
    assert words in str(failure)
    assert ("CAP_NET_BIND_SERVICE" in str(failure)) == (words == "CAP_NET_BIND_SERVICE")
    assert failure.what == (f"cannot open UDP port {port}" if port else "cannot open a UDP port")
    assert (failure.code, failure.errno) == (Exit.PORT, code)


@pytest.mark.parametrize(("length", "ancillary", "count"), [
    (0, [], 1),
    (10, [], 1),
    (10, [(socket.IPPROTO_UDP, sockets.UDP_GRO, b"\4\0\0\0")], 3),
    (12, [(socket.IPPROTO_IP, 1, b"\1\0\0\0"), (socket.IPPROTO_UDP, sockets.UDP_GRO, b"\4\0\0\0")], 3),
    (12, [(socket.IPPROTO_IP, sockets.UDP_GRO, b"\4\0\0\0"), (socket.IPPROTO_UDP, 1, b"\4\0\0\0")], 1),
    (0, [(socket.IPPROTO_UDP, sockets.UDP_GRO, b"\4\0\0\0")], 1),
])  # fmt: skip
def test_each_datagram_of_a_train_counts(length: int, ancillary: list[tuple[int, int, bytes]],
                                         count: int) -> None:
    assert sockets._datagrams(bytes(length), ancillary) == count


def test_what_waits_is_discarded_and_counted() -> None:
    """Of both families, also what is empty."""
    ((four, six),) = pairs = sockets.open_sockets(0, 1)
    port, sent = sockets.port_of(pairs), 0
    assert sockets.empty((None, None)) == 0 and sockets.empty((four, six)) == 0
    for fd, family, address in ((four, socket.AF_INET, "127.0.0.1"), (six, socket.AF_INET6, "::1")):
        if fd is not None:
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                for length in (0, 1, 1000):
                    sender.sendto(bytes(length), (address, port))
                    sent += 1
    assert not sockets.is_empty((four, six))
    assert sockets.empty((four, six)) == sent
    assert sockets.is_empty((four, six))
    sockets.close_sockets(pairs)
