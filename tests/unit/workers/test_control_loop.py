"""Turns of the control loop with a given clock: timers, interface up and down, a set cut by a kill."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import mmap
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import constants, cookie, noise, timers
from engine.uapi import Scale, Upgrade, parse_set
from tests.support.control_harness import Holder, Interface, Parts, take_message
from tests.support.waiting import until
from workers._workers import ffi, lib
from workers.channel import Channel
from workers.control.endpoints import Endpoint
from workers.control.events import Event
from workers.control.interface import InterfaceState, Removed
from workers.control.keypairs import Keypairs, NoKeypair
from workers.control.pace import PACE, Pace
from workers.control.process import Control
from workers.launch import WorkerStart
from workers.promises import Promise

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

SECOND = constants.SECOND
PEER = noise.Identity(b"\x21" * 32)
OURS = noise.Identity(b"\x22" * 32)


class Loop:
    """A Control in this process; its supervisor is the other end of `channel`."""

    def __init__(self, interface: Interface, pace: Pace = PACE, begins: bool = True) -> None:
        self.interface = interface
        self.channel, theirs = Channel.pair()
        fds = {name: os.dup(fd) for name, fd in interface.fds().items()}
        start = WorkerStart(
            message={"aead": "auto"},
            kind="control",
            interface=interface.name,
            worker=1,
            number=0,
            incarnation=1,
            receivers=1,
            consumers=1,
            fds=fds,
            segment=interface.segment,
            channel=theirs,
            mapping=interface.mapping,
        )
        self.control = Control(start, pace)
        if begins:
            self.control.begin()
        self.now = int(lib.clock_now())
        self.heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.heard.bind(("127.0.0.1", 0))
        self.heard.setblocking(False)
        self.endpoint = Endpoint(b"\x7f\0\0\1", self.heard.getsockname()[1])

    def close(self) -> None:
        """As if killed."""
        self.channel.close()
        self.heard.close()

    def set(self, text: str) -> int:
        for_end = self.control.configuration.apply(parse_set("set=1\n" + text))
        try:
            while True:
                next(for_end)
        except StopIteration as end:
            return int(end.value)

    def add_peer(self, more: str = "") -> int:
        text = f"private_key={OURS.private_key.hex()}\npublic_key={PEER.public_key.hex()}\n"
        assert self.set(f"{text}endpoint=127.0.0.1:{self.endpoint.port}\n{more}") == 0
        row = self.control.peers.find(PEER.public_key)
        assert row is not None
        return row

    def turn(self, later: int = 0) -> None:
        self.now += later
        self.control.turn(self.now)

    def messages_of_control(self) -> list[dict[str, Any]]:
        """What it has told its supervisor since the last call."""
        told = []
        self.channel.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(self.channel.receive()[0])
        return told

    def messages(self) -> list[int]:
        """Types of the messages that the peer heard."""
        types = []
        while True:
            try:
                types.append(self.heard.recv(2048)[0])
            except BlockingIOError:
                return types

    def orders(self, row: int) -> int:
        return int(lib.orders_read(self.interface.segment, row)) & 0xFFFFFFFF


@pytest.fixture
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """Parameter: its pace."""
    with Interface(f"pll{os.getpid()}") as interface:
        loop = Loop(interface, getattr(request, "param", PACE))
        yield loop
        loop.channel.close()
        loop.heard.close()


def wanted(loop: Loop, row: int) -> None:
    lib.events_give(loop.interface.segment, row, lib.EVENT_HANDSHAKE_WANTED)


def test_a_timer_that_its_holder_tells_of_is_worked_out_and_no_other(loop: Loop) -> None:
    rows = []
    for n in range(2):
        key = noise.Identity(bytes([0x30 + n]) * 32).public_key
        assert loop.set(f"public_key={key.hex()}\n") == 0
        rows.append(loop.control.peers.find(key))
    loop.turn()
    due, far = loop.control.timer_columns.columns[lib.NEXT_DUE], timers.tick(loop.now + 1000 * SECOND)
    due[rows] = timers.narrow(far)
    for row, event in zip(rows, (lib.EVENT_TIMER, lib.EVENT_KEYS), strict=True):
        assert row is not None
        lib.events_give(loop.interface.segment, row, event)
    loop.turn()
    assert due[rows].tolist() == [lib.TIMER_NEVER, timers.narrow(far)]


def test_the_next_control_looks_at_routes_that_changed_meanwhile(loop: Loop) -> None:
    """Or whose news was in hand of the one before: the source of a peer that no route fits goes."""
    row = loop.add_peer()
    heard_at = loop.endpoint._replace(source=b"\x7f\0\0\1", ifindex=99)
    with Holder(loop.interface) as holder:
        holder.take_turns()
        loop.control.peers.order(row, loop.control.endpoints.move(row, heard_at))
        holder.take_turns()
    loop.turn()
    assert not loop.orders(row) & lib.ORDER_CLEAR_SOURCE, "no route changed"
    after = Loop(loop.interface)
    after.turn()
    assert after.orders(row) & lib.ORDER_CLEAR_SOURCE
    after.close()


def test_an_action_that_goes_on_in_the_next_turn_lets_control_not_sleep(loop: Loop) -> None:
    periods, left = loop.control.grace_periods, [1, 2]

    def action() -> int:
        if left:
            left.pop()
            periods.go_on(action)
        return 1

    loop.turn()
    assert not loop.control.turn(loop.now)
    periods.after(action)
    assert [loop.control.turn(loop.now) for _ in range(3)] == [True, True, False]


PLACES = [
    ("127.0.0.1:9", "127.0.0.2:9"), ("127.0.0.1:9", "127.0.0.1:10"), ("[::1]:9", "[::2]:9"),
    ("[fe80::1%lo]:9", "[fe80::1]:9"), ("127.0.0.1:9", "[7f00:1::]:9"), ("[::1]:9", "[::1]:9"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), PLACES)
def test_each_part_of_an_endpoint_makes_another_place(loop: Loop, before: str, after: str) -> None:
    """And the same is no other: its holder keeps the source that it was heard at."""
    peer = f"public_key={PEER.public_key.hex()}\n"
    assert loop.set(f"{peer}endpoint={before}\n") == 0
    row = loop.control.peers.find(PEER.public_key)
    assert row is not None
    with Holder(loop.interface) as holder:
        holder.take_turns()
    assert not loop.orders(row) & lib.ORDER_ENDPOINT
    assert loop.set(f"{peer}endpoint={after}\n") == 0
    assert bool(loop.orders(row) & lib.ORDER_ENDPOINT) is (before != after)


def test_the_same_allowed_ips_again_stay_where_they_are(loop: Loop) -> None:
    """No packet finds none in between. What differs in one part is another list."""
    peer = f"public_key={PEER.public_key.hex()}\nreplace_allowed_ips=true\n"
    lists = ["10.0.0.0/24 fd00::/64", "10.0.0.0/25 fd00::/64", "10.0.1.0/24 fd00::/64", "fd00::/64"]
    nodes = []
    for allowed in (lists[0], *lists):
        assert loop.set(peer + "".join(f"allowed_ip={ip}\n" for ip in allowed.split())) == 0
        row = loop.control.peers.find(PEER.public_key)
        assert row is not None
        nodes.append(int(loop.control.peers.table.vault[row].first_allowed))
    assert nodes[0] == nodes[1] and len(set(nodes)) == len(lists)


@pytest.mark.parametrize("what", ["sessions", "peers"])
def test_keys_that_may_be_swapped_out_are_told_of_whosever_they_are(loop: Loop, what: str) -> None:
    keeper = {"sessions": loop.control.memory, "peers": loop.control.vault}[what]
    loop.turn()
    loop.messages_of_control()
    keeper.why_unlocked = "the limit is reached"
    loop.turn(SECOND)
    [told] = [message for message in loop.messages_of_control() if message["kind"] == "broken"]
    assert told["broken"][Promise.LOCKED] == "the limit is reached"


@pytest.mark.parametrize("loop", [Pace(initiations=2)], indirect=True)
def test_wishes_for_handshakes_wait_for_the_next_turn_when_they_are_many(loop: Loop) -> None:
    text = f"private_key={OURS.private_key.hex()}\n"
    for n in range(5):
        key = noise.Identity(bytes([0x30 + n]) * 32).public_key
        text += f"public_key={key.hex()}\nendpoint=127.0.0.1:{loop.endpoint.port}\n"
    assert loop.set(text) == 0
    rows = range(loop.control.peers.used)
    for row in rows:
        wanted(loop, row)
    for sent, left in (2, 3), (2, 1), (1, 0):
        loop.turn()
        assert loop.messages() == [1] * sent
        words = [int(lib.events_read(loop.interface.segment, row)) & 0xFFFFFFFF for row in rows]
        assert words.count(lib.EVENT_HANDSHAKE_WANTED) == left
        assert bool(lib.ready_is_empty(loop.interface.segment, 0)) is (left == 0)


@pytest.mark.parametrize("loop", [Pace(wasted=3)], indirect=True)
def test_much_work_in_vain_is_under_load_although_nothing_waits(loop: Loop) -> None:
    loop.add_peer()
    segment = loop.interface.segment
    place = ffi.new("struct endpoint *")
    place.family, place.port = socket.AF_INET, socket.htons(loop.endpoint.port)
    ffi.memmove(place.address, b"\x7f\0\0\1", 4)
    body = bytes([1, 0, 0, 0]) + os.urandom(112)
    wrong = cookie.add_macs(body, noise.PeerKeys(PEER, OURS.public_key).mac1_key, None)

    def hear() -> tuple[int, ...]:
        ends = (lib.HS_INITIATION_TAG, lib.HS_COOKIE_SENT)
        before = [int(lib.counter_sum(segment, end)) for end in ends]
        assert lib.mailbox_put(segment, 0, place, wrong, len(wrong)) == 0
        loop.turn()
        return tuple(int(lib.counter_sum(segment, end)) - was for end, was in zip(ends, before, strict=True))

    assert [hear() for _ in range(5)] == [(1, 0)] * 3 + [(0, 1)] * 2
    loop.turn(SECOND // 2)
    assert hear() == (0, 1)  # for a second after the last time
    loop.turn(SECOND)
    assert hear() == (1, 0)


def test_twenty_initiations_then_it_gives_up(loop: Loop) -> None:
    row = loop.add_peer()
    wanted(loop, row)
    loop.turn()
    assert loop.messages() == [1]
    loop.turn(4 * SECOND)
    assert loop.messages() == []
    sent = 1
    for _ in range(constants.MAX_INITIATIONS):
        assert not loop.orders(row) & lib.ORDER_PURGE_STAGED
        loop.turn(6 * SECOND)
        sent += len(loop.messages())
    assert loop.orders(row) & lib.ORDER_PURGE_STAGED
    assert sent == constants.MAX_INITIATIONS
    assert (
        not loop.control.handshakes.initiator.numbers and loop.control.keypairs.out == 0
    ) or loop.control.grace_periods.waiting
    loop.turn(6 * SECOND)
    assert loop.messages() == []
    assert loop.control.keypairs.out == 0
    wanted(loop, row)
    loop.turn(6 * SECOND)
    assert loop.messages() == [1], "a later wish begins again"


def test_a_persistent_keepalive_without_a_session_asks_for_one(loop: Loop) -> None:
    row = loop.add_peer("persistent_keepalive_interval=25\n")
    with Holder(loop.interface) as holder:
        holder.take_turns()
        loop.turn()
        assert loop.messages() == [1]
        # Each keepalive is a new wish, so the handshake is never given up.
        for _ in range(3 * constants.MAX_INITIATIONS):
            loop.turn(6 * SECOND)
            holder.take_turns()
            assert loop.messages() == [1]
            assert loop.control.timer_columns.is_retrying(row)


def test_interface_down_and_up(loop: Loop) -> None:
    row = loop.add_peer("persistent_keepalive_interval=25\n")
    with Holder(loop.interface) as holder:
        holder.take_turns()
        loop.turn()
        assert loop.messages() == [1]
        states: list[InterfaceState | Exception | None] = [InterfaceState(1300, False)]

        class Watched:
            def look(self) -> InterfaceState | None:
                found = states[0]
                if isinstance(found, Exception):
                    raise found
                return found

        control: Any = loop.control
        control.interface = Watched()
        loop.turn(2 * SECOND)
        device = loop.interface.segment.device
        assert device.mtu == 1300 and not device.up
        assert not loop.control.handshakes.initiator.numbers
        wanted(loop, row)
        loop.turn(60 * SECOND)
        message = b"\x01\0\0\0" + bytes(144)
        taken = take_message(loop.control.handshakes, message, loop.endpoint, False, loop.now)
        assert taken == lib.HS_DOWN
        assert loop.messages() == []
        states[0] = InterfaceState(1420, True)
        loop.turn(2 * SECOND)
        assert loop.orders(row) & lib.ORDER_KEEPALIVE
        holder.take_turns()
        loop.turn(2 * SECOND)
        assert loop.messages() == [1]
        assert device.mtu == 1420 and device.up
        for no_news in (None, OSError(errno.EMFILE, os.strerror(errno.EMFILE))):
            states[0] = no_news
            loop.turn(2 * SECOND)
            assert "ended" not in [message["kind"] for message in loop.messages_of_control()]
            assert device.mtu == 1420 and device.up
        states[0] = Removed()
        loop.turn(2 * SECOND)
        assert loop.messages_of_control()[-1]["kind"] == "ended"


KEY = f"private_key={OURS.private_key.hex()}\n"
NO_KEY = f"private_key={bytes(32).hex()}\n"


def stage_packet(loop: Loop, row: int) -> None:
    """A packet waits in the outbound queue (of no consumer: nobody takes it out)."""
    segment = loop.interface.segment
    segment.states[1] = lib.NODE_OWNED
    segment.node[1].next = ((int(segment.node[1].next) >> 32) + 1) << 32
    segment.node[1].peer, segment.node[1].packets = row, 1
    segment.node[1].peer_generation = segment.rows[row].generation
    assert lib.queue_push_mpsc(segment, lib.WORKER_RECEIVER, 2 * row + lib.OUTBOUND, 1, 1, 1) == 0
    lib.queue_schedule(segment, 2 * row + lib.OUTBOUND)


@pytest.mark.parametrize(("last", "what"), [
    ("the key", "a keepalive"), ("the key", "a packet"),
    ("the endpoint", "a keepalive"),  # without one, packets are dropped
    ("the endpoint, rarely", "a keepalive"),
    ("the interface", "a keepalive"), ("the interface", "a packet"),
])  # fmt: skip
def test_what_comes_last_starts_what_waits(loop: Loop, last: str, what: str) -> None:
    """At once, by the clock: the docs' table of what comes late."""
    states = [InterfaceState(1420, last != "the interface")]

    class Watched:
        def look(self) -> InterfaceState:
            return states[0]

    control: Any = loop.control
    control.interface = Watched()
    loop.turn(2 * SECOND)
    peer = f"public_key={PEER.public_key.hex()}\n"
    endpoint = f"endpoint=127.0.0.1:{loop.endpoint.port}\n"
    interval = "persistent_keepalive_interval=25\n" if what == "a keepalive" else ""
    with Holder(loop.interface) as holder:

        def heard() -> list[int]:
            for _ in range(3):
                holder.take_turns()
                loop.turn()
            return loop.messages()

        assert loop.set((NO_KEY if last == "the key" else KEY) + peer + interval) == 0
        if not last.startswith("the endpoint"):
            assert loop.set(peer + endpoint) == 0
        row = loop.control.peers.find(PEER.public_key)
        assert row is not None
        if what == "a packet":
            stage_packet(loop, row)
        assert heard() == []
        if last == "the key":
            assert loop.set(KEY) == 0
        elif last == "the endpoint":
            assert loop.set(peer + endpoint) == 0
        elif last == "the endpoint, rarely":  # with a zone, which Python looks up
            loop.heard.close()
            loop.heard = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            loop.heard.bind(("::1", 0))
            loop.heard.setblocking(False)
            assert loop.set(peer + f"endpoint=[::1%lo]:{loop.heard.getsockname()[1]}\n") == 0
        else:
            states[0] = InterfaceState(1420, True)
            loop.control._look_at_interface()
        assert heard() == [1]


