"""The loop of a consumer, told by its epoch: a turn and each end of a sleep move it (shm/epoch.h)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.unit.workers.test_data_path import Path, ipv4, rows_served
from workers._workers import lib

# Of a run of one round in which nothing is done: it wakes, turns, and sleeps in the end.
AROUND = 4


@pytest.fixture
def path() -> Iterator[Path]:
    made = Path()
    yield made
    made.close()


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        yield ours, its


Run = Callable[[], tuple[int, int]]


@pytest.fixture
def run(path: Path, channel: tuple[socket.socket, socket.socket]) -> Iterator[Run]:
    """One round: why it ended, and how far the epoch went."""
    consumer = lib.consumer_new(path.holder, 0, channel[1].fileno())
    line = path.segment.workers[lib.WORKER_CONSUMER]

    def one() -> tuple[int, int]:
        before = int(line.epoch)
        reason = lib.consumer_run(consumer, 0)
        return reason, int(line.epoch) - before

    yield one
    lib.consumer_free(consumer)


def test_whoever_removes_something_waits_for_a_turn_and_not_for_a_round(path: Path, run: Run) -> None:
    for destination in ("10.0.0.2", "10.0.0.1"):
        path.inside.send(bytes(10) + ipv4(b"one", destination=destination))
    while path.counters()["TUN_RECEIVED"] < 2:
        lib.receiver_run(path.receiver, 0)
    assert run() == (lib.CONSUMER_TIME, AROUND + 2 * 2)
    assert sorted(rows_served(path)) == [0, 1]


def test_a_message_that_came_before_the_sleep_is_not_slept_over(
    path: Path, channel: tuple[socket.socket, socket.socket], run: Run
) -> None:
    """Its ring may have been for the sleep before."""
    channel[0].send(b"message")
    assert run() == (lib.CONSUMER_CHANNEL, AROUND)
    assert not path.segment.bells[lib.WORKER_CONSUMER].sleeping


@pytest.mark.parametrize(("share", "is_rung", "helps"), [
    (lib.SHARE_NEVER, True, False), (lib.SHARE_AUTO, True, True), (lib.SHARE_ALWAYS, True, True),
    (lib.SHARE_ALWAYS, False, False),  # its sleep was over
])  # fmt: skip
def test_who_is_rung_and_has_nothing_to_do_helps_where_batches_are_shared(
    path: Path, run: Run, share: int, is_rung: bool, helps: bool
) -> None:
    is_over = threading.Event()

    def ring() -> None:
        while not is_over.is_set():
            lib.bell_ring(path.segment, lib.WORKER_CONSUMER, -1)

    path.holder.share = share
    other = threading.Thread(target=ring)
    if is_rung:
        other.start()
    try:
        assert run() == (lib.CONSUMER_TIME, AROUND + 2)  # it slept and woke
    finally:
        is_over.set()
        if is_rung:
            other.join()
    assert bool(lib.parts_helpers(path.segment)) is helps
