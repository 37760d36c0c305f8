"""Batches that a holder shares with helpers: order, contents, deaths; and when nothing is shared."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.waiting import until
from tests.unit.workers.test_data_path import GEOMETRY, KEY, Path, assert_whole, ipv4
from workers._workers import ffi, lib
from workers.launch import map_what_packets_need

HELPER = lib.WORKER_CONSUMER + 1
LENDER = lib.WORKER_CONSUMER


@pytest.fixture
def path() -> Iterator[Path]:
    made = Path(GEOMETRY | {"max_consumers": 2})
    for worker in (LENDER, HELPER):
        made.segment.workers[worker].lends = 1
        made.segment.workers[worker].incarnation = 1
    made.holder.mark = lib.worker_mark(LENDER, 1)
    made.holder.share = lib.SHARE_ALWAYS
    made.holder.part_wait_ms = 60_000  # a thread may stand still for a while
    yield made
    made.close()


class Helper:
    """A thread that does one thing with every part that it takes, until the end of the block."""

    def __init__(self, path: Path, act: Callable[[], object]) -> None:
        self.act = act
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.is_over.is_set():
            self.act()

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.thread.join()


def helping_holder(path: Path) -> object:
    holder = ffi.new("struct holder *")
    lib.holder_initialise(holder, path.segment, lib.aead_new(-1), HELPER)
    return holder


def packets_of(count: int) -> list[bytes]:
    return [ipv4(os.urandom(400) + n.to_bytes(4, "big")) for n in range(count)]


def test_shared_batches_come_out_whole_and_in_order(path: Path) -> None:
    holder = helping_holder(path)
    sent = []
    with Helper(path, lambda: lib.sharing_help(holder)):

        def both_ways_are_helped() -> bool:
            packets = packets_of(60)
            sent.append(packets)
            assert path.carry(packets) == packets
            return path.counters()["PARTS_HELPED"] > 20

        until(both_ways_are_helped, "parts are done by the helper")
    counters = path.counters()
    assert counters["BATCHES_SHARED"] and counters["DROP_KILLED"] == 0
    assert lib.parts_are_free(path.segment, LENDER)
    assert_whole(path)


def test_no_nonce_is_used_twice_and_none_is_left_out(path: Path) -> None:
    """All that leaves while helpers seal has the next nonce, and opens."""
    holder = helping_holder(path)
    keypair = ffi.cast("struct keypair *", path.segment.keypairs)[1]
    aead = lib.aead_new(-1)

    def one_round() -> bool:
        packets, first = packets_of(50), keypair.send_counter
        for packet in packets:
            path.inside.send(bytes(10) + packet)
        received = path.counters()["TUN_RECEIVED"]
        while path.counters()["TUN_RECEIVED"] < received + len(packets):
            lib.receiver_run(path.receiver, 0)
        assert lib.holder_take(path.holder, lib.OUTBOUND)
        lib.holder_take_turn(path.holder, lib.OUTBOUND, lib.clock_now())
        for n, packet in enumerate(packets):
            message = path.udp.recv(2000)
            assert int.from_bytes(message[8:16], "little") == first + n
            sealed = ffi.from_buffer("uint8_t[]", bytearray(message[16:]))
            job = ffi.new("struct aead_job *", {"data": sealed, "length": len(sealed), "counter": first + n})
            key = ffi.new("uint8_t[32]", KEY)
            job.key = key
            lib.aead_open(aead, job, 1)
            assert job.refused == 0
            assert bytes(sealed)[: len(packet)] == packet
        assert keypair.send_counter == first + len(packets)
        return path.counters()["PARTS_HELPED"] > 10

    with Helper(path, lambda: lib.sharing_help(holder)):
        until(one_round, "parts are sealed by the helper")
    lib.aead_free(aead)


def test_a_helper_that_dies_costs_its_part_counted(path: Path) -> None:
    """The rest of the batch goes on, in order; the lender waits for nobody that is dead."""
    lender, number = ffi.new("uint32_t *"), ffi.new("uint32_t *")

    def die() -> None:
        if lib.part_take(path.segment, lib.worker_mark(HELPER, 1), lender, number):
            lib.parts_mend(path.segment, HELPER, lib.worker_mark(HELPER, 1))

    with Helper(path, die):

        def some_is_lost() -> bool:
            before = path.counters()["DROP_KILLED"]
            packets = packets_of(60)
            out = path.carry(packets)
            assert [packet for packet in packets if packet in out] == out
            assert path.counters()["DROP_KILLED"] - before == len(packets) - len(out)
            return path.counters()["DROP_KILLED"] > 0

        until(some_is_lost, "a part is lost")
    packets = packets_of(60)
    assert path.carry(packets) == packets
    assert_whole(path)


def test_a_helper_that_stands_still_costs_its_part_and_nothing_is_lent_until_it_is_done(path: Path) -> None:
    path.holder.part_wait_ms = 20
    lender, number = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    taken = []

    def take_one() -> None:
        if not taken and lib.part_take(path.segment, lib.worker_mark(HELPER, 1), lender, number):
            taken.append((lender[0], number[0]))

    with Helper(path, take_one):

        def one_is_taken() -> bool:
            packets = packets_of(60)
            out = path.carry(packets)
            assert len(packets) - len(out) == path.counters()["DROP_KILLED"]
            return bool(taken)

        until(one_is_taken, "a part is taken")
    shared = path.counters()["BATCHES_SHARED"]
    packets = packets_of(60)
    assert path.carry(packets) == packets
    assert path.counters()["BATCHES_SHARED"] == shared
    lib.part_done(path.segment, *taken[0])
    assert path.carry(packets) == packets
    assert path.counters()["BATCHES_SHARED"] > shared
    assert_whole(path)


def test_several_helpers_that_stand_still_cost_one_wait(path: Path) -> None:
    wait = 0.4
    path.holder.part_wait_ms = int(1000 * wait)
    lender, number = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    taken: list[tuple[int, int]] = []

    def take() -> None:
        if lib.part_take(path.segment, lib.worker_mark(HELPER, 1), lender, number):
            taken.append((lender[0], number[0]))

    with Helper(path, take):

        def several_are_taken() -> bool:
            taken.clear()
            begun = time.monotonic()
            path.carry(packets_of(60))
            seconds = time.monotonic() - begun
            for each in taken:
                lib.part_done(path.segment, *each)
            return len(taken) >= 5 and seconds < (len(taken) - 0.2) * wait

        # Again when this process stood still: a wait for each part would never take less.
        until(several_are_taken, "several parts are taken at once, and cost less than a wait each")
    assert_whole(path)


@pytest.mark.parametrize("wrong", [2**32 - 1, lib.PART_ROOM_BYTES, 0])
def test_a_helper_that_is_broken_costs_its_part(path: Path, wrong: int) -> None:
    """The lender reads nothing outside its room, wherever the helper says that messages are."""
    lender, number = ffi.new("uint32_t *"), ffi.new("uint32_t *")

    def break_one() -> None:
        if lib.part_take(path.segment, lib.worker_mark(HELPER, 1), lender, number):
            for message in lib.part_of(path.segment, lender[0], number[0]).messages:
                message.place, message.refused = wrong, 0
            lib.part_done(path.segment, lender[0], number[0])

    with Helper(path, break_one):

        def some_is_lost() -> bool:
            packets = packets_of(60)
            before = path.counters()["DROP_KILLED"]
            out = path.carry(packets)
            assert [packet for packet in packets if packet in out] == out
            assert path.counters()["DROP_KILLED"] - before == len(packets) - len(out)
            return path.counters()["DROP_KILLED"] > 0

        until(some_is_lost, "a part is lost")
    assert_whole(path)


@pytest.mark.parametrize("share", [lib.SHARE_NEVER, lib.SHARE_AUTO])
def test_a_light_load_is_not_shared(path: Path, share: int) -> None:
    """However many helpers there are."""
    path.holder.share = share
    lib.parts_say_helping(path.segment, HELPER, 1)
    packets = packets_of(50)
    for _ in range(5):
        assert path.carry(packets) == packets
    assert path.counters()["BATCHES_SHARED"] == 0


def test_a_corrupt_part_touches_nothing_outside_the_room(path: Path) -> None:
    """The lender finds its messages lost."""
    holder = helping_holder(path)
    part = lib.part_of(path.segment, LENDER, 0)
    sound = {"counter": 1, "source": 0, "place": 16, "length": 16, "keypair": 1, "refused": 0}
    size = path.segment.bytes
    for wrong in (
        {"keypair": 0}, {"keypair": GEOMETRY["max_keypairs"]}, {"place": 15},
        {"place": lib.PART_ROOM_BYTES - 8},
        {"length": lib.PART_ROOM_BYTES}, {"length": 2**32 - 1}, {"place": 2**32 - 1}, {"source": size},
        {"source": size - 15}, {"source": 2**64 - 1}, {"source": 15},
    ):  # fmt: skip
        part.count = 2**32 - 1
        for message in part.messages:
            for field, value in (sound | wrong).items():
                setattr(message, field, value)
        lib.part_offer(path.segment, LENDER, 0)
        lib.parts_say_offering(path.segment, LENDER, 1)
        assert lib.sharing_help(holder) == 1
        assert lib.part_read(path.segment, LENDER, 0) == lib.PART_DONE
        assert {message.refused for message in part.messages} == {1}, wrong
        assert lib.parts_are_free(path.segment, LENDER)
    assert_whole(path)


def test_a_consumer_that_was_called_helps_and_then_sleeps(path: Path) -> None:
    """It says that it helps while it looks for parts, and no more when it sleeps."""
    holder = helping_holder(path)
    holder.share = lib.SHARE_ALWAYS
    path.device.consumers = 2
    consumer = lib.consumer_new(holder, 1, -1)
    with Helper(path, lambda: lib.consumer_run(consumer, lib.clock_now() + 10_000_000)):

        def is_helped() -> bool:
            packets = packets_of(60)
            assert path.carry(packets) == packets
            return path.counters()["PARTS_HELPED"] > 0

        until(is_helped, "the consumer did a part")
        bell = path.segment.bells[HELPER]
        until(lambda: bell.sleeping and not lib.parts_helpers(path.segment), "it sleeps")
    lib.consumer_free(consumer)


def mapped(address: int) -> bool:
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps]
    return any(int(first, 16) <= address < int(last, 16) for first, last in ranges)


def test_whoever_has_no_keys_has_no_parts(path: Path) -> None:
    """A part has nonces: who could write one would have it used twice."""
    segment = map_what_packets_need(path.data.fd, path.data.bytes, without_keys=True)
    base, offset = int(ffi.cast("uintptr_t", segment.base)), segment.header.offset
    gone = range(offset[lib.REGION_KEYPAIRS], offset[lib.REGION_MAILBOX], 4096)
    assert {lib.REGION_KEYPAIRS + 1, lib.REGION_KEYPAIRS + 2} == {lib.REGION_PARTS, lib.REGION_PART_ROOMS}
    assert not any(mapped(base + place) for place in gone)
    assert mapped(base + offset[lib.REGION_MAILBOX]) and mapped(base + offset[lib.REGION_KEYPAIRS] - 1)


class Busy:
    """A holder with the setting "auto" and large batches; what the kernel says of its tasks is in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.holder.share = lib.SHARE_AUTO
        path.holder.budget = lib.BATCH_PACKETS
        path.holder.cores = 2
        path.device.consumers = 2
        path.holder.loadavg = self.loadavg = os.memfd_create("loadavg")
        self.say_running(1)
        lib.bell_announce(path.segment, HELPER)

    def say_running(self, tasks: int) -> None:
        os.pwrite(self.loadavg, f"0.20 0.18 0.12 {tasks}/80 11206\n".encode().ljust(40), 0)

    def batch(self, count: int = 100, is_busy: bool = True) -> int:
        """Seal a batch; how many were shared by it."""
        path, time = self.path, self.path.holder.batch_time
        time.window, time.large = lib.clock_now() - 20 * 10**9, 20 * 10**9 * is_busy
        shared, received = (path.counters()[name] for name in ("BATCHES_SHARED", "TUN_RECEIVED"))
        for first in range(0, count, 50):
            for packet in packets_of(min(50, count - first)):
                path.inside.send(bytes(10) + packet)
            while path.counters()["TUN_RECEIVED"] < received + min(first + 50, count):
                lib.receiver_run(path.receiver, 0)
        lib.bell_announce(path.segment, LENDER)
        assert lib.holder_take(path.holder, lib.OUTBOUND)
        assert lib.holder_take_turn(path.holder, lib.OUTBOUND, lib.clock_now()) == count
        assert path.segment.bells[LENDER].sleeping, "it called itself"
        for _ in range(count):
            path.udp.recv(2000)
        return path.counters()["BATCHES_SHARED"] - shared

    @property
    def called(self) -> bool:
        """Whether the consumer that sleeps was woken since the last look."""
        was_called = not self.path.segment.bells[HELPER].sleeping
        lib.bell_announce(self.path.segment, HELPER)
        self.path.holder.helper_look = 0
        return was_called


