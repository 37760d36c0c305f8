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
from workers.channel import MESSAGE_BYTES, MESSAGE_FDS, PART, Channel, ChannelClosed


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


def test_more_descriptors_than_a_packet_has_room_for_arrive_in_order(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    given = [os.open(os.devnull, os.O_RDONLY) for _ in range(2 * MESSAGE_FDS + 3)]
    pipes = [os.pipe() for _ in range(2)]
    given[MESSAGE_FDS], given[-1] = pipes[0][0], pipes[1][0]
    before = open_here()
    ours.send({"kind": "start"}, given)
    message, fds = theirs.receive()
    assert message == {"kind": "start"} and len(fds) == len(given)
    for number, (got, sent) in enumerate(zip(fds, given, strict=True)):
        assert os.path.sameopenfile(got, sent) and not os.get_inheritable(got), number
        os.close(got)
    assert open_here() == before
    for fd in {*given, *(end for pipe in pipes for end in pipe)}:
        os.close(fd)


@pytest.mark.parametrize("last", ["closed", b"no json"])
def test_a_message_without_its_end_leaves_nothing(ends: tuple[Channel, Channel], last: object) -> None:
    """A worker closes what came before; the supervisor does not wait for a worker's next packet at all."""
    ours, theirs = ends
    before = open_here()
    socket.send_fds(ours.socket, [PART], [0] * 7)
    if isinstance(last, bytes):
        ours.socket.send(last)
    else:
        ours.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(ValueError if isinstance(last, bytes) else ChannelClosed):
        theirs.receive()
    socket.send_fds(theirs.socket, [PART], [0] * 7)
    with pytest.raises(ValueError, match="cut short"):
        ours.receive()
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