def test_what_a_dead_control_did_not_start_is_started() -> None:
    """Killed in the set that brought the key, after the key was stored."""
    with Interface(f"pld{os.getpid()}") as interface, Holder(interface) as holder:
        first = Loop(interface, Pace(peers=1))
        peer = f"public_key={PEER.public_key.hex()}\npersistent_keepalive_interval=25\n"
        assert first.set(peer + f"endpoint=127.0.0.1:{first.endpoint.port}\n") == 0
        holder.take_turns()
        first.turn()
        steps = first.control.configuration.apply(parse_set("set=1\n" + KEY))
        while first.control.vault.private_key is None:
            next(steps)
        first.channel.close()
        second = Loop(interface)
        holder.take_turns()
        second.turn()
        assert first.messages() == [1]
        second.channel.close()
        for loop in (first, second):
            loop.heard.close()


def test_memory_grows_by_whole_steps_and_no_further() -> None:
    limits = {"max_peers": 4096, "max_keypairs": 2048, "max_trie_nodes": 1 << 16}
    with Interface(f"plm{os.getpid()}", **limits) as interface:
        parts = Parts(interface)
        memory = parts.memory
        for name, grow, step in (("rows_ready", memory.ensure_rows, 1024),
                                 ("keypairs_ready", memory.ensure_keypairs, 256),
                                 ("trie_ready", memory.ensure_trie, 4096)):  # fmt: skip
            for wanted, steps in ((3 * step - 1, 3), (3 * step, 3), (3 * step + 1, 4), (1, 4)):
                grow(wanted)
                assert parts.vault.ready(name) == steps * step, (name, wanted)
        assert os.fstat(interface.data_fd).st_size == interface.data_bytes
        parts.close()


