"""One engine of shipped code in this process, moved by a clock that the caller gives.

Everything is the real thing but the processes: a data segment and a vault, the class Control with all
its parts, the receiver's C behind a UDP socket and a datagram socket in place of the TUN queue, the
holder's C. Whoever has something to do takes its turn in an order that a seeded generator draws, until
nobody has. A datagram over loopback is there when the call that sent it returns; where the kernel
takes longer, `settle` waits for as many as the counters say, so that nothing depends on its pace.

The clocks that control reads by itself are its `Pace`'s: the time that the caller gave last.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

import shm.segment
from engine import timers, uapi
from engine.aead import PROVIDERS
from shm.layout import COUNTERS
from shm.marks import marked
from workers._workers import ffi, lib
from workers.channel import Channel
from workers.control import process as control
from workers.control.pace import Pace
from workers.launch import WorkerStart, map_segment

GEOMETRY = {
    "max_peers": 64,
    "max_keypairs": 64,
    "max_receivers": 1,
    "max_consumers": 1,
    "nodes_a_pool": 3456,
    "small_slots": 3072,
    "train_slots": 1,
    "mailbox_cells": 64,
    "max_trie_nodes": 64,
    "public_key_buckets": 64,
}
MTU = 1420
VNET = bytes(10)
WORKERS = [lib.WORKER_CONTROL, lib.WORKER_RECEIVER, lib.WORKER_CONSUMER]
PATIENCE = 60.0  # real seconds for the kernel's loopback
SENT = tuple(name.upper() for name in marked("wire"))
MAY_END = frozenset((  # what may happen to a packet or a message in a simulation, of all losses
    "DROP_MESSAGE_LENGTH", "DROP_MESSAGE_TYPE", "DROP_INDEX_UNKNOWN", "DROP_KEYPAIR_GONE",
    "DROP_KEYPAIR_EXPIRED", "DROP_DATA_TAG", "DROP_REPLAY", "DROP_STAGED", "DROP_SESSION_ENDED",
    "HS_MESSAGE_LENGTH", "HS_MAC1_BAD", "HS_INITIATION_TAG", "HS_TIMESTAMP_REPLAYED", "HS_INITIATION_FLOOD",
    "HS_RESPONSE_UNKNOWN", "HS_RESPONSE_TAG", "HS_COOKIE_UNEXPECTED", "HS_COOKIE_TAG", "HS_DOWN",
))  # fmt: skip
LOSSES = (name.upper() for name in marked("end in", "end out", "end both", "end message", but="fine"))
NEVER_HERE = frozenset(LOSSES) - MAY_END | {"DROP_NO_PEER_MULTICAST", "HS_SEND_FAILED", "LOST_WAKES"}
PACKET = struct.Struct("!BBHHHBBH4s4sQ")  # an IPv4 header and a number
_KEYPAIR = dict(ffi.typeof("struct keypair").fields)
KEYPAIR = np.dtype(
    {
        "names": ["send_key", "receive_key", "birth", "local_index", "remote_index", "flags", "counter"],
        "formats": ["V32", "V32", "<u8", "<u4", "<u4", "<u4", "<u8"],
        "offsets": [
            _KEYPAIR[name].offset
            for name in (
                "send_key",
                "receive_key",
                "birth",
                "local_index",
                "remote_index",
                "flags",
                "send_counter",
            )
        ],
        "itemsize": lib.KEYPAIR_BYTES,
    }
)


class Outcome(NamedTuple):
    """What an engine did in one moment of the clock."""

    sent: list[bytes]  # datagrams, in order
    delivered: list[int]  # numbers of inner packets, in order
    counted: dict[str, int]  # counters that moved
    actions: list[timers.Action]  # timers that fired


class KeyState(NamedTuple):
    """One keypair as it stands in the segment."""

    number: int
    birth: int
    local_index: int
    remote_index: int
    is_initiator: bool


class Engine:
    """An engine with one peer, reached at `self.link`, a socket of the caller's side."""

    ROW = 0

    def __init__(self, random: Random, jitter: int, addresses: tuple[str, str]) -> None:
        self.random, self.jitter = random, jitter
        self.source, self.destination = (socket.inet_aton(address) for address in addresses)
        self.time = 0  # of the simulation
        self.boot = 0  # ns of this engine's boottime when the simulation began
        self.wall = 0  # likewise, wall clock
        data = shm.segment.create(GEOMETRY, "simulator")
        self.data_fd, self.data_bytes = os.dup(data.fd), data.bytes
        data.close()
        vault = shm.segment.create_plain(mmap.PAGESIZE)
        self.vault_fd = os.dup(vault.fd)
        vault.close()
        self.mapping, self.segment = map_segment(self.data_fd, self.data_bytes)
        for worker in (lib.WORKER_CONTROL, lib.WORKER_RECEIVER, lib.WORKER_CONSUMER):
            self.segment.workers[worker].incarnation = 1
        self.segment.device.mtu = MTU
        self.inside, self.tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for sock in (self.udp, self.link):
            sock.bind(("127.0.0.1", 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        for sock in (self.inside, self.tun, self.udp, self.link):
            sock.setblocking(False)
        self.uapi = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.uapi.bind("")
        self.uapi.listen(1)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        bells = ffi.new("int32_t[]", [-1] * lib.MAX_WORKERS)
        self.receiver = lib.receiver_new(self.segment, 0, -1, bells)
        assert self.receiver != ffi.NULL
        assert lib.receiver_use_queues(self.receiver, [self.tun.fileno()], 1) == 0
        assert lib.receiver_use_sockets(self.receiver, [self.udp.fileno()], 1) == 0
        self.aead = lib.aead_new(PROVIDERS["evp"].number)
        self.holder = ffi.new("struct holder *")
        assert lib.holder_initialise(self.holder, self.segment, self.aead, lib.WORKER_CONSUMER) == 0
        self.holder.udp4 = self.udp.fileno()
        self.holder.tun = self.tun.fileno()
        self.cursor = ffi.new("uint32_t *")
        self.actions: list[timers.Action] = []
        self.control: control.Control | None = None
        self.channels: tuple[Channel, Channel] | None = None
        offset = int(self.segment.header.offset[lib.REGION_KEYPAIRS])
        count = GEOMETRY["max_keypairs"]
        self.slab = np.frombuffer(self.mapping, KEYPAIR, count, offset)
        words = np.frombuffer(self.mapping, np.uint64, count * lib.KEYPAIR_BYTES // 8, offset)
        self.words = words.reshape(count, -1)
        offset = int(self.segment.header.offset[lib.REGION_COUNTERS])
        shape = (lib.MAX_WORKERS, lib.COUNTERS_A_WORKER)
        self.counters = np.frombuffer(self.mapping, np.uint64, shape[0] * shape[1], offset).reshape(shape)
        self.sums = self._read_counters()

    # -- a life of control --------------------------------------------------------------------

    def start_control(self, time: int) -> None:
        """A control process begins, over what the segments hold."""
        self.time = time
        self.channels = Channel.pair()
        start = WorkerStart(
            message={"aead": "auto"},
            kind="control",
            interface="simulated",
            worker=lib.WORKER_CONTROL,
            number=0,
            incarnation=1,
            receivers=1,
            consumers=1,
            fds={
                "data": self.data_fd,
                "vault": os.dup(self.vault_fd),
                "uapi": self.uapi.fileno(),
                "bell:1": self.bell,
                "udp4:0": self.udp.fileno(),
            },
            segment=self.segment,
            channel=self.channels[1],
            mapping=self.mapping,
        )
        pace = Pace(
            scan=0,  # else timers would fire up to 50 ms after their tick
            now=lambda: self.now(self.time),
            wall=lambda: self.wall + self.time,
        )
        self.control = control.Control(start, pace)
        self.control.begin()
        stamps = self.control.timer_columns
        # Every draw is the same, so that a model knows it.
        stamps.draw_jitter = lambda count: np.full(count, self.jitter, np.uint32)
        evaluate = stamps._evaluate

        def recorded(rows: timers.Rows, tick: int) -> Iterator[tuple[int, timers.Action]]:
            for row, action in evaluate(rows, tick):
                self.actions.append(action)
                yield row, action

        stamps._evaluate = recorded  # type: ignore[method-assign]

    def kill_control(self) -> None:
        """As a SIGKILL between two turns: what it had in mind is gone."""
        dying, self.control = self.control, None
        assert dying is not None and self.channels is not None
        dying.uapi.listener.close()
        dying.selector.close()
        dying.outgoing.close()
        dying.peers.grace_periods.running.clear()
        for channel in self.channels:
            channel.close()
        dying.timer_columns._evaluate = None  # type: ignore[assignment,method-assign]  # a cycle
        vault = dying.vault
        del dying
        with contextlib.suppress(BufferError):
            vault.close()

    def configure(self, text: str, time: int) -> None:
        """A whole set of the configuration protocol."""
        assert self.control is not None
        self.time = time
        reader = uapi.Reader()
        [operation] = reader.feed(text.encode())
        assert isinstance(operation, uapi.Set), operation
        steps = self.control.configuration.apply(operation)
        with contextlib.suppress(StopIteration):
            while True:
                assert next(steps) is None

    def close(self) -> None:
        """The whole engine ends: nothing of it is left but sockets' numbers."""
        self.kill_control()
        lib.receiver_free(self.receiver)
        lib.holder_release(self.holder)
        lib.aead_free(self.aead)
        for sock in (self.inside, self.tun, self.udp, self.link, self.uapi):
            sock.close()
        for fd in (self.bell, self.data_fd, self.vault_fd):
            os.close(fd)
        del self.slab, self.words, self.counters

    # -- a moment -----------------------------------------------------------------------------

    def now(self, time: int) -> int:
        """This engine's boottime at a time of the simulation."""
        return self.boot + time

    def settle(self, time: int, packets: list[int] = [], datagrams: list[bytes] = []) -> Outcome:  # noqa: B006
        """These inner packets and datagrams arrive; everybody works until nobody has anything to do."""
        self.time = time
        for number in packets:
            self.inside.send(VNET + self.packet(number))
        for datagram in datagrams:
            self.link.sendto(datagram, self.udp.getsockname())
        if packets or datagrams:
            self._receive(len(packets), len(datagrams))
        self._take_turns(self.now(self.time))
        sums = self._read_counters()
        gained = sums - self.sums
        counted = {COUNTERS[number]: int(gained[number]) for number in np.flatnonzero(gained)}
        self.sums = sums
        actions, self.actions = self.actions, []
        sent = self._collect(self.link, sum(counted.get(name, 0) for name in SENT))
        delivered = self._collect(self.inside, counted.get("TUN_SENT", 0))
        return Outcome(sent, [self._number(packet) for packet in delivered], counted, actions)

    def packet(self, number: int) -> bytes:
        """An inner packet that this engine's host sends to the other."""
        head = (0x45, 0, PACKET.size, 0, 0, 64, 17, 0, self.source, self.destination)
        return PACKET.pack(*head, number)

    def wake_at(self) -> int | None:
        """When control would wake for a timer, in this engine's boottime."""
        due = self.segment.columns[lib.NEXT_DUE * GEOMETRY["max_peers"] + self.ROW]
        if due == timers.NEVER:
            return None
        return timers.widen(int(due), timers.tick(self.now(self.time))) << lib.TIMER_TICK_SHIFT

    # -- what stands in the segment -----------------------------------------------------------

    def held(self) -> list[KeyState | None]:
        """Current, previous and next."""
        word = self.segment.rows[self.ROW].key_word
        parts = (lib.key_word_current(word), lib.key_word_previous(word), lib.key_word_next(word))
        return [self._key(number) if number else None for number in parts]

    def kept(self) -> list[KeyState]:
        """Every keypair whose bytes are not all zero."""
        present = np.flatnonzero(self.words.any(axis=1))
        return [self._key(int(number)) for number in present]

    def send_key(self, remote_index: int) -> bytes:
        """The key that data messages to that index are sealed with."""
        found = np.flatnonzero((self.slab["remote_index"] == remote_index) & (self.slab["birth"] != 0))
        assert len(found) == 1, f"{len(found)} keypairs send to {remote_index:#x}"
        return self.slab["send_key"][found[0]].tobytes()

    def timestamp_sent(self) -> bytes:
        """The latest TAI64N stamp of ours, from the vault."""
        assert self.control is not None
        return self.control.vault.timestamp_sent(self.ROW)

    def faults(self) -> str:
        """What segment_valid finds."""
        text = ffi.new("char[256]")
        return ffi.string(text).decode() if lib.segment_valid(self.segment, text, 256) else ""

    # -- parts --------------------------------------------------------------------------------

    def _key(self, number: int) -> KeyState:
        key = self.slab[number]
        return KeyState(
            number,
            int(key["birth"]),
            int(key["local_index"]),
            int(key["remote_index"]),
            bool(key["flags"] & lib.KEYPAIR_INITIATOR),
        )

    def _receive(self, packets: int, datagrams: int) -> None:
        line = self.counters[lib.WORKER_RECEIVER]
        wanted = int(line[lib.TUN_RECEIVED] + line[lib.UDP_RECEIVED]) + packets + datagrams
        end = monotonic() + PATIENCE
        while True:
            lib.receiver_run(self.receiver, 0)
            missing = wanted - int(line[lib.TUN_RECEIVED] + line[lib.UDP_RECEIVED])
            if missing == 0:
                return
            assert monotonic() < end, f"{missing} packets did not arrive"

    def _take_turns(self, now: int) -> None:
        assert self.control is not None
        tick = timers.tick(now)
        for _ in range(10_000):
            work = []
            if not lib.ready_is_empty(self.segment, 1):
                work.append(self._turn_of_holder)
            if (
                not lib.ready_is_empty(self.segment, 0)
                or lib.mailbox_waiting(self.segment)
                or self.control.grace_periods.running
                or self.control.grace_periods.waiting
                or self.control.endpoints.waiting
                or timers.is_due(self.control.timer_columns.columns[lib.NEXT_DUE, self.ROW :][:1], tick)[0]
            ):
                work.append(self.control.turn)
            if not work:
                return
            self.random.choice(work)(now)
        raise AssertionError("the engine does not come to rest")

    def _turn_of_holder(self, now: int) -> None:
        queue = lib.ready_take(self.segment, 1, self.cursor)
        if queue != 0xFFFFFFFF and lib.holder_take(self.holder, queue):
            lib.holder_take_turn(self.holder, queue, now)

    def _collect(self, sock: socket.socket, count: int) -> list[bytes]:
        found: list[bytes] = []
        end = monotonic() + PATIENCE
        while len(found) < count:
            try:
                found.append(sock.recv(2048))
            except BlockingIOError:
                assert monotonic() < end, f"{count - len(found)} packets did not come out"
        return found

    def _number(self, packet: bytes) -> int:
        fields = PACKET.unpack(packet[len(VNET) :])
        assert fields[8:10] == (self.destination, self.source)
        return int(fields[10])

    def _read_counters(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        one, two, three = self.counters[WORKERS]
        total: np.ndarray[Any, np.dtype[np.uint64]] = one + two + three
        return total