@pytest.fixture
def busy(path: Path) -> Iterator[Busy]:
    made = Busy(path)
    yield made
    os.close(made.loadavg)


def test_a_holder_that_is_busy_shares_large_batches_with_those_that_help(path: Path, busy: Busy) -> None:
    lib.parts_say_helping(path.segment, HELPER, 1)
    assert [busy.batch(is_busy=False), busy.batch(count=63)] == [0, 0]
    assert [busy.batch(), busy.batch(count=64)] == [1, 1]


def test_a_holder_that_is_busy_calls_a_consumer_while_a_core_is_idle(path: Path, busy: Busy) -> None:
    """And shares nothing as long as none has come."""
    assert busy.batch(is_busy=False) == 0 and not busy.called
    assert busy.batch() == 0 and busy.called
    busy.say_running(2)
    assert busy.batch() == 0 and not busy.called
    busy.say_running(1)
    assert busy.batch() == 0 and busy.called
    assert busy.batch() == 0 and busy.called, "the next one is itself, so the same again"
    path.holder.helper_look = 2**64 - 1
    assert busy.batch() == 0 and not busy.called, "no sooner than a millisecond later"
    path.holder.loadavg = -1
    assert busy.batch() == 0 and not busy.called, "the kernel does not say"
    path.holder.loadavg = busy.loadavg