def test_memory_grows_by_what_is_used_and_no_more() -> None:
    """In pages: rows with tokens, columns and buckets, keypairs with their index, trie nodes."""
    limits = {"max_peers": 8192, "max_keypairs": 2048, "max_trie_nodes": 1 << 16, "public_key_buckets": 8192}
    with Interface(f"plm{os.getpid()}", **limits) as interface:
        parts = Parts(interface)
        rows = (1024 * (lib.PEER_ROW_BYTES + 4 * (lib.DIRECTIONS + lib.TIMER_COLUMNS + 1))) // mmap.PAGESIZE
        keypairs = 256 * (lib.KEYPAIR_BYTES + lib.INDEX_ENTRY_BYTES) // mmap.PAGESIZE
        trie = 4096 * lib.TRIE_NODE_BYTES // mmap.PAGESIZE
        for grow, count, expected in ((parts.memory.ensure_rows, 1024, rows),
                                      (parts.memory.ensure_keypairs, 256, keypairs),
                                      (parts.memory.ensure_trie, 4096, trie)):  # fmt: skip
            grow(count)
            for times in (2, 4):
                before = os.fstat(interface.data_fd).st_blocks
                grow(times * count)
                gained = (os.fstat(interface.data_fd).st_blocks - before) * 512 // mmap.PAGESIZE
                assert gained == times // 2 * expected
        parts.close()


