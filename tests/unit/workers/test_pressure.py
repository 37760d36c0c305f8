"""Sockets that do not take what they are given, and batches whose packets came from several places.

Where a UDP socket must be full, one end of a SOCK_SEQPACKET pair stands for it: that keeps message borders,
does not look at the address, and its buffer stays full until a test reads.
"""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest

from tests.unit.workers.test_data_path import Path, assert_whole, ipv4
from workers._workers import ffi, lib
from workers.supervisor.sockets import UDP_GRO


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path()
    yield path
    path.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(what packets are sent into, what a test reads), with room for few packets."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    yield ours, theirs
    ours.close()
    theirs.close()


def drained(sock: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(65536))
    return found


def seal(path: Path, packets: list[bytes], row: int = 0, later: int = 0) -> None:
    """The peer of that row sends these, in one turn, so many ns from now."""
    for packet in packets:
        path.inside.send(bytes(10) + packet)
    for _ in packets:
        lib.receiver_run(path.receiver, 0)
    assert lib.holder_take(path.holder, 2 * row + lib.OUTBOUND)
    lib.holder_take_turn(path.holder, 2 * row + lib.OUTBOUND, lib.clock_now() + later)


def test_a_full_socket_is_waited_for_and_then_costs_packets_that_are_counted(
    path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A buffer drains within microseconds, so that the holder sleeps once before packets are lost."""
    ours, theirs = pair
    path.holder.udp4 = ours.fileno()
    path.holder.trains = 0
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    seal(path, [ipv4(bytes(1000)) for _ in range(32)])
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > before, "nobody waited"
    counted = path.counters()
    sent = drained(theirs)
    assert 0 < len(sent) < 32
    assert counted["UDP_SENT"] == len(sent)
    assert (counted["DROP_UDP_FULL"], counted["DROP_UDP_SEND"]) == (32 - len(sent), 0)
    assert path.segment.rows[0].tx_bytes == sum(map(len, sent))
    assert_whole(path)
    # The next ones find room again.
    seal(path, [ipv4(b"again")])
    assert len(drained(theirs)) == 1
    assert path.counters()["UDP_SENT"] == len(sent) + 1


def test_inline_leaves_to_a_consumer_what_a_full_socket_has_no_room_for(
    path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    """The receiver does not wait, since nobody would be heard meanwhile, and it loses nothing."""
    ours, theirs = pair
    path.holder.udp4 = ours.fileno()
    path.holder.trains = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1000))
    lib.receiver_hand_off(path.receiver, path.holder)
    for n in range(32):
        path.inside.send(bytes(10) + ipv4(bytes([n]) * 1000))
        lib.receiver_run(path.receiver, 0)
    counted = {name: count for name, count in path.counters().items() if count}
    assert counted == {"TUN_RECEIVED": 32}
    assert lib.queue_packets(path.segment, 2 * 0 + lib.OUTBOUND) == 32
    drained(theirs)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    assert lib.holder_take(path.holder, lib.OUTBOUND), "it waits for a consumer"
    lib.holder_take_turn(path.holder, lib.OUTBOUND, lib.clock_now())
    assert len(drained(theirs)) == path.counters()["UDP_SENT"] == 32
    path.inside.send(bytes(10) + ipv4(b"inline"))
    lib.receiver_run(path.receiver, 0)
    assert len(drained(theirs)) == 1, "where there is room the receiver sends"
    assert_whole(path)


def test_trains_that_one_way_refuses_go_on_others_and_are_tried_again(path: Path) -> None:
    """The kernel has no trains of UDP-Lite: EIO, as where IPsec or an old kernel's device is on the way."""
    packets = [[ipv4(bytes([n]) * 400, destination=f"10.0.0.{2 - row}") for n in range(8)] for row in (0, 1)]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDPLITE) as lite,
    ):
        wire.bind(("127.0.0.1", 0))
        wire.setblocking(False)
        wire.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)  # a train is read in one piece
        endpoint = ffi.new("struct endpoint *")
        for row in (0, 1):
            lib.endpoint_load(path.segment, row, endpoint)
            endpoint.port = socket.htons(wire.getsockname()[1])
            lib.endpoint_store(path.segment, row, endpoint)
        path.holder.trains = 1
        path.holder.udp4 = lite.fileno()
        seal(path, packets[0])
        assert path.counters()["UDP_SENT"] == 8, "one by one they left"
        path.holder.udp4 = path.udp.fileno()
        arrived = []
        for row, later in ((1, 0), (0, 0), (0, lib.TRAINS_AGAIN_NS)):
            seal(path, packets[row], row, later)
            arrived.append([len(message) for message in drained(wire)])
    one = len(packets[0][0]) + 32 + -len(packets[0][0]) % 16
    assert arrived == [[8 * one], 8 * [one], [8 * one]]
    assert path.counters()["UDP_SENT"] == 32
    assert_whole(path)


