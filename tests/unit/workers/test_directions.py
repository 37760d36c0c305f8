"""The two directions of a peer have a holder each: who applies an order, and how the other hears of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.unit.workers.test_data_path import Path, assert_whole, ipv4
from workers._workers import ffi, lib

IN, OUT = int(lib.INBOUND), int(lib.OUTBOUND)  # peer 0's queues


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path()
    yield path
    path.close()


def tokens(path: Path) -> list[int]:
    return [lib.token_read(path.segment, queue) for queue in (IN, OUT)]


def stage(path: Path, packet: bytes) -> int:
    """Peer 0 loses its session, so that the packet waits. Returns the key word."""
    word = int(path.segment.rows[0].key_word)
    path.segment.rows[0].key_word = 0
    assert path.carry([packet]) == []
    assert tokens(path) == [lib.TOKEN_IDLE] * 2 and lib.queue_packets(path.segment, OUT) == 1
    return word


def take_turn(path: Path, queue: int) -> None:
    """By whoever finds the token idle or queued."""
    assert lib.holder_take(path.holder, queue) or lib.holder_take_idle(path.holder, queue)
    lib.holder_take_turn(path.holder, queue, lib.clock_now())


def bits(path: Path) -> int:
    return int(lib.orders_read(path.segment, 0)) & 0xFFFFFFFF


Hold = Callable[[int], Callable[[], None]]


@pytest.fixture
def other(path: Path) -> Iterator[Hold]:
    """Another worker takes the idle token of a queue; what is returned gives it back."""
    mark = lib.worker_mark(lib.WORKER_RECEIVER, 1)

    def hold(queue: int) -> Callable[[], None]:
        assert lib.token_take_idle(path.segment, queue, mark)
        return lambda: lib.queue_give(path.segment, queue, int(queue == OUT))

    yield hold
    assert lib.TOKEN_HELD | mark not in tokens(path)


def test_inbound_retires_first_and_outbound_tells(path: Path, other: Hold) -> None:
    stage(path, ipv4(b"waits"))
    lib.events_clear(path.segment, 0, lib.events_read(path.segment, 0))
    lib.orders_give(path.segment, 0, lib.ORDER_RETIRE)
    give = other(IN)
    take_turn(path, OUT)  # before inbound: what waits is not dropped
    assert lib.token_read(path.segment, OUT) == lib.TOKEN_IDLE and lib.queue_packets(path.segment, OUT) == 1
    give()
    assert tokens(path) == [lib.TOKEN_QUEUED, lib.TOKEN_IDLE], "inbound has an order"
    give = other(OUT)
    take_turn(path, IN)
    assert lib.token_read(path.segment, IN) == lib.TOKEN_DEAD
    assert not lib.events_read(path.segment, 0) & lib.EVENT_RETIRED
    assert not path.segment.rows[0].key_word
    give()
    assert tokens(path) == [lib.TOKEN_DEAD, lib.TOKEN_QUEUED], "now outbound has it"
    take_turn(path, OUT)
    assert tokens(path) == [lib.TOKEN_DEAD] * 2
    assert lib.events_read(path.segment, 0) & lib.EVENT_RETIRED
    assert lib.queue_packets(path.segment, OUT) == 0 and path.counters()["DROP_PEER_GONE"] == 1
    assert_whole(path)


@pytest.mark.parametrize("first", [IN, OUT])
def test_one_worker_retires_both_where_nobody_holds_the_other(path: Path, first: int) -> None:
    lib.orders_give(path.segment, 0, lib.ORDER_RETIRE)
    take_turn(path, first)
    assert tokens(path) == [lib.TOKEN_DEAD] * 2
    assert lib.events_read(path.segment, 0) & lib.EVENT_RETIRED
    assert path.segment.workers[path.holder.worker].peer_in_hand == 0


@pytest.mark.parametrize(
    ("first", "held"),
    [(IN, None), (OUT, None), (OUT, IN), (IN, OUT)],
    ids=["inbound", "outbound", "outbound, the other held", "inbound, the other held"],
)
def test_a_keepalive_leaves_with_the_session_that_was_ordered_with_it(
    path: Path, other: Hold, first: int, held: int | None
) -> None:
    word = stage(path, ipv4(b"waits"))
    keypair = ffi.cast("struct keypair *", path.segment.keypairs) + lib.key_word_current(word)
    keypair.flags = lib.KEYPAIR_INITIATOR
    path.segment.rows[0].installing = lib.key_word_current(word)
    give = None if held is None else other(held)
    lib.orders_give(path.segment, 0, lib.ORDER_INSTALL | lib.ORDER_KEEPALIVE)
    take_turn(path, first)
    if held is not None and give:
        assert keypair.send_counter == 0 and lib.queue_packets(path.segment, OUT) == 1
        assert held == IN or bits(path) == lib.ORDER_KEEPALIVE | lib.ORDER_LOOK
        give()
        assert lib.token_read(path.segment, held) == lib.TOKEN_QUEUED
        take_turn(path, held)
    assert int(path.segment.rows[0].key_word) == word
    # The packet goes instead of the keepalive, and no process has to wake.
    assert (keypair.send_counter, lib.queue_packets(path.segment, OUT)) == (1, 0)
    assert bits(path) == 0 and tokens(path) == [lib.TOKEN_IDLE] * 2
    assert path.carry([]) == [ipv4(b"waits")]
    assert_whole(path)


def test_a_direction_that_waits_for_its_consumer_is_taken_along(path: Path) -> None:
    """Scheduled by control, and its consumer is yet to wake: whoever has a packet to send goes first."""
    word = stage(path, ipv4(b"waits"))
    keypair = ffi.cast("struct keypair *", path.segment.keypairs) + lib.key_word_current(word)
    keypair.flags = lib.KEYPAIR_INITIATOR
    path.segment.rows[0].installing = lib.key_word_current(word)
    lib.orders_give(path.segment, 0, lib.ORDER_INSTALL)
    lib.peer_schedule(path.segment, 0)
    assert tokens(path) == [lib.TOKEN_QUEUED, lib.TOKEN_IDLE]
    take_turn(path, OUT)
    assert keypair.send_counter == 1 and bits(path) == 0 and tokens(path) == [lib.TOKEN_IDLE] * 2
    assert not lib.holder_take(path.holder, IN), "the consumer finds the token gone"
    assert path.carry([]) == [ipv4(b"waits")]
    assert_whole(path)


def test_data_that_confirms_a_session_lets_go_what_waits_outbound(path: Path) -> None:
    """Of a handshake that we answered: the first data under its keys comes, and control gives no order."""
    word = stage(path, ipv4(b"waits"))
    path.segment.rows[0].key_word = lib.key_word_of(0, 0, lib.key_word_current(word))
    answer = ipv4(b"data", source="10.0.0.2", destination="10.0.0.1")
    assert sorted(path.carry([answer])) == sorted([answer, ipv4(b"waits")])
    assert int(path.segment.rows[0].key_word) == word
    assert_whole(path)


def test_a_packet_is_sealed_beside_an_inbound_turn(path: Path) -> None:
    """Another worker holds inbound's token, and has no order to apply."""
    assert lib.token_take_idle(path.segment, IN, path.holder.mark)
    packet = ipv4(b"sent")
    assert path.carry([packet]) == [packet]
    lib.queue_give(path.segment, IN, 0)
    assert_whole(path)