def told(loop: Loop, event: Event) -> list[dict[str, Any]]:
    lines = [json.loads(line.removeprefix(b"event=")) for line in loop.control.events.remembered()]
    return [each for each in lines if each["event"] == event.value]


def test_packets_that_looped_are_told_with_their_peer_when_that_is_known(loop: Loop) -> None:
    """The counter moves before the peer is told of."""
    row, losses = loop.add_peer(), loop.control.losses
    lib.counter_add(loop.interface.segment, lib.WORKER_RECEIVER, lib.DROP_LOOP, 5)
    losses.look()
    assert told(loop, Event.PACKETS_LOOPED) == []
    lib.events_give(loop.interface.segment, row, lib.EVENT_LOOP)
    loop.turn()
    losses.look()
    losses.look()
    [event] = told(loop, Event.PACKETS_LOOPED)
    assert event["count"] == 5 and base64.b64decode(event["peer"]) == PEER.public_key


def test_each_peer_that_moved_is_told_of_and_no_other(loop: Loop) -> None:
    rows = [loop.add_peer()]
    for n in range(2):
        key = noise.Identity(bytes([0x40 + n]) * 32).public_key
        assert loop.set(f"public_key={key.hex()}\nendpoint=127.0.0.1:{n + 1}\n") == 0
        row = loop.control.peers.find(key)
        assert row is not None
        rows.append(row)
    with Holder(loop.interface) as holder:
        holder.take_turns()
    loop.turn()
    before = len(told(loop, Event.ENDPOINT_MOVED))
    for row, bits in zip(rows, (lib.EVENT_KEYS, lib.EVENT_ENDPOINT, lib.EVENT_TIMER), strict=True):
        lib.events_give(loop.interface.segment, row, bits)
    loop.turn()
    keys = [base64.b64decode(event["peer"]) for event in told(loop, Event.ENDPOINT_MOVED)[before:]]
    assert keys == [loop.control.peers.public_key(rows[1])]


