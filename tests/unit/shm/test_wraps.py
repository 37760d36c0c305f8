"""Every count of shared memory that wraps within a machine's life, from just before its end to behind it.

docs/reliability.md has the table: what, how wide, after how long, what happens then.
"""

from __future__ import annotations

from typing import Any

import pytest

from shm import segment
from shm._shm import ffi, lib
from tests.support.small_segment import faults, make, mark
from workers._workers import ffi as workers_ffi
from workers._workers import lib as workers_lib

END = 0xFFFFFFFF
RECEIVER, CONSUMER = int(lib.WORKER_RECEIVER), int(lib.WORKER_CONSUMER)


def issue(pool: Any, row: int, packets: int) -> int:
    number = lib.pool_issue(pool, lib.pool_take_small(pool), row)
    assert number
    pool.segment.node[number].packets = packets
    return int(number)


def push(data: segment.DataSegment, queue: int, number: int, packets: int) -> int:
    return int(lib.queue_push_mpsc(data.segment, RECEIVER, queue, number, number, packets))


def pop(data: segment.DataSegment, queue: int, most: int = 64) -> list[int]:
    numbers = ffi.new("uint32_t[64]")
    count = lib.queue_pop_sc(data.segment, mark(data, CONSUMER), queue, numbers, most, 1 << 20)
    return [int(number) for number in numbers[0:count]]


@pytest.mark.parametrize("before", [1, 5, 70])
@pytest.mark.parametrize("queue", [0, 1])
def test_queue_and_pool(before: int, queue: int) -> None:
    """Generations of nodes and of the stub, packets counted in and out, the pool's ring of nodes as issued.
    Packets come out in order, none twice, and the count is right."""
    data = make(2)
    row = data.segment.rows[0]
    generation = (END - before) << 32
    producers = row.ends[queue]
    producers.stub_next, producers.end = generation, generation | producers.end & END
    producers.produced = row.heads[queue].consumed = END - before
    for number in range(1, data.segment.nodes + 1):
        data.segment.node[number].next = (END - before + number % 3 << 32) & (1 << 64) - 1
    pool = ffi.new("struct pool *")
    assert lib.pool_open(pool, data.segment, queue) == 0  # that of the direction
    pool.order_put = pool.order_got = pool.cursor = END - before
    pushed: list[int] = []
    popped: list[int] = []
    for step in range(200):
        number = issue(pool, 0, 3)
        assert push(data, queue, number, 3) == 0
        pushed.append(number)
        if step % 7 == 0:
            assert lib.queue_packets(data.segment, queue) == 3 * (len(pushed) - len(popped))
            assert faults(data) == ""
        if step % 5 == 4:
            got = pop(data, queue, 4)
            popped += got
            for number in got:
                lib.node_bring_home(data.segment, number)
            lib.pool_sweep(pool)
        if len(pushed) - len(popped) > 40:
            got = pop(data, queue)
            popped += got
            for number in got:
                lib.node_bring_home(data.segment, number)
            lib.pool_sweep(pool)
    popped += pop(data, queue)
    assert popped == pushed
    assert pop(data, queue) == []
    assert lib.queue_packets(data.segment, queue) == 0
    assert producers.produced < 1 << 16 and pool.order_put < 1 << 16, "they went round"
    lib.pool_close(pool)
    data.close()


