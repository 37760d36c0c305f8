"""Receive calls that bring more than test_data_path.py's: very many peers at once, floods with a cap.

The two peers of the path are rows 0 and 1; the rows behind them have an index and a queue, and nobody who
empties it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import shm.segment
from engine import cookie
from engine.noise import Identity
from tests.unit.workers.test_data_path import GEOMETRY, MTU, Path, assert_whole, ipv4
from workers._workers import ffi, lib
from workers.supervisor.sockets import receive_trains

PEERS = 320  # more than a burst has chains (BURST_PEERS), and than go through without a push between
MANY = GEOMETRY | {"max_peers": 512, "max_keypairs": 512, "nodes_a_pool": 2048, "train_slots": 48}
UDP_SEGMENT = 103  # linux/udp.h
DATAGRAM = 64
IN_A_TRAIN = 64
# receive_tun.c, receive_udp.c
ICMP_AT_ONCE, ICMP_NS = 50, 1_000_000
REFUSALS_AT_ONCE, REFUSAL_NS = 5, 1_000_000_000


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path()
    yield path
    path.close()


@pytest.fixture
def crowd() -> Iterator[tuple[Path, list[int]]]:
    """A path with very many peers, and the receiver index of each row."""
    path = Path(MANY)
    path.data.ensure(shm.segment.lib.REGION_ROWS, PEERS)
    path.device.rows_used = PEERS
    assert receive_trains([(path.udp.fileno(), None)])
    table = ffi.cast("struct index_entry *", path.segment.index)
    keypairs = ffi.cast("struct keypair *", path.segment.keypairs)
    indices = [int(keypairs[row + 1].local_index) for row in (0, 1)]
    for row in range(2, PEERS):
        path.segment.rows[row].generation = 1
        lib.queue_initialise(path.segment, 2 * row)
        lib.queue_initialise(path.segment, 2 * row + 1)
        lib.token_initialise(path.segment, 2 * row)
        lib.token_initialise(path.segment, 2 * row + 1)
        indices.append(int(lib.index_publish(table, path.device.index_key, row + 1, row)))
    yield path, indices
    path.close()


def train(indices: list[int]) -> bytes:
    """Data messages, one for each index."""
    heads = [b"\x04\0\0\0" + struct.pack("<IQ", index, 0) for index in indices]
    return b"".join(head + bytes(DATAGRAM - len(head)) for head in heads)


def send_trains(path: Path, indices: list[int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, DATAGRAM)
        for first in range(0, len(indices), IN_A_TRAIN):
            sender.sendto(train(indices[first : first + IN_A_TRAIN]), path.udp.getsockname())


def waiting(path: Path) -> list[int]:
    return [int(lib.queue_packets(path.segment, 2 * row)) for row in range(PEERS)]


def test_one_call_brings_packets_of_more_peers_than_a_burst_holds(crowd: tuple[Path, list[int]]) -> None:
    path, indices = crowd
    # A receiver makes ready for a little more than came lately: a call that was full doubles that.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(1 + 2 + 4 + 8):
            sender.sendto(b"none", path.udp.getsockname())
    for _ in range(4):
        lib.receiver_run(path.receiver, 0)
    assert path.counters()["UDP_RECEIVED"] == 15
    before, counted = waiting(path), path.counters()
    send_trains(path, indices)
    lib.receiver_run(path.receiver, 0)
    gained = {name: n - counted[name] for name, n in path.counters().items() if n != counted[name]}
    assert gained == {"UDP_RECEIVED": PEERS}
    assert [now - then for now, then in zip(waiting(path), before, strict=True)] == [1] * PEERS
    assert_whole(path)


def test_a_burst_of_the_most_peers_and_one_more(crowd: tuple[Path, list[int]]) -> None:
    """Trains that mix peers at will: each packet waits at its peer, in order of arrival."""
    path, indices = crowd
    for spread in (127, 128, 129, 255, 256, 257, PEERS):
        before = waiting(path)
        send_trains(path, indices[:spread])
        while path.counters()["UDP_RECEIVED"] < sum(before) + spread:
            lib.receiver_run(path.receiver, 0)
        gained = [now - then for now, then in zip(waiting(path), before, strict=True)]
        assert gained == [1] * spread + [0] * (PEERS - spread)
    assert_whole(path)


# -- caps ----------------------------------------------------------------------------------------


def test_icmp_errors_have_a_cap(path: Path) -> None:
    """50 at once, then one a millisecond: what passed since the first bounds them, on any machine."""
    lost = [ipv4(b"x", destination="10.9.9.9")] * 63
    begin, answered, sent = lib.clock_now(), 0, 0
    for _ in range(6):
        answered += len(path.carry(lost))
        sent += len(lost)
    passed = (lib.clock_now() - begin) // ICMP_NS
    counted = path.counters()
    assert counted["DROP_NO_PEER"] == sent and counted["ICMP_SENT"] == answered
    assert min(ICMP_AT_ONCE, sent) <= answered <= ICMP_AT_ONCE + passed + 1


def test_messages_with_a_wrong_mac1_that_control_is_shown_have_a_cap(path: Path) -> None:
    """Five at once, then one a second; what carries a right one is all shown."""
    key = Identity(bytes([1]) * 32).mac1_key
    lib.mac1_filter_learn(path.segment, key)
    wrong = b"\x01\0\0\0" + bytes(144)
    right = cookie.add_macs(b"\x01\0\0\0" + bytes(112), key, None)
    begin = lib.clock_now()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for message in [wrong] * 30 + [right] * 20:
            sender.sendto(message, path.udp.getsockname())
    while (counted := path.counters())["UDP_RECEIVED"] < 50:
        lib.receiver_run(path.receiver, 0)
    passed = (lib.clock_now() - begin) // REFUSAL_NS
    shown = counted["HANDSHAKE_TO_CONTROL"] - 20
    assert REFUSALS_AT_ONCE <= shown <= REFUSALS_AT_ONCE + passed + 1
    assert counted["HS_MAC1_BAD"] == 30 - shown
    cells: Any = ffi.new("struct mailbox_cell[]", 64)
    assert lib.mailbox_take(path.segment, cells, 64) == shown + 20


# -- borders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> Iterator[Path]:
    path = Path()
    path.device.mtu = 9000
    yield path
    path.close()


def test_every_size_around_the_end_of_a_small_slot(large: Path) -> None:
    """Packet, padding and tag have their place in the slot, whichever slot that is."""
    sizes = range(lib.SMALL_SLOT_BYTES - lib.SLOT_ROOM - 80, lib.SMALL_SLOT_BYTES - lib.SLOT_ROOM + 20)
    packets = [ipv4(bytes([size % 251]) * (size - 20)) for size in sizes]
    before = large.counters()
    for packet in packets:
        assert large.carry([packet]) == [packet], f"{len(packet)} bytes"
    assert large.counters()["DROP_PEER_GONE"] == before["DROP_PEER_GONE"]
    assert_whole(large)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1500))
@example(MTU)
@example(MTU - 1)
@example(MTU - 20)
def test_padding_ends_at_the_mtu(path_of_mtu: Path, size: int) -> None:
    """A full packet is not padded beyond what the link takes."""
    packet = ipv4(bytes(min(size, MTU - 20)))
    path_of_mtu.inside.send(bytes(10) + packet)
    lib.receiver_run(path_of_mtu.receiver, 0)
    assert lib.holder_take(path_of_mtu.holder, lib.OUTBOUND)
    lib.holder_take_turn(path_of_mtu.holder, lib.OUTBOUND, lib.clock_now())
    message = path_of_mtu.udp.recv(4000)
    assert len(message) == 32 + min((len(packet) + 15) // 16 * 16, MTU)


@pytest.fixture(scope="module")
def path_of_mtu() -> Iterator[Path]:
    path = Path()
    yield path
    path.close()