def test_the_time_of_a_handshake_is_seconds_and_the_rest(loop: Loop) -> None:
    row = loop.add_peer()
    loop.control.peers.store_handshake_time(row, 1_700_000_000_999_999_999)
    noted = loop.interface.segment.rows[row]
    assert (noted.handshake_sec, noted.handshake_nsec) == (1_700_000_000, 999_999_999)


def test_messages_that_receivers_turned_away_are_held_back(loop: Loop) -> None:
    """They are many: told in sum, with those that were shown to control."""
    losses, bucket = loop.control.losses, loop.control.events._buckets[Event.MAC1_WRONG]
    counters = loop.interface.segment.counters
    losses.look()
    before = bucket.suppressed
    counters[lib.WORKER_RECEIVER * lib.COUNTERS_A_WORKER + lib.HS_MAC1_BAD] += 5
    counters[lib.WORKER_CONTROL * lib.COUNTERS_A_WORKER + lib.HS_MAC1_BAD] += 3  # told one by one
    losses.look()
    losses.look()
    assert bucket.suppressed - before == 5


def test_a_route_that_comes_late_starts_the_handshake_that_could_not_leave(loop: Loop) -> None:
    row = loop.add_peer()
    sockets, loop.control.outgoing.fds = loop.control.outgoing.fds, [-1, -1]  # nothing can be sent
    wanted(loop, row)
    loop.turn()
    assert loop.messages() == [] and loop.control.timer_columns.is_retrying(row)
    loop.turn(SECOND)
    loop.control.routes.drain()
    loop.turn()
    assert loop.messages() == [] and loop.control.handshakes.knows(row), "it still could not"
    loop.control.outgoing.fds = sockets
    loop.control.routes.drain()
    loop.turn()
    assert loop.messages() == [], "once a second at most"
    loop.turn(2 * SECOND)
    assert loop.messages() == [1], "the retry would come after 5 s"
    loop.control.routes.drain()
    loop.turn(2 * SECOND)
    assert loop.messages() == [], "it has left"


def test_no_session_survives_down_though_its_installation_is_not_applied(loop: Loop) -> None:
    row = loop.add_peer()
    segment, keypairs = loop.interface.segment, loop.control.keypairs

    def install(*, is_applied: bool) -> None:
        number = keypairs.reserve(row)[0]
        keypair = keypairs.slab[number]
        keypair.peer, keypair.peer_generation = row, segment.rows[row].generation
        keypair.birth, keypair.flags = loop.now, lib.KEYPAIR_INITIATOR
        segment.rows[row].installing = number
        loop.control.peers.order(row, lib.ORDER_INSTALL)
        if is_applied:
            holder.take_turns()
            loop.turn()
            assert lib.key_word_current(segment.rows[row].key_word) == number

    with Holder(loop.interface) as holder:
        for before in (False, True):  # the first session, or one more
            if before:
                install(is_applied=True)
            install(is_applied=False)
            assert list(loop.control._went_down())
            holder.take_turns()
            loop.turn()
            assert not segment.rows[row].key_word
            assert not keypairs.numbers(row), "what nobody names is free"
        assert list(loop.control._went_down())
        install(is_applied=True)  # after it came up again


def test_the_stubs_generations_rise_over_the_lives_of_a_row(loop: Loop) -> None:
    """Rule 1 of shm/queue.c: a producer of an earlier life must find none of the words that it read."""
    met: set[tuple[int, int]] = set()
    latest = [0, 0]
    with Holder(loop.interface) as holder:
        for _ in range(3):
            row = loop.add_peer()
            for direction in (lib.INBOUND, lib.OUTBOUND):
                ends = loop.interface.segment.rows[row].ends[direction]
                generation = int(ends.stub_next) >> 32
                assert generation > latest[direction] and int(ends.end) >> 32 == generation
                met.add((direction, generation))
                latest[direction] = generation
            stage_packet(loop, row)  # taking it pushes the stub
            assert loop.set(f"public_key={PEER.public_key.hex()}\nremove=true\n") == 0
            while row not in loop.control.peers.free:
                loop.turn()
                holder.take_turns()
    assert len(met) == 6


def test_expired_and_old_keys(loop: Loop) -> None:
    row = loop.add_peer()
    stamps = loop.control.timer_columns
    stamps.session_derived(row, loop.now)
    loop.turn(179 * SECOND)
    assert not loop.orders(row) & lib.ORDER_EXPIRE
    loop.turn(2 * SECOND)
    assert loop.orders(row) & lib.ORDER_EXPIRE and not loop.orders(row) & lib.ORDER_ZERO
    loop.turn(360 * SECOND)
    assert loop.orders(row) & lib.ORDER_ZERO
    assert int(loop.interface.segment.columns[lib.NEXT_DUE * 64 + row]) == timers.NEVER