def test_a_queue_is_full_at_its_limit() -> None:
    data = make(1)
    row = data.segment.rows[0]
    row.ends[0].produced = row.heads[0].consumed = END - 500
    pool = ffi.new("struct pool *")
    assert lib.pool_open(pool, data.segment, 0) == 0
    for _ in range(lib.QUEUE_LIMIT // 64):
        assert push(data, 0, issue(pool, 0, 64), 64) == 0
    refused = issue(pool, 0, 64)
    assert push(data, 0, refused, 64) == -1
    assert lib.queue_packets(data.segment, 0) == lib.QUEUE_LIMIT
    assert len(pop(data, 0, 1)) == 1
    assert push(data, 0, refused, 64) == 0
    lib.pool_close(pool)
    data.close()


def test_mailbox() -> None:
    data = make(1)
    ring = data.segment.mailbox[0]
    ring.put = ring.got = END - 2
    sender, out = ffi.new("struct endpoint *"), ffi.new("struct mailbox_cell[8]")
    for letter in b"abcdefgh":
        assert lib.mailbox_put(data.segment, 0, sender, bytes([letter]), 1) == 0
    assert lib.mailbox_put(data.segment, 0, sender, b"i", 1) == -1
    assert lib.mailbox_waiting(data.segment) == 8
    assert lib.mailbox_take(data.segment, out, 8) == 8
    assert bytes(cell.message[0] for cell in out) == b"abcdefgh"
    assert lib.mailbox_waiting(data.segment) == 0 and ring.got == 5
    assert lib.mailbox_taken(data.segment) == 5
    data.close()


def test_epochs() -> None:
    """Awake at the last odd number: the next turn and the next sleep are both seen."""
    for passes in (lambda s: lib.epoch_turn(s, CONSUMER, 1), lambda s: lib.epoch_sleep(s, CONSUMER)):
        data = make(1)
        line = data.segment.workers[CONSUMER]
        line.epoch = END
        words = ffi.new("uint64_t[]", lib.MAX_WORKERS)
        lib.grace_begin(data.segment, words)
        assert not lib.grace_is_over(data.segment, words)
        passes(data.segment)
        assert lib.grace_is_over(data.segment, words)
        assert line.epoch in (0, 1)
        lib.epoch_wake(data.segment, CONSUMER)
        assert line.epoch == 1
        data.close()


@pytest.mark.parametrize("kind", ["orders", "events"])
def test_orders_and_events(kind: str) -> None:
    """What was given while others were applied stays, also where the count begins anew."""
    data = make(1)
    give, read, clear_of = (getattr(lib, f"{kind}_{verb}") for verb in ("give", "read", "clear"))
    bits = [lib.ORDERS_INBOUND] if kind == "orders" else []

    def clear(segment: Any, row: int, word: int) -> int:
        return int(clear_of(segment, row, word, *bits))

    row = data.segment.rows[0]
    if kind == "orders":
        row.orders = END << 32
    else:
        row.events = END << 32
    give(data.segment, 0, 4)
    seen = read(data.segment, 0)
    assert seen == 4
    give(data.segment, 0, 4)
    assert not clear(data.segment, 0, seen)
    assert clear(data.segment, 0, read(data.segment, 0))
    assert read(data.segment, 0) & END == 0
    data.close()


def test_turns_of_an_endpoint() -> None:
    data = make(1)
    data.segment.rows[0].endpoint_turn = END - 1
    endpoint, found = ffi.new("struct endpoint *"), ffi.new("struct endpoint *")
    for port in range(1, 6):
        endpoint.family, endpoint.port = 2, port
        lib.endpoint_store(data.segment, 0, endpoint)
        lib.endpoint_load(data.segment, 0, found)
        assert found.port == port
    assert data.segment.rows[0].endpoint_turn == 3
    data.close()


def test_turns_of_the_key_of_mac1() -> None:
    data = make(1)
    data.segment.device.mac1_turn = END - 3
    shared = workers_ffi.cast("struct segment *", int(ffi.cast("uintptr_t", data.segment)))
    message = bytes(148)
    for turn in range(5):
        key = bytes([turn]) * 32
        workers_lib.mac1_filter_learn(shared, key)
        place = data.segment.device.mac1_keys[data.segment.device.mac1_turn >> 1 & 1]
        assert bytes(place) == key
        assert workers_lib.mac1_filter_refuses(shared, message, len(message)) == 1
    assert data.segment.device.mac1_turn < 16
    data.close()


@pytest.mark.parametrize("incarnation", [0x1FFFFF, 0x200000, END])
def test_incarnations(incarnation: int) -> None:
    """21 bits of it are in a mark: what a dead worker held comes back, and its mark is not the next one's."""
    data = make(1)
    data.segment.workers[CONSUMER].incarnation = incarnation
    dead = mark(data, CONSUMER)
    assert lib.mark_worker(dead) == CONSUMER
    assert lib.token_take_idle(data.segment, 0, dead)
    repair = ffi.new("struct repair *")
    lib.repair_worker(data.segment, CONSUMER, repair)
    assert repair.tokens_requeued == 1
    assert lib.token_read(data.segment, 0) in (lib.TOKEN_IDLE, lib.TOKEN_QUEUED)
    assert data.segment.workers[CONSUMER].incarnation == (incarnation + 1) & END
    assert mark(data, CONSUMER) != dead
    assert faults(data) == ""
    data.close()


def test_rings() -> None:
    data = make(1)
    data.segment.bells[CONSUMER].rung = END
    lib.bell_announce(data.segment, CONSUMER)
    assert lib.bell_ring(data.segment, CONSUMER, -1) == 1
    assert lib.bell_wait(data.segment, CONSUMER, 10**9) == 1
    assert data.segment.bells[CONSUMER].rung == 0
    data.close()


def test_counters_and_sums() -> None:
    """64 bits: at a packet a nanosecond 584 years."""
    data = make(1)
    places = [worker * lib.COUNTERS_A_WORKER + lib.UDP_SENT for worker in (RECEIVER, CONSUMER)]
    for place in places:
        data.segment.counters[place] = (1 << 64) - 2
    lib.counter_add(data.segment, RECEIVER, lib.UDP_SENT, 5)
    assert data.segment.counters[places[0]] == 3
    assert lib.counter_sum(data.segment, lib.UDP_SENT) == 1
    data.close()