def test_sleepers_are_called_one_at_a_time_and_by_turns() -> None:
    """A holder that calls is none of them, nor is who is awake."""
    path, packets = Path(GEOMETRY | {"max_consumers": 4}), ffi.new("uint32_t[]", [1])
    path.device.consumers, path.segment.node[1].packets = 4, 100
    path.holder.share = lib.SHARE_ALWAYS

    def called(*asleep: int) -> list[int]:
        for number in asleep:
            lib.bell_announce(path.segment, lib.WORKER_CONSUMER + number)
        path.holder.helper_look = 0
        lib.sharing_begins(path.holder, packets, 1)
        return [number for number in asleep if not path.segment.bells[lib.WORKER_CONSUMER + number].sleeping]

    assert [called(0, 1, 2, 3) for _ in range(4)] == [[1], [2], [3], [1]]
    lib.bell_cancel(path.segment, lib.WORKER_CONSUMER + 2)
    assert called(0, 1, 3) == [3]
    path.close()


def test_batches_of_which_nobody_takes_a_part_are_not_offered_for_a_while(path: Path, busy: Busy) -> None:
    lib.parts_say_helping(path.segment, HELPER, 1)
    assert [busy.batch() for _ in range(4)] == [1, 1, 1, 1]
    assert path.holder.share_again > 0
    path.holder.share_again = 2**64 - 1
    assert busy.batch() == 0
    path.holder.share_again = 0
    assert busy.batch() == 1