@pytest.mark.parametrize("is_ours", [False, True])
def test_what_a_dead_holder_did_not_tell_is_found(loop: Loop, is_ours: bool) -> None:
    """It had confirmed a session and dropped another, and was to send a keepalive."""
    row, segment, keypairs = loop.add_peer(), loop.interface.segment, loop.control.keypairs
    current, dropped = (keypairs.reserve(row)[0] for _ in range(2))
    for number in (current, dropped):
        keypair = keypairs.slab[number]
        keypair.peer, keypair.birth = row, loop.now - SECOND
        keypair.flags = lib.KEYPAIR_INITIATOR if is_ours else 0
    segment.rows[row].key_word = lib.key_word_of(current, 0, 0)
    lib.events_give(segment, row, lib.EVENT_HOLDER_DIED)
    loop.turn()
    noted = int(segment.rows[row].handshake_sec), int(segment.rows[row].handshake_nsec)
    assert (noted == (0, 0)) is is_ours  # our own are noted when the response comes
    assert keypairs.numbers(row) == [current]
    assert loop.orders(row) & lib.ORDER_KEEPALIVE
    lib.events_give(segment, row, lib.EVENT_HOLDER_DIED)
    loop.turn(SECOND)
    assert noted == (int(segment.rows[row].handshake_sec), int(segment.rows[row].handshake_nsec))


@pytest.mark.parametrize("stop_after", [1, 4, 9, 13])
def test_a_set_that_a_kill_cut_short_is_finished(stop_after: int) -> None:
    old = noise.Identity(b"\x6d" * 32).private_key.hex()
    new = noise.Identity(b"\x5e" * 32).private_key.hex()
    first = f"private_key={old}\n" + "".join(
        f"public_key={n:064x}\nallowed_ip=10.0.0.{n}/32\n" for n in range(1, 6)
    )
    second = f"private_key={new}\nreplace_peers=true\n" + "".join(
        f"public_key={n:064x}\nallowed_ip=10.0.0.{n}/32\nendpoint=192.0.2.1:{n}\n" for n in range(4, 9)
    )
    with Interface(f"plr{os.getpid()}") as interface:
        parts = Parts(interface, Pace(peers=1))
        assert parts.set("set=1\n" + first) == 0
        before = parts.get()
        steps = parts.configuration.apply(parse_set("set=1\n" + second))
        while not parts.vault.read_redo():
            next(steps)
        for _ in range(stop_after - 1):
            next(steps, None)
        cut = parts.get()
        parts.close()
        parts = Parts(interface)
        after = parts.get()
        assert after != before
        assert [line for line in after.splitlines() if line.startswith("public_key")] == [
            f"public_key={n:064x}" for n in range(4, 9)
        ]
        assert after.count("endpoint=192.0.2.1:") == 5 and after.count("allowed_ip=") == 5
        assert after.startswith(f"private_key={new}\n")
        assert not parts.vault.read_redo()
        assert cut != after, "it was cut before its end"
        parts.close()


def test_numbers_that_a_bad_worker_wrote_into_a_row_lead_control_nowhere() -> None:
    """Every worker may write rows; control alone writes the trie and has the private key."""
    text = "".join(
        f"public_key={n:064x}\nallowed_ip=10.0.0.{n}/32\nallowed_ip=fd00::{n}/128\n" for n in (1, 2)
    )
    with Interface(f"plr{os.getpid()}") as interface:
        parts = Parts(interface)
        assert parts.set("set=1\n" + text) == 0
        first, second = (parts.peers.find(n.to_bytes(32)) for n in (1, 2))
        assert first is not None and second is not None
        row = parts.segment.rows[first]
        for number in (0x7FFFFFFF, 0xFFFFFFFF):
            row.installing = row.installing_next = number
            assert not parts.keypairs.has_fresh(first, lib.clock_now(), 1)
            assert parts.set(f"set=1\npublic_key={1:064x}\nallowed_ip=10.1.0.0/16\n") == 0
            assert parts.set(f"set=1\npublic_key={1:064x}\nallowed_ip=-10.1.0.0/16\n") == 0
            assert parts.set(f"set=1\npublic_key={1:064x}\nreplace_allowed_ips=true\nremove=true\n") == 0
            assert parts.set(f"set=1\n{text}") == 0
            row = parts.segment.rows[parts.peers.find((1).to_bytes(32))]
            assert len(parts.peers.allowed(second)) == 2
        parts.close()


