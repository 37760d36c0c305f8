"""Trains on their way through one process (test_data_path.py has the way itself, packet by packet).

Super-packets go into the stand-in of the TUN with the vnet header that a kernel would write, cross
loopback as UDP_SEGMENT trains that arrive in one piece (UDP_GRO), and come out joined. What
comes out is cut again by engine/segmentation, which tests/unit/engine holds against plain senders.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.transport import ACK, PSH, TCP, UDP, Segment
from tests.unit.workers.test_data_path import GEOMETRY, KEY, Path, assert_whole, ipv4
from workers._workers import ffi, lib
from workers.handoffs import HANDOFFS, INLINE
from workers.supervisor.sockets import receive_trains

UDP_SEGMENT = 103  # linux/udp.h
VNET = struct.Struct("=BBHHHH")  # linux/virtio_net.h: flags, type, header, segment, start, offset
ONE, TWO = ("10.0.0.1", "fd00::1"), ("10.0.0.2", "fd00::2")


class TrainPath(Path):
    """The same path with IPv6 inside, all offloads, and one of the hand-offs."""

    def __init__(self, handoff: str) -> None:
        super().__init__()
        for row, address in ((0, TWO[1]), (1, ONE[1])):
            packed = ffi.from_buffer(socket.inet_pton(socket.AF_INET6, address))
            assert lib.allowedips_insert(self.ips, packed, 128, 128, row, *self.lists) == 0
        assert receive_trains([(self.udp.fileno(), None)])
        self.offload()
        self.handoff = handoff
        self.hand_off()

    def hand_off(self) -> None:
        lib.receiver_hand_off(self.receiver, self.holder if self.handoff == INLINE else ffi.NULL)

    def offload(self, joins: int = lib.JOIN_TCP | lib.JOIN_UDP, trains: int = 1) -> None:
        self.holder.joins, self.holder.trains = joins, trains

    def taken_out(self) -> list[bytes]:
        """What was written into the TUN, vnet headers included."""
        out = []
        try:
            while True:
                out.append(self.inside.recv(80000))
        except BlockingIOError:
            return out

    def settle(self) -> list[bytes]:
        """Turns until nothing moves any more; what came out."""
        out: list[bytes] = []
        before: dict[str, int] = {}
        elsewhere = self.under_way()
        while before != (before := self.counters()) or self.come_more(elsewhere):
            self.turn()
            out += self.taken_out()
        return out

    def nodes_out(self) -> int:
        nodes = 1 + 2 * GEOMETRY["nodes_a_pool"]
        return sum(self.segment.states[n] != lib.NODE_FREE for n in range(1, nodes))

    def gained(self, before: dict[str, int]) -> dict[str, int]:
        return {name: n - before[name] for name, n in self.counters().items() if n != before[name]}

    def close(self) -> None:
        super().close()
        lib.holder_release(self.holder)


@pytest.fixture(scope="module", params=HANDOFFS)
def path(request: pytest.FixtureRequest) -> Iterator[TrainPath]:
    path = TrainPath(request.param)
    yield path
    path.close()


def super_packet(segment: Segment, payload: bytes, size: int) -> bytes:
    """As a TUN with its offloads on gives it out."""
    kind = lib.VNET_GSO_UDP_L4
    if segment.protocol == TCP:
        kind = lib.VNET_GSO_TCPV4 if segment.version == 4 else lib.VNET_GSO_TCPV6
    if len(payload) <= size:
        kind = lib.VNET_GSO_NONE
    offset = 6 if segment.protocol == UDP else 16
    size = size if kind else 0
    head = VNET.pack(lib.VNET_NEEDS_CSUM, kind, segment.header, size, segment.transport, offset)
    return head + segment.partial(payload)


def cut(message: bytes) -> list[bytes]:
    """The packets that a kernel would make of what was written into the TUN."""
    flags, kind, header, size, start, offset = VNET.unpack(message[: VNET.size])
    packet = message[VNET.size :]
    if kind == lib.VNET_GSO_NONE:
        return [packet]
    data = ffi.from_buffer(packet)
    whole = ffi.new(
        "struct super_packet *",
        {
            "data": data,
            "length": len(packet),
            "flags": flags,
            "gso_type": kind,
            "gso_size": size,
            "checksum_start": start,
            "checksum_offset": offset,
        },
    )
    plan = ffi.new("struct segmentation *")
    assert lib.segmentation_plan(whole, plan) == 0
    assert plan.header == header and plan.packets > 1
    out = ffi.new("uint8_t[]", plan.largest)
    return [bytes(ffi.buffer(out, lib.segmentation_cut(whole, plan, n, out))) for n in range(plan.packets)]


def flow(version: int, protocol: int, **changes: Any) -> Segment:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    place = 0 if version == 4 else 1
    source, destination = (socket.inet_pton(family, end[place]) for end in (ONE, TWO))
    return Segment(version=version, protocol=protocol, source=source, destination=destination, **changes)


SUPER = st.tuples(
    st.sampled_from([4, 6]),
    st.sampled_from([TCP, UDP]),
    st.integers(1, 64000),
    st.sampled_from([100, 536, 1000, 1340, 1360]),
    st.sampled_from([ACK, ACK | PSH]),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(SUPER, min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(0, 1),
    st.integers(0, 2**32 - 1).map(Random),
)
def test_super_packets_come_out_as_the_packets_that_they_stand_for(
    path: TrainPath, supers: list[tuple[int, int, int, int, int, int]], joins: int, trains: int, random: Any
) -> None:
    path.offload(joins, trains)
    before = path.counters()
    count = 0
    for version, protocol, length, size, flags, number in supers:
        segment = flow(version, protocol, flags=flags, sequence=number, id=number & 0xFFFF)
        payload = random.randbytes(length)
        path.inside.send(super_packet(segment, payload, size))
        expected = segment.train(payload, size)
        messages = path.settle()
        assert [packet for message in messages for packet in cut(message)] == expected
        if joins & (lib.JOIN_TCP if protocol == TCP else lib.JOIN_UDP) and 1 < len(expected) <= 64:
            assert len(messages) < len(expected)
        count += len(expected)
    gained = path.gained(before)
    assert {name: gained[name] for name in gained if gained[name] == count} == dict.fromkeys(
        ("TUN_RECEIVED", "UDP_SENT", "UDP_RECEIVED", "TUN_SENT"), count
    )
    assert not [name for name in gained if name.startswith("DROP")]
    assert path.holder.trains == trains
    path.offload()
    assert_whole(path)


def test_a_super_packet_that_lies_goes_nowhere(path: TrainPath) -> None:
    before = path.counters()
    good = super_packet(flow(4, TCP), bytes(5000), 1000)
    lies = [
        VNET.pack(1, 1, 40, 0, 20, 16) + good[10:],
        VNET.pack(1, 4, 40, 1000, 20, 16) + good[10:],
        VNET.pack(1, 1, 40, 1000, 65535, 65535) + good[10:],
        VNET.pack(1, 0, 0, 0, 5030, 16) + good[10:],
        VNET.pack(0, 1, 40, 1000, 20, 16) + good[10:],
        VNET.pack(1, 1, 40, 1000, 1880, 16) + good[10:],
    ]
    for lie in lies:
        path.inside.send(lie)
    assert path.settle() == []
    assert path.gained(before) == {"TUN_RECEIVED": len(lies), "DROP_TUN_HEADER": len(lies)}
    assert path.nodes_out() == 0
    assert_whole(path)


# Datagrams of one train: all of an initiation's size, so that all kinds may be mixed.
SIZE = lib.INITIATION_BYTES
KINDS = ("to 0", "to 1", "forged", "unknown", "initiation", "type", "length")


class Train:
    """Datagrams of mixed kinds and what must become of each."""

    def __init__(self, path: TrainPath) -> None:
        self.path = path
        self.datagrams: list[bytes] = []
        self.inside: dict[int, list[bytes]] = {0: [], 1: []}
        self.expected: dict[str, int] = {}

    def count(self, *names: str) -> None:
        for name in names:
            self.expected[name] = self.expected.get(name, 0) + 1

    def data(self, row: int, forged: bool = False) -> bytes:
        keypairs = ffi.cast("struct keypair *", self.path.segment.keypairs)
        keypair, sender = keypairs[row + 1], keypairs[2 - row]
        number = sender.send_counter
        sender.send_counter += 1
        packet = ipv4(struct.pack("!Q", number) + bytes(SIZE - 60), ONE[0] if row else TWO[0], TWO[0])
        header = struct.pack("<IIQ", lib.MESSAGE_DATA, keypair.local_index, number)
        message = header + ChaCha20Poly1305(KEY).encrypt(bytes(4) + header[8:], packet, None)
        if forged:
            return message[:-1] + bytes([message[-1] ^ 1])
        self.inside[row].append(packet)
        return message

    def add(self, kind: str) -> None:
        self.count("UDP_RECEIVED")
        match kind:
            case "to 0" | "to 1":
                self.datagrams.append(self.data(int(kind[-1])))
                self.count("TUN_SENT")
            case "forged":
                self.datagrams.append(self.data(1, forged=True))
                self.count("DROP_DATA_TAG")
            case "unknown":
                self.datagrams.append(struct.pack("<II", lib.MESSAGE_DATA, 7) + bytes(SIZE - 8))
                self.count("DROP_INDEX_UNKNOWN")
            case "initiation":
                self.datagrams.append(struct.pack("<I", lib.MESSAGE_INITIATION) + bytes(SIZE - 4))
                self.count("HANDSHAKE_TO_CONTROL")
            case "type":
                self.datagrams.append(struct.pack("<I", 9) + bytes(SIZE - 4))
                self.count("DROP_MESSAGE_TYPE")
            case _:
                self.datagrams.append(struct.pack("<I", lib.MESSAGE_RESPONSE) + bytes(SIZE - 4))
                self.count("DROP_MESSAGE_LENGTH")

    def end(self, length: int) -> None:
        """A last datagram shorter than the others: of a type that no length fits."""
        self.count("UDP_RECEIVED", "DROP_MESSAGE_LENGTH" if length < 4 else "DROP_MESSAGE_TYPE")
        self.datagrams.append(bytes(length))

    def send(self) -> None:
        """As one train, from the address where both peers are."""
        segment = (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", SIZE))
        udp = self.path.udp
        assert udp.sendmsg([b"".join(self.datagrams)], [segment], 0, udp.getsockname())


def empty_mailbox(path: TrainPath) -> int:
    cells = ffi.new("struct mailbox_cell[]", 64)
    return sum(iter(lambda: lib.mailbox_take(path.segment, cells, 64), 0))


def by_row(packets: list[bytes]) -> dict[int, list[bytes]]:
    ends = {socket.inet_aton(ONE[0]): 1, socket.inet_aton(TWO[0]): 0}
    return {row: [p for p in packets if ends[p[12:16]] == row] for row in (0, 1)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([*KINDS, "to 0", "to 1", "to 1", "to 1"]), min_size=2, max_size=60),
    st.one_of(st.none(), st.integers(1, SIZE - 1)),
)
def test_each_datagram_of_a_mixed_train_is_counted_once_and_in_order(
    path: TrainPath, kinds: list[str], end: int | None
) -> None:
    train = Train(path)
    for kind in kinds:
        train.add(kind)
    if end:
        train.end(end)
    before = path.counters()
    train.send()
    assert len(path.udp.recv(70000, socket.MSG_PEEK)) == sum(map(len, train.datagrams))
    out = path.settle()
    assert by_row([packet for message in out for packet in cut(message)]) == train.inside
    assert path.gained(before) == train.expected
    assert empty_mailbox(path) == train.expected.get("HANDSHAKE_TO_CONTROL", 0)
    assert path.nodes_out() == 0
    assert_whole(path)


# Trains that arrive while nobody drains, and which refusals that must lead to.
FLOODS = {
    "share": ([["to 1", "to 0"] * 30] * 4 + [["to 1", "to 0"] * 6] * 4, {"DROP_PEER_SHARE"}),
    "queue": ([["to 0"] * 12] * 30 + [["to 0"] * 60] * 14, {"DROP_QUEUE_FULL_INBOUND"}),
    "queue of one": (
        [["to 0"] * 12] * 62 + [["to 0"] * 60] * 5 + [["to 0"] * 30 + ["to 1"] * 30] * 3,
        {"DROP_QUEUE_FULL_INBOUND"},
    ),
    "slots": ([["to 1"] * 30] * 20, set()),  # what finds no large slot waits in the socket
    "nodes": (
        [["to 1", "type"] * 6] * 60 + [["to 1", "unknown"] * 30] * 14,
        {"DROP_NO_SLOT", "DROP_INDEX_UNKNOWN", "DROP_MESSAGE_TYPE"},
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_refusals_in_the_middle_of_a_train_leave_the_pool_whole(path: TrainPath, flood: str) -> None:
    lib.receiver_hand_off(path.receiver, ffi.NULL)
    kinds, wanted = FLOODS[flood]
    refusals = []
    for _ in range(3):  # a slot or node that is lost would be missed the next time
        before = path.counters()
        inside: dict[int, list[bytes]] = {0: [], 1: []}
        for one in kinds:
            train = Train(path)
            for kind in one:
                train.add(kind)
            train.send()
            for row in inside:
                inside[row] += train.inside[row]
            lib.receiver_run(path.receiver, 0)
            assert_whole(path)
        refused = {name: n for name, n in path.gained(before).items() if name.startswith("DROP")}
        out = by_row([packet for message in path.settle() for packet in cut(message)])
        gained = path.gained(before)
        assert gained.pop("SLOTS_STARVED", 0) == (flood == "slots")
        assert gained.pop("UDP_RECEIVED") == sum(map(len, kinds)) == sum(gained.values())
        assert gained.pop("TUN_SENT") == len(out[0]) + len(out[1])
        assert gained == refused
        for row in inside:  # in order, though not all
            rest = iter(inside[row])
            assert all(packet in rest for packet in out[row])
        assert path.nodes_out() == 0
        assert_whole(path)
        refusals.append(refused)
    assert refusals[0].keys() == wanted
    assert refusals == [refusals[0]] * 3
    path.hand_off()


def test_a_receiver_rung_for_what_another_waits_for_waits_on(path: TrainPath) -> None:
    """The ring took its announcement: without a new one nobody would wake it when its own slots come home."""
    lib.receiver_hand_off(path.receiver, ffi.NULL)
    bell = path.segment.bells[lib.WORKER_RECEIVER]
    for _ in range(20):
        train = Train(path)
        for _ in range(30):
            train.add("to 1")
        train.send()
    before = path.counters()
    bells = [path.bell if number == lib.WORKER_RECEIVER else -1 for number in range(lib.MAX_WORKERS)]
    while not bell.starving:
        lib.receiver_run(path.receiver, 0)
    for _ in range(3):
        assert lib.bell_ring_starving(path.segment, bells) == 1
        lib.receiver_run(path.receiver, 0)
        assert bell.starving
    assert path.gained(before)["SLOTS_STARVED"] == 1
    path.settle()
    assert not bell.starving
    path.hand_off()


def test_super_packets_without_a_session_wait_whole_the_newest_128_packets(path: TrainPath) -> None:
    peer = path.segment.rows[0]
    word, peer.key_word = peer.key_word, 0
    segment = flow(4, TCP)
    payloads = [bytes([n]) * 45_000 for n in range(6)]
    before = path.counters()
    for payload in payloads:
        path.inside.send(super_packet(segment, payload, 1000))
        assert path.settle() == []
        assert_whole(path)
    assert path.gained(before)["DROP_STAGED"] == 4 * 45
    peer.key_word = word
    lib.orders_give(path.segment, 0, lib.ORDER_LOOK)
    lib.peer_schedule(path.segment, 0)
    expected = [packet for payload in payloads[4:] for packet in segment.train(payload, 1000)]
    assert [packet for message in path.settle() for packet in cut(message)] == expected
    assert path.nodes_out() == 0
    assert_whole(path)


def test_packets_that_the_tun_refuses_are_counted_each(path: TrainPath) -> None:
    """The device does not take them: one write was for many, and each of them is lost."""
    before = path.counters()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.close()
    tun, path.holder.tun = path.holder.tun, ours.fileno()
    segment, payload = flow(4, TCP), bytes(12 * 1000)
    path.inside.send(super_packet(segment, payload, 1000))
    path.settle()
    path.holder.tun = tun
    ours.close()
    count = len(segment.train(payload, 1000))
    gained = path.gained(before)
    assert count == 12
    assert (gained["UDP_RECEIVED"], gained["DROP_TUN_WRITE"], gained.get("TUN_SENT", 0)) == (count, count, 0)
    assert_whole(path)