@pytest.mark.parametrize(("seconds", "is_busy"), [(0, 0), (9, 0), (11, 1), (20, 1)])
def test_busy_is_who_had_large_batches_for_half_of_a_window(
    path: Path, busy: Busy, seconds: int, is_busy: int
) -> None:
    """Of a window of 20 s and a little more."""
    time, node = path.holder.batch_time, ffi.new("uint32_t[]", [1])
    path.segment.node[1].packets = 100
    before = lib.clock_now()
    time.window, time.large, time.is_busy = before - 20 * 10**9, seconds * 10**9, not is_busy
    lib.sharing_begins(path.holder, node, 1)
    assert (time.is_busy, time.large) == (is_busy, 0) and before <= time.window == time.begun
    lib.sharing_ends(path.holder)
    assert time.large <= lib.clock_now() - time.window and time.begun == 0
    lib.sharing_ends(path.holder)
    assert time.begun == 0, "a small batch is no large one"


def test_a_helper_whose_core_is_wanted_sleeps(path: Path, busy: Busy) -> None:
    for tasks in (2, 3):
        busy.say_running(tasks)
        assert bool(lib.sharing_core_is_wanted(path.holder)) == (tasks == 3)
    path.holder.share = lib.SHARE_ALWAYS
    assert not lib.sharing_core_is_wanted(path.holder)


def test_a_consumer_that_helps_gives_its_core_to_whoever_wants_it(path: Path, busy: Busy) -> None:
    """It leaves parts that it could do. Each takes milliseconds, and it looks after one."""
    holder = helping_holder(path)
    holder.share, holder.cores, holder.loadavg = lib.SHARE_AUTO, 2, busy.loadavg
    consumer = lib.consumer_new(holder, 1, -1)
    message = {"place": 16, "length": lib.PART_ROOM_BYTES - 32, "keypair": 1}
    for number in range(lib.PARTS):
        part = lib.part_of(path.segment, LENDER, number)
        part.count, part.messages = lib.PART_MESSAGES, [message] * lib.PART_MESSAGES
        lib.part_offer(path.segment, LENDER, number)
    lib.parts_say_offering(path.segment, LENDER, 1)
    busy.say_running(3)

    def did_some() -> bool:
        lib.bell_ring(path.segment, HELPER, -1)
        return path.counters()["PARTS_HELPED"] > 0

    with Helper(path, lambda: lib.consumer_run(consumer, lib.clock_now() + 10_000_000)):
        until(did_some, "it does a part")
        until(lambda: not lib.parts_helpers(path.segment), "it helps no more")
        assert path.counters()["PARTS_HELPED"] < lib.PARTS
    lib.consumer_free(consumer)