def test_peers_move_to_another_consumer(loop: Loop) -> None:
    """The supervisor hears of it when nobody who is awake can still know the consumer of before."""
    for number in range(5):
        assert loop.set(f"private_key={OURS.private_key.hex()}\npublic_key={number + 1:064x}\n") == 0
    rows, segment = loop.control.peers.live_rows(), loop.interface.segment
    assert rows == [0, 1, 2, 3, 4]
    loop.turn()
    lib.epoch_wake(segment, lib.WORKER_RECEIVER)
    loop.messages_of_control()
    named = loop.interface.named_sockets()
    numbers = {"receivers": 1, "consumers": 2, "away": []}
    loop.channel.send({"kind": "sockets", "fds": list(named), **numbers}, list(named.values()))
    loop.control._told(0)
    assert [list(segment.rows[row].consumer) for row in rows] == [[0, 1], [1, 0], [0, 1], [1, 0], [0, 1]]
    assert (int(segment.device.receivers), int(segment.device.consumers)) == (1, 2)
    loop.turn()
    assert loop.messages_of_control() == [{"kind": "replaced"}]
    lib.epoch_turn(segment, lib.WORKER_RECEIVER, loop.now)
    loop.turn()
    assert loop.messages_of_control() == [{"kind": "shared_out", "consumers": 2, "away": []}]
    lib.epoch_sleep(segment, lib.WORKER_RECEIVER)
    assert loop.set(f"public_key={9:064x}\n") == 0
    assert list(segment.rows[5].consumer) == [1, 0]


def test_the_peers_of_a_consumer_that_is_away_belong_to_the_others(loop: Loop) -> None:
    for number in range(8):
        assert loop.set(f"private_key={OURS.private_key.hex()}\npublic_key={number + 1:064x}\n") == 0
    rows, segment = loop.control.peers.live_rows(), loop.interface.segment
    own = [0, 1, 2, 0, 1, 2, 0, 1]
    for away, owners in (
        ([1], [0, 0, 2, 0, 2, 2, 0, 0]),
        ([0, 2], [1] * 8),
        ([0, 1, 2], own),
        ([], own),
    ):
        loop.turn()
        loop.messages_of_control()
        named = loop.interface.named_sockets()
        numbers = {"receivers": 1, "consumers": 3, "away": away}
        loop.channel.send({"kind": "sockets", "fds": list(named), **numbers}, list(named.values()))
        loop.control._told(0)
        assert [int(segment.rows[row].consumer[lib.INBOUND]) for row in rows] == owners
        loop.turn()
        told = [message for message in loop.messages_of_control() if message["kind"] == "shared_out"]
        assert told == [{"kind": "shared_out", "consumers": 3, "away": away}]
        if away == [1]:  # also one that comes meanwhile
            assert loop.set(f"public_key={99:064x}\n") == 0
            assert int(segment.rows[8].consumer[lib.INBOUND]) == 2
            assert loop.set(f"public_key={99:064x}\nremove=true\n") == 0


