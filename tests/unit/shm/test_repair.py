"""What repair counts and tells of a dead worker, beyond making whole what it left (killed.c has that)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shm import segment
from shm._shm import ffi, lib
from tests.support.small_segment import faults, make, mark

ROW = 5
PATIENCE_NS = 20_000_000_000  # how long a sleeper that nobody wakes keeps the test


@pytest.fixture
def data() -> Iterator[segment.DataSegment]:
    made = make(ROW + 1)
    yield made
    made.close()


def test_packets_received_without_a_node_are_counted_once(data: segment.DataSegment) -> None:
    line = data.segment.workers[lib.WORKER_RECEIVER]
    line.arriving = 7
    repair = ffi.new("struct repair *")
    for lost in (7, 0):
        lib.repair_worker(data.segment, lib.WORKER_RECEIVER, repair)
        assert (repair.packets_lost, line.arriving) == (lost, 0)
    assert lib.counter_sum(data.segment, lib.DROP_KILLED) == 7


@pytest.mark.parametrize("direction", [lib.INBOUND, lib.OUTBOUND])
def test_control_is_told_of_the_peers_that_the_dead_held(
    data: segment.DataSegment, direction: int
) -> None:
    worker = lib.WORKER_CONSUMER
    assert lib.token_take_idle(data.segment, 2 * ROW + direction, mark(data, worker))
    lib.repair_worker(data.segment, worker, ffi.new("struct repair *"))
    events = [lib.events_read(data.segment, row) & 0xFFFFFFFF for row in range(ROW + 1)]
    assert events == [0] * ROW + [lib.EVENT_HOLDER_DIED]
    assert lib.ready_is_set(data.segment, 0, ROW)
    assert not faults(data)


@pytest.mark.parametrize("direction", [lib.INBOUND, lib.OUTBOUND])
def test_what_the_dead_had_in_hand_stays_in_its_queue(data: segment.DataSegment, direction: int) -> None:
    """Its queue is the one of this row and direction: it is neither lost nor sent twice."""
    pool, worker, queue = ffi.new("struct pool *"), lib.WORKER_CONSUMER, 2 * ROW + direction
    assert lib.pool_open(pool, data.segment, direction) == 0
    nodes = [lib.pool_issue(pool, lib.pool_take_small(pool), ROW) for _ in range(2)]
    for node in nodes:
        data.segment.node[node].packets = 1
        assert lib.queue_push_mpsc(data.segment, lib.WORKER_RECEIVER, queue, node, node, 1) == 0
    assert lib.token_take_idle(data.segment, queue, mark(data, worker))
    data.segment.states[nodes[0]] = lib.NODE_IN_HAND | mark(data, worker)
    repair = ffi.new("struct repair *")
    lib.repair_worker(data.segment, worker, repair)
    assert (repair.nodes_requeued, data.segment.states[nodes[0]]) == (1, lib.NODE_QUEUED)
    assert lib.queue_packets(data.segment, queue) == 2 and not faults(data)
    lib.pool_close(pool)


@pytest.mark.parametrize("is_published", [True, False])
@pytest.mark.parametrize("direction", [lib.INBOUND, lib.OUTBOUND])
def test_a_push_in_the_journal_is_found_finished_or_is_undone(
    data: segment.DataSegment, direction: int, is_published: bool
) -> None:
    pool, worker, queue = ffi.new("struct pool *"), lib.WORKER_RECEIVER, 2 * ROW + direction
    assert lib.pool_open(pool, data.segment, direction) == 0
    node, line = lib.pool_issue(pool, lib.pool_take_small(pool), ROW), data.segment.workers[worker]
    data.segment.node[node].packets = 1
    line.journal_first, line.journal_last = node, data.segment.node[node].next | node  # with its generation
    if is_published:
        assert lib.queue_push_mpsc(data.segment, worker, queue, node, node, 1) == 0
    line.journal_packets, line.journal_queue = 1, queue + 1
    repair = ffi.new("struct repair *")
    lib.repair_worker(data.segment, worker, repair)
    assert (repair.pushes_finished, repair.pushes_undone) == (int(is_published), int(not is_published))
    assert data.segment.states[node] == (lib.NODE_QUEUED if is_published else lib.NODE_FREE)
    assert line.journal_queue == 0 and lib.queue_packets(data.segment, queue) == is_published
    assert not faults(data)
    lib.pool_close(pool)


def test_consumers_that_sleep_are_woken(data: segment.DataSegment) -> None:
    """The dead one may have taken a consumer's announcement and not have come to the call that wakes."""
    rung = []

    def sleep(worker: int) -> None:
        rung.append(lib.bell_wait(data.segment, worker, PATIENCE_NS))

    sleepers = []
    for worker in (lib.WORKER_CONSUMER, lib.WORKER_CONSUMER + 1):
        lib.bell_announce(data.segment, worker)
        sleepers.append(threading.Thread(target=sleep, args=(worker,)))
        sleepers[-1].start()
    lib.repair_worker(data.segment, lib.WORKER_RECEIVER, ffi.new("struct repair *"))
    for sleeper in sleepers:
        sleeper.join()
    assert rung == [1, 1], "asleep until their time was over"


