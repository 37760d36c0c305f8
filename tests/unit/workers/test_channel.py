"""Descriptors that come with a message which is no message: none of them stays open."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import descriptors
from tests.support.descriptors import open_here
from tests.support.waiting import until
from tests.unit.workers.fake_workers import FakeWorkers
from workers.channel import MESSAGE_BYTES, Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "words",
    [b"no json", b"\xff\xfe", b"[" * (MESSAGE_BYTES - 1), b"{}" + b" " * MESSAGE_BYTES],
    ids=["no json", "no text", "too deep", "too long"],
)
def test_descriptors_beside_nonsense_are_closed(ends: tuple[Channel, Channel], words: bytes) -> None:
    ours, theirs = ends
    before = open_here()
    socket.send_fds(theirs.socket, [words], [0] * 20)
    with pytest.raises(ValueError):
        ours.receive()
    assert open_here() == before


def test_descriptors_that_arrive_when_the_limit_is_reached_are_closed(ends: tuple[Channel, Channel]) -> None:
    """The kernel hands over as many as there is room for, and says that it cut the message short."""
    ours, theirs = ends
    socket.send_fds(theirs.socket, [b"{}"], [0] * 20)
    before, limits = open_here(), resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    free = [fd for fd in range(highest) if not os.path.exists(f"/proc/self/fd/{fd}")]
    filled = [os.open(os.devnull, os.O_RDONLY) for _ in free]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(highest, *filled, 0) + 8, limits[1]))
    try:
        with pytest.raises(ValueError, match="open files"):
            ours.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in filled:
            os.close(fd)
    assert open_here() == before


@pytest.mark.network
def test_the_supervisor_keeps_no_descriptor_that_a_worker_gives_it(fakes: FakeWorkers) -> None:
    fakes.start()

    def held() -> list[str]:
        return sorted(descriptors(pid).values())

    assert fakes.process is not None
    pid = fakes.process.pid
    before = held()
    fakes.order("receiver 0", gift=9)
    fakes.expect_words("receiver 0: a gift of 9 descriptors")
    until(lambda: held() == before, "the same descriptors as before")  # it tells first, then closes
    # One that makes no sense costs the worker its life, and the supervisor nothing.
    fakes.expect_replacement("receiver 0", lambda: fakes.order("receiver 0", gift=9, raw="no json"))
    until(lambda: len(held()) == len(before), "as many descriptors as before")