def test_peers_are_shared_out_among_as_many_consumers_as_there_can_be() -> None:
    keys = "".join(f"public_key={number + 1:064x}\n" for number in range(300))
    with Interface(f"pll{os.getpid()}", max_peers=320, public_key_buckets=512) as interface:
        loop = Loop(interface)
        assert loop.set(f"private_key={OURS.private_key.hex()}\n{keys}") == 0
        rows, segment = loop.control.peers.live_rows(), interface.segment
        assert len(rows) == 300
        for consumers, away in (
            (int(lib.MAX_CONSUMERS), []),
            (200, [0, 63, 64, 150, 199]),
            (65, [64]),
            (64, [0, 63]),
            (70, list(range(70))),
        ):
            here = [number for number in range(consumers) if number not in away]
            loop.control.peers.share_out(consumers, away)
            for row in rows:
                for direction, found in enumerate(segment.rows[row].consumer):
                    own = (row + direction) % consumers
                    other = (row // consumers + direction) % max(len(here), 1)
                    owner = own if own in here or not here else here[other]
                    assert int(found) == owner, (row, direction, consumers, away)
        loop.close()


def test_another_name_is_told_once_until_the_supervisor_has_answered(loop: Loop) -> None:
    states = [InterfaceState(1420, True, loop.interface.name)]

    class Watched:
        def look(self) -> InterfaceState:
            return states[0]

    control: Any = loop.control
    control.interface = Watched()

    def told() -> list[str]:
        loop.turn(2 * SECOND)
        return [message["kind"] for message in loop.messages_of_control() if message["kind"] == "renamed"]

    assert told() == []
    states[0] = InterfaceState(1420, True, "another")
    assert [told(), told()] == [["renamed"], []]
    states[0] = InterfaceState(1420, True, "")  # in another network namespace: no name that means anything
    control.is_renaming = False
    assert told() == []


def test_how_the_interface_is_stays_as_it_was_known_where_it_cannot_be_seen(loop: Loop) -> None:
    """By a control before this one. Where nothing is known, the host refuses what the start needs."""

    class Watched:
        def look(self) -> InterfaceState:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    control: Any = loop.control
    control.interface = Watched()
    device = loop.interface.segment.device
    for is_up in (0, 1):
        device.mtu, device.up = 1300, is_up
        control._look_at_interface(first=True)
        assert (device.mtu, device.up) == (1300, is_up)
    device.mtu = 0
    with pytest.raises(OSError, match="Too many open files"):
        control._look_at_interface(first=True)


@pytest.mark.parametrize(("operation", "change", "arguments"), [
    (Scale("+1", "3"), "scale", ["+1", "3"]),
    (Upgrade(for_good=True), "upgrade", []),
    (Upgrade(for_good=False), "trial", []),
])  # fmt: skip
def test_the_supervisor_is_asked_for_a_change_and_gets_who_asked(
    loop: Loop, operation: Scale | Upgrade, change: str, arguments: list[str]
) -> None:
    loop.messages_of_control()
    reader, writer = os.pipe()
    loop.control._ask_change(operation, writer)
    os.close(writer)
    message, [client] = loop.channel.receive()
    assert message == {"kind": "change", "change": change, "arguments": arguments}
    os.write(client, b"answer")
    assert os.read(reader, 6) == b"answer"
    os.close(client)
    os.close(reader)


def test_a_peer_that_nobody_was_told_to_serve_is_found_and_counted(loop: Loop) -> None:
    row, segment = loop.add_peer(), loop.interface.segment
    with Holder(loop.interface) as holder:
        holder.take_turns()
        stage_packet(loop, row)
        queue = 2 * row + lib.OUTBOUND
        assert lib.ready_take(segment, 1, holder.cursor) == queue
        # As a producer leaves it that dies before it schedules.
        segment.tokens[lib.token_place(queue)] = lib.TOKEN_IDLE
        assert not lib.ready_is_set(segment, 1, queue)
        for _ in range(3):
            loop.turn(SECOND)
        assert lib.ready_is_set(segment, 1, queue)
        assert lib.counter_sum(segment, lib.LOST_WAKES) == 1


def test_timers_of_a_peer_that_has_gone_do_nothing(loop: Loop) -> None:
    row = loop.add_peer()
    assert loop.set(f"public_key={PEER.public_key.hex()}\nremove=true\n") == 0
    before = loop.orders(row)
    everything = timers.Action(0)
    for action in timers.Action:
        everything |= action
    loop.control._act(row, everything, loop.now)
    assert loop.orders(row) == before and loop.messages() == []


def test_keys_are_not_logged_where_the_file_went_bad_since_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """plaitd looked at it; now the tunnel matters more."""
    path = tmp_path / "keys"
    monkeypatch.setenv("PLAIT_KEYLOG", str(path))
    keylog = Control._open_keylog()
    assert keylog is not None and keylog.path == str(path)
    path.chmod(0o644)
    assert Control._open_keylog() is None


def test_keypairs_leave_the_list_of_their_row_wherever_they_stand(loop: Loop) -> None:
    keypairs, row, other = loop.control.keypairs, 3, 4
    numbers = [keypairs.reserve(row)[0] for _ in range(4)]
    [foreign] = [keypairs.reserve(other)[0]]
    left = numbers[::-1]
    for number in (numbers[1], numbers[3], numbers[0], numbers[2]):
        keypairs.release(row, number)
        left.remove(number)
        assert keypairs.numbers(row) == left
    assert keypairs.numbers(other) == [foreign]
    keypairs.reserve(row)
    with pytest.raises(LookupError, match=f"keypair {foreign} is not one of peer row {row}'s"):
        keypairs.release(row, foreign)


def test_a_current_session_is_one_of_that_row(loop: Loop) -> None:
    keypairs, segment = loop.control.keypairs, loop.interface.segment
    row = loop.add_peer()
    assert keypairs.current(row) == (0, False)
    number = keypairs.reserve(row)[0]
    keypair = keypairs.slab[number]
    segment.rows[row].key_word = lib.key_word_of(number, 0, 0)
    for flags, is_ours in ((0, False), (lib.KEYPAIR_INITIATOR, True)):
        keypair.peer, keypair.birth, keypair.flags = row, 77, flags
        assert keypairs.current(row) == (77, is_ours)
    keypair.peer = row + 1
    assert keypairs.current(row) == (0, False)
    keypair.peer = row
    segment.rows[row].key_word = lib.key_word_of(keypairs.limit, 0, 0)
    assert keypairs.current(row) == (0, False)


def test_sessions_whose_lists_are_lost_are_not_used_again(loop: Loop) -> None:
    loop.control.keypairs.reserve(0)
    ready = loop.control.vault.ready("keypairs_ready")
    after = Keypairs(loop.control.memory, loop.control.grace_periods)
    after.recover(lambda row, generation: True, is_lost=True)
    assert after.out == ready - 1 and after.numbers(0) == []
    with pytest.raises(NoKeypair) if ready == after.limit else contextlib.nullcontext():
        assert after.reserve(0)[0] == ready


def test_control_sleeps_until_it_is_rung_and_not_over_what_came_meanwhile(loop: Loop) -> None:
    row, segment = loop.add_peer(), loop.interface.segment
    bell = segment.bells[lib.WORKER_CONTROL]
    with Holder(loop.interface) as holder:
        holder.take_turns()

    def ring() -> None:
        until(lambda: bell.sleeping, "a sleeper")
        lib.bell_ring(segment, lib.WORKER_CONTROL, loop.interface.bell)

    ringer = threading.Thread(target=ring)
    ringer.start()
    loop.control._sleep(3600.0)
    ringer.join()
    place = ffi.new("struct endpoint *", {"family": socket.AF_INET})
    assert lib.mailbox_put(segment, 0, place, b"\x01\0\0\0", 4) == 0
    loop.control._sleep(3600.0)
    loop.turn()
    wanted(loop, row)
    loop.control._sleep(3600.0)
    loop.turn()
    assert loop.messages() == [1] and not bell.sleeping
    loop.control._sleep(0.0)
    assert not bell.sleeping
