"""The way of packets through one process: receiver, queues, holder, sockets, against plain lists.

Two peers of one segment talk to each other over real UDP sockets on loopback. A datagram
socket pair stands where the kernel puts the TUN queue, since it keeps packet borders and
wants no privileges; tests/interop has real devices.

    inner ──▶ receive_tun ─▶ peer 0 seals ──UDP──▶ receive_udp ─▶ peer 1 opens ──▶ inner
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shm.segment
from shm.layout import COUNTERS
from tests.support import asked
from tests.support.waiting import PATIENCE
from workers._workers import ffi, lib
from workers.providers import PROVIDERS

GEOMETRY = {
    "max_peers": 64,
    "max_keypairs": 64,
    "max_receivers": 1,
    "max_consumers": 1,
    "nodes_a_pool": 600,
    "small_slots": 512,
    "train_slots": 16,
    "mailbox_cells": 64,
    "max_trie_nodes": 64,
    "public_key_buckets": 64,
}
KEY = bytes(range(32))
MTU = 1420


def ipv4(payload: bytes, source: str = "10.0.0.1", destination: str = "10.0.0.2") -> bytes:
    """An IPv4 packet; its checksum is not looked at on this way."""
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0)
        + socket.inet_aton(source)
        + socket.inet_aton(destination)
        + payload
    )


class Path:
    """A segment with peer 0 (sends to itself as peer 1) and everything that moves its packets."""

    def __init__(self, geometry: dict[str, int] = GEOMETRY, channel: int = -1) -> None:
        self.data = shm.segment.create(geometry)
        self.geometry = geometry
        self.segment = ffi.cast("struct segment *", self.data.segment_address)
        self.device = self.segment.device
        self.device.mtu = MTU
        self.device.rows_used = 2
        self.device.keypairs_ready = geometry["max_keypairs"]
        self.inside, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.tun = tun
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        for sock in (self.inside, tun, self.udp):
            sock.setblocking(False)
        bells = [-1] * lib.MAX_WORKERS
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        bells[lib.WORKER_RECEIVER] = self.bell
        self.receiver = lib.receiver_new(self.segment, 0, channel, ffi.new("int32_t[]", bells))
        assert self.receiver != ffi.NULL
        assert lib.receiver_use_queues(self.receiver, [tun.fileno()], 1) == 0
        assert lib.receiver_use_sockets(self.receiver, [self.udp.fileno()], 1) == 0
        self.aead = lib.aead_new(PROVIDERS[asked.AEAD or "auto"])
        self.holder = ffi.new("struct holder *")
        lib.holder_initialise(self.holder, self.segment, self.aead, lib.WORKER_CONSUMER)
        self.holder.udp4 = self.udp.fileno()
        self.holder.tun = tun.fileno()
        self.holder.bells = bells
        self.ips = ffi.new("struct allowedips *")
        lib.allowedips_open(
            self.ips,
            ffi.cast("struct trie_node *", self.segment.trie),
            geometry["max_trie_nodes"],
            ffi.addressof(self.device, "trie_root4"),
            ffi.addressof(self.device, "trie_root6"),
        )
        self.heads = ffi.new("uint32_t[2]")  # of the lists of allowed IPs
        self.lists = (ffi.cast("uint8_t *", self.heads), 4)
        self.peer(0, allowed="10.0.0.2", local=1, remote=2)
        self.peer(1, allowed="10.0.0.1", local=2, remote=1)

    def peer(self, row: int, allowed: str, local: int, remote: int) -> None:
        """A live peer with a session whose other end is the other peer."""
        peer = self.segment.rows[row]
        peer.generation = 1
        for direction in (lib.INBOUND, lib.OUTBOUND):
            lib.queue_initialise(self.segment, 2 * row + direction)
        lib.token_initialise(self.segment, 2 * row)
        lib.token_initialise(self.segment, 2 * row + 1)
        lib.timers_initialise(self.segment.columns, self.geometry["max_peers"], row)
        address = ffi.from_buffer(socket.inet_aton(allowed))
        assert lib.allowedips_insert(self.ips, address, 32, 32, row, *self.lists) == 0
        table = ffi.cast("struct index_entry *", self.segment.index)
        index = {n: lib.index_of(self.device.index_key, n, table[n].generation + 1) for n in (1, 2)}
        keypair = ffi.cast("struct keypair *", self.segment.keypairs) + local
        keypair.send_key = KEY
        keypair.receive_key = KEY
        keypair.birth = lib.clock_now()
        keypair.local_index = lib.index_publish(table, self.device.index_key, local, row)
        keypair.remote_index = index[remote] if remote > local else table[remote].index
        keypair.peer, keypair.peer_generation = row, 1
        peer.key_word = lib.key_word_of(local, 0, 0)
        endpoint = ffi.new("struct endpoint *")
        endpoint.family = socket.AF_INET
        endpoint.port = socket.htons(self.udp.getsockname()[1])
        endpoint.address[0:4] = list(socket.inet_aton("127.0.0.1"))
        lib.endpoint_store(self.segment, row, endpoint)

    def turn(self) -> None:
        """Everything that is waiting moves on by one batch."""
        lib.receiver_run(self.receiver, 0)
        for queue in range(4):
            if lib.holder_take(self.holder, queue):
                lib.holder_take_turn(self.holder, queue, lib.clock_now())

    def carry(self, packets: list[bytes]) -> list[bytes]:
        """Send packets into the TUN and collect what comes out of it."""
        out = []
        for packet in packets:
            self.inside.send(bytes(10) + packet)
        turns, elsewhere = 20 + len(packets) // 8, self.under_way()
        while turns > 0 or self.come_more(elsewhere):
            turns -= 1
            self.turn()
            try:
                while True:
                    out.append(self.inside.recv(70000)[10:])
            except BlockingIOError:
                pass
        return out

    def under_way(self) -> int:
        """Datagrams that were sent and did not come, or not yet."""
        counters = self.counters()
        return counters["UDP_SENT"] - counters["UDP_RECEIVED"]

    def come_more(self, elsewhere: int) -> bool:
        """Wait while datagrams are under way, but those that went elsewhere: on a busy machine another thread
        of the kernel delivers them (ksoftirqd). False: none come."""
        return self.under_way() > elsewhere and bool(select.select([self.udp], [], [], PATIENCE)[0])

    def counters(self) -> dict[str, int]:
        return {name: lib.counter_sum(self.segment, i) for i, name in enumerate(COUNTERS)}

    def close(self) -> None:
        lib.receiver_free(self.receiver)
        lib.aead_free(self.aead)
        for sock in (self.inside, self.tun, self.udp):
            sock.close()
        os.close(self.bell)
        self.data.close()


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    path = Path()
    yield path
    path.close()


def assert_whole(path: Path) -> None:
    text = ffi.new("char[256]")
    faults = lib.segment_valid(path.segment, text, 256)
    assert faults == 0, ffi.string(text).decode()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, MTU - 20), max_size=50), st.integers(0, 2**32 - 1).map(Random))
def test_what_goes_in_comes_out_in_order(path: Path, sizes: list[int], random: object) -> None:
    packets = [ipv4(random.randbytes(size)) for size in sizes]  # type: ignore[attr-defined]
    assert path.carry(packets) == packets
    assert_whole(path)


def test_more_than_a_small_slot_goes_through_a_train_slot(path: Path) -> None:
    path.device.mtu = 9000
    packets = [ipv4(os.urandom(size)) for size in (1867, 1868, 1869, 1900, 4000, 8980)]
    assert path.carry(packets) == packets
    path.device.mtu = MTU
    assert_whole(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=0, max_size=200), max_size=60))
def test_garbage_is_counted_once_each_and_goes_nowhere(path: Path, garbage: list[bytes]) -> None:
    before = path.counters()
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for datagram in garbage:
        sender.sendto(datagram, path.udp.getsockname())
    sender.close()
    assert path.carry([]) == []
    after = path.counters()
    gained = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    received = gained.pop("UDP_RECEIVED", 0)
    assert received == len(garbage)
    assert sum(gained.values()) == received
    messages = ffi.new("struct mailbox_cell[]", 64)
    while lib.mailbox_take(path.segment, messages, 64):
        pass
    assert_whole(path)


def test_packets_for_nobody_are_counted_and_answered_with_icmp(path: Path) -> None:
    before = path.counters()
    lost = ipv4(b"x", destination="10.9.9.9")
    [error] = path.carry([lost, b"\x00" * 40, ipv4(b"y")[:19]])
    assert error[20:22] == b"\x03\x01" and error[28:] == lost
    after = path.counters()
    assert after["ICMP_SENT"] - before["ICMP_SENT"] == 1
    assert after["DROP_NO_PEER"] - before["DROP_NO_PEER"] == 1
    assert after["DROP_TUN_HEADER"] - before["DROP_TUN_HEADER"] == 2


def test_a_foreign_inner_source_is_not_delivered(path: Path) -> None:
    before = path.counters()
    assert path.carry([ipv4(b"x", source="10.0.0.3")]) == []
    assert path.counters()["DROP_INNER_SOURCE"] - before["DROP_INNER_SOURCE"] == 1


def test_without_a_session_the_newest_128_wait_and_then_go(path: Path) -> None:
    peer = path.segment.rows[0]
    word = peer.key_word
    peer.key_word = 0
    packets = [ipv4(struct.pack("!I", n)) for n in range(189)]
    before = path.counters()
    for first in range(0, len(packets), 63):
        assert path.carry(packets[first : first + 63]) == []
    assert path.counters()["DROP_STAGED"] - before["DROP_STAGED"] == len(packets) - lib.STAGED_LIMIT
    assert lib.events_read(path.segment, 0) & lib.EVENT_HANDSHAKE_WANTED
    peer.key_word = word
    lib.orders_give(path.segment, 0, lib.ORDER_LOOK)
    lib.peer_schedule(path.segment, 0)
    assert path.carry([]) == packets[-lib.STAGED_LIMIT :]
    assert_whole(path)


def test_a_packet_that_comes_at_the_end_of_a_turn_without_a_session_is_not_forgotten(path: Path) -> None:
    peer = path.segment.rows[0]
    word = peer.key_word
    peer.key_word = 0
    lib.orders_give(path.segment, 0, lib.ORDER_LOOK)
    lib.peer_schedule(path.segment, 0)
    path.turn()  # with nothing to send
    lib.events_clear(path.segment, 0, lib.events_read(path.segment, 0))
    # The next turn has looked at the queue and not yet given the token when the packet comes.
    assert lib.token_take_idle(path.segment, lib.OUTBOUND, path.holder.mark)
    packet = ipv4(b"first")
    path.inside.send(bytes(10) + packet)
    lib.receiver_run(path.receiver, 0)
    lib.token_give_idle(path.segment, lib.OUTBOUND)
    def sweep_waiting(last: int) -> int:
        return int(lib.schedule_sweep_waiting(path.segment, 0, last, ffi.new("uint64_t[]", 1)))

    assert [sweep_waiting(1) for _ in range(3)] == [0, 0, 0], "its row is the other sweep's"
    assert [sweep_waiting(0) for _ in range(3)] == [0, 1, 0], "its node tells of it"
    path.turn()
    assert lib.events_read(path.segment, 0) & lib.EVENT_HANDSHAKE_WANTED
    assert lib.schedule_sweep(path.segment, 0, 1) + lib.schedule_sweep(path.segment, 0, 1) == 0
    peer.key_word = word
    lib.orders_give(path.segment, 0, lib.ORDER_LOOK)
    lib.peer_schedule(path.segment, 0)
    assert path.carry([]) == [packet]
    assert_whole(path)


def test_an_endpoint_follows_authenticated_packets_only(path: Path) -> None:
    endpoint = ffi.new("struct endpoint *")
    endpoint.family = socket.AF_INET
    lib.endpoint_store(path.segment, 1, endpoint)  # nowhere
    forged = b"\x04\0\0\0" + struct.pack(
        "<IQ", ffi.cast("struct keypair *", path.segment.keypairs)[2].local_index, 1 << 40
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(forged + bytes(32), path.udp.getsockname())
    path.carry([])
    lib.endpoint_load(path.segment, 1, endpoint)
    assert endpoint.port == 0
    packet = ipv4(b"roams")
    assert path.carry([packet]) == [packet]
    lib.endpoint_load(path.segment, 1, endpoint)
    assert socket.ntohs(endpoint.port) == path.udp.getsockname()[1]


def rows_served(path: Path) -> list[int]:
    """The peers whose messages left, in order, by the receiver index."""
    rows = []
    to_0 = ffi.cast("struct keypair *", path.segment.keypairs)[1].remote_index
    with contextlib.suppress(BlockingIOError):
        while True:
            (index,) = struct.unpack_from("<I", path.udp.recv(2000), 4)
            rows.append(0 if index == to_0 else 1)
    return rows


def test_who_waits_behind_a_peer_decides_how_much_it_may_have(path: Path) -> None:
    consumer = lib.consumer_new(path.holder, 0, -1)

    def serve(*waiting: bytes) -> list[int]:
        for packet in waiting:
            path.inside.send(bytes(10) + packet)
            lib.receiver_run(path.receiver, 0)
        lib.consumer_run(consumer, 0)
        return rows_served(path)

    many, one = ipv4(b"many"), ipv4(b"one", destination="10.0.0.1")
    assert serve(*[many] * 100, one) == [0] * 64 + [1] + [0] * 36
    assert serve(*[many] * 150) == [0] * 150
    assert path.holder.budget == lib.BATCH_PACKETS
    path.holder.budget = lib.TAKE_BUDGET
    lib.consumer_free(consumer)
    assert_whole(path)


def test_a_row_that_no_consumer_has_is_served_by_whoever_finds_it(path: Path) -> None:
    """Where its word names one that there is not room for: no bell beyond the last is rung."""
    consumer = lib.consumer_new(path.holder, 0, -1)
    path.segment.rows[0].consumer = [path.segment.geometry.max_consumers] * 2
    path.inside.send(bytes(10) + ipv4(b"one"))
    lib.receiver_run(path.receiver, 0)
    lib.consumer_run(consumer, 0)
    assert rows_served(path) == [0]
    path.holder.budget = lib.TAKE_BUDGET
    lib.consumer_free(consumer)
    assert_whole(path)


def ipv6(destination: str) -> bytes:
    """An empty UDP packet."""
    addresses = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, 8, 17, 64) + addresses + struct.pack("!HHHH", 9, 9, 8, 0)


@pytest.mark.parametrize("packet, counter", [
    (ipv4(b"", destination="224.0.0.251"), "DROP_NO_PEER_MULTICAST"),
    (ipv4(b"", destination="239.255.255.250"), "DROP_NO_PEER_MULTICAST"),
    (ipv4(b"", destination="10.9.9.9"), "DROP_NO_PEER"),
    (ipv4(b"", destination="255.1.1.1"), "DROP_NO_PEER"),
    (ipv6("ff02::fb"), "DROP_NO_PEER_MULTICAST"),
    (ipv6("fd00::9"), "DROP_NO_PEER"),
    (ipv6("e000::9"), "DROP_NO_PEER"),
])  # fmt: skip
def test_multicast_that_nobody_has_is_counted_apart(path: Path, packet: bytes, counter: str) -> None:
    """A host sends some by itself: it is no fault of the allowed IPs, and gets no answer."""
    before = path.counters()
    answers = path.carry([packet])
    gained = {name: n - before[name] for name, n in path.counters().items() if n != before[name]}
    assert {name: n for name, n in gained.items() if name.startswith("DROP")} == {counter: 1}
    assert counter == "DROP_NO_PEER" or answers == []


def message(kind: int, sender: int) -> bytes:
    """As long as a message of this kind is, from this sender index."""
    lengths = {lib.MESSAGE_INITIATION: lib.INITIATION_BYTES, lib.MESSAGE_RESPONSE: lib.RESPONSE_BYTES,
               lib.MESSAGE_COOKIE: lib.COOKIE_BYTES, lib.MESSAGE_DATA: lib.DATA_OVERHEAD}
    return struct.pack("<II", kind, sender).ljust(lengths[kind], b"\0")


@pytest.mark.parametrize("sender", ["this peer's", "another peer's", "nobody's"])
@pytest.mark.parametrize("kind", [lib.MESSAGE_INITIATION, lib.MESSAGE_RESPONSE, lib.MESSAGE_COOKIE,
                                  lib.MESSAGE_DATA])
def test_only_own_handshakes_for_the_peer_that_they_would_go_to_are_loops(
    path: Path, kind: int, sender: str
) -> None:
    """A tunnel in the tunnel is no loop, nor is what goes to one peer by way of another."""
    keypairs = ffi.cast("struct keypair *", path.segment.keypairs)
    index = {"this peer's": keypairs[1].local_index, "another peer's": keypairs[2].local_index,
             "nobody's": keypairs[1].local_index ^ 1 << 31}[sender]  # fmt: skip
    inner = message(kind, index)
    before = path.counters()
    path.inside.send(bytes(10) + ipv4(struct.pack("!HHHH", 9, 9, 8 + len(inner), 0) + inner))
    lib.receiver_run(path.receiver, 0)
    is_loop = sender == "this peer's" and kind in (lib.MESSAGE_INITIATION, lib.MESSAGE_RESPONSE)
    assert path.counters()["DROP_LOOP"] - before["DROP_LOOP"] == is_loop
    assert lib.queue_packets(path.segment, 2 * 0 + lib.OUTBOUND) == (not is_loop)
    assert bool(lib.events_read(path.segment, 0) & lib.EVENT_LOOP) == is_loop
    lib.events_clear(path.segment, 0, lib.events_read(path.segment, 0))
    path.carry([])
    assert_whole(path)


def test_control_is_told_each_piece_of_news_by_its_own_event(path: Path) -> None:
    events = {
        lib.SESSION_HANDSHAKE_WANTED: lib.EVENT_HANDSHAKE_WANTED,
        lib.SESSION_CONFIRMED: lib.EVENT_CONFIRMED,
        lib.SESSION_TIMER: lib.EVENT_TIMER,
        lib.SESSION_KEYS: lib.EVENT_KEYS,
        lib.SESSION_AUTHENTICATED: 0,
    }
    lib.events_clear(path.segment, 0, lib.events_read(path.segment, 0))
    for news in range(2 * max(events)):
        for other in (0, lib.EVENT_ENDPOINT):
            lib.bell_announce(path.segment, lib.WORKER_CONTROL)
            lib.holder_tell(path.holder, 0, news, other)
            expected = other | sum(event for bit, event in events.items() if news & bit)
            told = int(lib.events_read(path.segment, 0)) & 0xFFFFFFFF
            assert told == expected, news
            assert path.segment.bells[lib.WORKER_CONTROL].sleeping == (not expected), "its bell rings"
            lib.events_clear(path.segment, 0, lib.events_read(path.segment, 0))
    lib.bell_cancel(path.segment, lib.WORKER_CONTROL)


def slots_begin(path: Path) -> int:
    return int(ffi.cast("char *", path.segment.small_slots) - ffi.cast("char *", path.segment.base))


def trains_begin(path: Path) -> int:
    return int(ffi.cast("char *", path.segment.train_slots) - ffi.cast("char *", path.segment.base))


@pytest.mark.parametrize("direction", ["INBOUND", "OUTBOUND"])
@pytest.mark.parametrize(
    ("place", "length", "packets"),
    [
        (lambda path: slots_begin(path) + 4 * lib.SMALL_SLOT_BYTES + lib.SLOT_ROOM, 1921, 1),  # its end
        (lambda path: slots_begin(path) + 4 * lib.SMALL_SLOT_BYTES + lib.SLOT_ROOM, 5000, 1),
        (lambda path: slots_begin(path) + 4 * lib.SMALL_SLOT_BYTES + 8, 100, 1),  # no room before it
        (lambda path: slots_begin(path) - 4096 + 128, 100, 1),  # in the nodes
        (lambda path: trains_begin(path) + lib.SLOT_ROOM, 3 * lib.TRAIN_SLOT_BYTES, 40),
        (lambda path: int(path.segment.bytes) - 8, 4, 1),
        (lambda path: int(path.segment.bytes), 100, 1),
        (lambda path: (1 << 64) - 64, 128, 1),
        (lambda path: slots_begin(path) + lib.SLOT_ROOM, 0xFFFFFFFF, 1),
    ],
)
def test_a_node_that_a_bad_receiver_wrote_leads_to_nothing_outside_its_slot(
    path: Path, place: Callable[[Path], int], length: int, packets: int, direction: str
) -> None:
    path.inside.send(bytes(10) + ipv4(b"honest"))
    lib.receiver_run(path.receiver, 0)
    if direction == "INBOUND":
        lib.holder_take(path.holder, lib.OUTBOUND)
        lib.holder_take_turn(path.holder, lib.OUTBOUND, lib.clock_now())
        lib.receiver_run(path.receiver, 0)
    [number] = [n for n in range(1, path.segment.nodes + 1) if path.segment.states[n] == lib.NODE_QUEUED]
    node = path.segment.node[number]
    node.offset, node.length, node.packets = place(path), length, packets
    first = slots_begin(path) - 8192  # nodes, and all slots
    whole = ffi.buffer(ffi.cast("char *", path.segment.base) + first, int(path.segment.bytes) - first)
    before, counters = bytes(whole), path.counters()
    node_at = int(ffi.cast("char *", ffi.addressof(node)) - ffi.cast("char *", path.segment.base)) - first
    queue = 2 * 0 + lib.OUTBOUND if direction == "OUTBOUND" else 2 * 1 + lib.INBOUND
    assert lib.holder_take(path.holder, queue)
    lib.holder_take_turn(path.holder, queue, lib.clock_now())
    after = bytes(whole)
    changed = [at for at in range(0, len(after), 64) if after[at : at + 64] != before[at : at + 64]]
    assert changed in ([], [node_at])
    assert path.counters()["DROP_PEER_GONE"] - counters["DROP_PEER_GONE"] == packets
    assert path.counters()["UDP_SENT"] == counters["UDP_SENT"]
    assert path.carry([]) == []
    assert_whole(path)


def test_what_waits_for_a_session_does_not_stop_the_tun_for_others(path: Path) -> None:
    """Large packets of one waiting peer, more than there are large slots, then one of another peer."""
    peer, path.device.mtu = path.segment.rows[0], 9000
    word, peer.key_word = peer.key_word, 0
    waiting = [ipv4(os.urandom(2000)) for _ in range(GEOMETRY["train_slots"] + 8)]
    for packet in waiting:
        path.carry([packet])
    before = path.counters()["UDP_SENT"]
    path.carry([ipv4(os.urandom(2000), source="10.0.0.2", destination="10.0.0.1")])
    assert path.counters()["UDP_SENT"] - before == 1
    peer.key_word, path.device.mtu = word, MTU
    lib.orders_give(path.segment, 0, lib.ORDER_LOOK)
    lib.peer_schedule(path.segment, 0)
    assert set(path.carry([])) <= set(waiting)
    assert_whole(path)
