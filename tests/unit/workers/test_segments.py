"""Segments have no name while they live, and no content when they end."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from shm.segment import SegmentError, create_plain
from tests.support.descriptors import open_here
from workers.failure import Exit, Failure
from workers.settings import Settings
from workers.supervisor import room
from workers.supervisor.segments import _refused, discard, open_segments

SMALL = Settings(receivers=1, consumers=1, cores=(0,), max_peers=64, small_slots=64, train_slots=1)


def test_segments_are_nameless() -> None:
    before = set(os.listdir("/dev/shm"))
    data, vault = open_segments("t0", SMALL)
    assert set(os.listdir("/dev/shm")) <= before
    assert os.fstat(data.fd).st_nlink == os.fstat(vault.fd).st_nlink == 0
    assert data.segment.geometry.small_slots == 64
    discard(data)
    discard(vault)


@pytest.mark.parametrize("size", [4096, 5 << 20])
def test_discard_overwrites_everything(size: int) -> None:
    """Also what lies between holes, at the end, and in what was added after the mapping."""
    segment = create_plain(size)
    os.ftruncate(segment.fd, size + 8192)
    for offset in {0, size // 2, size - 7, size + 8192 - 7}:
        os.pwrite(segment.fd, b"secret!", offset)
    watch = os.dup(segment.fd)
    discard(segment)
    assert os.pread(watch, size + 8192, 0) == bytes(size + 8192)
    os.close(watch)


def test_discard_of_nothing() -> None:
    segment = create_plain(1 << 20)
    watch = os.dup(segment.fd)
    discard(segment)
    assert os.fstat(watch).st_blocks == 0  # a hole needs no zeros
    os.close(watch)


@pytest.mark.parametrize(("left", "why"), [(1, "no descriptor"), (2, ""), (3, "no descriptor")])
def test_nothing_stays_of_a_start_that_ends_half_way(left: int, why: str) -> None:
    """Here for want of descriptors: each segment takes two, one for its mapping."""

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count("/dev/shm/")

    open_here()  # what other tests left goes now, with its mappings, and not in between
    highest = max(map(int, os.listdir("/proc/self/fd")))
    filled = [os.open(os.devnull, os.O_RDONLY)]  # below the limit nothing is free but what is left
    while filled[-1] <= highest:
        filled.append(os.open(os.devnull, os.O_RDONLY))
    before = mappings()
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (filled[-1] + 1 + left, most))
    try:
        with pytest.raises(Failure, match=f"shared memory of t0.*{why}"):
            open_segments("t0", SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))
        again = os.open(os.devnull, os.O_RDONLY)
        for fd in (again, *filled):
            os.close(fd)
    assert (again, mappings()) == (filled[-1] + 1, before)


def test_a_full_dev_shm_is_told_with_what_is_enough() -> None:
    """64 MiB more than the start takes, for what comes with peers; of another reason its own next step."""
    taken = room.up(room.need(SMALL).shm)
    full = _refused("t0", SMALL, SegmentError("making", "it is full", "the segment's step", is_full=True))
    assert full.why == f"it is full; its start takes {taken} MiB"
    assert f"size={taken + 64}m" in full.next_step and f"--shm-size={taken + 64}m" in full.next_step
    other = _refused("t0", SMALL, SegmentError("making", "no file", "the segment's step"))
    assert (other.why, other.next_step) == ("no file", "the segment's step")
    assert full.code == other.code == Exit.MEMORY