def test_what_cannot_leave_is_counted_by_its_cause(path: Path) -> None:
    """A host without IPv6 has no such socket; a session may have fewer messages left than a batch needs."""
    path.holder.udp4 = -1
    seal(path, [ipv4(b"x")] * 3)
    path.holder.udp4 = path.udp.fileno()
    keypair = ffi.cast("struct keypair *", path.segment.keypairs) + 1
    keypair.send_counter = lib.REJECT_AFTER_MESSAGES - 1
    seal(path, [ipv4(b"x")] * 2)
    counted = {name: count for name, count in path.counters().items() if count}
    assert counted == {"TUN_RECEIVED": 5, "DROP_NO_SOCKET": 3, "DROP_SESSION_ENDED": 2}
    assert_whole(path)


def test_the_endpoint_is_where_the_last_message_of_a_batch_came_from(path: Path) -> None:
    """Several messages of one peer, from another port each, opened in one turn."""
    packets = [ipv4(bytes([n]) * 40) for n in range(8)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire, contextlib.ExitStack() as stack:
        wire.bind(("127.0.0.1", 0))
        wire.setblocking(False)
        endpoint = ffi.new("struct endpoint *")
        lib.endpoint_load(path.segment, 0, endpoint)
        endpoint.port = socket.htons(wire.getsockname()[1])
        lib.endpoint_store(path.segment, 0, endpoint)
        path.holder.trains = 0
        seal(path, packets)
        messages = drained(wire)
        assert len(messages) == len(packets)
        ports = []
        for message in messages:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.sendto(message, path.udp.getsockname())
            ports.append(sock.getsockname()[1])
        while path.counters()["UDP_RECEIVED"] < len(messages):
            lib.receiver_run(path.receiver, 0)
        assert lib.holder_take(path.holder, 2 * 1 + lib.INBOUND)
        lib.holder_take_turn(path.holder, 2 * 1 + lib.INBOUND, lib.clock_now())
        lib.endpoint_load(path.segment, 1, endpoint)
    assert [packet[10:] for packet in drained(path.inside)] == packets
    assert socket.ntohs(endpoint.port) == ports[-1]
    assert_whole(path)


def test_a_source_that_is_not_ours_is_forgotten_and_the_packet_sent(path: Path) -> None:
    there = ffi.new("struct endpoint *")
    lib.endpoint_load(path.segment, 0, there)
    there.source[0:4] = [192, 0, 2, 1]
    there.source_ifindex = 1
    lib.endpoint_store(path.segment, 0, there)
    packet = ipv4(b"from elsewhere")
    assert path.carry([packet]) == [packet]
    lib.endpoint_load(path.segment, 0, there)
    assert bytes(there.source) == bytes(16) and there.source_ifindex == 0
    assert_whole(path)


def test_messages_that_leave_together_have_their_own_ecn_bits(path: Path) -> None:
    """A train has one, and ends where the next message has other bits. All go where the endpoint says."""
    packets = [ipv4(bytes([n]) * 40) for n in range(6)]
    bits = [0, 0, 2, 2, 1, 0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.4", 0))  # another one than they come from
        wire.setblocking(False)
        wire.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        endpoint = ffi.new("struct endpoint *")
        lib.endpoint_load(path.segment, 0, endpoint)
        endpoint.port = socket.htons(wire.getsockname()[1])
        endpoint.address[0:4] = [127, 0, 0, 4]
        lib.endpoint_store(path.segment, 0, endpoint)
        path.holder.trains = 1
        pairs = zip(packets, bits, strict=True)
        seal(path, [packet[:1] + bytes([ecn]) + packet[2:] for packet, ecn in pairs])
        found = [wire.recvmsg(2000, 64)[1] for _ in packets]
    assert [control[0][2][0] & 3 for control in found] == bits


def test_an_endpoint_that_is_only_ordered_counts_at_once(path: Path) -> None:
    """A packet comes between control's order and the holder's turn: nobody says that there is no endpoint."""
    there = ffi.new("struct endpoint *")
    lib.endpoint_load(path.segment, 0, there)
    lib.endpoint_store(path.segment, 0, ffi.new("struct endpoint *"))
    packet = ipv4(b"first")
    [error] = path.carry([packet])
    assert error[20:22] == b"\x03\x01", "without an endpoint the sender is told"
    assert path.counters()["DROP_NO_ENDPOINT"] == 1
    path.segment.rows[0].ordered_endpoint = there[0]
    lib.orders_give(path.segment, 0, lib.ORDER_ENDPOINT)
    path.inside.send(bytes(10) + packet)
    lib.receiver_run(path.receiver, 0)  # the holder has not had its turn
    assert lib.queue_packets(path.segment, 2 * 0 + lib.OUTBOUND) == 1
    assert path.carry([]) == [packet]
    assert path.counters()["DROP_NO_ENDPOINT"] == 1
    assert_whole(path)