@pytest.mark.parametrize("sweep", ["of rows", "of what waits"])
def test_a_ring_that_was_lost_with_its_ringer_is_made_up_for(data: segment.DataSegment, sweep: str) -> None:
    consumers = [lib.WORKER_CONSUMER, lib.WORKER_CONSUMER + 1]
    for worker in consumers:
        lib.bell_announce(data.segment, worker)
    lib.ready_set(data.segment, 1 + 1, ROW)  # of the second alone; nobody rings
    if sweep == "of rows":
        lib.schedule_sweep(data.segment, 0, ROW + 1)
    else:
        lib.schedule_sweep_waiting(data.segment, 0, ROW + 1, ffi.new("uint64_t[]", 1))
    assert [data.segment.bells[worker].sleeping for worker in consumers] == [1, 0]


@pytest.mark.parametrize("direction", [lib.INBOUND, lib.OUTBOUND])
def test_the_sweep_mends_a_direction_though_the_other_one_goes_on(
    data: segment.DataSegment, direction: int
) -> None:
    """What is suspected of a direction is not forgotten because packets of the other one were taken."""
    queue, other = 2 * ROW + direction, data.segment.rows[ROW].heads[1 - direction]
    assert lib.token_schedule(data.segment, queue)  # and no ready bit: its setter died
    assert lib.schedule_sweep(data.segment, 0, ROW + 1) == 0
    other.consumed += 1
    assert lib.schedule_sweep(data.segment, 0, ROW + 1) == 1
    assert lib.ready_is_set(data.segment, 1, queue)
    assert not lib.ready_is_set(data.segment, 1, 2 * ROW + 1 - direction)


def test_the_sweep_waits_while_the_direction_itself_goes_on(data: segment.DataSegment) -> None:
    queue, own = 2 * ROW + lib.OUTBOUND, data.segment.rows[ROW].heads[lib.OUTBOUND]
    assert lib.token_schedule(data.segment, queue)
    for _ in range(3):
        own.consumed += 1
        assert lib.schedule_sweep(data.segment, 0, ROW + 1) == 0


def test_the_death_of_inbounds_holder_is_a_turn_for_outbound(data: segment.DataSegment) -> None:
    """The dead one had cleared its orders, and not yet asked outbound, which had waited for them, to look."""
    pool, worker, out = ffi.new("struct pool *"), lib.WORKER_CONSUMER, 2 * ROW + lib.OUTBOUND
    assert lib.pool_open(pool, data.segment, lib.OUTBOUND) == 0
    node = lib.pool_issue(pool, lib.pool_take_small(pool), ROW)
    data.segment.node[node].packets = 1
    assert lib.queue_push_mpsc(data.segment, lib.WORKER_RECEIVER, out, node, node, 1) == 0
    assert lib.token_take_idle(data.segment, out, mark(data, lib.WORKER_RECEIVER))
    lib.queue_give(data.segment, out, 1)
    assert lib.token_read(data.segment, out) == lib.TOKEN_IDLE
    data.segment.workers[worker].peer_in_hand = ROW + 1
    assert lib.token_take_idle(data.segment, 2 * ROW + lib.INBOUND, mark(data, worker))
    lib.repair_worker(data.segment, worker, ffi.new("struct repair *"))
    assert lib.token_read(data.segment, out) == lib.TOKEN_QUEUED and not faults(data)
    lib.pool_close(pool)
